//! Backends from a real DNS server.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Connections, Daemon, Dnsmasq, Network, http, paths, until};

use super::support::{LIMIT, Service, both_vips, n_serving, service, tally, url, vip, vip_v6, wait_serving};

const NAME: &str = "api.internal";

fn dns_toml(dns: &Dnsmasq) -> String {
    format!("name = \"{NAME}\"\nport = 80\nresolver = \"{}\"\ninterval = \"1s\"\n", dns.address())
}

fn records(network: &Network, range: std::ops::Range<usize>) -> Vec<(&'static str, IpAddr)> {
    network.backends[range].iter().flat_map(|host| [(NAME, host.v4.into()), (NAME, host.v6.into())]).collect()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn addresses_that_appear_serve_after_their_check_and_those_that_vanish_leave() -> Result<()> {
    let network = Network::dsr(4, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    // The server is on the client's side: the balancer asks through its router like anybody else.
    let mut dns = Dnsmasq::start(&network.client.netns, network.client.v4.into(), 1, &records(&network, 0..2))?;
    let services = [
        Service::new("api", vip(), 80).dns(&dns_toml(&dns)).toml(),
        Service::new("api6", vip_v6(), 80).dns(&dns_toml(&dns)).toml(),
    ]
    .concat();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    for (name, address) in [("api", vip()), ("api6", vip_v6())] {
        wait_serving(&daemon, name, 2)?;
        let names = tally(http::names(&network.client.netns, &url(address, 80), 60)?);
        ensure!(names.len() == 2, "{names:?}");
    }
    dns.set(&records(&network, 1..4))?;
    for (name, address) in [("api", vip()), ("api6", vip_v6())] {
        wait_serving(&daemon, name, 3)?;
        let names = tally(http::names(&network.client.netns, &url(address, 80), 100)?);
        ensure!(names.len() == 3 && !names.contains_key("backend0"), "{names:?}");
    }
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_address_that_was_never_up_has_no_slots() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = [Backend::start_nth(&network, 0, 80, &[])?, Backend::start_nth(&network, 1, 80, &[])?];
    let mut dns = Dnsmasq::start(&network.client.netns, network.client.v4.into(), 1, &records(&network, 0..2))?;
    let services = Service::new("api", vip(), 80).dns(&dns_toml(&dns)).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "api", 2)?;
    let moved = || daemon.metric("xlb_service_slots_moved_total{service=\"api\"}");
    let before = moved()?;
    dns.set(&records(&network, 0..3))?;
    until(LIMIT, "the third address to be checked and found down", || {
        Ok((service(&daemon.status()?, "api")?["backends"][2]["state"] == "down").then_some(()))
    })?;
    ensure!(moved()? == before, "slots moved\n{}", daemon.log());
    let _third = Backend::start_nth(&network, 2, 80, &[])?;
    wait_serving(&daemon, "api", 3)?;
    let share = service(&daemon.status()?, "api")?["backends"][2]["share"].as_f64().unwrap_or_default();
    ensure!((share - 1.0 / 3.0).abs() < 0.01, "{share}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_server_that_is_gone_or_has_nothing_leaves_the_last_good_answer() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let mut dns = Dnsmasq::start(&network.client.netns, network.client.v4.into(), 1, &records(&network, 0..2))?;
    let services = Service::new("api", vip(), 80).dns(&dns_toml(&dns)).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "api", 2)?;
    let errors = || daemon.metric("xlb_discovery_failures_total{service=\"api\",source=\"dns\"}");
    dns.set(&[])?;
    let is_stale = || Ok((service(&daemon.status()?, "api")?["discovery"][0]["stale"] == true).then_some(()));
    until(LIMIT, "an empty answer to be counted", || Ok((errors()? > 0.0).then_some(())))?;
    until(LIMIT, "the addresses to be called stale", is_stale)?;
    dns.kill();
    let before = errors()?;
    until(Duration::from_secs(30), "a failed query to be counted", || Ok((errors()? > before).then_some(())))?;
    ensure!(n_serving(&daemon, "api")? == 2, "the last good answer holds");
    http::names(&network.client.netns, &url(vip(), 80), 20)?;
    ensure!(daemon.log().contains("WARN"), "a line of log says so:\n{}", daemon.log());
    daemon.stop()
}

/// A list for Prometheus of these backends, put in its place whole.
fn write_targets(path: &std::path::Path, network: &Network, which: &[usize], more: &str) -> Result<()> {
    let targets: Vec<String> = which.iter().map(|&i| format!("\"{}:80\"", network.backends[i].v4)).collect();
    let new = path.with_extension("new");
    std::fs::write(&new, format!("[{{\"targets\": [{}], \"labels\": {{\"weight\": \"2\"}}}}{more}]\n", targets.join(", ")))?;
    Ok(std::fs::rename(new, path)?)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_that_leaves_the_file_keeps_its_connections_and_gets_no_new_ones() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("api.json");
    write_targets(&path, &network, &[0, 1, 2], "")?;
    let source = format!("path = {path:?}\n");
    let services = Service::new("api", vip(), 80).source("file", &source).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "api", 3)?;
    let client = &network.client.netns;
    let connections = Connections::open(client, (vip(), 80).into(), 60, Duration::from_millis(20), Duration::from_secs(2))?;
    until(LIMIT, "connections to be used", || Ok((connections.exchanges() > 300).then_some(())))?;
    write_targets(&path, &network, &[0, 2], "")?;
    wait_serving(&daemon, "api", 2)?;
    let names = tally(http::names(client, &url(vip(), 80), 100)?);
    ensure!(names.len() == 2 && !names.contains_key("backend1"), "{names:?}");
    let before = connections.exchanges();
    until(LIMIT, "connections to be used on", || Ok((connections.exchanges() > before + 600).then_some(())))?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    // What cannot be read, or is gone, takes nobody away.
    let failures = || daemon.metric("xlb_discovery_failures_total{service=\"api\",source=\"file\"}");
    std::fs::write(&path, "[{\"targets\": [\"10.2.0.10:80\"")?;
    until(LIMIT, "the broken file to be noticed", || Ok((failures()? > 0.0).then_some(())))?;
    ensure!(daemon.log().contains("api.json:1:"), "the log names the place:\n{}", daemon.log());
    std::fs::remove_file(&path)?;
    until(LIMIT, "the file's absence to be noticed", || {
        let error = service(&daemon.status()?, "api")?["discovery"][0]["last_error"].clone();
        Ok(error.as_str().is_some_and(|error| error.contains("No such file")).then_some(()))
    })?;
    ensure!(n_serving(&daemon, "api")? == 2, "{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn several_sources_feed_a_service_and_who_said_what_is_seen() -> Result<()> {
    let network = Network::dsr(4, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let mut dns = Dnsmasq::start(&network.client.netns, network.client.v4.into(), 1, &records(&network, 1..4))?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("api.json");
    // Among them a VIP, an address that nobody can have, and a port that dsr cannot reach.
    let lies = format!(", {{\"targets\": [\"{}:80\", \"224.0.0.1:80\", \"10.2.0.99:81\"]}}", vip());
    write_targets(&path, &network, &[0, 1], &lies)?;
    let services = Service::new("api", vip(), 80)
        .backend(network.backends[0].v4, "weight = 3")
        .dns(&dns_toml(&dns))
        .source("file", &format!("path = {path:?}\n"))
        .source("docker", "socket = \"/nonexistent/docker.sock\"\nstale = \"1s\"\n")
        .toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "api", 4)?;
    let status = service(&daemon.status()?, "api")?;
    let said: Vec<String> = (0..4)
        .map(|i| {
            let backend = &status["backends"][i];
            format!("{} {}", backend["weight"], backend["sources"])
        })
        .collect();
    ensure!(said == ["3 [\"fixed\",\"file\"]", "2 [\"file\",\"dns\"]", "1 [\"dns\"]", "1 [\"dns\"]"], "{said:?}");
    let metric =
        |name: &str, source: &str| daemon.metric(&format!("xlb_discovery_{name}{{service=\"api\",source=\"{source}\"}}"));
    ensure!(metric("hosts", "file")? == 2.0 && metric("hosts", "dns")? == 3.0 && metric("hosts", "docker")? == 0.0);
    ensure!(metric("refused_hosts", "file")? == 3.0 && metric("refused_hosts", "dns")? == 0.0, "{}", daemon.metrics()?);
    ensure!(metric("failures_total", "docker")? > 0.0 && metric("failures_total", "file")? == 0.0);
    ensure!(metric("answer_age_seconds", "dns")? < 10.0 && metric("stale", "dns")? == 0.0);
    let log = daemon.log();
    let once = |text: &str| ensure_once(&log, text);
    once("it is a VIP")?;
    once("2 that cannot be backends, such as 10.2.0.99 (port 81,")?;
    once("is Docker running?")?;
    // The file's backends leave it; those that DNS names stay.
    std::fs::write(&path, "[]")?;
    until(LIMIT, "the list to be empty", || Ok((metric("hosts", "file")? == 0.0).then_some(())))?;
    ensure!(n_serving(&daemon, "api")? == 4, "{}", daemon.log());
    dns.set(&records(&network, 2..4))?;
    wait_serving(&daemon, "api", 3)?;
    let output = network.lb.netns.command(paths::xlb()?).arg("status").output()?;
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    for line in ["dns api.internal: 2 hosts", "docker /nonexistent/docker.sock: 0 hosts", "failing:", "fixed"] {
        ensure!(table.contains(line), "no {line:?} in:\n{table}");
    }
    daemon.stop()
}

fn ensure_once(log: &str, text: &str) -> Result<()> {
    let n = log.matches(text).count();
    ensure!(n == 1, "{text:?} stands in the log {n} times:\n{log}");
    Ok(())
}
