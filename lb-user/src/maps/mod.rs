//! The BPF maps: typed handles. All that the daemon's `unsafe` is for stands in this room.
//!
//! [`KernelMaps`] writes the control plane's tables, and there is one of it; [`Counters`] reads what the packet path counts, and
//! there may be many.

mod counters;
mod flows;
mod loads;
mod mapped;
mod read;
mod sessions;
pub mod shape;
mod shared;
pub mod substitute;
mod tracer;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::util::KernelVersion;
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::admission::{Line, Root, Rules};
use lb_common::directory::Bucket;
use lb_common::flow::{self, Tick};
use lb_common::hash::HashKeys;
use lb_common::meter;
use lb_common::records::{Backend, LAYOUT_VERSION, Link, Service, Settings, forward, link_flags, settings_flags};
use lb_common::{BackendId, Slot, limits};

pub use counters::{Counters, Traced};
pub use flows::{Census, FlowTable, Sweep};
pub use loads::Loads;
use mapped::Mapped;
pub use sessions::Sessions;
pub use shape::Sizes;
pub use shared::Shared;
pub use tracer::Tracer;

use crate::admission::Image;
use crate::compile::Sightings;
use crate::tables::{FilledDirectory, Write};

/// Far longer than a packet is in the program's hands.
const IN_HAND: Duration = Duration::from_millis(1);

