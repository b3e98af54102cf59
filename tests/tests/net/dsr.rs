//! Direct server return: the backends answer the client themselves.

use anyhow::{Context, Result, ensure};
use std::net::SocketAddr;
use xlb_tests::{Backend, Daemon, Network, http, udp};

use super::support::{
    Service, both_vips, counters_sum, service, story, tally, tcp_and_udp_on_both_families, url, verdict, vip, vip_v6,
    wait_at_rest, wait_serving,
};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn tcp_and_udp_reach_all_backends_over_both_families() -> Result<()> {
    let network = Network::dsr(5, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(tcp_and_udp_on_both_families(&network, "dsr"))
        .start()?;
    for name in ["web", "web6", "echo", "echo6"] {
        wait_at_rest(&daemon, name, 5)?;
    }
    let client = &network.client.netns;
    for address in both_vips() {
        let tcp = tally(http::names(client, &url(address, 80), 200)?);
        ensure!(tcp.len() == 5, "TCP by way of {address} reached {tcp:?}\n{}", story(&daemon));
        let udp = tally(udp::names(client, SocketAddr::new(address, 80), 200)?);
        ensure!(udp.len() == 5, "UDP by way of {address} reached {udp:?}\n{}", story(&daemon));
    }
    let status = daemon.status()?;
    counters_sum(&status)?;
    for name in ["web", "web6"] {
        ensure!(service(&status, name)?["connections"] == 200, "{:#}", service(&status, name)?);
    }
    // Every packet left on the interface that it came from.
    ensure!(verdict(&daemon, "tx")? > 0 && verdict(&daemon, "redirect")? == 0, "{:#}", status["verdicts"]);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_behind_a_router_is_refused_and_the_others_serve() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let _near = Backend::start_all(&network, 80, &[vip()])?;
    let client = &network.client.netns;
    let _far = Backend::start(client, "far", &[("http", (std::net::Ipv6Addr::UNSPECIFIED, 80).into())])?;
    let far = network.client.v4;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).backend(far, "").toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "web", 1)?;
    let names = tally(http::names(client, &url(vip(), 80), 50)?);
    ensure!(names.keys().eq(["backend0"]), "{names:?}");
    let reason = "not reachable by DSR: behind gateway 10.2.0.1; use nat";
    let web = service(&daemon.status()?, "web")?;
    let refused = web["backends"].as_array().into_iter().flatten().find(|backend| backend["address"] == far.to_string());
    let refused = refused.context("both backends are shown")?;
    ensure!(refused["unreachable"] == reason && refused["state"] == "up" && refused["serving"] == false, "{refused:#}");
    ensure!(daemon.log().matches(reason).count() == 1, "said once:\n{}", daemon.log());
    ensure!(verdict(&daemon, "no_next_hop")? == 0, "{:#}", daemon.status()?["verdicts"]);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_vip_answers_ping() -> Result<()> {
    let network = Network::dsr(1, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(tcp_and_udp_on_both_families(&network, "dsr"))
        .start()?;
    for address in [vip(), vip_v6()] {
        network.client.netns.run(&format!("ping -n -c 2 -W 2 -i 0.2 {address}"))?;
    }
    ensure!(verdict(&daemon, "echo_reply")? == 4, "{:#}", daemon.status()?["verdicts"]);
    daemon.stop()
}
