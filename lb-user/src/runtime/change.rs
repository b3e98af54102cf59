//! One change at a time: what it makes of what was set before, or why it is refused.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::{Admin, BackendName, BackendOverrides, Mark, Overrides, Presence, ServiceOverrides};
use crate::config::{self, Config};
use crate::desired::{Forward, ServiceName};
use crate::discovery;
use crate::failover::{Failback, Spread, Zone, ZoneRules};

/// Names in a message; a service may have thousands.
const N_NAMED: usize = 8;

/// What somebody wants to be otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "change", rename_all = "lowercase")]
pub enum Change {
    /// No new flows; those that it has stay until they end or the deadline.
    Drain {
        #[serde(flatten)]
        target: Target,
        #[serde(serialize_with = "in_words", skip_serializing_if = "Option::is_none")]
        deadline: Option<Duration>,
    },
    /// No more drained nor disabled.
    Enable {
        #[serde(flatten)]
        target: Target,
    },
    /// Out at once, as if it were down.
    Disable {
        #[serde(flatten)]
        target: Target,
    },
    Weight {
        #[serde(flatten)]
        target: Target,
        weight: u16,
    },
    Add {
        #[serde(flatten)]
        target: Target,
        #[serde(skip_serializing_if = "Option::is_none")]
        weight: Option<u16>,
        #[serde(skip_serializing_if = "Option::is_none")]
        zone: Option<Zone>,
    },
    Remove {
        #[serde(flatten)]
        target: Target,
    },
    /// Whether nobody of a service takes new flows.
    Maintenance { service: String, on: bool },
    /// Back to the first priority that has a healthy backend.
    Failback { service: String },
    /// Back to the file: one backend, one service, or all.
    Reset {
        #[serde(skip_serializing_if = "Option::is_none")]
        service: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        backend: Option<BackendName>,
    },
}

/// One backend of one service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Target {
    pub service: String,
    pub backend: BackendName,
}

fn in_words<S: Serializer>(deadline: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match deadline {
        Some(deadline) => serializer.collect_str(&humantime::format_duration(*deadline)),
        None => serializer.serialize_none(),
    }
}

/// Who is there, apart from what was set.
#[derive(Clone, Copy, Debug)]
pub struct Known<'k> {
    pub config: &'k Config,
    /// By service, what each source last gave.
    pub discovered: &'k BTreeMap<ServiceName, BTreeMap<discovery::Kind, discovery::Backends>>,
}

impl Known<'_> {
    /// The weight that a source gives a backend, if one names it: of several, the one that counts.
    pub fn discovered_weight(&self, name: &ServiceName, endpoint: SocketAddr) -> Option<u16> {
        self.discovered.get(name)?.values().find_map(|backends| backends.get(&endpoint)).copied()
    }
}

/// What comes of a change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub overrides: Overrides,
    /// What is different now, a line each; none if all was so already.
    pub lines: Vec<String>,
}

/// What kind of refusal it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// What it is about is not there.
    Unknown,
    /// It contradicts what is there.
    Conflict,
    /// It could never be.
    Senseless,
}

/// Why a change is not made. Nothing is different then.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    #[error("no service is named {name:?}; there is {known}")]
    NoService { name: String, known: String },
    #[error("service {service} has no backend {backend}; it has {known}")]
    NoBackend { service: ServiceName, backend: BackendName, known: String },
    #[error("service {service} has several backends at {backend}: name one of {known}")]
    SeveralBackends { service: ServiceName, backend: BackendName, known: String },
    #[error("backend {endpoint} of service {service} was removed at runtime; `xlb add` or `xlb reset` brings it back")]
    Removed { service: ServiceName, endpoint: SocketAddr },
    #[error("service {service} has the backend {endpoint} already")]
    AlreadyThere { service: ServiceName, endpoint: SocketAddr },
    #[error("backend {endpoint} of service {service} was discovered, and would be again: disable it, or change its source")]
    Discovered { service: ServiceName, endpoint: SocketAddr },
    #[error("{address} cannot be a backend of service {service}: {why}")]
    Misplaced { service: ServiceName, address: IpAddr, why: String },
    #[error("{endpoint} is a backend of the nat service {other} already: replies could not be told apart")]
    SharedNatBackend { endpoint: SocketAddr, other: ServiceName },
    #[error("service {service} goes back by itself: only with failback = \"manual\" is there anything to bring back")]
    NoManualFailback { service: ServiceName },
    #[error("a backend to reset needs its service: xlb reset SERVICE BACKEND")]
    BackendWithoutService,
}

