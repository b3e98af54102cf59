//! Which packet is asked about, and the packet itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use etherparse::{
    EtherType, Ethernet2Header, IpFragOffset, IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions,
    Ipv6FragmentHeader, Ipv6Header, PacketBuilder, VlanId,
};
use serde::Serialize;

use super::frame::Frame;
use crate::desired::Protocol;

/// What a packet has left of its hops, unless it is said.
pub const TTL_DEFAULT: u8 = 64;

const IPV4_LEN: u16 = 20;
const IPV6_LEN: u16 = 40;
const TCP_LEN: u16 = 20;
const UDP_LEN: u16 = 8;
/// Of the tags of a frame; xlb looks past as many.
const TAG_LEN: usize = 4;
const LINK_LEN: usize = 14;
/// Of an ICMP error, without what it quotes.
const ERROR_LEN: u16 = 8;
/// What comes with a later fragment: no ports, and no less than a unit of the offset.
const FRAGMENT_PAYLOAD_LEN: u16 = 8;
const FRAGMENT_HEADER_LEN: u16 = 8;
/// The first byte of QUIC's short header, and the least that follows its connection ID.
const QUIC_SHORT_HEADER: u8 = 0x40;
const QUIC_REST_LEN: usize = 20;

/// A packet, as it arrives.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub protocol: Protocol,
    /// It opens a connection; otherwise one of TCP has the ACK flag alone.
    pub syn: bool,
    /// Where it comes in; on the first of `xdp.interfaces` unless said.
    pub interface: Option<String>,
    pub ttl: u8,
    /// Of the IP packet, in bytes; no payload unless said.
    pub length: Option<u16>,
    /// The tags before it, the outermost first; two at most.
    pub vlans: Vec<u16>,
    /// It is a later fragment of the packet with this identification: without ports, of which the question's are not in it.
    pub fragment: Option<u32>,
    /// It is an ICMP error about a packet from `vip` to `client`, for `vip`'s address.
    pub error: Option<IcmpError>,
    /// It is QUIC, with a short header and this connection ID.
    pub connection_id: Option<ConnectionId>,
}

/// A QUIC connection ID, of 1 to 20 bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectionId(Vec<u8>);

impl ConnectionId {
    /// A packet of a connection that has it, with what QUIC asks for at least after it (RFC 9000 section 10.3).
    fn packet(&self) -> Vec<u8> {
        [&[QUIC_SHORT_HEADER][..], &self.0, &[0; QUIC_REST_LEN]].concat()
    }
}

impl FromStr for ConnectionId {
    type Err = &'static str;

    fn from_str(digits: &str) -> Result<Self, &'static str> {
        const HELP: &str = "a connection ID has 1 to 20 bytes, two hexadecimal digits each";
        let id = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| HELP)?;
        if (1..=20).contains(&id.len()) { Ok(Self(id)) } else { Err(HELP) }
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl Serialize for ConnectionId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An ICMP error about a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct IcmpError {
    pub kind: ErrorKind,
    /// The router that it is from, or the client itself.
    pub from: IpAddr,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorKind {
    Unreachable,
    TooBig,
    TimeExceeded,
}

impl ErrorKind {
    /// Type and code of ICMP (RFC 792), or of ICMPv6 (RFC 4443).
    fn numbers(self, is_v4: bool) -> (u8, u8) {
        match (self, is_v4) {
            (Self::Unreachable, true) => (3, 1),
            (Self::TooBig, true) => (3, 4),
            (Self::TimeExceeded, true) => (11, 0),
            (Self::Unreachable, false) => (1, 3),
            (Self::TooBig, false) => (2, 0),
            (Self::TimeExceeded, false) => (3, 0),
        }
    }
}

/// Why there is no such packet.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Senseless {
    #[error("{client} and {vip} are of different families: no packet goes from one to the other")]
    Families { client: IpAddr, vip: IpAddr },
    #[error("udp has no SYN; ask without it, or about tcp")]
    SynOfUdp,
    #[error("QUIC is UDP; ask about udp, or without the connection ID")]
    ConnectionIdOfTcp,
    #[error("a later fragment and an ICMP error carry no connection ID; ask without it")]
    ConnectionIdOfNone,
    #[error("a later fragment and an ICMP error carry no TCP header; ask without the SYN")]
    SynOfNone,
    #[error("an ICMP error that is a fragment is dropped, whatever it is about; ask about one of both")]
    FragmentOfError,
    #[error("{n} tags: xlb looks past two, and leaves a frame with more to the host")]
    Tags { n: usize },
    #[error("tag {id}: there are 0 to 4095")]
    Tag { id: u16 },
    #[error("identification {id}: one of IPv4 has 16 bits, 0 to 65535")]
    Identification { id: u32 },
    #[error("length {length}: with its headers such a packet has {least} bytes or more")]
    TooShort { length: u16, least: u16 },
    #[error("the program does not run on {interface:?}; it runs on {attached}")]
    Interface { interface: String, attached: String },
    #[error("the program runs on no interface: no packet reaches it")]
    Nowhere,
    #[error("such a packet cannot be made: {reason}")]
    Unbuildable { reason: String },
}

