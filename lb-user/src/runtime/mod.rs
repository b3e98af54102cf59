//! What was set at runtime, over the configuration: weights, drains, who is out, who came and who went. Pure, but for
//! [`state`], which keeps it in a file.
//!
//! It is laid over the configuration each time that [`assemble`](crate::daemon::assemble) looks, rather than written into a
//! copy of it: so a reload brings what is new in the file, and a reset needs nothing but to forget.

mod change;
mod deadlines;
mod name;
pub mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use change::{Change, Known, Outcome, Refusal, Refused, Target};
pub use deadlines::{BootMs, Clocks, Deadlines};
pub use name::BackendName;
pub(crate) use state::load;

use crate::config::{self, Config};
use crate::daemon::BackendKey;
use crate::desired::{Backend, ServiceName};
use crate::failover::{Failback, Tier, Zone};

/// Milliseconds since 1970.
pub type UnixMs = u64;

/// The time by the wall clock, which may jump.
pub fn unix_ms() -> UnixMs {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as UnixMs
}

/// All that was set, by service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Overrides(BTreeMap<ServiceName, ServiceOverrides>);

/// What was set of one service, and of its backends.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServiceOverrides {
    /// Nobody takes new flows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Mark>,
    /// The priority that took over, and that flows stay with though a lesser one may be healthy again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Setting<u8>>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub backends: BTreeMap<SocketAddr, BackendOverrides>,
}

/// What was set of one backend.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackendOverrides {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence: Option<Setting<Presence>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<Setting<u16>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admin: Option<Setting<Admin>>,
}

/// A value that was set, by whom and when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setting<T> {
    pub value: T,
    pub by: String,
    pub at_ms: UnixMs,
}

/// Who set something, and when.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    pub by: String,
    pub at_ms: UnixMs,
}

impl Mark {
    fn set<T>(&self, value: T) -> Setting<T> {
        Setting { value, by: self.by.clone(), at_ms: self.at_ms }
    }
}

/// Whether a backend is there, where that is not what the file says.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Presence {
    /// Not in the file, but there.
    Added {
        weight: u16,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        zone: Option<Zone>,
    },
    /// In the file, but not there.
    Removed,
}

/// Why a backend takes no new flows though the file would have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Admin {
    /// Its flows stay until they end, or until then, when it is disabled.
    Drain {
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_ms: Option<UnixMs>,
    },
    /// As if it were down.
    Disable,
}

impl Admin {
    pub fn word(self) -> &'static str {
        match self {
            Self::Drain { .. } => "drain",
            Self::Disable => "disable",
        }
    }
}

impl BackendOverrides {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    fn len(&self) -> usize {
        usize::from(self.presence.is_some()) + usize::from(self.weight.is_some()) + usize::from(self.admin.is_some())
    }

    pub fn admin(&self) -> Option<Admin> {
        self.admin.as_ref().map(|setting| setting.value)
    }

    /// Who set something last, and when.
    pub fn last(&self) -> Option<(&str, UnixMs)> {
        let presence = self.presence.as_ref().map(|set| (&*set.by, set.at_ms));
        let weight = self.weight.as_ref().map(|set| (&*set.by, set.at_ms));
        let admin = self.admin.as_ref().map(|set| (&*set.by, set.at_ms));
        [presence, weight, admin].into_iter().flatten().max_by_key(|(_, at_ms)| *at_ms)
    }

    fn is_removed(&self) -> bool {
        matches!(self.presence, Some(Setting { value: Presence::Removed, .. }))
    }

    /// The weight and the zone that it was added with.
    fn added(&self) -> Option<(u16, Option<&Zone>)> {
        match &self.presence.as_ref()?.value {
            Presence::Added { weight, zone } => Some((*weight, zone.as_ref())),
            Presence::Removed => None,
        }
    }
}

impl Overrides {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many single things are set.
    pub fn len(&self) -> usize {
        let of = |service: &ServiceOverrides| {
            let of_itself = usize::from(service.maintenance.is_some()) + usize::from(service.held.is_some());
            of_itself + service.backends.values().map(BackendOverrides::len).sum::<usize>()
        };
        self.0.values().map(of).sum()
    }