impl Refusal {
    pub fn kind(&self) -> Refused {
        match self {
            Self::NoService { .. } | Self::NoBackend { .. } => Refused::Unknown,
            Self::Misplaced { .. } | Self::BackendWithoutService => Refused::Senseless,
            Self::NoManualFailback { .. }
            | Self::SeveralBackends { .. }
            | Self::Removed { .. }
            | Self::AlreadyThere { .. }
            | Self::Discovered { .. }
            | Self::SharedNatBackend { .. } => Refused::Conflict,
        }
    }
}

impl Overrides {
    /// What is set after a change.
    ///
    /// # Errors
    /// If it concerns nobody that is there, or contradicts what is.
    pub fn after(&self, change: &Change, known: Known<'_>, mark: &Mark) -> Result<Outcome, Refusal> {
        match change {
            Change::Drain { target, deadline } => self.drain(target, *deadline, known, mark),
            Change::Enable { target } => {
                let (service, endpoint) = self.find(target, known)?;
                let mut new = self.clone();
                let before = new.backend_mut(service, endpoint).admin.take();
                let lines = before.map(|before| {
                    format!("{} {endpoint}: enabled; it was set to {} by {}", service.name, before.value.word(), before.by)
                });
                Ok(new.outcome(lines))
            }
            Change::Disable { target } => {
                let (service, endpoint) = self.find(target, known)?;
                let mut new = self.clone();
                let set = new.backend_mut(service, endpoint);
                if set.admin() == Some(Admin::Disable) {
                    return Ok(new.outcome(None));
                }
                set.admin = Some(mark.set(Admin::Disable));
                Ok(new.outcome(Some(format!("{} {endpoint}: disabled, as if it were down", service.name))))
            }
            Change::Weight { target, weight } => {
                let (service, endpoint) = self.find(target, known)?;
                let mut new = self.clone();
                let set = new.backend_mut(service, endpoint);
                if set.weight.as_ref().is_some_and(|set| set.value == *weight) {
                    return Ok(new.outcome(None));
                }
                let before = set.weight.as_ref().map(|set| set.value).or(set.added().map(|(weight, _)| weight));
                let before = before.unwrap_or_else(|| configured_weight(service, endpoint, known));
                set.weight = Some(mark.set(*weight));
                Ok(new.outcome(Some(format!("{} {endpoint}: weight {weight}, was {before}", service.name))))
            }
            Change::Add { target, weight, zone } => self.add(target, *weight, zone.as_ref(), known, mark),
            Change::Remove { target } => self.remove(target, known, mark),
            Change::Maintenance { service, on } => {
                let service = known.service(service)?;
                let mut new = self.clone();
                let maintenance = &mut new.entry(&service.name).maintenance;
                let line = match (*on, maintenance.is_some()) {
                    (true, false) => format!("{}: in maintenance, nobody takes new connections", service.name),
                    (false, true) => format!("{}: no longer in maintenance", service.name),
                    _ => return Ok(new.outcome(None)),
                };
                *maintenance = on.then(|| mark.clone());
                Ok(new.outcome(Some(line)))
            }
            Change::Failback { service } => {
                let service = known.service(service)?;
                if service.failover.failback == Failback::Auto {
                    return Err(Refusal::NoManualFailback { service: service.name.clone() });
                }
                let mut new = self.clone();
                let held = new.entry(&service.name).held.take();
                let line = held.map(|held| format!("{}: no longer held at priority {}", service.name, held.value));
                Ok(new.outcome(line))
            }
            Change::Reset { service, backend } => self.reset(service.as_deref(), *backend, known),
        }
    }

