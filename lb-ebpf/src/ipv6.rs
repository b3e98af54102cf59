//! IPv6 (RFC 8200), with a bounded number of extension headers.

use lb_common::checksum::{Delta, Sum};
use lb_common::hash::{self, FlowHash, HashKeys};
use lb_common::limits::EXTENSION_HEADERS;
use lb_common::records::Backend;
use lb_common::{Addr, Be16, PortProtocol, Verdict};
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
    /// Version in the upper half of the first byte; traffic class and flow label follow.
    version_class: [u8; 4],
    payload_len: Be16,
    next_header: u8,
    hop_limit: u8,
    /// As two native words.
    source: [u64; 2],
    destination: [u64; 2],
}

const LEN: usize = size_of::<Header>();

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct PlainFrame {
    ethernet: [u8; ethernet::UNTAGGED],
    ip: Header,
    transport: transport::Start,
}

/// The first bytes of hop-by-hop options, routing and destination options headers.
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Extension {
    next_header: u8,
    /// In units of 8 bytes, without the first 8.
    len: u8,
}

/// RFC 8200 section 4.5.
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct FragmentHeader {
    next_header: u8,
    reserved: u8,
    /// In units of 8 bytes in the upper 13 bits; the last says whether more follow.
    offset: Be16,
    identification: u32,
}

const MORE_FRAGMENTS: u16 = 1;
/// Two bits between them are reserved.
const FRAGMENT_OFFSET: u16 = 0xfff8;

impl FragmentHeader {
    /// A packet may be its only fragment (RFC 6946).
    #[inline(always)]
    fn fragment(&self) -> Fragment {
        let offset = self.offset.get();
        if offset & (FRAGMENT_OFFSET | MORE_FRAGMENTS) == 0 {
            return Fragment::WHOLE;
        }
        Fragment::at(offset & FRAGMENT_OFFSET, self.identification)
    }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

const HOP_LIMIT_OWN: u8 = 64;

/// Every IPv6 network carries packets this long (RFC 8200 section 5).
const MTU_MIN: u16 = 1280;

impl Outer for Header {
    const ETHERTYPE: Be16 = V6::ETHERTYPE;

    #[inline(always)]
    fn write(&mut self, backend: &Backend, inner: &Inner) {
        self.version_class = (6 << 28 | u32::from(inner.class) << 20 | inner.entropy & FLOW_LABEL).to_be_bytes();
        self.payload_len = Be16::new(inner.len);
        self.next_header = inner.protocol;
        self.hop_limit = HOP_LIMIT_OWN;
        // Word by word: see `Addr::longs`.
        let ([s0, s1], [d0, d1]) = (backend.source.longs(), backend.address.longs());
        (self.source[0], self.source[1]) = (s0, s1);
        (self.destination[0], self.destination[1]) = (d0, d1);
    }
}

/// In the first four bytes.
const FLOW_LABEL: u32 = 0x000f_ffff;

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct TooBigV6 {
    ip: Header,
    icmp: TooBig,
}

pub struct V6;

/// Where the extension headers end, and what follows, or what is wrong with them.
struct Chain {
    l4: usize,
    protocol: u8,
    fault: Option<Verdict>,
}

/// Looks past extension headers, as far as a fragment header, which is for the caller. The fault is [`Verdict::Truncated`], or
/// [`Verdict::Malformed`] if there are more than [`EXTENSION_HEADERS`].
#[inline(always)]
fn skip_extensions(packet: &impl Packet, l3: usize, next_header: u8) -> Chain {
    let mut chain = Chain { l4: l3 + LEN, protocol: next_header, fault: None };
    for _ in 0..EXTENSION_HEADERS {
        match chain.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {}
            _ => return chain,
        }
        let Some(extension) = packet.get::<Extension>(chain.l4) else {
            return Chain { fault: Some(Verdict::Truncated), ..chain };
        };
        let len = (usize::from(extension.len) + 1) * 8;
        chain = Chain { l4: chain.l4 + len, protocol: extension.next_header, fault: None };
    }
    match chain.protocol {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => Chain { fault: Some(Verdict::Malformed), ..chain },
        _ => chain,
    }
}

impl Family for V6 {
    type Address = [u64; 2];
    type Header = Header;
    type Start = [u8; LEN + transport::TCP_LEN];
    type Toa = [u16; 10];
    type TooBig = TooBigV6;

    const ADMIT_PART: Part = Part::AdmitV6;
    const PART: Part = Part::V6;
    const TOA_PART: Part = Part::ToaV6;
    const CLAMP_PART: Part = Part::ClampV6;
    const QUIC_PART: Part = Part::QuicV6;
    const FULLNAT_PART: Part = Part::FullnatV6;
    const FULLNAT_REPLY_PART: Part = Part::FullnatReplyV6;
    const FULLNAT_FRAGMENT_PART: Part = Part::FullnatFragmentV6;
    const FULLNAT_FRAGMENT_REPLY_PART: Part = Part::FullnatFragmentReplyV6;
    const FULLNAT_ICMP_PART: Part = Part::FullnatIcmpV6;
    const FULLNAT_ICMP_REPLY_PART: Part = Part::FullnatIcmpReplyV6;
    const IS_V6: bool = true;
    const ETHERTYPE: Be16 = ethernet::Ethertype::IPV6;
    const ICMP_PART: Part = Part::IcmpV6;
    const ICMP_NAT_PART: Part = Part::IcmpNatV6;
    const ICMP_REPLY_PART: Part = Part::IcmpReplyV6;
    const REPLY_PART: Part = Part::ReplyV6;
    const FIRST_FRAGMENT_PART: Part = Part::FirstFragmentV6;
    const FRAGMENT_PART: Part = Part::FragmentV6;
    const FRAGMENT_REPLY_PART: Part = Part::FragmentReplyV6;
    const IN_IP: u8 = 41;

    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;

