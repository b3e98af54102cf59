//! Compiles, writes, retires and recycles as the daemon's control loop does, and runs packets after every write.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use lb_common::limits::SLOTS_PER_LINE;
use lb_common::records;
use lb_common::{BackendId, Slot};
use lb_ebpf::Env;
use lb_user::compile::{Layout, Region};
use lb_user::desired::{Desired, Service, ServiceName};
use lb_user::tables::{Plan, Tables, Write, diff, diff_in_doubt};
use proptest::sample::Index;
use xlb_tests::path::fixture;
use xlb_tests::path::host::Host;

use crate::outcome::{End, REPLIES, REQUESTS, ends, ends_between, reply, request, restored, restored_to, route};

pub const N_SLOTS: u32 = 1 << 17;

pub fn empty_host() -> Host {
    Host::new(fixture::keys(), N_SLOTS, Box::new(route))
}

pub struct Balancer {
    pub desired: Desired,
    pub layout: Layout,
    pub tables: Tables,
    pub host: Host,
    /// What was to be brought about when a write failed, since the last time that none did.
    doubted: Vec<(Desired, Tables)>,
    retiring: Vec<Write>,
    /// Who had an id or a slot since it was last recycled.
    holders: BTreeMap<BackendId, (ServiceName, SocketAddr)>,
    slot_holders: BTreeMap<u32, ServiceName>,
}

impl Balancer {
    pub fn new() -> Self {
        Self {
            desired: Desired::default(),
            layout: Layout::new(N_SLOTS),
            tables: Tables::default(),
            host: empty_host(),
            doubted: Vec::new(),
            retiring: Vec::new(),
            holders: BTreeMap::new(),
            slot_holders: BTreeMap::new(),
        }
    }

    /// What the daemon does once packets on their way have passed, unless a write has failed.
    pub fn recycle(&mut self) {
        if !self.doubted.is_empty() {
            return;
        }
        for write in std::mem::take(&mut self.retiring) {
            self.host.write(&write);
        }
        self.layout.recycle();
        self.holders.clear();
        self.slot_holders.clear();
    }

    /// Brings the tables to `desired`, one write at a time.
    pub fn bring_about(&mut self, desired: &Desired) -> Result<(), String> {
        let (plan, layout, tables) = self.plan(desired)?;
        self.carry_out(&plan, plan.writes.len(), desired)?;
        self.check_ids(desired, &layout, &tables)?;
        self.retiring.extend(plan.retire);
        self.doubted.clear();
        (self.desired, self.layout, self.tables) = (desired.clone(), layout, tables);
        self.check_after()
    }

    /// The same, but after some of the writes one fails; `which` chooses it.
    pub fn bring_about_in_part(&mut self, desired: &Desired, which: Index) -> Result<(), String> {
        let (plan, layout, tables) = self.plan(desired)?;
        if plan.writes.is_empty() {
            return self.bring_about(desired);
        }
        self.carry_out(&plan, which.index(plan.writes.len()), desired)?;
        self.check_ids(desired, &layout, &tables)?;
        self.layout = layout;
        self.doubted.push((desired.clone(), tables));
        Ok(())
    }

    fn plan(&self, desired: &Desired) -> Result<(Plan, Layout, Tables), String> {
        let (tables, layout) =
            fixture::compile_to_rest(desired, &self.layout, &self.tables).map_err(|error| error.to_string())?;
        let befores: Vec<&Tables> = std::iter::once(&self.tables).chain(self.doubted.iter().map(|(_, tables)| tables)).collect();
        Ok((diff_in_doubt(&befores, &tables), layout, tables))
    }

    fn carry_out(&mut self, plan: &Plan, n_writes: usize, desired: &Desired) -> Result<(), String> {
        for (n, write) in plan.writes[..n_writes].iter().enumerate() {
            self.host.write(write);
            self.check_between(desired).map_err(|error| format!("{error}\nafter write {n} of {:#?}", summary(&plan.writes)))?;
        }
        Ok(())
    }

