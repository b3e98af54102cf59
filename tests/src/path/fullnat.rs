//! Conversations by full NAT. What stands for a client is not known before its first packet has left, so these are no single cases.

use std::net::{IpAddr, SocketAddr};

use lb_common::Verdict;
use lb_user::pool::Pool;

use super::cases::to_vip;
use super::fixture::{FAR, GATEWAY, OURS, OURS_INSIDE};
use super::packets::{self, Content, Flags, Frame, frame, patched, tcp, udp};
use super::{Outcome, mss, quic};

/// One machine with the fixture's tables: what becomes of a packet.
pub type Run<'r> = &'r mut dyn FnMut(&[u8]) -> Outcome;

/// Whether a frame may be for one of these services. Which port it gets, and whether any, depends on those before it and on the clock.
pub fn may_be_for_one(frame: &[u8]) -> bool {
    const V4: [u8; 3] = [10, 200, 5];
    const V6: [u8; 8] = [0xfd, 0, 0, 0, 0, 0, 0, 5];
    frame.windows(V4.len()).any(|bytes| bytes == V4) || frame.windows(V6.len()).any(|bytes| bytes == V6)
}

/// Two addresses of either family. Ports are no power of two: the verifier is content with less of one.
pub fn pool() -> Pool {
    let addresses = ["10.0.2.200", "fd02::200", "10.0.2.201", "fd02::201"];
    Pool { addresses: addresses.map(|address| address.parse().expect("an address")).to_vec(), ports: 20_000..=22_103 }
}

const ROUTER: &str = "10.8.0.1";
const ROUTER_V6: &str = "fd08::1";

/// The source of a frame that has left.
fn source(frame: &[u8]) -> SocketAddr {
    let packet = etherparse::SlicedPacket::from_ethernet(frame).expect("a packet");
    let address = match packet.net.expect("IP") {
        etherparse::NetSlice::Ipv4(ip) => ip.header().source_addr().into(),
        etherparse::NetSlice::Ipv6(ip) => ip.header().source_addr().into(),
        etherparse::NetSlice::Arp(_) => panic!("ARP"),
    };
    match packet.transport.expect("a transport header") {
        etherparse::TransportSlice::Tcp(tcp) => SocketAddr::new(address, tcp.source_port()),
        etherparse::TransportSlice::Udp(udp) => SocketAddr::new(address, udp.source_port()),
        _ => panic!("neither TCP nor UDP"),
    }
}

fn expect(run: Run<'_>, name: &str, packet: &[u8], verdict: Verdict, left: &[u8]) {
    let outcome = run(packet);
    assert_eq!(outcome.verdict, verdict, "{name}");
    assert!(outcome.frame == left, "{name}:\n  got      {:02x?}\n  expected {left:02x?}", outcome.frame);
}

fn untouched(run: Run<'_>, name: &str, packet: &Frame, verdict: Verdict) {
    expect(run, name, &packet.bytes(), verdict, &packet.bytes());
}

/// Of a client's packet to a VIP, as it leaves to a backend; what stands for the client.
fn sends(run: Run<'_>, name: &str, packet: &Frame, backend: &str) -> String {
    let outcome = run(&packet.bytes());
    assert_eq!(outcome.verdict, Verdict::Redirect, "{name}");
    let source = source(&outcome.frame);
    let pool = pool();
    assert!(pool.addresses.contains(&source.ip()) && pool.ports.contains(&source.port()), "{name}: {source}");
    let left = packet.clone().macs(OURS_INSIDE, FAR).from(&source.to_string()).to(backend).ttl(63).bytes();
    assert!(outcome.frame == left, "{name}:\n  got      {:02x?}\n  expected {left:02x?}", outcome.frame);
    source.to_string()
}

fn answers(run: Run<'_>, name: &str, content: Content, backend: &str, source: &str, vip: &str, client: &str) {
    let reply = frame(backend, source, content).macs(FAR, OURS_INSIDE);
    let left = reply.clone().macs(OURS, GATEWAY).from(vip).to(client).ttl(63);
    expect(run, name, &reply.bytes(), Verdict::Reply, &left.bytes());
}

