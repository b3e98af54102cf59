//! What the packet path counts, from this process's memory. Read-only, and each reader may have its own.

use std::collections::BTreeMap;
use std::path::Path;

use aya::Ebpf;
use lb_common::BackendId;
use lb_common::admission::{RULE_SLOTS, Suspect};
use lb_common::counters::{BackendCounters, FlowEvents, Totals, Traffic};
use lb_common::handshake::Handshakes;
use lb_common::limits;
use lb_common::trace::Scratch;

use super::mapped::Mapped;
use super::{MapError, shape};

/// Handles to the counter maps.
pub struct Counters {
    n_cpus: u32,
    flow_events: Mapped<FlowEvents>,
    totals: Mapped<Totals>,
    traffic: Mapped<Traffic>,
    connections: Mapped<u64>,
    /// The only ones that all CPUs share.
    handshakes: Mapped<Handshakes>,
    drops: Mapped<u64>,
    refused: Mapped<u64>,
    suspects: Mapped<Suspect>,
    traces: Mapped<Scratch>,
}

/// What became of records of traces, since the program was loaded.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traced {
    pub n_written: u64,
    /// There was no room for them.
    pub n_lost: u64,
    /// Packets that got none, for there were so many at once.
    pub n_limited: u64,
}

impl Traced {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            n_written: self.n_written.wrapping_sub(earlier.n_written),
            n_lost: self.n_lost.wrapping_sub(earlier.n_lost),
            n_limited: self.n_limited.wrapping_sub(earlier.n_limited),
        }
    }
}

impl Counters {
    pub(super) fn take(ebpf: &mut Ebpf, n_cpus: u32, pins: Option<&Path>) -> Result<Self, MapError> {
        let [flow_events, totals, traffic, connections, drops, refused, suspects] = shape::counters(n_cpus);
        Ok(Self {
            n_cpus,
            flow_events: Mapped::take(ebpf, &flow_events, pins)?,
            totals: Mapped::take(ebpf, &totals, pins)?,
            traffic: Mapped::take(ebpf, &traffic, pins)?,
            connections: Mapped::take(ebpf, &connections, pins)?,
            handshakes: Mapped::take(ebpf, &shape::BACKEND_HANDSHAKES, pins)?,
            drops: Mapped::take(ebpf, &drops, pins)?,
            refused: Mapped::take(ebpf, &refused, pins)?,
            suspects: Mapped::take(ebpf, &suspects, pins)?,
            traces: Mapped::take(ebpf, &shape::traces(n_cpus), None)?,
        })
    }

    /// All packets, by verdict.
    ///
    /// # Errors
    /// None: the map is in memory.
    pub fn totals(&self) -> Result<Totals, MapError> {
        let mut sum = Totals::default();
        self.totals.iter().for_each(|(_, cpu)| sum.add(&cpu));
        Ok(sum)
    }

    /// What happened to the flow table.
    pub fn flow_events(&self) -> FlowEvents {
        let mut sum = FlowEvents::default();
        self.flow_events.iter().for_each(|(_, cpu)| sum.add(&cpu));
        sum
    }

    /// Packets towards a backend, since its id was first used.
    ///
    /// # Errors
    /// None: the map is in memory.
    pub fn backend(&self, id: BackendId) -> Result<BackendCounters, MapError> {
        let mut sum = BackendCounters { handshakes: self.handshakes(id), ..BackendCounters::default() };
        for index in self.copies(u32::from(id.0), limits::BACKEND_RECORDS) {
            let Traffic { packets, bytes } = self.traffic.read(index).unwrap_or_default();
            let connections = self.connections.read(index).unwrap_or_default();
            sum.add(&BackendCounters { packets, bytes, connections, ..BackendCounters::default() });
        }
        Ok(sum)
    }

    /// How connections to a backend opened, since its id was first used.
    pub fn handshakes(&self, id: BackendId) -> Handshakes {
        self.handshakes.read(usize::from(id.0)).unwrap_or_default()
    }

    /// Packets to a service that reached no backend, since its id was first used.
    ///
    /// # Errors
    /// None: the map is in memory.
    pub fn service_drops(&self, id: u16) -> Result<u64, MapError> {
        let copies = self.copies(u32::from(id), limits::SERVICE_RECORDS);
        Ok(copies.filter_map(|index| self.drops.read(index)).fold(0, u64::wrapping_add))
    }

    /// Packets that rules of a scope refused, by [`Rule`](lb_common::admission::Rule), since the scope's id was first used.
    pub fn refused(&self, scope: u16) -> [u64; RULE_SLOTS] {
        let mut sums = [0u64; RULE_SLOTS];
        for copy in self.copies(u32::from(scope), limits::ADMISSION_RECORDS) {
            for (rule, sum) in sums.iter_mut().enumerate() {
                *sum = sum.wrapping_add(self.refused.read(copy * RULE_SLOTS + rule).unwrap_or_default());
            }
        }
        sums
    }

    /// Sources that were refused, those that were most often first. One is there for each place of the table at most, and its votes
    /// are at most as many as its packets.
    pub fn suspects(&self) -> Vec<Suspect> {
        let mut by_source: BTreeMap<(u32, u64, u64), Suspect> = BTreeMap::new();
        for (_, suspect) in self.suspects.iter().filter(|(_, suspect)| suspect.votes > 0) {
            let Suspect { what, high, low, votes, .. } = suspect;
            let sum = by_source.entry((what, high, low)).or_insert(Suspect { votes: 0, ..suspect });
            sum.votes = sum.votes.wrapping_add(votes);
        }
        let mut suspects: Vec<Suspect> = by_source.into_values().collect();
        suspects.sort_by_key(|suspect| std::cmp::Reverse(suspect.votes));
        suspects
    }

    /// What became of records of traces.
    pub fn traced(&self) -> Traced {
        self.traces.iter().fold(Traced::default(), |sum, (_, cpu)| Traced {
            n_written: sum.n_written.wrapping_add(cpu.n_written),
            n_lost: sum.n_lost.wrapping_add(cpu.n_lost),
            n_limited: sum.n_limited.wrapping_add(cpu.n_limited),
        })
    }

    /// Where each CPU's copy of a record is.
    fn copies(&self, id: u32, n_records: u32) -> impl Iterator<Item = usize> {
        (0..self.n_cpus as usize).map(move |cpu| cpu * n_records as usize + id as usize)
    }
}
