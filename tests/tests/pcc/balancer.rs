//! The packet path that is judged: on the host, or in the kernel.

use std::collections::BTreeMap;

use lb_common::flow::{ENTRIES, Tick};
use lb_common::{BackendId, Verdict, features};
use lb_user::compile::Sightings;
use lb_user::maps::{self, Seen};
use lb_user::pool::Pool;
use lb_user::tables::Write;
use xlb_tests::path::Outcome;
use xlb_tests::path::fixture::{self, Interfaces};
use xlb_tests::path::host::{Host, Routes};
use xlb_tests::path::kernel::{Kernel, Ran};
use xlb_tests::path::memory::{Memory, SessionMemory};

use crate::daemon::N_SLOTS;

/// More backends than a sequence has ids for.
const N_IDS: u16 = 256;

pub type Mac = [u8; 6];

/// A packet path, its tables and its clock. Without flows and tables at first.
pub trait Balancer: Sightings {
    /// Ticks by which its clock may have gone on by itself since it was read.
    const SLACK: Tick;

    /// The interface that packets come in on.
    fn ingress(&self) -> u32;
    fn wait(&mut self, ticks: Tick);
    fn write(&mut self, write: &Write);
    /// What the daemon does when it has cleared records of backends.
    fn forget_sessions_of_nobody(&mut self);
    /// What becomes of a packet that comes in on the interface, which is counted as one verdict.
    fn run(&mut self, frame: &[u8]) -> Outcome;

    /// Where a packet that came in on the interface is sent out again to, if it is.
    fn send(&mut self, frame: &[u8]) -> Option<Mac> {
        let outcome = self.run(frame);
        (outcome.verdict == Verdict::Tx).then(|| outcome.frame[..6].try_into().expect("six bytes"))
    }

    /// Loses all flows on record.
    fn forget_flows(&mut self);
    /// Whether each backend counts for as many active flows as it has on record.
    fn are_loads_right(&self) -> bool;
    /// Flows that lost their place and may have been alive.
    fn evicted(&self) -> u64;
}

/// The host build of it, without flows and tables.
pub fn on_host() -> Host {
    on_host_by(Box::new(|_| lb_ebpf::Route::Local))
}

/// The same with a pool, none of whose ports is taken, and the fixture's routes.
pub fn on_host_with(pool: &Pool) -> Host {
    let interfaces = Interfaces { outside: INGRESS, inside: INGRESS + 1 };
    let mut host = on_host_by(Box::new(move |query| fixture::route(interfaces, query)));
    host.set_pool(pool.record());
    host
}

fn on_host_by(routes: Routes) -> Host {
    let host = Host::new(fixture::keys(), N_SLOTS, routes);
    host.now.set(100_000);
    host
}

const INGRESS: u32 = 2;

impl Balancer for Host {
    const SLACK: Tick = 0;

    fn ingress(&self) -> u32 {
        INGRESS
    }

    fn wait(&mut self, ticks: Tick) {
        self.now.set(self.now.get() + ticks);
    }

    fn write(&mut self, write: &Write) {
        Self::write(self, write);
    }

    fn forget_sessions_of_nobody(&mut self) {
        Self::forget_sessions_of_nobody(self);
    }

    fn run(&mut self, frame: &[u8]) -> Outcome {
        let mut expected = *self.totals.borrow();
        let outcome = Self::run(self, frame, INGRESS);
        expected.received += 1;
        expected.verdicts[outcome.verdict as usize] += 1;
        let counted = self.totals.borrow();
        assert!(counted.received == expected.received && counted.verdicts == expected.verdicts, "one packet is one verdict");
        outcome
    }

    fn forget_flows(&mut self) {
        Self::forget_flows(self);
    }

    fn are_loads_right(&self) -> bool {
        Self::are_loads_right(self)
    }

    fn evicted(&self) -> u64 {
        self.flow_events.get().evicted
    }
}

/// The kernel's, which sequences have one after the other. Its clock goes by itself; where more time is to pass, what it noted is
/// made older.
pub struct InKernel {
    kernel: Kernel,
    memory: Memory,
    sessions: Option<SessionMemory>,
    /// By how much the clock of the sequence is ahead of the kernel's.
    ahead: Tick,
    /// Packets to backends before the sequence, by id.
    packets_before: Vec<u64>,
    evicted_before: u64,
}

