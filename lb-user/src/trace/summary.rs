//! What a line has room for of a packet.

use std::net::{IpAddr, SocketAddr};

use etherparse::{Ipv6ExtensionSlice, LaxLinkExtSlice, LaxNetSlice, LaxSlicedPacket};
use serde::Serialize;

const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP_V6: u8 = 58;

/// Bytes of an ICMP error before the packet that it is about.
const ICMP_ERROR_LEN: usize = 8;

/// Offset of a TCP header's flags.
const TCP_FLAGS: usize = 13;

/// Who sends what to whom. What the beginning of a frame does not show is left out.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Summary {
    /// The tags before the packet, the outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<u16>,
    /// `tcp`, `udp`, `icmp` and the like; a number where there is no name; of what is not IP, the ethertype.
    pub protocol: String,
    /// With a port where there is one, as for [`SocketAddr`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub destination: Option<String>,
    /// Of TCP, such as `SYN` or `FIN,ACK`; of ICMP, its type in words.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub flags: String,
    /// It is not the whole packet: `first`, or `later`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragment: Option<&'static str>,
    /// Of an ICMP error, the packet that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub about: Option<Box<Summary>>,
}

impl Summary {
    /// Of the beginning of an Ethernet frame.
    pub fn of_frame(frame: &[u8]) -> Self {
        let Ok(packet) = LaxSlicedPacket::from_ethernet(frame) else {
            return Self { protocol: "a torn frame".to_owned(), ..Self::default() };
        };
        let mut summary = Self::of(&packet);
        for tag in &packet.link_exts {
            if let LaxLinkExtSlice::Vlan(tag) = tag {
                summary.vlans.push(tag.vlan_identifier().value());
            }
        }
        summary
    }

    fn of(packet: &LaxSlicedPacket<'_>) -> Self {
        let (source, destination, payload, offset): (IpAddr, IpAddr, _, _) = match &packet.net {
            Some(LaxNetSlice::Ipv4(ip)) => {
                let (header, payload) = (ip.header(), ip.payload());
                (header.source_addr().into(), header.destination_addr().into(), payload, header.fragments_offset().value())
            }
            Some(LaxNetSlice::Ipv6(ip)) => {
                let fragment = ip.extensions().clone().into_iter().find_map(|extension| match extension {
                    Ipv6ExtensionSlice::Fragment(fragment) => Some(fragment.fragment_offset().value()),
                    _ => None,
                });
                let header = ip.header();
                (header.source_addr().into(), header.destination_addr().into(), ip.payload(), fragment.unwrap_or_default())
            }
            Some(LaxNetSlice::Arp(_)) => return Self { protocol: "arp".to_owned(), ..Self::default() },
            None => {
                let ethertype = packet.ether_payload().map(|payload| payload.ether_type.0).unwrap_or_default();
                return Self { protocol: format!("ethertype {ethertype:#06x}"), ..Self::default() };
            }
        };
        let (number, bytes) = (payload.ip_number.0, payload.payload);
        let fragment = payload.fragmented.then_some(if offset == 0 { "first" } else { "later" });
        let has_header = fragment != Some("later");
        // Of a packet that is quoted there may be no more than the ports.
        let ports = bytes.first_chunk().filter(|_| has_header && matches!(number, TCP | UDP));
        let ports = ports.map(|[a, b, c, d]| (u16::from_be_bytes([*a, *b]), u16::from_be_bytes([*c, *d])));
        let end = |address: IpAddr, port: Option<u16>| {
            port.map_or_else(|| address.to_string(), |port| SocketAddr::new(address, port).to_string())
        };
        let kind = bytes.first_chunk::<2>().filter(|_| has_header);
        let (flags, is_error) = match (number, kind) {
            (TCP, _) => (bytes.get(TCP_FLAGS).filter(|_| has_header).map(|flags| tcp_flags(*flags)).unwrap_or_default(), false),
            (ICMP, Some(&[kind, code])) => icmp_v4(kind, code),
            (ICMP_V6, Some(&[kind, code])) => icmp_v6(kind, code),
            _ => (String::new(), false),
        };
        let quoted = bytes.get(ICMP_ERROR_LEN..).filter(|_| is_error);
        Self {
            vlans: Vec::new(),
            protocol: protocol(number),
            source: Some(end(source, ports.map(|(source, _)| source))),
            destination: Some(end(destination, ports.map(|(_, destination)| destination))),
            flags,
            fragment,
            about: quoted.and_then(|quoted| Some(Box::new(Self::of(&LaxSlicedPacket::from_ip(quoted).ok()?)))),
        }
    }
}

