use netlink_packet_core::DefaultNla;

use super::*;
use crate::nexthop::message::received;

fn facts_of(kind: Option<&str>, xdp_features: Option<u64>, peer_has_xdp: Option<bool>) -> LinkFacts {
    LinkFacts {
        ifindex: 3,
        name: "if0".to_owned(),
        ethernet: true,
        mac: MacAddr::new([2, 0, 0, 0, 0, 1]),
        mtu: 1500,
        kind: kind.map(str::to_owned),
        up: true,
        xdp_features,
        peer_has_xdp,
        xdp_attached: None,
    }
}

#[test]
fn native_is_advised_only_where_no_frame_vanishes() {
    const DRIVER: u64 = netdev::BASIC | 2;
    for (kind, features, peer, native) in [
        (None, Some(DRIVER), None, true),
        (None, Some(0), None, false),
        // Attaching fails at once where the driver cannot.
        (None, None, None, true),
        (Some("veth"), Some(DRIVER), Some(true), true),
        // GRO on the other end lets frames in, but not back out.
        (Some("veth"), Some(DRIVER | netdev::NDO_XMIT), Some(false), false),
        (Some("veth"), Some(DRIVER), None, false),
        (Some("veth"), None, Some(true), true),
        (Some("veth"), None, Some(false), false),
        (Some("veth"), Some(0), Some(true), false),
        (Some("bridge"), Some(0), None, false),
    ] {
        let advice = advise(&facts_of(kind, features, peer));
        assert_eq!(advice.native, native, "{kind:?} {features:?} {peer:?}");
        assert_eq!(advice.reason.is_none(), native, "{advice:?}");
    }
    assert!(!advise(&LinkFacts { ethernet: false, ..facts_of(None, None, None) }).native);
}

#[test]
fn redirects_arrive_where_the_driver_or_the_generic_path_takes_them() {
    for (kind, features, peer, native) in [
        (None, Some(netdev::NDO_XMIT), None, true),
        (None, Some(netdev::BASIC), None, false),
        (None, None, None, true),
        (Some("veth"), Some(netdev::NDO_XMIT), Some(false), true),
        (Some("veth"), Some(netdev::BASIC), Some(false), false),
        (Some("veth"), None, Some(true), true),
        (Some("veth"), None, None, false),
        (Some("bridge"), None, None, false),
        (Some("bridge"), Some(0), None, false),
    ] {
        let facts = facts_of(kind, features, peer);
        assert_eq!(takes_redirects(&facts, RedirectMode::Native), native, "{facts:?}");
        assert!(takes_redirects(&facts, RedirectMode::Generic), "{facts:?}");
    }
    let tun = LinkFacts { ethernet: false, ..facts_of(Some("tun"), None, None) };
    assert!(!takes_redirects(&tun, RedirectMode::Generic));
}

fn message(link_layer_type: LinkLayerType, flags: LinkFlags, attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.link_layer_type = link_layer_type;
    message.header.index = 9;
    message.header.flags = flags;
    message.attributes = attributes;
    message
}

fn veth(further: Option<LinkAttribute>) -> LinkMessage {
    let mut attributes = vec![
        LinkAttribute::IfName("veth0".to_owned()),
        LinkAttribute::Address(vec![2, 0, 0, 0, 0, 1]),
        LinkAttribute::Mtu(1500),
        LinkAttribute::Link(4),
        LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::Veth)]),
        LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::Driver), LinkXdp::ProgId(77)]),
        LinkAttribute::Other(DefaultNla::new(999, b"from a kernel to come".to_vec())),
    ];
    attributes.extend(further);
    message(LinkLayerType::Ether, LinkFlags::Up | LinkFlags::Running, attributes)
}

fn parse_new(message: LinkMessage) -> Option<Link> {
    parse(&received(RouteNetlinkMessage::NewLink(message)))
}

#[test]
fn a_link_message_tells_kind_program_and_the_other_end() {
    let link = parse_new(veth(None)).unwrap();
    let expected =
        LinkFacts { ifindex: 9, name: "veth0".to_owned(), xdp_attached: Some(77), ..facts_of(Some("veth"), None, None) };
    assert_eq!(link, Link { facts: expected, peer: Some((4, None)), has_native_xdp: true });
    let elsewhere = veth(Some(LinkAttribute::LinkNetNsId(2)));
    assert_eq!(parse_new(elsewhere).unwrap().peer, Some((4, Some(2))));
    let nameless = veth(Some(LinkAttribute::LinkNetNsId(-1)));
    assert_eq!(parse_new(nameless).unwrap().peer, None);
}

#[test]
fn an_interface_without_carrier_is_down() {
    let attributes = vec![LinkAttribute::IfName("eth0".to_owned()), LinkAttribute::Address(vec![2; 6]), LinkAttribute::Mtu(0)];
    assert!(!parse_new(message(LinkLayerType::Ether, LinkFlags::Up, attributes)).unwrap().facts.up);
}

#[test]
fn messages_of_bridges_about_ports_and_partial_ones_are_passed_over() {
    let mut port = veth(None);
    port.header.interface_family = AddressFamily::Bridge;
    for port in [RouteNetlinkMessage::NewLink(port.clone()), RouteNetlinkMessage::DelLink(port)].map(received) {
        assert_eq!(parse(&port), None);
        assert_eq!(parse_ifindex(&port), None);
    }
    let gone = received(RouteNetlinkMessage::DelLink(veth(None)));
    assert_eq!(parse(&gone), None);
    assert_eq!(parse_ifindex(&gone), Some(9));
    let partial = vec![LinkAttribute::IfName("wlan0".to_owned())];
    assert_eq!(parse_new(message(LinkLayerType::Ether, LinkFlags::Up, partial)), None);
}

#[test]
fn what_has_no_ethernet_address_is_no_ethernet() {
    let attributes = vec![LinkAttribute::IfName("tun0".to_owned()), LinkAttribute::Mtu(0)];
    let facts = parse_new(message(LinkLayerType::None, LinkFlags::Up | LinkFlags::Running, attributes)).unwrap().facts;
    assert!(!facts.ethernet);
    assert_eq!(facts.mac, MacAddr::default());
}
