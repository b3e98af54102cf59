//! What became different between two snapshots. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::desired::ServiceName;
use crate::failover::{Tier, Zone};
use crate::health::State;
use crate::runtime::{Admin, Mark, Setting};
use crate::status::{BackendView, FailoverStatus, Interface, ServiceView, Snapshot, ZonesStatus};

/// Something that an operator would want to know the time of.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// The daemon, or rather its first snapshot.
    Started {
        version: &'static str,
    },
    /// All tables hold what they should, and every backend has been heard of; or no longer.
    Ready {
        ready: bool,
    },
    Reload {
        accepted: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<Arc<str>>,
    },
    /// The maps could not be brought to what should hold, for this reason; or they are as they should be again.
    Tables {
        failing: Option<Arc<str>>,
    },
    /// The program runs on another interface, or in another mode.
    InterfaceAttached {
        interface: String,
        mode: &'static str,
    },
    InterfaceDetached {
        interface: String,
    },
    ServiceAdded {
        service: ServiceName,
    },
    ServiceRemoved {
        service: ServiceName,
    },
    /// A source of backends does not answer usefully any more, and its earlier answer holds; or it does again.
    Discovery {
        service: ServiceName,
        source: &'static str,
        stale: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// Some backend serves, or none does.
    ServiceState {
        service: ServiceName,
        up: bool,
    },
    SlotsMoved {
        service: ServiceName,
        n_slots: u64,
    },
    BackendAdded {
        service: ServiceName,
        backend: SocketAddr,
        weight: u16,
    },
    BackendRemoved {
        service: ServiceName,
        backend: SocketAddr,
    },
    BackendState {
        service: ServiceName,
        backend: SocketAddr,
        from: State,
        to: State,
        cause: String,
    },
    /// Another part of its weight is in force, by what its checks say.
    WeightPart {
        service: ServiceName,
        backend: SocketAddr,
        /// Who wants how much of it; nobody if it has all of it.
        parts: BTreeMap<&'static str, f64>,
        cause: String,
    },
    /// Its flows have raised suspicion, and it is probed at once.
    Suspected {
        service: ServiceName,
        backend: SocketAddr,
    },
    /// It comes and goes too often, or no longer does.
    Flapping {
        service: ServiceName,
        backend: SocketAddr,
        flapping: bool,
    },
    /// It cannot be reached, for this reason; or it can again.
    BackendReach {
        service: ServiceName,
        backend: SocketAddr,
        unreachable: Option<String>,
    },
    BackendWeight {
        service: ServiceName,
        backend: SocketAddr,
        from: u16,
        to: u16,
    },
    /// Somebody drained or disabled it, or a drain's deadline has come; without `set`, that is over.
    BackendAdmin {
        service: ServiceName,
        backend: SocketAddr,
        set: Option<Setting<Admin>>,
    },
    /// It drains, and no flow that was seen since is left.
    Drained {
        service: ServiceName,
        backend: SocketAddr,
        /// Others may be that have been silent for as long.
        silent_possible: bool,
    },
    Maintenance {
        service: ServiceName,
        /// By whom; without, it is over.
        set: Option<Mark>,
    },
    /// New flows go to backends of other priorities than before.
    Failover {
        service: ServiceName,
        from: Vec<Tier>,
        to: Vec<Tier>,
        cause: String,
    },
    /// So few backends are healthy that all are taken for it, or that is over.
    Panic {
        service: ServiceName,
        panic: bool,
        cause: String,
    },
    /// New flows are divided otherwise among zones.
    Spillover {
        service: ServiceName,
        /// What goes to others than while all backends are well, from 0 to 1.
        spilled: f64,
        /// Of each zone, from 0 to 1; without a name, of backends that are in none.
        shares: BTreeMap<Zone, f64>,
        cause: String,
    },
    /// It has come up, and gets its weight by and by; or it has all of it.
    SlowStart {
        service: ServiceName,
        backend: SocketAddr,
        over: bool,
    },
}

