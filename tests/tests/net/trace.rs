//! `xlb trace` beside real traffic: it tells the packets that pass, and leaves no trace when it ends.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use xlb_tests::{Backend, Daemon, Network, Process, http, paths, until};

use super::support::{LIMIT, VIP, service, tcp_and_udp_on_both_families, url, vip, wait_at_rest};

const CLIENT: &str = "10.1.0.2";
const ON: &str = "packets are traced";
const OFF: &str = "packets are not traced any more";

/// A trace that has begun.
fn trace(network: &Network, daemon: &mut Daemon, arguments: &[&str]) -> Result<Process> {
    let socket = daemon.own_directory().join("xlb.sock");
    let n_before = daemon.log().matches(ON).count();
    let mut command: Command = network.lb.netns.command(paths::xlb()?);
    let process = Process::start("xlb trace", command.arg("trace").args(arguments).arg("--socket").arg(socket))?;
    until(LIMIT, "the trace to begin", || Ok((daemon.log().matches(ON).count() > n_before).then_some(())))
        .with_context(|| process.log())?;
    Ok(process)
}

fn wait_off(daemon: &Daemon, n: usize) -> Result<()> {
    until(LIMIT, "the trace to end", || Ok((daemon.log().matches(OFF).count() >= n).then_some(()))).with_context(|| daemon.log())
}

/// The packets that a trace with `--json` has told.
fn packets(process: &Process) -> Vec<Value> {
    let log = process.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.map(|line| line["packet"].clone()).filter(|packet| !packet.is_null()).collect()
}

fn web_packets(daemon: &Daemon) -> Result<u64> {
    service(&daemon.status()?, "web")?["packets"].as_u64().context("no count of packets")
}

