//! Packets, and what must become of them.

use std::net::IpAddr;

use lb_common::verdict::Class;
use lb_common::{Addr, Be16, Verdict, hash};
use lb_user::desired::Absence;

use super::fixture::{self, CLIENT, CLIENT_V6, FAR, GATEWAY, MTU, NEAR, OURS, OURS_INSIDE, TUNNEL_SOURCE, TUNNEL_SOURCE_V6};
use super::packets::{self, Content, Flags, Frame, Outer, arp, cut, encapsulated, frame, patched, tcp, udp, with_extensions};
use super::{mss, quic};

/// One packet and its fate.
pub struct Case {
    pub name: &'static str,
    pub packet: Vec<u8>,
    pub verdict: Verdict,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

pub(super) fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict, frame: Vec<u8>) -> Case {
    Case { name, packet, verdict, frame }
}

/// A packet that nothing is changed in.
fn untouched(name: &'static str, packet: Vec<u8>, verdict: Verdict) -> Case {
    assert!(verdict.class() != Class::Forwarded, "{name}: what is forwarded is changed");
    case(name, packet.clone(), verdict, packet)
}

const CLIENT_PORT: &str = "10.9.0.100:40000";
const CLIENT_PORT_V6: &str = "[fd09::100]:40000";

pub(super) fn to_vip(vip: &str, content: Content) -> Frame {
    frame(if vip.starts_with('[') { CLIENT_PORT_V6 } else { CLIENT_PORT }, vip, content)
}

pub(super) fn reply(backend: &str, content: Content) -> Frame {
    frame(backend, if backend.starts_with('[') { CLIENT_PORT_V6 } else { CLIENT_PORT }, content).macs(FAR, OURS_INSIDE)
}

pub fn all() -> Vec<Case> {
    let all = [
        dsr(),
        nat(),
        replies(),
        tunnels(),
        too_big(),
        echo(),
        errors(),
        not_ours(),
        broken(),
        fragments(),
        vlan(),
        headers(),
        quic::all(),
        mss::all(),
    ];
    all.into_iter().flatten().collect()
}

/// While the daemon has been away for too long: what was for VIPs is untouched.
pub fn unattended(absence: Absence) -> Vec<Case> {
    let verdict = if absence == Absence::Pass { Verdict::Unattended } else { Verdict::UnattendedDrop };
    let to_vip = [
        Verdict::Tx,
        Verdict::Redirect,
        Verdict::Routed,
        Verdict::EchoReply,
        Verdict::TooBig,
        Verdict::Oversize,
        Verdict::NoBackend,
        Verdict::NoNextHop,
        Verdict::NoHeadroom,
        Verdict::TtlExceeded,
        Verdict::Fragment,
    ];
    let left = |case: Case| if to_vip.contains(&case.verdict) { untouched(case.name, case.packet, verdict) } else { case };
    all().into_iter().map(left).collect()
}

/// Under the rules of [`fixture::guarded`].
pub fn guarded() -> Vec<Case> {
    let refused = |name, packet: Frame| untouched(name, packet.bytes(), Verdict::Denied);
    let sent = |name, packet: Frame| case(name, packet.bytes(), Verdict::Tx, packet.clone().macs(OURS, NEAR).bytes());
    let syn = |from: &str, to: &str| frame(from, to, tcp(Flags::Syn));
    let ack = |from: &str, to: &str| frame(from, to, tcp(Flags::Ack));
    let (vip, vip6, from_denied) = ("10.200.1.1:80", "[fd00::1]:80", "10.66.1.1:5000");
    let datagram = |from: &str| frame(from, "10.200.1.1:53", udp());
    let long = || Content::Udp { payload: vec![1; 100] };
    let [first, later] = packets::fragments(&frame(from_denied, "10.200.1.1:53", long()).bytes(), 34, 77, 64);
    let echo = |from: &str| frame(from, "10.200.1.1", Content::EchoRequest { payload: b"ping".to_vec() });
    let error = frame("10.66.0.1", "10.200.1.1", about(vip, CLIENT_PORT, tcp(Flags::Ack), 8));
    vec![
        sent("admission: who is on the allow list passes", syn(CLIENT_PORT, vip)),
        sent("admission: so do its later packets", ack(CLIENT_PORT, vip)),
        refused("admission: who is on both by a longer prefix of the deny list is refused", syn("10.9.0.200:5000", vip)),
        refused("admission: so are packets that open no connection", ack("10.9.0.200:5000", vip)),
        refused("admission: who is on the deny list alone is refused", syn("10.9.1.1:5000", vip)),
        refused("admission: with an allow list, who is on neither is refused", syn("10.8.0.1:5000", vip)),
        refused("admission: what is denied for all VIPs, no service's own list lets in", syn(from_denied, vip)),
        refused("admission: it is denied for services without rules of their own", syn(from_denied, "10.200.1.3:80")),
        refused("admission: it is denied on every port of a service on every port", syn(from_denied, "10.200.1.9:12345")),
        refused("admission: it is denied for UDP", datagram(from_denied)),
        refused("admission: it is denied behind IPv4 options", syn(from_denied, vip).options(&[1; 8])),
        refused("admission: it is denied in a tagged frame", syn(from_denied, vip).vlans(&[10])),
        refused("admission: IPv6 likewise", syn("[fd66::1]:5000", vip6)),
        refused("admission: an IPv6 prefix of 64 bits", syn("[fd09:0:0:1:ffff::1]:5000", vip6)),
        refused("admission: a single IPv6 address", syn("[fd09::bad]:5000", vip6)),
        sent("admission: the address before it passes", syn("[fd09::bac]:5000", vip6)),
        sent("admission: the address after it passes", syn("[fd09::bae]:5000", vip6)),
        refused("admission: of many hosts the first", datagram("172.16.0.0:5000")),
        refused("admission: of many hosts one in the middle", datagram("172.16.7.254:5000")),
        refused("admission: of many hosts the last", datagram("172.16.15.254:5000")),
        sent("admission: between many hosts", datagram("172.16.7.255:5000")),
        sent("admission: after many hosts", datagram("172.16.16.0:5000")),
        sent("admission: before many hosts", datagram("172.15.255.255:5000")),
        untouched("admission: a first fragment is refused", first, Verdict::Denied),
        untouched("admission: later fragments have nobody to follow", later, Verdict::Fragment),
        untouched("admission: a ping to a VIP is refused", echo("10.66.1.1").bytes(), Verdict::Denied),
        case(
            "admission: a service's own rules are not for pings to its VIP",
            echo("10.8.0.1").bytes(),
            Verdict::EchoReply,
            frame("10.200.1.1", "10.8.0.1", Content::EchoReply { payload: b"ping".to_vec() }).macs(OURS, GATEWAY).ttl(64).bytes(),
        ),
        untouched(
            "admission: other ports of a VIP stay the host's",
            syn(from_denied, "10.200.1.1:22").bytes(),
            Verdict::NotService,
        ),
        sent("admission: routers may tell of a flow, wherever they are", error),
    ]
}