    pub fn service(&self, name: &ServiceName) -> Option<&ServiceOverrides> {
        self.0.get(name)
    }

    /// The priority that a service's flows stay with until somebody brings them back.
    pub fn held(&self, name: &ServiceName) -> Option<u8> {
        self.0.get(name)?.held.as_ref().map(|held| held.value)
    }

    /// Notes that a tier has taken over, or that this is over. Failover itself has a say here, as somebody at the API has.
    pub fn hold(&mut self, name: &ServiceName, held: Option<u8>, at_ms: UnixMs) {
        let mark = Mark { by: "failover".to_owned(), at_ms };
        self.entry(name).held = held.map(|priority| mark.set(priority));
        self.tidy();
    }

    pub fn backend(&self, name: &ServiceName, endpoint: SocketAddr) -> Option<&BackendOverrides> {
        self.0.get(name)?.backends.get(&endpoint)
    }

    /// The backends that a service has without DNS: those of the file that were not removed, and those that were added.
    pub fn fixed(&self, service: &config::Service) -> Vec<config::Backend> {
        let set = self.0.get(&service.name);
        let is_removed = |backend: &&config::Backend| {
            set.is_some_and(|set| set.backends.get(&backend.endpoint).is_some_and(BackendOverrides::is_removed))
        };
        let of_file = service.backends.iter().filter(|backend| !is_removed(backend)).cloned();
        let is_in_file = |endpoint| service.backends.iter().any(|backend| backend.endpoint == endpoint);
        let added = set.into_iter().flat_map(|set| &set.backends).filter_map(|(&endpoint, set)| {
            let (weight, zone) = set.added().filter(|_| !is_in_file(endpoint))?;
            Some(config::Backend { endpoint, weight, tier: Tier::default(), zone: zone.cloned() })
        });
        of_file.chain(added).collect()
    }

    /// Lays what was set of a backend over what the file and the findings make of it.
    pub fn amend(&self, name: &ServiceName, endpoint: SocketAddr, backend: &mut Backend) {
        let Some(service) = self.0.get(name) else { return };
        let set = service.backends.get(&endpoint);
        if let Some(weight) = set.and_then(|set| set.weight.as_ref()) {
            backend.weight = weight.value;
        }
        match set.and_then(BackendOverrides::admin) {
            Some(Admin::Drain { .. }) => backend.weight = 0,
            // Known to be out: what is undecided might keep the flows that it has.
            Some(Admin::Disable) => (backend.alive, backend.is_undecided) = (false, false),
            None => {}
        }
        if service.maintenance.is_some() {
            backend.weight = 0;
        }
    }

