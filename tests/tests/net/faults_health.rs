//! Backends whose answers to health checks are no answers, and those that cannot make up their minds.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::impostor::{self, Conduct};
use xlb_tests::{Backend, Connections, Daemon, Impostor, Network, http, until};

use super::support::{LIMIT, Service, service, tally, url, vip, wait_serving};

/// What they do, at which port, and what is said of it to those who ask for `/` over HTTP.
const CONDUCTS: [(&str, Conduct, u16, &str); 5] = [
    ("silent", impostor::silent, 8001, "timed out"),
    ("dripping", impostor::dripping, 8002, "timed out"),
    ("body", impostor::endless_body, 8003, "in the first 64 KiB of the body"),
    ("head", impostor::endless_head, 8004, "head is too large"),
    ("flood", impostor::flood, 8005, "invalid HTTP version"),
];

/// Memory in use, in KiB (proc(5)).
fn resident_kib(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn answers_without_end_take_neither_memory_nor_time_from_others() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let backends = Backend::start_all(&network, 80, &[vip()])?;
    let host = &network.backends[0];
    let _impostors: Vec<Impostor> = CONDUCTS
        .iter()
        .map(|&(_, conduct, port, _)| Impostor::tcp(&host.netns, SocketAddr::from((host.v4, port)), conduct))
        .collect::<Result<_>>()?;
    let mut services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    for (n, (name, _, port, _)) in (0..).zip(CONDUCTS) {
        for (m, kind) in (0..).zip(["http\"\nbody = \"wanted", "redis", "postgres", "grpc", "agent", "https"]) {
            let (name, own) = (format!("{name}-{m}"), 9000 + n * 10 + m);
            let toml = Service::new(&name, vip(), own).backend(host.v4, "").toml();
            let toml = toml.replace("type = \"http\"\npath = \"/health\"", &format!("type = \"{kind}\"\nport = {port}"));
            services += &toml.replace("200ms", "1s").replace("fall = 5", "fall = 1");
        }
    }
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    let names: Vec<String> = CONDUCTS.iter().flat_map(|(name, ..)| (0..6).map(move |m| format!("{name}-{m}"))).collect();
    for name in &names {
        let is_down = || Ok((service(&daemon.status()?, name)?["backends"][0]["state"] == "down").then_some(()));
        until(LIMIT, &format!("{name} to be down"), is_down).with_context(|| daemon.log())?;
    }
    for (name, _, _, why) in CONDUCTS {
        // A probe that is cut short otherwise has another reason; the next one has this.
        let says_why = || {
            let check = service(&daemon.status()?, &format!("{name}-0"))?["backends"][0]["check"].clone();
            Ok(check.as_str().is_some_and(|check| check.contains(why)).then_some(()))
        };
        until(LIMIT, &format!("{name} to say: {why}"), says_why).with_context(|| daemon.log())?;
    }
    let before_kib = resident_kib(daemon.id())?;
    let probes = || daemon.metric("xlb_map_changes_total");
    let changes = probes()?;
    // All the while backends are noticed that fail, and those that come back.
    for _ in 0..3 {
        backends[1].toggle_health()?;
        wait_serving(&daemon, "web", 1)?;
        backends[1].toggle_health()?;
        wait_serving(&daemon, "web", 2)?;
    }
    ensure!(probes()? > changes);
    let grown_kib = resident_kib(daemon.id())?.saturating_sub(before_kib);
    ensure!(grown_kib < 16 << 10, "{grown_kib} KiB more");
    ensure!(tally(http::names(&network.client.netns, &url(vip(), 80), 60)?).len() == 2);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_flapping_backend_breaks_only_its_own_connections_and_does_not_stay_out() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let backends = Backend::start_all(&network, 80, &[vip()])?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "web", 3)?;
    let client = &network.client.netns;
    let connections = Connections::open(client, (vip(), 80).into(), 90, Duration::from_millis(20), Duration::from_secs(2))?;
    for n in 0..20 {
        backends[2].toggle_health()?;
        wait_serving(&daemon, "web", 2 + n % 2)?;
    }
    let broken = connections.close()?;
    let others: Vec<_> = broken.iter().filter(|broken| broken.name != "backend2").collect();
    ensure!(others.is_empty(), "{others:?}\n{}", daemon.log());
    ensure!(tally(http::names(client, &url(vip(), 80), 100)?).len() == 3);
    let down = daemon.metric("xlb_health_transitions_total{service=\"web\",to=\"down\"}")?;
    ensure!(down >= 10.0, "each time is counted, {down} were");
    daemon.stop()
}
