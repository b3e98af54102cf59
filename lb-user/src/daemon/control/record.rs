//! What the loop writes into the journal: what it is told, and what it brings about, each with its cause.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::compile;
use crate::desired::{Desired, Service, ServiceName};
use crate::discovery::{self, What};
use crate::failover::{Division, Turn};
use crate::health::{Condition, Transition};
use crate::journal::{Causes, Change, Journal};
use crate::nexthop::{Changes, Unresolved};
use crate::runtime::{BackendOverrides, Overrides};
use crate::status::{Interface, ZonesStatus};

/// A backend is in another condition than `before`.
pub fn transition(transition: &Transition, before: Condition, journal: &mut Journal, causes: &mut Causes) {
    let Transition { service, backend, from, to, parts, cause, .. } = transition;
    let (service, backend, from, to) = (service.clone(), *backend, *from, *to);
    if from != to {
        causes.add(&service, format!("{backend} is {to} ({cause})"));
        journal.note(Change::BackendState { service: service.clone(), backend, from, to, cause: cause.clone() });
    }
    if to.serves() && *parts != before.parts {
        causes.add(&service, format!("{backend} has {} ({cause})", parts.in_words()));
        journal.note(Change::WeightPart { service, backend, parts: parts.named(), cause: cause.clone() });
    }
}

/// A source has something to say.
pub fn discovered(news: &discovery::News, journal: &mut Journal, causes: &mut Causes) {
    let (service, source) = (news.service.clone(), news.source.label());
    match &news.what {
        What::Backends(backends) if backends.is_empty() => causes.add(&service, format!("{source} names nobody")),
        What::Backends(backends) => {
            let s = if backends.len() == 1 { "" } else { "s" };
            causes.add(&service, format!("{source} names {} backend{s}", backends.len()));
        }
        What::Failing { is_stale, cause } => {
            journal.note(Change::Discovery { service, source, stale: *is_stale, cause: Some(cause.clone()) });
        }
        What::Recovered => journal.note(Change::Discovery { service, source, stale: false, cause: None }),
    }
}

/// Ways to addresses were found, or lost.
pub fn next_hops(changes: &Changes, causes: &mut Causes) {
    for (address, answer) in &changes.next_hops {
        match answer {
            Ok(_) => causes.add_for_all(&format!("a way to {address} was found")),
            Err(Unresolved::NeighbourPending { .. }) => {}
            Err(reason) => causes.add_for_all(&format!("no way to {address} ({reason})")),
        }
    }
}

/// The program runs on these interfaces now.
pub fn interfaces(before: &[Interface], now: &[Interface], journal: &mut Journal, causes: &mut Causes) {
    let is_in = |list: &[Interface], name: &str| list.iter().any(|interface| interface.name == name);
    for interface in before.iter().filter(|interface| !is_in(now, &interface.name)) {
        causes.add_for_all(&format!("xlb is off {}", interface.name));
        journal.note(Change::InterfaceDetached { interface: interface.name.clone() });
    }
    for Interface { name, mode, .. } in now.iter().filter(|interface| !before.contains(interface)) {
        causes.add_for_all(&format!("xlb is on {name}"));
        journal.note(Change::InterfaceAttached { interface: name.clone(), mode });
    }
}

/// Failover or zones decide otherwise.
pub fn turn(turn: &Turn, journal: &mut Journal, causes: &mut Causes) {
    let Turn { service, before, now, shift, .. } = turn;
    let (service, cause) = (service.clone(), now.cause.clone());
    if before.panics != now.panics {
        causes.add(&service, cause.clone());
        journal.note(Change::Panic { service: service.clone(), panic: now.panics, cause });
    } else if before.tiers != now.tiers && !before.tiers.is_empty() {
        causes.add(&service, cause.clone());
        let tiers = |tiers: &BTreeSet<_>| tiers.iter().copied().collect();
        journal.note(Change::Failover { service: service.clone(), from: tiers(&before.tiers), to: tiers(&now.tiers), cause });
    }
    // Where the sorry backend serves, zones have no part in it.
    let is_divided = |division: &Division| !division.zones.is_empty();
    if let Some(shift) = shift.as_ref().filter(|shift| is_divided(&shift.before) && is_divided(&shift.now)) {
        let ZonesStatus { spilled, shares, cause, .. } = ZonesStatus::new(&shift.now);
        causes.add(&service, cause.clone());
        let shares = shares.into_iter().map(|zone| (zone.zone.unwrap_or_default(), zone.share)).collect();
        journal.note(Change::Spillover { service, spilled, shares, cause });
    }
}

