//! Zones: the near one first, with spill-over, and a share for each.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Backend, Chromium, Connections, Daemon, Network, http, until};

use super::support::{LIMIT, Service, service, tally, url, vip, wait_serving};

const N_ASKED: usize = 400;

/// Four backends: the first two in zone `a`, the others in zone `b`.
struct Scene {
    network: Network,
    backends: Vec<Backend>,
}

impl Scene {
    fn new() -> Result<Self> {
        let network = Network::dsr(4, &[vip()])?;
        let backends = Backend::start_all(&network, 80, &[vip()])?;
        Ok(Self { network, backends })
    }

    fn services(&self, zones: &str) -> String {
        self.services_of(&["a", "a", "b", "b"], zones)
    }

    /// Of the first backends, in these zones.
    fn services_of(&self, zones_of_backends: &[&str], zones: &str) -> String {
        let service = Service::new("web", vip(), 80).source("zones", zones);
        let hosts = self.network.backends.iter().zip(zones_of_backends);
        let service = hosts.fold(service, |service, (host, zone)| service.backend(host.v4, &format!("zone = \"{zone}\"")));
        format!("[node]\nzone = \"a\"\n{}", service.toml())
    }

    fn daemon(&self, zones: &str) -> Result<Daemon> {
        Daemon::new(&self.network.lb.netns, &self.network.lb_interfaces()).services(self.services(zones)).start()
    }

    fn restart(&mut self, n: usize) -> Result<()> {
        self.backends[n] = Backend::start_nth(&self.network, n, 80, &[vip()])?;
        Ok(())
    }

    /// How many of new connections zone `b` answers, from 0 to 1, and who answers at all.
    fn asked(&self) -> Result<(f64, Vec<String>)> {
        let names: BTreeMap<String, usize> = tally(http::names(&self.network.client.netns, &url(vip(), 80), N_ASKED)?);
        let of_b: usize = ["backend2", "backend3"].iter().filter_map(|name| names.get(*name)).sum();
        Ok((of_b as f64 / N_ASKED as f64, names.into_keys().collect()))
    }

    /// What a daemon in the load balancer's namespace tells.
    fn told(&self, command: &[&str]) -> Result<String> {
        Ok(String::from_utf8(self.network.lb.netns.command(xlb_tests::paths::xlb()?).args(command).output()?.stdout)?)
    }

    /// Without a reader the log of events is a second behind, and what came and went within it is not told.
    fn wait_event(&self, words: &str) -> Result<()> {
        let mut events = String::new();
        let waited = until(LIMIT, "an event", || {
            events = self.told(&["events", "--once"])?;
            Ok(events.contains(words).then_some(()))
        });
        waited.with_context(|| format!("no {words:?} in\n{events}"))
    }

    fn connections(&self) -> Result<Connections> {
        let client = &self.network.client.netns;
        Connections::open(client, (vip(), 80).into(), 40, Duration::from_millis(20), Duration::from_secs(5))
    }
}

fn zones(daemon: &Daemon) -> Result<Value> {
    Ok(service(&daemon.status()?, "web")?["failover"]["zones"].clone())
}

/// Waits until zone `b` has this share, by decision and in slots.
fn wait_share_of_b(daemon: &Daemon, wanted: f64) -> Result<()> {
    let mut last = Value::Null;
    let waited = until(LIMIT, &format!("zone b to have {wanted}"), || {
        last = service(&daemon.status()?, "web")?;
        let decided = last["failover"]["zones"]["shares"][1]["share"] == wanted;
        let backends = last["backends"].as_array().context("backends")?;
        let slots: f64 = backends[2..].iter().filter_map(|backend| backend["share"].as_f64()).sum();
        Ok((decided && (slots - wanted).abs() < 0.02).then_some(()))
    });
    waited.with_context(|| format!("{last:#}\n{}", daemon.log()))
}

