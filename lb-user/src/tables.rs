//! The contents of the control-plane maps, and what to write to get from one to another.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::directory::Filled;
use lb_common::limits::SLOTS_PER_LINE;
use lb_common::maglev::Candidate;
use lb_common::records::{Backend, Service};
use lb_common::{BackendId, Slot};

/// Everything that the packet path reads, by id.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tables {
    pub services: BTreeMap<u16, Service>,
    pub backends: BTreeMap<BackendId, Backend>,
    /// By first line.
    pub regions: BTreeMap<u32, RegionSlots>,
    pub service_directory: Arc<FilledDirectory>,
    pub reply_directory: Arc<FilledDirectory>,
    /// Bits of `lb_common::records::settings_flags`.
    pub flags: u32,
}

/// A region's slots with what they were made from, which tells whether they must be made again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionSlots {
    pub bits: u32,
    pub candidates: Vec<(BackendId, Candidate)>,
    /// Of each candidate, whether new flows may go to it.
    pub serving: Vec<bool>,
    /// The candidate that owns each slot while all serve.
    pub population: Arc<[u16]>,
    pub slots: Arc<[Slot]>,
}

impl RegionSlots {
    /// Slots of a running program. What they were made from is not known: the next compilation makes them again.
    pub fn adopted(bits: u32, slots: Arc<[Slot]>) -> Self {
        Self { bits, candidates: Vec::new(), serving: Vec::new(), population: Arc::default(), slots }
    }
}

/// Address, port and protocol.
pub type Endpoint = (IpAddr, u16, u8);

/// A directory's buckets with what they were made from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilledDirectory {
    pub endpoints: Vec<(Endpoint, u16)>,
    pub filled: Filled,
}

impl Default for FilledDirectory {
    fn default() -> Self {
        Self { endpoints: Vec::new(), filled: Filled::empty() }
    }
}

/// One change of the maps.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    Backend(BackendId, Backend),
    /// Slots by their number in the whole map.
    Slots(Vec<(u32, Slot)>),
    Service(u16, Service),
    /// Replaces the whole directory with one store: packets see the old one or the new.
    ServiceDirectory(Arc<FilledDirectory>),
    ReplyDirectory(Arc<FilledDirectory>),
    Flags(u32),
}

/// What leads from one state of the maps to another, packets passing all the while.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// In this order: a record is complete before something points to it.
    pub writes: Vec<Write>,
    /// Clears what nothing points to any more, after packets on their way have passed.
    pub retire: Vec<Write>,
    /// How many slots changed hands, from whom to whom.
    pub moves: BTreeMap<(BackendId, BackendId), usize>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.retire.is_empty()
    }
}

/// The plan that leads from `old` to `new`.
pub fn diff(old: &Tables, new: &Tables) -> Plan {
    let mut plan = Plan::default();
    let writes = &mut plan.writes;
    let changed_flags = (old.flags != new.flags).then_some(new.flags);
    // A flag that is needed by what follows comes first, one that nothing needs any more goes last.
    writes.extend(changed_flags.map(|flags| Write::Flags(old.flags | flags)));
    writes.extend(changed(&old.backends, &new.backends).map(|(&id, &record)| Write::Backend(id, record)));
    // Nobody sees a new service's record before the service directory names it, but replies of its backends need it.
    let (added, amended): (Vec<_>, Vec<_>) =
        changed(&old.services, &new.services).partition(|(id, _)| !old.services.contains_key(id));
    writes.extend(added.into_iter().map(write_service));
    if old.reply_directory != new.reply_directory {
        writes.push(Write::ReplyDirectory(new.reply_directory.clone()));
    }
    for (&first_line, region) in &new.regions {
        let slots = changed_slots(first_line, old.regions.get(&first_line), region, &mut plan.moves);
        if !slots.is_empty() {
            writes.push(Write::Slots(slots));
        }
    }
    // A region that has grown is complete before its service leads to it.
    writes.extend(amended.into_iter().map(write_service));
    if old.service_directory != new.service_directory {
        writes.push(Write::ServiceDirectory(new.service_directory.clone()));
    }
    writes.extend(changed_flags.filter(|&flags| flags != old.flags | flags).map(Write::Flags));
    plan.retire.extend(gone(&old.services, &new.services).map(|&id| Write::Service(id, Service::default())));
    plan.retire.extend(gone(&old.backends, &new.backends).map(|&id| Write::Backend(id, Backend::default())));
    plan
}

