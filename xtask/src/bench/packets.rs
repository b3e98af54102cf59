//! Packets of 64 bytes and little more, where a packet path costs most in comparison.

use std::net::IpAddr;

use etherparse::{IpNumber, NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

pub const VIP_V4: [u8; 4] = [10, 200, 1, 1];
pub const VIP_V6: [u8; 16] = [0xfd, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1];
pub const PORT: u16 = 80;

pub const CLIENT_V4: [u8; 4] = [198, 51, 100, 7];
const CLIENT_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const CLIENT_PORT: u16 = 40_000;
const MACS: ([u8; 6], [u8; 6]) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
/// As many bytes as a frame has without its checksum of four bytes.
const FRAME_MIN: usize = 60;
const TTL: u8 = 64;

fn ethernet() -> etherparse::PacketBuilderStep<etherparse::Ethernet2Header> {
    PacketBuilder::ethernet2(MACS.0, MACS.1)
}

/// A TCP segment to the VIP: an ACK, or a SYN.
pub fn tcp_v4(is_syn: bool) -> Vec<u8> {
    tcp_v4_to(PORT, is_syn)
}

/// The same to another port of the VIP.
pub fn tcp_v4_to(port: u16, is_syn: bool) -> Vec<u8> {
    let tcp = ethernet().ipv4(CLIENT_V4, VIP_V4, TTL).tcp(CLIENT_PORT, port, 1, 65_535);
    let tcp = if is_syn { tcp.syn() } else { tcp.ack(1) };
    padded(tcp.size(0), |frame| tcp.write(frame, &[]))
}

pub fn tcp_v6() -> Vec<u8> {
    tcp_v6_to(PORT)
}

pub fn tcp_v6_to(port: u16) -> Vec<u8> {
    let tcp = ethernet().ipv6(CLIENT_V6, VIP_V6, TTL).tcp(CLIENT_PORT, port, 1, 65_535).ack(1);
    padded(tcp.size(0), |frame| tcp.write(frame, &[]))
}

/// A SYN with the options that Linux sends.
pub fn syn_v4_to(port: u16) -> Vec<u8> {
    const OPTIONS: [u8; 20] = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    let syn = ethernet().ipv4(CLIENT_V4, VIP_V4, TTL).tcp(CLIENT_PORT, port, 1, 65_535).syn();
    // They are well formed.
    let Ok(syn) = syn.options_raw(&OPTIONS) else { return Vec::new() };
    padded(syn.size(0), |frame| syn.write(frame, &[]))
}

/// In a tagged frame (802.1Q).
pub fn tagged_v4() -> Vec<u8> {
    let vlan = etherparse::VlanId::try_new(10).unwrap_or_default();
    let tcp = ethernet().single_vlan(vlan).ipv4(CLIENT_V4, VIP_V4, TTL).tcp(CLIENT_PORT, PORT, 1, 65_535).ack(1);
    padded(tcp.size(0), |frame| tcp.write(frame, &[]))
}

/// A ping to the VIP.
pub fn echo_v4() -> Vec<u8> {
    let echo = ethernet().ipv4(CLIENT_V4, VIP_V4, TTL).icmpv4_echo_request(7, 1);
    let payload = [0; 18];
    padded(echo.size(payload.len()), |frame| echo.write(frame, &payload))
}

/// What a router says about a packet from the VIP that did not fit.
pub fn error_v4() -> Vec<u8> {
    let quoted = PacketBuilder::ipv4(VIP_V4, CLIENT_V4, TTL).tcp(PORT, CLIENT_PORT, 1, 65_535);
    let mut quote = Vec::new();
    let _ = quoted.write(&mut quote, &[]);
    let error = ethernet().ipv4(CLIENT_V4, VIP_V4, TTL).icmpv4_raw(3, 4, [0, 0, 5, 0]);
    padded(error.size(quote.len()), |frame| error.write(frame, &quote))
}

/// A backend's answer: the sender's address and port are the backend's whatever flow it is of.
pub fn reply_v4(backend: [u8; 4], port: u16) -> Vec<u8> {
    let tcp = ethernet().ipv4(backend, CLIENT_V4, TTL).tcp(port, CLIENT_PORT, 1, 65_535).ack(1);
    padded(tcp.size(0), |frame| tcp.write(frame, &[]))
}

pub fn udp_v4() -> Vec<u8> {
    let udp = ethernet().ipv4(CLIENT_V4, VIP_V4, TTL).udp(CLIENT_PORT, PORT);
    let payload = [0; 18];
    padded(udp.size(payload.len()), |frame| udp.write(frame, &payload))
}

/// QUIC with a short header, and in its connection ID the last four bytes of a server's address.
pub fn quic_v4(port: u16, server: [u8; 4]) -> Vec<u8> {
    let udp = ethernet().ipv4(CLIENT_V4, VIP_V4, TTL).udp(CLIENT_PORT, port);
    let payload = [&[0x40, 0x05][..], &server, &[7; 26]].concat();
    padded(udp.size(payload.len()), |frame| udp.write(frame, &payload))
}

/// From a balancer to a backend's end of a tunnel: TCP to the VIP, in an IP packet.
pub fn in_ipip(backend: [u8; 4]) -> Vec<u8> {
    let inner = inner();
    let outer = ethernet().ipv4(CLIENT_V4, backend, TTL);
    padded(outer.size(inner.len()), |frame| outer.write(frame, IpNumber::IPV4, &inner))
}

/// The same in a datagram.
pub fn in_gue(backend: [u8; 4], port: u16) -> Vec<u8> {
    let inner = inner();
    let outer = ethernet().ipv4(CLIENT_V4, backend, TTL).udp(CLIENT_PORT, port);
    padded(outer.size(inner.len()), |frame| outer.write(frame, &inner))
}

fn inner() -> Vec<u8> {
    let mut packet = Vec::new();
    let _ = PacketBuilder::ipv4(CLIENT_V4, VIP_V4, TTL).tcp(CLIENT_PORT, PORT, 1, 65_535).ack(1).write(&mut packet, &[]);
    packet
}

/// TCP to an address that is none of the load balancer's.
pub fn other_v4() -> Vec<u8> {
    let tcp = ethernet().ipv4(CLIENT_V4, [10, 0, 0, 1], TTL).tcp(CLIENT_PORT, 22, 1, 65_535).ack(1);
    padded(tcp.size(0), |frame| tcp.write(frame, &[]))
}

/// Offsets of the last two bytes of the client's address, and of its port, or of an echo's identifier. `None` if it is neither from the
/// client nor to it.
pub fn client_at(frame: &[u8]) -> Option<(u16, u16)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let (source, destination, [source_at, destination_at], l3_len) = match packet.net? {
        NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into(), [14, 18], ip.header().slice().len())
        }
        NetSlice::Ipv6(ip) => (IpAddr::from(ip.header().source_addr()), ip.header().destination_addr().into(), [22, 38], 40),
        NetSlice::Arp(_) => return None,
    };
    let l3 = 14 + 4 * packet.link_exts.len();
    let [source_port_at, destination_port_at] = match packet.transport {
        Some(TransportSlice::Icmpv4(_)) => [l3_len + 4; 2],
        Some(_) => [l3_len, l3_len + 2],
        // Another IP packet: what varies is the identification of the one around it.
        None => [4; 2],
    };
    let is_client = |address: IpAddr| address == IpAddr::from(CLIENT_V4) || address == IpAddr::from(CLIENT_V6);
    let (address_at, port_at) = match () {
        () if is_client(source) => (source_at, source_port_at),
        () if is_client(destination) => (destination_at, destination_port_at),
        () => return None,
    };
    Some(((l3 + address_at) as u16, (l3 + port_at) as u16))
}

fn padded<E>(len: usize, write: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Vec<u8> {
    let mut frame = Vec::with_capacity(len);
    // Writing to memory does not fail, and constant lengths fit; a cut frame would show in the action.
    let _ = write(&mut frame);
    frame.resize(frame.len().max(FRAME_MIN), 0);
    frame
}
