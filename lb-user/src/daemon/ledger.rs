//! What is counted over the daemon's life: how often and how fast the maps changed, and what backends had counted before they left.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use lb_common::BackendId;
use lb_common::admission::RULE_SLOTS;
use lb_common::counters::BackendCounters;
use tracing::debug;

use super::control::{ControlError, Names};
use crate::desired::ServiceName;
use crate::error::chain;
use crate::health::State;
use crate::maps::{Counters, MapError};
use crate::tables::{Plan, Tables, Write};

/// Sums that no map holds.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    /// Changes of the maps.
    pub n_changes: u64,
    /// Elements written.
    pub n_writes: u64,
    /// Reloads, by whether they were accepted.
    pub n_reloads: u64,
    pub n_reloads_refused: u64,
    /// Why the last reload was refused, if it was.
    pub last_reload_refused: Option<Arc<str>>,
    /// Times that the maps were not brought to what should hold.
    pub n_failures: u64,
    /// Why they are not, as long as they are not.
    pub failing: Option<Arc<str>>,
    /// From the observation that made a change necessary to the last write.
    pub change_time: Duration,
    pub change_time_max: Duration,
    /// Of every service that is wanted, and of no other.
    pub services: BTreeMap<ServiceName, ServiceSums>,
}

impl Sums {
    /// Begins with services that are new, and forgets those that are no more.
    pub fn follow<'n>(&mut self, wanted: impl Iterator<Item = &'n ServiceName>) {
        let mut before = std::mem::take(&mut self.services);
        self.services = wanted.map(|name| (name.clone(), before.remove(name).unwrap_or_default())).collect();
    }

    /// Adds to a service's sums. What is still heard of a service that is gone, as its last backends are cleared, counts for nobody.
    fn add(&mut self, service: &ServiceName, add: impl FnOnce(&mut ServiceSums)) {
        if let Some(sums) = self.services.get_mut(service) {
            add(sums);
        }
    }
}

/// Sums of one service.
#[derive(Clone, Debug, Default)]
pub struct ServiceSums {
    /// What backends that have left had counted.
    pub left: BackendCounters,
    /// Slots that went from one backend to another.
    pub n_slots_moved: u64,
    /// Health transitions, by the state that they led to.
    pub n_transitions: BTreeMap<State, u64>,
}

pub struct Ledger {
    counters: Arc<Counters>,
    pub sums: Sums,
    /// What an id's counters stood at when its backend got it.
    bases: BTreeMap<BackendId, BackendCounters>,
    /// What a service id's drops stood at when its service got it.
    drop_bases: BTreeMap<u16, u64>,
    /// The same of what rules of admission refused.
    refused_bases: BTreeMap<u16, [u64; RULE_SLOTS]>,
}

impl Ledger {
    pub fn new(counters: Arc<Counters>) -> Self {
        Self {
            counters,
            sums: Sums::default(),
            bases: BTreeMap::new(),
            drop_bases: BTreeMap::new(),
            refused_bases: BTreeMap::new(),
        }
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    pub fn base(&self, id: BackendId) -> BackendCounters {
        self.bases.get(&id).copied().unwrap_or_default()
    }

    pub fn drop_base(&self, id: u16) -> u64 {
        self.drop_bases.get(&id).copied().unwrap_or_default()
    }

    pub fn refused_bases(&self) -> &BTreeMap<u16, [u64; RULE_SLOTS]> {
        &self.refused_bases
    }

    /// Whether the maps hold what should hold now, or why they do not. Yields whether that is news.
    pub fn note_outcome(&mut self, error: Option<&ControlError>) -> bool {
        self.sums.n_failures += u64::from(error.is_some());
        let before = std::mem::replace(&mut self.sums.failing, error.map(|error| chain(error).into()));
        before != self.sums.failing
    }

    pub fn note_transition(&mut self, service: &ServiceName, to: State) {
        self.sums.add(service, |sums| *sums.n_transitions.entry(to).or_default() += 1);
    }

    /// Takes note of a plan before it is carried out: ids that change hands start counting anew.
    pub fn note_plan(&mut self, plan: &Plan, before: &Tables, names: &Names) {
        for write in &plan.writes {
            if let Write::Backend(id, _) = write
                && !before.backends.contains_key(id)
            {
                self.with_counters(*id, |ledger, counted| {
                    ledger.bases.insert(*id, counted);
                });
            }
        }
        for write in &plan.writes {
            if let Write::Service(id, _) = write
                && !before.services.contains_key(id)
                && let Ok(dropped) = self.counters.service_drops(*id)
            {
                self.drop_bases.insert(*id, dropped);
                self.refused_bases.insert(*id, self.counters.refused(*id));
            }
        }
        for write in &plan.retire {
            self.note_left(write, names);
        }
    }

    /// Takes note of a plan that was carried out. Yields how many slots of each service went to another backend.
    pub fn note_done(&mut self, plan: &Plan, names: &Names) -> BTreeMap<ServiceName, u64> {
        let mut moved: BTreeMap<ServiceName, u64> = BTreeMap::new();
        for ((from, to), n_slots) in &plan.moves {
            if let Some((service, _)) = names.get(to).or_else(|| names.get(from)) {
                *moved.entry(service.clone()).or_default() += *n_slots as u64;
            }
        }
        moved.iter().for_each(|(service, n_slots)| self.sums.add(service, |sums| sums.n_slots_moved += n_slots));
        self.sums.n_writes += (plan.writes.len() + plan.retire.len()) as u64;
        moved
    }

    /// Adds what a backend that leaves has counted, since the last time, to its service's.
    pub fn note_left(&mut self, write: &Write, names: &Names) {
        let Write::Backend(id, _) = write else { return };
        let Some((service, _)) = names.get(id) else { return };
        self.with_counters(*id, |ledger, counted| {
            let since = counted.since(&ledger.base(*id));
            ledger.sums.add(service, |sums| sums.left.add(&since));
            ledger.bases.insert(*id, counted);
        });
    }

    pub fn note_change(&mut self, took: Duration) {
        self.sums.n_changes += 1;
        self.sums.change_time += took;
        self.sums.change_time_max = self.sums.change_time_max.max(took);
    }

    /// A counter that cannot be read makes a sum too small, and is no reason to stop balancing.
    fn with_counters(&mut self, id: BackendId, note: impl FnOnce(&mut Self, BackendCounters)) {
        let counted: Result<BackendCounters, MapError> = self.counters.backend(id);
        match counted {
            Ok(counted) => note(self, counted),
            Err(error) => debug!(error = crate::error::chain(&error), "reading a backend's counters"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_is_gone_leaves_no_sums_and_gets_none_any_more() {
        let (web, shop): (ServiceName, ServiceName) = ("web".into(), "shop".into());
        let mut sums = Sums::default();
        sums.follow([&web, &shop].into_iter());
        sums.add(&web, |sums| sums.n_slots_moved += 1);
        sums.add(&shop, |sums| sums.n_slots_moved += 2);
        sums.follow([&shop].into_iter());
        // The record of its last backend is cleared a second later.
        sums.add(&web, |sums| sums.left.packets += 7);
        assert_eq!(sums.services.keys().collect::<Vec<_>>(), [&shop]);
        assert_eq!(sums.services[&shop].n_slots_moved, 2);
        sums.follow([&web, &shop].into_iter());
        assert_eq!((sums.services[&web].left.packets, sums.services[&web].n_slots_moved), (0, 0));
    }
}
