//! Which maps there are, and how large.

use lb_common::Slot;
use lb_common::counters::{ConnectionsByBackend, DropsByService, FlowEvents, Totals, TrafficByBackend};
use lb_common::directory::Bucket;
use lb_common::flow::Tick;
use lb_common::limits;
use lb_common::records::{Backend, Link, Service, Settings};

use crate::config::Limits;

/// A map of one element by its name, and the element's size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub len: u32,
}

/// What the configuration says about sizes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sizes {
    pub n_slots: u32,
    /// A power of two.
    pub n_flows: u32,
}

impl From<Limits> for Sizes {
    fn from(limits: Limits) -> Self {
        Self { n_slots: limits.slots, n_flows: limits.flows }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self { n_slots: limits::SLOTS_DEFAULT, n_flows: limits::FLOWS_DEFAULT }
    }
}

impl Shape {
    /// One value that holds all records. The program has an anchor for it (`lb-ebpf`'s `maps`).
    const fn table<T>(name: &'static str, n_records: u32) -> Self {
        Self { name, len: n_records * size_of::<T>() as u32 }
    }
}

pub const SETTINGS: Shape = Shape::table::<Settings>("SETTINGS", 1);
pub const SERVICE_BUCKETS: Shape = Shape::table::<Bucket>("SERVICE_BUCKETS", 2 * limits::SERVICE_BUCKETS);
pub const REPLY_BUCKETS: Shape = Shape::table::<Bucket>("REPLY_BUCKETS", 2 * limits::REPLY_BUCKETS);
pub const SERVICES: Shape = Shape::table::<Service>("SERVICES", limits::SERVICE_RECORDS);
pub const BACKENDS: Shape = Shape::table::<Backend>("BACKENDS", limits::BACKEND_RECORDS);
pub const BACKENDS_SEEN: Shape = Shape::table::<Tick>("BACKENDS_SEEN", limits::BACKEND_RECORDS);
pub const LINKS: Shape = Shape::table::<Link>("LINKS", limits::LINKS);

/// As many slots as the configuration says.
pub const fn slots(n_slots: u32) -> Shape {
    Shape::table::<Slot>("SLOTS", n_slots)
}

/// When a flow of one of a line of slots was last seen elsewhere.
pub const fn slots_seen(n_slots: u32) -> Shape {
    Shape::table::<Tick>("SLOTS_SEEN", n_slots / limits::SLOTS_PER_LINE)
}

/// As many flows as the configuration says.
pub const fn flows(n_flows: u32) -> Shape {
    Shape::table::<u64>("FLOWS", n_flows)
}

/// Counters of the packet path, one copy a CPU.
pub const fn counters(n_cpus: u32) -> [Shape; 5] {
    [
        Shape::table::<FlowEvents>("FLOW_EVENTS", n_cpus),
        Shape::table::<Totals>("TOTALS", n_cpus),
        Shape::table::<TrafficByBackend>("BACKEND_TRAFFIC", n_cpus),
        Shape::table::<ConnectionsByBackend>("BACKEND_CONNECTIONS", n_cpus),
        Shape::table::<DropsByService>("SERVICE_DROPS", n_cpus),
    ]
}

/// All maps.
pub fn all(sizes: Sizes, n_cpus: u32) -> impl Iterator<Item = Shape> {
    let Sizes { n_slots, n_flows } = sizes;
    let tables = [SETTINGS, SERVICE_BUCKETS, REPLY_BUCKETS, SERVICES, slots(n_slots), BACKENDS, LINKS];
    let memory = [flows(n_flows), slots_seen(n_slots), BACKENDS_SEEN];
    tables.into_iter().chain(memory).chain(counters(n_cpus))
}
