//! ICMP (RFC 792) and ICMPv6 (RFC 4443), as far as echo goes: both have type, code and checksum first.

use lb_common::Verdict;
use lb_common::checksum::Delta;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::packet::Packet;

pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// With identifier and sequence number, which every echo has.
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Echo {
    /// Type and code.
    pub kind: [u8; 2],
    pub checksum: u16,
    pub identifier: u16,
    pub sequence: u16,
}

impl Echo {
    /// Changes the type, and the checksum with it.
    #[inline(always)]
    pub fn set_type(&mut self, kind: u8) {
        let new = [kind, self.kind[1]];
        let delta = Delta::of_word(u16::from_ne_bytes(self.kind), u16::from_ne_bytes(new));
        self.checksum = delta.apply(self.checksum);
        self.kind = new;
    }
}

/// Reads the echo header at `l4`.
///
/// # Errors
/// [`Verdict::Truncated`] if the frame ends inside it.
#[inline(always)]
pub fn parse(packet: &impl Packet, l4: usize, payload_len: u32) -> Result<&Echo, Verdict> {
    if payload_len < size_of::<Echo>() as u32 {
        return Err(Verdict::Truncated);
    }
    packet.get(l4).ok_or(Verdict::Truncated)
}
