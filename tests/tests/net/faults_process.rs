//! The daemon itself, stopped, killed at the wrong moment, or told too much at once.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::{Backend, Connections, Daemon, Network, http, until};

use super::support::{LIMIT, Service, n_serving, service, tally, url, vip, wait_serving};

fn connections(network: &Network) -> Result<Connections> {
    let (interval, limit) = (Duration::from_millis(10), Duration::from_secs(5));
    Connections::open(&network.client.netns, (vip(), 80).into(), 50, interval, limit)
}

/// Services beside `web`, at ports of their own; another set for each `n`.
fn others(network: &Network, n: usize) -> String {
    let one = |i: usize| {
        let (name, port) = (format!("other{i}"), 8000 + i as u16);
        let service = Service::new(&name, vip(), port).backends(&network.backends[..1 + (i + n) % 3], true);
        service.toml().replace("type = \"http\"\npath = \"/health\"", "type = \"tcp\"\nport = 80")
    };
    (0..5 + n * 7 % 20).map(one).collect()
}

fn web(network: &Network, fall: u32) -> String {
    let service = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    service.replace("fall = 5", &format!("fall = {fall}"))
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_daemon_that_was_stopped_for_a_while_takes_no_backend_for_dead() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    // One failure is enough here; in time, that is: another test says what becomes of these.
    let services = web(&network, 1)
        .replace("timeout = \"200ms\"", "timeout = \"500ms\"")
        .replace("interval = \"200ms\"", "interval = \"500ms\"");
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "web", 3)?;
    let connections = connections(&network)?;
    for round in 1..=4 {
        daemon.process().signal(Signal::SIGSTOP)?;
        // This time is what the test is about.
        std::thread::sleep(Duration::from_millis(2500));
        http::names(&network.client.netns, &url(vip(), 80), 20)?;
        daemon.process().signal(Signal::SIGCONT)?;
        let said = || daemon.log().matches("this process did not run for").count();
        until(LIMIT, "the daemon to say that it stood still", || Ok((said() == round).then_some(())))
            .with_context(|| daemon.log())?;
        // Two that were late in a row would count.
        until(LIMIT, "all to be checked in time", || {
            let backends = service(&daemon.status()?, "web")?["backends"].clone();
            Ok((0..3).all(|i| backends[i]["check"] == "http 200").then_some(()))
        })
        .with_context(|| daemon.log())?;
    }
    ensure!(n_serving(&daemon, "web")? == 3, "{}", daemon.log());
    ensure!(!daemon.log().contains("backend is down"), "{}", daemon.log());
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_hundred_reloads_in_a_second_end_with_the_last_file_in_force() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network, 3)).start()?;
    let connections = connections(&network)?;
    for n in 0..100 {
        daemon.reload(web(&network, 3) + &others(&network, n))?;
        std::thread::sleep(Duration::from_millis(10));
    }
    daemon.reload(web(&network, 3))?;
    until(LIMIT, "the last file to be in force", || {
        Ok((daemon.status()?["services"].as_array().map(Vec::len) == Some(1)).then_some(()))
    })
    .with_context(|| daemon.log())?;
    wait_serving(&daemon, "web", 3)?;
    ensure!(tally(http::names(&network.client.netns, &url(vip(), 80), 60)?).len() == 3);
    ensure!(daemon.metric("xlb_map_failing")? == 0.0 && daemon.metric("xlb_map_failures_total")? == 0.0, "{}", daemon.log());
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn killed_in_the_middle_of_a_reload_it_leaves_tables_that_the_next_one_takes_over() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network, 3)).start()?;
    wait_serving(&daemon, "web", 3)?;
    let connections = connections(&network)?;
    for n in 0..8 {
        daemon.reload(web(&network, 3) + &others(&network, n))?;
        // Anywhere in it: reading the file and writing the tables takes some milliseconds.
        std::thread::sleep(Duration::from_micros(700 * n as u64));
        daemon.kill();
        let exchanges = connections.exchanges();
        until(LIMIT, "traffic to go on", || Ok((connections.exchanges() > exchanges + 100).then_some(())))?;
        daemon = daemon.builder().start()?;
        wait_serving(&daemon, "web", 3)?;
        ensure!(daemon.log().contains("taking over the tables"), "{}", daemon.log());
        let services = daemon.status()?["services"].as_array().map(Vec::len);
        ensure!(services == Some(1 + 5 + n * 7 % 20), "{services:?} services in round {n}\n{}", daemon.log());
    }
    ensure!(tally(http::names(&network.client.netns, &url(vip(), 80), 60)?).len() == 3);
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    daemon.stop()
}
