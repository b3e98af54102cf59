//! The tasks that find things out: a checker for each backend, a watcher for each source, and the next-hop resolver.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::mpsc;

use super::assemble::BackendKey;
use crate::config::Config;
use crate::desired::{Desired, ServiceName};
use crate::discovery::{self, Kind, Place, Source, Watcher};
use crate::failover::Tier;
use crate::health::quota::Quota;
use crate::health::window::Counts;
use crate::health::{self, Check, Checker, Checks, Mode, Probe, Steering};
use crate::nexthop::{RedirectMode, Resolver};

pub struct Followers {
    checkers: BTreeMap<BackendKey, (Checks, Checker)>,
    /// What the checkers of one service share.
    quotas: BTreeMap<ServiceName, Arc<Quota>>,
    watchers: BTreeMap<ServiceName, BTreeMap<Kind, (Source, Place, Watcher)>>,
    resolver: Resolver,
    steering: Steering,
    wanted: BTreeSet<IpAddr>,
    health: mpsc::Sender<health::News>,
    discovery: mpsc::Sender<discovery::News>,
}

impl Followers {
    pub fn new(
        resolver: Resolver,
        steering: Steering,
        health: mpsc::Sender<health::News>,
        discovery: mpsc::Sender<discovery::News>,
    ) -> Self {
        Self {
            checkers: BTreeMap::new(),
            quotas: BTreeMap::new(),
            watchers: BTreeMap::new(),
            resolver,
            steering,
            wanted: BTreeSet::new(),
            health,
            discovery,
        }
    }

    /// Starts what is missing, ends what nobody wants any more, and starts anew what is to be done differently.
    pub fn follow(&mut self, config: &Config, desired: &Desired, addresses: BTreeSet<IpAddr>) {
        if addresses != self.wanted {
            self.resolver.want(addresses.clone());
            self.wanted = addresses;
        }
        let checks: BTreeMap<&ServiceName, &Checks> =
            config.services.iter().map(|service| (&service.name, &service.health)).collect();
        // After the last resort there is nobody that a check could send flows to.
        let unchecked = Checks::new(Mode::default(), vec![Check { probe: Probe::None, ..Check::default() }]);
        let last_resorts: BTreeSet<(&ServiceName, SocketAddr)> = config
            .services
            .iter()
            .flat_map(|service| service.backends.iter().map(move |backend| (&service.name, backend)))
            .filter(|(_, backend)| backend.tier == Tier::Sorry)
            .map(|(name, backend)| (name, backend.endpoint))
            .collect();
        let wanted = |name: &ServiceName, endpoint: SocketAddr| match checks.get(name) {
            Some(_) if last_resorts.contains(&(name, endpoint)) => Some(&unchecked),
            checks => checks.copied(),
        };
        self.checkers.retain(|(name, endpoint), (followed, _)| {
            let is_wanted = desired.services.get(name).is_some_and(|service| service.backends.contains_key(endpoint));
            is_wanted && wanted(name, *endpoint) == Some(followed)
        });
        self.quotas.retain(|name, _| checks.contains_key(name));
        for (name, checks) in &checks {
            self.quotas.entry((*name).clone()).or_default().set_max(checks.ejected_max_percent);
        }
        for (name, service) in &desired.services {
            for &endpoint in service.backends.keys() {
                let Some(wanted) = wanted(name, endpoint) else { continue };
                let quota = self.quotas.get(name).filter(|_| !last_resorts.contains(&(name, endpoint)));
                self.checkers.entry((name.clone(), endpoint)).or_insert_with(|| {
                    let (name, quota, news) = (name.clone(), quota.cloned(), self.health.clone());
                    (wanted.clone(), health::spawn(name, endpoint, wanted.clone(), quota, news, &self.steering))
                });
            }
        }
        self.watch(config);
    }

    fn watch(&mut self, config: &Config) {
        let mut before = std::mem::take(&mut self.watchers);
        for service in &config.services {
            let (name, place) = (&service.name, Place::of(service));
            let mut before = before.remove(name).unwrap_or_default();
            for source in service.sources() {
                let same = before.remove(&source.kind()).filter(|(followed, at, _)| *followed == source && *at == place);
                let watcher = same.unwrap_or_else(|| {
                    let watcher = discovery::spawn(name.clone(), source.clone(), place, self.discovery.clone());
                    (source, place, watcher)
                });
                self.watchers.entry(name.clone()).or_default().insert(watcher.0.kind(), watcher);
            }
        }
    }

    /// How the program is attached from now on, which decides who takes what it redirects.
    pub fn set_redirect_mode(&self, mode: RedirectMode) {
        self.resolver.set_mode(mode);
    }

    pub fn checks(&self, key: &BackendKey) -> bool {
        self.checkers.contains_key(key)
    }

    pub fn watches(&self, service: &ServiceName, source: Kind) -> bool {
        self.watchers.get(service).is_some_and(|watchers| watchers.contains_key(&source))
    }

    /// Tells a backend's checker what its flows have shown.
    pub fn note_flows(&self, key: &BackendKey, counts: Counts) {
        if let Some((_, checker)) = self.checkers.get(key) {
            checker.note_flows(counts);
        }
    }

    pub fn check(&self, key: &BackendKey) -> Option<health::Status> {
        self.checkers.get(key).map(|(_, checker)| checker.status())
    }

    /// How each of a service's sources goes.
    pub fn discovery(&self, service: &ServiceName) -> Vec<discovery::Status> {
        let watchers = self.watchers.get(service).into_iter().flatten();
        watchers.map(|(_, (_, _, watcher))| watcher.status()).collect()
    }
}
