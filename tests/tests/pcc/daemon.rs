//! What the daemon does with what is wanted, without the daemon.

use std::collections::BTreeMap;

use lb_common::BackendId;
use lb_common::flow::Tick;
use lb_common::records::backend_flags;
use lb_user::compile::{Layout, Region, compile};
use lb_user::desired::Desired;
use lb_user::tables::{Plan, RegionSlots, Tables, Write, diff};

use crate::balancer::Balancer;

/// Fewer than the fixture has: making them takes longer than a sequence.
pub const N_SLOTS: u32 = 1 << 16;

pub struct Daemon {
    layout: Layout,
    tables: Tables,
    retiring: Vec<Write>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self { layout: Layout::new(N_SLOTS), tables: Tables::default(), retiring: Vec::new() }
    }
}

/// A change that is on its way to the maps.
pub struct Planned {
    layout: Layout,
    tables: Tables,
    plan: Plan,
}

impl Daemon {
    /// # Errors
    /// What is wanted does not fit.
    pub fn plan(&self, desired: &Desired, balancer: &impl Balancer) -> Result<Planned, String> {
        let (tables, layout) =
            compile(desired, &self.layout, &self.tables, balancer).map_err(|error| format!("compile: {error}"))?;
        let plan = diff(&self.tables, &tables);
        Ok(Planned { layout, tables, plan })
    }

    /// Writes a change, and clears what nothing points to since the one before.
    pub fn carry_out(&mut self, planned: Planned, balancer: &mut impl Balancer) {
        let Planned { layout, tables, plan } = planned;
        for write in std::mem::take(&mut self.retiring) {
            balancer.write(&write);
        }
        balancer.forget_sessions_of_nobody();
        self.layout = layout;
        self.layout.recycle();
        plan.writes.iter().for_each(|write| balancer.write(write));
        self.retiring = plan.retire;
        self.tables = tables;
    }

    /// What one finds that takes over: ids and members, and slots whose histories nobody knows.
    pub fn restart(&mut self, desired: &Desired, now: Tick) {
        let mut layout = Layout::new(N_SLOTS);
        let names: BTreeMap<BackendId, _> =
            self.layout.backends().map(|(name, endpoint, id)| (id, (name.clone(), endpoint))).collect();
        for (name, service) in &desired.services {
            let Some(id) = self.layout.find_service(name) else { continue };
            let region = Region::of(&self.tables.services[&id]);
            layout.adopt_service(name, service.role(), id, region);
            let slots = self.tables.regions[&region.first_line].slots.clone();
            self.tables.regions.insert(region.first_line, RegionSlots::adopted(region.bits, slots, now));
        }
        for (&id, service) in self.tables.services.iter().filter(|(_, service)| service.listens.protocol == 0) {
            layout.adopt_vip(service.vip.into(), id);
        }
        for (&id, record) in &self.tables.backends {
            let serves = record.flags & backend_flags::ALIVE != 0;
            let (name, endpoint) = &names[&id];
            layout.adopt_backend(name, *endpoint, id, serves);
        }
        self.layout = layout;
        self.tables.service_directory = Default::default();
        self.tables.reply_directory = Default::default();
    }
}
