//! The log, as text and as JSON, and the events of a change with their causes.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Backend, Daemon, Network, until};

use super::support::{LIMIT, vip, web};

/// Starts a daemon, kills its backend, has it refuse a reload, and yields its log.
fn eventful_life(arguments: &[&str]) -> Result<String> {
    let network = Network::dsr(1, &[vip()?])?;
    let mut backends = Backend::start_all(&network, 80, &[vip()?])?;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network)).arguments(arguments);
    let mut daemon = daemon.start()?;
    backends[0].kill();
    let down = "xlb_service_backends_serving{service=\"web\"}";
    until(LIMIT, "the backend to be down", || Ok((daemon.metric(down)? == 0.0).then_some(())))?;
    daemon.reload(format!("{}\n[[service]]\nname = 7\n", web(&network)))?;
    until(LIMIT, "the reload to be refused", || Ok((daemon.metric("xlb_reload_refused")? == 1.0).then_some(())))?;
    let log = daemon.log();
    daemon.stop()?;
    Ok(log)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn as_json_each_line_is_an_object_with_time_level_and_fields() -> Result<()> {
    let log = eventful_life(&["--log-format", "json"])?;
    let lines: Result<Vec<Value>, _> = log.lines().map(serde_json::from_str).collect();
    let lines = lines.with_context(|| log.clone())?;
    for line in &lines {
        ensure!(line["timestamp"].is_string() && line["level"].is_string() && line["fields"]["message"].is_string(), "{line}");
    }
    let find = |message: &str| {
        let found = lines.iter().find(|line| line["fields"]["message"].as_str().is_some_and(|text| text.starts_with(message)));
        found.with_context(|| format!("no {message:?} in:\n{log}"))
    };
    let attached = find("attached")?;
    ensure!(attached["level"] == "INFO" && attached["fields"]["interface"] == "eth0", "{attached}");
    let down = find("backend is down")?;
    let fields = &down["fields"];
    ensure!(down["level"] == "WARN" && fields["service"] == "web" && fields["backend"] == "10.2.0.10:80", "{down}");
    ensure!(fields["from"] == "up" && fields["cause"].as_str().is_some_and(|cause| !cause.is_empty()), "{down}");
    ensure!(find("not reloaded, everything stays as it is")?["level"] == "ERROR");
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn as_text_each_change_is_a_line_with_its_cause() -> Result<()> {
    let log = eventful_life(&[])?;
    let line = |wanted: &[&str]| {
        let found = log.lines().any(|line| wanted.iter().all(|wanted| line.contains(wanted)));
        ensure!(found, "no line with {wanted:?} in:\n{log}");
        Ok(())
    };
    line(&["INFO", "attached", "interface=\"eth0\"", "mode=\"native\""])?;
    line(&["WARN", "backend is down", "service=web", "backend=10.2.0.10:80", "from=up", "cause="])?;
    line(&["ERROR", "not reloaded, everything stays as it is"])?;
    ensure!(!log.contains('\x1b'), "colours are for terminals:\n{log}");
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_refused_reload_is_an_event_that_says_what_and_where() -> Result<()> {
    use std::io::{BufRead, BufReader, Write};
    let network = Network::dsr(1, &[vip()?])?;
    let _backends = Backend::start_all(&network, 80, &[vip()?])?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network)).start()?;
    let mut stream = network.lb.netns.enter(|| xlb_tests::http::connect("127.0.0.1:9400".parse()?, None, LIMIT))?;
    write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: xlb\r\n\r\n")?;
    let mut lines = BufReader::new(stream).lines();
    let mut hello = lines.by_ref().map_while(Result::ok);
    ensure!(hello.any(|line| line == "event: hello"), "no hello");
    daemon.reload(format!("{}\n[[service]]\nname = 7\n", web(&network)))?;
    let data = lines.map_while(Result::ok).filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok());
    let mut events = data.filter_map(|data| data.as_array().cloned()).flatten();
    let refused = events.find(|event| event["kind"] == "reload").context("the stream has ended")?;
    let cause = refused["cause"].as_str().unwrap_or_default();
    ensure!(refused["accepted"] == false && cause.contains("xlb.toml:") && !cause.contains('\n'), "{refused}");
    daemon.stop()
}
