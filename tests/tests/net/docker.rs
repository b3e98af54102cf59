//! Backends that are containers of a real Docker daemon.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::docker::IMAGE;
use xlb_tests::{Daemon, Dockerd, Network, Wrk, http, until};

use super::support::{Service, n_serving, service, tally, url, vip};

/// Docker takes its time, most of all where others work too.
const LIMIT: Duration = Duration::from_secs(60);
const BRIDGE: &str = "containers";

/// Containers that say their own name, and that go on for some seconds when they are told to stop: as the first process of a
/// container, the backend does not hear SIGTERM, which stands for a server that finishes what it has begun.
fn compose() -> String {
    // What containers send carries no whole checksum otherwise, and nat would make a broken one of it.
    let start = "ethtool -K eth0 tx off && exec xlb-test-backend $$HOSTNAME http=0.0.0.0:8080";
    format!(
        "version: '2.4'
services:
  api:
    image: {IMAGE}
    command: [sh, -c, '{start}']
    cap_add: [NET_ADMIN]
    stop_grace_period: 3s
    labels: {{ xlb.service: api, xlb.port: '8080' }}
networks:
  default:
    driver_opts: {{ com.docker.network.bridge.name: {BRIDGE} }}
    ipam: {{ config: [ {{ subnet: 10.77.0.0/24 }} ] }}
"
    )
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_service_scales_with_its_containers_and_no_request_is_lost() -> Result<()> {
    let network = Network::nat(0)?;
    let lb = &network.lb.netns;
    let docker = Dockerd::start(lb)?;
    let scale = |n: usize| docker.compose(&compose(), &["up", "--detach", "--scale", &format!("api={n}")]);
    scale(5).with_context(|| docker.log())?;
    let source = format!("socket = \"unix://{}\"\n", docker.socket().display());
    let services = Service::new("api", vip(), 80).with("forward", "nat").source("docker", &source).toml();
    // A bridge has no native mode.
    let interfaces = [network.lb_interfaces(), vec![BRIDGE.to_owned()]].concat();
    let daemon = Daemon::new(lb, &interfaces).mode("generic").services(services).start()?;
    let serving = |n: usize| {
        until(LIMIT, &format!("{n} containers to serve"), || Ok((n_serving(&daemon, "api")? == n).then_some(())))
            .with_context(|| format!("{}\n{}", daemon.log(), docker.log()))
    };
    serving(5)?;
    let mut load = Wrk::new(url(vip(), 80), Duration::from_secs(40));
    load.keep_alive = false;
    load.connections = 8;
    let mut running = load.start(&network.client.netns)?;
    until(
        LIMIT,
        "load to flow",
        || Ok((daemon.metric("xlb_service_connections_total{service=\"api\"}")? > 200.0).then_some(())),
    )?;
    let names = || http::names(&network.client.netns, &url(vip(), 80), 200).map(tally);
    for n in [10, 3] {
        scale(n)?;
        serving(n)?;
        let names = names()?;
        ensure!(names.len() == n, "{n} containers, but these answer: {names:?}");
    }
    ensure!(running.is_running(), "the load has ended too soon");
    let status = service(&daemon.status()?, "api")?;
    let of_source = &status["discovery"][0];
    ensure!(of_source["source"] == "docker" && of_source["hosts"] == 3 && of_source["failures"] == 0, "{status:#}");
    ensure!(status["backends"][0]["sources"] == serde_json::json!(["docker"]), "{status:#}");
    let report = running.finish()?;
    println!("{} requests, {} failed", report.requests, report.errors());
    let verdicts = &daemon.status()?["verdicts"];
    ensure!(report.errors() == 0 && report.requests > 1000, "{report:?}\n{verdicts:#}\n{}", daemon.log());
    daemon.stop()
}
