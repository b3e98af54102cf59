//! What another implementation makes of a frame: its endpoints, and whether its checksums hold, computed in full.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, SlicedPacket, TransportSlice};

use super::packets::Mac;

/// A TCP or UDP frame as etherparse reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Link-layer source and destination.
    pub macs: (Mac, Mac),
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub checksums: Checksums,
}

/// Whether each checksum is what its header and payload sum up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checksums {
    /// Of the IPv4 header; IPv6 has none, and it holds.
    pub ip: bool,
    /// Of TCP or UDP; absent from UDP, it holds.
    pub transport: bool,
}

impl Checksums {
    pub fn hold(self) -> bool {
        self.ip && self.transport
    }
}

/// The frame, or `None` if it is no whole TCP or UDP packet.
pub fn see(frame: &[u8]) -> Option<Seen> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let macs = (frame[6..12].try_into().ok()?, frame[..6].try_into().ok()?);
    let (source, destination, ip) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ipv4) => {
            let header = ipv4.header();
            let ip = is_sum(header.header_checksum(), header.to_header().calc_header_checksum());
            (IpAddr::from(header.source_addr()), IpAddr::from(header.destination_addr()), ip)
        }
        NetSlice::Ipv6(ipv6) => (ipv6.header().source_addr().into(), ipv6.header().destination_addr().into(), true),
        NetSlice::Arp(_) => return None,
    };
    let (ports, transport) = match packet.transport.as_ref()? {
        TransportSlice::Tcp(tcp) => {
            let sum = match (source, destination) {
                (IpAddr::V4(from), IpAddr::V4(to)) => tcp.calc_checksum_ipv4(from.octets(), to.octets()).ok()?,
                (IpAddr::V6(from), IpAddr::V6(to)) => tcp.calc_checksum_ipv6(from.octets(), to.octets()).ok()?,
                _ => return None,
            };
            ((tcp.source_port(), tcp.destination_port()), is_sum(tcp.checksum(), sum))
        }
        TransportSlice::Udp(udp) => {
            let header = udp.to_header();
            let sum = match (source, destination) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    header.calc_checksum_ipv4_raw(from.octets(), to.octets(), udp.payload()).ok()?
                }
                (IpAddr::V6(from), IpAddr::V6(to)) => {
                    header.calc_checksum_ipv6_raw(from.octets(), to.octets(), udp.payload()).ok()?
                }
                _ => return None,
            };
            ((udp.source_port(), udp.destination_port()), udp.checksum() == 0 || is_sum(udp.checksum(), sum))
        }
        _ => return None,
    };
    let checksums = Checksums { ip, transport };
    Some(Seen { macs, source: (source, ports.0).into(), destination: (destination, ports.1).into(), checksums })
}

/// Whether the IP packet of a frame, and what follows it, is at the end of another one.
pub fn carries(outer: &[u8], frame: &[u8]) -> bool {
    let is_tag = |at: usize| matches!(frame.get(at..at + 2), Some([0x81, 0x00] | [0x88, 0xa8]));
    let n_tags = if !is_tag(12) { 0 } else { 1 + usize::from(is_tag(16)) };
    frame.get(14 + 4 * n_tags..).is_some_and(|packet| outer.ends_with(packet))
}

/// Whether a checksum field is the sum. One's complement has two zeros, and a receiver takes either.
fn is_sum(field: u16, computed: u16) -> bool {
    // Both of one's complement's zeros are zero.
    field % 0xffff == computed % 0xffff
}
