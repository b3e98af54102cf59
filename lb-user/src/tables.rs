//! The contents of the control-plane maps, and what to write to get from one to another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::admission::Rules;
use lb_common::directory::Filled;
use lb_common::flow::Tick;
use lb_common::limits::SLOTS_PER_LINE;
use lb_common::maglev::Candidate;
use lb_common::records::{Backend, Service, service_flags};
use lb_common::{BackendId, Slot};

use crate::admission::Image;
use crate::compile::{Region, rest};

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
    /// By scope: a service's id, or 0 for all VIPs. Every service has one that is not open to everybody.
    pub admission: BTreeMap<u16, Rules>,
    pub prefixes: Arc<Image>,
    /// Of backends that QUIC connection IDs name. The reply directory leads from them to backends.
    pub server_ids: BTreeMap<BackendId, u64>,
}

/// A region's slots with what they were made from, which tells whether they must be made again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegionSlots {
    pub bits: u32,
    pub candidates: Vec<(BackendId, Candidate)>,
    /// Of each candidate, whether new flows may go to it.
    pub serving: Vec<bool>,
    pub order: Order,
    /// Since when every flow is recorded, if so: no slot is at rest.
    pub records_since: Option<Tick>,
    /// How many slots it takes until turns begin anew; 0 if candidates take no turns.
    pub n_turns: u32,
    /// The candidate that owns each slot; of Maglev, while all serve.
    pub population: Arc<[u16]>,
    pub slots: Arc<[Slot]>,
    /// Slots that are not at rest, by their number.
    pub restless: Arc<[Restless]>,
}

/// In what order candidates own slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Order {
    #[default]
    Maglev,
    Turns,
}

/// How a slot that is not at rest came to be so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restless {
    /// In its region.
    pub number: u32,
    /// Whose it was at rest: flows without a record belong there for as long as silent ones may be alive.
    pub settled: BackendId,
    pub left_rest: Tick,
    /// When its current backend changed last.
    pub moved: Tick,
    /// Its settled backend had not got a packet by then, and it has moved once: it may have no flows to be learnt.
    pub is_unproven: bool,
}

impl RegionSlots {
    /// No slots, and nothing known.
    pub fn empty(bits: u32) -> Self {
        let (population, slots, restless) = (Arc::default(), Arc::default(), Arc::default());
        Self {
            bits,
            candidates: Vec::new(),
            serving: Vec::new(),
            order: Order::default(),
            records_since: None,
            n_turns: 0,
            population,
            slots,
            restless,
        }
    }

    /// Slots of a running program. What they were made from is not known: the next compilation makes them again.
    pub fn adopted(bits: u32, slots: Arc<[Slot]>, now: Tick) -> Self {
        let restless = rest::adopted(&slots, now);
        Self { slots, restless, ..Self::empty(bits) }
    }

    /// Whether all flows are recorded since a time from which others may be left.
    pub fn is_learning(&self, now: Tick, idle: Tick) -> bool {
        self.records_since.is_some_and(|since| !rest::is_over(since, now, idle))
    }