    fn drain(&self, target: &Target, deadline: Option<Duration>, known: Known<'_>, mark: &Mark) -> Result<Outcome, Refusal> {
        let (service, endpoint) = self.find(target, known)?;
        let mut new = self.clone();
        let set = new.backend_mut(service, endpoint);
        let until_ms = deadline.map(|deadline| mark.at_ms.saturating_add(deadline.as_millis() as u64));
        if set.admin() == Some(Admin::Drain { until_ms }) {
            return Ok(new.outcome(None));
        }
        set.admin = Some(mark.set(Admin::Drain { until_ms }));
        let stay = match deadline {
            Some(deadline) => format!("for {} at most, then it is disabled", humantime::format_duration(deadline)),
            None => "until they end".to_owned(),
        };
        let line = format!("{} {endpoint}: drains; no new connections, established ones stay {stay}", service.name);
        Ok(new.outcome(Some(line)))
    }

    fn add(
        &self,
        target: &Target,
        weight: Option<u16>,
        zone: Option<&Zone>,
        known: Known<'_>,
        mark: &Mark,
    ) -> Result<Outcome, Refusal> {
        let service = known.service(&target.service)?;
        let name = &service.name;
        let endpoint = place(service, target.backend.address, target.backend.port, known.config)?;
        let mut new = self.clone();
        if self.present(service, known).contains(&endpoint) {
            return Err(Refusal::AlreadyThere { service: name.clone(), endpoint });
        }
        let services = &known.config.services;
        if let Some(other) = services.iter().find(|other| is_nat_backend_of(service, endpoint, other, &self.fixed(other))) {
            return Err(Refusal::SharedNatBackend { endpoint, other: other.name.clone() });
        }
        let in_file = service.backends.iter().find(|backend| backend.endpoint == endpoint);
        if let Some(why) = misplaced_in_zone(service, in_file, zone) {
            return Err(Refusal::Misplaced { service: name.clone(), address: endpoint.ip(), why });
        }
        let set = new.backend_mut(service, endpoint);
        let weight = match in_file {
            Some(in_file) => {
                *set = BackendOverrides { weight: weight.map(|weight| mark.set(weight)), ..BackendOverrides::default() };
                weight.unwrap_or(in_file.weight)
            }
            None => {
                let weight = weight.unwrap_or(1);
                let presence = Presence::Added { weight, zone: zone.cloned() };
                *set = BackendOverrides { presence: Some(mark.set(presence)), ..BackendOverrides::default() };
                weight
            }
        };
        let place = zone.map(|zone| format!(", in zone {zone}")).unwrap_or_default();
        Ok(new.outcome(Some(format!("{name} {endpoint}: added, with weight {weight}{place}"))))
    }

    fn remove(&self, target: &Target, known: Known<'_>, mark: &Mark) -> Result<Outcome, Refusal> {
        let (service, endpoint) = self.find(target, known)?;
        let name = &service.name;
        if known.discovered_weight(name, endpoint).is_some() {
            return Err(Refusal::Discovered { service: name.clone(), endpoint });
        }
        let mut new = self.clone();
        let is_in_file = service.backends.iter().any(|backend| backend.endpoint == endpoint);
        let presence = is_in_file.then(|| mark.set(Presence::Removed));
        *new.backend_mut(service, endpoint) = BackendOverrides { presence, ..BackendOverrides::default() };
        Ok(new.outcome(Some(format!("{name} {endpoint}: removed; connections that it has stay until they end"))))
    }

