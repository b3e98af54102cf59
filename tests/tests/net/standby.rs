//! Who serves while others cannot: priorities, failback, a sorry backend, panic, and slow start.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use xlb_tests::{Backend, Connections, Daemon, Network, http, until};

use super::support::{LIMIT, Service, service, tally, url, vip, wait_serving};

/// An interval until the first check that fails, two more, and the last one's time-out.
const DETECTION: Duration = Duration::from_millis(3 * 50 + 50);

struct Scene {
    network: Network,
    backends: Vec<Backend>,
}

impl Scene {
    fn new(n: u8) -> Result<Self> {
        let network = Network::dsr(n, &[vip()])?;
        let backends = Backend::start_all(&network, 80, &[vip()])?;
        Ok(Self { network, backends })
    }

    fn daemon(&self, service: &Service<'_>) -> Result<Daemon> {
        Daemon::new(&self.network.lb.netns, &self.network.lb_interfaces()).services(service.toml()).start()
    }

    /// The first backend, the second to stand by, and the third to say sorry.
    fn service(&self) -> Service<'static> {
        let hosts = &self.network.backends;
        let sorry = format!("address = \"{}\"", hosts[2].v4);
        Service::new("web", vip(), 80).backend(hosts[0].v4, "").backend(hosts[1].v4, "priority = 1").source("sorry", &sorry)
    }

    fn restart(&mut self, n: usize) -> Result<()> {
        self.backends[n] = Backend::start_nth(&self.network, n, 80, &[vip()])?;
        Ok(())
    }

    /// Waits until all new connections are answered by these.
    fn wait_answered_by(&self, daemon: &Daemon, names: &[&str]) -> Result<()> {
        let client = &self.network.client.netns;
        let mut last = Vec::new();
        let answered = until(LIMIT, &format!("answers by {names:?}"), || {
            let Ok(answers) = http::names(client, &url(vip(), 80), 30) else { return Ok(None) };
            last = tally(answers).into_keys().collect();
            Ok((last == names).then_some(()))
        });
        answered.with_context(|| format!("{last:?}\n{}", daemon.log()))
    }

    fn connections(&self) -> Result<Connections> {
        let client = &self.network.client.netns;
        Connections::open(client, (vip(), 80).into(), 20, Duration::from_millis(20), Duration::from_secs(5))
    }
}

fn failover(daemon: &Daemon) -> Result<Value> {
    Ok(service(&daemon.status()?, "web")?["failover"].clone())
}

fn wait_serving_tier(daemon: &Daemon, tiers: &Value) -> Result<()> {
    let mut last = Value::Null;
    let waited = until(LIMIT, &format!("new flows to go to {tiers}"), || {
        last = failover(daemon)?;
        Ok((last["serving"] == *tiers).then_some(()))
    });
    waited.with_context(|| format!("{last:#}\n{}", daemon.log()))
}

fn wait_first_up(daemon: &Daemon) -> Result<()> {
    let is_up = || Ok((service(&daemon.status()?, "web")?["backends"][0]["state"] == "up").then_some(()));
    until(LIMIT, "the first backend to be up", is_up)
}