/// Under the limits of [`fixture::limited`], in this order: what passes of a burst, and what is beyond.
pub fn limited() -> Vec<Case> {
    let dsr = |name, from: &str, to: &str, content: Content| {
        let packet = frame(from, to, content);
        case(name, packet.bytes(), Verdict::Tx, packet.clone().macs(OURS, NEAR).bytes())
    };
    let nat = |name, from: &str, to: &str, backend: &str, content: Content| {
        let packet = frame(from, to, content);
        let sent = packet.clone().macs(OURS_INSIDE, FAR).to(backend).ttl(63);
        case(name, packet.bytes(), Verdict::Redirect, sent.bytes())
    };
    let refused =
        |name, from: &str, to: &str, content: Content| untouched(name, frame(from, to, content).bytes(), Verdict::Limited);
    let (syn, ack) = (|| tcp(Flags::Syn), || tcp(Flags::Ack));
    let (vip, dns, vip6) = ("10.200.1.1:80", "10.200.1.1:53", "[fd00::1]:80");
    let mut cases = vec![
        dsr("limits: a source's first connection", "10.9.0.100:1", vip, syn()),
        dsr("limits: its second", "10.9.0.100:2", vip, syn()),
        dsr("limits: another host of the same prefix is the same source", "10.9.0.7:3", vip, syn()),
        refused("limits: one more than its burst", "10.9.0.100:4", vip, syn()),
        dsr("limits: what opens no connection is not of the limit", "10.9.0.100:1", vip, ack()),
        dsr("limits: another source has a burst of its own", "10.9.1.100:1", vip, syn()),
        dsr("limits: a first UDP flow", "10.9.0.100:1", dns, udp()),
        dsr("limits: a second UDP flow", "10.9.0.100:2", dns, udp()),
        dsr("limits: a known UDP flow opens nothing", "10.9.0.100:1", dns, udp()),
        refused("limits: a third UDP flow", "10.9.0.100:3", dns, udp()),
        refused("limits: which is not known, for it did not pass", "10.9.0.100:3", dns, udp()),
        dsr("limits: the second is still known, and the source's last packet", "10.9.0.100:2", dns, udp()),
        refused("limits: more packets than a source may send, of a known flow", "10.9.0.100:2", dns, udp()),
        nat("limits: the service's first packet", "10.9.0.100:1", "10.200.1.3:80", "10.0.2.1:8080", ack()),
        nat("limits: whoever sends its second", "10.9.1.1:1", "10.200.1.3:80", "10.0.2.1:8080", ack()),
        nat("limits: its third", "10.9.2.1:1", "10.200.1.3:80", "10.0.2.1:8080", ack()),
        nat("limits: its fourth", "10.9.3.1:1", "10.200.1.3:80", "10.0.2.1:8080", syn()),
        refused("limits: a fifth packet to the service, from anywhere", "10.9.4.1:1", "10.200.1.3:80", ack()),
        nat("limits: the service's first flow", "10.9.5.1:1", "10.200.1.3:53", "10.0.2.1:5353", udp()),
        nat("limits: its second flow", "10.9.6.1:1", "10.200.1.3:53", "10.0.2.1:5353", udp()),
        refused("limits: a third flow, from anywhere", "10.9.7.1:1", "10.200.1.3:53", udp()),
        nat("limits: known flows go on", "10.9.5.1:1", "10.200.1.3:53", "10.0.2.1:5353", udp()),
    ];
    for _ in 0..3 {
        cases.push(dsr("limits: what an IPv6 source may send", "[fd09::100]:1", vip6, ack()));
    }
    cases.push(refused("limits: an IPv6 source is its /64", "[fd09::7]:1", vip6, ack()));
    cases.push(dsr("limits: another /64 is another source", "[fd09:0:0:1::7]:1", vip6, ack()));
    // 20 packets to all VIPs together: 5 to this one, then others.
    for n in 0..20 {
        let to = ["10.200.1.1:80", "10.200.1.9:7"][n % 2];
        cases.push(dsr("limits: what a source may send to all VIPs", "10.99.0.1:5", to, ack()));
    }
    cases.push(refused("limits: more than it may send to all VIPs", "10.99.0.1:5", "10.200.1.9:8", ack()));
    let ping = frame("10.99.0.1", "10.200.1.1", Content::EchoRequest { payload: b"ping".to_vec() });
    cases.push(untouched("limits: pings among it", ping.bytes(), Verdict::Limited));
    cases
}

