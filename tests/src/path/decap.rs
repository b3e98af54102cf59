//! Packets in tunnels, and what comes out at the backend's end.

use std::net::IpAddr;

use lb_common::decap::{Ends, Outcome};
use lb_common::{Addr, Be16};

use super::cases;
use super::fixture::{FAR, OURS_INSIDE, TUNNEL_SOURCE, TUNNEL_SOURCE_V6};
use super::packets::{Content, Flags, Outer, cut, encapsulated, frame, patched, tcp, with_extensions};

/// One packet and what becomes of it.
pub struct Case {
    pub name: String,
    pub packet: Vec<u8>,
    pub outcome: Outcome,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

const GUE_PORT: u16 = 6080;
const BACKENDS: [&str; 4] = ["10.0.2.21", "fd02::21", "10.0.2.22", "fd02::22"];

/// All backends of the packet path's tunnels are here.
pub fn ends() -> Ends {
    let addr = |text: &str| Addr::from(text.parse::<IpAddr>().expect("an address"));
    let mut ends = Ends { gue_port: Be16::new(GUE_PORT), is_exclusive: 1, ..Ends::default() };
    for (place, text) in ends.ours.iter_mut().zip(BACKENDS) {
        *place = addr(text);
    }
    (ends.senders[0], ends.senders[1]) = (addr(TUNNEL_SOURCE), addr(TUNNEL_SOURCE_V6));
    ends
}

/// Of everything that the packet path puts into a tunnel, the packet comes out as it was. Then what others send.
pub fn all() -> Vec<Case> {
    let returns = cases::tunnels().into_iter().filter(|case| case.frame.len() > case.packet.len()).map(|case| Case {
        name: format!("taken apart: {}", case.name),
        outcome: if case.name.starts_with("gue") { Outcome::Gue } else { Outcome::Ipip },
        // Link-layer addresses are the outer ones, and tags stay.
        frame: [&case.frame[..12], &case.packet[12..]].concat(),
        packet: case.frame,
    });
    returns.chain(others()).collect()
}

fn others() -> Vec<Case> {
    let inside = frame("10.9.0.100:40000", "10.200.2.1:80", tcp(Flags::Ack)).macs(OURS_INSIDE, FAR).bytes();
    let inside6 = frame("[fd09::100]:40000", "[fd00:0:0:2::2]:80", tcp(Flags::Ack)).macs(OURS_INSIDE, FAR).bytes();
    let outer = |source: &str, destination: &str, ports| Outer {
        source: source.parse().expect("an address"),
        destination: destination.parse().expect("an address"),
        ports,
        flow_label: 7,
    };
    let ours = outer(TUNNEL_SOURCE, "10.0.2.21", None);
    let ours6 = outer(TUNNEL_SOURCE_V6, "fd02::21", None);
    let gue = outer(TUNNEL_SOURCE, "10.0.2.21", Some((50_000, GUE_PORT)));
    // Variant 0: after the UDP header at 14 + 20 + 8, with the protocol and two words of options.
    let variant_0 = |start: u8, protocol: u8| {
        let mut udp = encapsulated(&inside, 14, gue);
        let header = [start, protocol, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
        udp.splice(42..42, header);
        let (udp_len, ip_len) = ((udp.len() - 34) as u16, (udp.len() - 14) as u16);
        let udp = patched(udp, 38, &udp_len.to_be_bytes());
        let (mut ip, _) = etherparse::Ipv4Header::from_slice(&udp[14..]).expect("an IPv4 header");
        ip.total_len = ip_len;
        ip.header_checksum = ip.calc_header_checksum();
        patched(udp, 14, &ip.to_bytes())
    };
    // ECN stands in the lowest bits: of the inner packet before it is put in, where the outer header takes it from.
    let classed = |class: u8| {
        let (mut ip, _) = etherparse::Ipv4Header::from_slice(&inside[14..]).expect("an IPv4 header");
        ip.ecn = class.try_into().expect("2 bits");
        ip.header_checksum = ip.calc_header_checksum();
        patched(inside.clone(), 14, &ip.to_bytes())
    };
    let congested = |inner: &[u8], outer| {
        let packet = encapsulated(inner, 14, outer);
        if packet[14] >> 4 == 6 {
            return patched(packet.clone(), 15, &[packet[15] | 0x30]);
        }
        let (mut ip, _) = etherparse::Ipv4Header::from_slice(&packet[14..]).expect("an IPv4 header");
        ip.ecn = 3.try_into().expect("2 bits");
        ip.header_checksum = ip.calc_header_checksum();
        patched(packet, 14, &ip.to_bytes())
    };
    let capable6 = patched(inside6.clone(), 15, &[inside6[15] | 0x20]);
    let told6 = patched(inside6.clone(), 15, &[inside6[15] | 0x30]);
    let limited = with_extensions(&encapsulated(&inside6, 14, ours6), &[60]);
    let own = frame("10.8.0.1:1000", "10.0.2.21:80", tcp(Flags::Syn)).bytes();
    let datagram = frame("10.0.2.254:1000", "10.0.2.21:53", Content::Udp { payload: vec![0x45; 40] }).bytes();
    let wrong = patched(encapsulated(&inside, 14, ours), 34, &[0x65]);
    let elsewhere = encapsulated(&inside, 14, outer(TUNNEL_SOURCE, "10.0.2.99", None));
    let stranger = encapsulated(&inside, 14, outer("10.66.0.1", "10.0.2.21", None));
    let control = variant_0(0x22, 4);
    let empty = cut(encapsulated(&inside, 14, gue), 42);
    let taken = |name: &str, packet: Vec<u8>, outcome, frame: Vec<u8>| Case { name: name.into(), packet, outcome, frame };
    let untouched = |name: &str, packet: Vec<u8>, outcome| taken(name, packet.clone(), outcome, packet);
    vec![
        taken("gue: variant 0, with options", variant_0(2, 4), Outcome::Gue, inside.clone()),
        taken("ipip: a limit of encapsulations is looked past", limited, Outcome::Ipip, inside6.clone()),
        taken("ecn: congestion is told", congested(&classed(2), ours), Outcome::Ipip, classed(3)),
        taken("ecn: in IPv6 too", congested(&capable6, ours6), Outcome::Ipip, told6),
        untouched("ecn: who cannot be told does not get it", congested(&classed(0), ours), Outcome::Congested),
        untouched("gue: control messages are not for us", control, Outcome::Malformed),
        untouched("another version inside than announced", wrong, Outcome::Malformed),
        untouched("a frame that ends with the outer header", empty, Outcome::Other),
        untouched("for another host", elsewhere, Outcome::Other),
        untouched("from somebody else than a balancer", stranger, Outcome::Stranger),
        untouched("TCP", own, Outcome::Other),
        untouched("UDP on another port", datagram, Outcome::Other),
    ]
}
