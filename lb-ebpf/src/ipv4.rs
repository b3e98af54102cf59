//! IPv4 (RFC 791).

use lb_common::checksum::{DONT_FRAGMENT, Delta, Sum, TTL_OWN, own_header};
use lb_common::hash::{self, FlowHash, HashKeys};
use lb_common::records::Backend;
use lb_common::{Addr, Be16, Be32, PortProtocol, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::Part;
use crate::family::{Family, Side};
use crate::fragments::Fragment;
use crate::icmp::TooBig;
use crate::packet::Packet;
use crate::parse::{self, Flow, Parsed};
use crate::tunnel::{Inner, Outer};
use crate::{ethernet, icmp, toa, transport};

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Header {
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

/// A fragment's place in its packet.
const FRAGMENT_OFFSET: u16 = Be16::new(0x1fff).raw();

impl Header {
    #[inline(always)]
    fn set_ttl(&mut self, ttl: u8) {
        let old = self.ttl_protocol;
        let new = TtlProtocol { ttl, ..old };
        self.checksum = Delta::of_word(old.word(), new.word()).apply(self.checksum);
        self.ttl_protocol = new;
    }
}

impl Outer for Header {
    const ETHERTYPE: Be16 = V4::ETHERTYPE;

    #[inline(always)]
    fn write(&mut self, backend: &Backend, inner: &Inner) {
        let total_len = Be16::new(inner.len.wrapping_add(LEN_MIN as u16));
        let mut sum = Sum::default();
        sum.add(u32::from(!backend.outer_checksum) + u32::from(u16::from_ne_bytes([0, inner.class])));
        sum.add(total_len.raw().into());
        self.version_len = PLAIN;
        self.tos = inner.class;
        self.total_len = total_len;
        self.id = Be16::new(0);
        self.fragment = DONT_FRAGMENT;
        self.ttl_protocol = TtlProtocol { ttl: TTL_OWN, protocol: inner.protocol };
        self.checksum = sum.checksum();
        self.source = backend.source.words[3];
        self.destination = backend.address.words[3];
    }
}

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TooBigV4 {
    ip: Header,
    icmp: TooBig,
}

pub struct V4;

impl Family for V4 {
    type Address = Be32;
    type Header = Header;
    type Start = [u8; LEN_MIN + transport::TCP_LEN];
    type Toa = [u16; 4];
    type TooBig = TooBigV4;

    const ADMIT_PART: Part = Part::AdmitV4;
    const PART: Part = Part::V4;
    const TOA_PART: Part = Part::ToaV4;
    const CLAMP_PART: Part = Part::ClampV4;
    const QUIC_PART: Part = Part::QuicV4;
    const FULLNAT_PART: Part = Part::FullnatV4;
    const FULLNAT_REPLY_PART: Part = Part::FullnatReplyV4;
    const FULLNAT_FRAGMENT_PART: Part = Part::FullnatFragmentV4;
    const FULLNAT_FRAGMENT_REPLY_PART: Part = Part::FullnatFragmentReplyV4;
    const FULLNAT_ICMP_PART: Part = Part::FullnatIcmpV4;
    const FULLNAT_ICMP_REPLY_PART: Part = Part::FullnatIcmpReplyV4;
    const IS_V6: bool = false;
    const ETHERTYPE: Be16 = ethernet::Ethertype::IPV4;
    const ICMP_PART: Part = Part::IcmpV4;
    const ICMP_NAT_PART: Part = Part::IcmpNatV4;
    const ICMP_REPLY_PART: Part = Part::IcmpReplyV4;
    const REPLY_PART: Part = Part::ReplyV4;
    const FIRST_FRAGMENT_PART: Part = Part::FirstFragmentV4;
    const FRAGMENT_PART: Part = Part::FragmentV4;
    const FRAGMENT_REPLY_PART: Part = Part::FragmentReplyV4;
    const IN_IP: u8 = 4;

    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;

    const LEN: usize = LEN_MIN;
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
        is_plain.then_some(Parsed::whole(flow, ethernet::UNTAGGED, Self::PLAIN_L4, ip_len, tcp_flags))
    }

    #[inline(always)]
    fn parse<const FRAGMENTS: bool>(packet: &impl Packet, l3: usize) -> Option<Parsed<Self>> {
        let header: &Header = packet.get(l3)?;
        let flow = Flow::new(header.source, header.destination, 0, header.ttl_protocol.protocol);
        let ip_len = u32::from(header.total_len.get());
        let fragment = if header.fragment.raw() & FRAGMENTED == 0 {
            Fragment::WHOLE
        } else {
            Fragment::at(header.fragment.raw() & FRAGMENT_OFFSET, header.id.raw().into())
        };
        let header_len = usize::from(header.version_len & 0xf) * 4;
        let is_malformed = header.version_len >> 4 != 4 || header_len < LEN_MIN || (ip_len as usize) < header_len;
        Some(if is_malformed {
            Parsed::broken(flow, l3, Verdict::Malformed)
        } else if !packet.has_len(l3 + ip_len as usize) {
            Parsed::broken(flow, l3, Verdict::Truncated)
        } else if !FRAGMENTS && !fragment.is_whole() {
            Parsed::broken(flow, l3, Verdict::Fragment)
        } else {
            parse::transport(packet, flow, l3, l3 + header_len, ip_len, if FRAGMENTS { fragment } else { Fragment::WHOLE })
        })
    }

    #[inline(always)]
    fn parse_quoted(packet: &impl Packet, l3: usize, end: usize) -> Option<Parsed<Self>> {
        let header: &Header = packet.get(l3)?;
        let header_len = usize::from(header.version_len & 0xf) * 4;
        let is_whole = header.version_len >> 4 == 4 && header_len >= LEN_MIN && header.fragment.raw() & FRAGMENT_OFFSET == 0;
        let (sender, addressee, protocol) = (header.source, header.destination, header.ttl_protocol.protocol);
        let ports = transport::quoted_ports(packet, l3 + header_len, protocol, end).filter(|_| is_whole)?;
        let flow = Flow::new(addressee, sender, ports, protocol);
        Some(Parsed::whole(flow, l3, l3 + header_len, 0, 0))
    }

    /// Destination unreachable, time exceeded, parameter problem.
    #[inline(always)]
    fn is_error([kind, _]: [u8; 2]) -> bool {
        matches!(kind, 3 | 11 | 12)
    }

    /// Nothing: the checksum covers no addresses but quoted ones, and a quoted header's own checksum makes up for those.
    #[inline(always)]
    fn icmp_delta(_: Delta) -> Delta {
        Delta::NONE
    }

    #[inline(always)]
    fn ends(packet: &impl Packet, l3: usize) -> Result<(Self::Address, Self::Address), Verdict> {
        let header: &Header = packet.get(l3).ok_or(Verdict::Internal)?;
        Ok((header.source, header.destination))
    }

    #[inline(always)]
    fn traffic_class(packet: &impl Packet, l3: usize) -> Result<u8, Verdict> {
        let header: &Header = packet.get(l3).ok_or(Verdict::Internal)?;
        Ok(header.tos)
    }

    #[inline(always)]
    fn mark_congested(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict> {
        let header: &mut Header = packet.get_mut(l3).ok_or(Verdict::Internal)?;
        let (old, new) = (header.tos, header.tos | 3);
        header.tos = new;
        let delta = Delta::of_word(u16::from_ne_bytes([PLAIN, old]), u16::from_ne_bytes([PLAIN, new]));
        header.checksum = delta.apply(header.checksum);
        Ok(())
    }

    #[inline(always)]
    fn write_too_big(report: &mut TooBigV4, vip: Be32, client: Be32, mut quote: Sum, quote_len: u16, len_max: u16) {
        let ip = &mut report.ip;
        let total_len = Be16::new(size_of::<TooBigV4>() as u16 + quote_len);
        ip.version_len = PLAIN;
        ip.tos = 0;
        ip.total_len = total_len;
        ip.id = Be16::new(0);
        ip.fragment = DONT_FRAGMENT;
        ip.ttl_protocol = TtlProtocol { ttl: TTL_OWN, protocol: icmp::ICMP };
        let checksum = own_header(vip, client, icmp::ICMP);
        ip.checksum = Delta::of_word(0, total_len.raw()).apply(checksum);
        ip.source = vip;
        ip.destination = client;
        let mtu = Be16::new(len_max);
        quote.add(u16::from_ne_bytes(icmp::FRAGMENTATION_NEEDED).into());
        quote.add(mtu.raw().into());
        report.icmp.kind = icmp::FRAGMENTATION_NEEDED;
        report.icmp.checksum = quote.checksum();
        report.icmp.mtu = [Be16::new(0), mtu];
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
    fn from_the_left(address: Be32) -> [u64; 2] {
        [u64::from(address.get()) << 32, 0]
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
    fn masked(address: Be32, mask: &Addr) -> Be32 {
        Be32::from_raw(address.raw() & mask.words[3].raw())
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
    fn address_delta(old: Be32, new: Be32) -> Delta {
        Delta::of_pair(old.raw(), new.raw())
    }

    #[inline(always)]
    fn lengthen(packet: &mut impl Packet, l3: usize, by: u16) -> Option<()> {
        let header: &mut Header = packet.get_mut(l3)?;
        let before = header.total_len;
        header.total_len = Be16::new(before.get() + by);
        header.checksum = Delta::of_word(before.raw(), header.total_len.raw()).apply(header.checksum);
        Some(())
    }

    #[inline(always)]
    fn toa(client: Be32, port: Be16) -> [u16; 4] {
        let (start, client) = (u16::from_ne_bytes([toa::KIND, size_of::<Self::Toa>() as u8]), client.raw());
        [start, port.raw(), client as u16, (client >> 16) as u16]
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