    /// Whether to look again soon whether its slots had flows.
    pub fn is_any_unproven(&self) -> bool {
        self.restless.iter().any(|slot| slot.is_unproven)
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

impl Tables {
    /// Whether time alone may change what a service has: slots come to rest, or all flows from before they were recorded have ended.
    pub fn is_restless(&self, service: &Service) -> bool {
        let region = self.regions.get(&Region::of(service).first_line);
        service.flags & service_flags::LEARNING != 0 || region.is_some_and(|region| !region.restless.is_empty())
    }

    /// Takes over what single services have.
    pub fn amend(&mut self, part: Self) {
        self.services.extend(part.services);
        self.backends.extend(part.backends);
        self.regions.extend(part.regions);
        self.server_ids.extend(part.server_ids);
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
    /// Into the half of the table that is not in use. Records of [`Rules`] lead there.
    Prefixes(Arc<Image>),
    Admission(u16, Rules),
    ServerId(BackendId, u64),
}

/// What leads from one state of the maps to another, packets passing all the while.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// In this order: a record is complete before something points to it.
    pub writes: Vec<Write>,
    /// Clears what nothing points to any more, after packets on their way have passed.
    pub retire: Vec<Write>,
    /// How many slots changed hands, from whom to whom; of turns, nobody asks.
    pub moves: BTreeMap<(BackendId, BackendId), usize>,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.retire.is_empty()
    }

    /// Backends that win or lose slots, or whose records are cleared.
    pub fn backends(&self) -> BTreeSet<BackendId> {
        let cleared = self.retire.iter().filter_map(|write| if let Write::Backend(id, _) = write { Some(*id) } else { None });
        self.moves.keys().flat_map(|(from, to)| [*from, *to]).chain(cleared).collect()
    }
}

/// The plan that leads from `old` to `new`.
pub fn diff(old: &Tables, new: &Tables) -> Plan {
    diff_in_doubt(&[old], new)
}

/// The plan that leads to `new` from maps whose every element is as in one of `olds`, it is not known in which: a plan was
/// carried out in part. The first is the last one that held in all; slots count as moved from there.
pub fn diff_in_doubt(olds: &[&Tables], new: &Tables) -> Plan {
    let mut plan = Plan::default();
    let writes = &mut plan.writes;
    let is_any = |differs: &dyn Fn(&Tables) -> bool| olds.iter().any(|old| differs(old));
    let flags_before = olds.iter().fold(0, |flags, old| flags | old.flags);
    let changed_flags = is_any(&|old| old.flags != new.flags).then_some(new.flags);
    // A flag that is needed by what follows comes first, one that nothing needs any more goes last.
    writes.extend(changed_flags.map(|flags| Write::Flags(flags_before | flags)));
    // Lists are complete before rules lead there, and rules before packets are held against them.
    if is_any(&|old| old.prefixes != new.prefixes) && !new.prefixes.lines.is_empty() {
        writes.push(Write::Prefixes(new.prefixes.clone()));
    }
    let is_changed = |(scope, rules): &(&u16, &Rules)| is_any(&|old| old.admission.get(scope) != Some(rules));
    writes.extend(new.admission.iter().filter(is_changed).map(|(&scope, &rules)| Write::Admission(scope, rules)));
    let is_changed = |(id, record): &(&BackendId, &Backend)| is_any(&|old| old.backends.get(id) != Some(record));
    writes.extend(new.backends.iter().filter(is_changed).map(|(&id, &record)| Write::Backend(id, record)));
    let is_changed = |(id, server_id): &(&BackendId, &u64)| is_any(&|old| old.server_ids.get(id) != Some(server_id));
    writes.extend(new.server_ids.iter().filter(is_changed).map(|(&id, &server_id)| Write::ServerId(id, server_id)));
    // Nobody sees a new service's record before the service directory names it, but replies of its backends need it. One that
    // may be there, and seen, begins as it may be: with the region that was complete when it came to be seen.
    let added = new.services.iter().filter(|(id, _)| is_any(&|old| !old.services.contains_key(id)));
    let first_record = |id: &u16| olds.iter().find_map(|old| old.services.get(id));
    writes.extend(added.map(|(id, record)| Write::Service(*id, *first_record(id).unwrap_or(record))));
    if is_any(&|old| old.reply_directory != new.reply_directory) {
        writes.push(Write::ReplyDirectory(new.reply_directory.clone()));
    }
    for (&first_line, region) in &new.regions {
        let befores: Vec<_> = olds.iter().map(|old| old.regions.get(&first_line)).collect();
        let slots = changed_slots(first_line, &befores, region, &mut plan.moves);
        if !slots.is_empty() {
            writes.push(Write::Slots(slots));
        }
    }
    // A region that has grown is complete before its service leads to it.
    let is_amended = |(id, record): &(&u16, &Service)| is_any(&|old| old.services.get(id).is_some_and(|old| old != *record));
    writes.extend(new.services.iter().filter(is_amended).map(|(&id, &record)| Write::Service(id, record)));
    if is_any(&|old| old.service_directory != new.service_directory) {
        writes.push(Write::ServiceDirectory(new.service_directory.clone()));
    }
    writes.extend(changed_flags.filter(|&flags| flags != flags_before | flags).map(Write::Flags));
    let services = gone(olds.iter().map(|old| &old.services), &new.services);
    plan.retire.extend(services.into_iter().map(|id| Write::Service(id, Service::default())));
    let backends = gone(olds.iter().map(|old| &old.backends), &new.backends);
    plan.retire.extend(backends.into_iter().map(|id| Write::Backend(id, Backend::default())));
    let scopes = gone(olds.iter().map(|old| &old.admission), &new.admission);
    plan.retire.extend(scopes.into_iter().map(|scope| Write::Admission(scope, Rules::default())));
    plan
}

/// Keys of any of `olds` that `new` has not.
fn gone<'o, K: Ord + Copy + 'o, V: 'o>(olds: impl Iterator<Item = &'o BTreeMap<K, V>>, new: &BTreeMap<K, V>) -> BTreeSet<K> {
    olds.flat_map(BTreeMap::keys).filter(|key| !new.contains_key(key)).copied().collect()
}

fn changed_slots(
    first_line: u32,
    olds: &[Option<&RegionSlots>],
    new: &RegionSlots,
    moves: &mut BTreeMap<(BackendId, BackendId), usize>,
) -> Vec<(u32, Slot)> {
    let first_slot = first_line * SLOTS_PER_LINE;
    // Of a region of another size nothing is known about single slots.
    let known = olds.iter().map(|old| old.filter(|old| old.bits == new.bits));
    let Some(olds) = known.collect::<Option<Vec<&RegionSlots>>>() else {
        return (first_slot..).zip(new.slots.iter().copied()).collect();
    };
    if olds.iter().all(|old| Arc::ptr_eq(&old.slots, &new.slots)) {
        return Vec::new();
    }
    let mut slots = Vec::new();
    for (n, &slot) in new.slots.iter().enumerate() {
        let mut befores = olds.iter().filter_map(|old| old.slots.get(n)).peekable();
        if let Some(before) = befores.peek()
            && before.current() != slot.current()
            && new.order == Order::Maglev
        {
            *moves.entry((before.current(), slot.current())).or_default() += 1;
        }
        if befores.any(|before| *before != slot) {
            slots.push((first_slot + n as u32, slot));
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
        let region = |bits| RegionSlots::adopted(bits, vec![Slot::at_rest(BackendId(1)); 1 << bits].into(), 0);
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
