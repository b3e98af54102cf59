//! What the packet path counts. Read-only, and each reader may have its own.

use aya::Ebpf;
use aya::maps::{MapData, PerCpuArray};
use lb_common::BackendId;
use lb_common::counters::{BackendCounters, ServiceCounters, Totals};

use super::MapError;
use super::typed::{Plain, Record};

/// Handles to the counter maps.
pub struct Counters {
    totals: PerCpu<Totals>,
    backends: PerCpu<BackendCounters>,
    services: PerCpu<ServiceCounters>,
}

impl Counters {
    /// # Errors
    /// If a map is missing or has another shape.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            totals: PerCpu::take(ebpf, "TOTALS")?,
            backends: PerCpu::take(ebpf, "BACKEND_COUNTERS")?,
            services: PerCpu::take(ebpf, "SERVICE_COUNTERS")?,
        })
    }

    /// All packets, by verdict.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn totals(&self) -> Result<Totals, MapError> {
        self.totals.sum(0, Totals::add)
    }

    /// Packets towards a backend, since its id was first used.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn backend(&self, id: BackendId) -> Result<BackendCounters, MapError> {
        self.backends.sum(u32::from(id.0), BackendCounters::add)
    }

    /// Packets to a service that reached no backend, since its id was first used.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn service_drops(&self, id: u16) -> Result<u64, MapError> {
        let sum = self
            .services
            .sum(u32::from(id), |sum: &mut ServiceCounters, cpu| sum.dropped = sum.dropped.wrapping_add(cpu.dropped))?;
        Ok(sum.dropped)
    }
}

struct PerCpu<T: Record> {
    name: &'static str,
    array: PerCpuArray<MapData, Plain<T>>,
}

impl<T: Record + Default> PerCpu<T> {
    fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, MapError> {
        let map = ebpf.take_map(name).ok_or(MapError::Missing { name })?;
        let array = PerCpuArray::try_from(map).map_err(|source| MapError::Open { name, source })?;
        Ok(Self { name, array })
    }

    fn sum(&self, index: u32, add: impl Fn(&mut T, &T)) -> Result<T, MapError> {
        let values = self.array.get(&index, 0).map_err(|source| MapError::Element { name: self.name, index, source })?;
        let mut sum = T::default();
        values.iter().for_each(|Plain(value)| add(&mut sum, value));
        Ok(sum)
    }
}
