//! ICMP (RFC 792) and ICMPv6 (RFC 4443): both have type, code and checksum first.

use lb_common::checksum::Delta;
use lb_common::{Be16, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::packet::Packet;

pub const ICMP: u8 = 1;
pub const ICMPV6: u8 = 58;

/// Length of an error's header; the packet that it is about follows.
pub const ERROR_LEN: usize = 8;

/// Type and code of ICMP's "fragmentation needed" (RFC 1191), and of ICMPv6's "packet too big".
pub const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
pub const PACKET_TOO_BIG: [u8; 2] = [2, 0];

/// An error that says how large a packet may be.
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TooBig {
    /// Type and code.
    pub kind: [u8; 2],
    pub checksum: u16,
    /// The upper half is 0 in IPv4.
    pub mtu: [Be16; 2],
}

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

/// Reads type and code of the header at `l4`.
///
/// # Errors
/// [`Verdict::Truncated`] if the frame ends inside it.
#[inline(always)]
pub fn kind(packet: &impl Packet, l4: usize, payload_len: u32) -> Result<[u8; 2], Verdict> {
    if payload_len < size_of::<Echo>() as u32 {
        return Err(Verdict::Truncated);
    }
    let header: &Echo = packet.get(l4).ok_or(Verdict::Truncated)?;
    Ok(header.kind)
}
