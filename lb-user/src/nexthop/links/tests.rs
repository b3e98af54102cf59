use super::*;

fn facts_of(kind: Option<&str>, xdp_features: Option<u64>, peer_has_xdp: Option<bool>) -> LinkFacts {
    LinkFacts {
        ifindex: 3,
        name: "if0".to_owned(),
        ethernet: true,
        mac: MacAddr([2, 0, 0, 0, 0, 1]),
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

fn header(family: u8, kind: u16, flags: u32) -> Body {
    let mut header = [0; HEADER_LEN];
    header[0] = family;
    header[2..4].copy_from_slice(&kind.to_ne_bytes());
    header[4..8].copy_from_slice(&9u32.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    Body::new(&header)
}

fn veth() -> Body {
    let info = Body::new(&[]).attribute(IFLA_INFO_KIND, b"veth");
    let xdp = Body::new(&[]).attribute(IFLA_XDP_ATTACHED, &[XDP_ATTACHED_DRV]).attribute(IFLA_XDP_PROG_ID, &77u32.to_ne_bytes());
    header(0, ARPHRD_ETHER, IFF_UP | IFF_RUNNING)
        .attribute(IFLA_IFNAME, b"veth0\0")
        .attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 1])
        .attribute(IFLA_MTU, &1500u32.to_ne_bytes())
        .attribute(IFLA_LINK, &4u32.to_ne_bytes())
        .attribute(IFLA_LINKINFO | 0x8000, info.bytes())
        .attribute(IFLA_XDP, xdp.bytes())
        .attribute(999, b"from a kernel to come")
}

#[test]
fn a_link_message_tells_kind_program_and_the_other_end() {
    let link = parse(veth().bytes()).unwrap();
    let expected =
        LinkFacts { ifindex: 9, name: "veth0".to_owned(), xdp_attached: Some(77), ..facts_of(Some("veth"), None, None) };
    assert_eq!(link, Link { facts: expected, peer: Some((4, None)), has_native_xdp: true });
    let elsewhere = veth().attribute(IFLA_LINK_NETNSID, &2i32.to_ne_bytes());
    assert_eq!(parse(elsewhere.bytes()).unwrap().peer, Some((4, Some(2))));
    let nameless = veth().attribute(IFLA_LINK_NETNSID, &(-1i32).to_ne_bytes());
    assert_eq!(parse(nameless.bytes()).unwrap().peer, None);
}

#[test]
fn an_interface_without_carrier_is_down() {
    let body = header(0, ARPHRD_ETHER, IFF_UP)
        .attribute(IFLA_IFNAME, b"eth0")
        .attribute(IFLA_ADDRESS, &[2; 6])
        .attribute(IFLA_MTU, &[0; 4]);
    assert!(!parse(body.bytes()).unwrap().facts.up);
}

#[test]
fn messages_of_bridges_about_ports_and_partial_ones_are_passed_over() {
    let mut port = veth().bytes().to_vec();
    port[0] = 7;
    assert_eq!(parse(&port), None);
    assert_eq!(parse_ifindex(&port), None);
    assert_eq!(parse_ifindex(veth().bytes()), Some(9));
    assert_eq!(parse(header(0, ARPHRD_ETHER, IFF_UP).attribute(IFLA_IFNAME, b"wlan0").bytes()), None);
    assert_eq!(parse(&[0; 7]), None);
}

#[test]
fn what_has_no_ethernet_address_is_no_ethernet() {
    let tun = header(0, 0xfffe, IFF_UP | IFF_RUNNING).attribute(IFLA_IFNAME, b"tun0").attribute(IFLA_MTU, &[0; 4]);
    let facts = parse(tun.bytes()).unwrap().facts;
    assert!(!facts.ethernet);
    assert_eq!(facts.mac, MacAddr::default());
}