/// What happened since `before`, the daemon first, then services in their order, backends after their service.
pub fn differences(before: Option<&Snapshot>, now: &Snapshot) -> Vec<Change> {
    let Some(before) = before else { return vec![Change::Started { version: env!("CARGO_PKG_VERSION") }] };
    let mut changes = Vec::new();
    let (earlier, later) = (&before.sums, &now.sums);
    let reloads = [(true, later.n_reloads > earlier.n_reloads), (false, later.n_reloads_refused > earlier.n_reloads_refused)];
    let cause = |accepted: bool| later.last_reload_refused.clone().filter(|_| !accepted);
    let reloads = reloads.into_iter().filter(|(_, happened)| *happened);
    changes.extend(reloads.map(|(accepted, _)| Change::Reload { accepted, cause: cause(accepted) }));
    if earlier.failing != later.failing {
        changes.push(Change::Tables { failing: later.failing.clone() });
    }
    interface_changes(&before.interfaces, &now.interfaces, &mut changes);
    let by_name = |snapshot: &Snapshot| -> BTreeMap<ServiceName, usize> {
        snapshot.services.iter().enumerate().map(|(index, service)| (service.name.clone(), index)).collect()
    };
    let (earlier, later) = (by_name(before), by_name(now));
    let gone = earlier.keys().filter(|name| !later.contains_key(*name));
    changes.extend(gone.map(|service| Change::ServiceRemoved { service: service.clone() }));
    for service in &now.services {
        match earlier.get(&service.name) {
            Some(&index) => service_changes(&before.services[index], service, &mut changes),
            None => changes.push(Change::ServiceAdded { service: service.name.clone() }),
        }
        let moved = |snapshot: &Snapshot| snapshot.sums.services.get(&service.name).map_or(0, |sums| sums.n_slots_moved);
        let n_slots = moved(now).saturating_sub(moved(before));
        if n_slots > 0 {
            changes.push(Change::SlotsMoved { service: service.name.clone(), n_slots });
        }
    }
    // Last, for it follows from the rest.
    if before.is_ready != now.is_ready {
        changes.push(Change::Ready { ready: now.is_ready });
    }
    changes
}

fn interface_changes(before: &[Interface], now: &[Interface], changes: &mut Vec<Change>) {
    let is_in = |list: &[Interface], name: &str| list.iter().any(|interface| interface.name == name);
    let gone = before.iter().filter(|interface| !is_in(now, &interface.name));
    changes.extend(gone.map(|interface| Change::InterfaceDetached { interface: interface.name.clone() }));
    let new = now.iter().filter(|interface| !before.contains(interface));
    let attached = |interface: &Interface| Change::InterfaceAttached { interface: interface.name.clone(), mode: interface.mode };
    changes.extend(new.map(attached));
}

fn service_changes(before: &ServiceView, now: &ServiceView, changes: &mut Vec<Change>) {
    let service = &now.name;
    let earlier: BTreeMap<SocketAddr, &BackendView> = before.backends.iter().map(|backend| (backend.endpoint, backend)).collect();
    let is_there = |endpoint: &SocketAddr| now.backends.iter().any(|backend| backend.endpoint == *endpoint);
    let gone = earlier.keys().filter(|endpoint| !is_there(endpoint));
    changes.extend(gone.map(|&backend| Change::BackendRemoved { service: service.clone(), backend }));
    for backend in &now.backends {
        match earlier.get(&backend.endpoint) {
            Some(before) => backend_changes(service, before, backend, changes),
            None => {
                changes.push(Change::BackendAdded { service: service.clone(), backend: backend.endpoint, weight: backend.weight })
            }
        }
    }
    for source in &now.discovery {
        let was_stale = before.discovery.iter().any(|before| before.source == source.source && before.stale);
        if was_stale != source.stale {
            let cause = source.last_error.clone().filter(|_| source.stale);
            let (service, stale) = (service.clone(), source.stale);
            changes.push(Change::Discovery { service, source: source.source.label(), stale, cause });
        }
    }
    if before.maintenance != now.maintenance {
        changes.push(Change::Maintenance { service: service.clone(), set: now.maintenance.clone() });
    }
    if let (Some(before), Some(now)) = (&before.failover, &now.failover) {
        failover_changes(service, before, now, changes);
        if let (Some(before), Some(now)) = (&before.zones, &now.zones) {
            zone_changes(service, before, now, changes);
        }
    }
    let is_up = |service: &ServiceView| service.backends.iter().any(|backend| backend.serves);
    if is_up(before) != is_up(now) {
        changes.push(Change::ServiceState { service: service.clone(), up: is_up(now) });
    }
}

