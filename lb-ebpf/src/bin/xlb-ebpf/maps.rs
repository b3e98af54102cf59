//! The maps, by the names under which the daemon finds them. Their sizes and what those cost stand in `lb_common::limits`.

use core::arch::asm;
use core::sync::atomic::AtomicU64;

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray, RingBuf};
use lb_common::admission::{Line, Rules as AdmissionRules};
use lb_common::counters::{ConnectionsByBackend, DropsByRule, DropsByService, FlowEvents, Suspects, Totals, TrafficByBackend};
use lb_common::decap::{Counts, Ends};
use lb_common::directory::Bucket;
use lb_common::features;
use lb_common::flow::{self, Tick};
use lb_common::handshake::Handshakes;
use lb_common::limits;
use lb_common::load::Load;
use lb_common::meter;
use lb_common::records::{Backend, Link, Service, Settings};
use lb_common::session::{self, Pool, Range, Session};
use lb_common::trace::{RING_LEN, Rules, Scratch};
use lb_common::{Addr, BackendId, Slot};

/// A table: one map of one large element, which the program addresses like a variable of its own.
///
/// A lookup in a BPF array is inlined, and still takes a key on the stack, a comparison with null, and all registers that a
/// call may change. Here, an index is masked and added, and the verifier sees from the mask that it is within the map.
///
/// What stands in this object is only an anchor, from which the relocation is made: the daemon makes the real map, with the
/// real size and in its own memory, and puts it in the place of the one that the loader makes for the anchor's section.
pub trait Table {
    type Record: 'static;

    /// The first record.
    fn first(&self) -> *const Self::Record;

    /// The record at an index below a power of two, the number of records; upper bits of the index do not count.
    #[inline(always)]
    fn at<const N_RECORDS: u32>(&self, index: u32) -> &'static Self::Record {
        const { assert!(N_RECORDS.is_power_of_two()) };
        let index = index & (N_RECORDS - 1);
        // SAFETY: the daemon makes the map with that many records (`lb_user::maps::shape`), or the verifier refuses the program.
        // Any bytes are a record; user space changes whole words, and each CPU writes to its own records only.
        unsafe { &*self.first().add(index as usize) }
    }

    /// The record at `index`, if there are more than that.
    #[inline(always)]
    fn below(&self, index: u32, n_records: u32) -> Option<&'static Self::Record> {
        let index = compared(index);
        // SAFETY: as above; the verifier follows the comparison.
        (index < u64::from(n_records)).then(|| unsafe { &*self.first().add(index as usize) })
    }
}

/// Loads the address of a static. In assembler, because the compiler is not to know what is there, nor that it is eight bytes.
macro_rules! address {
    ($name:path) => {{
        let mut address: *const ();
        // SAFETY: loads a constant.
        unsafe { asm!("{0} = {1} ll", out(reg) address, sym $name, options(pure, nomem, nostack, preserves_flags)) };
        address.cast()
    }};
}

macro_rules! tables {
    ($($name:ident: $record:ty, $section:literal;)+) => {
        mod anchors {
            $(
                #[unsafe(link_section = $section)]
                #[unsafe(no_mangle)]
                pub static $name: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);
            )+
        }
        $(
            #[allow(non_camel_case_types)]
            pub struct $name;

            impl Table for $name {
                type Record = $record;

                #[inline(always)]
                fn first(&self) -> *const $record {
                    address!(anchors::$name)
                }
            }
        )+
    };
}