/// Takes conversations of all kinds through the path.
pub fn check(run: Run<'_>) {
    let tcp4 = ("10.200.5.1:80", "10.0.2.41:8080", "10.9.0.100:40000");
    let tcp6 = ("[fd00:0:0:5::1]:80", "[fd02::41]:8080", "[fd09::100]:40000");
    let udp4 = ("10.200.5.1:53", "10.0.2.41:5353", "10.9.0.100:40000");
    let udp6 = ("[fd00:0:0:5::1]:53", "[fd02::41]:5353", "[fd09::100]:40000");
    let every = ("10.200.5.2:7777", "10.0.2.42:7777", "10.9.0.100:40000");
    let ack: fn() -> Content = || tcp(Flags::Ack);
    let mut sources = Vec::new();
    for (name, (vip, backend, client), content) in [
        ("TCP over IPv4", tcp4, ack),
        ("TCP over IPv6", tcp6, ack),
        ("UDP over IPv4", udp4, udp),
        ("UDP over IPv6", udp6, udp),
        ("a service on every port", every, ack),
    ] {
        let is_tcp = matches!(content(), Content::Tcp { .. });
        let first = to_vip(vip, if is_tcp { tcp(Flags::Syn) } else { content() });
        let source = sends(run, name, &first, backend);
        let again = sends(run, name, &first, backend);
        assert_eq!(again, source, "{name}: sent again, it has the same port");
        let answer = if is_tcp { tcp(Flags::SynAck) } else { content() };
        answers(run, name, answer, backend, &source, vip, client);
        assert_eq!(sends(run, name, &to_vip(vip, content()), backend), source, "{name}: so have later packets");
        answers(run, name, content(), backend, &source, vip, client);
        answers_unusual(run, content(), backend, &source, vip, client);
        let tagged = to_vip(vip, content()).vlans(&[10]);
        assert_eq!(sends(run, name, &tagged, backend), source, "{name}: so have unusual ones");
        check_errors(run, name, (vip, backend, client), &source, content);
        sources.push(source);
    }
    let addresses: Vec<_> = sources.iter().map(|source| source.rsplit_once(':').expect("a port").0).collect();
    assert!(addresses[0] == addresses[2] && addresses[1] == addresses[3], "a client has one source address: {addresses:?}");
    assert_ne!(sources[0], sources[2], "each session has a port of its own");
    check_edges(run, tcp4, &sources[0]);
    check_toa(run);
    check_mss(run);
    check_fragments(run);
    check_quic(run);
}

/// Packets and answers that come in two parts.
fn check_fragments(run: Run<'_>) {
    let tcp4 = ("10.200.5.1:80", "10.0.2.41:8080", "10.9.0.100:40000");
    let udp4 = ("10.200.5.1:53", "10.0.2.41:5353", "10.9.0.100:40000");
    let udp6 = ("[fd00:0:0:5::1]:53", "[fd02::41]:5353", "[fd09::100]:40000");
    let every = ("10.200.5.2:7777", "10.0.2.42:7777", "10.9.0.100:40000");
    let split = |packet: &Frame, id| packets::fragments(&packet.bytes(), packet.l4(), id, 64);
    let payload: Vec<u8> = (0..100).collect();
    let (datagram, segment) =
        (Content::Udp { payload: payload.clone() }, Content::Tcp { flags: Flags::Ack, payload: payload.clone() });
    for (n, (vip, backend, client), content) in
        [(1, tcp4, &segment), (2, udp4, &datagram), (3, udp6, &datagram), (4, every, &segment)]
    {
        let name = format!("fragments: {client} to {vip}");
        let came = to_vip(vip, content.clone());
        let [first, later] = split(&came, n);
        // On its own, it has nobody to follow.
        expect(run, &name, &later, Verdict::Fragment, &later);
        let source = source(&run(&came.bytes()).frame).to_string();
        let left = split(&came.macs(OURS_INSIDE, FAR).from(&source).to(backend).ttl(63), n);
        expect(run, &format!("{name}, first"), &first, Verdict::Redirect, &left[0]);
        expect(run, &format!("{name}, later"), &later, Verdict::Redirect, &left[1]);
        let answer = frame(backend, &source, content.clone()).macs(FAR, OURS_INSIDE);
        let restored = split(&answer.clone().macs(OURS, GATEWAY).from(vip).to(client).ttl(63), n);
        let [first, later] = split(&answer, n);
        expect(run, &format!("{name}, a later one of nothing"), &later, Verdict::NotService, &later);
        expect(run, &format!("{name}, a reply's first"), &first, Verdict::Reply, &restored[0]);
        expect(run, &format!("{name}, a reply's later"), &later, Verdict::Reply, &restored[1]);
        let stranger = if vip.starts_with('[') { "[fd02::99]:80" } else { "10.0.2.99:80" };
        for fragment in split(&frame(stranger, &source, content.clone()).macs(FAR, OURS_INSIDE), n) {
            expect(run, &format!("{name}, a stranger's"), &fragment, Verdict::NotService, &fragment);
        }
    }
}

