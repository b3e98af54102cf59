//! What is changed while traffic flows: drains, weights, who is there; and that it outlives the daemon.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Backend, Connections, Daemon, Network, http, until};

use super::support::{LIMIT, Service, service, tally, url, vip, wait_at_rest, wait_serving};

const BACKEND0: &str = "10.2.0.10";
const BACKEND1: &str = "10.2.0.11";
const BACKEND2: &str = "10.2.0.12";

struct Scene {
    network: Network,
    _backends: Vec<Backend>,
    toml: String,
}

impl Scene {
    /// Three backends, of which the file has the first `n`.
    fn new(n: usize) -> Result<Self> {
        let network = Network::dsr(3, &[vip()])?;
        let backends = Backend::start_all(&network, 80, &[vip()])?;
        let toml = Service::new("web", vip(), 80).backends(&network.backends[..n], true).toml();
        Ok(Self { network, _backends: backends, toml })
    }

    fn daemon(&self) -> Result<Daemon> {
        Daemon::new(&self.network.lb.netns, &self.network.lb_interfaces()).services(self.toml.clone()).start()
    }

    /// Who answers new connections, and how often.
    fn names(&self) -> Result<std::collections::BTreeMap<String, usize>> {
        Ok(tally(http::names(&self.network.client.netns, &url(vip(), 80), 100)?))
    }
}

fn backend(daemon: &Daemon, address: &str) -> Result<Value> {
    let web = service(&daemon.status()?, "web")?;
    let backends = web["backends"].as_array().context("no backends")?;
    backends.iter().find(|backend| backend["address"] == address).cloned().with_context(|| format!("no {address} in {web:#}"))
}

