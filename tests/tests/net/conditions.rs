//! Backends that are neither simply up nor simply down.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Agent, Backend, Connections, Daemon, Network, Wrk, http, until, wrk};

use super::support::{LIMIT, Service, service, tally, url, vip};

const AGENT: &str = "type = \"agent\"\nport = 9777\ninterval = \"50ms\"\ntimeout = \"50ms\"\nrise = 2\nfall = 10";

/// Backends of the service `web`, and an agent beside each.
struct Scene {
    network: Network,
    agents: Vec<Agent>,
    _backends: Vec<Backend>,
}

impl Scene {
    fn new(n: u8) -> Result<Self> {
        let network = Network::dsr(n, &[vip()])?;
        let backends = Backend::start_all(&network, 80, &[vip()])?;
        let agent = |host: &xlb_tests::Host| Agent::start(&host.netns, SocketAddr::from((host.v4, 9777)), "up");
        let agents = network.backends.iter().map(agent).collect::<Result<_>>()?;
        Ok(Self { network, agents, _backends: backends })
    }

    fn service(&self, health: &str) -> Service<'static> {
        Service::new("web", vip(), 80).health(health).backends(&self.network.backends, true)
    }

    fn daemon(&self, service: &Service<'_>) -> Result<Daemon> {
        Daemon::new(&self.network.lb.netns, &self.network.lb_interfaces()).services(service.toml()).start()
    }

    /// What `xlb` prints that asks the daemon how things stand.
    fn told(&self, arguments: &[&str]) -> Result<String> {
        let output = self.network.lb.netns.command(xlb_tests::paths::xlb()?).args(arguments).output()?;
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits for an event that holds these words.
    fn wait_event(&self, words: &str) -> Result<()> {
        let mut events = String::new();
        let waited = until(LIMIT, &format!("an event: {words}"), || {
            events = self.told(&["events", "--once"])?;
            Ok(events.contains(words).then_some(()))
        });
        waited.with_context(|| events.clone())
    }

    /// One new connection after another. Once the backend has some of them, nothing that comes for it is answered any more, nor
    /// refused, but for ARP.
    fn load_while_silent(&self, daemon: &Daemon, n: usize) -> Result<wrk::Running> {
        let load = Wrk { keep_alive: false, ..Wrk::new(url(vip(), 80), Duration::from_secs(8)) };
        let running = load.start(&self.network.client.netns)?;
        wait_backend(daemon, n, "to be under load", |found| found["handshakes"]["opened"].as_u64() > Some(20))?;
        let netns = &self.network.backends[n].netns;
        netns.run("ip route replace blackhole default")?;
        netns.run(&format!("ip route add blackhole {}/32", self.network.lb.v4))?;
        Ok(running)
    }

    fn connections(&self, n: usize) -> Result<Connections> {
        let client = &self.network.client.netns;
        Connections::open(client, (vip(), 80).into(), n, Duration::from_millis(20), Duration::from_secs(5))
    }
}

fn backend(daemon: &Daemon, n: usize) -> Result<Value> {
    Ok(service(&daemon.status()?, "web")?["backends"][n].clone())
}

/// Waits until a backend's status is so.
fn wait_backend(daemon: &Daemon, n: usize, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
    let mut last = Value::Null;
    let waited = until(LIMIT, &format!("backend {n} to be {what}"), || {
        last = backend(daemon, n)?;
        Ok(is_so(&last).then(|| last.clone()))
    });
    waited.with_context(|| format!("{last:#}\n{}", daemon.log()))
}

fn wait_state(daemon: &Daemon, n: usize, state: &str) -> Result<Value> {
    wait_backend(daemon, n, state, |backend| backend["state"] == state)
}