impl Question {
    /// An ordinary one: whole, untagged, and of a connection that is there.
    pub fn new(client: SocketAddr, vip: SocketAddr, protocol: Protocol) -> Self {
        Self {
            client,
            vip,
            protocol,
            syn: false,
            interface: None,
            ttl: TTL_DEFAULT,
            length: None,
            vlans: Vec::new(),
            fragment: None,
            error: None,
            connection_id: None,
        }
    }

    /// The length of the IP packet in bytes.
    ///
    /// # Errors
    /// It would be less than that of its headers.
    pub fn length(&self) -> Result<u16, Senseless> {
        let ip = if self.vip.is_ipv4() { IPV4_LEN } else { IPV6_LEN };
        let transport = match self.protocol {
            Protocol::Tcp => TCP_LEN,
            Protocol::Udp => UDP_LEN,
        };
        let least = match (self.fragment, self.error) {
            (_, Some(_)) => ip + ERROR_LEN + ip + transport,
            (Some(_), _) if self.vip.is_ipv4() => ip + FRAGMENT_PAYLOAD_LEN,
            (Some(_), _) => ip + FRAGMENT_HEADER_LEN + FRAGMENT_PAYLOAD_LEN,
            (None, None) => ip + transport + self.connection_id.as_ref().map_or(0, |id| id.packet().len() as u16),
        };
        match self.length {
            Some(length) if length < least => Err(Senseless::TooShort { length, least }),
            Some(length) => Ok(length),
            None => Ok(least),
        }
    }

    /// The packet as it comes in on an interface.
    ///
    /// # Errors
    /// There is no such packet.
    pub fn frame(&self, ingress: u32) -> Result<Frame, Senseless> {
        match self {
            Self { syn: true, protocol: Protocol::Udp, .. } => return Err(Senseless::SynOfUdp),
            Self { fragment: Some(_), error: Some(_), .. } => return Err(Senseless::FragmentOfError),
            Self { syn: true, fragment: Some(_), .. } | Self { syn: true, error: Some(_), .. } => {
                return Err(Senseless::SynOfNone);
            }
            Self { connection_id: Some(_), protocol: Protocol::Tcp, .. } => return Err(Senseless::ConnectionIdOfTcp),
            Self { connection_id: Some(_), fragment: Some(_), .. } | Self { connection_id: Some(_), error: Some(_), .. } => {
                return Err(Senseless::ConnectionIdOfNone);
            }
            Self { vlans, .. } if vlans.len() > lb_common::limits::VLAN_TAGS => return Err(Senseless::Tags { n: vlans.len() }),
            _ => {}
        }
        let least = Self { length: None, ..self.clone() }.length()?;
        let padding = vec![0; usize::from(self.length()? - least)];
        let packet = match (self.fragment, self.error) {
            (Some(identification), _) => self.later_fragment(identification, &padding)?,
            (None, Some(error)) => self.icmp_error(error, &padding)?,
            (None, None) => {
                let payload = [self.connection_id.as_ref().map(ConnectionId::packet).unwrap_or_default(), padding].concat();
                segment(self.client, self.vip, self.ttl, self.protocol, self.syn, &payload)?
            }
        };
        Ok(Frame::new(&self.tagged(&packet)?, ingress))
    }

