//! [`Desired`] from all who have a say: the configuration, discovery, health, next-hop resolution, and what was set at runtime.
//! No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_common::MacAddr;
use lb_common::flow::{self, Tick};

use crate::config::{self, Config};
use crate::desired::{Backend, Desired, Forward, NextHop, Protocol, Service, ServiceName};
use crate::discovery;
use crate::health::{Condition, State};
use crate::nexthop::{Answer, Changes, Unresolved, Way};
use crate::runtime::Overrides;

/// A backend of a service.
pub type BackendKey = (ServiceName, SocketAddr);

/// What was found out, apart from what was configured.
#[derive(Debug, Default)]
pub struct Findings {
    /// Per service and source the backends that it last gave.
    pub discovered: BTreeMap<ServiceName, BTreeMap<discovery::Kind, discovery::Backends>>,
    pub health: BTreeMap<BackendKey, Condition>,
    /// Backends that a running program served when this daemon adopted it: they serve until a check says otherwise.
    pub adopted_alive: BTreeSet<BackendKey>,
    pub answers: BTreeMap<IpAddr, Answer>,
    /// The last way known to an address, which holds while the neighbour is only being asked again.
    pub last_ways: BTreeMap<IpAddr, Way>,
    pub ingress: BTreeSet<u32>,
    /// What was set at runtime. It goes over all else.
    pub overrides: Overrides,
}

impl Findings {
    /// Takes in what the resolver found.
    pub fn note_next_hops(&mut self, changes: Changes) {
        for (address, answer) in changes.next_hops {
            match &answer {
                Ok(way) => drop(self.last_ways.insert(address, *way)),
                Err(Unresolved::NeighbourPending { .. }) => {}
                // Nothing to address there, but the host's routing can send what NAT has rewritten.
                Err(Unresolved::NoLinkLayerAddress { ifindex, .. }) => {
                    let (source, destination) = (MacAddr::default(), MacAddr::default());
                    let hop = NextHop { ifindex: *ifindex, source, destination, ..NextHop::NOWHERE };
                    self.last_ways.insert(address, Way { hop, gateway: None });
                }
                Err(_) => drop(self.last_ways.remove(&address)),
            }
            self.answers.insert(address, answer);
        }
    }

    fn is_alive(&self, key: &BackendKey) -> bool {
        match self.condition(key).state {
            State::Unknown => self.adopted_alive.contains(key),
            state => state.keeps_flows(),
        }
    }

    /// What the checks say of a backend.
    pub fn condition(&self, key: &BackendKey) -> Condition {
        self.health.get(key).copied().unwrap_or_default()
    }

    /// Whether nothing has been found out yet that keeps packets from a backend, nor all that lets new flows go there.
    fn is_undecided(&self, key: &BackendKey) -> bool {
        let is_way_asked_for = || matches!(self.answers.get(&key.1.ip()), None | Some(Err(Unresolved::NeighbourPending { .. })));
        match self.condition(key).state {
            State::Unknown => true,
            state => state.keeps_flows() && !self.last_ways.contains_key(&key.1.ip()) && is_way_asked_for(),
        }
    }

    /// Forgets what sources said that are configured no more.
    pub fn forget_sources(&mut self, config: &Config) {
        for service in &config.services {
            if let Some(by_source) = self.discovered.get_mut(&service.name) {
                by_source.retain(|&kind, _| service.has_source(kind));
            }
        }
    }

    /// Forgets what concerns no backend any more.
    pub fn retain(&mut self, desired: &Desired) {
        let is_wanted = |(name, endpoint): &BackendKey| {
            desired.services.get(name).is_some_and(|service| service.backends.contains_key(endpoint))
        };
        self.health.retain(|key, _| is_wanted(key));
        self.adopted_alive.retain(is_wanted);
        self.discovered.retain(|name, _| desired.services.contains_key(name));
        let addresses = addresses(desired);
        self.answers.retain(|address, _| addresses.contains(address));
        self.last_ways.retain(|address, _| addresses.contains(address));
    }
}

