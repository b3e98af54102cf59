//! What IPv4 and IPv6 do each in their own way. The stages are written once, over this trait, and compiled twice:
//! an IPv4 flow is hashed and compared as single words, not as sixteen bytes.

use lb_common::checksum::Delta;
use lb_common::hash::{FlowHash, HashKeys};
use lb_common::{Addr, Be16, Verdict};

use crate::packet::Packet;
use crate::parse::{Fault, Flow, Parsed};

pub trait Family: Sized {
    type Address: Copy + PartialEq;

    /// Whether the network header at `l3` is followed by the transport header at once.
    fn is_plain(packet: &impl Packet, l3: usize) -> bool;
    /// Reads the network and transport headers that start at `l3`. `is_plain` is what [`is_plain`](Self::is_plain) said.
    fn parse(packet: &impl Packet, l3: usize, is_plain: bool) -> Result<Parsed<Self>, Fault>;

    fn is_icmp(protocol: u8) -> bool;
    fn is(record: &Addr, address: Self::Address) -> bool;
    fn to_addr(address: Self::Address) -> Addr;
    /// The address in a record that [`is`](Self::is) of this family; of another, some of its words.
    fn from_addr(record: &Addr) -> Self::Address;

    fn endpoint_hash(multiplier: u64, address: Self::Address, port: Be16, protocol: u8) -> u64;
    /// Over the whole 5-tuple.
    fn flow_hash(keys: &HashKeys, flow: &Flow<Self>) -> FlowHash;
    /// Over the client's address alone.
    fn client_hash(keys: &HashKeys, client: Self::Address) -> FlowHash;

    /// Exchanges an address in the IP header, adapting the header's own checksum, if it has one, by `delta`.
    fn set_address(packet: &mut impl Packet, l3: usize, side: Side, address: Self::Address, delta: Delta) -> Result<(), Verdict>;
    /// Counts a hop down.
    ///
    /// # Errors
    /// [`Verdict::TtlExceeded`] if this was the last one; the packet is unchanged.
    fn count_hop(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict>;
    /// Makes an echo request the reply to it: addresses exchanged, hops as of a packet of our own.
    fn turn_back(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict>;

    /// ICMP types of an echo request and of its reply.
    const ECHO_REQUEST: u8;
    const ECHO_REPLY: u8;
}

/// Which address and port of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Source,
    Destination,
}
