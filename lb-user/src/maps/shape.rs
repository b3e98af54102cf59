//! Which maps there are, and how large.

use lb_common::Slot;
use lb_common::counters::{ConnectionsByBackend, DropsByService, Totals, TrafficByBackend};
use lb_common::directory::Bucket;
use lb_common::limits;
use lb_common::records::{Backend, Link, Service, Settings};

/// A map of one element by its name, and the element's size in bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub len: u32,
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
pub const LINKS: Shape = Shape::table::<Link>("LINKS", limits::LINKS);

/// As many slots as the configuration says.
pub const fn slots(n_slots: u32) -> Shape {
    Shape::table::<Slot>("SLOTS", n_slots)
}

/// Counters of the packet path, one copy a CPU.
pub const fn counters(n_cpus: u32) -> [Shape; 4] {
    [
        Shape::table::<Totals>("TOTALS", n_cpus),
        Shape::table::<TrafficByBackend>("BACKEND_TRAFFIC", n_cpus),
        Shape::table::<ConnectionsByBackend>("BACKEND_CONNECTIONS", n_cpus),
        Shape::table::<DropsByService>("SERVICE_DROPS", n_cpus),
    ]
}

/// All maps.
pub fn all(n_slots: u32, n_cpus: u32) -> impl Iterator<Item = Shape> {
    let tables = [SETTINGS, SERVICE_BUCKETS, REPLY_BUCKETS, SERVICES, slots(n_slots), BACKENDS, LINKS];
    tables.into_iter().chain(counters(n_cpus))
}