    const LEN: usize = LEN;
    const PLAIN_L4: usize = ethernet::UNTAGGED + LEN;

    #[inline(always)]
    fn parse_plain(packet: &impl Packet) -> Option<Parsed<Self>> {
        let frame: &PlainFrame = packet.get(0)?;
        let payload_len = u32::from(frame.ip.payload_len.get());
        let protocol = frame.ip.next_header;
        let is_plain = frame.ip.version_class[0] >> 4 == 6
            && packet.has_linear_len(Self::PLAIN_L4 + payload_len as usize)
            && frame.transport.fits(protocol, payload_len);
        let flow = Flow::new(frame.ip.source, frame.ip.destination, frame.transport.ports, protocol);
        let (ip_len, tcp_flags) = (LEN as u32 + payload_len, frame.transport.tcp_flags(protocol));
        is_plain.then_some(Parsed::whole(flow, ethernet::UNTAGGED, Self::PLAIN_L4, ip_len, tcp_flags))
    }

    #[inline(always)]
    fn parse<const FRAGMENTS: bool>(packet: &impl Packet, l3: usize) -> Option<Parsed<Self>> {
        let header: &Header = packet.get(l3)?;
        let mut flow = Flow::new(header.source, header.destination, 0, 0);
        let ip_len = LEN as u32 + u32::from(header.payload_len.get());
        if header.version_class[0] >> 4 != 6 {
            return Some(Parsed::broken(flow, l3, Verdict::Malformed));
        }
        if !packet.has_len(l3 + ip_len as usize) {
            return Some(Parsed::broken(flow, l3, Verdict::Truncated));
        }
        let Chain { mut l4, mut protocol, fault } = skip_extensions(packet, l3, header.next_header);
        if let Some(fault) = fault {
            return Some(Parsed::broken(flow, l3, fault));
        }
        let mut fragment = Fragment::WHOLE;
        if protocol == FRAGMENT {
            let Some(header) = packet.get::<FragmentHeader>(l4) else {
                return Some(Parsed::broken(flow, l3, Verdict::Truncated));
            };
            if !FRAGMENTS && !header.fragment().is_whole() {
                return Some(Parsed::broken(flow, l3, Verdict::Fragment));
            }
            (l4, protocol, fragment) = (l4 + size_of::<FragmentHeader>(), header.next_header, header.fragment());
        }
        if (l4 - l3) as u32 > ip_len {
            return Some(Parsed::broken(flow, l3, Verdict::Truncated));
        }
        flow = Flow::new(flow.client, flow.vip, 0, protocol);
        Some(parse::transport(packet, flow, l3, l4, ip_len, if FRAGMENTS { fragment } else { Fragment::WHOLE }))
    }

    #[inline(always)]
    fn parse_quoted(packet: &impl Packet, l3: usize, end: usize) -> Option<Parsed<Self>> {
        let header: &Header = packet.get(l3)?;
        let (sender, addressee) = (header.source, header.destination);
        let is_it = header.version_class[0] >> 4 == 6;
        // Who sends extension headers to clients may look after their errors: two chains in one packet are beyond the verifier.
        let (l4, protocol) = (l3 + LEN, header.next_header);
        let ports = transport::quoted_ports(packet, l4, protocol, end).filter(|_| is_it)?;
        let flow = Flow::new(addressee, sender, ports, protocol);
        Some(Parsed::whole(flow, l3, l4, 0, 0))
    }

    /// Destination unreachable, packet too big, time exceeded, parameter problem, and those to come (RFC 4443 section 2.1).
    #[inline(always)]
    fn is_error([kind, _]: [u8; 2]) -> bool {
        kind < 128
    }

    #[inline(always)]
    fn icmp_delta(delta: Delta) -> Delta {
        delta
    }

    #[inline(always)]
    fn ends(packet: &impl Packet, l3: usize) -> Result<(Self::Address, Self::Address), Verdict> {
        let header: &Header = packet.get(l3).ok_or(Verdict::Internal)?;
        Ok((header.source, header.destination))
    }

    #[inline(always)]
    fn traffic_class(packet: &impl Packet, l3: usize) -> Result<u8, Verdict> {
        let header: &Header = packet.get(l3).ok_or(Verdict::Internal)?;
        Ok(header.version_class[0] << 4 | header.version_class[1] >> 4)
    }