fn wait_for(daemon: &Daemon, address: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
    let mut last = Value::Null;
    let waited = until(LIMIT, what, || {
        last = backend(daemon, address)?;
        Ok(holds(&last).then_some(()))
    });
    waited.with_context(|| format!("{last:#}\n{}", daemon.log()))
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_drained_backend_gets_no_new_connection_and_keeps_those_it_has_until_they_end() -> Result<()> {
    let scene = Scene::new(3)?;
    let daemon = scene.daemon()?;
    let client = &scene.network.client.netns;
    // A slot that moved as backends came up would have its flows on record already.
    wait_at_rest(&daemon, "web", 3)?;
    let connections = Connections::open(client, (vip(), 80).into(), 90, Duration::from_millis(50), Duration::from_secs(5))?;
    let n = *connections.names().get("backend0").context("nobody at backend0")? as u64;
    let told = daemon.xlb(&["drain", "web", BACKEND0])?;
    ensure!(told.contains("web 10.2.0.10:80: drains; no new connections"), "{told}");
    wait_for(&daemon, BACKEND0, "its flows to be counted", |backend| backend["drain"]["flows"] == n)?;
    ensure!(!scene.names()?.contains_key("backend0"), "a new connection went there");
    let drained = backend(&daemon, BACKEND0)?;
    ensure!(drained["state"] == "up" && drained["weight"] == 0 && drained["serving"] == false, "{drained:#}");
    ensure!(drained["set"]["admin"]["by"] == "root", "{drained:#}");
    ensure!(drained["drain"]["silent_possible"] == true, "{:#}", service(&daemon.status()?, "web")?);
    ensure!(daemon.metric("xlb_backend_draining{service=\"web\",backend=\"10.2.0.10:80\"}")? == 1.0);
    ensure!(daemon.metric("xlb_backend_flows{service=\"web\",backend=\"10.2.0.10:80\"}")? == n as f64);
    let table = String::from_utf8(scene.network.lb.netns.command(xlb_tests::paths::xlb()?).arg("status").output()?.stdout)?;
    ensure!(
        table.contains("up, draining") && table.contains(&format!("{n} flows left of those seen since, silent ones not")),
        "{table}"
    );
    let exchanges = connections.exchanges();
    until(LIMIT, "every connection to be used since", || Ok((connections.exchanges() > exchanges + 200).then_some(())))?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    wait_for(&daemon, BACKEND0, "the last flow to end", |backend| backend["drain"]["flows"] == 0)?;
    let xlb = xlb_tests::paths::xlb()?;
    let events = || scene.network.lb.netns.command(&xlb).args(["events", "--once"]).output();
    until(LIMIT, "the event", || {
        let told = String::from_utf8(events()?.stdout)?;
        Ok((told.contains("drains, set by root") && told.contains("drained; no flow is left")).then_some(()))
    })?;
    ensure!(daemon.xlb(&["enable", "web", BACKEND0])?.contains("enabled; it was set to drain by root"));
    wait_serving(&daemon, "web", 3)?;
    ensure!(scene.names()?.contains_key("backend0"));
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_drain_that_outlasts_its_deadline_ends_disabled() -> Result<()> {
    let scene = Scene::new(3)?;
    let daemon = scene.daemon()?;
    daemon.xlb(&["drain", "web", BACKEND0, "--deadline", "1s"])?;
    wait_for(&daemon, BACKEND0, "it to be disabled", |backend| backend["set"]["admin"]["value"] == "disable")?;
    let by = backend(&daemon, BACKEND0)?["set"]["admin"]["by"].clone();
    ensure!(by == "the deadline of the drain by root", "{by}");
    let kept = || std::fs::read_to_string(daemon.own_directory().join("state.json"));
    until(LIMIT, "it to be kept", || Ok(kept()?.contains("\"disable\"").then_some(())))?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn weights_shift_shares_and_disabled_backends_are_out_at_once_while_checks_go_on() -> Result<()> {
    let scene = Scene::new(3)?;
    let daemon = scene.daemon()?;
    ensure!(daemon.xlb(&["weight", "web", BACKEND0, "3"])?.contains("weight 3, was 1"));
    let share = backend(&daemon, BACKEND0)?["share"].as_f64().context("a share")?;
    ensure!((0.55..0.65).contains(&share), "{share}");
    ensure!(daemon.xlb(&["weight", "web", BACKEND0, "3"])?.contains("it is so already"));
    daemon.xlb(&["disable", "web", BACKEND1])?;
    let names = scene.names()?;
    ensure!(!names.contains_key("backend1") && names.len() == 2, "{names:?}");
    let disabled = backend(&daemon, BACKEND1)?;
    ensure!(disabled["state"] == "up" && disabled["check"] == "http 200" && disabled["serving"] == false, "{disabled:#}");
    daemon.xlb(&["maintenance", "web", "on"])?;
    wait_serving(&daemon, "web", 0)?;
    ensure!(http::get(&scene.network.client.netns, &url(vip(), 80)).is_err(), "in maintenance nobody answers");
    daemon.xlb(&["maintenance", "web", "off"])?;
    daemon.xlb(&["enable", "web", BACKEND1])?;
    wait_serving(&daemon, "web", 3)?;
    ensure!(scene.names()?.len() == 3);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_was_set_outlives_a_kill_a_clean_end_and_a_reload_and_a_reset_ends_it() -> Result<()> {
    let scene = Scene::new(2)?;
    let mut daemon = scene.daemon()?;
    daemon.xlb(&["add", "web", BACKEND2, "--weight", "2"])?;
    wait_serving(&daemon, "web", 3)?;
    daemon.xlb(&["drain", "web", BACKEND0])?;
    daemon.xlb(&["weight", "web", BACKEND1, "4"])?;
    let set = daemon.get("/api/v1/runtime")?.body;
    let holds = |daemon: &Daemon| -> Result<()> {
        wait_serving(daemon, "web", 2)?;
        let names = scene.names()?;
        ensure!(!names.contains_key("backend0") && names.len() == 2, "{names:?}\n{}", daemon.log());
        ensure!(daemon.get("/api/v1/runtime")?.body == set, "{}\n{set}", daemon.get("/api/v1/runtime")?.body);
        ensure!(backend(daemon, BACKEND1)?["weight"] == 4 && backend(daemon, BACKEND2)?["weight"] == 2);
        Ok(())
    };
    holds(&daemon)?;
    let builder = daemon.builder();
    daemon.kill();
    let connections = Connections::open(
        &scene.network.client.netns,
        (vip(), 80).into(),
        60,
        Duration::from_millis(20),
        Duration::from_secs(5),
    )?;
    ensure!(!connections.names().contains_key("backend0"), "killed, the program goes on as it was");
    let daemon = builder.clone().start()?;
    holds(&daemon)?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    daemon.stop()?;
    let mut daemon = builder.start()?;
    holds(&daemon)?;
    daemon.reload(scene.toml.clone())?;
    daemon.process().wait_for_log(" reloaded", LIMIT)?;
    holds(&daemon)?;
    let told = daemon.xlb(&["reset", "web", BACKEND0])?;
    ensure!(told.contains("10.2.0.10:80: as the file says"), "{told}");
    wait_serving(&daemon, "web", 3)?;
    daemon.xlb(&["reset"])?;
    wait_serving(&daemon, "web", 2)?;
    ensure!(scene.names()?.keys().eq(["backend0", "backend1"].iter()), "{:?}", scene.names()?);
    let runtime: Value = serde_json::from_str(&daemon.get("/api/v1/runtime")?.body)?;
    ensure!(runtime["services"] == serde_json::json!({}), "{runtime:#}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn who_leaves_the_file_takes_along_what_was_set_and_check_says_so_before() -> Result<()> {
    let scene = Scene::new(3)?;
    let mut daemon = scene.daemon()?;
    daemon.xlb(&["weight", "web", BACKEND2, "7"])?;
    daemon.xlb(&["remove", "web", BACKEND0])?;
    wait_serving(&daemon, "web", 2)?;
    ensure!(daemon.status()?["runtime"]["absent"]["web"]["10.2.0.10:80"]["presence"]["value"] == "removed");
    let config = daemon.config().display().to_string();
    let same = daemon.xlb(&["check", &config])?;
    ensure!(same.contains("a reload would change nothing"), "{same}");
    let new = Service::new("web", vip(), 80).backends(&scene.network.backends[..2], true).toml();
    let text = std::fs::read_to_string(&config)?.replace(&scene.toml, &new);
    std::fs::write(daemon.config(), text.replace("mode = \"native\"", "mode = \"auto\""))?;
    let told = daemon.xlb(&["check", &config])?;
    ensure!(told.contains("would be refused, for xdp.mode cannot change while running"), "{told}");
    let refused = format!("{:#}", daemon.xlb(&["reload"]).unwrap_err());
    ensure!(refused.contains("not reloaded") && refused.contains("xdp.mode"), "{refused}");
    std::fs::write(daemon.config(), text)?;
    let told = daemon.xlb(&["check", &config])?;
    ensure!(told.contains("  [[service]] web\n-   [[service.backend]] 10.2.0.12 = {}\n"), "{told}");
    ensure!(told.contains("it would forget web 10.2.0.12:80"), "{told}");
    let told = daemon.xlb(&["reload"])?;
    ensure!(told.contains("-   [[service.backend]] 10.2.0.12 = {}") && told.contains("forgotten: web 10.2.0.12:80"), "{told}");
    wait_serving(&daemon, "web", 1)?;
    daemon.reload(scene.toml.clone())?;
    wait_serving(&daemon, "web", 2)?;
    ensure!(backend(&daemon, BACKEND2)?["weight"] == 1, "what was forgotten stays so");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_state_file_that_is_broken_or_cannot_be_written_is_said_and_nothing_is_half_done() -> Result<()> {
    let scene = Scene::new(3)?;
    let daemon = scene.daemon()?;
    daemon.xlb(&["drain", "web", BACKEND0])?;
    let (builder, state) = (daemon.builder(), daemon.own_directory().join("state.json"));
    let whole = std::fs::read_to_string(&state)?;
    daemon.stop()?;
    std::fs::write(&state, &whole[..whole.len() - 20])?;
    let daemon = builder.start()?;
    wait_serving(&daemon, "web", 3)?;
    let trouble = daemon.status()?["runtime"]["trouble"].to_string();
    ensure!(trouble.contains("the configuration alone holds") && trouble.contains("state.json.broken"), "{trouble}");
    ensure!(daemon.metric("xlb_runtime_kept")? == 0.0);
    ensure!(std::fs::read_to_string(state.with_extension("json.broken"))? == whole[..whole.len() - 20]);
    // A directory where the file should be: what cannot be kept is not done.
    std::fs::create_dir(&state)?;
    let refused = format!("{:#}", daemon.xlb(&["disable", "web", BACKEND0]).unwrap_err());
    ensure!(refused.contains("state.json") && refused.contains("was not made"), "{refused}");
    ensure!(backend(&daemon, BACKEND0)?["serving"] == true);
    std::fs::remove_dir(&state)?;
    daemon.xlb(&["disable", "web", BACKEND0])?;
    ensure!(backend(&daemon, BACKEND0)?["serving"] == false && daemon.metric("xlb_runtime_kept")? == 1.0);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_is_wrong_is_answered_with_what_there_is_instead() -> Result<()> {
    let scene = Scene::new(2)?;
    let daemon = scene.daemon()?;
    let refused =
        |arguments: &[&str]| daemon.xlb(arguments).map_or_else(|error| format!("{error:#}"), |told| format!("done: {told}"));
    let cases: [(&[&str], &str); 5] = [
        (&["drain", "wbe", BACKEND0], "no service is named \"wbe\"; there is web"),
        (&["drain", "web", "10.9.9.9"], "it has 10.2.0.10:80, 10.2.0.11:80"),
        (&["drain", "web", "nonsense"], "is not an address"),
        (&["drain", "web", BACKEND0, "--deadline", "soon"], "such as \\\"10m\\\""),
        (&["add", "web", "10.200.1.1"], "it is the VIP of service web"),
    ];
    for (arguments, expected) in cases {
        let told = refused(arguments).replace("\\\"", "\"");
        ensure!(told.contains(&expected.replace("\\\"", "\"")), "{arguments:?}: {told}");
    }
    daemon.stop()
}
