//! The flow table from outside: who is in it. The packet path alone records flows; here only those are removed that ended long ago.

use std::path::Path;

use aya::Ebpf;
use lb_common::flow::{Entry, IDLE_MAX, State, Tick};
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

impl FlowTable {
    pub(super) fn take(ebpf: &mut Ebpf, sizes: Sizes, pins: Option<&Path>) -> Result<Self, MapError> {
        Ok(Self { entries: Mapped::take(ebpf, &shape::flows(sizes.n_flows), pins)? })
    }

    /// Removes flows that have been silent for longer than any may be, before the packet path's clock takes them for young again,
    /// and counts the others.
    pub fn sweep(&self, now: Tick) -> Census {
        let mut census = Census { capacity: self.entries.len() as u64, ..Census::default() };
        for index in 0..self.entries.len() as u32 {
            let entry = Entry::from_raw(self.entries.load_long(index));
            if entry.is_empty() {
                continue;
            }
            if entry.age(now) > IDLE_MAX {
                self.entries.clear_long(index, entry.raw());
                continue;
            }
            *match entry.state() {
                State::Opening => &mut census.opening,
                State::Guessed => &mut census.guessed,
                State::Established => &mut census.established,
                State::Closing => &mut census.closing,
            } += 1;
        }
        census
    }
}