/// All that should hold.
pub fn assemble(config: &Config, findings: &Findings) -> Desired {
    let mut merged = merge(config, findings);
    let service = |service: &config::Service| {
        let weights = merged.weights.remove(&service.name).unwrap_or_default();
        (service.name.clone(), assemble_service(service, weights, findings))
    };
    Desired {
        services: config.services.iter().map(service).collect(),
        ingress: findings.ingress.clone(),
        admission: config.admission.clone(),
        watchdog: config.watchdog,
        pool: config.pool.clone(),
    }
}

/// Discovered endpoints that cannot be backends, for what the rest of the configuration says, and why.
pub type Refused = BTreeMap<(ServiceName, discovery::Kind), BTreeMap<SocketAddr, &'static str>>;

/// All of these, by service and source.
pub fn refused(config: &Config, findings: &Findings) -> Refused {
    merge(config, findings).refused
}

/// Which sources name each backend of a service, with those that wrote it down themselves first.
pub fn sources(service: &config::Service, findings: &Findings) -> BTreeMap<SocketAddr, Vec<&'static str>> {
    let is_in_file = |endpoint| service.backends.iter().any(|backend| backend.endpoint == endpoint);
    let fixed = findings.overrides.fixed(service).into_iter().map(|backend| backend.endpoint);
    let mut sources: BTreeMap<SocketAddr, Vec<&'static str>> =
        fixed.map(|endpoint| (endpoint, vec![if is_in_file(endpoint) { "fixed" } else { "runtime" }])).collect();
    for (kind, backends) in findings.discovered.get(&service.name).into_iter().flatten() {
        for endpoint in backends.keys() {
            sources.entry(*endpoint).or_default().push(kind.label());
        }
    }
    sources
}

/// What is written down of each backend by the first to name it, whatever has become of it: its own weight, or that set at runtime,
/// its priority and its zone.
pub fn written(service: &config::Service, findings: &Findings) -> BTreeMap<SocketAddr, config::Backend> {
    let fixed = findings.overrides.fixed(service).into_iter();
    let mut written: BTreeMap<SocketAddr, config::Backend> = fixed.map(|backend| (backend.endpoint, backend)).collect();
    for (kind, backends) in findings.discovered.get(&service.name).into_iter().flatten() {
        let Some(rank) = service.ranks.get(kind) else { continue };
        for (&endpoint, &weight) in backends {
            let backend = || config::Backend { endpoint, weight, tier: rank.tier, zone: rank.zone.clone() };
            written.entry(endpoint).or_insert_with(backend);
        }
    }
    for backend in written.values_mut() {
        let set = findings.overrides.backend(&service.name, backend.endpoint).and_then(|set| set.weight.as_ref());
        backend.weight = set.map_or(backend.weight, |set| set.value);
    }
    written
}

/// The configuration's backends and all sources' together.
struct Merged {
    weights: BTreeMap<ServiceName, discovery::Backends>,
    refused: Refused,
}

fn merge(config: &Config, findings: &Findings) -> Merged {
    let vips: BTreeSet<IpAddr> = config.services.iter().map(|service| service.vip).collect();
    // Fixed backends come first, for the configuration was checked; what is discovered and collides is left out.
    let mut nat_owners = NatOwners::default();
    for service in config.services.iter().filter(|service| service.forward == Forward::Nat) {
        for backend in findings.overrides.fixed(service) {
            nat_owners.claim(service, backend.endpoint);
        }
    }
    let mut merged = Merged { weights: BTreeMap::new(), refused: Refused::new() };
    for service in &config.services {
        let mut weights: discovery::Backends =
            findings.overrides.fixed(service).into_iter().map(|backend| (backend.endpoint, backend.weight)).collect();
        // In the order of sources: the first to name a backend has given it its weight.
        let found = findings.discovered.get(&service.name).into_iter().flatten();
        for (&kind, backends) in found.filter(|(kind, _)| service.has_source(**kind)) {
            for (&endpoint, &weight) in backends {
                let reason = if vips.contains(&endpoint.ip()) {
                    "it is a VIP"
                } else if config.pool.addresses.contains(&endpoint.ip()) {
                    "it is an address of the pool of full NAT"
                } else if service.forward == Forward::Nat && !nat_owners.claim(service, endpoint) {
                    "another nat service has it: its replies could not be told apart"
                } else {
                    weights.entry(endpoint).or_insert(weight);
                    continue;
                };
                merged.refused.entry((service.name.clone(), kind)).or_default().insert(endpoint, reason);
            }
        }
        merged.weights.insert(service.name.clone(), weights);
    }
    merged
}

