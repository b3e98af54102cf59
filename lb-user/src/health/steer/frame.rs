//! Frames on the way to a tunnel: how the kernel says in them which seat a probe is for, and how that is read.
//!
//! Of a packet with a mark, the device that it is sent to does not get to know the mark. It gets to know the link-layer address of
//! the gateway, and so each seat has a gateway of its own, which is nowhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Destination, source, and type.
const HEADER_LEN: usize = 14;
const TYPE_V4: [u8; 2] = [0x08, 0x00];
const TYPE_V6: [u8; 2] = [0x86, 0xdd];
/// Administered locally, of one station.
const MAC_PREFIX: [u8; 4] = [0x02, b'x', b'l', b'b'];
/// 240.0.0.1, in the block that nobody has (RFC 1112, section 4).
const FIRST_GATEWAY_V4: u32 = 0xf000_0001;

/// The largest packet that is taken, in bytes, and the device's MTU: the least that IPv6 asks for, so that every tunnel has room
/// for its headers where Ethernet does.
pub const PACKET_LEN_MAX: u16 = 1280;
/// A longer frame is cut, and then is not one.
pub const FRAME_LEN_MAX: usize = HEADER_LEN + PACKET_LEN_MAX as usize;

/// The link-layer address of a seat's gateways.
pub fn mac(number: u16) -> [u8; 6] {
    let [high, low] = number.to_be_bytes();
    let [a, b, c, d] = MAC_PREFIX;
    [a, b, c, d, high, low]
}

/// What a seat's table leads by, for packets of this family.
pub fn gateway(number: u16, is_v4: bool) -> IpAddr {
    match is_v4 {
        true => Ipv4Addr::from_bits(FIRST_GATEWAY_V4 + u32::from(number)).into(),
        false => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x786c, 0x6200, number).into(),
    }
}

/// A probe's packet, and whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Taken<'a> {
    pub number: u16,
    pub is_v4: bool,
    /// From its IP header on.
    pub packet: &'a [u8],
}

/// Takes a frame apart. `None` for all that is no whole IP packet to a seat, such as what the kernel itself says to a new link.
pub fn take(frame: &[u8]) -> Option<Taken<'_>> {
    let (header, packet) = frame.split_first_chunk::<HEADER_LEN>()?;
    let [a, b, c, d, high, low, _, _, _, _, _, _, kind @ ..] = *header;
    let is_v4 = match kind {
        TYPE_V4 => true,
        TYPE_V6 => false,
        _ => return None,
    };
    let is_whole = len(packet, is_v4) == Some(packet.len());
    ([a, b, c, d] == MAC_PREFIX && is_whole).then_some(Taken { number: u16::from_be_bytes([high, low]), is_v4, packet })
}

/// How long a packet says that it is, in bytes.
fn len(packet: &[u8], is_v4: bool) -> Option<usize> {
    const HEADER_LEN_V6: usize = 40;
    let word = |at: usize| packet.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_be_bytes(*bytes)));
    match (is_v4, packet.first()? >> 4) {
        (true, 4) => word(2),
        (false, 6) => word(4).map(|payload| payload + HEADER_LEN_V6),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4() -> Vec<u8> {
        let mut packet = vec![0; 24];
        (packet[0], packet[3]) = (0x45, 24);
        packet
    }

    fn v6() -> Vec<u8> {
        let mut packet = vec![0; 44];
        (packet[0], packet[5]) = (0x60, 4);
        packet
    }

    fn frame(destination: [u8; 6], kind: [u8; 2], packet: &[u8]) -> Vec<u8> {
        [&destination, [2; 6].as_slice(), &kind, packet].concat()
    }

    #[test]
    fn a_packet_is_whose_address_is_on_its_frame() {
        for number in [0, 1, 255, 256, 4095] {
            let (v4, v6) = (v4(), v6());
            let taken = |is_v4, packet| Some(Taken { number, is_v4, packet });
            assert_eq!(take(&frame(mac(number), TYPE_V4, &v4)), taken(true, v4.as_slice()));
            assert_eq!(take(&frame(mac(number), TYPE_V6, &v6)), taken(false, v6.as_slice()));
        }
    }

    #[test]
    fn what_is_no_whole_ip_packet_to_a_seat_is_left() {
        let longer = [v4(), vec![0]].concat();
        for (description, left) in [
            ("to all routers", frame([0x33, 0x33, 0, 0, 0, 2], TYPE_V6, &v6())),
            ("to everybody", frame([0xff; 6], TYPE_V4, &v4())),
            ("ARP", frame(mac(1), [0x08, 0x06], &[0; 28])),
            ("of the other family than it says", frame(mac(1), TYPE_V6, &v4())),
            ("of no family", frame(mac(1), TYPE_V4, &[0; 20])),
            ("cut", frame(mac(1), TYPE_V4, &v4()[..23])),
            ("cut before its length", frame(mac(1), TYPE_V4, &v4()[..3])),
            ("IPv6, cut", frame(mac(1), TYPE_V6, &v6()[..43])),
            ("with more behind it", frame(mac(1), TYPE_V4, &longer)),
            ("without a packet", frame(mac(1), TYPE_V4, &[])),
            ("without a type", mac(1).to_vec()),
            ("nothing", Vec::new()),
        ] {
            assert_eq!(take(&left), None, "{description}");
        }
    }

    #[test]
    fn no_two_seats_have_a_gateway_or_an_address_in_common() {
        use std::collections::BTreeSet;
        const N: usize = super::super::N_TABLES as usize;
        let numbers = || 0..N as u16;
        assert_eq!(numbers().map(mac).collect::<BTreeSet<_>>().len(), N);
        for is_v4 in [true, false] {
            assert_eq!(numbers().map(|number| gateway(number, is_v4)).collect::<BTreeSet<_>>().len(), N);
        }
        assert_eq!([gateway(0, true).to_string(), gateway(4095, true).to_string()], ["240.0.0.1", "240.0.16.0"]);
        assert_eq!(gateway(1, false).to_string(), "fe80::786c:6200:1");
    }
}
