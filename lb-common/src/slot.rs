//! Slots: which backend a hash value leads to, now and before the last change.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::hash::FlowHash;

/// Index of a record in the `BACKENDS` map; 0 is none.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct BackendId(pub u16);

impl BackendId {
    pub const NONE: Self = Self(0);

    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

/// One slot of a service's region: two backends in one word, so that the packet path reads both at once and user space
/// changes both at once.
///
/// | `current` | `settled` | the packet path |
/// |---|---|---|
/// | c | c | at rest: forward to c, no state kept |
/// | c | s | learning: flows on record stay where they are, flows without a record belong to s, new ones go to c |
/// | c | none | tracked: flows on record stay where they are, all others go to c |
/// | none | none | no backend: drop |
///
/// A slot that is learning and whose `current` has moved back to `settled` reads as tracked: in both phases a flow
/// without a record belongs to `current` then.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Slot(u32);

impl Slot {
    pub const fn new(current: BackendId, settled: BackendId) -> Self {
        Self(current.0 as u32 | (settled.0 as u32) << 16)
    }

    pub const fn at_rest(owner: BackendId) -> Self {
        Self::new(owner, owner)
    }

    /// Where new flows go.
    pub const fn current(self) -> BackendId {
        BackendId(self.0 as u16)
    }

    /// Where flows without a record belong while the slot is learning.
    pub const fn settled(self) -> BackendId {
        BackendId((self.0 >> 16) as u16)
    }

    pub const fn is_at_rest(self) -> bool {
        self.0 as u16 == (self.0 >> 16) as u16
    }

    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }

    pub const fn raw(self) -> u32 {
        self.0
    }
}

/// A service's slots in the `SLOTS` map, in one word: what is stored as a whole is read as a whole.
///
/// The lower half is the index of the first slot, the upper 32 less the logarithm of the number of slots: how far to shift a
/// hash for a slot's number.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Region(u64);

impl Region {
    /// `2^bits` slots, at most `2^32`, from the one with index `first`.
    pub const fn new(first: u32, bits: u32) -> Self {
        Self(first as u64 | ((32 - bits) as u64) << 32)
    }

    pub const fn first(self) -> u32 {
        self.0 as u32
    }

    pub const fn bits(self) -> u32 {
        32 - (self.0 >> 32) as u32
    }

    /// Of a slot's number within the region, the bits that count.
    #[inline(always)]
    pub const fn mask(self) -> u32 {
        u32::MAX >> ((self.0 >> 32) as u32 & 31)
    }

    /// The index of the slot that a hash leads to.
    #[inline(always)]
    pub const fn slot(self, hash: FlowHash) -> u32 {
        self.first().wrapping_add(hash.slot((self.0 >> 32) as u32))
    }
}

impl core::fmt::Debug for Region {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}+2^{}", self.first(), self.bits())
    }
}

impl core::fmt::Debug for Slot {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{}<{}", self.current().0, self.settled().0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_keeps_its_two_backends_apart() {
        let slot = Slot::new(BackendId(7), BackendId(65_535));
        assert_eq!((slot.current(), slot.settled()), (BackendId(7), BackendId(65_535)));
        assert!(!slot.is_at_rest());
        assert!(Slot::at_rest(BackendId(3)).is_at_rest());
        assert!(Slot::default().is_at_rest() && Slot::default().current().is_none());
    }
}
