//! The tasks that find things out: a checker for each backend, a watcher for each source, and the next-hop resolver.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use tokio::sync::mpsc;

use super::assemble::BackendKey;
use crate::config::Config;
use crate::desired::{Desired, ServiceName};
use crate::discovery::{self, Discovered, Kind, Place, Source, Watcher};
use crate::health::{self, Checker, Checks, Transition};
use crate::nexthop::{RedirectMode, Resolver};

pub struct Followers {
    checkers: BTreeMap<BackendKey, (Checks, Checker)>,
    watchers: BTreeMap<ServiceName, BTreeMap<Kind, (Source, Place, Watcher)>>,
    resolver: Resolver,
    wanted: BTreeSet<IpAddr>,
    transitions: mpsc::Sender<Transition>,
    discovered: mpsc::Sender<Discovered>,
}

impl Followers {
    pub fn new(resolver: Resolver, transitions: mpsc::Sender<Transition>, discovered: mpsc::Sender<Discovered>) -> Self {
        Self { checkers: BTreeMap::new(), watchers: BTreeMap::new(), resolver, wanted: BTreeSet::new(), transitions, discovered }
    }

    /// Starts what is missing, ends what nobody wants any more, and starts anew what is to be done differently.
    pub fn follow(&mut self, config: &Config, desired: &Desired, addresses: BTreeSet<IpAddr>) {
        if addresses != self.wanted {
            self.resolver.want(addresses.clone());
            self.wanted = addresses;
        }
        let checks: BTreeMap<&ServiceName, &Checks> =
            config.services.iter().map(|service| (&service.name, &service.health)).collect();
        self.checkers.retain(|(name, endpoint), (followed, _)| {
            let is_wanted = desired.services.get(name).is_some_and(|service| service.backends.contains_key(endpoint));
            is_wanted && checks.get(name) == Some(&&*followed)
        });
        for (name, service) in &desired.services {
            let Some(&wanted) = checks.get(name) else { continue };
            for &endpoint in service.backends.keys() {
                self.checkers.entry((name.clone(), endpoint)).or_insert_with(|| {
                    (wanted.clone(), health::spawn(name.clone(), endpoint, wanted.clone(), self.transitions.clone()))
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
                    let watcher = discovery::spawn(name.clone(), source.clone(), place, self.discovered.clone());
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

    pub fn check(&self, key: &BackendKey) -> Option<health::Status> {
        self.checkers.get(key).map(|(_, checker)| checker.status())
    }

    /// How each of a service's sources goes.
    pub fn discovery(&self, service: &ServiceName) -> Vec<discovery::Status> {
        let watchers = self.watchers.get(service).into_iter().flatten();
        watchers.map(|(_, (_, _, watcher))| watcher.status()).collect()
    }
}