    /// Every packet ends where the old or the new state says, and nothing that both have is lost. After a failure there are
    /// several old states.
    fn check_between(&self, desired: &Desired) -> Result<(), String> {
        let doubted = self.doubted.iter().map(|(desired, _)| desired);
        let all: Vec<&Desired> = std::iter::once(&self.desired).chain(doubted).chain([desired]).collect();
        for probe in &*REQUESTS {
            let wanted = ends_between(&all, probe);
            let end = request(&self.host, probe).map_err(|error| format!("to {}: {error}", probe.endpoint))?;
            // A backend that has just become unreachable keeps its slots until they are written.
            let lost_way = end == End::NoNextHop && all.iter().any(|other| ends(other, probe) != ends(desired, probe));
            if !wanted.contains(&end) && !lost_way {
                return Err(format!("to {}/{}: {end:?}, not of {wanted:?}", probe.endpoint, probe.protocol));
            }
            if self.doubted.is_empty()
                && ends(desired, probe).contains(&end)
                && let Some((replying, source)) = restored_to(desired, probe, &end)
                && reply(&self.host, replying)? != Some(source)
            {
                return Err(format!("to {}: {end:?}, whose replies are not restored to {source}", probe.endpoint));
            }
        }
        for probe in &*REPLIES {
            let wanted: Vec<_> = all.iter().map(|desired| restored(desired, probe)).collect();
            let source = reply(&self.host, probe).map_err(|error| format!("from {}: {error}", probe.endpoint))?;
            if !wanted.contains(&source) {
                return Err(format!("from {}: as {source:?}, none of {wanted:?}", probe.endpoint));
            }
        }
        Ok(())
    }

    /// Ids and regions of those who stay do not change, and nobody gets what another has had since the last rest.
    fn check_ids(&mut self, desired: &Desired, layout: &Layout, tables: &Tables) -> Result<(), String> {
        let (last, last_tables) =
            self.doubted.last().map_or((&self.desired, &self.tables), |(desired, tables)| (desired, tables));
        let stays = |name: &ServiceName| {
            let role = |desired: &Desired| desired.services.get(name).map(Service::role);
            role(desired).is_some() && role(desired) == role(last)
        };
        for name in desired.services.keys().filter(|name| stays(name)) {
            let (before, after) = (find(&self.layout, last_tables, name), find(layout, tables, name));
            if self.layout.find_service(name) != layout.find_service(name) {
                return Err(format!("service {name} got another id"));
            }
            let (before, after) = (Region::of(&before), Region::of(&after));
            if before.bits == after.bits && before != after || before.bits > after.bits {
                return Err(format!("service {name}: its region went from {before:?} to {after:?}"));
            }
        }
        for (name, endpoint, id) in layout.backends() {
            let before = self.layout.find_backend(name, endpoint);
            if stays(name) && before.is_some_and(|before| before != id) {
                return Err(format!("backend {endpoint} of {name} went from {before:?} to {id:?}"));
            }
            let holder = self.holders.insert(id, (name.clone(), endpoint));
            if holder.as_ref().is_some_and(|holder| *holder != (name.clone(), endpoint)) {
                return Err(format!("{id:?} of {name} {endpoint} was {holder:?} a moment ago"));
            }
        }
        for name in desired.services.keys() {
            let record = find(layout, tables, name);
            let region = Region::of(&record);
            let lines = (1u32 << region.bits) / SLOTS_PER_LINE;
            for line in region.first_line..region.first_line + lines {
                let holder = self.slot_holders.insert(line, name.clone());
                if holder.as_ref().is_some_and(|holder| holder != name) {
                    return Err(format!("line {line} of {name} was {holder:?}'s a moment ago"));
                }
            }
        }
        let ids: BTreeSet<BackendId> = layout.backends().map(|(_, _, id)| id).collect();
        if ids.len() == layout.backends().count() { Ok(()) } else { Err("two backends with one id".into()) }
    }