fn is_share(backend: &Value, share: f64) -> bool {
    backend["share"].as_f64().is_some_and(|found| (found - share).abs() < 0.01)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_agent_lessens_its_backends_weight_drains_it_and_takes_it_out() -> Result<()> {
    let scene = Scene::new(2)?;
    let daemon = scene.daemon(&scene.service(AGENT))?;
    let client = &scene.network.client.netns;
    wait_backend(&daemon, 0, "at half", |backend| is_share(backend, 0.5))?;

    scene.agents[0].say("up 25%");
    let found = wait_backend(&daemon, 0, "at a fifth", |backend| is_share(backend, 0.2))?;
    ensure!(found["state"] == "up" && found["weight"] == 1 && found["weight_part"] == 0.25, "{found:#}");
    ensure!(found["weight_parts"]["agent"] == 0.25, "{found:#}");
    ensure!(daemon.metric("xlb_backend_weight_part{service=\"web\",backend=\"10.2.0.10:80\"}")? == 0.25);
    let table = scene.told(&["status"])?;
    ensure!(table.contains("up, 25% of its weight by its agent"), "{table}");
    scene.wait_event("web 10.2.0.10:80: 25% of its weight by its agent: agent: \"up 25%\"")?;
    let tally_of_200 = tally(http::names(client, &url(vip(), 80), 200)?);
    ensure!((10..80).contains(tally_of_200.get("backend0").unwrap_or(&0)), "{tally_of_200:?}");
    // Of what an operator sets, too.
    daemon.xlb(&["weight", "web", "10.2.0.10:80", "12"])?;
    wait_backend(&daemon, 0, "at three quarters", |backend| is_share(backend, 0.75) && backend["weight"] == 12)?;
    daemon.xlb(&["reset", "web"])?;
    wait_backend(&daemon, 0, "at a fifth again", |backend| is_share(backend, 0.2))?;

    scene.agents[0].say("ready");
    wait_backend(&daemon, 0, "at half again", |backend| is_share(backend, 0.5) && backend["weight_part"].is_null())?;
    let connections = scene.connections(40)?;
    ensure!(connections.names().len() == 2, "{:?}", connections.names());
    for word in ["drain", "0%"] {
        scene.agents[0].say(word);
        let found = wait_state(&daemon, 0, "drain")?;
        ensure!(found["serving"] == false && found["weight"] == 1, "{found:#}");
        ensure!(daemon.metric("xlb_backend_agent_drain{service=\"web\",backend=\"10.2.0.10:80\"}")? == 1.0);
        ensure!(daemon.metric("xlb_backend_up{service=\"web\",backend=\"10.2.0.10:80\"}")? == 1.0);
        let names = tally(http::names(client, &url(vip(), 80), 40)?);
        ensure!(names.keys().eq(["backend1"]), "{names:?}");
        scene.agents[0].say("up");
        wait_backend(&daemon, 0, "back", |backend| backend["state"] == "up" && backend["serving"] == true)?;
    }
    // Through all of this nobody was interrupted.
    let before = connections.exchanges();
    until(LIMIT, "the connections to go on", || Ok((connections.exchanges() > before + 200).then_some(())))?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}");

    scene.agents[0].say("maint # new memory");
    let found = wait_state(&daemon, 0, "maint")?;
    ensure!(found["serving"] == false && found["check"] == "agent: \"maint # new memory\"", "{found:#}");
    // Events come from looks at how things stand: what it was in between may have been too short for one.
    scene.wait_event("web 10.2.0.10:80: maint, was ")?;
    scene.wait_event("agent: \"maint # new memory\"")?;
    scene.agents[0].say("down");
    wait_state(&daemon, 0, "down")?;
    daemon.stop()
}

const METRICS: &str = "{service=\"web\",backend=\"10.2.0.10:80\"}";

