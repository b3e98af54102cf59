//! The maps, by the names under which the daemon finds them. Their sizes and what those cost stand in `lb_common::limits`.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, PerCpuArray};
use lb_common::counters::{BackendCounters, ServiceCounters, Totals};
use lb_common::directory::Bucket;
use lb_common::limits;
use lb_common::records::{Backend, Link, Service, Settings, SlotLine};

/// User space maps this one into its memory, so that a change is one store.
const BPF_F_MMAPABLE: u32 = 1 << 10;

#[map]
pub static SETTINGS: Array<Settings> = Array::with_max_entries(1, BPF_F_MMAPABLE);
#[map]
pub static SERVICE_BUCKETS: Array<Bucket> = Array::with_max_entries(2 * limits::SERVICE_BUCKETS, 0);
#[map]
pub static REPLY_BUCKETS: Array<Bucket> = Array::with_max_entries(2 * limits::REPLY_BUCKETS, 0);
#[map]
pub static SERVICES: Array<Service> = Array::with_max_entries(limits::SERVICE_RECORDS, 0);
#[map]
pub static SLOTS: Array<SlotLine> = Array::with_max_entries(limits::SLOTS_DEFAULT / limits::SLOTS_PER_LINE, BPF_F_MMAPABLE);
#[map]
pub static BACKENDS: Array<Backend> = Array::with_max_entries(limits::BACKEND_RECORDS, 0);
#[map]
pub static LINKS: Array<Link> = Array::with_max_entries(limits::LINKS, 0);

#[map]
pub static TOTALS: PerCpuArray<Totals> = PerCpuArray::with_max_entries(1, 0);
#[map]
pub static BACKEND_COUNTERS: PerCpuArray<BackendCounters> = PerCpuArray::with_max_entries(limits::BACKEND_RECORDS, 0);
#[map]
pub static SERVICE_COUNTERS: PerCpuArray<ServiceCounters> = PerCpuArray::with_max_entries(limits::SERVICE_RECORDS, 0);
