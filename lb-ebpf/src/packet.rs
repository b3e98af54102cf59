//! The frame, as the packet path sees it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A header: plain bytes with a layout of their own and no padding.
///
/// Headers are `repr(C, packed(2))`: every header starts at an even offset, and the BPF machine loads words from them
/// instead of single bytes.
pub trait Wire: FromBytes + IntoBytes + Immutable + KnownLayout {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Wire for T {}

/// One frame, from its first Ethernet byte.
///
/// Offsets count from the start of the frame and are even.
pub trait Packet {
    /// The header at `offset`, if the frame holds all of it.
    fn get<T: Wire>(&self, offset: usize) -> Option<&T>;

    /// The same, to be changed in place.
    fn get_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T>;

    /// Whether the whole frame, over all its buffers, has this many bytes.
    fn has_len(&self, len: usize) -> bool;

    /// Whether its first buffer has, which [`get`](Self::get) reads from.
    fn has_linear_len(&self, len: usize) -> bool;

    /// Index of the interface that the frame came in on.
    fn ingress(&self) -> u32;
}