fn dsr() -> Vec<Case> {
    let sent = |packet: &Frame| packet.clone().macs(OURS, NEAR).bytes();
    let syn = to_vip("10.200.1.1:80", tcp(Flags::Syn));
    let ack = to_vip("10.200.1.1:80", tcp(Flags::Ack));
    let udp4 = to_vip("10.200.1.1:53", udp());
    let v6 = to_vip("[fd00::1]:80", tcp(Flags::Syn));
    let far = to_vip("10.200.1.2:80", tcp(Flags::Syn));
    let every = to_vip("10.200.1.9:12345", tcp(Flags::Syn));
    let last_hop = to_vip("10.200.1.1:80", tcp(Flags::Ack)).ttl(1);
    vec![
        case("dsr: a SYN gets its backend's link-layer address", syn.bytes(), Verdict::Tx, sent(&syn)),
        case("dsr: so does an ACK", ack.bytes(), Verdict::Tx, sent(&ack)),
        case("dsr: so does UDP", udp4.bytes(), Verdict::Tx, sent(&udp4)),
        case("dsr: so does IPv6", v6.bytes(), Verdict::Tx, sent(&v6)),
        case(
            "dsr: a backend elsewhere is redirected to",
            far.bytes(),
            Verdict::Redirect,
            far.clone().macs(OURS_INSIDE, FAR).bytes(),
        ),
        case("dsr: a service on every port takes any", every.bytes(), Verdict::Tx, sent(&every)),
        case("dsr: the time to live is the backend's business", last_hop.bytes(), Verdict::Tx, sent(&last_hop)),
        untouched("a service without backends drops", to_vip("10.200.1.6:80", tcp(Flags::Syn)).bytes(), Verdict::NoBackend),
    ]
}

fn nat() -> Vec<Case> {
    let sent = |packet: &Frame, backend: &str| packet.clone().macs(OURS_INSIDE, FAR).to(backend).ttl(63).bytes();
    let tcp4 = to_vip("10.200.1.3:80", tcp(Flags::Syn));
    let udp4 = to_vip("10.200.1.3:53", udp());
    let tcp6 = to_vip("[fd00::3]:80", tcp(Flags::Ack));
    let udp6 = to_vip("[fd00::3]:53", udp());
    let near = to_vip("10.200.1.5:80", tcp(Flags::Syn));
    let bridged = to_vip("10.200.1.4:80", tcp(Flags::Syn));
    let every = to_vip("10.200.1.10:7777", tcp(Flags::Syn));
    let unsummed = patched(udp4.bytes(), udp4.l4() + 6, &[0, 0]);
    let unsummed_sent = patched(sent(&udp4, "10.0.2.1:5353"), udp4.l4() + 6, &[0, 0]);
    let last_hop = to_vip("10.200.1.3:80", tcp(Flags::Ack)).ttl(1);
    let last_hop_v6 = to_vip("[fd00::3]:80", tcp(Flags::Ack)).ttl(1);
    let options = to_vip("10.200.1.3:80", tcp(Flags::Syn)).options(&[0x94, 4, 0, 0, 1, 1, 1, 1]);
    vec![
        case(
            "nat: destination and checksums change, the hop is counted",
            tcp4.bytes(),
            Verdict::Redirect,
            sent(&tcp4, "10.0.2.1:8080"),
        ),
        case("nat: UDP likewise", udp4.bytes(), Verdict::Redirect, sent(&udp4, "10.0.2.1:5353")),
        case("nat: UDP without a checksum stays without", unsummed, Verdict::Redirect, unsummed_sent),
        case("nat: IPv6 likewise", tcp6.bytes(), Verdict::Redirect, sent(&tcp6, "[fd02::1]:8080")),
        case("nat: UDP over IPv6 likewise", udp6.bytes(), Verdict::Redirect, sent(&udp6, "[fd02::1]:5353")),
        case("nat: behind IPv4 options likewise", options.bytes(), Verdict::Redirect, sent(&options, "10.0.2.1:8080")),
        case(
            "nat: a backend on the same interface is sent to directly",
            near.bytes(),
            Verdict::Tx,
            near.clone().macs(OURS, NEAR).to("10.0.1.5:8080").ttl(63).bytes(),
        ),
        case(
            "nat: where redirected frames would vanish, the host routes the rewritten packet",
            bridged.bytes(),
            Verdict::Routed,
            bridged.clone().to("10.0.3.1:8080").bytes(),
        ),
        case("nat: a service on every port keeps the port", every.bytes(), Verdict::Redirect, sent(&every, "10.0.2.10:7777")),
        untouched("nat: a router drops what has no hops left", last_hop.bytes(), Verdict::TtlExceeded),
        untouched("nat: the hop limit likewise", last_hop_v6.bytes(), Verdict::TtlExceeded),
    ]
}

