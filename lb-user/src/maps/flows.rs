//! The flow table from outside: who is in it. The packet path alone records flows; here only those are removed that ended long ago.

use std::collections::BTreeMap;
use std::path::Path;

use aya::Ebpf;
use lb_common::BackendId;
use lb_common::flow::{ENTRIES, Entry, State, Tick};
use serde::Serialize;

use super::mapped::Mapped;
use super::{MapError, Sizes, shape};

/// A handle to the flow table.
pub struct FlowTable {
    entries: Mapped<u64>,
}

/// How many flows are on record, by what is known of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Census {
    pub capacity: u64,
    pub opening: u64,
    pub guessed: u64,
    pub established: u64,
    pub closing: u64,
}

impl Census {
    pub fn is_empty(&self) -> bool {
        self.opening + self.guessed + self.established + self.closing == 0
    }
}

/// A closed connection counts for its backend until it has been silent for this long: the other side may still be sending.
const CLOSING_FOR: Tick = 4;
/// What shows itself by a SYN and no more is a connection for this long at most.
const OPENING_FOR: Tick = 60;

/// What one look at the whole table found.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    pub census: Census,
    /// How many flows that may be alive each backend has on record; none that are not named.
    pub by_backend: BTreeMap<BackendId, u64>,
}

/// Whether a flow on record is so no more for the packet path, or shows itself no more though it has never been answered.
fn is_over(entry: Entry, now: Tick, idle: Tick) -> bool {
    let silent_for_at_most = if matches!(entry.state(), State::Opening) { OPENING_FOR.min(idle) } else { idle };
    entry.age(now) > silent_for_at_most
}

/// Whether a flow on record may still be going on.
fn may_be_alive(entry: Entry, now: Tick, idle: Tick) -> bool {
    let silent_for_at_most = match entry.state() {
        State::Opening => OPENING_FOR.min(idle),
        State::Guessed | State::Established => idle,
        State::Closing => CLOSING_FOR,
    };
    entry.age(now) <= silent_for_at_most
}

impl FlowTable {
    pub(super) fn take(ebpf: &mut Ebpf, sizes: Sizes, pins: Option<&Path>) -> Result<Self, MapError> {
        Ok(Self { entries: Mapped::take(ebpf, &shape::flows(sizes.n_flows), pins)? })
    }

    /// Removes flows that are over, long before the packet path's clock takes them for young again, and counts the others; how many
    /// of them are active on each backend, by id, is the second result. `idle` is how long a backend's silent flows are taken for
    /// alive, and `take_off` is told of each active flow that was removed.
    pub(super) fn sweep(&self, now: Tick, idle: impl Fn(BackendId) -> Tick, take_off: impl Fn(BackendId)) -> (Sweep, Vec<u64>) {
        let mut census = Census { capacity: self.entries.len() as u64, ..Census::default() };
        let idle: Vec<Tick> = (0..=u16::MAX).map(|id| idle(BackendId(id))).collect();
        let mut counts = vec![0u64; idle.len()];
        let mut active = vec![0u64; idle.len()];
        for index in 0..self.entries.len() as u32 {
            let entry = Entry::from_raw(self.entries.load_long(index));
            if entry.is_empty() {
                continue;
            }
            let id = usize::from(entry.backend().0);
            if is_over(entry, now, idle[id]) && self.entries.clear_long(index, entry.raw()) {
                if !entry.active().is_none() {
                    take_off(entry.backend());
                }
                continue;
            }
            *match entry.state() {
                State::Opening => &mut census.opening,
                State::Guessed => &mut census.guessed,
                State::Established => &mut census.established,
                State::Closing => &mut census.closing,
            } += 1;
            active[id] += u64::from(!entry.active().is_none());
            counts[id] += u64::from(may_be_alive(entry, now, idle[id]));
        }
        let by_backend = (0..=u16::MAX).zip(counts).filter(|&(_, n)| n > 0).map(|(id, n)| (BackendId(id), n)).collect();
        (Sweep { census, by_backend }, active)
    }

    /// One entry. Of either number, upper bits do not count.
    pub fn entry(&self, bucket: u32, position: usize) -> Entry {
        let n_buckets = (self.entries.len() / ENTRIES).max(1);
        let index = bucket as usize % n_buckets * ENTRIES + position % ENTRIES;
        Entry::from_raw(self.entries.load_long(index as u32))
    }

    /// How many flows it has room for.
    pub fn capacity(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_counts_for_its_backend_while_it_may_be_alive() {
        const IDLE: Tick = 100;
        let cases = [
            (State::Established, 100, true),
            (State::Established, 101, false),
            (State::Guessed, 100, true),
            (State::Opening, 60, true),
            (State::Opening, 61, false),
            (State::Closing, 4, true),
            (State::Closing, 5, false),
        ];
        for (state, age, expected) in cases {
            let entry = Entry::new(1, BackendId(7), state, 1000);
            assert_eq!(may_be_alive(entry, 1000 + age, IDLE), expected, "{state:?} silent for {age}");
        }
    }
}