/// Datagrams that name a backend have a session with that, from whatever port they come.
fn check_quic(run: Run<'_>) {
    let vip = "10.200.5.7:443";
    let mut sources = Vec::new();
    for (packet, backend) in [
        (quic::named_second(vip), "10.0.2.47:8443"),
        (quic::naming_nobody(vip), "10.0.2.46:8443"),
        (quic::named_second(vip).from("10.9.0.100:40001"), "10.0.2.47:8443"),
    ] {
        let client = packet.source.to_string();
        let name = format!("QUIC from {client} to {backend}");
        let source = sends(run, &name, &packet, backend);
        assert_eq!(sends(run, &name, &packet.clone().vlans(&[10]), backend), source, "{name}: sent again, it has the same port");
        answers(run, &name, packet.content.clone(), backend, &source, vip, &client);
        sources.push(source);
    }
    assert!(sources[0] != sources[1] && sources[0] != sources[2], "each flow has a port of its own: {sources:?}");
    // It is on record with whom it named, wherever it belongs.
    check_errors(run, "QUIC", (vip, "10.0.2.47:8443", "10.9.0.100:40001"), &sources[2], udp);
}

/// SYNs and their answers where no end is to send segments of full size.
fn check_mss(run: Run<'_>) {
    let [large, small] = [1460, mss::MSS].map(mss::linux);
    let segment = |flags| Content::Tcp { flags, payload: Vec::new() };
    for (vip, backend, client, is_named) in [
        ("10.200.5.5:80", "10.0.2.44:8080", "10.9.0.100:40000", false),
        ("[fd00:0:0:5::5]:80", "[fd02::44]:8080", "[fd09::100]:40000", false),
        ("10.200.5.6:80", "10.0.2.45:8080", "10.9.0.100:40000", true),
        ("[fd00:0:0:5::6]:80", "[fd02::45]:8080", "[fd09::100]:40000", true),
    ] {
        let option = if is_named { toa(client) } else { Vec::new() };
        for (vlans, name) in [(&[][..], format!("mss: {client}")), (&[10], format!("mss: {client}, tagged"))] {
            for (flags, leaves) in [(Flags::Syn, &small), (Flags::Ack, &large)] {
                let came = to_vip(vip, segment(flags)).vlans(vlans);
                let outcome = run(&came.clone().tcp_options(&large).bytes());
                assert_eq!(outcome.verdict, Verdict::Redirect, "{name}");
                let source = source(&outcome.frame).to_string();
                let left = came.macs(OURS_INSIDE, FAR).from(&source).to(backend).ttl(63);
                let left = left.tcp_options(&[&*option, leaves].concat()).bytes();
                assert!(outcome.frame == left, "{name}:\n  got      {:02x?}\n  expected {left:02x?}", outcome.frame);
                let (flags, leaves) = if flags == Flags::Syn { (Flags::SynAck, &small) } else { (Flags::Ack, &large) };
                let answer = frame(backend, &source, segment(flags)).macs(FAR, OURS_INSIDE).vlans(vlans);
                let restored = answer.clone().macs(OURS, GATEWAY).from(vip).to(client).ttl(63).tcp_options(leaves);
                expect(run, &name, &answer.tcp_options(&large).bytes(), Verdict::Reply, &restored.bytes());
            }
        }
    }
    let answer = frame("10.0.2.44:8080", "10.0.2.200:19999", segment(Flags::SynAck)).macs(FAR, OURS_INSIDE).tcp_options(&large);
    untouched(run, "mss: not of what nobody waits for", &answer, Verdict::NotService);
}

