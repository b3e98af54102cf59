//! TCP (RFC 9293) and UDP (RFC 768), as far as a load balancer reads and changes them.

use lb_common::checksum::Delta;
use lb_common::{Be16, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::Side;
use crate::packet::Packet;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

#[repr(C, packed(2))]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Ports {
    source: Be16,
    destination: Be16,
}

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Tcp {
    ports: Ports,
    sequence: [u16; 2],
    acknowledgement: [u16; 2],
    /// In units of 4 bytes, in the upper half.
    data_offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

impl Tcp {
    const SYN: u8 = 0x02;
    const ACK: u8 = 0x10;
    const LEN_MIN: u8 = 5;
}

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Udp {
    ports: Ports,
    len: Be16,
    checksum: u16,
}

impl Ports {
    /// Both in one word, the source in the lower half: what flows are hashed by. Two fields in a structure that is handed on
    /// would be assembled from single bytes.
    #[inline(always)]
    fn word(self) -> u32 {
        u32::from(self.source.raw()) | u32::from(self.destination.raw()) << 16
    }
}

/// What steering needs of a transport header.
#[derive(Clone, Copy)]
pub struct Parsed {
    /// Both ports as they stand in the packet, the source in the lower half.
    pub ports: u32,
    pub is_syn: bool,
}

/// Reads the header at `l4` of an IP packet that has `payload_len` bytes after its own header.
///
/// # Errors
/// [`Verdict::Truncated`] if frame or IP packet end inside the header, [`Verdict::Malformed`] if its length field cannot be,
/// [`Verdict::NotService`] for any other protocol.
#[inline(always)]
pub fn parse(packet: &impl Packet, l4: usize, protocol: u8, payload_len: u32) -> Result<Parsed, Verdict> {
    match protocol {
        TCP => {
            let tcp: &Tcp = packet.get(l4).ok_or(Verdict::Truncated)?;
            if payload_len < size_of::<Tcp>() as u32 {
                return Err(Verdict::Truncated);
            }
            let len = tcp.data_offset >> 4;
            if len < Tcp::LEN_MIN || u32::from(len) * 4 > payload_len {
                return Err(Verdict::Malformed);
            }
            let is_syn = tcp.flags & (Tcp::SYN | Tcp::ACK) == Tcp::SYN;
            Ok(Parsed { ports: tcp.ports.word(), is_syn })
        }
        UDP => {
            let udp: &Udp = packet.get(l4).ok_or(Verdict::Truncated)?;
            if payload_len < size_of::<Udp>() as u32 {
                return Err(Verdict::Truncated);
            }
            let len = u32::from(udp.len.get());
            // A length of 0 is a jumbogram's (RFC 2675 section 4), which no interface here carries.
            if len < size_of::<Udp>() as u32 || len > payload_len {
                return Err(Verdict::Malformed);
            }
            Ok(Parsed { ports: udp.ports.word(), is_syn: false })
        }
        _ => Err(Verdict::NotService),
    }
}

/// Exchanges a port, and adapts the checksum by `delta`, which covers the port and the addresses of the pseudo-header.
///
/// # Errors
/// [`Verdict::Internal`] if the header is not where it was.
#[inline(always)]
pub fn rewrite(packet: &mut impl Packet, l4: usize, protocol: u8, side: Side, port: Be16, delta: Delta) -> Result<(), Verdict> {
    let ports = if protocol == TCP {
        let tcp: &mut Tcp = packet.get_mut(l4).ok_or(Verdict::Internal)?;
        tcp.checksum = delta.apply(tcp.checksum);
        &mut tcp.ports
    } else {
        let udp: &mut Udp = packet.get_mut(l4).ok_or(Verdict::Internal)?;
        udp.checksum = delta.apply_udp(udp.checksum);
        &mut udp.ports
    };
    match side {
        Side::Source => ports.source = port,
        Side::Destination => ports.destination = port,
    }
    Ok(())
}
