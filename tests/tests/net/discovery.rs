//! Backends from a real DNS server.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Daemon, Dnsmasq, Network, http, until};

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
    let errors = || daemon.metric("xlb_dns_errors_total{service=\"api\"}");
    dns.set(&[])?;
    let is_stale = || Ok((service(&daemon.status()?, "api")?["dns"]["stale"] == true).then_some(()));
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