fn protocol(number: u8) -> String {
    match number {
        ICMP => "icmp".to_owned(),
        4 | 41 => "ip-in-ip".to_owned(),
        TCP => "tcp".to_owned(),
        UDP => "udp".to_owned(),
        ICMP_V6 => "icmpv6".to_owned(),
        _ => format!("protocol {number}"),
    }
}

/// As tcpdump orders them, and `none` of a packet without any.
fn tcp_flags(flags: u8) -> String {
    const NAMES: [(u8, &str); 8] =
        [(2, "SYN"), (1, "FIN"), (4, "RST"), (8, "PSH"), (16, "ACK"), (32, "URG"), (64, "ECE"), (128, "CWR")];
    let names: Vec<&str> = NAMES.iter().filter(|(bit, _)| flags & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(",") }
}

/// In words, and whether it is an error, which quotes a packet.
fn icmp_v4(kind: u8, code: u8) -> (String, bool) {
    let (words, is_error) = match (kind, code) {
        (0, _) => ("echo reply", false),
        (3, 4) => ("fragmentation needed", true),
        (3, _) => ("unreachable", true),
        (5, _) => ("redirect", true),
        (8, _) => ("echo request", false),
        (11, _) => ("time exceeded", true),
        (12, _) => ("parameter problem", true),
        _ => return (format!("type {kind}"), false),
    };
    (words.to_owned(), is_error)
}

fn icmp_v6(kind: u8, _code: u8) -> (String, bool) {
    let (words, is_error) = match kind {
        1 => ("unreachable", true),
        2 => ("packet too big", true),
        3 => ("time exceeded", true),
        4 => ("parameter problem", true),
        128 => ("echo request", false),
        129 => ("echo reply", false),
        133..=137 => ("neighbour discovery", false),
        _ => return (format!("type {kind}"), false),
    };
    (words.to_owned(), is_error)
}

#[cfg(test)]
mod tests {
    use etherparse::{PacketBuilder, VlanId};

    use super::*;

    fn of(frame: &[u8]) -> String {
        let Summary { vlans, protocol, source, destination, flags, fragment, about } = Summary::of_frame(frame);
        let ends = [source, destination].map(Option::unwrap_or_default).join(" > ");
        let about = about.map_or(String::new(), |about| format!(" about {about:?}"));
        format!("{vlans:?} {protocol} {ends} {flags} {}{about}", fragment.unwrap_or_default())
    }

    #[test]
    fn a_packet_is_told_as_far_as_it_shows() {
        let ethernet = || PacketBuilder::ethernet2([2; 6], [4; 6]);
        let mut syn = Vec::new();
        ethernet().ipv4([10, 0, 0, 2], [192, 0, 2, 1], 64).tcp(41000, 80, 0, 0).syn().write(&mut syn, &[]).unwrap();
        assert_eq!(of(&syn), "[] tcp 10.0.0.2:41000 > 192.0.2.1:80 SYN ");
        assert_eq!(of(&syn[..14 + 20 + 8]), "[] tcp 10.0.0.2:41000 > 192.0.2.1:80  ", "the flags are not there");
        assert_eq!(of(&syn[..20]), "[] ethertype 0x0800  >   ");
        assert_eq!(of(&syn[..5]), "[] a torn frame  >   ");
        let mut tagged = Vec::new();
        let tags = ethernet().double_vlan(VlanId::try_new(7).unwrap(), VlanId::try_new(8).unwrap());
        tags.ipv6([0xfd; 16], [0xfe; 16], 64).udp(5, 53).write(&mut tagged, &[1, 2]).unwrap();
        let (source, destination) = ("fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd", "fefe:fefe:fefe:fefe:fefe:fefe:fefe:fefe");
        assert_eq!(of(&tagged), format!("[7, 8] udp [{source}]:5 > [{destination}]:53  "));
        let mut later = syn.clone();
        later[20..22].copy_from_slice(&[0, 1]);
        assert_eq!(of(&later), "[] tcp 10.0.0.2 > 192.0.2.1  later");
    }

    #[test]
    fn an_icmp_error_is_told_with_what_it_is_about() {
        let mut quoted = Vec::new();
        PacketBuilder::ipv4([192, 0, 2, 1], [10, 0, 0, 2], 64).tcp(80, 41000, 0, 0).ack(1).write(&mut quoted, &[]).unwrap();
        let mut frame = Vec::new();
        let error = PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 9, 9, 9], [192, 0, 2, 1], 64).icmpv4_raw(3, 4, [0; 4]);
        // As few bytes as RFC 792 has.
        error.write(&mut frame, &quoted[..28]).unwrap();
        let summary = Summary::of_frame(&frame);
        assert_eq!(summary.flags, "fragmentation needed");
        let about = summary.about.unwrap();
        assert_eq!((about.source.as_deref(), about.destination.as_deref()), (Some("192.0.2.1:80"), Some("10.0.0.2:41000")));
    }
}