fn write_service((&id, &record): (&u16, &Service)) -> Write {
    Write::Service(id, record)
}

/// Entries of `new` that `old` has not, or otherwise.
fn changed<'n, K: Ord, V: PartialEq>(old: &BTreeMap<K, V>, new: &'n BTreeMap<K, V>) -> impl Iterator<Item = (&'n K, &'n V)> {
    new.iter().filter(|(key, value)| old.get(key) != Some(value))
}

/// Keys of `old` that `new` has not.
fn gone<'o, K: Ord, V>(old: &'o BTreeMap<K, V>, new: &BTreeMap<K, V>) -> impl Iterator<Item = &'o K> {
    old.keys().filter(|key| !new.contains_key(key))
}

fn changed_slots(
    first_line: u32,
    old: Option<&RegionSlots>,
    new: &RegionSlots,
    moves: &mut BTreeMap<(BackendId, BackendId), usize>,
) -> Vec<(u32, Slot)> {
    let first_slot = first_line * SLOTS_PER_LINE;
    let numbered = || (first_slot..).zip(new.slots.iter().copied());
    // Of a region of another size nothing is known about single slots.
    let Some(old) = old.filter(|old| old.bits == new.bits) else { return numbered().collect() };
    if Arc::ptr_eq(&old.slots, &new.slots) {
        return Vec::new();
    }
    let mut slots = Vec::new();
    for ((number, slot), before) in numbered().zip(old.slots.iter()) {
        if slot != *before {
            slots.push((number, slot));
        }
        if slot.current() != before.current() {
            *moves.entry((before.current(), slot.current())).or_default() += 1;
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(plan: &Plan, is_it: impl Fn(&Write) -> bool) -> usize {
        plan.writes.iter().position(is_it).expect("it is written")
    }

    #[test]
    fn replies_find_a_new_services_record_and_packets_a_grown_region() {
        let directory = |id| {
            let endpoints = vec![(([10, 0, 0, 1].into(), 80, 6), id)];
            Arc::new(FilledDirectory { endpoints, ..FilledDirectory::default() })
        };
        let region = |bits| RegionSlots::adopted(bits, vec![Slot::at_rest(BackendId(1)); 1 << bits].into());
        let service =
            |first_slot| Service { flags: 6, region: lb_common::slot::Region::new(first_slot, 10), ..Service::default() };
        let old = Tables {
            services: BTreeMap::from([(1, service(0))]),
            regions: BTreeMap::from([(0, region(10))]),
            reply_directory: directory(1),
            ..Tables::default()
        };
        let new = Tables {
            services: BTreeMap::from([(1, service(64)), (2, service(192))]),
            regions: BTreeMap::from([(64, region(11)), (192, region(10))]),
            reply_directory: directory(2),
            service_directory: directory(2),
            ..Tables::default()
        };
        let plan = diff(&old, &new);
        let added = position(&plan, |write| matches!(write, Write::Service(2, _)));
        let grown = position(&plan, |write| matches!(write, Write::Service(1, _)));
        let replies = position(&plan, |write| matches!(write, Write::ReplyDirectory(_)));
        let slots = position(&plan, |write| matches!(write, Write::Slots(_)));
        let services = position(&plan, |write| matches!(write, Write::ServiceDirectory(_)));
        assert!(added < replies && replies < slots && slots + 1 < grown && grown < services, "{added} {replies} {slots} {grown}");
    }
}