fn metric(daemon: &Daemon, name: &str) -> Result<f64> {
    daemon.metric(&format!("{name}{METRICS}"))
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_that_answers_slowly_has_a_part_of_its_weight_until_it_is_quick_again() -> Result<()> {
    let scene = Scene::new(2)?;
    let health =
        AGENT.replace("timeout = \"50ms\"", "timeout = \"500ms\"").replace("interval = \"50ms\"", "interval = \"500ms\"")
            + "\ndegraded_above = \"150ms\"\ndegraded_weight = \"25%\"";
    let daemon = scene.daemon(&scene.service(&health))?;
    wait_backend(&daemon, 0, "at half", |backend| is_share(backend, 0.5))?;
    let connections = scene.connections(40)?;
    scene.agents[0].take(Duration::from_millis(250));
    let found = wait_backend(&daemon, 0, "degraded", |backend| backend["state"] == "degraded" && is_share(backend, 0.2))?;
    ensure!(found["serving"] == true && found["weight_parts"]["degraded"] == 0.25, "{found:#}");
    ensure!(metric(&daemon, "xlb_backend_degraded")? == 1.0 && metric(&daemon, "xlb_backend_up")? == 1.0);
    scene.wait_event("web 10.2.0.10:80: degraded, was ")?;
    scene.wait_event(": slow, ")?;
    let table = scene.told(&["status"])?;
    ensure!(table.contains("degraded, 25% of its weight for its slow answers"), "{table}");
    // Of what its agent leaves it.
    scene.agents[0].say("40%");
    wait_backend(&daemon, 0, "at a tenth of its weight", |backend| backend["weight_part"] == 0.1)?;
    scene.agents[0].say("up");
    scene.agents[0].take(Duration::ZERO);
    wait_backend(&daemon, 0, "quick", |backend| backend["state"] == "up" && is_share(backend, 0.5))?;
    ensure!(metric(&daemon, "xlb_backend_degraded")? == 0.0);
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_dead_backend_is_probed_less_often_and_is_back_soon() -> Result<()> {
    let scene = Scene::new(2)?;
    let daemon = scene.daemon(&scene.service(&format!("{AGENT}\nbackoff_max = \"2s\"")))?;
    wait_state(&daemon, 0, "up")?;
    scene.agents[0].say("down");
    let found = wait_backend(&daemon, 0, "probed every 2 s", |backend| backend["backoff_s"] == 2.0)?;
    ensure!(found["state"] == "down", "{found:#}");
    ensure!(metric(&daemon, "xlb_backend_backoff_seconds")? == 2.0);
    let table = scene.told(&["status"])?;
    ensure!(table.contains("down, probed every 2s"), "{table}");
    scene.agents[0].say("up");
    let found = wait_state(&daemon, 0, "up")?;
    ensure!(found["backoff_s"].is_null(), "{found:#}");
    ensure!(metric(&daemon, "xlb_backend_backoff_seconds")? == 0.0);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_that_fails_too_often_is_ejected_keeps_its_flows_and_is_tried_again() -> Result<()> {
    let scene = Scene::new(3)?;
    // No row of failures is long enough to take one down.
    let health = AGENT.replace("fall = 10", "fall = 1000");
    let breaker = "errors = \"50%\"\nwindow = \"1s\"\nrequests_min = 5\nejection = \"1s\"\nmax_ejected = \"50%\"";
    let service = scene.service(&health).source("breaker", breaker);
    let daemon = scene.daemon(&service)?;
    let client = &scene.network.client.netns;
    (0..3).try_for_each(|n| wait_state(&daemon, n, "up").map(drop))?;
    let connections = scene.connections(60)?;
    ensure!(connections.names().len() == 3, "{:?}", connections.names());
    scene.agents[0].say("down");
    let found = wait_state(&daemon, 0, "ejected")?;
    ensure!(found["serving"] == false && found["weight"] == 1, "{found:#}");
    ensure!(found["breaker"]["phase"] == "open" && found["breaker"]["ejections"] == 1, "{found:#}");
    ensure!(metric(&daemon, "xlb_backend_ejected")? == 1.0);
    scene.wait_event("web 10.2.0.10:80: ejected, was ")?;
    let names = tally(http::names(client, &url(vip(), 80), 60)?);
    ensure!(!names.contains_key("backend0") && names.len() == 2, "{names:?}");
    // A second one would be more than half of three.
    scene.agents[1].say("down");
    // On trial it fails again, and twice as long.
    wait_backend(&daemon, 0, "ejected again", |backend| backend["breaker"]["ejections"] == 2)?;
    let other = backend(&daemon, 1)?;
    ensure!(other["state"] == "up" && other["serving"] == true, "{other:#}");
    scene.agents[0].say("up");
    wait_backend(&daemon, 0, "trusted again", |backend| backend["state"] == "up" && backend["serving"] == true)?;
    // Its place is free for the other.
    wait_state(&daemon, 1, "ejected")?;
    scene.agents[1].say("up");
    wait_state(&daemon, 1, "up")?;
    let before = connections.exchanges();
    until(LIMIT, "the connections to go on", || Ok((connections.exchanges() > before + 200).then_some(())))?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_that_flaps_is_marked_and_held_until_it_has_been_well() -> Result<()> {
    let scene = Scene::new(2)?;
    let service = scene.service(AGENT).source("flapping", "changes = 4\nwindow = \"1m\"\nhold = \"4s\"");
    let daemon = scene.daemon(&service)?;
    wait_state(&daemon, 0, "up")?;
    scene.agents[0].say("down");
    wait_state(&daemon, 0, "down")?;
    scene.agents[0].say("up");
    wait_state(&daemon, 0, "up")?;
    scene.agents[0].say("down");
    wait_state(&daemon, 0, "down")?;
    scene.agents[0].say("up");
    let found = wait_state(&daemon, 0, "held")?;
    ensure!(found["serving"] == false && found["flapping"] == true, "{found:#}");
    ensure!(metric(&daemon, "xlb_backend_flapping")? == 1.0);
    scene.wait_event("web 10.2.0.10:80: comes and goes too often")?;
    let names = tally(http::names(&scene.network.client.netns, &url(vip(), 80), 20)?);
    ensure!(names.keys().eq(["backend1"]), "{names:?}");
    let found = wait_backend(&daemon, 0, "trusted again", |backend| backend["state"] == "up" && backend["serving"] == true)?;
    ensure!(found["flapping"] == false, "{found:#}");
    ensure!(metric(&daemon, "xlb_backend_flapping")? == 0.0);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_that_falls_silent_is_found_long_before_its_next_probe() -> Result<()> {
    let scene = Scene::new(2)?;
    let health = "type = \"tcp\"\ninterval = \"1m\"\ntimeout = \"300ms\"\nfall = 2";
    let service = scene.service(health).source("passive", "unanswered = \"50%\"\nwindow = \"5s\"");
    let daemon = scene.daemon(&service)?;
    (0..2).try_for_each(|n| wait_state(&daemon, n, "up").map(drop))?;
    let running = scene.load_while_silent(&daemon, 0)?;
    let silent = std::time::Instant::now();
    let found = wait_state(&daemon, 0, "down")?;
    println!("down after {:?}", silent.elapsed());
    ensure!(found["suspicions"].as_u64() >= Some(1), "{found:#}");
    ensure!(metric(&daemon, "xlb_backend_suspicions_total")? >= 1.0);
    scene.wait_event("web 10.2.0.10:80: suspected")?;
    let other = backend(&daemon, 1)?;
    ensure!(other["state"] == "up" && other["suspicions"] == 0, "{other:#}");
    running.finish()?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn without_a_check_flows_alone_eject_a_silent_backend() -> Result<()> {
    let scene = Scene::new(2)?;
    let service = scene.service("type = \"none\"").source("passive", "window = \"5s\"");
    let daemon = scene.daemon(&service)?;
    (0..2).try_for_each(|n| wait_state(&daemon, n, "up").map(drop))?;
    let running = scene.load_while_silent(&daemon, 0)?;
    let found = wait_state(&daemon, 0, "ejected")?;
    ensure!(found["serving"] == false && found["breaker"]["ejections"] == 1, "{found:#}");
    let names = tally(http::names(&scene.network.client.netns, &url(vip(), 80), 20)?);
    ensure!(names.keys().eq(["backend1"]), "{names:?}");
    running.finish()?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_that_refuses_connections_is_ejected_by_its_resets_under_nat() -> Result<()> {
    let network = Network::nat(2)?;
    // Nothing listens on the other one's port.
    let _first = Backend::start_nth(&network, 0, 80, &[])?;
    let service = Service::new("web", vip(), 80).with("forward", "nat").health("type = \"none\"");
    let service = service.backends(&network.backends, true).source("passive", "window = \"5s\"");
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service.toml()).start()?;
    (0..2).try_for_each(|n| wait_state(&daemon, n, "up").map(drop))?;
    until(LIMIT, "the other one to be ejected", || {
        let _ = http::get(&network.client.netns, &url(vip(), 80));
        Ok((backend(&daemon, 1)?["state"] == "ejected").then_some(()))
    })?;
    let found = backend(&daemon, 1)?;
    let handshakes = &found["handshakes"];
    ensure!(handshakes["refused"].as_u64() >= Some(5) && handshakes["repeated"] == 0, "{found:#}");
    let first = backend(&daemon, 0)?;
    ensure!(first["state"] == "up" && first["handshakes"]["refused"] == 0, "{first:#}");
    let names = tally(http::names(&network.client.netns, &url(vip(), 80), 20)?);
    ensure!(names.keys().eq(["backend0"]), "{names:?}");
    daemon.stop()
}
