//! Backends that die, come back, or are all gone.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xlb_tests::{Backend, Daemon, Network, Wrk, http, until};

use super::support::{LIMIT, Service, both_vips, counters_sum, tally, url, verdict, vip, wait_answer, wait_serving};

/// The configured detection: an interval until the first probe that fails, two more, and the last one's time-out.
const DETECTION: Duration = Duration::from_millis(3 * 100 + 100);

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_killed_backend_costs_no_request_on_the_others() -> Result<()> {
    let network = Network::dsr(5, &both_vips())?;
    let mut backends = Backend::start_all(&network, 80, &[vip()])?;
    let health = "type = \"http\"\npath = \"/health\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\nfall = 3";
    let service = Service::new("web", vip(), 80).health(health).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service).start()?;
    let client = &network.client.netns;
    // Flows of backend 0 are its own loss; watch the others through connections that know who they talk to.
    let connections =
        xlb_tests::Connections::open(client, (vip(), 80).into(), 100, Duration::from_millis(20), Duration::from_secs(2))?;
    let mut load = Wrk::new(url(vip(), 80), Duration::from_secs(4));
    load.keep_alive = false;
    let running = load.start(client)?;
    until(LIMIT, "load to flow", || Ok((connections.exchanges() > 500).then_some(())))?;
    let killed = Instant::now();
    backends[0].kill();
    wait_serving(&daemon, "web", 4)?;
    let noticed = killed.elapsed();
    // From now on nobody is sent to the dead one: not one failure.
    for _ in 0..200 {
        let answer = http::get(client, &url(vip(), 80))?;
        ensure!(answer.status == 200 && answer.body.trim() != "backend0", "{answer:?}");
    }
    let report = running.finish()?;
    let broken = connections.close()?;
    let others: Vec<_> = broken.iter().filter(|broken| broken.name != "backend0").collect();
    println!("noticed after {noticed:?}, {} of {} requests failed, broken: {}", report.errors(), report.requests, broken.len());
    counters_sum(&daemon.status()?)?;
    ensure!(others.is_empty(), "{others:?}");
    // Asking for the status takes its time too; the daemon's own log has the exact figure.
    ensure!(noticed < DETECTION + Duration::from_millis(400), "noticed after {noticed:?}\n{}", daemon.log());
    let to_maps_s = daemon.metric("xlb_map_change_seconds_max")?;
    ensure!(to_maps_s < 0.010, "from the verdict to the maps: {to_maps_s} s\n{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_that_says_so_is_spared_until_it_is_well() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let backends = Backend::start_all(&network, 80, &[vip()])?;
    let service = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service).start()?;
    backends[0].toggle_health()?;
    wait_serving(&daemon, "web", 1)?;
    let names = tally(http::names(&network.client.netns, &url(vip(), 80), 50)?);
    ensure!(names.len() == 1 && names.contains_key("backend1"), "{names:?}");
    ensure!(daemon.log().contains("503"), "the log says why:\n{}", daemon.log());
    backends[0].toggle_health()?;
    wait_serving(&daemon, "web", 2)?;
    let names = tally(http::names(&network.client.netns, &url(vip(), 80), 100)?);
    ensure!(names.len() == 2, "{names:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_that_accepts_and_never_answers_is_noticed() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let backends = Backend::start_all(&network, 80, &[vip()])?;
    let service = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service).start()?;
    backends[1].freeze()?;
    wait_serving(&daemon, "web", 1)?;
    backends[1].thaw()?;
    wait_serving(&daemon, "web", 2)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_service_whose_backends_are_all_down_drops_and_recovers_by_itself() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let backends = Backend::start_all(&network, 80, &[vip()])?;
    let service = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service).start()?;
    let client = &network.client.netns;
    backends.iter().try_for_each(Backend::toggle_health)?;
    wait_serving(&daemon, "web", 0)?;
    ensure!(http::get(client, &url(vip(), 80)).is_err(), "nobody can have answered");
    ensure!(verdict(&daemon, "no_backend")? > 0, "{:#}", daemon.status()?);
    let status = daemon.status()?;
    ensure!(super::support::service(&status, "web")?["dropped"].as_u64().context("a count")? > 0, "{status:#}");
    backends.iter().try_for_each(Backend::toggle_health)?;
    wait_serving(&daemon, "web", 2)?;
    wait_answer(client, &url(vip(), 80))?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_neighbour_with_another_mac_is_followed() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let service = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service).start()?;
    let client = &network.client.netns;
    wait_answer(client, &url(vip(), 80))?;
    let host = &network.backends[0];
    // A new network card: its first packet, such as the answer to a health check's ARP, tells everybody.
    host.netns.ip(&["link set eth0 address 02:00:00:00:99:99"])?;
    host.netns.run(&format!("ping -n -c 1 -W 2 {}", network.lb.v4))?;
    wait_answer(client, &url(vip(), 80))?;
    daemon.stop()
}
