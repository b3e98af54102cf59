//! What docs/metrics.md says, and what a daemon exports.

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Daemon, Dnsmasq, Network, until};

use super::support::{LIMIT, VIP, vip, web};
use super::{documented, exported};

const N_SERVICES: usize = 2;
const N_BACKENDS: usize = 2;
const N_ZONES: usize = 2;

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_page_lists_what_is_exported_and_nothing_else() -> Result<()> {
    let network = Network::dsr(N_BACKENDS as u8, &[vip()?])?;
    let _backends = Backend::start_all(&network, 80, &[vip()?])?;
    let records = network.backends.iter().map(|host| ("api.internal", host.v4.into())).collect::<Vec<_>>();
    let dns = Dnsmasq::start(&network.client.netns, network.client.v4.into(), 1, &records)?;
    let found = format!(
        "[[service]]\nname = \"api\"\nvip = \"{VIP}\"\nport = 8080\ntrack = true\n[service.health]\ntype = \"tcp\"\nport = 80\n\
         [service.dns]\nname = \"api.internal\"\nresolver = \"{}\"\n",
        dns.address()
    );
    let rules = "[service.admission]\ndeny = [\"192.0.2.0/24\"]\n";
    // Each backend of the first in a zone of its own.
    let (mut n, zones) = (0, "[service.zones]\nweights = { z0 = 1, z1 = 1 }\n");
    let in_zone = |line: &str| {
        if !line.starts_with("address") {
            return format!("{line}\n");
        }
        n += 1;
        format!("{line}\nzone = \"z{}\"\n", n - 1)
    };
    let pool = "[fullnat]\naddresses = [\"10.2.0.200\"]\n".to_owned();
    let services = pool + &web(&network).lines().map(in_zone).collect::<String>() + zones + &found + rules;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    // Each has series, once each backend of both services has been checked.
    let exported = until(LIMIT, "series of every metric", || {
        let families = exported::families(&daemon.metrics()?)?;
        let is_complete = families["xlb_backend_check_seconds"].series.len() == N_SERVICES * N_BACKENDS;
        Ok((is_complete && families.values().all(|family| !family.series.is_empty())).then_some(families))
    })?;
    let documented = documented::metrics()?;
    let names = |of: Vec<&String>| of.into_iter().cloned().collect::<Vec<_>>();
    let missing = names(exported.keys().filter(|name| !documented.contains_key(*name)).collect());
    let surplus = names(documented.keys().filter(|name| !exported.contains_key(*name)).collect());
    ensure!(
        missing.is_empty() && surplus.is_empty(),
        "docs/metrics.md lacks {missing:?}, and has {surplus:?} that nobody exports"
    );
    for (name, family) in &exported {
        let metric = &documented[name];
        ensure!(family.kind == metric.kind, "{name}: docs/metrics.md says {}, and it is a {}", metric.kind, family.kind);
        for series in &family.series {
            ensure!(series.keys().eq(metric.labels.keys()), "{name}: {series:?}, but {:?} in docs/metrics.md", metric.labels);
            let unknown = series.iter().find(|&(label, value)| {
                let values = &metric.labels[label];
                !values.is_empty() && !values.contains(value)
            });
            ensure!(unknown.is_none(), "{name}: {unknown:?} is not in docs/metrics.md");
        }
        let bound = metric.bound;
        let of_services = if name.starts_with("xlb_discovery_") { 1 } else { N_SERVICES };
        let of_backends = bound.backends * N_SERVICES * N_BACKENDS + bound.tracked * N_BACKENDS;
        let most =
            bound.fixed + bound.services * of_services + of_backends + bound.interfaces + bound.zones * N_ZONES + bound.pool;
        ensure!(family.series.len() <= most, "{name}: {} series, and docs/metrics.md allows {most}", family.series.len());
    }
    daemon.stop()
}
