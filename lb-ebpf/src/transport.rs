//! TCP (RFC 9293) and UDP (RFC 768), as far as a load balancer reads and changes them.

use lb_common::checksum::Delta;
use lb_common::{Be16, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::{Family, Side};
use crate::packet::Packet;
use crate::parse;

pub mod tcp_flags {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

/// Length of a TCP header without options, and of the longest one with them.
pub const TCP_LEN: usize = size_of::<Tcp>();
pub const TCP_LEN_MAX: usize = 60;

pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

#[repr(C, packed(2))]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ports {
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

impl Ports {
    #[inline(always)]
    pub const fn new(source: Be16, destination: Be16) -> Self {
        Self { source, destination }
    }

    #[inline(always)]
    pub const fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source }
    }

    /// What exchanging both changes in a checksum.
    #[inline(always)]
    fn delta(self, new: Self) -> Delta {
        Delta::of_pair(zerocopy::transmute!(self), zerocopy::transmute!(new))
    }
}

impl Tcp {
    const LEN_MIN: u8 = 5;
}

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Udp {
    ports: Ports,
    len: Be16,
    checksum: u16,
}

impl Udp {
    /// A header of our own, without a checksum: a tunnel's packets have their own (RFC 6935 section 5 allows it over IPv6).
    #[inline(always)]
    pub fn write(&mut self, source: Be16, destination: Be16, len: Be16) {
        self.ports.source = source;
        self.ports.destination = destination;
        self.len = len;
        self.checksum = 0;
    }
}

/// The first bytes of either header, as many as TCP's has: for frames that have that many.
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Start {
    /// Both ports as they stand in the packet, the source in the lower half: what flows are hashed by. Two fields in a structure
    /// that is handed on would be assembled from single bytes.
    pub ports: u32,
    udp_len: Be16,
    between: [u16; 3],
    tcp_data_offset: u8,
    tcp_flags: u8,
    rest: [u16; 3],
}

const _: () = assert!(size_of::<Start>() == size_of::<Tcp>());

impl Start {
    /// Whether this is TCP or UDP, and its length field agrees with the `payload_len` bytes that the IP packet has after its own
    /// header. A `payload_len` that wrapped below zero does not fit.
    #[inline(always)]
    pub fn fits(&self, protocol: u8, payload_len: u32) -> bool {
        let (len, len_min) = match protocol {
            TCP => (u32::from(self.tcp_data_offset >> 4) * 4, size_of::<Tcp>()),
            UDP => (u32::from(self.udp_len.get()), size_of::<Udp>()),
            _ => return false,
        };
        len >= len_min as u32 && len <= payload_len && payload_len <= u32::from(u16::MAX)
    }

    /// 0 for UDP.
    #[inline(always)]
    pub fn tcp_flags(&self, protocol: u8) -> u8 {
        if protocol == TCP { self.tcp_flags } else { 0 }
    }
}

/// Whether this TCP packet refuses a connection: a RST that answers a SYN has no sequence number (RFC 9293 section 3.10.7.1), one
/// that ends a connection has the next one.
#[inline(always)]
pub fn is_refusal(packet: &impl Packet, l4: usize, flags: u8) -> bool {
    flags & tcp_flags::RST != 0 && packet.get::<Tcp>(l4).is_some_and(|tcp| tcp.sequence == [0, 0])
}

/// Where the options of the TCP header at `l4` are; `None` if it has none.
#[inline(always)]
pub fn options(packet: &impl Packet, l4: usize) -> Option<core::ops::Range<usize>> {
    let tcp: &Tcp = packet.get(l4)?;
    let len = usize::from(tcp.data_offset >> 4) * 4;
    (len > size_of::<Tcp>()).then_some(l4 + size_of::<Tcp>()..l4 + len)
}

/// Length of the TCP header at `l4`, with its options.
#[inline(always)]
pub fn tcp_len(packet: &impl Packet, l4: usize) -> Option<usize> {
    packet.get::<Tcp>(l4).map(|tcp| usize::from(tcp.data_offset >> 4) * 4)
}

/// Makes the TCP header at `l4` longer, and adapts its checksum to that, and to what else has changed.
#[inline(always)]
pub fn lengthen(packet: &mut impl Packet, l4: usize, by: usize, delta: Delta) {
    if let Some(tcp) = packet.get_mut::<Tcp>(l4) {
        let before = u16::from_ne_bytes([tcp.data_offset, tcp.flags]);
        tcp.data_offset += (by / 4) as u8 * 0x10;
        let after = u16::from_ne_bytes([tcp.data_offset, tcp.flags]);
        tcp.checksum = delta.and(Delta::of_word(before, after)).apply(tcp.checksum);
    }
}

/// Adapts the checksum of the TCP header at `l4`.
#[inline(always)]
pub fn adapt(packet: &mut impl Packet, l4: usize, delta: Delta) {
    if let Some(tcp) = packet.get_mut::<Tcp>(l4) {
        tcp.checksum = delta.apply(tcp.checksum);
    }
}

/// What steering needs of a transport header.
#[derive(Clone, Copy)]
pub struct Parsed {
    /// Both ports as they stand in the packet, the source in the lower half.
    pub ports: u32,
    /// 0 for UDP.
    pub tcp_flags: u8,
    /// [`Verdict::Truncated`] if frame or IP packet end inside the header, [`Verdict::Malformed`] if its length field cannot be,
    /// [`Verdict::NotService`] for any other protocol than TCP and UDP.
    pub fault: Option<Verdict>,
}

impl Parsed {
    const fn broken(fault: Verdict) -> Self {
        Self { ports: 0, tcp_flags: 0, fault: Some(fault) }
    }
}