tables! {
    SETTINGS: Settings, ".bss.SETTINGS";
    SERVICE_BUCKETS: Bucket, ".bss.SERVICE_BUCKETS";
    REPLY_BUCKETS: Bucket, ".bss.REPLY_BUCKETS";
    SERVICES: Service, ".bss.SERVICES";
    SLOTS: Slot, ".bss.SLOTS";
    BACKENDS: Backend, ".bss.BACKENDS";
    SERVER_IDS: u64, ".bss.SERVER_IDS";
    LINKS: Link, ".bss.LINKS";
    ADMISSION: AdmissionRules, ".bss.ADMISSION";
    PREFIXES: Line, ".bss.PREFIXES";
    METERS: [u64; meter::ENTRIES], ".bss.METERS";
    KNOWN_FLOWS: [u64; meter::ENTRIES], ".bss.KNOWN_FLOWS";
    FLOWS: [u64; flow::ENTRIES], ".bss.FLOWS";
    FRAGMENTS: [u64; flow::ENTRIES], ".bss.FRAGMENTS";
    POOL: Pool, ".bss.POOL";
    SESSIONS: [Session; session::LINE as usize], ".bss.SESSIONS";
    SESSION_TAGS: u64, ".bss.SESSION_TAGS";
    SLOTS_SEEN: Tick, ".bss.SLOTS_SEEN";
    BACKENDS_SEEN: Tick, ".bss.BACKENDS_SEEN";
    BACKEND_LOADS: Load, ".bss.BACKEND_LOADS";
    SERVICE_LOADS: u64, ".bss.SERVICE_LOADS";
    TURNS: u64, ".bss.TURNS";
    HANDSHAKES: u64, ".bss.HANDSHAKES";
    BACKEND_HANDSHAKES: Handshakes, ".bss.BACKEND_HANDSHAKES";
    FLOW_EVENTS: FlowEvents, ".bss.FLOW_EVENTS";
    TOTALS: Totals, ".bss.TOTALS";
    BACKEND_TRAFFIC: TrafficByBackend, ".bss.BACKEND_TRAFFIC";
    BACKEND_CONNECTIONS: ConnectionsByBackend, ".bss.BACKEND_CONNECTIONS";
    SERVICE_DROPS: DropsByService, ".bss.SERVICE_DROPS";
    ADMISSION_DROPS: DropsByRule, ".bss.ADMISSION_DROPS";
    SUSPECTS: Suspects, ".bss.SUSPECTS";
    TRACE_RULES: Rules, ".bss.TRACE_RULES";
    TRACE_WINDOW: u64, ".bss.TRACE_WINDOW";
    TRACES: Scratch, ".bss.TRACES";
}

/// What is traced goes to user space here. Like the three tables before, it is the program's own, and the next daemon's program has another.
#[map]
pub static TRACE_RING: RingBuf = RingBuf::with_byte_size(RING_LEN, 0);

/// Of `xlb_decap`, which runs on backends and has no other.
#[map]
pub static DECAP_ENDS: Array<Ends> = Array::with_max_entries(1, 0);
#[map]
pub static DECAP_COUNTS: PerCpuArray<Counts> = PerCpuArray::with_max_entries(1, 0);

/// Records in `SLOTS`. The daemon sets it before it loads the program.
#[unsafe(no_mangle)]
static N_SLOTS: u32 = limits::SLOTS_DEFAULT;

/// Records in `FLOWS`, a power of two.
#[unsafe(no_mangle)]
static N_FLOW_BUCKETS: u32 = limits::FLOWS_DEFAULT / flow::ENTRIES as u32;

/// Records in `PREFIXES`.
#[unsafe(no_mangle)]
static N_PREFIX_LINES: u32 = 2 * limits::prefix_lines(limits::PREFIXES_DEFAULT);

/// Records in `METERS`, a power of two.
#[unsafe(no_mangle)]
static N_METER_LINES: u32 = limits::SOURCES_DEFAULT / meter::ENTRIES as u32;

/// Records in `SESSIONS`. Without any, what belongs to full NAT is not even looked at by the verifier.
#[unsafe(no_mangle)]
static N_SESSIONS: u32 = 0;

/// What the program knows of. All else is not even looked at by the verifier.
#[unsafe(no_mangle)]
static FEATURES: u32 = features::ALL;

/// CPUs that the machine may have: records in each table of counters. The daemon sets it as well.
#[unsafe(no_mangle)]
static N_CPUS: u32 = 1;

const N_HANDED_OVER: usize = (limits::CPUS as usize).next_power_of_two();

