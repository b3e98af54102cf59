//! Counters that the packet path keeps, one copy a CPU: no atomics, no shared cache lines.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::admission::{RULE_SLOTS, Suspect};
use crate::handshake::Handshakes;
use crate::limits;
use crate::verdict::{VERDICT_SLOTS, Verdict};

/// All packets of one CPU, by verdict.
#[repr(C, align(64))]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Totals {
    /// Frames that entered the program.
    pub received: u64,
    /// Indexed by [`Verdict`].
    pub verdicts: [u64; VERDICT_SLOTS],
    pub pad: [u64; 7],
}

const _: () = assert!(size_of::<Totals>() == 64 + 8 * VERDICT_SLOTS);

impl Default for Totals {
    fn default() -> Self {
        Self { received: 0, verdicts: [0; VERDICT_SLOTS], pad: [0; 7] }
    }
}

impl Totals {
    pub fn of(&self, verdict: Verdict) -> u64 {
        self.verdicts[verdict as usize]
    }

    /// Adds another CPU's totals. Counters wrap.
    pub fn add(&mut self, other: &Self) {
        self.received = self.received.wrapping_add(other.received);
        for (sum, count) in self.verdicts.iter_mut().zip(other.verdicts) {
            *sum = sum.wrapping_add(count);
        }
    }
}

/// Packets towards one backend, on one CPU.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Traffic {
    pub packets: u64,
    /// Bytes of the IP packets and their link headers, without padding.
    pub bytes: u64,
}

/// What happened to the flow table on one CPU.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowEvents {
    /// Flows recorded, whatever they displaced.
    pub recorded: u64,
    /// Of these, the ones that displaced a flow that never was confirmed, by a packet of its own some time after the first.
    pub evicted_unconfirmed: u64,
    /// Of these, the ones that displaced a flow that may be alive.
    pub evicted: u64,
    pub pad: [u64; 5],
}

impl FlowEvents {
    /// Adds another CPU's events. Counters wrap.
    pub fn add(&mut self, other: &Self) {
        self.recorded = self.recorded.wrapping_add(other.recorded);
        self.evicted_unconfirmed = self.evicted_unconfirmed.wrapping_add(other.evicted_unconfirmed);
        self.evicted = self.evicted.wrapping_add(other.evicted);
    }
}

/// One CPU's element of the `BACKEND_TRAFFIC` map, by backend id.
pub type TrafficByBackend = [Traffic; limits::BACKEND_RECORDS as usize];

/// One CPU's element of the `BACKEND_CONNECTIONS` map, by backend id: TCP SYNs without ACK.
pub type ConnectionsByBackend = [u64; limits::BACKEND_RECORDS as usize];

/// One CPU's element of the `SERVICE_DROPS` map, by service id: packets that reached no backend.
pub type DropsByService = [u64; limits::SERVICE_RECORDS as usize];

/// One CPU's element of the `ADMISSION_DROPS` map, by scope and [`Rule`](crate::admission::Rule).
pub type DropsByRule = [[u64; RULE_SLOTS]; limits::ADMISSION_RECORDS as usize];

/// One CPU's element of the `SUSPECTS` map.
pub type Suspects = [Suspect; limits::SUSPECTS as usize];

/// What one backend got, over all CPUs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BackendCounters {
    pub packets: u64,
    /// As in [`Traffic`].
    pub bytes: u64,
    /// TCP SYNs without ACK. UDP has no connections and counts none.
    pub connections: u64,
    /// How they opened, where all flows are on record.
    pub handshakes: Handshakes,
}

impl BackendCounters {
    /// Adds another's counts. Counters wrap.
    pub fn add(&mut self, other: &Self) {
        self.packets = self.packets.wrapping_add(other.packets);
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.connections = self.connections.wrapping_add(other.connections);
        self.handshakes = self.handshakes.with(&other.handshakes);
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            packets: self.packets.wrapping_sub(earlier.packets),
            bytes: self.bytes.wrapping_sub(earlier.bytes),
            connections: self.connections.wrapping_sub(earlier.connections),
            handshakes: self.handshakes.since(&earlier.handshakes),
        }
    }
}