/// Each of the connections is asked some more times, and none has changed its backend or broken.
fn have_stayed(connections: Connections) -> Result<()> {
    let before = connections.exchanges();
    until(LIMIT, "the connections to go on", || Ok((connections.exchanges() > before + 200).then_some(())))?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_standby_takes_over_and_then_the_sorry_backend_and_both_keep_what_they_have() -> Result<()> {
    let mut scene = Scene::new(3)?;
    // That it would fail a check is nothing to the last resort.
    scene.backends[2].toggle_health()?;
    let daemon = scene.daemon(&scene.service())?;
    let client = &scene.network.client.netns;
    scene.wait_answered_by(&daemon, &["backend0"])?;
    ensure!(failover(&daemon)?["failed_over"] == false, "{}", daemon.log());
    scene.backends[0].kill();
    let killed = Instant::now();
    until(LIMIT, "the standby to answer", || {
        let answer = http::get(client, &url(vip(), 80)).ok();
        Ok(answer.filter(|answer| answer.body.trim() == "backend1"))
    })?;
    let took = killed.elapsed();
    println!("the standby answered {took:?} after the first backend's death");
    // A question that is on its way when the slots move is lost, and asked again after a second.
    ensure!(took < DETECTION + Duration::from_millis(1300), "after {took:?}\n{}", daemon.log());
    wait_serving_tier(&daemon, &json!([1]))?;
    ensure!(daemon.metric("xlb_service_failed_over{service=\"web\"}")? == 1.0);
    ensure!(daemon.metric("xlb_backend_standby{service=\"web\",backend=\"10.2.0.12:80\"}")? == 1.0);

    // The first backend is back: new connections go there, the standby keeps its own.
    let of_standby = scene.connections()?;
    ensure!(of_standby.names().keys().eq(["backend1"]), "{:?}", of_standby.names());
    scene.restart(0)?;
    scene.wait_answered_by(&daemon, &["backend0"])?;
    have_stayed(of_standby)?;

    // Both are gone: the last resort, until one is back.
    scene.backends[0].kill();
    scene.backends[1].kill();
    wait_serving_tier(&daemon, &json!(["sorry"]))?;
    scene.wait_answered_by(&daemon, &["backend2"])?;
    ensure!(daemon.metric("xlb_service_sorry{service=\"web\"}")? == 1.0);
    let of_sorry = scene.connections()?;
    scene.restart(1)?;
    scene.wait_answered_by(&daemon, &["backend1"])?;
    have_stayed(of_sorry)?;
    ensure!(daemon.metric("xlb_service_sorry{service=\"web\"}")? == 0.0);

    let netns = &scene.network.lb.netns;
    // Without a reader the log of events is a second behind.
    let told = "web: new connections go to priority 1, no longer to ";
    let mut events = String::new();
    let waited = until(LIMIT, "an event", || {
        events = String::from_utf8(netns.command(xlb_tests::paths::xlb()?).args(["events", "--once"]).output()?.stdout)?;
        Ok(events.lines().any(|line| line.contains(told) && line.contains("priority 0: 0 of 1 healthy")).then_some(()))
    });
    waited.with_context(|| events.clone())?;
    let table = String::from_utf8(netns.command(xlb_tests::paths::xlb()?).arg("status").output()?.stdout)?;
    ensure!(
        table.contains("new connections go to priority 1: priority 0: 0 of 1 healthy, priority 1: 1 of 1 healthy"),
        "{table}"
    );
    ensure!(table.contains("sorry, standby"), "{table}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn manual_failback_waits_for_an_operator_through_a_reload_and_a_kill() -> Result<()> {
    let scene = Scene::new(3)?;
    let service = scene.service().with("failback", "manual");
    let mut daemon = scene.daemon(&service)?;
    scene.wait_answered_by(&daemon, &["backend0"])?;
    scene.backends[0].toggle_health()?;
    scene.wait_answered_by(&daemon, &["backend1"])?;
    let state = daemon.own_directory().join("state.json");
    let is_kept = || Ok(std::fs::read_to_string(&state).ok().filter(|state| state.contains("\"held\"")).map(drop));
    until(LIMIT, "the hold to be kept", is_kept)?;
    scene.backends[0].toggle_health()?;
    wait_first_up(&daemon)?;
    scene.wait_answered_by(&daemon, &["backend1"])?;
    ensure!(failover(&daemon)?["held"]["value"] == 1, "{:#}", failover(&daemon)?);

    daemon.reload(service.toml() + "# the same\n")?;
    until(LIMIT, "a reload", || Ok((daemon.metric("xlb_reloads_total{result=\"accepted\"}")? == 1.0).then_some(())))?;
    scene.wait_answered_by(&daemon, &["backend1"])?;
    let connections = scene.connections()?;
    daemon.kill();
    let daemon = daemon.builder().start()?;
    wait_first_up(&daemon)?;
    scene.wait_answered_by(&daemon, &["backend1"])?;

    let moved = daemon.metric("xlb_service_slots_moved_total{service=\"web\"}").unwrap_or_default();
    ensure!(moved == 0.0, "{moved} slots moved\n{}", daemon.log());

    let told = daemon.xlb(&["failback", "web"])?;
    ensure!(told.contains("web: no longer held at priority 1"), "{told}");
    scene.wait_answered_by(&daemon, &["backend0"])?;
    have_stayed(connections)?;
    ensure!(failover(&daemon)?["held"].is_null() && daemon.xlb(&["failback", "web"])?.contains("it is so already"));
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn with_too_few_healthy_backends_all_are_taken_for_it() -> Result<()> {
    let scene = Scene::new(3)?;
    let service = Service::new("web", vip(), 80).with("panic", "50%").backends(&scene.network.backends, true);
    let daemon = scene.daemon(&service)?;
    scene.backends[0].toggle_health()?;
    wait_serving(&daemon, "web", 2)?;
    ensure!(failover(&daemon)?["panic"] == false);
    scene.backends[1].toggle_health()?;
    until(LIMIT, "panic", || Ok((failover(&daemon)?["panic"] == true).then_some(())))?;
    // They say that they are ill, and answer all the same.
    scene.wait_answered_by(&daemon, &["backend0", "backend1", "backend2"])?;
    ensure!(daemon.metric("xlb_service_panic{service=\"web\"}")? == 1.0);
    ensure!(daemon.metric("xlb_backend_up{service=\"web\",backend=\"10.2.0.10:80\"}")? == 0.0, "its state is still told");
    scene.backends[0].toggle_health()?;
    scene.wait_answered_by(&daemon, &["backend0", "backend2"])?;
    ensure!(failover(&daemon)?["panic"] == false && daemon.log().contains("panic: too few"), "{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_that_comes_back_gets_its_share_by_and_by() -> Result<()> {
    let scene = Scene::new(2)?;
    let service = Service::new("web", vip(), 80).with("slow_start", "3s").backends(&scene.network.backends, true);
    let daemon = scene.daemon(&service)?;
    let backend = || Ok::<_, anyhow::Error>(super::support::service(&daemon.status()?, "web")?["backends"][1].clone());
    ensure!(backend()?["slow_start"].is_null(), "not at the daemon's start");
    scene.backends[1].toggle_health()?;
    wait_serving(&daemon, "web", 1)?;
    let connections = scene.connections()?;
    scene.backends[1].toggle_health()?;
    until(LIMIT, "a slow start", || Ok((!backend()?["slow_start"].is_null()).then_some(())))?;
    ensure!(daemon.metric("xlb_backend_slow_start{service=\"web\",backend=\"10.2.0.11:80\"}")? == 1.0);
    let mut shares: Vec<f64> = Vec::new();
    until(LIMIT, "the whole weight", || {
        let backend = backend()?;
        let share = backend["share"].as_f64().context("a share")?;
        if shares.last() != Some(&share) {
            shares.push(share);
        }
        Ok(backend["slow_start"].is_null().then_some(()))
    })?;
    println!("shares: {shares:?}");
    ensure!(shares.is_sorted() && shares.len() > 4, "{shares:?}\n{}", daemon.log());
    ensure!(shares[0] < 0.25 && shares.last().is_some_and(|share| (0.49..0.51).contains(share)), "{shares:?}");
    have_stayed(connections)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn without_room_for_a_slow_start_a_backend_has_its_weight_at_once() -> Result<()> {
    let scene = Scene::new(2)?;
    let service = Service::new("web", vip(), 80).with("slow_start", "1h").backends(&scene.network.backends, true);
    let services = format!("[limits]\nslots = 4096\n{}", service.toml());
    let daemon = Daemon::new(&scene.network.lb.netns, &scene.network.lb_interfaces()).services(services).start()?;
    scene.backends[1].toggle_health()?;
    scene.wait_answered_by(&daemon, &["backend0"])?;
    scene.backends[1].toggle_health()?;
    scene.wait_answered_by(&daemon, &["backend0", "backend1"])?;
    let backend = super::support::service(&daemon.status()?, "web")?["backends"][1].clone();
    let share = backend["share"].as_f64().context("a share")?;
    ensure!(backend["slow_start"].is_null() && (0.49..0.51).contains(&share), "{backend:#}");
    ensure!(daemon.log().contains("backends get all of their weight, also those that start slowly"), "{}", daemon.log());
    ensure!(daemon.metric("xlb_map_failing")? == 0.0);
    daemon.stop()
}
