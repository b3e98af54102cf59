//! Who gets which flow.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Connections, Daemon, Network, http};

use super::support::{Service, tally, url, vip};

#[test]
#[ignore = "needs root: makes network namespaces"]
fn under_ip_hash_a_client_stays_with_one_backend() -> Result<()> {
    let network = Network::dsr(5, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let client = &network.client.netns;
    let addresses: Vec<String> = (10..40).map(|i| format!("10.1.0.{i}")).collect();
    client.ip(&addresses.iter().map(|address| format!("addr add {address}/24 dev eth0")).collect::<Vec<_>>())?;
    let service = Service::new("web", vip(), 80).with("algorithm", "ip-hash").backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service).start()?;
    let mut seen = std::collections::BTreeSet::new();
    for address in &addresses {
        let source = SocketAddr::new(address.parse()?, 0);
        let names: Result<Vec<String>> =
            (0..5).map(|_| Ok(http::get_from(client, source, &url(vip(), 80))?.body.trim().to_owned())).collect();
        let names = tally(names?);
        ensure!(names.len() == 1, "{address} reached {names:?}");
        seen.extend(names.into_keys());
    }
    ensure!(seen.len() >= 4, "30 clients reached only {seen:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn weights_decide_the_shares() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let weights = ["weight = 1", "weight = 3", "weight = 0"];
    let service = Service::new("web", vip(), 80);
    let service =
        network.backends.iter().zip(weights).fold(service, |service, (host, weight)| service.backend(host.v4, weight)).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service).start()?;
    let tally = tally(http::names(&network.client.netns, &url(vip(), 80), 1000)?);
    let share = |name: &str| tally.get(name).copied().unwrap_or_default();
    // 1,000 flows at one quarter: 250 +- 13.7; five standard deviations.
    ensure!(share("backend0").abs_diff(250) < 69 && share("backend1").abs_diff(750) < 69, "{tally:?}");
    ensure!(share("backend2") == 0, "a weight of 0 takes no new flows: {tally:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn turns_are_kept_to_the_connection() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let weights = ["weight = 1", "weight = 2", "weight = 5"];
    let service = |algorithm| {
        let service = Service::new("web", vip(), 80).with("algorithm", algorithm);
        network.backends.iter().zip(weights).fold(service, |service, (host, weight)| service.backend(host.v4, weight)).toml()
    };
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service("round-robin")).start()?;
    let client = &network.client.netns;
    let counts = |n| -> Result<Vec<usize>> { Ok(tally(http::names(client, &url(vip(), 80), n)?).into_values().collect()) };
    let counted = counts(30)?;
    ensure!(counted == [10, 10, 10], "{counted:?}");
    daemon.reload(service("weighted-round-robin"))?;
    daemon.process().wait_for_log(" reloaded", super::support::LIMIT)?;
    let counted = counts(80)?;
    ensure!(counted == [10, 20, 50], "{counted:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn who_has_many_connections_gets_no_more_of_them() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let client = &network.client.netns;
    let hold = |n| Connections::open(client, (vip(), 80).into(), n, Duration::from_millis(20), Duration::from_secs(2));
    let one = Service::new("web", vip(), 80).with("algorithm", "least-connections").backends(&network.backends[..1], true).toml();
    let all = Service::new("web", vip(), 80).with("algorithm", "least-connections").backends(&network.backends, true).toml();
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(one).start()?;
    let first = hold(40)?;
    daemon.reload(all)?;
    super::support::wait_serving(&daemon, "web", 3)?;
    let second = hold(60)?;
    ensure!(!second.names().contains_key("backend0"), "it has 40, the others got {:?}", second.names());
    ensure!(second.names().values().all(|&n| n.abs_diff(30) <= 2), "{:?}", second.names());
    let broken = first.close()?;
    ensure!(broken.is_empty(), "{broken:?}");
    let third = hold(30)?;
    let of_the_first = third.names().get("backend0").copied().unwrap_or_default();
    ensure!(of_the_first >= 27, "all of its 40 have ended: {:?}", third.names());
    ensure!(second.close()?.is_empty() && third.close()?.is_empty());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn another_algorithm_breaks_no_connection() -> Result<()> {
    let network = Network::dsr(5, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let service = |algorithm, n: usize| {
        Service::new("web", vip(), 80).with("algorithm", algorithm).backends(&network.backends[..n], true).toml()
    };
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service("maglev", 5)).start()?;
    let client = &network.client.netns;
    let mut held = Vec::new();
    let algorithms =
        ["maglev", "round-robin", "least-connections", "random", "least-response-time", "weighted-round-robin", "maglev"];
    for (n, algorithm) in algorithms.into_iter().enumerate() {
        daemon.reload(service(algorithm, 4 + n % 2))?;
        let is_in_force = || Ok((super::support::service(&daemon.status()?, "web")?["algorithm"] == algorithm).then_some(()));
        xlb_tests::until(super::support::LIMIT, "the algorithm to be in force", is_in_force)?;
        held.push(Connections::open(client, (vip(), 80).into(), 50, Duration::from_millis(20), Duration::from_secs(2))?);
    }
    let before: Vec<u64> = held.iter().map(Connections::exchanges).collect();
    xlb_tests::until(super::support::LIMIT, "all to be in use", || {
        let are_in_use = held.iter().zip(&before).all(|(held, before)| held.exchanges() > before + 500);
        Ok(are_in_use.then_some(()))
    })?;
    for (held, algorithm) in held.into_iter().zip(algorithms) {
        let broken = held.close()?;
        ensure!(broken.is_empty(), "begun under {algorithm}: {broken:?}");
    }
    daemon.stop()
}

/// A backend's handshakes, as the status has them.
fn handshakes(daemon: &Daemon, host: &xlb_tests::Host) -> Result<impl Fn(&str) -> u64 + use<>> {
    let service = super::support::service(&daemon.status()?, "web")?;
    let backends = service["backends"].as_array().cloned().unwrap_or_default();
    let own = backends.into_iter().find(|backend| backend["address"] == host.v4.to_string());
    let own = own.ok_or_else(|| anyhow::anyhow!("no such backend: {service:#}"))?["handshakes"].take();
    ensure!(own.is_object(), "{service:#}");
    Ok(move |key: &str| own[key].as_u64().unwrap_or_default())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_is_tracked_shows_how_connections_open() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let service = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let service = service.replacen("port = 80\n", "port = 80\ntrack = true\n", 1);
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service).start()?;
    let client = &network.client.netns;
    let names = tally(http::names(client, &url(vip(), 80), 100)?);
    for (number, host) in network.backends.iter().enumerate() {
        let n = handshakes(&daemon, host)?;
        let expected = names.get(&format!("backend{number}")).copied().unwrap_or_default() as u64;
        let counted = [n("opened"), n("answered"), n("repeated")];
        ensure!(expected > 10 && counted == [expected, expected, 0], "{names:?}: {counted:?}");
    }
    // It hangs: the VIP is taken from it, and what comes there finds nobody. Its checks go to its own address.
    let silent = &network.backends[0];
    silent.netns.ip(&[format!("addr del {}/32 dev lo", vip())])?;
    let answered = handshakes(&daemon, silent)?("answered");
    xlb_tests::until(super::support::LIMIT, "a SYN to be repeated", || {
        let _ = http::get(client, &url(vip(), 80));
        Ok((handshakes(&daemon, silent)?("repeated") > 0).then_some(()))
    })?;
    let n = handshakes(&daemon, silent)?;
    ensure!(n("answered") == answered && n("opened") > answered, "{} of {}", n("answered"), n("opened"));
    let output = network.lb.netns.command(xlb_tests::paths::xlb()?).arg("status").output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(text.contains("SYNs repeated"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let metrics = daemon.metrics()?;
    ensure!(metrics.contains("xlb_backend_handshake_seconds_bucket{"), "{metrics}");
    daemon.stop()
}
