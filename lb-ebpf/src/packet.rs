//! The frame, as the packet path sees it.

use lb_common::Verdict;
use lb_common::checksum::Sum;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::env::Env;
use crate::{Part, trace};

/// A header: plain bytes with a layout of their own and no padding.
///
/// Headers are `repr(C, packed(2))`: every header starts at an even offset, and the BPF machine loads words from them
/// instead of single bytes.
pub trait Wire: FromBytes + IntoBytes + Immutable + KnownLayout {}

impl<T: FromBytes + IntoBytes + Immutable + KnownLayout> Wire for T {}

/// One frame, from its first Ethernet byte.
///
/// Offsets count from the start of the frame, and are even but for what is made of single bytes.
pub trait Packet {
    /// The header at `offset`, if the frame holds all of it.
    fn get<T: Wire>(&self, offset: usize) -> Option<&T>;

    /// The same, to be changed in place.
    fn get_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T>;

    /// The sum of `len` bytes, a multiple of four and at most 512, that start at `offset`, if its first buffer holds them.
    fn sum(&self, offset: usize, len: usize) -> Option<Sum>;

    /// Length of the whole frame, over all its buffers, in bytes.
    fn frame_len(&self) -> usize;

    /// Whether the whole frame, over all its buffers, has this many bytes.
    fn has_len(&self, len: usize) -> bool;

    /// Whether its first buffer has, which [`get`](Self::get) reads from.
    fn has_linear_len(&self, len: usize) -> bool;

    /// The same offset, of which the compiler knows nothing: it leaves out a check that follows from another one at a larger
    /// offset, and the verifier does not see why.
    fn unrelated(&self, offset: usize) -> usize;

    /// The same number, at most 16,383, of which the verifier knows no more than that: ways to here that differ only in it are one
    /// way from here on, and not each looked at to its end.
    fn forgotten(&self, number: usize) -> usize;

    /// Puts this many bytes in front, an even number. They hold anything; every offset grows by as much.
    ///
    /// False if there is no room, and the frame is as it was.
    fn grow(&mut self, by: usize) -> bool;

    /// Takes this many bytes, an even number, from the front; every offset falls by as much. False if the kernel refuses.
    fn shrink(&mut self, by: usize) -> bool;

    /// Cuts the frame to this many bytes, which it has. False if the kernel refuses.
    fn cut(&mut self, len: usize) -> bool;

    /// Takes the frame through a [part](crate::part) of the packet path, by whatever way the machine likes best. What was read
    /// of it before does not hold any more.
    fn take_apart(&mut self, env: &impl Env, part: Part) -> Option<Verdict>;

    /// Index of the interface that the frame came in on.
    fn ingress(&self) -> u32;

    /// [`trace::end`], by whatever way the machine likes best.
    fn end_trace(&mut self, env: &impl Env, verdict: Verdict)
    where
        Self: Sized,
    {
        trace::end(self, env, verdict);
    }
}