/// Each connection is asked some more times; those that broke were at these backends, and no other.
fn only_broke_at(connections: Connections, dead: &[&str]) -> Result<()> {
    let before = connections.exchanges();
    until(LIMIT, "the connections to go on", || Ok((connections.exchanges() > before + 200).then_some(())))?;
    let broken = connections.close()?;
    let others: Vec<_> = broken.iter().filter(|broken| !dead.contains(&broken.name.as_str())).collect();
    ensure!(others.is_empty(), "{others:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_the_own_zone_cannot_bear_goes_to_the_other_and_comes_home_again() -> Result<()> {
    let mut scene = Scene::new()?;
    let mut daemon = scene.daemon("")?;
    wait_share_of_b(&daemon, 0.0)?;
    wait_serving(&daemon, "web", 2)?;
    let (of_b, names) = scene.asked()?;
    ensure!(of_b == 0.0 && names == ["backend0", "backend1"], "{names:?}");
    ensure!(daemon.metric("xlb_backend_standby{service=\"web\",backend=\"10.2.0.12:80\"}")? == 1.0);
    let of_a = scene.connections()?;

    // One of two, times 1.4, is 70%.
    scene.backends[1].kill();
    wait_share_of_b(&daemon, 0.3)?;
    let (of_b, names) = scene.asked()?;
    println!("one of two is dead: {of_b} of connections at zone b, by {names:?}");
    // Of 400 by chance: four times the standard deviation.
    ensure!((of_b - 0.3).abs() < 0.1 && names == ["backend0", "backend2", "backend3"], "{of_b} by {names:?}");
    ensure!(daemon.metric("xlb_service_zone_spillover{service=\"web\",zone=\"b\"}")? == 0.3);
    ensure!(daemon.metric("xlb_service_zone_healthy{service=\"web\",zone=\"a\"}")? == 0.5);
    only_broke_at(of_a, &["backend1"])?;
    let of_both = scene.connections()?;

    // A daemon that takes over goes on as it was.
    daemon.kill();
    let daemon = daemon.builder().start()?;
    wait_share_of_b(&daemon, 0.3)?;
    let moved = daemon.metric("xlb_service_slots_moved_total{service=\"web\"}").unwrap_or_default();
    ensure!(moved == 0.0, "{moved} slots moved\n{}", daemon.log());
    only_broke_at(of_both, &[])?;
    let of_both = scene.connections()?;

    scene.backends[0].kill();
    wait_share_of_b(&daemon, 1.0)?;
    let (of_b, names) = scene.asked()?;
    ensure!(of_b == 1.0, "{of_b} by {names:?}");
    let table = scene.told(&["status"])?;
    let told = "new connections go to zone a 0%, zone b 100%; 100% spill over: zone a (local): 0% healthy, zone b: 100% healthy";
    ensure!(table.contains(told) && table.contains(" zone "), "{table}");

    scene.wait_event(
        "web: 100% of new connections spill over to other zones, now zone a 0%, zone b 100%: zone a (local): 0% healthy",
    )?;

    scene.restart(0)?;
    wait_share_of_b(&daemon, 0.3)?;
    scene.restart(1)?;
    wait_share_of_b(&daemon, 0.0)?;
    let (of_b, names) = scene.asked()?;
    ensure!(of_b == 0.0 && names == ["backend0", "backend1"], "{names:?}");
    ensure!(zones(&daemon)?["spilled"] == 0.0, "{:#}", zones(&daemon)?);
    // Those that were opened there stay there.
    only_broke_at(of_both, &["backend0"])?;
    let log = daemon.log();
    ensure!(log.contains("100% of new flows spill over to other zones") && log.contains("no longer spill over"), "{log}");
    let told = "web: new connections are divided among zones as usual, zone a 100%, zone b 0%: ";
    scene.wait_event(told)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn zones_with_weights_have_their_shares_and_a_reload_changes_them() -> Result<()> {
    let scene = Scene::new()?;
    let mut daemon = scene.daemon("weights = { a = 80, b = 20 }")?;
    wait_serving(&daemon, "web", 4)?;
    wait_share_of_b(&daemon, 0.2)?;
    let (of_b, names) = scene.asked()?;
    ensure!((of_b - 0.2).abs() < 0.09 && names.len() == 4, "{of_b} by {names:?}");
    let connections = scene.connections()?;
    // 56 to 20.
    let host = &scene.network.backends[1].v4.to_string();
    daemon.xlb(&["drain", "web", host])?;
    wait_share_of_b(&daemon, 0.26)?;
    daemon.xlb(&["enable", "web", host])?;
    wait_share_of_b(&daemon, 0.2)?;
    daemon.reload(scene.services("weights = { a = 1, b = 1 }"))?;
    wait_share_of_b(&daemon, 0.5)?;
    daemon.reload(scene.services(""))?;
    wait_share_of_b(&daemon, 0.0)?;

    only_broke_at(connections, &[])?;

    // Nobody is left anywhere, which is no spill-over.
    scene.backends.iter().try_for_each(Backend::toggle_health)?;
    wait_serving(&daemon, "web", 0)?;
    scene.wait_event("web: no zone can take new connections: zone a (local): 0% healthy, zone b: 0% healthy")?;
    ensure!(scene.told(&["status"])?.contains("  no zone can take new connections: zone a (local): 0% healthy"));
    scene.backends.iter().try_for_each(Backend::toggle_health)?;
    wait_share_of_b(&daemon, 0.0)?;

    // The last is not in the file any more, but added.
    daemon.reload(scene.services_of(&["a", "a", "b"], "weights = { a = 1, b = 1 }"))?;
    wait_serving(&daemon, "web", 3)?;
    let host = &scene.network.backends[3].v4.to_string();
    let refused = daemon.xlb(&["add", "web", host]).unwrap_err().to_string();
    ensure!(refused.contains("name its zone, one of a, b"), "{refused}");
    ensure!(daemon.xlb(&["add", "web", host, "--zone", "b"])?.contains("added, with weight 1, in zone b"));
    wait_serving(&daemon, "web", 4)?;
    wait_share_of_b(&daemon, 0.5)?;
    ensure!(service(&daemon.status()?, "web")?["backends"][3]["zone"] == "b");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn without_room_a_zone_helps_out_by_its_whole_weight() -> Result<()> {
    let scene = Scene::new()?;
    let services = format!("[limits]\nslots = 4096\n{}", scene.services(""));
    let daemon = Daemon::new(&scene.network.lb.netns, &scene.network.lb_interfaces()).services(services).start()?;
    wait_share_of_b(&daemon, 0.0)?;
    scene.backends[1].toggle_health()?;
    // 14 to 3 takes a table of twice the size.
    wait_share_of_b(&daemon, 0.67)?;
    ensure!(daemon.log().contains("in zones that help out"), "{}", daemon.log());
    scene.backends[1].toggle_health()?;
    wait_share_of_b(&daemon, 0.0)?;
    ensure!(daemon.metric("xlb_map_failing")? == 0.0);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_page_shows_zones_and_what_spills_over() -> Result<()> {
    let scene = Scene::new()?;
    let daemon = scene.daemon("")?;
    wait_share_of_b(&daemon, 0.0)?;
    let mut browser = Chromium::start(&scene.network.lb.netns, 1280, 900)?;
    browser.open("http://127.0.0.1:9400/lb")?;
    let shows = |text: &str| format!("document.body.innerText.includes({text:?})");
    let is_in = "[...document.querySelectorAll('.backends th .zone')].map((cell) => cell.textContent).join() === ' zone a, zone a, zone b, zone b'";
    // A browser that shares two cores with all else takes longer to start than what it looks at.
    browser.wait_for(is_in, Duration::from_secs(30))?;
    scene.backends[1].toggle_health()?;
    let spilled =
        "new connections go to zone a 70%, zone b 30%; 30% spill over: zone a (local): 50% healthy, zone b: 100% healthy";
    browser.wait_for(&shows(spilled), LIMIT)?;
    browser.wait_for(&shows("web: 30% of new connections spill over to other zones, now zone a 70%, zone b 30%: "), LIMIT)?;
    ensure!(browser.complaints().is_empty(), "{:?}", browser.complaints());
    drop(browser);
    daemon.stop()
}