fn written(daemon: &Daemon) -> Result<f64> {
    daemon.metric("xlb_traced_packets_total{result=\"written\"}")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_trace_tells_exactly_the_packets_that_pass_and_nothing_is_left_of_it() -> Result<()> {
    let network = Network::nat(2)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let services = tcp_and_udp_on_both_families(&network, "nat");
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    // Those who came up one after the other have moved slots.
    wait_at_rest(&daemon, "web", 2)?;
    let before = web_packets(&daemon)?;
    let mut all = trace(&network, &mut daemon, &["--client", CLIENT, "--json", "--count", "1000000"])?;
    http::names(&network.client.netns, &url(vip(), 80), 5)?;
    // Until the last ACK has been counted, and told.
    let is_complete = || {
        let told = packets(&all);
        let n_sent = web_packets(&daemon)? - before;
        let forwarded = told.iter().filter(|packet| packet["service"] == "web" && packet["how"] != "reply").count() as u64;
        let n_fins =
            told.iter().filter(|packet| packet["packet"]["flags"].as_str().is_some_and(|flags| flags.contains("FIN"))).count();
        Ok((n_fins >= 10 && forwarded == n_sent).then_some(told))
    };
    let told = until(LIMIT, "each packet to be told once", is_complete).with_context(|| all.log())?;
    let syns: Vec<&Value> = told.iter().filter(|packet| packet["packet"]["flags"] == "SYN").collect();
    ensure!(syns.len() == 5, "five connections: {told:#?}");
    let syn = syns[0];
    ensure!(syn["verdict"] == "redirect" && syn["how"] == "at_rest" && syn["slot"].is_u64(), "{syn:#}");
    let backend = syn["backend"].as_str().context("no backend")?;
    ensure!(syn["left"]["packet"]["destination"] == backend && syn["packet"]["destination"] == format!("{VIP}:80"), "{syn:#}");
    let replies: Vec<&Value> = told.iter().filter(|packet| packet["how"] == "reply").collect();
    ensure!(replies.len() >= 10, "replies: {told:#?}");
    ensure!(replies.iter().all(|reply| reply["left"]["packet"]["source"] == format!("{VIP}:80")), "{replies:#?}");
    // The next one is told who traces.
    let refused = daemon.xlb(&["trace", "--count", "1"]).map_err(|error| error.to_string());
    ensure!(refused.as_ref().is_err_and(|error| error.contains("there is a trace already, by root since")), "{refused:?}");
    // Nobody reads any more, however that came.
    all.kill();
    wait_off(&daemon, 1)?;
    let n_written = written(&daemon)?;
    ensure!(n_written >= told.len() as f64, "{n_written}");
    http::names(&network.client.netns, &url(vip(), 80), 5)?;
    ensure!(written(&daemon)? == n_written, "nothing is traced any more");
    // What is not asked for is not told; a filter that nothing passes ends by its time.
    let mut other = trace(&network, &mut daemon, &["--client", "10.99.0.0/16", "--duration", "1s"])?;
    http::names(&network.client.netns, &url(vip(), 80), 5)?;
    ensure!(other.wait(LIMIT)?.success() && other.log() == "0 packets\n", "{}", other.log());
    wait_off(&daemon, 2)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn lines_for_people_and_a_file_that_tcpdump_reads() -> Result<()> {
    let network = Network::nat(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let services = tcp_and_udp_on_both_families(&network, "nat");
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    let backend = network.backends[0].v4;
    let mut lines = trace(&network, &mut daemon, &["--vip", VIP, "--count", "4"])?;
    http::names(&network.client.netns, &url(vip(), 80), 1)?;
    ensure!(lines.wait(LIMIT)?.success(), "{}", lines.log());
    let text = lines.log();
    for wanted in [
        &format!("tcp {CLIENT}:"),
        &format!("> {VIP}:80 SYN  web -> {backend}:80 (slot at rest, slot "),
        &format!("forwarded (redirect) as tcp {CLIENT}:"),
        "SYN,ACK  web <- ",
        "4 packets\n",
    ] {
        ensure!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    }
    // A packet that is passed to the host, and one that nobody takes.
    let file = daemon.own_directory().join("trace.pcapng");
    let path = file.to_str().context("a path that is no text")?;
    wait_off(&daemon, 1)?;
    let mut capture = trace(&network, &mut daemon, &["--vip", VIP, "--write", path])?;
    http::names(&network.client.netns, &url(vip(), 80), 1)?;
    let _ = http::get(&network.client.netns, &url(vip(), 81));
    let read = || -> Result<String> {
        let output = Command::new("tcpdump").args(["-nr", path]).output()?;
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let is_there =
        || Ok(Some(read()?).filter(|text| text.contains(&format!("{CLIENT}.")) && text.contains(&format!("{VIP}.81"))));
    let text = until(LIMIT, "tcpdump to read the packets", is_there).with_context(|| capture.log())?;
    ensure!(text.contains(&format!("> {VIP}.80: Flags [S]")) && text.contains(&format!("> {backend}.80: Flags [S]")), "{text}");
    capture.signal(Signal::SIGINT)?;
    ensure!(capture.wait(LIMIT)?.success() && capture.log().contains(&format!(" in {path}")), "{}", capture.log());
    let bytes = std::fs::read(&file)?;
    let has = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    ensure!(has("passed to the host (not_service)") && has("as it leaves: "), "comments");
    wait_off(&daemon, 2)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_flood_is_thinned_out_and_traffic_goes_on_and_a_daemon_that_is_killed_leaves_it_off() -> Result<()> {
    let network = Network::nat(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let services = tcp_and_udp_on_both_families(&network, "nat");
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    let mut all = trace(&network, &mut daemon, &["--count", "10000000", "--duration", "1h", "--json"])?;
    let limited = || daemon.metric("xlb_traced_packets_total{result=\"limited\"}");
    let flood = || {
        network.client.netns.enter(|| {
            let socket = std::net::UdpSocket::bind((CLIENT, 0))?;
            (0..2_000).for_each(|_| drop(socket.send_to(b"flood", (VIP, 80))));
            Ok(())
        })
    };
    until(Duration::from_secs(30), "more packets than a trace may have", || {
        flood()?;
        // In between, a connection goes through.
        ensure!(http::get(&network.client.netns, &url(vip(), 80))?.status == 200);
        Ok((limited()? > 0.0).then_some(()))
    })?;
    until(LIMIT, "losses to be told", || Ok(all.log().contains("not told so far").then_some(()))).with_context(|| all.log())?;
    ensure!(daemon.metric("xlb_traced_packets_total{result=\"written\"}")? >= 600.0);
    // The bit that has packets looked at stays on in the maps, and the next daemon takes it off.
    daemon.kill();
    ensure!(!all.wait(LIMIT)?.success() && all.log().contains("the daemon has ended"), "{}", all.log());
    let again = daemon.builder().start()?;
    ensure!(http::get(&network.client.netns, &url(vip(), 80))?.status == 200);
    ensure!(again.metric("xlb_traced_packets_total{result=\"written\"}")? == 0.0);
    again.stop()
}