fn replies() -> Vec<Case> {
    let restored = |packet: &Frame, vip: &str| packet.clone().macs(OURS, GATEWAY).from(vip).ttl(63).bytes();
    let tcp4 = reply("10.0.2.1:8080", tcp(Flags::SynAck));
    let udp4 = reply("10.0.2.1:5353", udp());
    let tcp6 = reply("[fd02::1]:8080", tcp(Flags::SynAck));
    let udp6 = reply("[fd02::1]:5353", udp());
    let every = reply("10.0.2.10:7777", tcp(Flags::SynAck));
    let pending = frame("10.0.2.1:8080", "10.9.0.101:40000", tcp(Flags::SynAck)).macs(FAR, OURS_INSIDE);
    let to_us = frame("10.0.2.1:8080", "10.9.0.1:40000", tcp(Flags::SynAck)).macs(FAR, OURS_INSIDE);
    vec![
        case("reply: the VIP is the source again", tcp4.bytes(), Verdict::Reply, restored(&tcp4, "10.200.1.3:80")),
        case("reply: UDP likewise", udp4.bytes(), Verdict::Reply, restored(&udp4, "10.200.1.3:53")),
        case("reply: IPv6 likewise", tcp6.bytes(), Verdict::Reply, restored(&tcp6, "[fd00::3]:80")),
        case("reply: UDP over IPv6 likewise", udp6.bytes(), Verdict::Reply, restored(&udp6, "[fd00::3]:53")),
        case("reply: of a service on every port", every.bytes(), Verdict::Reply, restored(&every, "10.200.1.10:7777")),
        case(
            "reply: without a neighbour the host finds the way",
            pending.bytes(),
            Verdict::ReplyRouted,
            pending.clone().from("10.200.1.3:80").bytes(),
        ),
        untouched("reply: an answer to the balancer's own health check is its own", to_us.bytes(), Verdict::NotService),
        untouched("a backend's other ports are its own", reply("10.0.2.1:22", tcp(Flags::SynAck)).bytes(), Verdict::NotService),
    ]
}

/// The frame as it leaves towards a tunnel's other end, by its flow's hash.
pub(super) fn tunnelled(packet: &Frame, destination: &str, is_gue: bool) -> Vec<u8> {
    let ports = |endpoint: std::net::SocketAddr| u32::from(Be16::new(endpoint.port()).raw());
    let both = ports(packet.source) | ports(packet.destination) << 16;
    let hash = match packet.source.ip() {
        IpAddr::V4(client) => hash::flow_v4(&fixture::keys(), u32::from_ne_bytes(client.octets()), both),
        IpAddr::V6(client) => hash::flow_v6(&fixture::keys(), Addr::from(IpAddr::V6(client)).longs(), both),
    };
    let destination: IpAddr = destination.parse().expect("an address");
    let source = if destination.is_ipv4() { TUNNEL_SOURCE } else { TUNNEL_SOURCE_V6 };
    let outer = Outer {
        source: source.parse().expect("an address"),
        destination,
        ports: is_gue.then(|| (Be16::from_raw(hash.0 as u16).get() | 0xc000, 6080)),
        flow_label: hash.0 as u32 & 0xf_ffff,
    };
    encapsulated(&packet.clone().macs(OURS_INSIDE, FAR).bytes(), packet.l3(), outer)
}

pub(super) fn tunnels() -> Vec<Case> {
    let syn = |vip| to_vip(vip, tcp(Flags::Syn));
    let (v4, v4in6, v6in4, v6) =
        (syn("10.200.2.1:80"), syn("10.200.2.2:80"), syn("[fd00:0:0:2::1]:80"), syn("[fd00:0:0:2::2]:80"));
    let (gue, gue_udp, gue6) = (syn("10.200.2.3:80"), to_vip("10.200.2.3:53", udp()), syn("[fd00:0:0:2::3]:80"));
    let tagged = v4.clone().vlans(&[10]);
    let twice = v6.clone().vlans(&[100, 10]);
    let options = v4.clone().options(&[1; 8]);
    let last_hop = v4.clone().ttl(1);
    // DSCP and ECN: expedited forwarding, congestion experienced. The IPv4 checksum is that of another type of service.
    let classed = patched(syn("[fd00:0:0:2::2]:80").bytes(), 14, &[0x6b, 0xb0]);
    let classed_sent = {
        let plain = tunnelled(&v6, "fd02::21", false);
        let outer = [0x6b, 0xb0 | plain[15] & 0xf];
        patched(patched(plain, 14, &outer), 14 + 40, &[0x6b, 0xb0])
    };
    let redirect = Verdict::Redirect;
    vec![
        case("ipip: IPv4 in IPv4", v4.bytes(), redirect, tunnelled(&v4, "10.0.2.21", false)),
        case("ipip: IPv4 in IPv6", v4in6.bytes(), redirect, tunnelled(&v4in6, "fd02::21", false)),
        case("ipip: IPv6 in IPv4", v6in4.bytes(), redirect, tunnelled(&v6in4, "10.0.2.21", false)),
        case("ipip: IPv6 in IPv6", v6.bytes(), redirect, tunnelled(&v6, "fd02::21", false)),
        case("ipip: a tag stays in front", tagged.bytes(), redirect, tunnelled(&tagged, "10.0.2.21", false)),
        case("ipip: two tags likewise", twice.bytes(), redirect, tunnelled(&twice, "fd02::21", false)),
        case("ipip: IPv4 options stay inside", options.bytes(), redirect, tunnelled(&options, "10.0.2.21", false)),
        case(
            "ipip: the time to live is the backend's business",
            last_hop.bytes(),
            redirect,
            tunnelled(&last_hop, "10.0.2.21", false),
        ),
        case("ipip: the traffic class stands in both headers", classed, redirect, classed_sent),
        case("gue: over IPv4", gue.bytes(), redirect, tunnelled(&gue, "10.0.2.22", true)),
        case("gue: UDP in UDP", gue_udp.bytes(), redirect, tunnelled(&gue_udp, "10.0.2.22", true)),
        case("gue: over IPv6", gue6.bytes(), redirect, tunnelled(&gue6, "fd02::22", true)),
        untouched("ipip: without an address of our own there is no tunnel", syn("10.200.2.9:80").bytes(), Verdict::NoBackend),
    ]
}

