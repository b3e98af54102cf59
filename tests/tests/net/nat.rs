//! NAT: the backends see the client's address, and answer through the balancer, their gateway.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Daemon, Network, http, udp};

use super::support::{
    Service, both_vips, counters_sum, story, tally, tcp_and_udp_on_both_families, url, verdict, vip, vip_v6, wait_at_rest,
    wait_serving,
};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn tcp_and_udp_reach_all_backends_over_both_families() -> Result<()> {
    let network = Network::nat(5)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(tcp_and_udp_on_both_families(&network, "nat"))
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
    counters_sum(&daemon.status()?)?;
    ensure!(verdict(&daemon, "redirect")? > 0 && verdict(&daemon, "reply")? > 0, "{:#}", daemon.status()?["verdicts"]);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn backends_may_have_ports_of_their_own() -> Result<()> {
    let network = Network::nat(2)?;
    let _backends = Backend::start_all(&network, 8080, &[])?;
    let toml = |name, vip: IpAddr| {
        let service = Service::new(name, vip, 80).with("forward", "nat");
        let address = |host: &xlb_tests::Host| -> IpAddr { if vip.is_ipv4() { host.v4.into() } else { host.v6.into() } };
        network.backends.iter().fold(service, |service, host| service.backend(address(host), "port = 8080")).toml()
    };
    let services = [toml("web", vip()), toml("web6", vip_v6())].concat();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    for address in both_vips() {
        let names = tally(http::names(&network.client.netns, &url(address, 80), 50)?);
        ensure!(names.len() == 2, "{address}: {names:?}");
    }
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn settings_by_which_the_host_takes_replies_for_spoofed_are_warned_of() -> Result<()> {
    let network = Network::nat(2)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let lb = &network.lb.netns;
    lb.sysctl(&[
        ("ipv4/conf/all/rp_filter", "0"),
        ("ipv4/conf/backend0/rp_filter", "1"),
        ("ipv4/conf/backend0/accept_local", "0"),
        ("ipv4/conf/backend1/rp_filter", "2"),
        ("ipv4/conf/backend1/accept_local", "1"),
    ])?;
    let service = Service::new("web", vip(), 80).with("forward", "nat").backends(&network.backends, true).toml();
    let daemon = Daemon::new(lb, &network.lb_interfaces()).services(service).start()?;
    wait_serving(&daemon, "web", 2)?;
    let command = "sysctl -w net.ipv4.conf.backend0.rp_filter=2 net.ipv4.conf.backend0.accept_local=1";
    let log = daemon.log();
    ensure!(log.matches(command).count() == 1, "{log}");
    ensure!(!log.contains("conf.backend1") && !log.contains("conf.client"), "{log}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_behind_a_bridge_is_reached_through_the_hosts_routing() -> Result<()> {
    let network = Network::nat(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let lb = &network.lb.netns;
    // The way to the backend leads over a bridge now, which takes no redirected frames.
    lb.ip(&[
        "addr flush dev backend0",
        "link add br0 type bridge",
        "link set br0 up",
        "link set backend0 master br0",
        "addr add 10.2.0.1/24 dev br0",
    ])?;
    let service = Service::new("web", vip(), 80).with("forward", "nat").backend(network.backends[0].v4, "").toml();
    // Replies come in on the bridge: generic, since a bridge has no native XDP.
    let daemon = Daemon::new(lb, &["client", "br0"]).mode("auto").services(service).start()?;
    wait_serving(&daemon, "web", 1)?;
    let names = http::names(&network.client.netns, &url(vip(), 80), 20)?;
    ensure!(names.iter().all(|name| name == "backend0"), "{names:?}");
    ensure!(verdict(&daemon, "routed")? > 0, "{:#}\n{}", daemon.status()?["verdicts"], daemon.log());
    daemon.stop()
}