#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("map {name} is not in the BPF object; the object and this binary are of different versions")]
    Missing { name: &'static str },
    #[error("the BPF object does not load")]
    Load { source: Box<EbpfError> },
    #[error("map {name}, element {index}")]
    Element { name: &'static str, index: u32, source: aya::maps::MapError },
    #[error("map {name} has no record {index}, only {n_records}")]
    Index { name: &'static str, index: u32, n_records: usize },
    #[error("map {name}")]
    Open { name: &'static str, source: aya::maps::MapError },
    #[error("map {name} would be {} KiB, but this kernel makes none beyond 4 MiB; Linux 6.1 is the first that does, or {advice}", len >> 10)]
    TooLarge { name: &'static str, len: u32, advice: &'static str },
    #[error("map {name} cannot be pinned")]
    Pin { name: &'static str, source: Box<aya::pin::PinError> },
    #[error("map {name} cannot be mapped into memory")]
    Mmap { name: &'static str, source: std::io::Error },
    #[error("map {name} cannot be shared by two programs")]
    Share { name: String, source: std::io::Error },
    #[error("map {name} has {found} bytes, this version needs {wanted}")]
    Shape { name: &'static str, found: u32, wanted: u32 },
    #[error("the number of this machine's CPUs is not to be had")]
    Cpus { source: std::io::Error },
    #[error("this machine may have {n_cpus} CPUs, and xlb counts on {} at most", limits::CPUS)]
    TooManyCpus { n_cpus: u32 },
    #[error("this kernel does not tell its version")]
    Kernel { source: Box<dyn std::error::Error + Send + Sync> },
}

/// The control plane's maps, to be written by one task.
pub struct KernelMaps {
    settings: Mapped<Settings>,
    slots: Mapped<Slot>,
    service_buckets: Mapped<Bucket>,
    reply_buckets: Mapped<Bucket>,
    services: Mapped<Service>,
    backends: Mapped<Backend>,
    links: Mapped<Link>,
    admission: Mapped<Rules>,
    prefixes: Mapped<Line>,
    server_ids: Mapped<u64>,
    /// The packet path's own, and the next too.
    meters: Mapped<u64>,
    known_flows: Mapped<u64>,
    /// When packets were led from one half of that table to the other.
    led_over: Instant,
    pub flows: FlowTable,
    pub loads: Loads,
    pub sessions: Sessions,
    /// The packet path's own.
    fragments: Mapped<u64>,
    slots_seen: Mapped<Tick>,
    backends_seen: Mapped<Tick>,
    known_links: BTreeMap<u32, bool>,
}

/// An object with its maps, whose programs are still to be loaded. The maps must live until then.
pub struct Loaded {
    pub ebpf: Ebpf,
    pub maps: KernelMaps,
    pub counters: Counters,
    pub tracer: Tracer,
    pub shared: Shared,
}

/// The version of the running kernel.
///
/// # Errors
/// If it does not tell.
pub fn kernel() -> Result<KernelVersion, MapError> {
    KernelVersion::current().map_err(|source| MapError::Kernel { source: source.into() })
}

/// Makes the maps of an object, or opens those that are pinned under their names in `pins`. New ones are pinned there. Its program
/// is to have these [`features`](lb_common::features).
///
/// # Errors
/// If the kernel refuses, or a pinned map has another shape.
pub fn load(object: &[u8], sizes: Sizes, features: u32, pins: Option<&Path>) -> Result<Loaded, MapError> {
    load_as_for(kernel()?, object, sizes, features, pins)
}

/// As [`load`], with programs that a kernel of this version takes, which may be older than the running one.
///
/// # Errors
/// As there.
pub fn load_as_for(
    kernel: KernelVersion,
    object: &[u8],
    sizes: Sizes,
    features: u32,
    pins: Option<&Path>,
) -> Result<Loaded, MapError> {
    let mut ebpf = open(kernel, object, sizes, features)?;
    let anchors = shared::anchors(&ebpf);
    let maps = KernelMaps::take(&mut ebpf, sizes, pins)?;
    let counters = Counters::take(&mut ebpf, n_cpus()?, pins)?;
    let tracer = Tracer::take(&mut ebpf)?;
    let shared = Shared::of(anchors)?;
    Ok(Loaded { ebpf, maps, counters, tracer, shared })
}

/// The object once more, with other features, for a program that is to take the place of one and have its maps.
///
/// # Errors
/// If the kernel refuses.
pub fn load_again(object: &[u8], sizes: Sizes, features: u32, shared: &Shared) -> Result<Ebpf, MapError> {
    let ebpf = open(kernel()?, object, sizes, features)?;
    shared.give_to(&ebpf)?;
    Ok(ebpf)
}

/// The object with what it is to know when it is verified, and with small maps in the places of those that it will have.
fn open(kernel: KernelVersion, object: &[u8], sizes: Sizes, features: u32) -> Result<Ebpf, MapError> {
    let object = substitute::for_kernel(object, kernel);
    let n_meter_lines = sizes.n_sources / meter::ENTRIES as u32;
    let n_prefix_lines = 2 * limits::prefix_lines(sizes.n_prefixes);
    let (n_cpus, n_flow_buckets) = (n_cpus()?, sizes.n_flows / flow::ENTRIES as u32);
    let n_sessions = sizes.pool.range.n_sessions();
    let mut loader = EbpfLoader::new();
    loader
        .override_global("N_SLOTS", &sizes.n_slots, true)
        .override_global("N_FLOW_BUCKETS", &n_flow_buckets, true)
        .override_global("N_PREFIX_LINES", &n_prefix_lines, true)
        .override_global("N_METER_LINES", &n_meter_lines, true)
        .override_global("N_SESSIONS", &n_sessions, true)
        .override_global("N_CPUS", &n_cpus, true)
        .override_global("FEATURES", &features, true);
    loader.load(&object).map_err(|source| MapError::Load { source: Box::new(source) })
}

/// How many CPUs this machine may have, now or later.
///
/// # Errors
/// More than the packet path counts on, or the kernel does not say.
pub fn n_cpus() -> Result<u32, MapError> {
    let n_cpus = aya::util::nr_cpus().map_err(|(_, source)| MapError::Cpus { source })? as u32;
    if n_cpus <= limits::CPUS { Ok(n_cpus) } else { Err(MapError::TooManyCpus { n_cpus }) }
}

impl KernelMaps {
    fn take(ebpf: &mut Ebpf, sizes: Sizes, pins: Option<&Path>) -> Result<Self, MapError> {
        let mut settings = Mapped::<Settings>::take(ebpf, &shape::SETTINGS, pins)?;
        // Whoever traced is gone.
        let flags = settings.load_word(Settings::FLAGS_WORD);
        settings.store_word(Settings::FLAGS_WORD, flags & !settings_flags::TRACE);
        Ok(Self {
            settings,
            slots: Mapped::take(ebpf, &shape::slots(sizes.n_slots), pins)?,
            flows: FlowTable::take(ebpf, sizes, pins)?,
            loads: Loads::take(ebpf, pins)?,
            sessions: Sessions::take(ebpf, &sizes.pool, pins)?,
            fragments: Mapped::take(ebpf, &shape::FRAGMENTS, pins)?,
            slots_seen: Mapped::take(ebpf, &shape::slots_seen(sizes.n_slots), pins)?,
            backends_seen: Mapped::take(ebpf, &shape::BACKENDS_SEEN, pins)?,
            service_buckets: Mapped::take(ebpf, &shape::SERVICE_BUCKETS, pins)?,
            reply_buckets: Mapped::take(ebpf, &shape::REPLY_BUCKETS, pins)?,
            services: Mapped::take(ebpf, &shape::SERVICES, pins)?,
            backends: Mapped::take(ebpf, &shape::BACKENDS, pins)?,
            links: Mapped::take(ebpf, &shape::LINKS, pins)?,
            admission: Mapped::take(ebpf, &shape::ADMISSION, pins)?,
            prefixes: Mapped::take(ebpf, &shape::prefixes(sizes.n_prefixes), pins)?,
            server_ids: Mapped::take(ebpf, &shape::SERVER_IDS, pins)?,
            led_over: Instant::now(),
            meters: Mapped::take(ebpf, &shape::meters(sizes.n_sources), pins)?,
            known_flows: Mapped::take(ebpf, &shape::KNOWN_FLOWS, pins)?,
            known_links: BTreeMap::new(),
        })
    }

    /// Number of slots that the map was made with.
    pub fn n_slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// The layout version and keys that a running program uses; a version of 0 is a fresh map.
    pub fn settings(&self) -> Settings {
        self.settings.read(0).unwrap_or_default()
    }

    /// Sets the secret. Before the first service, or flows move.
    pub fn set_hash_keys(&mut self, keys: HashKeys) {
        let settings = Settings { hash_keys: keys, layout_version: LAYOUT_VERSION, ..self.settings() };
        if let Err(error) = self.settings.set(0, &settings) {
            tracing::error!(%error, "the settings have no room");
        }
    }

    /// For so many ticks from now, the daemon is not away for too long, if that matters.
    pub fn attend_for(&mut self, ticks: Tick) {
        self.settings.store_word(Settings::ATTENDED_WORD, now().wrapping_add(ticks));
    }

    /// Carries out one change.
    ///
    /// # Errors
    /// [`MapError::Index`] beyond the limits.
    pub fn write(&mut self, write: &Write) -> Result<(), MapError> {
        match write {
            Write::Backend(id, record) => self.backends.set(u32::from(id.0), record),
            Write::Service(id, record) => self.services.set(u32::from(*id), record),
            Write::Slots(slots) => {
                for &(number, slot) in slots {
                    self.slots.store_word(number, slot.raw());
                }
                Ok(())
            }
            Write::ServiceDirectory(directory) => {
                let half = 1 - self.settings().services.half();
                fill_half(&mut self.service_buckets, half * limits::SERVICE_BUCKETS, directory)?;
                self.settings.store_long(Settings::SERVICES_WORD, directory.filled.in_half(half).raw());
                Ok(())
            }
            Write::ReplyDirectory(directory) => {
                let half = 1 - self.settings().replies.half();
                fill_half(&mut self.reply_buckets, half * limits::REPLY_BUCKETS, directory)?;
                self.settings.store_long(Settings::REPLIES_WORD, directory.filled.in_half(half).raw());
                Ok(())
            }
            Write::Flags(flags) => {
                let trace = self.settings().flags & settings_flags::TRACE;
                self.settings.store_word(Settings::FLAGS_WORD, flags | trace);
                Ok(())
            }
            Write::Prefixes(image) => {
                // Nobody may be left in the half that was in use before the last change.
                std::thread::sleep(IN_HAND.saturating_sub(self.led_over.elapsed()));
                let first = image.half * self.prefixes.len() as u32 / 2;
                (first..).zip(image.lines.iter()).try_for_each(|(index, line)| self.prefixes.set(index, line))
            }
            Write::Admission(scope, rules) => {
                self.led_over = Instant::now();
                self.admission.set(u32::from(*scope), rules)
            }
            Write::ServerId(id, server_id) => self.server_ids.set(u32::from(id.0), server_id),
        }
    }

    /// Has the packet path look whether packets are to be traced, or not even that.
    pub fn set_tracing(&mut self, is_on: bool) {
        let others = self.settings().flags & !settings_flags::TRACE;
        self.settings.store_word(Settings::FLAGS_WORD, if is_on { others | settings_flags::TRACE } else { others });
    }

    /// Notes which interfaces take redirected frames; those not named do not.
    ///
    /// # Errors
    /// None: indices beyond the table are left out.
    pub fn set_links(&mut self, links: &BTreeMap<u32, bool>) -> Result<(), MapError> {
        for &ifindex in self.known_links.keys().filter(|ifindex| !links.contains_key(ifindex)) {
            self.links.set(ifindex, &Link::default())?;
        }
        for (&ifindex, &takes_redirects) in links.iter().filter(|(ifindex, _)| **ifindex < limits::LINKS) {
            let flags = if takes_redirects { link_flags::REDIRECT } else { 0 };
            self.links.set(ifindex, &Link { flags, pad: 0 })?;
        }
        self.known_links = links.clone();
        self.known_links.retain(|&ifindex, _| ifindex < limits::LINKS);
        Ok(())
    }

    /// The rules that a running program has, by scope, and which half of the table of prefixes they lead to.
    pub fn rules(&self) -> (BTreeMap<u16, Rules>, Arc<Image>) {
        let rules = self.admission.iter().filter(|(_, rules)| *rules != Rules::default());
        let rules: BTreeMap<u16, Rules> = rules.map(|(scope, rules)| (scope as u16, rules)).collect();
        let is_second = |root: Root| root.line() as usize >= self.prefixes.len() / 2;
        let half = rules.values().flat_map(|rules| [rules.v4, rules.v6]).any(is_second);
        (rules, Arc::new(Image::adopted(half.into())))
    }

    /// A backend's server ID, if its record says that it has one.
    pub fn server_id(&self, id: BackendId) -> u64 {
        self.server_ids.read(usize::from(id.0)).unwrap_or_default()
    }

    /// What a running program's records say: services and backends in use, by id.
    pub fn records(&self) -> RecordsInUse {
        let services = self.services.iter().filter(|(_, service)| *service != Service::default());
        let backends = self.backends.iter().filter(|(_, backend)| *backend != Backend::default());
        RecordsInUse {
            services: services.map(|(id, service)| (id as u16, service)).collect(),
            backends: backends.map(|(id, backend)| (BackendId(id as u16), backend)).collect(),
        }
    }

    /// Removes flows from the table that are over, and counts the others. `idle` is how long a backend's silent flows are taken for
    /// alive.
    pub fn sweep(&self, now: Tick, idle: impl Fn(BackendId) -> Tick) -> Sweep {
        let service_of = |id: BackendId| self.backends.read(usize::from(id.0)).unwrap_or_default().service;
        let (sweep, active) = self.flows.sweep(now, idle, |id| self.loads.take_off(id, service_of(id)));
        self.loads.set_right(&active, service_of);
        sweep
    }

    /// What full NAT remembers of backends whose records have been cleared.
    pub fn forget_sessions_of_nobody(&self) {
        let is_there =
            |id: BackendId| self.backends.read(usize::from(id.0)).is_some_and(|record| record.forward != forward::FREE);
        self.sessions.forget_all_but_of(is_there);
    }

    /// The slots of a region.
    pub fn region(&self, first_line: u32, bits: u32) -> Arc<[lb_common::Slot]> {
        let first_slot = first_line * limits::SLOTS_PER_LINE;
        (first_slot..first_slot + (1 << bits)).map(|number| lb_common::Slot::from_raw(self.slots.load_word(number))).collect()
    }
}

/// The time by the clock that the packet path reads.
pub fn now() -> Tick {
    (clock_ns() >> flow::TICK_SHIFT) as Tick
}

/// The same in units of [`meter`].
pub fn meter_time() -> u64 {
    clock_ns() >> meter::TIME_SHIFT
}

fn clock_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// What the packet path has noted and counted.
pub struct Seen<'m> {
    pub maps: &'m KernelMaps,
    pub counters: &'m Counters,
}

impl Sightings for Seen<'_> {
    fn now(&self) -> Tick {
        now()
    }

    fn elsewhere(&self, line: u32) -> Tick {
        self.maps.slots_seen.read(line as usize).unwrap_or_default()
    }

    fn flow(&self, backend: BackendId) -> Tick {
        self.maps.backends_seen.read(usize::from(backend.0)).unwrap_or_default()
    }

    fn is_used(&self, backend: BackendId) -> bool {
        self.counters.backend(backend).map_or(true, |counted| counted.packets > 0)
    }
}

/// Records of a running program.
#[derive(Debug, Default)]
pub struct RecordsInUse {
    pub services: BTreeMap<u16, Service>,
    pub backends: BTreeMap<BackendId, Backend>,
}

impl RecordsInUse {
    /// A backend's address and the port that packets reach it on.
    pub fn endpoint(&self, backend: &Backend) -> SocketAddr {
        SocketAddr::new(backend.address.into(), backend.port.get())
    }
}

fn fill_half(buckets: &mut Mapped<Bucket>, first: u32, directory: &FilledDirectory) -> Result<(), MapError> {
    (first..).zip(&directory.filled.buckets).try_for_each(|(index, bucket)| buckets.set(index, bucket))
}