    /// The packet after a link header, with tags.
    fn tagged(&self, packet: &[u8]) -> Result<Vec<u8>, Senseless> {
        let ethertype = if self.vip.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let header = Ethernet2Header { source: [2, 0, 0, 0, 0, 1], destination: [2, 0, 0, 0, 0, 2], ether_type: ethertype };
        let mut bytes = header.to_bytes().to_vec();
        for (n, &id) in self.vlans.iter().enumerate() {
            let id = VlanId::try_new(id).map_err(|_| Senseless::Tag { id })?;
            let is_outer = n + 1 < self.vlans.len();
            let kind = if is_outer { EtherType::PROVIDER_BRIDGING } else { EtherType::VLAN_TAGGED_FRAME };
            let tag = [kind.0.to_be_bytes(), id.value().to_be_bytes()].concat();
            let at = LINK_LEN - 2 + n * TAG_LEN;
            bytes.splice(at..at, tag);
        }
        bytes.extend_from_slice(packet);
        Ok(bytes)
    }

    fn later_fragment(&self, identification: u32, padding: &[u8]) -> Result<Vec<u8>, Senseless> {
        let number = IpNumber(self.protocol.number());
        let offset = IpFragOffset::try_new(1).unwrap_or_default();
        let headers = match (self.client.ip(), self.vip.ip()) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                let identification = identification.try_into().map_err(|_| Senseless::Identification { id: identification })?;
                let header = Ipv4Header {
                    identification,
                    time_to_live: self.ttl,
                    fragment_offset: offset,
                    source: client.octets(),
                    destination: vip.octets(),
                    ..Ipv4Header::default()
                };
                IpHeaders::Ipv4(header, Ipv4Extensions::default())
            }
            (IpAddr::V6(client), IpAddr::V6(vip)) => {
                let fragment =
                    Ipv6FragmentHeader { next_header: number, fragment_offset: offset, more_fragments: false, identification };
                let header = Ipv6Header {
                    hop_limit: self.ttl,
                    source: client.octets(),
                    destination: vip.octets(),
                    ..Ipv6Header::default()
                };
                IpHeaders::Ipv6(header, Ipv6Extensions { fragment: Some(fragment), ..Ipv6Extensions::default() })
            }
            (client, vip) => return Err(Senseless::Families { client, vip }),
        };
        let mut bytes = Vec::new();
        let payload = [vec![0; FRAGMENT_PAYLOAD_LEN.into()].as_slice(), padding].concat();
        PacketBuilder::ip(headers).write(&mut bytes, number, &payload).map_err(unbuildable)?;
        Ok(bytes)
    }

    fn icmp_error(&self, IcmpError { kind, from }: IcmpError, padding: &[u8]) -> Result<Vec<u8>, Senseless> {
        // What it is about has come from there, and gone the other way.
        let quoted = segment(self.vip, self.client, self.ttl, self.protocol, false, padding)?;
        let mut bytes = Vec::new();
        let built = match (from, self.vip.ip()) {
            (IpAddr::V4(from), IpAddr::V4(vip)) => {
                let (kind, code) = kind.numbers(true);
                let ip = PacketBuilder::ipv4(from.octets(), vip.octets(), self.ttl);
                ip.icmpv4_raw(kind, code, [0; 4]).write(&mut bytes, &quoted)
            }
            (IpAddr::V6(from), IpAddr::V6(vip)) => {
                let (kind, code) = kind.numbers(false);
                let ip = PacketBuilder::ipv6(from.octets(), vip.octets(), self.ttl);
                ip.icmpv6_raw(kind, code, [0; 4]).write(&mut bytes, &quoted)
            }
            (client, vip) => return Err(Senseless::Families { client, vip }),
        };
        built.map_err(unbuildable)?;
        Ok(bytes)
    }
}

/// A packet of TCP or UDP.
fn segment(
    from: SocketAddr,
    to: SocketAddr,
    ttl: u8,
    protocol: Protocol,
    is_syn: bool,
    payload: &[u8],
) -> Result<Vec<u8>, Senseless> {
    let ip = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), ttl),
        (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), ttl),
        (client, vip) => return Err(Senseless::Families { client, vip }),
    };
    let mut bytes = Vec::new();
    let built = match protocol {
        Protocol::Udp => ip.udp(from.port(), to.port()).write(&mut bytes, payload),
        Protocol::Tcp => {
            let tcp = ip.tcp(from.port(), to.port(), 0, 0);
            let tcp = if is_syn { tcp.syn() } else { tcp.ack(1) };
            tcp.write(&mut bytes, payload)
        }
    };
    built.map_err(unbuildable)?;
    Ok(bytes)
}