    /// Drains that end by themselves, and when.
    pub fn deadlines(&self) -> impl Iterator<Item = (BackendKey, UnixMs)> + '_ {
        self.backends().filter_map(|(name, endpoint, set)| match set.admin()? {
            Admin::Drain { until_ms: Some(until_ms) } => Some(((name.clone(), endpoint), until_ms)),
            _ => None,
        })
    }

    /// With these backends disabled, if they still drain.
    #[must_use]
    pub fn expired(&self, due: &BTreeSet<BackendKey>, at_ms: UnixMs) -> Self {
        let mut new = self.clone();
        for (name, endpoint) in due {
            let set = new.0.get_mut(name).and_then(|service| service.backends.get_mut(endpoint));
            if let Some(admin) = set.and_then(|set| set.admin.as_mut())
                && let Admin::Drain { until_ms: Some(_) } = admin.value
            {
                *admin = Setting { value: Admin::Disable, by: format!("the deadline of the drain by {}", admin.by), at_ms };
            }
        }
        new
    }

    /// Every service of which, or of whose backends, something is set.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.0.keys()
    }

    /// Every backend of which something is set.
    pub fn backends(&self) -> impl Iterator<Item = (&ServiceName, SocketAddr, &BackendOverrides)> {
        self.0.iter().flat_map(|(name, service)| service.backends.iter().map(move |(&endpoint, set)| (name, endpoint, set)))
    }

    /// What still means something under a configuration, and in words what does not. Backends that only DNS could name stay.
    #[must_use]
    pub fn under(&self, config: &Config) -> (Self, Vec<String>) {
        let mut kept = Self::default();
        let mut forgotten = Vec::new();
        for (name, set) in &self.0 {
            let Some(service) = config.services.iter().find(|service| service.name == *name) else {
                forgotten.push(format!("{name}: what was set at runtime, for the service is no more"));
                continue;
            };
            let held = set.held.clone().filter(|held| {
                let is_there = service.tiers().any(|tier| tier == Tier::Priority(held.value));
                is_there && service.failover.failback == Failback::Manual
            });
            if set.held.is_some() && held.is_none() {
                forgotten.push(format!("{name}: the priority that took over, for there is no manual failback to it any more"));
            }
            kept.0
                .insert(name.clone(), ServiceOverrides { maintenance: set.maintenance.clone(), held, backends: BTreeMap::new() });
            for (&endpoint, set) in &set.backends {
                match still_valid(endpoint, set, service, config) {
                    Ok(set) => drop(kept.entry(name).backends.insert(endpoint, set)),
                    Err(why) => forgotten.push(format!("{name} {endpoint}: what was set at runtime, for {why}")),
                }
            }
        }
        kept.tidy();
        (kept, forgotten)
    }

    /// Backends of which something is set, and that neither the file nor DNS names at present.
    pub fn absent(&self, known: Known<'_>) -> Vec<BackendKey> {
        let is_named = |name: &ServiceName, endpoint: SocketAddr| {
            let service = known.config.services.iter().find(|service| service.name == *name);
            let is_in_file = service.is_some_and(|service| service.backends.iter().any(|backend| backend.endpoint == endpoint));
            is_in_file || known.discovered_weight(name, endpoint).is_some()
        };
        // One that was added is there, and one that was removed is in the file.
        let unnamed = self.backends().filter(|(name, endpoint, set)| set.presence.is_none() && !is_named(name, *endpoint));
        unnamed.map(|(name, endpoint, _)| (name.clone(), endpoint)).collect()
    }

    /// Without what was set of these backends.
    #[must_use]
    pub fn without(&self, gone: &BTreeSet<BackendKey>) -> Self {
        let mut new = self.clone();
        for (name, endpoint) in gone {
            if let Some(service) = new.0.get_mut(name) {
                service.backends.remove(endpoint);
            }
        }
        new.tidy();
        new
    }

    fn entry(&mut self, name: &ServiceName) -> &mut ServiceOverrides {
        self.0.entry(name.clone()).or_default()
    }

    /// Drops what says nothing.
    fn tidy(&mut self) {
        for service in self.0.values_mut() {
            service.backends.retain(|_, set| !set.is_empty());
        }
        self.0.retain(|_, service| *service != ServiceOverrides::default());
    }
}

/// What is left of a backend's settings under another configuration, or why nothing is.
fn still_valid(
    endpoint: SocketAddr,
    set: &BackendOverrides,
    service: &config::Service,
    config: &Config,
) -> Result<BackendOverrides, String> {
    let is_in_file = service.backends.iter().any(|backend| backend.endpoint == endpoint);
    match &set.presence {
        Some(Setting { value: Presence::Added { .. }, .. }) if is_in_file => {
            let left = BackendOverrides { presence: None, ..set.clone() };
            if left.is_empty() { Err("the file has this backend now".into()) } else { Ok(left) }
        }
        Some(Setting { value: Presence::Added { .. }, .. }) => {
            change::place(service, endpoint.ip(), Some(endpoint.port()), config).map_err(|refusal| refusal.to_string())?;
            match config.services.iter().find(|other| change::is_nat_backend_of(service, endpoint, other, &other.backends)) {
                Some(other) => Err(format!("it is a backend of the nat service {} now", other.name)),
                None => Ok(set.clone()),
            }
        }
        _ if is_in_file => Ok(set.clone()),
        Some(_) => Err("the backend is no longer in the file".into()),
        None if service.sources().any(|source| source.may_have(endpoint)) => Ok(set.clone()),
        None => Err("the backend is no longer in the file".into()),
    }
}

#[cfg(test)]
mod tests;
