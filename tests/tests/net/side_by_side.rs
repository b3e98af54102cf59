//! Several daemons on one machine.

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Daemon, Network, http};

use super::support::{LIMIT, Service, url, vip};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn two_daemons_on_other_interfaces_do_not_disturb_each_other() -> Result<()> {
    let network = Network::nat(2)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let lb = &network.lb.netns;
    // One serves the client; the other, on the second backend's interface, serves the first backend's calls.
    let first = Service::new("web", vip(), 80).with("forward", "nat").backend(network.backends[0].v4, "").toml();
    let second_vip: std::net::IpAddr = "10.200.2.1".parse()?;
    let second = Service::new("inner", second_vip, 80).with("forward", "nat").backend(network.backends[0].v4, "").toml();
    let one = Daemon::new(lb, &["client"]).services(first).start()?;
    let two = Daemon::new(lb, &["backend1"]).api("127.0.0.1:9401").services(second).start()?;
    ensure!(one.status()?["services"][0]["name"] == "web" && two.status()?["services"][0]["name"] == "inner");
    two.stop()?;
    ensure!(one.get("/health/live")?.status == 200, "the other lives on");
    ensure!(lb.run("ip link show client")?.contains("xdp"));
    one.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_second_daemon_with_the_same_pin_directory_is_refused() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    let mut second = daemon.builder().api("127.0.0.1:9401").start_unready()?;
    let status = second.process().wait(LIMIT)?;
    ensure!(!status.success() && second.log().contains("in use by another xlb"), "{status}: {}", second.log());
    http::names(&network.client.netns, &url(vip(), 80), 20)?;
    daemon.stop()
}