/// A packet of this many bytes, headers included, to a VIP.
fn of_len(vip: &str, len: usize) -> Frame {
    let headers = if vip.starts_with('[') { 60 } else { 40 };
    to_vip(vip, Content::Tcp { flags: Flags::Ack, payload: vec![7; len - headers] })
}

fn too_big() -> Vec<Case> {
    let told = |packet: &Frame, vip: &str, client: &str, mtu: u16| {
        let quoted = packet.bytes()[packet.l3()..][..128].to_vec();
        let kind = if vip.contains(':') { (2, 0) } else { (3, 4) };
        let vlans = packet.vlans.clone();
        frame(vip, client, Content::Error { kind, word: mtu.into(), quoted }).macs(OURS, GATEWAY).vlans(&vlans).bytes()
    };
    let (fits, fits6) = (of_len("10.200.2.1:80", 1480), of_len("[fd00:0:0:2::2]:80", 1460));
    let (large, large6) = (of_len("10.200.2.1:80", 1481), of_len("[fd00:0:0:2::2]:80", 1461));
    let (tagged, gue) = (large.clone().vlans(&[10]), of_len("10.200.2.3:80", 1473));
    vec![
        case("ipip: what just fits goes", fits.bytes(), Verdict::Redirect, tunnelled(&fits, "10.0.2.21", false)),
        case("ipip: over IPv6 likewise", fits6.bytes(), Verdict::Redirect, tunnelled(&fits6, "fd02::21", false)),
        case("too big: who sent it is told", large.bytes(), Verdict::TooBig, told(&large, "10.200.2.1", CLIENT, MTU - 20)),
        case("too big: over IPv6", large6.bytes(), Verdict::TooBig, told(&large6, "fd00:0:0:2::2", CLIENT_V6, MTU - 40)),
        case("too big: a tag stays in front", tagged.bytes(), Verdict::TooBig, told(&tagged, "10.200.2.1", CLIENT, MTU - 20)),
        case("too big: for a datagram", gue.bytes(), Verdict::TooBig, told(&gue, "10.200.2.3", CLIENT, MTU - 28)),
    ]
}

/// What a router, or the addressee, says about a packet from `sender` to `addressee`, of which `len` bytes are quoted.
pub fn about(sender: &str, addressee: &str, content: Content, len: usize) -> Content {
    let packet = frame(sender, addressee, content).ttl(3);
    let quoted = packet.bytes()[packet.l3()..packet.l4() + len].to_vec();
    let kind = if packet.source.is_ipv4() { (3, 1) } else { (1, 3) };
    Content::Error { kind, word: 0, quoted }
}

const ROUTER: &str = "10.8.0.1";
const ROUTER_V6: &str = "fd08::1";

