//! The daemon ends, is killed, and comes back.

use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::{Backend, Connections, Daemon, Network, http, until};

use super::support::{LIMIT, Service, both_vips, tcp_and_udp_on_both_families, url, verdict, vip, wait_serving};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_clean_end_leaves_nothing_behind() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    let pin = daemon.pin().to_owned();
    ensure!(network.lb.netns.run("ip link show eth0")?.contains("xdp"), "attached while it runs");
    daemon.stop()?;
    ensure!(!network.lb.netns.run("ip link show eth0")?.contains("xdp"), "detached");
    ensure!(!pin.exists(), "{} is still there", pin.display());
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn killed_and_started_again_it_moves_no_flow() -> Result<()> {
    let network = Network::dsr(5, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(tcp_and_udp_on_both_families(&network, "dsr"))
        .start()?;
    let client = &network.client.netns;
    let connections = Connections::open(client, (vip(), 80).into(), 200, Duration::from_millis(10), Duration::from_secs(2))?;
    let builder = daemon.builder();
    daemon.kill();
    // Nobody looks after the tables, and packets find their way all the same.
    http::names(client, &url(vip(), 80), 100)?;
    let exchanges = connections.exchanges();
    let daemon = builder.start()?;
    ensure!(connections.exchanges() > exchanges, "traffic went on");
    wait_serving(&daemon, "web", 5)?;
    http::names(client, &url(vip(), 80), 100)?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    let moved = daemon.metric("xlb_service_slots_moved_total{service=\"web\"}").unwrap_or_default();
    ensure!(moved == 0.0, "{moved} slots moved\n{}", daemon.log());
    daemon.stop()
}

/// A balancer with the VIP on itself, where something answers too.
struct BesideItsHost {
    network: Network,
    _servers: Vec<Backend>,
}

impl BesideItsHost {
    fn new() -> Result<Self> {
        let network = Network::dsr(2, &[vip()])?;
        let mut servers = Backend::start_all(&network, 80, &[vip()])?;
        let lb = &network.lb.netns;
        lb.run(&format!("ip address add {}/32 dev lo", vip()))?;
        servers.push(Backend::start(lb, "host", &[("http", (vip(), 80).into())])?);
        Ok(Self { network, _servers: servers })
    }

    /// With a watchdog of ten seconds, and both backends serving.
    fn watched(&self, action: &str) -> Result<Daemon> {
        let service = Service::new("web", vip(), 80).backends(&self.network.backends, true).toml();
        let services = format!("[watchdog]\nafter = \"10s\"\naction = \"{action}\"\n{service}");
        let daemon = Daemon::new(&self.network.lb.netns, &self.network.lb_interfaces()).services(services).start()?;
        wait_serving(&daemon, "web", 2)?;
        Ok(daemon)
    }

    /// Backends answer, and nobody else; and before, packets had ended by this verdict.
    fn is_back(&self, daemon: &Daemon, label: &str) -> Result<()> {
        wait_serving(daemon, "web", 2)?;
        let names = http::names(&self.network.client.netns, &url(vip(), 80), 20)?;
        ensure!(names.iter().all(|name| name.starts_with("backend")), "{names:?}");
        ensure!(verdict(daemon, label)? > 0, "{:#}", daemon.status()?["verdicts"]);
        Ok(())
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_daemon_that_stays_away_leaves_the_vip_to_its_host_or_to_nobody_until_it_is_back() -> Result<()> {
    let scene = BesideItsHost::new()?;
    let client = &scene.network.client.netns;
    let answers = || Ok::<_, anyhow::Error>(http::get(client, &url(vip(), 80)).ok().map(|answer| answer.body.trim().to_owned()));
    let pings = || client.run(&format!("ping -c 1 -W 1 {}", vip())).is_ok();
    for (action, expected, label) in [("pass", Some("host"), "unattended"), ("drop", None, "unattended_drop")] {
        let mut daemon = scene.watched(action)?;
        let builder = daemon.builder();
        let killed = std::time::Instant::now();
        daemon.kill();
        until(2 * LIMIT, &format!("{action} after the daemon's end"), || Ok((answers()?.as_deref() == expected).then_some(())))?;
        let took = killed.elapsed();
        // The clock's ticks are a second, and the loop has said so some time before its end.
        ensure!(took > Duration::from_secs(6) && took < Duration::from_secs(14), "{took:?}");
        ensure!(pings() == expected.is_some(), "pings go the same way");
        let daemon = builder.start()?;
        scene.is_back(&daemon, label)?;
        ensure!(daemon.log().contains("was away for longer than"), "{}", daemon.log());
        daemon.stop()?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_daemon_that_hangs_is_away_too_and_back_as_soon_as_it_goes_on() -> Result<()> {
    let scene = BesideItsHost::new()?;
    let client = &scene.network.client.netns;
    let mut daemon = scene.watched("pass")?;
    daemon.process().signal(Signal::SIGSTOP)?;
    let is_answered_by = |who: &str| http::get(client, &url(vip(), 80)).is_ok_and(|answer| answer.body.starts_with(who));
    until(2 * LIMIT, "the host to answer", || Ok(is_answered_by("host").then_some(())))?;
    daemon.process().signal(Signal::SIGCONT)?;
    until(LIMIT, "backends to answer again", || Ok(is_answered_by("backend").then_some(())))?;
    scene.is_back(&daemon, "unattended")?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn told_to_leave_the_program_running_it_does() -> Result<()> {
    let network = Network::nat(2)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let services = Service::new("web", vip(), 80).with("forward", "nat").backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).on_exit("keep").services(services).start()?;
    let builder = daemon.builder();
    daemon.stop()?;
    http::names(&network.client.netns, &url(vip(), 80), 50)?;
    let daemon = builder.on_exit("detach").start()?;
    http::names(&network.client.netns, &url(vip(), 80), 50)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_start_that_fails_leaves_the_running_program_alone() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let mut daemon = Daemon::new(&network.lb.netns, &["eth0"]).services(services.clone()).start()?;
    daemon.kill();
    let mut wrong = Daemon::new(&network.lb.netns, &["eth0", "wan7"]).adopt(&daemon).services(services).start_unready()?;
    ensure!(!wrong.process().wait(super::support::LIMIT)?.success(), "{}", wrong.log());
    http::names(&network.client.netns, &url(vip(), 80), 50)?;
    let again = daemon.builder().start()?;
    http::names(&network.client.netns, &url(vip(), 80), 50)?;
    again.stop()
}