// What the program keeps to itself, and nobody else asks for.
static CLOCK: AtomicU64 = AtomicU64::new(0);
static HANDED_OVER: [AtomicU64; N_HANDED_OVER] = [const { AtomicU64::new(0) }; N_HANDED_OVER];

/// The time when it was last asked for: the kernel's count of timer interrupts, of which the lower half, above the tick.
#[inline(always)]
pub fn clock() -> *mut u64 {
    CLOCK.as_ptr()
}

/// What a part of the packet path leaves to the next on this CPU.
#[inline(always)]
pub fn handed_over(cpu: u32) -> *mut u64 {
    HANDED_OVER[cpu as usize & (N_HANDED_OVER - 1)].as_ptr()
}

/// A constant to the verifier, and not to the compiler.
macro_rules! constant {
    ($name:path) => {{
        let constant: *const u32 = address!($name);
        // SAFETY: points to a static of that type.
        unsafe { *constant }
    }};
}

#[inline(always)]
pub fn features() -> u32 {
    constant!(FEATURES)
}

#[inline(always)]
pub fn slot(index: u32) -> Option<Slot> {
    SLOTS.below(index, constant!(N_SLOTS)).copied()
}

#[inline(always)]
pub fn prefix_line(index: u32) -> Option<&'static Line> {
    PREFIXES.below(index, constant!(N_PREFIX_LINES))
}

/// When a flow of this slot, or of one on the same line, was last seen elsewhere.
#[inline(always)]
pub fn slot_seen(slot_index: u32) -> Option<*mut Tick> {
    let n_lines = constant!(N_SLOTS) / limits::SLOTS_PER_LINE;
    SLOTS_SEEN.below(slot_index / limits::SLOTS_PER_LINE, n_lines).map(own)
}

/// When a flow on record was last sent to this backend.
#[inline(always)]
pub fn backend_seen(id: BackendId) -> *mut Tick {
    own(BACKENDS_SEEN.at::<{ limits::BACKEND_RECORDS }>(u32::from(id.0)))
}

/// A backend's load.
#[inline(always)]
pub fn backend_load(id: BackendId) -> *mut Load {
    own(BACKEND_LOADS.at::<{ limits::BACKEND_RECORDS }>(u32::from(id.0)))
}

/// Active flows of a service.
#[inline(always)]
pub fn service_load(id: u16) -> *mut u64 {
    own(SERVICE_LOADS.at::<{ limits::SERVICE_RECORDS }>(u32::from(id)))
}

/// The number of a service's next turn.
#[inline(always)]
pub fn turn(service: u16) -> *mut u64 {
    own(TURNS.at::<{ limits::SERVICE_RECORDS }>(u32::from(service)))
}

/// What was counted of a backend's handshakes.
#[inline(always)]
pub fn backend_handshakes(id: BackendId) -> *mut Handshakes {
    own(BACKEND_HANDSHAKES.at::<{ limits::BACKEND_RECORDS }>(u32::from(id.0)))
}

/// Of a tag, the lower bits count.
#[inline(always)]
pub fn handshake(tag: u32) -> *mut u64 {
    own(HANDSHAKES.at::<{ limits::HANDSHAKES }>(tag))
}

/// Which window it is in the upper half, and how many records it has in the lower one.
#[inline(always)]
pub fn trace_window() -> *mut u64 {
    own(TRACE_WINDOW.at::<1>(0))
}

/// The address of what the packet path writes itself.
#[inline(always)]
fn own<T>(record: &'static T) -> *mut T {
    (&raw const *record).cast_mut()
}

/// Upper bits of either number do not count.
#[inline(always)]
pub fn flow_entry(bucket: u32, position: usize) -> *mut u64 {
    let mask = constant!(N_FLOW_BUCKETS) - 1;
    // SAFETY: the daemon makes the map with that many records; the verifier knows the mask.
    let bucket = unsafe { FLOWS.first().add((bucket & mask) as usize) };
    // SAFETY: within the bucket.
    unsafe { bucket.cast::<u64>().cast_mut().add(position % flow::ENTRIES) }
}

