//! The maps, by the names under which the daemon finds them. Their sizes and what those cost stand in `lb_common::limits`.

use core::arch::asm;
use core::marker::PhantomData;

use lb_common::Slot;
use lb_common::counters::{ConnectionsByBackend, DropsByService, Totals, TrafficByBackend};
use lb_common::directory::Bucket;
use lb_common::limits;
use lb_common::records::{Backend, Link, Service, Settings};

/// A table: one map of one large element, which the program addresses like a variable of its own.
///
/// A lookup in a BPF array is inlined, and still takes a key on the stack, a comparison with null, and all registers that a
/// call may change. Here, an index is masked and added, and the verifier sees from the mask that it is within the map.
///
/// What stands in this object is only an anchor, from which the relocation is made: the daemon makes the real map, with the
/// real size and in its own memory, and puts it in the place of the one that the loader makes for the anchor's section.
#[repr(transparent)]
pub struct Table<T> {
    anchor: u64,
    _records: PhantomData<T>,
}

impl<T> Table<T> {
    const fn new() -> Self {
        Self { anchor: 0, _records: PhantomData }
    }

    /// The first record. The compiler is not to know that it points to the anchor, whose value it knows.
    #[inline(always)]
    fn first(&'static self) -> *const T {
        let mut first: *const T = (&raw const self.anchor).cast();
        // SAFETY: no instruction at all.
        unsafe { asm!("/* {0} */", inout(reg) first, options(pure, nomem, nostack, preserves_flags)) };
        first
    }

    /// The record at an index below a power of two, the number of records; upper bits of the index do not count.
    #[inline(always)]
    pub fn at<const N_RECORDS: u32>(&'static self, index: u32) -> &'static T {
        const { assert!(N_RECORDS.is_power_of_two()) };
        let index = index & (N_RECORDS - 1);
        // SAFETY: the daemon makes the map with that many records (`lb_user::maps::shape`), or the verifier refuses the program.
        unsafe { &*self.first().add(index as usize) }
    }

    /// The record at `index`, if there are more than that.
    #[inline(always)]
    pub fn below(&'static self, index: u32, n_records: u32) -> Option<&'static T> {
        // SAFETY: as above; the verifier follows the comparison.
        (index < n_records).then(|| unsafe { &*self.first().add(index as usize) })
    }
}

// SAFETY: any bytes are a record; user space changes whole words, and each CPU writes to its own records only.
unsafe impl<T> Sync for Table<T> {}

macro_rules! tables {
    ($($name:ident: $record:ty, $section:literal;)+) => {
        $(
            #[unsafe(link_section = $section)]
            #[unsafe(no_mangle)]
            pub static $name: Table<$record> = Table::new();
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
    LINKS: Link, ".bss.LINKS";
    TOTALS: Totals, ".bss.TOTALS";
    BACKEND_TRAFFIC: TrafficByBackend, ".bss.BACKEND_TRAFFIC";
    BACKEND_CONNECTIONS: ConnectionsByBackend, ".bss.BACKEND_CONNECTIONS";
    SERVICE_DROPS: DropsByService, ".bss.SERVICE_DROPS";
}

/// Records in `SLOTS`. The daemon sets it before it loads the program.
#[unsafe(no_mangle)]
static N_SLOTS: u32 = limits::SLOTS_DEFAULT;

/// CPUs that the machine may have: records in each table of counters. The daemon sets it as well.
#[unsafe(no_mangle)]
static N_CPUS: u32 = 1;

/// A constant to the verifier, and not to the compiler.
#[inline(always)]
fn constant(value: &'static u32) -> u32 {
    // SAFETY: a reference is valid.
    unsafe { (&raw const *value).read_volatile() }
}

#[inline(always)]
pub fn slot(index: u32) -> Option<Slot> {
    SLOTS.below(index, constant(&N_SLOTS)).copied()
}

/// This CPU's own record.
#[inline(always)]
pub fn of_cpu<T>(table: &'static Table<T>, cpu: u32) -> Option<*mut T> {
    // SAFETY: the daemon makes the map with that many records; the verifier follows the comparison.
    (cpu < constant(&N_CPUS)).then(|| unsafe { table.first().cast_mut().add(cpu as usize) })
}