fn failover_changes(service: &ServiceName, before: &FailoverStatus, now: &FailoverStatus, changes: &mut Vec<Change>) {
    let (service, cause) = (service.clone(), now.cause.clone());
    if before.panic != now.panic {
        changes.push(Change::Panic { service, panic: now.panic, cause });
    } else if before.serving != now.serving {
        changes.push(Change::Failover { service, from: before.serving.clone(), to: now.serving.clone(), cause });
    }
}

fn zone_changes(service: &ServiceName, before: &ZonesStatus, now: &ZonesStatus, changes: &mut Vec<Change>) {
    let shares = |zones: &ZonesStatus| -> BTreeMap<Zone, f64> {
        zones.shares.iter().map(|zone| (zone.zone.clone().unwrap_or_default(), zone.share)).collect()
    };
    // Where the sorry backend serves, zones have no part in it.
    if !now.shares.is_empty() && shares(before) != shares(now) {
        let (service, shares, cause) = (service.clone(), shares(now), now.cause.clone());
        changes.push(Change::Spillover { service, spilled: now.spilled, shares, cause });
    }
}

fn backend_changes(service: &ServiceName, before: &BackendView, now: &BackendView, changes: &mut Vec<Change>) {
    let (service, backend) = (service.clone(), now.endpoint);
    if before.check.state != now.check.state {
        let (from, to, cause) = (before.check.state, now.check.state, now.check.cause.clone());
        changes.push(Change::BackendState { service: service.clone(), backend, from, to, cause });
    }
    if before.check.parts != now.check.parts && now.check.state.serves() {
        let (parts, cause) = (now.check.parts.named(), now.check.cause.clone());
        changes.push(Change::WeightPart { service: service.clone(), backend, parts, cause });
    }
    if before.check.n_suspicions < now.check.n_suspicions {
        changes.push(Change::Suspected { service: service.clone(), backend });
    }
    if before.check.is_flapping != now.check.is_flapping {
        changes.push(Change::Flapping { service: service.clone(), backend, flapping: now.check.is_flapping });
    }
    if before.unreachable != now.unreachable {
        changes.push(Change::BackendReach { service: service.clone(), backend, unreachable: now.unreachable.clone() });
    }
    if before.set.admin != now.set.admin {
        changes.push(Change::BackendAdmin { service: service.clone(), backend, set: now.set.admin.clone() });
    }
    if before.weight != now.weight {
        changes.push(Change::BackendWeight { service: service.clone(), backend, from: before.weight, to: now.weight });
    }
    let is_slow = |view: &BackendView| view.place.tenths.is_some();
    if is_slow(before) != is_slow(now) {
        changes.push(Change::SlowStart { service: service.clone(), backend, over: !is_slow(now) });
    }
    let is_drained = |view: &BackendView| view.drain.is_some_and(|drain| drain.flows == Some(0));
    if is_drained(now) && !is_drained(before) {
        let silent_possible = now.drain.is_some_and(|drain| drain.silent_possible);
        changes.push(Change::Drained { service, backend, silent_possible });
    }
}

#[cfg(test)]
mod tests;
