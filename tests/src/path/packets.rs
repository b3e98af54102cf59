//! Frames, built by another implementation than ours: checksums come from etherparse, computed in full.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, PacketBuilder, PacketBuilderStep, VlanId};

pub type Mac = [u8; 6];

/// A frame to be built. Fields not set have sensible values.
#[derive(Clone, Debug)]
pub struct Frame {
    pub macs: (Mac, Mac),
    pub vlans: Vec<u16>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub ttl: u8,
    pub ipv4_options: Vec<u8>,
    pub tcp_options: Vec<u8>,
    pub content: Content,
}

#[derive(Clone, Debug)]
pub enum Content {
    Tcp {
        flags: Flags,
        payload: Vec<u8>,
    },
    Udp {
        payload: Vec<u8>,
    },
    EchoRequest {
        payload: Vec<u8>,
    },
    EchoReply {
        payload: Vec<u8>,
    },
    /// Type and code, what follows the checksum, and the packet that it is about.
    Error {
        kind: (u8, u8),
        word: u32,
        quoted: Vec<u8>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flags {
    Syn,
    SynAck,
    Ack,
    Fin,
    Rst,
}

/// A frame between two endpoints, from a client's gateway to the balancer.
pub fn frame(source: &str, destination: &str, content: Content) -> Frame {
    let endpoint = |text: &str| {
        let with_port = text.parse().or_else(|_| text.parse().map(|address: IpAddr| SocketAddr::new(address, 0)));
        with_port.expect("ADDRESS or ADDRESS:PORT")
    };
    Frame {
        macs: (super::fixture::GATEWAY, super::fixture::OURS),
        vlans: Vec::new(),
        source: endpoint(source),
        destination: endpoint(destination),
        ttl: 64,
        ipv4_options: Vec::new(),
        tcp_options: Vec::new(),
        content,
    }
}

pub fn tcp(flags: Flags) -> Content {
    Content::Tcp { flags, payload: b"hello".to_vec() }
}

pub fn udp() -> Content {
    Content::Udp { payload: b"question".to_vec() }
}

impl Frame {
    /// From this link-layer address to that.
    pub fn macs(mut self, source: Mac, destination: Mac) -> Self {
        self.macs = (source, destination);
        self
    }

    /// Tagged, the outer tag first.
    pub fn vlans(mut self, ids: &[u16]) -> Self {
        self.vlans = ids.to_vec();
        self
    }

    pub fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    pub fn from(mut self, endpoint: &str) -> Self {
        self.source = endpoint.parse().expect("ADDRESS:PORT");
        self
    }

    pub fn to(mut self, endpoint: &str) -> Self {
        self.destination = endpoint.parse().expect("ADDRESS:PORT");
        self
    }

    /// With IPv4 options: a multiple of 4 bytes.
    pub fn options(mut self, options: &[u8]) -> Self {
        self.ipv4_options = options.to_vec();
        self
    }

    /// With TCP options: a multiple of 4 bytes.
    pub fn tcp_options(mut self, options: &[u8]) -> Self {
        self.tcp_options = options.to_vec();
        self
    }

    /// The bytes, checksums and all.
    pub fn bytes(&self) -> Vec<u8> {
        let (source, destination) = self.macs;
        let ethernet = PacketBuilder::ethernet2(source, destination);
        let vlan = |id: u16| VlanId::try_new(id).expect("12 bits");
        let ip = match *self.vlans {
            [] => self.ip(ethernet),
            [id] => self.ip_tagged(ethernet.single_vlan(vlan(id))),
            [outer, inner] => self.ip_tagged(ethernet.double_vlan(vlan(outer), vlan(inner))),
            _ => panic!("at most two tags"),
        };
        self.content(ip)
    }

    fn ip(&self, builder: PacketBuilderStep<etherparse::Ethernet2Header>) -> PacketBuilderStep<etherparse::IpHeaders> {
        builder.ip(self.ip_headers())
    }

    fn ip_tagged(&self, builder: PacketBuilderStep<etherparse::VlanHeader>) -> PacketBuilderStep<etherparse::IpHeaders> {
        builder.ip(self.ip_headers())
    }

    fn ip_headers(&self) -> etherparse::IpHeaders {
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let protocol = etherparse::IpNumber::TCP;
                let mut header = etherparse::Ipv4Header::new(0, self.ttl, protocol, source.octets(), destination.octets())
                    .expect("an empty payload fits");
                header.options = self.ipv4_options.as_slice().try_into().expect("a multiple of 4 bytes");
                header.dont_fragment = true;
                etherparse::IpHeaders::Ipv4(header, Default::default())
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let header = etherparse::Ipv6Header {
                    hop_limit: self.ttl,
                    source: source.octets(),
                    destination: destination.octets(),
                    ..Default::default()
                };
                etherparse::IpHeaders::Ipv6(header, Default::default())
            }
            _ => panic!("one family"),
        }
    }

