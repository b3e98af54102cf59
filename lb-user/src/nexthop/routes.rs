//! Routes: one address at a time is asked for, and events tell which addresses to ask for again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use rustix::io::Errno;

use super::wire::{self, Body};

pub const RTM_NEWROUTE: u16 = 24;
pub const RTM_DELROUTE: u16 = 25;
pub const RTM_GETROUTE: u16 = 26;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
/// A gateway of the other family, as in `ip route add 10.0.0.0/8 via inet6 fe80::1 dev eth0`.
const RTA_VIA: u16 = 18;

const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTM_F_CLONED: u32 = 0x200;

/// `struct rtmsg`: family, destination length, source length, tos, table, protocol, scope, type, flags (32 bits).
const HEADER_LEN: usize = 12;

/// Where the kernel would send packets for an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// `neighbour` is the gateway, or the address itself where it is in the interface's own network.
    Via {
        ifindex: u32,
        neighbour: IpAddr,
    },
    /// To this host.
    Local,
    /// Blackhole, unreachable, prohibit, broadcast, multicast.
    Unreachable,
    None,
}

/// What to ask, as `ip route get` does.
pub fn question(address: IpAddr) -> Body {
    let mut header = [0; HEADER_LEN];
    header[0] = wire::family(address);
    header[1] = if address.is_ipv4() { 32 } else { 128 };
    Body::new(&header).address(RTA_DST, address)
}

/// Reads the answer for `address`. `None` where it makes no sense.
pub fn parse(address: IpAddr, body: &[u8]) -> Option<Route> {
    let (header, rest) = body.split_first_chunk::<HEADER_LEN>()?;
    match header[7] {
        RTN_UNICAST => {}
        RTN_LOCAL => return Some(Route::Local),
        _ => return Some(Route::Unreachable),
    }
    let (mut ifindex, mut neighbour) = (None, address);
    for (kind, value) in wire::attributes(rest) {
        match kind {
            RTA_OIF => ifindex = wire::u32_at(value, 0),
            RTA_GATEWAY => neighbour = wire::address(value)?,
            // The gateway's family comes first, in two bytes.
            RTA_VIA => neighbour = wire::address(value.get(2..)?)?,
            _ => {}
        }
    }
    Some(Route::Via { ifindex: ifindex?, neighbour })
}

/// Reads a refusal: the kernel answers so where there is no route, and for IPv4 routes that lead nowhere. `None` for
/// errors that say nothing of the route.
pub fn parse_refusal(error: &io::Error) -> Option<Route> {
    match Errno::from_io_error(error)? {
        Errno::NETUNREACH => Some(Route::None),
        Errno::HOSTUNREACH | Errno::ACCESS | Errno::INVAL => Some(Route::Unreachable),
        _ => None,
    }
}

/// Which addresses an event about a route may concern: those in its destination. `None` where it makes no sense, or is
/// about a cached answer to a lookup.
pub fn concerns(body: &[u8]) -> Option<RangeInclusive<IpAddr>> {
    let (header, rest) = body.split_first_chunk::<HEADER_LEN>()?;
    if wire::u32_at(header, 8)? & RTM_F_CLONED != 0 {
        return None;
    }
    let destination = wire::attributes(rest).find(|(kind, _)| *kind == RTA_DST).and_then(|(_, value)| wire::address(value));
    let len = u32::from(header[1]);
    match (header[0], destination) {
        (wire::AF_INET, None) => Some(range_v4(Ipv4Addr::UNSPECIFIED, 0)),
        (wire::AF_INET6, None) => Some(range_v6(Ipv6Addr::UNSPECIFIED, 0)),
        (wire::AF_INET, Some(IpAddr::V4(v4))) => Some(range_v4(v4, len)),
        (wire::AF_INET6, Some(IpAddr::V6(v6))) => Some(range_v6(v6, len)),
        _ => None,
    }
}

fn range_v4(address: Ipv4Addr, len: u32) -> RangeInclusive<IpAddr> {
    let host = u32::MAX.checked_shr(len).unwrap_or(0);
    let bits = address.to_bits();
    Ipv4Addr::from_bits(bits & !host).into()..=Ipv4Addr::from_bits(bits | host).into()
}

fn range_v6(address: Ipv6Addr, len: u32) -> RangeInclusive<IpAddr> {
    let host = u128::MAX.checked_shr(len).unwrap_or(0);
    let bits = address.to_bits();
    Ipv6Addr::from_bits(bits & !host).into()..=Ipv6Addr::from_bits(bits | host).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn body(family: u8, len: u8, kind: u8) -> Body {
        Body::new(&[family, len, 0, 0, 254, 0, 0, kind, 0, 0, 0, 0])
    }

    #[test]
    fn a_route_names_the_gateway_or_the_address_itself() {
        let oif = 7u32.to_ne_bytes();
        let v6_gateway = [&[10, 0][..], &"fe80::1".parse::<Ipv6Addr>().unwrap().octets()].concat();
        let direct = body(wire::AF_INET, 32, RTN_UNICAST).attribute(RTA_OIF, &oif);
        for (description, answer, expected) in [
            ("direct", direct.clone(), Some(Route::Via { ifindex: 7, neighbour: ip("10.0.0.9") })),
            (
                "by a gateway",
                direct.clone().address(RTA_GATEWAY, ip("10.0.0.1")),
                Some(Route::Via { ifindex: 7, neighbour: ip("10.0.0.1") }),
            ),
            (
                "by a gateway of the other family",
                direct.attribute(RTA_VIA, &v6_gateway),
                Some(Route::Via { ifindex: 7, neighbour: ip("fe80::1") }),
            ),
            ("to this host", body(wire::AF_INET, 32, RTN_LOCAL).attribute(RTA_OIF, &oif), Some(Route::Local)),
            ("blackhole", body(wire::AF_INET6, 128, 6), Some(Route::Unreachable)),
            ("without an interface", body(wire::AF_INET, 32, RTN_UNICAST), None),
        ] {
            assert_eq!(parse(ip("10.0.0.9"), answer.bytes()), expected, "{description}");
        }
        assert_eq!(parse(ip("10.0.0.9"), &[2, 32]), None);
    }

    #[test]
    fn a_route_event_concerns_the_addresses_in_its_destination() {
        let v4 = body(wire::AF_INET, 20, RTN_UNICAST).address(RTA_DST, ip("10.1.16.0"));
        assert_eq!(concerns(v4.bytes()), Some(ip("10.1.16.0")..=ip("10.1.31.255")));
        let v6 = body(wire::AF_INET6, 64, RTN_UNICAST).address(RTA_DST, ip("2001:db8::"));
        assert_eq!(concerns(v6.bytes()), Some(ip("2001:db8::")..=ip("2001:db8::ffff:ffff:ffff:ffff")));
        let default = body(wire::AF_INET, 0, RTN_UNICAST);
        assert_eq!(concerns(default.bytes()), Some(ip("0.0.0.0")..=ip("255.255.255.255")));
        let host = body(wire::AF_INET6, 128, RTN_LOCAL).address(RTA_DST, ip("2001:db8::1"));
        assert_eq!(concerns(host.bytes()), Some(ip("2001:db8::1")..=ip("2001:db8::1")));
        let odd_len = body(wire::AF_INET, 200, RTN_UNICAST).address(RTA_DST, ip("10.0.0.1"));
        assert_eq!(concerns(odd_len.bytes()), Some(ip("10.0.0.1")..=ip("10.0.0.1")));
    }
}