impl InKernel {
    /// In a network namespace of the calling thread's own, which takes [`STACK_LEN`](xlb_tests::path::memory::STACK_LEN).
    ///
    /// # Errors
    /// Without root, or if the program does not load.
    pub fn new() -> anyhow::Result<Self> {
        Self::with(Kernel::new()?, None)
    }

    /// The same with a pool, of so many ports that sessions can be made older.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_pool(pool: &Pool) -> anyhow::Result<Self> {
        let kernel = Kernel::with(maps::kernel()?, features::ALL, pool.record())?;
        let sessions = SessionMemory::of(kernel.program()?)?;
        Self::with(kernel, Some(sessions))
    }

    fn with(kernel: Kernel, sessions: Option<SessionMemory>) -> anyhow::Result<Self> {
        let memory = Memory::of(kernel.program()?)?;
        Ok(Self { kernel, memory, sessions, ahead: 100_000, packets_before: Vec::new(), evicted_before: 0 })
    }

    /// As if nothing had been before.
    pub fn begin(&mut self) {
        self.memory.forget().expect("the kernel writes its maps");
        self.sessions.iter_mut().for_each(|sessions| sessions.forget().expect("the kernel writes its maps"));
        self.packets_before = (0..N_IDS).map(|id| self.packets(BackendId(id))).collect();
        self.evicted_before = self.kernel.counters.flow_events().evicted;
    }

    fn packets(&self, id: BackendId) -> u64 {
        self.kernel.counters.backend(id).map_or(0, |counted| counted.packets)
    }

    fn seen(&self) -> Seen<'_> {
        Seen { maps: &self.kernel.maps, counters: &self.kernel.counters }
    }

    /// A time that the kernel noted, by the clock of the sequence.
    fn noted(&self, noted: Tick) -> Tick {
        if noted == 0 { 0 } else { noted.wrapping_add(self.ahead) }
    }
}

impl Sightings for InKernel {
    fn now(&self) -> Tick {
        maps::now().wrapping_add(self.ahead)
    }

    fn elsewhere(&self, line: u32) -> Tick {
        self.noted(self.seen().elsewhere(line))
    }

    fn flow(&self, backend: BackendId) -> Tick {
        self.noted(self.seen().flow(backend))
    }

    fn is_used(&self, backend: BackendId) -> bool {
        self.packets(backend) > self.packets_before[usize::from(backend.0)]
    }
}

impl Balancer for InKernel {
    const SLACK: Tick = 2;

    fn ingress(&self) -> u32 {
        self.kernel.interfaces.outside
    }

    fn wait(&mut self, ticks: Tick) {
        self.memory.grow_older(ticks).expect("the kernel writes its maps");
        self.sessions.iter_mut().for_each(|sessions| sessions.grow_older(ticks).expect("the kernel writes its maps"));
        self.ahead = self.ahead.wrapping_add(ticks);
    }

    fn write(&mut self, write: &Write) {
        self.kernel.maps.write(write).expect("the maps are large enough");
    }

    fn forget_sessions_of_nobody(&mut self) {
        self.kernel.maps.forget_sessions_of_nobody();
    }

    fn run(&mut self, frame: &[u8]) -> Outcome {
        let Ran { verdict, frame, .. } = self.kernel.run(frame, Balancer::ingress(self)).expect("the kernel runs it");
        Outcome { verdict, frame }
    }

    fn forget_flows(&mut self) {
        self.memory.forget_flows().expect("the kernel writes its maps");
    }

    fn are_loads_right(&self) -> bool {
        let mut active = BTreeMap::<BackendId, u64>::new();
        for bucket in 0..fixture::N_FLOWS / ENTRIES as u32 {
            for entry in (0..ENTRIES).map(|position| self.kernel.maps.flows.entry(bucket, position)) {
                *active.entry(entry.active()).or_default() += 1;
            }
        }
        let wanted = |id| active.get(&id).copied().unwrap_or_default();
        (1..N_IDS).map(BackendId).all(|id| self.kernel.maps.loads.backend(id).active == wanted(id))
    }

    fn evicted(&self) -> u64 {
        self.kernel.counters.flow_events().evicted - self.evicted_before
    }
}
