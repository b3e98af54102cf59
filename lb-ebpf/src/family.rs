//! What IPv4 and IPv6 do each in their own way. The stages are written once, over this trait, and compiled twice:
//! an IPv4 flow is hashed and compared as single words, not as sixteen bytes.

use lb_common::checksum::{Delta, Sum};
use lb_common::hash::{FlowHash, HashKeys};
use lb_common::{Addr, Be16, PortProtocol, Verdict};

use crate::Part;
use crate::packet::{Packet, Wire};
use crate::parse::{Flow, Parsed};
use crate::tunnel::Outer;

pub trait Family: Sized {
    type Address: Copy + PartialEq;

    /// The header of a tunnel.
    type Header: Outer;
    /// A network header without options, and a TCP header without them.
    type Start: Wire + Copy;
    /// The TCP option that names a client.
    type Toa: Wire + Copy + AsRef<[u16]>;
    /// The error that a packet is too big, with the header that it travels in.
    type TooBig: Wire;

    /// The parts of the packet path for packets of this family.
    const ADMIT_PART: Part;
    const PART: Part;
    const TOA_PART: Part;
    const CLAMP_PART: Part;
    const QUIC_PART: Part;
    const FULLNAT_PART: Part;
    const FULLNAT_REPLY_PART: Part;
    const FULLNAT_FRAGMENT_PART: Part;
    const FULLNAT_FRAGMENT_REPLY_PART: Part;
    const FULLNAT_ICMP_PART: Part;
    const FULLNAT_ICMP_REPLY_PART: Part;
    const IS_V6: bool;
    const ETHERTYPE: Be16;
    const ICMP_PART: Part;
    const ICMP_NAT_PART: Part;
    const ICMP_REPLY_PART: Part;
    const REPLY_PART: Part;
    const FIRST_FRAGMENT_PART: Part;
    const FRAGMENT_PART: Part;
    const FRAGMENT_REPLY_PART: Part;
    /// IANA protocol number of a packet of this family in another IP packet.
    const IN_IP: u8;
    /// Length of a network header without options.
    const LEN: usize;
    /// Offset of the transport header of a plain packet.
    const PLAIN_L4: usize;

    /// Reads a plain packet: untagged, no options, TCP or UDP, and nothing wrong with it. `None` is for [`parse`](Self::parse)
    /// to tell.
    fn parse_plain(packet: &impl Packet) -> Option<Parsed<Self>>;
    /// Reads the network and transport headers that start at `l3`. `None` if the frame ends before the addresses. Unless it takes
    /// fragments, these are broken.
    fn parse<const FRAGMENTS: bool>(packet: &impl Packet, l3: usize) -> Option<Parsed<Self>>;

    /// Reads as much as an ICMP error has of the packet that it is about, from `l3` to `end`, and tells the flow of its answers:
    /// who sent it is `vip`, and whom it was for is `client`. `None` if that is not TCP or UDP, or no port is quoted.
    fn parse_quoted(packet: &impl Packet, l3: usize, end: usize) -> Option<Parsed<Self>>;

    fn is_icmp(protocol: u8) -> bool;
    /// Whether ICMP of this type and code says that something is wrong with a packet.
    fn is_error(kind: [u8; 2]) -> bool;
    fn is(record: &Addr, address: Self::Address) -> bool;
    fn to_addr(address: Self::Address) -> Addr;
    /// The address as two words in host byte order; of IPv4, in the upper half of the first.
    fn from_the_left(address: Self::Address) -> [u64; 2];
    /// The address in a record that [`is`](Self::is) of this family; of another, some of its words.
    fn from_addr(record: &Addr) -> Self::Address;

    fn endpoint_hash(multiplier: u64, address: Self::Address, port: PortProtocol) -> u64;
    /// Over the client's address and both ports.
    fn flow_hash(keys: &HashKeys, flow: &Flow<Self>) -> FlowHash;
    /// Over the client's address alone.
    fn client_hash(keys: &HashKeys, client: Self::Address) -> FlowHash;
    /// The bits of an address that a mask has.
    fn masked(address: Self::Address, mask: &Addr) -> Self::Address;

    /// Exchanges an address in the IP header, adapting the header's own checksum, if it has one, by `delta`.
    fn set_address(packet: &mut impl Packet, l3: usize, side: Side, address: Self::Address, delta: Delta) -> Result<(), Verdict>;
    /// What exchanging an address changes in checksums that cover it.
    fn address_delta(old: Self::Address, new: Self::Address) -> Delta;
    /// Adds to the length of the packet.
    fn lengthen(packet: &mut impl Packet, l3: usize, by: u16) -> Option<()>;
    /// The TCP option that names a client.
    fn toa(client: Self::Address, port: Be16) -> Self::Toa;
    /// Counts a hop down.
    ///
    /// # Errors
    /// [`Verdict::TtlExceeded`] if this was the last one; the packet is unchanged.
    fn count_hop(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict>;
    /// What a change of an address changes in the checksum of the ICMP message that it stands in, or that it is sent with.
    fn icmp_delta(delta: Delta) -> Delta;
    /// Source and destination of the packet.
    fn ends(packet: &impl Packet, l3: usize) -> Result<(Self::Address, Self::Address), Verdict>;
    /// DSCP and ECN.
    fn traffic_class(packet: &impl Packet, l3: usize) -> Result<u8, Verdict>;
    /// Sets the ECN field to "congestion experienced" (RFC 3168).
    fn mark_congested(packet: &mut impl Packet, l3: usize) -> Result<(), Verdict>;
    /// Writes the error, about a packet of which `quote_len` bytes follow, whose words add up to `quote`.
    fn write_too_big(
        report: &mut Self::TooBig,
        vip: Self::Address,
        client: Self::Address,
        quote: Sum,
        quote_len: u16,
        len_max: u16,
    );
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
