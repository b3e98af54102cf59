//! IPv4 (RFC 791).

use lb_common::checksum::Delta;
use lb_common::hash::{self, FlowHash, HashKeys};
use lb_common::{Addr, Be16, Be32, PortProtocol, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::{Family, Side};
use crate::packet::Packet;
use crate::parse::{self, Flow, Parsed};
use crate::{ethernet, icmp, transport};

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    /// Version in the upper half, header length in units of 4 bytes in the lower.
    version_len: u8,
    tos: u8,
    total_len: Be16,
    id: Be16,
    /// Flags and offset.
    fragment: Be16,
    ttl_protocol: TtlProtocol,
    checksum: u16,
    source: Be32,
    destination: Be32,
}

/// One 16-bit word of the checksum.
#[repr(C, packed(2))]
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
struct TtlProtocol {
    ttl: u8,
    protocol: u8,
}

impl TtlProtocol {
    fn word(self) -> u16 {
        u16::from_ne_bytes([self.ttl, self.protocol])
    }
}

const LEN_MIN: usize = size_of::<Header>();

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct PlainFrame {
    ethernet: [u8; ethernet::UNTAGGED],
    ip: Header,
    transport: transport::Start,
}

/// Version 4, and a header without options.
const PLAIN: u8 = 0x45;

/// More fragments, or an offset: anything but the flags "reserved" and "don't fragment".
const FRAGMENTED: u16 = Be16::new(0x3fff).raw();

/// Time to live of packets of our own (RFC 1700's recommendation, and what Linux uses).
const TTL_OWN: u8 = 64;

impl Header {
    #[inline(always)]
    fn set_ttl(&mut self, ttl: u8) {
        let old = self.ttl_protocol;
        let new = TtlProtocol { ttl, ..old };
        self.checksum = Delta::of_word(old.word(), new.word()).apply(self.checksum);
        self.ttl_protocol = new;
    }
}

pub struct V4;

impl Family for V4 {
    type Address = Be32;

    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;

    const PLAIN_L4: usize = ethernet::UNTAGGED + LEN_MIN;

    #[inline(always)]
    fn parse_plain(packet: &impl Packet) -> Option<Parsed<Self>> {
        let frame: &PlainFrame = packet.get(0)?;
        let ip_len = u32::from(frame.ip.total_len.get());
        let protocol = frame.ip.ttl_protocol.protocol;
        let is_plain = frame.ip.version_len == PLAIN
            && frame.ip.fragment.raw() & FRAGMENTED == 0
            && packet.has_linear_len(ethernet::UNTAGGED + ip_len as usize)
            && frame.transport.fits(protocol, ip_len.wrapping_sub(LEN_MIN as u32));
        let flow = Flow::new(frame.ip.source, frame.ip.destination, frame.transport.ports, protocol);
        let tcp_flags = frame.transport.tcp_flags(protocol);
        is_plain.then_some(Parsed { flow, l3: ethernet::UNTAGGED, l4: Self::PLAIN_L4, ip_len, tcp_flags, fault: None })
    }

    #[inline(always)]
    fn parse(packet: &impl Packet, l3: usize) -> Option<Parsed<Self>> {
        let header: &Header = packet.get(l3)?;
        let flow = Flow::new(header.source, header.destination, 0, header.ttl_protocol.protocol);
        let ip_len = u32::from(header.total_len.get());
        let is_fragment = header.fragment.raw() & FRAGMENTED != 0;
        let header_len = usize::from(header.version_len & 0xf) * 4;
        let is_malformed = header.version_len >> 4 != 4 || header_len < LEN_MIN || (ip_len as usize) < header_len;
        Some(if is_malformed {
            Parsed::broken(flow, l3, Verdict::Malformed)
        } else if !packet.has_len(l3 + ip_len as usize) {
            Parsed::broken(flow, l3, Verdict::Truncated)
        } else if is_fragment {
            Parsed::broken(flow, l3, Verdict::Fragment)
        } else {
            parse::transport(packet, flow, l3, l3 + header_len, ip_len)
        })
    }

    #[inline(always)]
    fn is_icmp(protocol: u8) -> bool {
        protocol == icmp::ICMP
    }

    #[inline(always)]
    fn is(record: &Addr, address: Be32) -> bool {
        record.longs() == Addr::v4(address).longs()
    }

    #[inline(always)]
    fn to_addr(address: Be32) -> Addr {
        Addr::v4(address)
    }

    #[inline(always)]
    fn from_addr(record: &Addr) -> Be32 {
        record.words[3]
    }

    #[inline(always)]
    fn endpoint_hash(multiplier: u64, address: Be32, port: PortProtocol) -> u64 {
        hash::endpoint_v4(multiplier, address.raw(), port)
    }

    #[inline(always)]
    fn flow_hash(keys: &HashKeys, flow: &Flow<Self>) -> FlowHash {
        hash::flow_v4(keys, flow.client.raw(), flow.ports)
    }

    #[inline(always)]
    fn client_hash(keys: &HashKeys, client: Be32) -> FlowHash {
        hash::flow_v4(keys, client.raw(), 0)
    }

    #[inline(always)]
    fn set_address(packet: &mut impl Packet, l3: usize, side: Side, address: Be32, delta: Delta) -> Result<(), Verdict> {
        let header: &mut Header = packet.get_mut(l3).ok_or(Verdict::Internal)?;
        match side {
            Side::Source => header.source = address,
            Side::Destination => header.destination = address,
        }
        header.checksum = delta.apply(header.checksum);
        Ok(())
    }

    #[inline(always)]
    fn count_hop(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict> {
        let header: &mut Header = packet.get_mut(l3).ok_or(Verdict::Internal)?;
        let ttl = header.ttl_protocol.ttl;
        if ttl <= 1 {
            return Err(Verdict::TtlExceeded);
        }
        header.set_ttl(ttl - 1);
        Ok(())
    }

    #[inline(always)]
    fn turn_back(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict> {
        let header: &mut Header = packet.get_mut(l3).ok_or(Verdict::Internal)?;
        let (source, destination) = (header.source, header.destination);
        header.source = destination;
        header.destination = source;
        header.set_ttl(TTL_OWN);
        Ok(())
    }
}