    fn content(&self, builder: PacketBuilderStep<etherparse::IpHeaders>) -> Vec<u8> {
        let mut bytes = Vec::new();
        let (from, to) = (self.source.port(), self.destination.port());
        let is_v4 = self.source.is_ipv4();
        match &self.content {
            Content::Tcp { flags, payload } => {
                let tcp = builder.tcp(from, to, 1000, 4096);
                let tcp = match flags {
                    Flags::Syn => tcp.syn(),
                    Flags::SynAck => tcp.syn().ack(7),
                    Flags::Ack => tcp.ack(7),
                    Flags::Fin => tcp.fin().ack(7),
                    Flags::Rst => tcp.rst(),
                };
                let tcp = tcp.options_raw(&self.tcp_options).expect("a multiple of 4 bytes");
                tcp.write(&mut bytes, payload)
            }
            Content::Udp { payload } => builder.udp(from, to).write(&mut bytes, payload),
            Content::EchoRequest { payload } if is_v4 => builder.icmpv4_echo_request(7, 1).write(&mut bytes, payload),
            Content::EchoRequest { payload } => builder.icmpv6_echo_request(7, 1).write(&mut bytes, payload),
            Content::EchoReply { payload } if is_v4 => builder.icmpv4_echo_reply(7, 1).write(&mut bytes, payload),
            Content::EchoReply { payload } => builder.icmpv6_echo_reply(7, 1).write(&mut bytes, payload),
            Content::Error { kind: (kind, code), word, quoted } if is_v4 => {
                builder.icmpv4_raw(*kind, *code, word.to_be_bytes()).write(&mut bytes, quoted)
            }
            Content::Error { kind: (kind, code), word, quoted } => {
                builder.icmpv6_raw(*kind, *code, word.to_be_bytes()).write(&mut bytes, quoted)
            }
        }
        .expect("writing to memory");
        bytes
    }

    /// Offset of the network header.
    pub fn l3(&self) -> usize {
        14 + 4 * self.vlans.len()
    }

    /// Offset of the transport header.
    pub fn l4(&self) -> usize {
        self.l3() + if self.source.is_ipv4() { 20 + self.ipv4_options.len() } else { 40 }
    }
}

/// A tunnel's outer header.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Of GUE, both ports.
    pub ports: Option<(u16, u16)>,
    /// Of IPv6.
    pub flow_label: u32,
}

/// The frame with the packet that starts at `l3` in another one.
pub fn encapsulated(bytes: &[u8], l3: usize, outer: Outer) -> Vec<u8> {
    let packet = &bytes[l3..];
    let is_v4 = packet[0] >> 4 == 4;
    let class = if is_v4 { packet[1] } else { packet[0] << 4 | packet[1] >> 4 };
    let mut inside = Vec::new();
    let mut protocol = if is_v4 { etherparse::IpNumber::IPV4 } else { etherparse::IpNumber::IPV6 };
    if let Some((from, to)) = outer.ports {
        let header = etherparse::UdpHeader::without_ipv4_checksum(from, to, packet.len()).expect("it fits");
        inside.extend(header.to_bytes());
        protocol = etherparse::IpNumber::UDP;
    }
    inside.extend(packet);
    let mut frame = bytes[..l3 - 2].to_vec();
    match (outer.source, outer.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let len = inside.len().try_into().expect("it fits");
            let mut header =
                etherparse::Ipv4Header::new(len, 64, protocol, source.octets(), destination.octets()).expect("it fits");
            header.dont_fragment = true;
            header.dscp = (class >> 2).try_into().expect("6 bits");
            header.ecn = (class & 3).try_into().expect("2 bits");
            header.header_checksum = header.calc_header_checksum();
            frame.extend(EtherType::IPV4.0.to_be_bytes());
            frame.extend(header.to_bytes());
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let header = etherparse::Ipv6Header {
                traffic_class: class,
                flow_label: outer.flow_label.try_into().expect("20 bits"),
                payload_length: inside.len().try_into().expect("it fits"),
                next_header: protocol,
                hop_limit: 64,
                source: source.octets(),
                destination: destination.octets(),
            };
            frame.extend(EtherType::IPV6.0.to_be_bytes());
            frame.extend(header.to_bytes());
        }
        _ => panic!("one family"),
    }
    frame.extend(inside);
    frame
}

