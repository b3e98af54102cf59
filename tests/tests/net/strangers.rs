//! Traffic that is not the balancer's business, or that is broken.

use std::net::Ipv4Addr;

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Daemon, Network, frames, http, until};

use super::support::{LIMIT, Service, counters_sum, url, verdict, vip};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_is_addressed_to_the_host_reaches_it() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    // As SSH would: a server on the balancer itself, on its own address.
    let _server = Backend::start(&network.lb.netns, "lb", &[("http", (Ipv4Addr::UNSPECIFIED, 22).into())])?;
    let answer = http::get(&network.client.netns, &url(network.lb.v4.into(), 22))?;
    ensure!(answer.body.trim() == "lb", "{answer:?}");
    network.client.netns.run(&format!("ping -n -c 1 -W 2 {}", network.lb.v4))?;
    ensure!(verdict(&daemon, "not_service")? > 0);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn truncated_and_malformed_packets_are_dropped_and_counted() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let services = Service::new("web", vip(), 80).with("protocol", "udp").backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    let router = network.router.as_ref().expect("the DSR network has one");
    let sender = frames::Sender::new(&router.netns, "br0")?;
    let (from, to) = (router.netns.mac("br0")?, network.lb.netns.mac("eth0")?);
    let good = frames::udp_v4((from, to), (network.client.v4, 4000), (Ipv4Addr::new(10, 200, 1, 1), 80), b"hello");
    let before = daemon.status()?;
    let n = 10u64;
    for _ in 0..n {
        sender.send(&good[..14 + 20 + 4])?;
        let mut malformed = good.clone();
        malformed[14] = 0x44;
        sender.send(&malformed)?;
    }
    let count = |label: &str| verdict(&daemon, label);
    until(
        LIMIT,
        "the broken packets to be counted",
        || Ok((count("truncated")? >= n && count("malformed")? >= n).then_some(())),
    )?;
    let after = daemon.status()?;
    counters_sum(&after)?;
    let packets = |status: &serde_json::Value| status["services"][0]["packets"].as_u64();
    ensure!(packets(&before) == packets(&after), "none of them reached a backend");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_tagged_packet_is_steered_and_keeps_its_tag() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let services = Service::new("web", vip(), 80).with("protocol", "udp").backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    let router = network.router.as_ref().expect("the DSR network has one");
    let sender = frames::Sender::new(&router.netns, "br0")?;
    let (from, to) = (router.netns.mac("br0")?, network.lb.netns.mac("eth0")?);
    let plain = frames::udp_v4((from, to), (network.client.v4, 4000), (Ipv4Addr::new(10, 200, 1, 1), 80), b"tagged");
    let capture = frames::Capture::start(&network.backends[0].netns, "eth0", "vlan")?;
    sender.send(&frames::with_vlan(&plain, 42))?;
    let arrived = capture.wait_for(1, LIMIT)?;
    ensure!(arrived[0][12..16] == [0x81, 0, 0, 42], "{:02x?}", arrived[0]);
    ensure!(arrived[0][..6] == network.backends[0].netns.mac("eth0")?, "{:02x?}", arrived[0]);
    daemon.stop()
}
