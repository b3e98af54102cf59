//! What is asked of the kernel: rules, and the routes of their tables.

use std::net::IpAddr;

use netlink_packet_route::link::{AfSpecInet6, AfSpecUnspec, In6AddrGenMode, LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::kernel::{Exit, Link};
use super::{PROTOCOL, Range, frame};

/// For "unreachable": any way at all comes before it.
const METRIC_LAST: u32 = u32::MAX;

/// The rule of this table. Tables and marks have the same numbers.
pub fn rule(is_v4: bool, table: u32, priority: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family(is_v4);
    rule.header.action = RuleAction::ToTable;
    rule.attributes = vec![
        RuleAttribute::Priority(priority),
        RuleAttribute::FwMark(table),
        RuleAttribute::FwMask(u32::MAX),
        RuleAttribute::Table(table),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    rule
}

/// All rules of a family.
pub fn all_rules(is_v4: bool) -> RouteNetlinkMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family(is_v4);
    RouteNetlinkMessage::GetRule(rule)
}

/// The table of a rule that a daemon with this range made.
pub fn own_table(rule: &RuleMessage, range: Range) -> Option<u32> {
    let is_own = rule.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    let table = rule.attributes.iter().find_map(|attribute| match attribute {
        RuleAttribute::Table(table) => Some(*table),
        _ => None,
    });
    table.filter(|table| is_own && range.holds(*table))
}

/// Everything in the table goes this way.
pub fn way(table: u32, exit: Exit) -> RouteMessage {
    let mut route = default(exit.gateway.is_ipv4(), table);
    route.header.kind = RouteType::Unicast;
    route.attributes.push(RouteAttribute::Gateway(exit.gateway.into()));
    if let Some(link) = exit.link {
        // Its gateway is in nobody's network.
        route.header.flags = RouteFlags::Onlink;
        route.attributes.push(RouteAttribute::Oif(link.ifindex));
    }
    route.attributes.extend(exit.source.map(|source| RouteAttribute::PrefSource(source.into())));
    route
}

/// Or nowhere.
pub fn no_way(is_v4: bool, table: u32) -> RouteMessage {
    let mut route = default(is_v4, table);
    route.header.kind = RouteType::Unreachable;
    route.attributes.push(RouteAttribute::Priority(METRIC_LAST));
    route
}

/// Whichever route of ours is in the table.
pub fn any(is_v4: bool, table: u32) -> RouteMessage {
    let mut route = default(is_v4, table);
    route.header.kind = RouteType::Unspec;
    route.header.scope = RouteScope::NoWhere;
    route
}

/// Where a packet for `vip` with this mark would go.
pub fn question(vip: IpAddr, mark: u32) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(vip.is_ipv4());
    message.header.destination_prefix_length = if vip.is_ipv4() { 32 } else { 128 };
    message.attributes = vec![RouteAttribute::Destination(vip.into()), RouteAttribute::Mark(mark)];
    RouteNetlinkMessage::GetRoute(message)
}

/// Who has the gateway's address on the link: for good, and unasked.
pub fn neighbour(link: Link, gateway: IpAddr) -> NeighbourMessage {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = family(gateway.is_ipv4());
    neighbour.header.ifindex = link.ifindex;
    neighbour.header.state = NeighbourState::Permanent;
    neighbour.attributes =
        vec![NeighbourAttribute::Destination(gateway.into()), NeighbourAttribute::LinkLayerAddress(link.mac.to_vec())];
    neighbour
}

/// Which entry there is for the gateway's address on the link.
pub fn neighbour_question(link: Link, gateway: IpAddr) -> RouteNetlinkMessage {
    let mut neighbour = NeighbourMessage::default();
    neighbour.header.family = family(gateway.is_ipv4());
    neighbour.header.ifindex = link.ifindex;
    neighbour.attributes = vec![NeighbourAttribute::Destination(gateway.into())];
    RouteNetlinkMessage::GetNeighbour(neighbour)
}

/// Packets that fit into every tunnel.
pub fn size(ifindex: u32) -> LinkMessage {
    link(ifindex, vec![LinkAttribute::Mtu(frame::PACKET_LEN_MAX.into())])
}

/// No address that the kernel would make known.
pub fn without_addresses(ifindex: u32) -> LinkMessage {
    let none = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
    link(ifindex, vec![LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![none])])])
}

/// Up, and nobody is asked for.
pub fn up(ifindex: u32) -> LinkMessage {
    let mut link = link(ifindex, Vec::new());
    link.header.flags = LinkFlags::Up | LinkFlags::Noarp;
    link.header.change_mask = LinkFlags::Up | LinkFlags::Noarp | LinkFlags::Multicast;
    link
}

fn link(ifindex: u32, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut link = LinkMessage::default();
    link.header.index = ifindex;
    link.attributes = attributes;
    link
}

fn default(is_v4: bool, table: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header = RouteHeader {
        address_family: family(is_v4),
        // Which has but eight bits; the attribute says it.
        table: RouteHeader::RT_TABLE_UNSPEC,
        protocol: RouteProtocol::Other(PROTOCOL),
        scope: RouteScope::Universe,
        ..RouteHeader::default()
    };
    route.attributes = vec![RouteAttribute::Table(table)];
    route
}

fn family(is_v4: bool) -> AddressFamily {
    if is_v4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}
