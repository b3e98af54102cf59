//! Which maps there are, and how large.

use aya::util::KernelVersion;
use lb_common::Slot;
use lb_common::admission::{Line, Rules};
use lb_common::counters::{ConnectionsByBackend, DropsByRule, DropsByService, FlowEvents, Suspects, Totals, TrafficByBackend};
use lb_common::directory::Bucket;
use lb_common::flow::Tick;
use lb_common::handshake::Handshakes;
use lb_common::load::Load;
use lb_common::records::{Backend, Link, Service, Settings};
use lb_common::session::{LINE, Pool, Range, Session};
use lb_common::{limits, trace};

use crate::config::Config;

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
    /// A multiple of 16.
    pub n_prefixes: u32,
    /// A power of two.
    pub n_sources: u32,
    /// Each of its ports has a session.
    pub pool: Pool,
}

impl From<&Config> for Sizes {
    fn from(config: &Config) -> Self {
        let limits = config.limits;
        Self {
            n_slots: limits.slots,
            n_flows: limits.flows,
            n_prefixes: limits.prefixes,
            n_sources: limits.sources,
            pool: config.pool.record(),
        }
    }
}

/// Kernels before 6.1 make no map whose elements are larger, and xlb's maps are of one element.
const OLD_ELEMENT_LEN_MAX: u32 = 4 << 20;

impl Sizes {
    /// What this kernel has room for, where the defaults are more than that. What was asked for otherwise stays as it is: the
    /// kernel then refuses.
    pub fn or_less(self, kernel: KernelVersion) -> Self {
        if kernel >= KernelVersion::new(6, 1, 0) {
            return self;
        }
        let default = Self::default();
        let n_slots = if self.n_slots == default.n_slots { OLD_ELEMENT_LEN_MAX / size_of::<Slot>() as u32 } else { self.n_slots };
        let n_flows = if self.n_flows == default.n_flows { OLD_ELEMENT_LEN_MAX / size_of::<u64>() as u32 } else { self.n_flows };
        Self { n_slots, n_flows, ..self }
    }
}

impl Default for Sizes {
    fn default() -> Self {
        Self {
            n_slots: limits::SLOTS_DEFAULT,
            n_flows: limits::FLOWS_DEFAULT,
            n_prefixes: limits::PREFIXES_DEFAULT,
            n_sources: limits::SOURCES_DEFAULT,
            pool: Pool::EMPTY,
        }
    }
}

impl Shape {
    /// What an operator can do where the kernel makes no map of this length.
    pub fn advice(&self) -> &'static str {
        match self.name {
            "SLOTS" => "lower limits.slots to 1048576",
            "FLOWS" => "lower limits.flows to 524288",
            "METERS" => "lower limits.sources to 524288",
            "SESSIONS" => "name fewer addresses in [fullnat], or fewer ports: 131072 ports of all together",
            "PREFIXES" => "lower limits.prefixes to 104848",
            _ => "use a machine of at most 4 possible CPUs (/sys/devices/system/cpu/possible)",
        }
    }

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
pub const SERVER_IDS: Shape = Shape::table::<u64>("SERVER_IDS", limits::BACKEND_RECORDS);
pub const BACKENDS_SEEN: Shape = Shape::table::<Tick>("BACKENDS_SEEN", limits::BACKEND_RECORDS);
pub const FRAGMENTS: Shape = Shape::table::<u64>("FRAGMENTS", limits::FRAGMENTS);
pub const BACKEND_LOADS: Shape = Shape::table::<Load>("BACKEND_LOADS", limits::BACKEND_RECORDS);
pub const BACKEND_HANDSHAKES: Shape = Shape::table::<Handshakes>("BACKEND_HANDSHAKES", limits::BACKEND_RECORDS);
pub const SERVICE_LOADS: Shape = Shape::table::<u64>("SERVICE_LOADS", limits::SERVICE_RECORDS);
pub const TURNS: Shape = Shape::table::<u64>("TURNS", limits::SERVICE_RECORDS);
pub const HANDSHAKES: Shape = Shape::table::<u64>("HANDSHAKES", limits::HANDSHAKES);
pub const ADMISSION: Shape = Shape::table::<Rules>("ADMISSION", limits::ADMISSION_RECORDS);
pub const KNOWN_FLOWS: Shape = Shape::table::<u64>("KNOWN_FLOWS", limits::KNOWN_FLOWS);
pub const TRACE_RULES: Shape = Shape::table::<trace::Rules>("TRACE_RULES", 1);
pub const TRACE_WINDOW: Shape = Shape::table::<u64>("TRACE_WINDOW", 1);
pub const LINKS: Shape = Shape::table::<Link>("LINKS", limits::LINKS);

/// As many slots as the configuration says.
pub const fn slots(n_slots: u32) -> Shape {
    Shape::table::<Slot>("SLOTS", n_slots)
}