/// Who forwards by NAT to an endpoint: replies from there must have one owner.
#[derive(Default)]
struct NatOwners<'c>(BTreeMap<(IpAddr, Protocol), BTreeMap<u16, &'c ServiceName>>);

impl<'c> NatOwners<'c> {
    /// Whether the endpoint is the service's, now that it was asked for. Port 0 is every port, and overlaps with each.
    fn claim(&mut self, service: &'c config::Service, endpoint: SocketAddr) -> bool {
        let ports = self.0.entry((endpoint.ip(), service.protocol)).or_default();
        let overlaps = |port: u16| port == endpoint.port() || port == 0 || endpoint.port() == 0;
        let is_free = ports.iter().all(|(&port, &owner)| owner == &service.name || !overlaps(port));
        if is_free {
            ports.insert(endpoint.port(), &service.name);
        }
        is_free
    }
}

fn assemble_service(service: &config::Service, weights: discovery::Backends, findings: &Findings) -> Service {
    let backends = weights.into_iter().map(|(endpoint, weight)| {
        let is_refused = behind_gateway(service.forward, endpoint.ip(), findings).is_some();
        let next_hop = findings.last_ways.get(&endpoint.ip()).filter(|_| !is_refused).map(|way| way.hop);
        let mut backend = Backend { weight, alive: false, is_undecided: true, next_hop };
        refresh(findings, &service.name, endpoint, &mut backend);
        (endpoint, backend)
    });
    Service {
        vip: service.vip,
        port: service.port,
        protocol: service.protocol,
        algorithm: service.algorithm,
        hashing: service.hashing,
        forward: service.forward,
        gue_port: service.gue_port,
        mss: service.mss,
        toa: service.toa,
        idle: ticks(service.idle),
        on_down: service.on_down,
        is_tracked: service.is_tracked,
        server_ids: service.server_ids.clone(),
        backends: backends.collect(),
    }
}

/// What a backend's health makes of it, and what was set of it at runtime; all else stays.
pub fn refresh(findings: &Findings, service: &ServiceName, endpoint: SocketAddr, backend: &mut Backend) {
    let key = (service.clone(), endpoint);
    (backend.alive, backend.is_undecided) = (findings.is_alive(&key), findings.is_undecided(&key));
    findings.overrides.amend(service, endpoint, backend);
}

/// A duration in the packet path's unit, rounded up.
pub fn ticks(duration: Duration) -> Tick {
    duration.as_nanos().div_ceil(1 << flow::TICK_SHIFT) as Tick
}

/// The router before a backend that is forwarded to by DSR: it would send each packet back, to the VIP that it is for.
pub fn behind_gateway(forward: Forward, backend: IpAddr, findings: &Findings) -> Option<IpAddr> {
    findings.last_ways.get(&backend).filter(|_| forward == Forward::Dsr)?.gateway
}

/// All backends that DSR cannot reach for a router that is between, with that router.
pub fn behind_gateways(desired: &Desired, findings: &Findings) -> BTreeMap<BackendKey, IpAddr> {
    let backends = desired
        .services
        .iter()
        .flat_map(|(name, service)| service.backends.keys().map(move |endpoint| ((name.clone(), *endpoint), service.forward)));
    backends.filter_map(|(key, forward)| behind_gateway(forward, key.1.ip(), findings).map(|gateway| (key, gateway))).collect()
}

/// Every backend's address.
pub fn addresses(desired: &Desired) -> BTreeSet<IpAddr> {
    desired.services.values().flat_map(|service| service.backends.keys()).map(SocketAddr::ip).collect()
}

#[cfg(test)]
mod tests;