    /// What stands in memory is the tables, and packets see what a start from nothing would show them.
    fn check_after(&self) -> Result<(), String> {
        self.check_memory()?;
        let (tables, _) = fixture::compile_to_rest(&self.members(), &Layout::new(N_SLOTS), &Tables::default())
            .map_err(|error| error.to_string())?;
        let mut fresh = empty_host();
        fresh.carry_out(&diff(&Tables::default(), &tables));
        let mut rewritten = empty_host();
        rewritten.carry_out(&diff(&Tables::default(), &self.tables));
        // Regions never shrink: with more slots than needed, a flow may have another backend than in a fresh table.
        let regions = |tables: &Tables| tables.regions.values().map(|region| region.bits).sum::<u32>();
        let is_grown = regions(&tables) != regions(&self.tables);
        for probe in &*REQUESTS {
            let end = request(&self.host, probe)?;
            if !ends(&self.desired, probe).contains(&end) {
                return Err(format!("to {}: {end:?} at last, not {:?}", probe.endpoint, ends(&self.desired, probe)));
            }
            if end != request(&rewritten, probe)? || (!is_grown && end != request(&fresh, probe)?) {
                return Err(format!("to {}: {end:?}, but not so in tables written afresh", probe.endpoint));
            }
        }
        for probe in &*REPLIES {
            let source = reply(&self.host, probe)?;
            if source != restored(&self.desired, probe) || source != reply(&fresh, probe)? {
                return Err(format!("from {}: as {source:?}, not as {:?}", probe.endpoint, restored(&self.desired, probe)));
            }
        }
        Ok(())
    }

    /// What is desired, without the weight of those who own no slots yet: a start from nothing would make members of them.
    fn members(&self) -> Desired {
        let mut desired = self.desired.clone();
        for (name, service) in &mut desired.services {
            let others = service.backends.iter_mut().filter(|(endpoint, _)| !self.layout.is_member(name, **endpoint));
            others.for_each(|(_, backend)| backend.weight = 0);
        }
        desired
    }

    fn check_memory(&self) -> Result<(), String> {
        let is_retiring_backend =
            |id| self.retiring.iter().any(|write| matches!(write, Write::Backend(retiring, _) if *retiring == id));
        for id in (1..=u16::MAX).map(BackendId).take_while(|id| id.0 < 512) {
            let held = *self.host.backend(id);
            let wanted = self.tables.backends.get(&id).copied().unwrap_or_default();
            if held != wanted && !(wanted == records::Backend::default() && is_retiring_backend(id)) {
                return Err(format!("backend {id:?} is {held:?}, not {wanted:?}"));
            }
        }
        for (&id, service) in &self.tables.services {
            if self.host.service(id) != service {
                return Err(format!("service {id} is {:?}, not {service:?}", self.host.service(id)));
            }
        }
        for (&first_line, region) in &self.tables.regions {
            let held: Vec<Slot> =
                (first_line * SLOTS_PER_LINE..).take(1 << region.bits).filter_map(|index| self.host.slot(index)).collect();
            if held != *region.slots {
                return Err(format!("the slots from line {first_line} are not those of the table"));
            }
        }
        if self.host.settings.flags != self.tables.flags {
            return Err(format!("flags {:#x}, not {:#x}", self.host.settings.flags, self.tables.flags));
        }
        Ok(())
    }
}

fn find(layout: &Layout, tables: &Tables, name: &ServiceName) -> records::Service {
    let record = layout.find_service(name).and_then(|id| tables.services.get(&id));
    record.copied().unwrap_or_default()
}

/// The writes without their slots and buckets.
fn summary(writes: &[Write]) -> Vec<String> {
    let short = |write: &Write| match write {
        Write::Slots(slots) => format!("{} slots from {}", slots.len(), slots[0].0),
        Write::ServiceDirectory(_) => "service directory".into(),
        Write::ReplyDirectory(_) => "reply directory".into(),
        other => format!("{other:?}"),
    };
    writes.iter().map(short).collect()
}