/// When a flow of one of a line of slots was last seen elsewhere.
pub const fn slots_seen(n_slots: u32) -> Shape {
    Shape::table::<Tick>("SLOTS_SEEN", n_slots / limits::SLOTS_PER_LINE)
}

/// Both halves, for as many prefixes as the configuration says.
pub const fn prefixes(n_prefixes: u32) -> Shape {
    Shape::table::<Line>("PREFIXES", 2 * limits::prefix_lines(n_prefixes))
}

/// As many buckets as the configuration says.
pub const fn meters(n_sources: u32) -> Shape {
    Shape::table::<u64>("METERS", n_sources)
}

/// As many flows as the configuration says.
pub const fn flows(n_flows: u32) -> Shape {
    Shape::table::<u64>("FLOWS", n_flows)
}

/// The pool of full NAT, its sessions and their tags. Without one there is room for a line that nobody looks at.
pub const fn of_pool(range: &Range) -> [Shape; 3] {
    let n_sessions = if range.n_sessions() == 0 { LINE } else { range.n_sessions() };
    [
        Shape::table::<Pool>("POOL", 1),
        Shape::table::<Session>("SESSIONS", n_sessions),
        Shape::table::<u64>("SESSION_TAGS", n_sessions / LINE),
    ]
}

/// Counters of the packet path, one copy a CPU.
pub const fn counters(n_cpus: u32) -> [Shape; 7] {
    [
        Shape::table::<FlowEvents>("FLOW_EVENTS", n_cpus),
        Shape::table::<Totals>("TOTALS", n_cpus),
        Shape::table::<TrafficByBackend>("BACKEND_TRAFFIC", n_cpus),
        Shape::table::<ConnectionsByBackend>("BACKEND_CONNECTIONS", n_cpus),
        Shape::table::<DropsByService>("SERVICE_DROPS", n_cpus),
        Shape::table::<DropsByRule>("ADMISSION_DROPS", n_cpus),
        Shape::table::<Suspects>("SUSPECTS", n_cpus),
    ]
}

/// The records that CPUs are at. Of one program alone, as all of tracing is, and never pinned.
pub const fn traces(n_cpus: u32) -> Shape {
    Shape::table::<trace::Scratch>("TRACES", n_cpus)
}

/// All maps that are pinned.
pub fn all(sizes: Sizes, n_cpus: u32) -> impl Iterator<Item = Shape> {
    of_pool(&sizes.pool.range).into_iter().chain(all_but_the_pool(sizes, n_cpus))
}

/// What the pinned ones are called.
pub fn names() -> impl Iterator<Item = &'static str> {
    all(Sizes::default(), 0).map(|shape| shape.name)
}

/// Those that outlive a change of the pool.
pub fn all_but_the_pool(sizes: Sizes, n_cpus: u32) -> impl Iterator<Item = Shape> {
    let Sizes { n_slots, n_flows, n_prefixes, n_sources, .. } = sizes;
    let tables = [SETTINGS, SERVICE_BUCKETS, REPLY_BUCKETS, SERVICES, slots(n_slots), BACKENDS, SERVER_IDS, LINKS];
    let rules = [ADMISSION, prefixes(n_prefixes), meters(n_sources), KNOWN_FLOWS];
    let memory = [flows(n_flows), FRAGMENTS, slots_seen(n_slots), BACKENDS_SEEN];
    let loads = [BACKEND_LOADS, SERVICE_LOADS, TURNS, HANDSHAKES, BACKEND_HANDSHAKES];
    tables.into_iter().chain(rules).chain(memory).chain(loads).chain(counters(n_cpus))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_linux_6_1_the_defaults_fit_into_4_mib_and_what_was_asked_for_stays() {
        let (old, new) = (KernelVersion::new(5, 15, 0), KernelVersion::new(6, 1, 0));
        let asked_for = Sizes { n_slots: 1 << 21, n_flows: 1 << 13, ..Sizes::default() };
        for (kernel, sizes, expected) in [
            (old, Sizes::default(), Sizes { n_slots: 1 << 20, n_flows: 1 << 19, ..Sizes::default() }),
            (new, Sizes::default(), Sizes::default()),
            (old, asked_for, asked_for),
        ] {
            assert_eq!(sizes.or_less(kernel), expected, "{kernel}");
        }
    }

    #[test]
    fn before_linux_6_1_four_cpus_and_the_defaults_have_maps_of_4_mib_at_most() {
        let sizes = Sizes { n_prefixes: 104_848, ..Sizes::default() }.or_less(KernelVersion::new(5, 10, 0));
        for Shape { name, len } in all(sizes, 4) {
            assert!(len <= OLD_ELEMENT_LEN_MAX, "{name}: {len}");
        }
    }
}
