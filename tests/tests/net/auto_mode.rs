//! `mode = "auto"` never picks a mode in which frames vanish.

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Daemon, Network, Wrk, http};

use super::support::{Service, url, vip, wait_serving};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn native_where_the_other_end_of_a_veth_runs_a_program() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).mode("auto").services(services).start()?;
    ensure!(daemon.status()?["interfaces"][0]["mode"] == "native", "{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn generic_with_a_warning_where_it_does_not_and_nothing_vanishes() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let router = network.router.as_ref().expect("the DSR network has one");
    // Another pair, whose other end has no program.
    let lb = &network.lb.netns;
    lb.ip(&["link del eth0"])?;
    network.world.veth((lb, "eth0"), (&router.netns, "bare"))?;
    router.netns.ip(&["link set bare master br0", "link set bare up"])?;
    lb.ip(&["addr add 10.2.0.2/24 dev eth0", "link set eth0 up", "route add default via 10.2.0.1"])?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(lb, &["eth0"]).mode("auto").services(services).start()?;
    wait_serving(&daemon, "web", 2)?;
    ensure!(daemon.status()?["interfaces"][0]["mode"] == "generic", "{}", daemon.log());
    ensure!(daemon.log().contains("generic mode costs"), "the log says what it costs:\n{}", daemon.log());
    // Far more packets than the 256 that native mode would have let pass.
    http::names(&network.client.netns, &url(vip(), 80), 500)?;
    let mut load = Wrk::new(url(vip(), 80), std::time::Duration::from_secs(1));
    load.keep_alive = true;
    let report = load.run(&network.client.netns)?;
    ensure!(report.errors() == 0 && report.requests > 500, "{report:?}");
    daemon.stop()
}