    #[inline(always)]
    fn mark_congested(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict> {
        let header: &mut Header = packet.get_mut(l3).ok_or(Verdict::Internal)?;
        header.version_class[1] |= 0x30;
        Ok(())
    }

    #[inline(always)]
    fn write_too_big(report: &mut TooBigV6, vip: [u64; 2], client: [u64; 2], mut quote: Sum, quote_len: u16, len_max: u16) {
        let ip = &mut report.ip;
        let payload_len = Be16::new(size_of::<TooBig>() as u16 + quote_len);
        ip.version_class = [6 << 4, 0, 0, 0];
        ip.payload_len = payload_len;
        ip.next_header = icmp::ICMPV6;
        ip.hop_limit = HOP_LIMIT_OWN;
        (ip.source[0], ip.source[1]) = (vip[0], vip[1]);
        (ip.destination[0], ip.destination[1]) = (client[0], client[1]);
        let mtu = Be16::new(if len_max < MTU_MIN { MTU_MIN } else { len_max });
        quote.add(u16::from_ne_bytes(icmp::PACKET_TOO_BIG).into());
        quote.add(mtu.raw().into());
        // The pseudo-header (RFC 8200 section 8.1).
        for word in [vip[0], vip[1], client[0], client[1]] {
            quote.add_long(word);
        }
        quote.add(payload_len.raw().into());
        quote.add(u16::from_ne_bytes([0, icmp::ICMPV6]).into());
        report.icmp.kind = icmp::PACKET_TOO_BIG;
        report.icmp.checksum = quote.checksum();
        report.icmp.mtu = [Be16::new(0), mtu];
    }

    #[inline(always)]
    fn is_icmp(protocol: u8) -> bool {
        protocol == icmp::ICMPV6
    }

    #[inline(always)]
    fn is(record: &Addr, address: [u64; 2]) -> bool {
        record.longs() == address
    }

    #[inline(always)]
    fn to_addr(address: [u64; 2]) -> Addr {
        Addr::from_longs(address)
    }

    #[inline(always)]
    fn from_addr(record: &Addr) -> [u64; 2] {
        record.longs()
    }

    #[inline(always)]
    fn from_the_left(address: [u64; 2]) -> [u64; 2] {
        address.map(u64::from_be)
    }

    #[inline(always)]
    fn endpoint_hash(multiplier: u64, address: [u64; 2], port: PortProtocol) -> u64 {
        hash::endpoint_v6(multiplier, address, port)
    }

    #[inline(always)]
    fn flow_hash(keys: &HashKeys, flow: &Flow<Self>) -> FlowHash {
        hash::flow_v6(keys, flow.client, flow.ports)
    }

    #[inline(always)]
    fn client_hash(keys: &HashKeys, client: [u64; 2]) -> FlowHash {
        hash::flow_v6(keys, client, 0)
    }

    #[inline(always)]
    fn masked(address: [u64; 2], mask: &Addr) -> [u64; 2] {
        let mask = mask.longs();
        [address[0] & mask[0], address[1] & mask[1]]
    }

    #[inline(always)]
    fn set_address(packet: &mut impl Packet, l3: usize, side: Side, address: [u64; 2], _: Delta) -> Result<(), Verdict> {
        let header: &mut Header = packet.get_mut(l3).ok_or(Verdict::Internal)?;
        // Word by word: see `Addr::longs`.
        let [first, second] = address;
        match side {
            Side::Source => (header.source[0], header.source[1]) = (first, second),
            Side::Destination => (header.destination[0], header.destination[1]) = (first, second),
        }
        Ok(())
    }

    #[inline(always)]
    fn address_delta(old: [u64; 2], new: [u64; 2]) -> Delta {
        let of = |old: u64, new: u64| {
            Delta::of_pair(old as u32, new as u32).and(Delta::of_pair((old >> 32) as u32, (new >> 32) as u32))
        };
        of(old[0], new[0]).and(of(old[1], new[1]))
    }

    #[inline(always)]
    fn lengthen(packet: &mut impl Packet, l3: usize, by: u16) -> Option<()> {
        let header: &mut Header = packet.get_mut(l3)?;
        header.payload_len = Be16::new(header.payload_len.get() + by);
        Some(())
    }

    #[inline(always)]
    fn toa(client: Self::Address, port: Be16) -> [u16; 10] {
        let start = u16::from_ne_bytes([toa::KIND, size_of::<Self::Toa>() as u8]);
        let word = |n: usize| (client[n / 4] >> (n % 4 * 16)) as u16;
        [start, port.raw(), word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)]
    }

    #[inline(always)]
    fn count_hop(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict> {
        let header: &mut Header = packet.get_mut(l3).ok_or(Verdict::Internal)?;
        if header.hop_limit <= 1 {
            return Err(Verdict::TtlExceeded);
        }
        header.hop_limit -= 1;
        Ok(())
    }

    #[inline(always)]
    fn turn_back(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict> {
        let header: &mut Header = packet.get_mut(l3).ok_or(Verdict::Internal)?;
        let (source, destination) = (header.source, header.destination);
        header.source = destination;
        header.destination = source;
        header.hop_limit = HOP_LIMIT_OWN;
        Ok(())
    }
}