/// Upper bits of either number do not count.
#[inline(always)]
pub fn fragment_entry(bucket: u32, position: usize) -> *mut u64 {
    let bucket = FRAGMENTS.at::<{ limits::FRAGMENTS / flow::ENTRIES as u32 }>(bucket);
    // SAFETY: within the bucket.
    unsafe { (&raw const *bucket).cast::<u64>().cast_mut().add(position % flow::ENTRIES) }
}

/// Upper bits of either number do not count.
#[inline(always)]
pub fn meter(line: u32, position: usize) -> *mut u64 {
    let mask = constant!(N_METER_LINES) - 1;
    // SAFETY: the daemon makes the map with that many records; the verifier knows the mask.
    let line = unsafe { METERS.first().add((line & mask) as usize) };
    // SAFETY: within the line.
    unsafe { line.cast::<u64>().cast_mut().add(position % meter::ENTRIES) }
}

/// Upper bits of either number do not count.
#[inline(always)]
pub fn known_flow(line: u32, position: usize) -> *mut u64 {
    let line = KNOWN_FLOWS.at::<{ limits::KNOWN_FLOWS / meter::ENTRIES as u32 }>(line);
    // SAFETY: within the line.
    unsafe { (&raw const *line).cast::<u64>().cast_mut().add(position % meter::ENTRIES) }
}

#[inline(always)]
pub fn has_pool() -> bool {
    constant!(N_SESSIONS) != 0
}

/// Not constants: what the verifier has to look at would depend on the configuration.
#[inline(always)]
pub fn pool_range() -> Range {
    POOL.at::<1>(0).range
}

/// Of a number, upper bits do not count.
#[inline(always)]
pub fn pool_address(number: u32) -> &'static Addr {
    const { assert!(limits::POOL_ADDRESSES.is_power_of_two()) };
    &POOL.at::<1>(0).addresses[(number & (limits::POOL_ADDRESSES - 1)) as usize]
}

/// The words of a session.
#[inline(always)]
pub fn session(index: u32) -> Option<*mut u64> {
    let line = session_line(index / session::LINE)?;
    // SAFETY: within the line.
    Some(unsafe { line.add((index % session::LINE) as usize * session::word::N) })
}

/// The words of a line's sessions.
#[inline(always)]
pub fn session_line(line: u32) -> Option<*mut u64> {
    SESSIONS.below(line, constant!(N_SESSIONS) / session::LINE).map(|line| unaligned(own(line).cast()))
}

/// The same address, of which the compiler knows nothing: it puts an offset into lower bits that it knows to be zero by "or", and the
/// verifier follows an addition only.
#[inline(always)]
fn unaligned(mut address: *mut u64) -> *mut u64 {
    // SAFETY: changes nothing.
    unsafe { asm!("{0} = {0}", inout(reg) address, options(pure, nomem, nostack, preserves_flags)) };
    address
}

/// The tags of a line.
#[inline(always)]
pub fn session_tags(line: u32) -> Option<*mut u64> {
    SESSION_TAGS.below(line, constant!(N_SESSIONS) / session::LINE).map(own)
}

/// An index that is about to be compared with a limit. Before Linux 6.8, a number that was put on the stack is another to the
/// verifier than the one in the register, and what a comparison tells of one it does not tell of the other: the compiler must go
/// on with the one that it compares.
#[inline(always)]
fn compared(index: u32) -> u64 {
    let mut index = u64::from(index);
    // SAFETY: changes nothing.
    unsafe { asm!("{0} = {0}", inout(reg) index, options(pure, nomem, nostack, preserves_flags)) };
    index
}

/// This CPU's own record.
#[inline(always)]
pub fn of_cpu<T: Table>(table: &T, cpu: u32) -> Option<*mut T::Record> {
    let cpu = compared(cpu);
    // SAFETY: the daemon makes the map with that many records; the verifier follows the comparison.
    (cpu < u64::from(constant!(N_CPUS))).then(|| unsafe { table.first().cast_mut().add(cpu as usize) })
}
