//! Clamped segment sizes, by what the kernels at both ends say of a connection.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use xlb_tests::{Daemon, Host, Network, http, until};

use super::fullnat;
use super::support::{Service, both_vips, wait_serving};

const LIMIT: Duration = Duration::from_secs(10);
const MSS: u32 = 1000;
/// What timestamps take of each segment.
const TIMESTAMPS: u32 = 12;

fn services(network: &Network, forward: &str, mss: Option<u32>) -> String {
    let service = |(name, vip): (&str, IpAddr)| {
        let service = Service::new(name, vip, 80).with("forward", forward).health("type = \"none\"");
        let toml = service.backends(&network.backends, vip.is_ipv4()).toml();
        mss.map_or(toml.clone(), |mss| toml.replace("port = 80\n", &format!("port = 80\nmss = {mss}\n")))
    };
    let [v4, v6] = both_vips();
    [("web", v4), ("web6", v6)].map(service).concat()
}

/// The largest segments that client and backend send on a connection by way of a VIP.
fn segments(network: &Network, listener: &TcpListener, vip: IpAddr) -> Result<(u32, u32)> {
    let client = network.client.netns.enter(|| http::connect(SocketAddr::new(vip, 80), None, LIMIT))?;
    let (backend, _) = listener.accept()?;
    Ok((getsockopt(&client, TcpMaxSeg)?, getsockopt(&backend, TcpMaxSeg)?))
}

fn listen(host: &Host) -> Result<TcpListener> {
    host.netns.enter(|| Ok(TcpListener::bind("[::]:80")?))
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn by_nat_neither_end_sends_more_and_a_reload_lets_them() -> Result<()> {
    let network = Network::nat(1)?;
    let listener = listen(&network.backends[0])?;
    let mut daemon =
        Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services(&network, "nat", Some(MSS))).start()?;
    ["web", "web6"].iter().try_for_each(|name| wait_serving(&daemon, name, 1))?;
    for vip in both_vips() {
        let segments = segments(&network, &listener, vip)?;
        ensure!(segments == (MSS - TIMESTAMPS, MSS - TIMESTAMPS), "{vip}: {segments:?}");
    }
    daemon.reload(services(&network, "nat", None))?;
    until(LIMIT, "the reload", || Ok(daemon.log().contains("reloaded").then_some(())))?;
    for vip in both_vips() {
        let (client, backend) = segments(&network, &listener, vip)?;
        ensure!(client > MSS && backend > MSS, "{vip}: {client} and {backend}");
    }
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn where_replies_take_another_way_the_backend_sends_no_more() -> Result<()> {
    let network = Network::dsr(1, &both_vips())?;
    let listener = listen(&network.backends[0])?;
    let daemon =
        Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services(&network, "dsr", Some(MSS))).start()?;
    ["web", "web6"].iter().try_for_each(|name| wait_serving(&daemon, name, 1))?;
    for vip in both_vips() {
        let (client, backend) = segments(&network, &listener, vip)?;
        ensure!(client > MSS && backend == MSS - TIMESTAMPS, "{vip}: {client} and {backend}");
    }
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn by_full_nat_neither_end_sends_more_and_the_backend_is_told_who_its_client_is() -> Result<()> {
    let network = fullnat::network(1)?;
    let listener = listen(&network.backends[0])?;
    let clamped = services(&network, "fullnat", Some(MSS));
    let named = clamped.replace("forward = \"fullnat\"\n", "forward = \"fullnat\"\ntoa = true\n");
    let plain = services(&network, "fullnat", None);
    let pooled = |services: &str| fullnat::POOL.to_owned() + services;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(pooled(&clamped)).start()?;
    ["web", "web6"].iter().try_for_each(|name| wait_serving(&daemon, name, 1))?;
    let expect = |is_clamped: bool| -> Result<()> {
        for vip in both_vips() {
            let (client, backend) = segments(&network, &listener, vip)?;
            let is_right = if is_clamped {
                (client, backend) == (MSS - TIMESTAMPS, MSS - TIMESTAMPS)
            } else {
                client > MSS && backend > MSS
            };
            ensure!(is_right, "{vip}: {client} and {backend}");
        }
        Ok(())
    };
    expect(true)?;
    for (n, (services, is_clamped)) in (1..).zip([(&named, true), (&plain, false)]) {
        daemon.reload(pooled(services))?;
        until(LIMIT, "the reload", || Ok((daemon.log().matches("reloaded").count() == n).then_some(())))?;
        expect(is_clamped)?;
    }
    daemon.stop()
}
