//! Neighbours: which link-layer address answers for an address on a link.

use std::net::IpAddr;

use lb_common::MacAddr;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

/// A neighbour's place: its link, and its address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    pub ifindex: u32,
    pub address: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Neighbour {
    /// It answers, or did so when last asked, or is set by the administrator.
    Usable(MacAddr),
    /// As `Usable`, but unconfirmed for a while: the kernel will not check before somebody uses it.
    Stale(MacAddr),
    /// Being asked for.
    Incomplete,
    /// Did not answer.
    Failed,
    /// Never asked for, or forgotten.
    Unknown,
}

/// What to ask for one neighbour.
pub fn question(key: Key) -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetNeighbour(message(key, NeighbourFlags::empty()))
}

/// Tells the kernel that a neighbour is in use, which makes it resolve or confirm it.
pub fn usage(key: Key) -> RouteNetlinkMessage {
    RouteNetlinkMessage::NewNeighbour(message(key, NeighbourFlags::Use))
}

fn message(key: Key, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = if key.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    message.header.ifindex = key.ifindex;
    message.header.flags = flags;
    message.attributes = vec![NeighbourAttribute::Destination(key.address.into())];
    message
}

/// Reads what a message says of a neighbour. `None` where it is about a bridge's forwarding table or a proxy entry.
pub fn parse(message: &RouteNetlinkMessage) -> Option<(Key, Neighbour)> {
    let (RouteNetlinkMessage::NewNeighbour(NeighbourMessage { header, attributes, .. })
    | RouteNetlinkMessage::DelNeighbour(NeighbourMessage { header, attributes, .. })) = message
    else {
        return None;
    };
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(value) => mac = value.as_slice().try_into().ok().map(MacAddr::new),
            _ => {}
        }
    }
    let key = Key { ifindex: header.ifindex, address: address? };
    if matches!(message, RouteNetlinkMessage::DelNeighbour(_)) {
        return Some((key, Neighbour::Unknown));
    }
    use NeighbourState::{Delay, Failed, Incomplete, Noarp, Permanent, Probe, Reachable, Stale};
    let neighbour = match (header.state, mac) {
        (Failed, _) => Neighbour::Failed,
        (Incomplete, _) => Neighbour::Incomplete,
        (Stale, Some(mac)) => Neighbour::Stale(mac),
        (Reachable | Delay | Probe | Noarp | Permanent, Some(mac)) => Neighbour::Usable(mac),
        _ => Neighbour::Unknown,
    };
    Some((key, neighbour))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::nexthop::message::received;

    const KEY: Key = Key { ifindex: 3, address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)) };

    fn entry(state: u16, flags: NeighbourFlags, mac: Option<&[u8]>) -> NeighbourMessage {
        let mut message = message(KEY, flags);
        message.header.state = state.into();
        message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.to_vec())));
        message
    }

    fn parse_new(message: NeighbourMessage) -> Option<(Key, Neighbour)> {
        parse(&received(RouteNetlinkMessage::NewNeighbour(message)))
    }

    #[test]
    fn the_kernels_states_say_whether_an_address_can_be_used() {
        let mac = [2, 0, 0, 0, 0, 1];
        let usable = Neighbour::Usable(MacAddr::new(mac));
        for (state, with_mac, expected) in [
            (0x00, false, Neighbour::Unknown),
            (0x01, false, Neighbour::Incomplete),
            (0x02, true, usable),
            (0x04, true, Neighbour::Stale(MacAddr::new(mac))),
            (0x08, true, usable),
            (0x10, true, usable),
            // The kernel still shows the address that no longer answers.
            (0x20, true, Neighbour::Failed),
            (0x40, true, usable),
            (0x80, true, usable),
            (0x80, false, Neighbour::Unknown),
        ] {
            let message = entry(state, NeighbourFlags::empty(), with_mac.then_some(&mac[..]));
            assert_eq!(parse_new(message.clone()), Some((KEY, expected)), "{state:#x}");
            let gone = received(RouteNetlinkMessage::DelNeighbour(message));
            assert_eq!(parse(&gone), Some((KEY, Neighbour::Unknown)), "{state:#x}");
        }
    }

    #[test]
    fn proxies_and_bridge_entries_are_no_neighbours() {
        assert_eq!(parse_new(entry(0x02, NeighbourFlags::Proxy, None)), None);
        let mut bridge = entry(0x02, NeighbourFlags::empty(), Some(&[2; 6]));
        bridge.header.family = AddressFamily::Bridge;
        assert_eq!(parse_new(bridge), None);
    }

    #[test]
    fn a_link_layer_address_of_another_length_is_none() {
        let message = entry(0x02, NeighbourFlags::empty(), Some(&[1; 20]));
        assert_eq!(parse_new(message).unwrap().1, Neighbour::Unknown);
    }
}
