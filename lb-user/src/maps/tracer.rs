//! What `xlb trace` needs of the program: which packets are told, and the ring that they come through.
//!
//! None of this is pinned. It is one program's own, and goes with it; a daemon that follows brings its own.

use std::io;
use std::mem::offset_of;
use std::os::fd::{AsFd, OwnedFd};

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use lb_common::trace::{Record, Rules};
use zerocopy::FromBytes;

use super::mapped::Mapped;
use super::{MapError, shape};

const RING: &str = "TRACE_RING";
const UNTIL_WORD: u32 = (offset_of!(Rules, until) / 8) as u32;

/// The one who says which packets are traced, and reads them.
pub struct Tracer {
    rules: Mapped<Rules>,
    /// The packet path's own.
    _window: Mapped<u64>,
    ring: RingBuf<MapData>,
}

impl Tracer {
    pub(super) fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        let ring = ebpf.take_map(RING).ok_or(MapError::Missing { name: RING })?;
        Ok(Self {
            rules: Mapped::take(ebpf, &shape::TRACE_RULES, None)?,
            _window: Mapped::take(ebpf, &shape::TRACE_WINDOW, None)?,
            ring: RingBuf::try_from(ring).map_err(|source| MapError::Open { name: RING, source })?,
        })
    }

    /// Replaces the rules. Not while packets are traced, which would meet some of the old ones and some of the new.
    ///
    /// # Errors
    /// None: the map has room for them.
    pub fn set(&mut self, rules: &Rules) -> Result<(), MapError> {
        self.rules.set(0, rules)
    }

    /// Has packets traced until then, in units of [`lb_common::meter`], if the control loop lets them be.
    pub fn extend(&mut self, until: u64) {
        self.rules.store_long(UNTIL_WORD, until);
    }

    /// A descriptor that is readable when there are records.
    ///
    /// # Errors
    /// There are too many descriptors.
    pub fn descriptor(&self) -> io::Result<OwnedFd> {
        self.ring.as_fd().try_clone_to_owned()
    }

    /// The next record, of whatever trace.
    pub fn read(&mut self) -> Option<Record> {
        // One of another length would be another version's, and this ring is this program's.
        self.ring.next().and_then(|item| Record::read_from_bytes(&item).ok())
    }
}