/// The option that names a client, of either family.
fn toa(client: &str) -> Vec<u8> {
    let client: SocketAddr = client.parse().expect("an address and a port");
    let address = match client.ip() {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    };
    [&[254, 4 + address.len() as u8], &client.port().to_be_bytes()[..], &address].concat()
}

/// Segments without data to a backend that is told who its clients are.
fn check_toa(run: Run<'_>) {
    let linux = [2, 4, 5, 180, 4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7];
    let (timestamps, padded) = ([1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8], |len: usize| vec![1; len]);
    for (vip, backend, client) in
        [("10.200.5.4:80", "10.0.2.43:8080", "10.9.0.100:40000"), ("[fd00:0:0:5::4]:80", "[fd02::43]:8080", "[fd09::100]:40000")]
    {
        let option = toa(client);
        let room = 40 - option.len();
        let content = |flags, payload: &[u8]| Content::Tcp { flags, payload: payload.to_vec() };
        // What came, what leaves in front of that, and how.
        let told = [
            ("a SYN without options", content(Flags::Syn, b""), vec![]),
            ("a SYN as Linux sends it", content(Flags::Syn, b""), linux.to_vec()),
            ("an acknowledgement", content(Flags::Ack, b""), timestamps.to_vec()),
            ("an end", content(Flags::Fin, b""), timestamps.to_vec()),
            ("one with just enough room", content(Flags::Ack, b""), padded(room)),
        ];
        let left_alone = [
            ("a segment with data", content(Flags::Ack, b"GET /"), timestamps.to_vec()),
            ("a SYN with data", content(Flags::Syn, b"GET /"), linux.to_vec()),
            ("a reset", content(Flags::Rst, b""), vec![]),
            ("one without room", content(Flags::Ack, b""), padded(room + 4)),
        ];
        let told = told.into_iter().map(|(name, content, options)| (name, content, [&option, &*options].concat(), options));
        let left_alone = left_alone.into_iter().map(|(name, content, options)| (name, content, options.clone(), options));
        for (name, content, leaves, came) in told.chain(left_alone) {
            for vlans in [&[][..], &[10], &[10, 20]] {
                let name = format!("TOA from {client} in {} tags: {name}", vlans.len());
                let packet = to_vip(vip, content.clone()).vlans(vlans);
                let outcome = run(&packet.clone().tcp_options(&came).bytes());
                assert_eq!(outcome.verdict, Verdict::Redirect, "{name}");
                let left = packet.macs(OURS_INSIDE, FAR).from(&source(&outcome.frame).to_string()).to(backend).ttl(63);
                let left = left.tcp_options(&leaves).bytes();
                assert!(outcome.frame == left, "{name}:\n  got      {:02x?}\n  expected {left:02x?}", outcome.frame);
            }
        }
    }
    let behind_options = to_vip("10.200.5.4:80", tcp(Flags::Ack)).options(&[1; 8]);
    sends(run, "TOA: IPv4 options are left alone", &behind_options, "10.0.2.43:8080");
}

fn answers_unusual(run: Run<'_>, content: Content, backend: &str, source: &str, vip: &str, client: &str) {
    let reply = frame(backend, source, content).macs(FAR, OURS_INSIDE).vlans(&[7]);
    let left = reply.clone().macs(OURS, GATEWAY).from(vip).to(client).ttl(63);
    expect(run, "a tagged reply", &reply.bytes(), Verdict::Reply, &left.bytes());
}

/// What a router says about a packet from `sender` to `addressee`, of which `len` bytes are quoted.
fn about(sender: &str, addressee: &str, content: Content, len: usize) -> Content {
    let packet = frame(sender, addressee, content).ttl(3);
    let quoted = packet.bytes()[packet.l3()..packet.l4() + len].to_vec();
    let kind = if packet.source.is_ipv4() { (3, 4) } else { (2, 0) };
    Content::Error { kind, word: 1280, quoted }
}