fn unbuildable(error: impl std::fmt::Display) -> Senseless {
    Senseless::Unbuildable { reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(client: &str, vip: &str, protocol: Protocol) -> Question {
        let endpoint = |text: &str| text.parse().unwrap();
        let (client, vip) = (endpoint(client), endpoint(vip));
        Question::new(client, vip, protocol)
    }

    #[test]
    fn a_packet_has_the_length_that_is_asked_for_and_never_less_than_its_headers() {
        for (client, vip, protocol, least) in [
            ("1.2.3.4:5", "10.0.0.1:80", Protocol::Tcp, 40),
            ("1.2.3.4:5", "10.0.0.1:80", Protocol::Udp, 28),
            ("[fd00::5]:5", "[fd00::1]:80", Protocol::Tcp, 60),
            ("[fd00::5]:5", "[fd00::1]:80", Protocol::Udp, 48),
        ] {
            let of_length = |length| Question { length, ..question(client, vip, protocol) };
            let frame_len = |length| of_length(length).frame(1).map(|frame| (frame.bytes().len() - 14) as u16);
            assert_eq!(frame_len(None), Ok(least));
            assert_eq!(frame_len(Some(least)), Ok(least));
            assert_eq!(frame_len(Some(u16::MAX)), Ok(u16::MAX));
            assert_eq!(frame_len(Some(least - 1)), Err(Senseless::TooShort { length: least - 1, least }));
        }
    }

    #[test]
    fn packets_that_cannot_be_are_refused() {
        let families = question("1.2.3.4:5", "[fd00::1]:80", Protocol::Tcp).frame(1).map(|_| ()).unwrap_err();
        assert_eq!(families.to_string(), "1.2.3.4 and fd00::1 are of different families: no packet goes from one to the other");
        let syn = Question { syn: true, ..question("1.2.3.4:5", "10.0.0.1:80", Protocol::Udp) };
        assert_eq!(syn.frame(1).map(|_| ()), Err(Senseless::SynOfUdp));
        let tcp = || question("1.2.3.4:5", "10.0.0.1:80", Protocol::Tcp);
        let error = Some(IcmpError { kind: ErrorKind::TooBig, from: "1.2.3.9".parse().unwrap() });
        for (question, senseless) in [
            (Question { vlans: vec![1, 2, 3], ..tcp() }, Senseless::Tags { n: 3 }),
            (Question { vlans: vec![4096], ..tcp() }, Senseless::Tag { id: 4096 }),
            (Question { fragment: Some(65_536), ..tcp() }, Senseless::Identification { id: 65_536 }),
            (Question { fragment: Some(1), error, ..tcp() }, Senseless::FragmentOfError),
            (Question { error, syn: true, ..tcp() }, Senseless::SynOfNone),
        ] {
            assert_eq!(question.frame(1).map(|_| ()), Err(senseless));
        }
    }

    #[test]
    fn errors_fragments_and_tagged_frames_are_what_another_parser_takes_them_for() {
        let summary = |question: &Question| crate::trace::Summary::of_frame(question.frame(1).unwrap().bytes());
        for (client, vip, router) in [("1.2.3.4:5", "10.0.0.1:80", "1.2.3.9"), ("[fd00::5]:5", "[fd00::1]:80", "fd00::9")] {
            let plain = || question(client, vip, Protocol::Tcp);
            let tagged = summary(&Question { vlans: vec![7, 8], ..plain() });
            assert_eq!((tagged.vlans, tagged.destination.as_deref()), (vec![7, 8], Some(vip)));
            let later = summary(&Question { fragment: Some(9), ..plain() });
            assert_eq!((later.protocol.as_str(), later.fragment), ("tcp", Some("later")));
            for (kind, words) in [(ErrorKind::Unreachable, "unreachable"), (ErrorKind::TimeExceeded, "time exceeded")] {
                let error = Some(IcmpError { kind, from: router.parse().unwrap() });
                let told = summary(&Question { error, ..plain() });
                assert_eq!((told.source.as_deref(), told.flags.as_str()), (Some(router), words));
                let about = told.about.unwrap();
                assert_eq!((about.source.as_deref(), about.destination.as_deref()), (Some(vip), Some(client)));
            }
            for question in [Question { fragment: Some(9), ..plain() }, Question { vlans: vec![7], ..plain() }] {
                let length = question.length().unwrap();
                assert_eq!(question.frame(1).unwrap().bytes().len(), 14 + 4 * question.vlans.len() + usize::from(length));
            }
        }
    }
}