    fn reset(&self, service: Option<&str>, backend: Option<BackendName>, known: Known<'_>) -> Result<Outcome, Refusal> {
        let mut new = self.clone();
        let forgotten = match (service, backend) {
            (None, Some(_)) => return Err(Refusal::BackendWithoutService),
            (None, None) => std::mem::take(&mut new.0),
            (Some(service), None) => {
                let name = &known.service(service)?.name;
                new.0.remove(name).map(|set| (name.clone(), set)).into_iter().collect()
            }
            (Some(service), Some(backend)) => {
                let target = Target { service: service.to_owned(), backend };
                let (service, endpoint) = self.find_set(&target, known)?;
                let set = new.0.get_mut(&service.name).and_then(|set| set.backends.remove(&endpoint));
                let set = set.map(|set| ServiceOverrides { backends: [(endpoint, set)].into(), ..ServiceOverrides::default() });
                set.map(|set| (service.name.clone(), set)).into_iter().collect::<BTreeMap<_, _>>()
            }
        };
        let mut lines = Vec::new();
        for (name, set) in &forgotten {
            lines.extend(set.maintenance.iter().map(|_| format!("{name}: no longer in maintenance")));
            lines.extend(set.held.iter().map(|held| format!("{name}: no longer held at priority {}", held.value)));
            lines.extend(set.backends.keys().map(|endpoint| format!("{name} {endpoint}: as the file says")));
        }
        Ok(new.outcome(lines))
    }

    fn backend_mut(&mut self, service: &config::Service, endpoint: SocketAddr) -> &mut BackendOverrides {
        self.entry(&service.name).backends.entry(endpoint).or_default()
    }

    fn outcome(mut self, lines: impl IntoIterator<Item = String>) -> Outcome {
        self.tidy();
        Outcome { overrides: self, lines: lines.into_iter().collect() }
    }

    /// All backends that a service has now.
    fn present(&self, service: &config::Service, known: Known<'_>) -> BTreeSet<SocketAddr> {
        let found = known
            .discovered
            .get(&service.name)
            .into_iter()
            .flat_map(|sources| sources.values())
            .flat_map(BTreeMap::keys)
            .copied();
        self.fixed(service).iter().map(|backend| backend.endpoint).chain(found).collect()
    }

    /// A backend that is there.
    fn find<'k>(&self, target: &Target, known: Known<'k>) -> Result<(&'k config::Service, SocketAddr), Refusal> {
        let service = known.service(&target.service)?;
        let removed = self.0.get(&service.name).into_iter().flat_map(|set| &set.backends);
        let removed = removed.filter(|(_, set)| set.is_removed()).map(|(endpoint, _)| *endpoint);
        let removed = removed.into_iter().find(|endpoint| target.backend.matches(*endpoint));
        match pick(service, target.backend, &self.present(service, known)) {
            Err(Refusal::NoBackend { .. }) if removed.is_some() => {
                let (service, endpoint) = (service.name.clone(), removed.unwrap_or((target.backend.address, 0).into()));
                Err(Refusal::Removed { service, endpoint })
            }
            picked => Ok((service, picked?)),
        }
    }

    /// A backend that is there, or of which something is set.
    fn find_set<'k>(&self, target: &Target, known: Known<'k>) -> Result<(&'k config::Service, SocketAddr), Refusal> {
        let service = known.service(&target.service)?;
        let set = self.0.get(&service.name).into_iter().flat_map(|set| set.backends.keys().copied());
        let all = self.present(service, known).into_iter().chain(set).collect();
        Ok((service, pick(service, target.backend, &all)?))
    }
}

impl<'k> Known<'k> {
    fn service(&self, name: &str) -> Result<&'k config::Service, Refusal> {
        let services = &self.config.services;
        services.iter().find(|service| &*service.name == name).ok_or_else(|| Refusal::NoService {
            name: name.to_owned(),
            known: list(services.iter().map(|service| service.name.to_string())),
        })
    }
}

fn pick(service: &config::Service, name: BackendName, all: &BTreeSet<SocketAddr>) -> Result<SocketAddr, Refusal> {
    let matching: Vec<SocketAddr> = all.iter().copied().filter(|endpoint| name.matches(*endpoint)).collect();
    let service = service.name.clone();
    let listed = |endpoints: &mut dyn Iterator<Item = &SocketAddr>| list(endpoints.map(ToString::to_string));
    match matching[..] {
        [endpoint] => Ok(endpoint),
        [] => Err(Refusal::NoBackend { service, backend: name, known: listed(&mut all.iter()) }),
        _ => Err(Refusal::SeveralBackends { service, backend: name, known: listed(&mut matching.iter()) }),
    }
}

