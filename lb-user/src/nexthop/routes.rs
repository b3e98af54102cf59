//! Routes: one address at a time is asked for, and events tell which addresses to ask for again.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;

use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType, RouteVia};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rustix::io::Errno;

/// Where the kernel would send packets for an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// `neighbour` is the gateway, or the address itself where it is in the interface's own network.
    Via {
        ifindex: u32,
        neighbour: IpAddr,
        /// This host's own address there, of the family that was asked for.
        source: Option<IpAddr>,
        /// If the route has one of its own, or a smaller one was found out.
        mtu: Option<u32>,
    },
    /// To this host.
    Local,
    /// Blackhole, unreachable, prohibit, broadcast, multicast.
    Unreachable,
    None,
}

/// What to ask, as `ip route get` does.
pub fn question(address: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) =
        if address.is_ipv4() { (AddressFamily::Inet, 32) } else { (AddressFamily::Inet6, 128) };
    message.attributes = vec![RouteAttribute::Destination(address.into())];
    RouteNetlinkMessage::GetRoute(message)
}

/// Reads the answer for `address`. `None` where it makes no sense.
pub fn parse(address: IpAddr, answer: &RouteNetlinkMessage) -> Option<Route> {
    let RouteNetlinkMessage::NewRoute(RouteMessage { header, attributes, .. }) = answer else { return None };
    match header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Some(Route::Local),
        _ => return Some(Route::Unreachable),
    }
    let (mut ifindex, mut neighbour, mut source, mut mtu) = (None, address, None, None);
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(value) => ifindex = Some(*value),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
                neighbour = (*v4).into();
            }
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
                neighbour = (*v6).into();
            }
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => source = Some((*v4).into()),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) => source = Some((*v6).into()),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| if let RouteMetric::Mtu(mtu) = metric { Some(*mtu) } else { None });
            }
            _ => {}
        }
    }
    let source = source.filter(|source: &IpAddr| source.is_ipv4() == address.is_ipv4());
    Some(Route::Via { ifindex: ifindex?, neighbour, source, mtu })
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
pub fn concerns(route: &RouteMessage) -> Option<RangeInclusive<IpAddr>> {
    if route.header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let destination = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(destination) => Some(destination),
        _ => None,
    });
    let len = u32::from(route.header.destination_prefix_length);
    match (route.header.address_family, destination) {
        (AddressFamily::Inet, None) => Some(range_v4(Ipv4Addr::UNSPECIFIED, 0)),
        (AddressFamily::Inet6, None) => Some(range_v6(Ipv6Addr::UNSPECIFIED, 0)),
        (_, Some(RouteAddress::Inet(v4))) => Some(range_v4(*v4, len)),
        (_, Some(RouteAddress::Inet6(v6))) => Some(range_v6(*v6, len)),
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
    use crate::nexthop::message::received;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn route(family: AddressFamily, len: u8, kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        message.header.destination_prefix_length = len;
        message.header.kind = kind;
        message.attributes = attributes;
        message
    }

    #[test]
    fn a_route_names_the_gateway_or_the_address_itself() {
        use RouteAttribute::{Gateway, Metrics, Oif, PrefSource, Via};
        let via = |neighbour| Some(Route::Via { ifindex: 7, neighbour: ip(neighbour), source: None, mtu: None });
        let unicast = |attributes| route(AddressFamily::Inet, 32, RouteType::Unicast, attributes);
        let v6_gateway: Ipv6Addr = "fe80::1".parse().unwrap();
        for (description, answer, expected) in [
            ("direct", unicast(vec![Oif(7)]), via("10.0.0.9")),
            (
                "with our own address there, and an MTU",
                unicast(vec![Oif(7), PrefSource(ip("10.0.0.2").into()), Metrics(vec![RouteMetric::Mtu(1400)])]),
                Some(Route::Via { ifindex: 7, neighbour: ip("10.0.0.9"), source: Some(ip("10.0.0.2")), mtu: Some(1400) }),
            ),
            ("by a gateway", unicast(vec![Oif(7), Gateway(ip("10.0.0.1").into())]), via("10.0.0.1")),
            ("by a gateway of the other family", unicast(vec![Oif(7), Via(RouteVia::Inet6(v6_gateway))]), via("fe80::1")),
            ("to this host", route(AddressFamily::Inet, 32, RouteType::Local, vec![Oif(7)]), Some(Route::Local)),
            ("blackhole", route(AddressFamily::Inet6, 128, RouteType::BlackHole, Vec::new()), Some(Route::Unreachable)),
            ("without an interface", unicast(Vec::new()), None),
        ] {
            let answer = received(RouteNetlinkMessage::NewRoute(answer));
            assert_eq!(parse(ip("10.0.0.9"), &answer), expected, "{description}");
        }
    }

    #[test]
    fn a_route_event_concerns_the_addresses_in_its_destination() {
        use AddressFamily::{Inet, Inet6};
        for (family, len, destination, first, last) in [
            (Inet, 20, Some("10.1.16.0"), "10.1.16.0", "10.1.31.255"),
            (Inet6, 64, Some("2001:db8::"), "2001:db8::", "2001:db8::ffff:ffff:ffff:ffff"),
            (Inet, 0, None, "0.0.0.0", "255.255.255.255"),
            (Inet6, 128, Some("2001:db8::1"), "2001:db8::1", "2001:db8::1"),
            // A length that no address has.
            (Inet, 200, Some("10.0.0.1"), "10.0.0.1", "10.0.0.1"),
        ] {
            let attributes = destination.map(|address| RouteAttribute::Destination(ip(address).into()));
            let event = route(family, len, RouteType::Unicast, attributes.into_iter().collect());
            let RouteNetlinkMessage::DelRoute(event) = received(RouteNetlinkMessage::DelRoute(event)) else { panic!() };
            assert_eq!(concerns(&event), Some(ip(first)..=ip(last)), "{destination:?}/{len}");
        }
    }
}