fn errors() -> Vec<Case> {
    let dsr = frame(ROUTER, "10.200.1.1", about("10.200.1.1:80", CLIENT_PORT, tcp(Flags::Ack), 8));
    let dsr6 = frame(ROUTER_V6, "fd00::1", about("[fd00::1]:80", CLIENT_PORT_V6, tcp(Flags::Ack), 20));
    let tunnel = frame(ROUTER, "10.200.2.1", about("10.200.2.1:80", CLIENT_PORT, tcp(Flags::Ack), 8));
    let tunnel_sent = {
        let flow = to_vip("10.200.2.1:80", tcp(Flags::Ack));
        // A tunnel of IPv4 shows nothing of the hash.
        let outer = tunnelled(&flow, "10.0.2.21", false);
        let (source, destination) = (TUNNEL_SOURCE, "10.0.2.21");
        assert_eq!(outer[30..34], [10, 0, 2, 21]);
        let outer = Outer {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            ports: None,
            flow_label: 0,
        };
        encapsulated(&tunnel.clone().macs(OURS_INSIDE, FAR).bytes(), 14, outer)
    };
    let to_nat = |content: fn() -> Content, port: u16, backend: &str, len: usize| {
        let error = |address: &str, quoted: Content| frame(ROUTER, address, quoted);
        let came = error("10.200.1.3", about(&format!("10.200.1.3:{port}"), CLIENT_PORT, content(), len));
        let left = error("10.0.2.1", about(backend, CLIENT_PORT, content(), len)).macs(OURS_INSIDE, FAR).ttl(63);
        (came.bytes(), left.bytes())
    };
    let ack: fn() -> Content = || tcp(Flags::Ack);
    let (nat, nat_sent) = to_nat(ack, 80, "10.0.2.1:8080", 8);
    let (nat_whole, nat_whole_sent) = to_nat(ack, 80, "10.0.2.1:8080", 25);
    let (nat_udp, nat_udp_sent) = to_nat(udp, 53, "10.0.2.1:5353", 8);
    let nat6 = frame(ROUTER_V6, "fd00::3", about("[fd00::3]:53", CLIENT_PORT_V6, udp(), 16));
    let nat6_sent =
        frame(ROUTER_V6, "fd02::1", about("[fd02::1]:5353", CLIENT_PORT_V6, udp(), 16)).macs(OURS_INSIDE, FAR).ttl(63);
    let from = |sender: &str, content: fn() -> Content, backend: &str, vip: &str| {
        let came = frame(sender, CLIENT, about(CLIENT_PORT, backend, content(), 8)).macs(FAR, OURS_INSIDE);
        let left = frame("10.200.1.3", CLIENT, about(CLIENT_PORT, vip, content(), 8)).macs(OURS, GATEWAY).ttl(63);
        (came.bytes(), left.bytes())
    };
    let (refused, refused_sent) = from("10.0.2.1", udp, "10.0.2.1:5353", "10.200.1.3:53");
    let (on_the_way, on_the_way_sent) = from("10.0.2.77", ack, "10.0.2.1:8080", "10.200.1.3:80");
    let refused6 = frame("fd02::1", CLIENT_V6, about(CLIENT_PORT_V6, "[fd02::1]:5353", udp(), 8)).macs(FAR, OURS_INSIDE);
    let refused6_sent = frame("fd00::3", CLIENT_V6, about(CLIENT_PORT_V6, "[fd00::3]:53", udp(), 8)).macs(OURS, GATEWAY).ttl(63);
    let short = frame(ROUTER, "10.200.1.1", about("10.200.1.1:80", CLIENT_PORT, tcp(Flags::Ack), 7));
    let stranger = frame(ROUTER, "10.200.1.1", about("10.200.1.1:81", CLIENT_PORT, tcp(Flags::Ack), 8));
    let other = frame(ROUTER, "10.200.1.1", about("10.200.1.2:80", CLIENT_PORT, tcp(Flags::Ack), 8));
    let ours = frame(ROUTER, "10.9.0.1", about("10.9.0.1:22", CLIENT_PORT, tcp(Flags::Ack), 8));
    vec![
        case(
            "error: to the backend that the quoted packet came from",
            dsr.bytes(),
            Verdict::Tx,
            dsr.clone().macs(OURS, NEAR).bytes(),
        ),
        case("error: over IPv6 likewise", dsr6.bytes(), Verdict::Tx, dsr6.clone().macs(OURS, NEAR).bytes()),
        case("error: through a tunnel", tunnel.bytes(), Verdict::Redirect, tunnel_sent),
        case("error: to a NAT backend, what is quoted is translated", nat, Verdict::Redirect, nat_sent),
        case("error: a whole header's checksum too", nat_whole, Verdict::Redirect, nat_whole_sent),
        case("error: and that of UDP", nat_udp, Verdict::Redirect, nat_udp_sent),
        case("error: over IPv6, with the pseudo-header", nat6.bytes(), Verdict::Redirect, nat6_sent.bytes()),
        case("error: from a NAT backend, as from the VIP", refused, Verdict::Reply, refused_sent),
        case("error: from a router before it likewise", on_the_way, Verdict::Reply, on_the_way_sent),
        case("error: from a NAT backend over IPv6", refused6.bytes(), Verdict::Reply, refused6_sent.bytes()),
        untouched("error: without ports it is the host's", short.bytes(), Verdict::NotService),
        untouched("error: about no service it is the host's", stranger.bytes(), Verdict::NotService),
        untouched("error: about another's packet it is the host's", other.bytes(), Verdict::NotService),
        untouched("error: about the host's own it is the host's", ours.bytes(), Verdict::NotService),
    ]
}

fn echo() -> Vec<Case> {
    let payload = || b"0123456789".to_vec();
    let request = frame(CLIENT, "10.200.1.1", Content::EchoRequest { payload: payload() }).ttl(17);
    let answer = frame("10.200.1.1", CLIENT, Content::EchoReply { payload: payload() }).macs(OURS, GATEWAY).ttl(64);
    let request6 = frame("fd09::100", "fd00::1", Content::EchoRequest { payload: payload() });
    let answer6 = frame("fd00::1", "fd09::100", Content::EchoReply { payload: payload() }).macs(OURS, GATEWAY);
    let elsewhere = frame(CLIENT, "10.9.0.1", Content::EchoRequest { payload: payload() });
    let stray = frame(CLIENT, "10.200.1.1", Content::EchoReply { payload: payload() });
    vec![
        case("an echo request to a VIP is answered", request.bytes(), Verdict::EchoReply, answer.bytes()),
        case("an ICMPv6 echo request to a VIP is answered", request6.bytes(), Verdict::EchoReply, answer6.bytes()),
        untouched("an echo request to anybody else is theirs", elsewhere.bytes(), Verdict::NotService),
        untouched("an echo reply to a VIP is the host's", stray.bytes(), Verdict::NotService),
    ]
}

fn not_ours() -> Vec<Case> {
    let mut vrrp = to_vip("10.200.1.1:80", tcp(Flags::Syn)).bytes();
    vrrp[14 + 9] = 112;
    vec![
        untouched("ARP is the host's", arp(), Verdict::NotIp),
        untouched(
            "SSH to the balancer is the host's",
            frame(CLIENT_PORT, "10.9.0.1:22", tcp(Flags::Syn)).bytes(),
            Verdict::NotService,
        ),
        untouched("another port of a VIP is the host's", to_vip("10.200.1.1:81", tcp(Flags::Syn)).bytes(), Verdict::NotService),
        untouched(
            "another protocol on a service's port is the host's",
            to_vip("10.200.1.1:80", udp()).bytes(),
            Verdict::NotService,
        ),
        untouched("IPv6 to another address is the host's", to_vip("[fd00::2]:80", tcp(Flags::Syn)).bytes(), Verdict::NotService),
        untouched("a protocol without ports is the host's", vrrp, Verdict::NotService),
    ]
}