fn check_errors(run: Run<'_>, name: &str, (vip, backend, client): (&str, &str, &str), source: &str, content: fn() -> Content) {
    let host = |endpoint: &str| endpoint.parse::<SocketAddr>().expect("an endpoint").ip().to_string();
    let is_v4 = !vip.starts_with('[');
    let router = if is_v4 { ROUTER } else { ROUTER_V6 };
    for len in [8, 12, 25] {
        let len = len.min(if matches!(content(), Content::Udp { .. }) { 16 } else { 25 });
        // From the clients' side, about a reply.
        let came = frame(router, &host(vip), about(vip, client, content(), len));
        let left = frame(&host(source), &host(backend), about(backend, source, content(), len)).macs(OURS_INSIDE, FAR).ttl(63);
        expect(run, &format!("{name}: an error about a reply, {len}"), &came.bytes(), Verdict::Redirect, &left.bytes());
        // From a router before a backend, about a packet to that.
        let came = frame(router, &host(source), about(source, backend, content(), len)).macs(FAR, OURS_INSIDE);
        let left = frame(&host(vip), &host(client), about(client, vip, content(), len)).macs(OURS, GATEWAY).ttl(63);
        expect(run, &format!("{name}: an error about a packet, {len}"), &came.bytes(), Verdict::Reply, &left.bytes());
    }
    let stranger = if is_v4 { "10.0.2.99:80" } else { "[fd02::99]:80" };
    let wrong = frame(router, &host(source), about(source, stranger, content(), 8)).macs(FAR, OURS_INSIDE);
    untouched(run, &format!("{name}: an error about another's packet"), &wrong, Verdict::NotService);
}

fn check_edges(run: Run<'_>, (vip, backend, _): (&str, &str, &str), source: &str) {
    let reply = |from: &str, to: &str| frame(from, to, tcp(Flags::Ack)).macs(FAR, OURS_INSIDE);
    untouched(run, "another port of the backend's is no reply", &reply("10.0.2.41:8081", source), Verdict::NotService);
    untouched(run, "nor is another host", &reply("10.0.2.42:8080", source), Verdict::NotService);
    let udp_reply = frame(backend, source, udp()).macs(FAR, OURS_INSIDE);
    untouched(run, "nor another protocol", &udp_reply, Verdict::NotService);
    untouched(run, "nor a port that nobody has", &reply(backend, "10.0.2.200:19999"), Verdict::NotService);
    untouched(run, "nor one beyond the pool", &reply(backend, "10.0.2.200:22104"), Verdict::NotService);
    untouched(run, "nor what goes to another address", &reply(backend, "10.0.2.202:20000"), Verdict::NotService);
    let last_hop = to_vip(vip, tcp(Flags::Ack)).ttl(1);
    untouched(run, "a packet whose hops are used up", &last_hop, Verdict::TtlExceeded);
    let last_hop = reply(backend, source).ttl(1);
    untouched(run, "a reply whose hops are used up", &last_hop, Verdict::TtlExceeded);
    let options = to_vip(vip, tcp(Flags::Ack)).options(&[1; 8]);
    assert_eq!(sends(run, "behind IPv4 options", &options, backend), source);
    // Neither can be told from a checksum that is zero.
    let datagram = to_vip("10.200.5.1:53", udp());
    let unsummed = patched(datagram.bytes(), datagram.l4() + 6, &[0, 0]);
    let outcome = run(&unsummed);
    assert_eq!((outcome.verdict, &outcome.frame[datagram.l4() + 6..][..2]), (Verdict::Redirect, &[0, 0][..]), "no checksum");
    let bridged = to_vip("10.200.5.3:80", tcp(Flags::Syn));
    untouched(run, "the host would take it for forged", &bridged, Verdict::NoBackend);
    let unknown = frame(ROUTER, "10.200.5.1", about(vip, "10.9.0.100:1", tcp(Flags::Ack), 8));
    untouched(run, "an error about a connection that is over", &unknown, Verdict::NoBackend);
}

/// Opens connections from one client until one is refused; how many there were.
pub fn exhaust(run: Run<'_>) -> usize {
    let mut n = 0;
    loop {
        let client = format!("10.9.0.100:{}", 1024 + n);
        match run(&frame(&client, "10.200.5.1:80", tcp(Flags::Syn)).bytes()).verdict {
            Verdict::Redirect => n += 1,
            verdict => {
                assert_eq!(verdict, Verdict::NoSourcePort);
                return n;
            }
        }
    }
}