/// Something was set at runtime, or is over.
pub fn overrides(before: &Overrides, now: &Overrides, journal: &mut Journal, causes: &mut Causes) {
    let services: BTreeSet<&ServiceName> = before.services().chain(now.services()).collect();
    for name in services {
        let maintenance = |overrides: &Overrides| overrides.service(name).and_then(|set| set.maintenance.clone());
        let (earlier, later) = (maintenance(before), maintenance(now));
        if earlier != later {
            let by = later.as_ref().map(|mark| format!("maintenance, by {}", mark.by));
            causes.add(name, by.unwrap_or_else(|| "maintenance is over".to_owned()));
            journal.note(Change::Maintenance { service: name.clone(), set: later });
        }
    }
    let backends = before.backends().chain(now.backends()).map(|(name, backend, _)| (name, backend));
    let none = BackendOverrides::default();
    for (service, backend) in backends.collect::<BTreeSet<_>>() {
        let [earlier, later] = [before, now].map(|overrides| overrides.backend(service, backend).unwrap_or(&none));
        if earlier == later {
            continue;
        }
        let by = later.last().map(|(by, _)| format!("{backend} was set by {by}"));
        causes.add(service, by.unwrap_or_else(|| format!("{backend} was reset")));
        if earlier.admin != later.admin {
            journal.note(Change::BackendAdmin { service: service.clone(), backend, set: later.admin.clone() });
        }
    }
}

/// Whether any backend of a service serves is otherwise than before.
pub fn service_state(
    name: &ServiceName,
    before: (&Desired, &Service),
    now: (&Desired, &Service),
    journal: &mut Journal,
    causes: &Causes,
) {
    let is_up =
        |(desired, service): (&Desired, &Service)| service.backends.values().any(|one| compile::serves(desired, service, one));
    if is_up(before) != is_up(now) {
        journal.note(Change::ServiceState { service: name.clone(), up: is_up(now), cause: causes.of(name) });
    }
}

/// A service has other backends than before.
fn members(
    name: &ServiceName,
    before: &Service,
    now: &Service,
    weight: impl Fn(&ServiceName, SocketAddr) -> u16,
    journal: &mut Journal,
    causes: &Causes,
) {
    for &backend in before.backends.keys().filter(|endpoint| !now.backends.contains_key(endpoint)) {
        journal.note(Change::BackendRemoved { service: name.clone(), backend, cause: causes.of(name) });
    }
    for &backend in now.backends.keys().filter(|endpoint| !before.backends.contains_key(endpoint)) {
        let weight = weight(name, backend);
        journal.note(Change::BackendAdded { service: name.clone(), backend, weight, cause: causes.of(name) });
    }
}

/// All of it: which services there are, and what is new of those that stay.
pub fn desired(
    before: &Desired,
    now: &Desired,
    weight: impl Fn(&ServiceName, SocketAddr) -> u16,
    journal: &mut Journal,
    causes: &Causes,
) {
    for name in before.services.keys().filter(|name| !now.services.contains_key(*name)) {
        journal.note(Change::ServiceRemoved { service: name.clone(), cause: causes.of(name) });
    }
    for (name, later) in &now.services {
        match before.services.get(name) {
            Some(earlier) => {
                members(name, earlier, later, &weight, journal, causes);
                service_state(name, (before, earlier), (now, later), journal, causes);
            }
            None => journal.note(Change::ServiceAdded { service: name.clone(), cause: causes.of(name) }),
        }
    }
}

#[cfg(test)]
mod tests;