fn broken() -> Vec<Case> {
    let syn = to_vip("10.200.1.1:80", tcp(Flags::Syn)).bytes();
    let elsewhere = frame(CLIENT_PORT, "10.9.0.1:22", tcp(Flags::Syn)).bytes();
    let syn6 = to_vip("[fd00::1]:80", tcp(Flags::Syn)).bytes();
    let datagram = to_vip("10.200.1.1:53", udp()).bytes();
    let (truncated, malformed) = (Verdict::Truncated, Verdict::Malformed);
    vec![
        untouched("a frame cut inside the IPv4 header is truncated", cut(syn.clone(), 25), truncated),
        untouched("a frame cut inside the IPv6 header is truncated", cut(syn6.clone(), 40), truncated),
        untouched("a frame cut inside the TCP header is truncated", cut(syn.clone(), 14 + 20 + 12), truncated),
        untouched("a frame cut inside the UDP header is truncated", cut(datagram.clone(), 14 + 20 + 6), truncated),
        untouched("a frame shorter than its IPv4 length is truncated", cut(syn.clone(), syn.len() - 1), truncated),
        untouched("a frame shorter than its IPv6 length is truncated", cut(syn6.clone(), syn6.len() - 1), truncated),
        untouched("an IPv4 packet too short for TCP is truncated", patched(syn.clone(), 16, &[0, 39]), truncated),
        untouched("a cut frame to somebody else is theirs", cut(elsewhere.clone(), 14 + 20 + 12), Verdict::NotService),
        untouched("IPv4 that says version 5 is malformed", patched(syn.clone(), 14, &[0x55]), malformed),
        untouched("IPv6 that says version 4 is malformed", patched(syn6.clone(), 14, &[0x45]), malformed),
        untouched("an IPv4 header of 16 bytes is malformed", patched(syn.clone(), 14, &[0x44]), malformed),
        untouched("an IPv4 length below its header's is malformed", patched(syn.clone(), 16, &[0, 19]), malformed),
        untouched("a TCP header of 16 bytes is malformed", patched(syn.clone(), 14 + 20 + 12, &[0x40]), malformed),
        untouched("a TCP header longer than its packet is malformed", patched(syn.clone(), 14 + 20 + 12, &[0xf0]), malformed),
        untouched("a UDP length below its header's is malformed", patched(datagram.clone(), 14 + 20 + 4, &[0, 7]), malformed),
        untouched("a UDP length beyond its packet is malformed", patched(datagram, 14 + 20 + 4, &[0, 200]), malformed),
        untouched("malformed packets to somebody else are theirs", patched(elsewhere, 14, &[0x44]), Verdict::NotService),
        untouched(
            "an echo request cut short is truncated",
            cut(frame(CLIENT, "10.200.1.1", Content::EchoRequest { payload: vec![] }).bytes(), 14 + 20 + 6),
            truncated,
        ),
    ]
}

