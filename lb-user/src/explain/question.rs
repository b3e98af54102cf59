//! Which packet is asked about, and the packet itself.

use std::net::{IpAddr, SocketAddr};

use etherparse::PacketBuilder;

use super::frame::Frame;
use crate::desired::Protocol;

/// What a packet has left of its hops, unless it is said.
pub const TTL_DEFAULT: u8 = 64;

const IPV4_LEN: u16 = 20;
const IPV6_LEN: u16 = 40;
const TCP_LEN: u16 = 20;
const UDP_LEN: u16 = 8;

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
}

/// Why there is no such packet.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Senseless {
    #[error("{client} and {vip} are of different families: no packet goes from one to the other")]
    Families { client: IpAddr, vip: IpAddr },
    #[error("udp has no SYN; ask without it, or about tcp")]
    SynOfUdp,
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
    /// The length of the IP packet in bytes.
    ///
    /// # Errors
    /// It would be less than that of its headers.
    pub fn length(&self) -> Result<u16, Senseless> {
        let ip = if self.vip.is_ipv4() { IPV4_LEN } else { IPV6_LEN };
        let least = ip
            + match self.protocol {
                Protocol::Tcp => TCP_LEN,
                Protocol::Udp => UDP_LEN,
            };
        match self.length {
            Some(length) if length < least => Err(Senseless::TooShort { length, least }),
            Some(length) => Ok(length),
            None => Ok(least),
        }
    }

    /// The packet, untagged, as it comes in on an interface.
    ///
    /// # Errors
    /// There is no such packet.
    pub fn frame(&self, ingress: u32) -> Result<Frame, Senseless> {
        let ethernet = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        let ip = match (self.client.ip(), self.vip.ip()) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => ethernet.ipv4(client.octets(), vip.octets(), self.ttl),
            (IpAddr::V6(client), IpAddr::V6(vip)) => ethernet.ipv6(client.octets(), vip.octets(), self.ttl),
            (client, vip) => return Err(Senseless::Families { client, vip }),
        };
        let least = Self { length: None, ..self.clone() }.length()?;
        let payload = vec![0; usize::from(self.length()? - least)];
        let (source, destination) = (self.client.port(), self.vip.port());
        let mut bytes = Vec::new();
        let built = match self.protocol {
            Protocol::Udp if self.syn => return Err(Senseless::SynOfUdp),
            Protocol::Udp => ip.udp(source, destination).write(&mut bytes, &payload),
            Protocol::Tcp => {
                let tcp = ip.tcp(source, destination, 0, 0);
                let tcp = if self.syn { tcp.syn() } else { tcp.ack(1) };
                tcp.write(&mut bytes, &payload)
            }
        };
        built.map_err(|error| Senseless::Unbuildable { reason: error.to_string() })?;
        Ok(Frame::new(&bytes, ingress))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn question(client: &str, vip: &str, protocol: Protocol) -> Question {
        let endpoint = |text: &str| text.parse().unwrap();
        let (client, vip) = (endpoint(client), endpoint(vip));
        Question { client, vip, protocol, syn: false, interface: None, ttl: TTL_DEFAULT, length: None }
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
    }
}
