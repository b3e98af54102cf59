//! What became different between two snapshots, of all that nobody decides and nobody tells of. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::journal::Change;
use crate::status::{BackendView, ServiceView, Snapshot};

/// What stands otherwise than `before`, by services in their order, backends after their service. Who was not there then is left to the
/// [journal](crate::journal).
pub fn differences(before: &Snapshot, now: &Snapshot) -> Vec<Change> {
    let mut changes = Vec::new();
    let earlier: BTreeMap<&str, &ServiceView> = before.services.iter().map(|service| (&*service.name, service)).collect();
    for service in &now.services {
        if let Some(earlier) = earlier.get(&*service.name) {
            service_changes(earlier, service, &mut changes);
        }
    }
    // Last, for it follows from the rest.
    if before.is_ready() != now.is_ready() {
        changes.push(Change::Ready { ready: now.is_ready(), waits_for: now.waits_for.clone() });
    }
    changes
}

fn service_changes(before: &ServiceView, now: &ServiceView, changes: &mut Vec<Change>) {
    let earlier: BTreeMap<SocketAddr, &BackendView> = before.backends.iter().map(|backend| (backend.endpoint, backend)).collect();
    for backend in &now.backends {
        if let Some(earlier) = earlier.get(&backend.endpoint) {
            backend_changes(now, earlier, backend, changes);
        }
    }
}

fn backend_changes(service: &ServiceView, before: &BackendView, now: &BackendView, changes: &mut Vec<Change>) {
    let (service, backend) = (service.name.clone(), now.endpoint);
    if before.unreachable != now.unreachable {
        changes.push(Change::BackendReach { service: service.clone(), backend, unreachable: now.unreachable.clone() });
    }
    if before.weight != now.weight {
        let by = now.set.weight.as_ref().filter(|set| set.value == now.weight).map(|set| set.by.clone());
        changes.push(Change::BackendWeight { service: service.clone(), backend, from: before.weight, to: now.weight, by });
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
