//! SIGHUP: another configuration while traffic flows.

use std::time::Duration;

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Connections, Daemon, Network, http, until};

use super::support::{LIMIT, Service, tally, url, verdict, vip, wait_answer, wait_serving};

fn web(network: &Network, n: usize) -> String {
    Service::new("web", vip(), 80).backends(&network.backends[..n], true).toml()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn services_and_backends_come_and_go() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network, 1)).start()?;
    let client = &network.client.netns;
    daemon.reload(web(&network, 3))?;
    wait_serving(&daemon, "web", 3)?;
    ensure!(tally(http::names(client, &url(vip(), 80), 100)?).len() == 3);
    let _more = Backend::start(&network.backends[0].netns, "other", &[("http", (std::net::Ipv6Addr::UNSPECIFIED, 81).into())])?;
    let other = Service::new("other", vip(), 81).backends(&network.backends[..1], true).toml();
    daemon.reload(web(&network, 2) + &other)?;
    ensure!(wait_answer(client, &url(vip(), 81))?.body.trim() == "other");
    wait_serving(&daemon, "web", 2)?;
    daemon.reload(other)?;
    until(LIMIT, "web to be gone", || Ok((daemon.status()?["services"].as_array().map(Vec::len) == Some(1)).then_some(())))?;
    ensure!(http::get(client, &url(vip(), 80)).is_err(), "a service that is gone serves nobody");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_interface_in_native_mode_that_comes_redirects_no_frames_to_where_they_vanish() -> Result<()> {
    let network = Network::nat(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let lb = &network.lb.netns;
    lb.ip(&["addr flush dev backend0", "link add br0 type bridge", "link set br0 up", "link set backend0 master br0"])?;
    lb.ip(&["addr add 10.2.0.1/24 dev br0"])?;
    let service = Service::new("web", vip(), 80).with("forward", "nat").backend(network.backends[0].v4, "").toml();
    // A bridge is generic only, and generic programs may redirect to it; native ones may not.
    let mut daemon = Daemon::new(lb, &["br0"]).mode("auto").services(service).start()?;
    wait_serving(&daemon, "web", 1)?;
    let config = std::fs::read_to_string(daemon.config())?;
    std::fs::write(daemon.config(), config.replace("interfaces = [\"br0\"]", "interfaces = [\"br0\", \"client\"]"))?;
    daemon.process().signal(nix::sys::signal::Signal::SIGHUP)?;
    daemon.process().wait_for_log(" reloaded", LIMIT)?;
    ensure!(daemon.status()?["interfaces"][1]["mode"] == "native", "{:#}", daemon.status()?["interfaces"]);
    wait_answer(&network.client.netns, &url(vip(), 80))?;
    http::names(&network.client.netns, &url(vip(), 80), 20)?;
    ensure!(verdict(&daemon, "routed")? > 0, "{:#}\n{}", daemon.status()?["verdicts"], daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_bad_file_changes_nothing() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network, 2)).start()?;
    let connections =
        Connections::open(&network.client.netns, (vip(), 80).into(), 50, Duration::from_millis(10), Duration::from_secs(2))?;
    let before = daemon.metric("xlb_map_changes_total")?;
    daemon.reload("[[service]]\nname = \"web\"\nvip = \"nonsense\"\n")?;
    daemon.process().wait_for_log("not reloaded", LIMIT)?;
    let log = daemon.log();
    ensure!(log.contains("xlb.toml:") && log.contains("nonsense"), "the log shows where:\n{log}");
    ensure!(daemon.metric("xlb_map_changes_total")? == before);
    ensure!(daemon.metric("xlb_reloads_total{result=\"refused\"}")? == 1.0);
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_reload_that_cannot_attach_changes_nothing() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network, 2)).start()?;
    let before = daemon.metric("xlb_map_changes_total")?;
    let good = std::fs::read_to_string(daemon.config())?;
    let bad = good.replace("interfaces = [\"eth0\"]", "interfaces = [\"eth0\", \"wan7\"]").replace("port = 80", "port = 8080");
    std::fs::write(daemon.config(), bad)?;
    daemon.process().signal(nix::sys::signal::Signal::SIGHUP)?;
    daemon.process().wait_for_log("not reloaded", LIMIT)?;
    ensure!(daemon.log().contains("wan7 does not exist"), "{}", daemon.log());
    ensure!(daemon.metric("xlb_map_changes_total")? == before, "{}", daemon.log());
    ensure!(tally(http::names(&network.client.netns, &url(vip(), 80), 50)?).len() == 2);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_reload_that_changes_only_the_checks_takes_effect_at_once() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let web = Service::new("web", vip(), 80).with("idle", "2s").backends(&network.backends, true).toml();
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web.clone()).start()?;
    wait_serving(&daemon, "web", 2)?;
    // While slots are not at rest the loop comes round by itself.
    until(Duration::from_secs(30), "all slots to be at rest", || {
        Ok((super::support::service(&daemon.status()?, "web")?["slots_not_at_rest"] == 0).then_some(()))
    })?;
    daemon.reload(web.replace("path = \"/health\"", "path = \"/other\""))?;
    daemon.process().wait_for_log(" reloaded", LIMIT)?;
    until(LIMIT, "both backends to be checked anew", || Ok((daemon.log().matches("from=unknown").count() == 4).then_some(())))?;
    daemon.stop()
}