/// Reads the header at `l4` of an IP packet that has `payload_len` bytes after its own header, and others in fragments that
/// follow the first one.
#[inline(always)]
pub fn parse(packet: &impl Packet, l4: usize, protocol: u8, payload_len: u32, is_first_fragment: bool) -> Parsed {
    match protocol {
        TCP => {
            let Some(tcp) = packet.get::<Tcp>(l4).filter(|_| payload_len >= size_of::<Tcp>() as u32) else {
                return Parsed::broken(Verdict::Truncated);
            };
            let len = tcp.data_offset >> 4;
            if len < Tcp::LEN_MIN || u32::from(len) * 4 > payload_len {
                return Parsed::broken(Verdict::Malformed);
            }
            Parsed { ports: zerocopy::transmute!(tcp.ports), tcp_flags: tcp.flags, fault: None }
        }
        UDP => {
            let Some(udp) = packet.get::<Udp>(l4).filter(|_| payload_len >= size_of::<Udp>() as u32) else {
                return Parsed::broken(Verdict::Truncated);
            };
            let len = u32::from(udp.len.get());
            // A length of 0 is a jumbogram's (RFC 2675 section 4), which no interface here carries.
            if len < size_of::<Udp>() as u32 || (len > payload_len && !is_first_fragment) {
                return Parsed::broken(Verdict::Malformed);
            }
            Parsed { ports: zerocopy::transmute!(udp.ports), tcp_flags: 0, fault: None }
        }
        _ => Parsed::broken(Verdict::NotService),
    }
}

/// Both ports of a quoted header, exchanged: as its answers have them. `None` for any other protocol than TCP and UDP, and if
/// less than 8 bytes are quoted, which every error has (RFC 792).
#[inline(always)]
pub fn quoted_ports(packet: &impl Packet, l4: usize, protocol: u8, end: usize) -> Option<u32> {
    let header: &Udp = packet.get(l4).filter(|_| l4 + size_of::<Udp>() <= end)?;
    let ports = Ports { source: header.ports.destination, destination: header.ports.source };
    matches!(protocol, TCP | UDP).then_some(zerocopy::transmute!(ports))
}

/// Exchanges a port of a quoted header, and adapts its checksum, if that is quoted, by `delta`. Yields what this changes in the
/// ICMP checksum.
///
/// # Errors
/// [`Verdict::Internal`] if the header is not where it was.
#[inline(always)]
pub fn rewrite_quoted<F: Family>(
    packet: &mut impl Packet,
    quoted: &parse::Parsed<F>,
    end: usize,
    side: Side,
    port: Be16,
    delta: Delta,
) -> Result<Delta, Verdict> {
    let udp: &mut Udp = packet.get_mut(quoted.l4).ok_or(Verdict::Internal)?;
    let place = match side {
        Side::Source => &mut udp.ports.source,
        Side::Destination => &mut udp.ports.destination,
    };
    let changed = Delta::of_word(place.raw(), port.raw());
    *place = port;
    Ok(changed.and(rewrite_quoted_checksum(packet, quoted, end, delta)?))
}

/// The same with both ports, whose part in the checksum is not in `delta`.
///
/// # Errors
/// As there.
#[inline(always)]
pub fn rewrite_quoted_both<F: Family>(
    packet: &mut impl Packet,
    quoted: &parse::Parsed<F>,
    end: usize,
    new: Ports,
    delta: Delta,
) -> Result<Delta, Verdict> {
    let udp: &mut Udp = packet.get_mut(quoted.l4).ok_or(Verdict::Internal)?;
    let changed = udp.ports.delta(new);
    udp.ports = new;
    Ok(changed.and(rewrite_quoted_checksum(packet, quoted, end, delta.and(changed))?))
}

/// Adapts the checksum of a quoted header, if that is quoted. Yields what this changes in the ICMP checksum.
#[inline(always)]
fn rewrite_quoted_checksum<F: Family>(
    packet: &mut impl Packet,
    quoted: &parse::Parsed<F>,
    end: usize,
    delta: Delta,
) -> Result<Delta, Verdict> {
    let l4 = quoted.l4;
    if quoted.flow.protocol() != TCP {
        let udp: &mut Udp = packet.get_mut(l4).ok_or(Verdict::Internal)?;
        let before = udp.checksum;
        udp.checksum = delta.apply_udp(before);
        return Ok(Delta::of_word(before, udp.checksum));
    }
    if l4 + size_of::<Tcp>() > end {
        return Ok(Delta::NONE);
    }
    let Some(tcp) = packet.get_mut::<Tcp>(l4) else { return Ok(Delta::NONE) };
    let before = tcp.checksum;
    tcp.checksum = delta.apply(before);
    Ok(Delta::of_word(before, tcp.checksum))
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

/// The same with both ports, whose part in the checksum is not in `delta`.
///
/// # Errors
/// As there.
#[inline(always)]
pub fn rewrite_both(packet: &mut impl Packet, l4: usize, protocol: u8, new: Ports, delta: Delta) -> Result<(), Verdict> {
    if protocol == TCP {
        let tcp: &mut Tcp = packet.get_mut(l4).ok_or(Verdict::Internal)?;
        tcp.checksum = delta.and(tcp.ports.delta(new)).apply(tcp.checksum);
        tcp.ports = new;
    } else {
        let udp: &mut Udp = packet.get_mut(l4).ok_or(Verdict::Internal)?;
        udp.checksum = delta.and(udp.ports.delta(new)).apply_udp(udp.checksum);
        udp.ports = new;
    }
    Ok(())
}