fn list(names: impl Iterator<Item = String>) -> String {
    let mut names: Vec<String> = names.collect();
    let n_more = names.len().saturating_sub(N_NAMED);
    names.truncate(N_NAMED);
    match (names.is_empty(), n_more) {
        (true, _) => "none".to_owned(),
        (false, 0) => names.join(", "),
        (false, n_more) => format!("{}, and {n_more} more", names.join(", ")),
    }
}

fn configured_weight(service: &config::Service, endpoint: SocketAddr, known: Known<'_>) -> u16 {
    let fixed = service.backends.iter().find(|backend| backend.endpoint == endpoint).map(|backend| backend.weight);
    fixed.or_else(|| known.discovered_weight(&service.name, endpoint)).unwrap_or(1)
}

/// Why a backend that is added cannot be in a zone, or in none, if so.
fn misplaced_in_zone(service: &config::Service, in_file: Option<&config::Backend>, zone: Option<&Zone>) -> Option<String> {
    match (in_file, &service.zones) {
        (Some(in_file), _) if zone.is_some() && in_file.zone.as_ref() != zone => {
            Some("the file has it, and says what zone it is in: leave the zone out".to_owned())
        }
        (None, Some(ZoneRules { spread: Spread::Weights(weights), .. }))
            if zone.is_none_or(|zone| !weights.contains_key(zone)) =>
        {
            let zones = list(weights.keys().map(ToString::to_string));
            Some(format!("zones have weights there, and it would take nothing: name its zone, one of {zones}"))
        }
        _ => None,
    }
}

/// The endpoint that a backend at an address would be, by the rules that the file's backends are under.
pub(super) fn place(
    service: &config::Service,
    address: IpAddr,
    port: Option<u16>,
    config: &Config,
) -> Result<SocketAddr, Refusal> {
    let misplaced = |why: String| Refusal::Misplaced { service: service.name.clone(), address, why };
    if let Some(reason) = config::unusable(address) {
        return Err(misplaced(reason.to_owned()));
    }
    if let Some(service) = config.services.iter().find(|service| service.vip == address) {
        return Err(misplaced(format!("it is the VIP of service {}", service.name)));
    }
    if config.pool.addresses.contains(&address) {
        return Err(misplaced("it is an address of the pool of full NAT, and this machine's own".to_owned()));
    }
    if address.is_ipv4() != service.vip.is_ipv4() && service.forward.overhead(address).is_none() {
        return Err(misplaced("packets keep their family, and the VIP is of the other".to_owned()));
    }
    let port = match (port, service.forward) {
        (None, _) => service.port,
        (Some(port), _) if port == service.port => port,
        (Some(_), _) if service.port == 0 => {
            return Err(misplaced("the service takes every port, and packets keep theirs: leave the port out".to_owned()));
        }
        (Some(port), Forward::Nat | Forward::Fullnat) if port > 0 => port,
        (Some(port), _) => {
            let why = match service.forward {
                Forward::Nat | Forward::Fullnat => "a backend needs a port".to_owned(),
                _ => format!("the service forwards to its own port {}, not to {port}", service.port),
            };
            return Err(misplaced(why));
        }
    };
    Ok(SocketAddr::new(address, port))
}

/// Whether replies from an endpoint could not be told from those of another nat service's backends. Port 0 is every port.
pub(super) fn is_nat_backend_of(
    service: &config::Service,
    endpoint: SocketAddr,
    other: &config::Service,
    backends: &[config::Backend],
) -> bool {
    let overlaps = |port: u16| endpoint.port() == port || endpoint.port() == 0 || port == 0;
    let is_nat = service.forward == Forward::Nat && other.forward == Forward::Nat && service.protocol == other.protocol;
    let shares = |theirs: SocketAddr| theirs.ip() == endpoint.ip() && overlaps(theirs.port());
    is_nat && other.name != service.name && backends.iter().any(|backend| shares(backend.endpoint))
}
