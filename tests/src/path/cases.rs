//! Packets, and what must become of them.

use lb_common::Verdict;
use lb_common::verdict::Class;

use super::fixture::{CLIENT, FAR, GATEWAY, NEAR, OURS, OURS_INSIDE};
use super::packets::{Content, Flags, Frame, arp, cut, frame, patched, tcp, udp, with_extensions};

/// One packet and its fate.
pub struct Case {
    pub name: &'static str,
    pub packet: Vec<u8>,
    pub verdict: Verdict,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

fn case(name: &'static str, packet: Vec<u8>, verdict: Verdict, frame: Vec<u8>) -> Case {
    Case { name, packet, verdict, frame }
}

/// A packet that nothing is changed in.
fn untouched(name: &'static str, packet: Vec<u8>, verdict: Verdict) -> Case {
    assert!(verdict.class() != Class::Forwarded, "{name}: what is forwarded is changed");
    case(name, packet.clone(), verdict, packet)
}

const CLIENT_PORT: &str = "10.9.0.100:40000";
const CLIENT_PORT_V6: &str = "[fd09::100]:40000";

fn to_vip(vip: &str, content: Content) -> Frame {
    frame(if vip.starts_with('[') { CLIENT_PORT_V6 } else { CLIENT_PORT }, vip, content)
}

fn reply(backend: &str, content: Content) -> Frame {
    frame(backend, if backend.starts_with('[') { CLIENT_PORT_V6 } else { CLIENT_PORT }, content).macs(FAR, OURS_INSIDE)
}

pub fn all() -> Vec<Case> {
    [dsr(), nat(), replies(), echo(), not_ours(), broken(), fragments(), vlan(), headers()].into_iter().flatten().collect()
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
    let syn = to_vip("10.200.1.1:80", tcp(Flags::Ack)).bytes();
    let elsewhere = frame(CLIENT_PORT, "10.9.0.1:22", tcp(Flags::Ack)).bytes();
    let syn6 = to_vip("[fd00::1]:80", tcp(Flags::Ack)).bytes();
    vec![
        untouched("a first fragment to a VIP is counted as such", patched(syn.clone(), 20, &[0x20, 0]), Verdict::Fragment),
        untouched("a later fragment likewise", patched(syn, 20, &[0, 100]), Verdict::Fragment),
        untouched("an IPv6 fragment likewise", with_extensions(&syn6, &[44]), Verdict::Fragment),
        untouched("fragments to somebody else are theirs", patched(elsewhere, 20, &[0x20, 0]), Verdict::NotService),
    ]
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
