//! Who gets which flow.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Daemon, Network, http};

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