fn fragments() -> Vec<Case> {
    let long = || Content::Udp { payload: (0..100).collect() };
    let split = |packet: &Frame, identification: u16| packets::fragments(&packet.bytes(), packet.l4(), identification, 48);
    let (dsr, dsr6) = (to_vip("10.200.1.1:53", long()), to_vip("[fd00::1]:80", tcp_of(100)));
    let (nat, nat6) = (to_vip("10.200.1.3:53", long()), to_vip("[fd00::3]:80", tcp_of(100)));
    let (answer, answer6) = (reply("10.0.2.1:5353", long()), reply("[fd02::1]:8080", tcp_of(100)));
    let options = to_vip("10.200.1.1:80", tcp_of(100)).options(&[1; 8]);
    let tunnel = to_vip("10.200.2.1:80", tcp_of(100));
    let outer = Outer {
        source: TUNNEL_SOURCE.parse().expect("an address"),
        destination: "10.0.2.21".parse().expect("an address"),
        ports: None,
        flow_label: 0,
    };
    let tunnel_sent = split(&tunnel.clone().macs(OURS_INSIDE, FAR), 7).map(|fragment| encapsulated(&fragment, 14, outer));
    let redirected = |packet: &Frame, backend: &str| packet.clone().macs(OURS_INSIDE, FAR).to(backend).ttl(63);
    let restored = |packet: &Frame, vip: &str| packet.clone().macs(OURS, GATEWAY).from(vip).ttl(63);
    let both = |[first, later]: [&'static str; 2], came: [Vec<u8>; 2], verdict, left: [Vec<u8>; 2]| {
        let ([came_first, came_later], [left_first, left_later]) = (came, left);
        [case(first, came_first, verdict, left_first), case(later, came_later, verdict, left_later)]
    };
    let sent = |packet: &Frame| split(&packet.clone().macs(OURS, NEAR), 7);
    let [_, orphan] = split(&dsr, 8);
    let [_, orphan6] = split(&dsr6, 8);
    let [ping, ping_later] = split(&frame(CLIENT, "10.200.1.1", Content::EchoRequest { payload: vec![7; 100] }), 7);
    let tiny = packets::fragments(&to_vip("10.200.1.1:80", tcp_of(100)).bytes(), 34, 9, 16);
    let elsewhere = split(&frame(CLIENT_PORT, "10.9.0.1:53", long()), 7);
    let only = patched(with_extensions(&dsr6.bytes(), &[44]), 14 + 40, &[6, 0, 0, 0]);
    let only_sent = patched(only.clone(), 0, &[NEAR, OURS].concat());
    let pairs = [
        both(["fragments: the first has ports", "fragments: a later one follows"], split(&dsr, 7), Verdict::Tx, sent(&dsr)),
        both(["fragments: IPv6, first", "fragments: IPv6, later"], split(&dsr6, 7), Verdict::Tx, sent(&dsr6)),
        both(["fragments: with options, first", "fragments: with options, later"], split(&options, 9), Verdict::Tx, {
            split(&options.clone().macs(OURS, NEAR), 9)
        }),
        both(["fragments: by NAT, first", "fragments: by NAT, later"], split(&nat, 7), Verdict::Redirect, {
            split(&redirected(&nat, "10.0.2.1:5353"), 7)
        }),
        both(["fragments: by NAT of IPv6, first", "fragments: by NAT of IPv6, later"], split(&nat6, 7), Verdict::Redirect, {
            split(&redirected(&nat6, "[fd02::1]:8080"), 7)
        }),
        both(["fragments: a reply's first", "fragments: a reply's later"], split(&answer, 7), Verdict::Reply, {
            split(&restored(&answer, "10.200.1.3:53"), 7)
        }),
        both(["fragments: a reply's first of IPv6", "fragments: a reply's later of IPv6"], split(&answer6, 7), Verdict::Reply, {
            split(&restored(&answer6, "[fd00::3]:80"), 7)
        }),
        both(["fragments: ipip, first", "fragments: ipip, later"], split(&tunnel, 7), Verdict::Redirect, tunnel_sent),
    ];
    let others = [
        untouched("fragments: one whose first did not come is dropped and counted", orphan, Verdict::Fragment),
        untouched("fragments: of IPv6 likewise", orphan6, Verdict::Fragment),
        untouched("fragments: an echo request in two is not answered", ping, Verdict::Fragment),
        untouched("fragments: nor its end", ping_later, Verdict::Fragment),
        untouched("fragments: a first one without a whole TCP header is truncated", tiny[0].clone(), Verdict::Truncated),
        case("fragments: a packet may be its own only one", only, Verdict::Tx, only_sent),
        untouched("fragments: to somebody else are theirs", elsewhere[0].clone(), Verdict::NotService),
        untouched("fragments: later ones too", elsewhere[1].clone(), Verdict::NotService),
    ];
    pairs.into_iter().flatten().chain(others).collect()
}

/// With this many bytes of payload.
fn tcp_of(len: u8) -> Content {
    Content::Tcp { flags: Flags::Ack, payload: (0..len).collect() }
}

fn vlan() -> Vec<Case> {
    let tagged = to_vip("10.200.1.1:80", tcp(Flags::Syn)).vlans(&[10]);
    let twice = to_vip("10.200.1.1:80", tcp(Flags::Syn)).vlans(&[100, 10]);
    let nat6 = to_vip("[fd00::3]:80", tcp(Flags::Syn)).vlans(&[10]);
    vec![
        case("a tag is looked past and kept", tagged.bytes(), Verdict::Tx, tagged.clone().macs(OURS, NEAR).bytes()),
        case("two tags are looked past and kept", twice.bytes(), Verdict::Tx, twice.clone().macs(OURS, NEAR).bytes()),
        case(
            "a tagged packet is rewritten like any other",
            nat6.bytes(),
            Verdict::Redirect,
            nat6.clone().macs(OURS_INSIDE, FAR).to("[fd02::1]:8080").ttl(63).bytes(),
        ),
        untouched("a frame cut inside its tag is truncated", cut(tagged.bytes(), 16), Verdict::Truncated),
    ]
}

fn headers() -> Vec<Case> {
    let options = to_vip("10.200.1.1:80", tcp(Flags::Syn)).options(&[1; 40]);
    let v6 = to_vip("[fd00::1]:80", tcp(Flags::Syn));
    let extended = |headers: &[u8]| with_extensions(&v6.bytes(), headers);
    let sent = |headers: &[u8]| with_extensions(&v6.clone().macs(OURS, NEAR).bytes(), headers);
    let six = [0, 60, 43, 60, 60, 60];
    let seven = [0, 60, 43, 60, 60, 60, 60];
    let mut padded = to_vip("10.200.1.1:80", Content::Tcp { flags: Flags::Ack, payload: vec![] }).bytes();
    padded.resize(60, 0);
    let padded_sent = patched(padded.clone(), 0, &[NEAR, OURS].concat());
    vec![
        case("IPv4 options are looked past", options.bytes(), Verdict::Tx, options.clone().macs(OURS, NEAR).bytes()),
        case("IPv6 extension headers are looked past", extended(&[0, 60]), Verdict::Tx, sent(&[0, 60])),
        case("six extension headers are looked past", extended(&six), Verdict::Tx, sent(&six)),
        untouched("seven are too many", extended(&seven), Verdict::Malformed),
        untouched("a frame cut inside an extension header is truncated", cut(extended(&[0]), 14 + 40), Verdict::Truncated),
        case("Ethernet padding is none of the packet's bytes", padded, Verdict::Tx, padded_sent),
    ]
}
