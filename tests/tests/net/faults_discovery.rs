//! A name server that lies, dawdles or changes its mind: nobody is taken away, and no other service notices.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::impostor::Reply;
use xlb_tests::{Backend, Connections, Daemon, NameServer, Network, http, until};

use super::support::{LIMIT, Service, n_serving, service, tally, url, vip, wait_serving};

/// `web` with fixed backends, and `api` at port 81 with those that the name server says, where slots are for a few only.
struct Scene {
    network: Network,
    backends: Vec<Backend>,
    _api: Vec<Backend>,
    server: NameServer,
    daemon: Daemon,
}

impl Scene {
    fn new() -> Result<Self> {
        let network = Network::dsr(3, &[vip()])?;
        let backends = Backend::start_all(&network, 80, &[vip()])?;
        let api = Backend::start_all(&network, 81, &[vip()])?;
        let address = (network.client.v4, 53).into();
        let server = NameServer::start(&network.client.netns, address, Reply::Addresses(addresses(&network, 2)))?;
        let dns = format!("name = \"api.internal\"\nport = 81\nresolver = \"{}\"\ninterval = \"1s\"\n", server.address());
        let web = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
        let services = format!("[limits]\nslots = 65536\n{web}{}", Service::new("api", vip(), 81).dns(&dns).toml());
        let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
        wait_serving(&daemon, "api", 2)?;
        Ok(Self { network, backends, _api: api, server, daemon })
    }

    fn source(&self) -> Result<Value> {
        Ok(service(&self.daemon.status()?, "api")?["discovery"][0].clone())
    }

    fn count(&self, key: &str) -> Result<u64> {
        self.source()?[key].as_u64().with_context(|| format!("no count {key}"))
    }

    /// Waits until the server was asked twice: once, perhaps, before it changed its mind.
    fn wait_asked(&self) -> Result<()> {
        let before = self.count("queries")?;
        until(Duration::from_secs(30), "the server to be asked", || Ok((self.count("queries")? >= before + 2).then_some(())))
            .with_context(|| self.daemon.log())
    }

    /// Both services serve, and say who they are.
    fn answers(&self, n_web: usize, n_api: usize) -> Result<()> {
        for (port, n) in [(80, n_web), (81, n_api)] {
            let names = tally(http::names(&self.network.client.netns, &url(vip(), port), 60)?);
            ensure!(names.len() == n, "port {port}: {names:?}\n{}", self.daemon.log());
        }
        Ok(())
    }

    /// How many lines of the log hold this.
    fn n_lines(&self, text: &str) -> usize {
        self.daemon.log().lines().filter(|line| line.contains(text)).count()
    }
}

fn addresses(network: &Network, n: usize) -> Vec<Ipv4Addr> {
    network.backends[..n].iter().map(|host| host.v4).collect()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn answers_without_sense_leave_the_last_good_one_in_force() -> Result<()> {
    let scene = Scene::new()?;
    for reply in [Reply::WrongFamily, Reply::Loop, Reply::Garbage, Reply::Silence, Reply::Addresses(Vec::new())] {
        scene.server.set(reply.clone());
        scene.wait_asked()?;
        let source = scene.source()?;
        ensure!(source["stale"] == true && source["last_error"].is_string(), "{reply:?}: {source:#}");
        ensure!(n_serving(&scene.daemon, "api")? == 2, "{reply:?}: {}", scene.daemon.log());
        scene.answers(3, 2)?;
    }
    let n_said = scene.n_lines("discovery failed");
    ensure!((1..=5).contains(&n_said), "said {n_said} times, once for each kind of failure:\n{}", scene.daemon.log());
    // One that takes its time is believed.
    scene.server.set(Reply::Late(Duration::from_millis(1500), addresses(&scene.network, 3)));
    wait_serving(&scene.daemon, "api", 3)?;
    ensure!(scene.source()?["stale"] == false);
    scene.answers(3, 3)?;
    scene.daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_answer_that_the_tables_have_no_room_for_holds_up_nobody() -> Result<()> {
    let scene = Scene::new()?;
    scene.server.set(Reply::Many(3500));
    let said = "no room for what discovery gave";
    until(LIMIT, "the daemon to say that there is no room", || Ok((scene.n_lines(said) > 0).then_some(())))
        .with_context(|| scene.daemon.log())?;
    scene.answers(3, 2)?;
    let source = scene.source()?;
    let told = source["last_error"].as_str().unwrap_or_default();
    ensure!(source["hosts"] == 2 && source["stale"] == true && told.contains("no room for 1024 hosts"), "{source:#}");
    // What happens to others meanwhile happens: a backend fails and comes back, a weight is set, a file is read.
    scene.backends[2].toggle_health()?;
    wait_serving(&scene.daemon, "web", 2)?;
    scene.answers(2, 2)?;
    scene.backends[2].toggle_health()?;
    wait_serving(&scene.daemon, "web", 3)?;
    let told = scene.daemon.xlb(&["weight", "web", "10.2.0.10", "2"])?;
    ensure!(told.contains("weight 2"), "{told}");
    scene.daemon.xlb(&["reload"])?;
    scene.wait_asked()?;
    ensure!(scene.daemon.metric("xlb_map_failing")? == 0.0);
    ensure!(scene.n_lines(said) == 1, "once:\n{}", scene.daemon.log());
    let n_lines = scene.daemon.log().lines().count();
    ensure!(n_lines < 150, "{n_lines} lines of log");
    // The truth again.
    scene.server.set(Reply::Addresses(addresses(&scene.network, 3)));
    wait_serving(&scene.daemon, "api", 3)?;
    ensure!(scene.source()?["stale"] == false);
    scene.answers(3, 3)?;
    scene.daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_flapping_answer_breaks_no_connection_of_who_is_always_named() -> Result<()> {
    let scene = Scene::new()?;
    let client = &scene.network.client.netns;
    let connections = Connections::open(client, (vip(), 81).into(), 60, Duration::from_millis(20), Duration::from_secs(2))?;
    for n in [3, 2, 3, 2, 3] {
        scene.server.set(Reply::Addresses(addresses(&scene.network, n)));
        wait_serving(&scene.daemon, "api", n)?;
    }
    let before = connections.exchanges();
    until(LIMIT, "the connections to be used on", || Ok((connections.exchanges() > before + 120).then_some(())))?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", scene.daemon.log());
    scene.answers(3, 3)?;
    scene.daemon.stop()
}