/// The frame with some bytes replaced.
pub fn patched(mut bytes: Vec<u8>, at: usize, patch: &[u8]) -> Vec<u8> {
    bytes[at..at + patch.len()].copy_from_slice(patch);
    bytes
}

/// The frame cut to this many bytes.
pub fn cut(mut bytes: Vec<u8>, len: usize) -> Vec<u8> {
    bytes.truncate(len);
    bytes
}

/// An IPv6 frame with extension headers of these protocol numbers between its header and its content, 8 bytes each.
pub fn with_extensions(bytes: &[u8], headers: &[u8]) -> Vec<u8> {
    let (l3, l4) = (14, 54);
    let mut frame = bytes[..l4].to_vec();
    let next_header = l3 + 6;
    let mut chain: Vec<u8> = headers.to_vec();
    chain.push(bytes[next_header]);
    frame[next_header] = chain[0];
    for &next in &chain[1..] {
        frame.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    frame.extend(&bytes[l4..]);
    let payload_len = (frame.len() - l4) as u16;
    patched(frame, l3 + 4, &payload_len.to_be_bytes())
}

/// A frame's packet in two fragments, cut `first_len` bytes, a multiple of 8, after its network header, which ends at `l4`. An
/// IPv6 packet has no extension headers.
pub fn fragments(bytes: &[u8], l4: usize, identification: u16, first_len: usize) -> [Vec<u8>; 2] {
    let (l3, cut) = (14, l4 + first_len);
    let fragment = |payload: &[u8], offset: usize, is_last: bool| {
        if bytes[l3] >> 4 == 4 {
            let (mut header, _) = etherparse::Ipv4Header::from_slice(&bytes[l3..]).expect("an IPv4 header");
            header.set_payload_len(payload.len()).expect("it fits");
            header.identification = identification;
            header.dont_fragment = false;
            header.more_fragments = !is_last;
            header.fragment_offset = u16::try_from(offset / 8).ok().and_then(|units| units.try_into().ok()).expect("13 bits");
            header.header_checksum = header.calc_header_checksum();
            return [&bytes[..l3], header.to_bytes().as_slice(), payload].concat();
        }
        let (mut header, _) = etherparse::Ipv6Header::from_slice(&bytes[l3..]).expect("an IPv6 header");
        let extension = etherparse::Ipv6FragmentHeader::new(
            header.next_header,
            u16::try_from(offset / 8).ok().and_then(|units| units.try_into().ok()).expect("13 bits"),
            !is_last,
            identification.into(),
        );
        header.next_header = etherparse::IpNumber::IPV6_FRAGMENTATION_HEADER;
        header.set_payload_length(8 + payload.len()).expect("it fits");
        [&bytes[..l3], header.to_bytes().as_slice(), extension.to_bytes().as_slice(), payload].concat()
    };
    [fragment(&bytes[l4..cut], 0, false), fragment(&bytes[cut..], first_len, true)]
}

/// An ARP request.
pub fn arp() -> Vec<u8> {
    let mut bytes = [[0xff; 6], super::fixture::GATEWAY].concat();
    bytes.extend(EtherType::ARP.0.to_be_bytes());
    bytes.extend([0, 1, 8, 0, 6, 4, 0, 1]);
    bytes.resize(60, 0);
    bytes
}
