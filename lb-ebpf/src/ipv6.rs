//! IPv6 (RFC 8200), with a bounded number of extension headers.

use lb_common::checksum::Delta;
use lb_common::hash::{self, FlowHash, HashKeys};
use lb_common::limits::EXTENSION_HEADERS;
use lb_common::{Addr, Be16, Be32, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::family::{Family, Side};
use crate::icmp;
use crate::packet::Packet;
use crate::parse::{Fault, Flow, Parsed};
use crate::transport;

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    /// Version in the upper half of the first byte; traffic class and flow label follow.
    version_class: [u8; 4],
    payload_len: Be16,
    next_header: u8,
    hop_limit: u8,
    source: [Be32; 4],
    destination: [Be32; 4],
}

const LEN: usize = size_of::<Header>();

/// The first bytes of hop-by-hop options, routing and destination options headers.
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Extension {
    next_header: u8,
    /// In units of 8 bytes, without the first 8.
    len: u8,
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;

const HOP_LIMIT_OWN: u8 = 64;

pub struct V6;

/// Where the extension headers end, and what follows.
struct Chain {
    l4: usize,
    protocol: u8,
}

/// Looks past extension headers.
///
/// # Errors
/// [`Verdict::Truncated`], [`Verdict::Fragment`], or [`Verdict::Malformed`] if there are more than [`EXTENSION_HEADERS`].
#[inline(always)]
fn skip_extensions(packet: &impl Packet, l3: usize, next_header: u8) -> Result<Chain, Verdict> {
    let mut chain = Chain { l4: l3 + LEN, protocol: next_header };
    for _ in 0..EXTENSION_HEADERS {
        match chain.protocol {
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {}
            FRAGMENT => return Err(Verdict::Fragment),
            _ => return Ok(chain),
        }
        let extension: &Extension = packet.get(chain.l4).ok_or(Verdict::Truncated)?;
        let len = (usize::from(extension.len) + 1) * 8;
        chain = Chain { l4: chain.l4 + len, protocol: extension.next_header };
    }
    match chain.protocol {
        HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS | FRAGMENT => Err(Verdict::Malformed),
        _ => Ok(chain),
    }
}

impl Family for V6 {
    type Address = [Be32; 4];

    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;

    #[inline(always)]
    fn is_plain(packet: &impl Packet, l3: usize) -> bool {
        let header: Option<&Header> = packet.get(l3);
        header.is_some_and(|header| matches!(header.next_header, transport::TCP | transport::UDP))
    }

    #[inline(always)]
    fn parse(packet: &impl Packet, l3: usize, is_plain: bool) -> Result<Parsed<Self>, Fault> {
        let header: &Header = packet.get(l3).ok_or(Fault::Any(Verdict::Truncated))?;
        let (source, destination) = (header.source, header.destination);
        let to_vip = |verdict| Fault::Vip(Addr::v6(destination), verdict);
        let ip_len = LEN as u32 + u32::from(header.payload_len.get());
        if header.version_class[0] >> 4 != 6 {
            return Err(to_vip(Verdict::Malformed));
        }
        if !packet.has_len(l3 + ip_len as usize) {
            return Err(to_vip(Verdict::Truncated));
        }
        let next_header = header.next_header;
        let Chain { l4, protocol } = if is_plain {
            Chain { l4: l3 + LEN, protocol: next_header }
        } else {
            skip_extensions(packet, l3, next_header).map_err(to_vip)?
        };
        let Some(payload_len) = ip_len.checked_sub((l4 - l3) as u32) else {
            return Err(to_vip(Verdict::Truncated));
        };
        let mut flow = Flow { client: source, vip: destination, ports: 0, protocol };
        if protocol == icmp::ICMPV6 {
            return Ok(Parsed { flow, l3, l4, ip_len, is_syn: false });
        }
        let transport = transport::parse(packet, l4, protocol, payload_len).map_err(|verdict| match verdict {
            Verdict::NotService => Fault::Any(verdict),
            verdict => to_vip(verdict),
        })?;
        flow.ports = transport.ports;
        Ok(Parsed { flow, l3, l4, ip_len, is_syn: transport.is_syn })
    }

    #[inline(always)]
    fn is_icmp(protocol: u8) -> bool {
        protocol == icmp::ICMPV6
    }

    #[inline(always)]
    fn is(record: &Addr, address: [Be32; 4]) -> bool {
        record.words == address
    }

    #[inline(always)]
    fn to_addr(address: [Be32; 4]) -> Addr {
        Addr::v6(address)
    }

    #[inline(always)]
    fn from_addr(record: &Addr) -> [Be32; 4] {
        record.words
    }

    #[inline(always)]
    fn endpoint_hash(multiplier: u64, address: [Be32; 4], port: Be16, protocol: u8) -> u64 {
        hash::endpoint_v6(multiplier, raw(address), port, protocol)
    }

    #[inline(always)]
    fn flow_hash(keys: &HashKeys, flow: &Flow<Self>) -> FlowHash {
        hash::flow_v6(keys, raw(flow.client), raw(flow.vip), flow.ports, flow.protocol)
    }

    #[inline(always)]
    fn client_hash(keys: &HashKeys, client: [Be32; 4]) -> FlowHash {
        hash::flow_v6(keys, raw(client), [0; 4], 0, 0)
    }

    #[inline(always)]
    fn set_address(packet: &mut impl Packet, l3: usize, side: Side, address: [Be32; 4], _: Delta) -> Result<(), Verdict> {
        let header: &mut Header = packet.get_mut(l3).ok_or(Verdict::Internal)?;
        match side {
            Side::Source => header.source = address,
            Side::Destination => header.destination = address,
        }
        Ok(())
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

#[inline(always)]
fn raw(address: [Be32; 4]) -> [u32; 4] {
    address.map(Be32::raw)
}
