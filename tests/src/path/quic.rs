//! Datagrams to services that go by QUIC connection IDs. Of each service's backends the first gets what no ID names anybody for, the
//! second only what names it, and the third is down.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::Verdict;
use lb_user::desired::{NextHop, Service};
use lb_user::server_ids::ServerIds;

use super::cases::{Case, about, case, to_vip, tunnelled};
use super::fixture::{FAR, NEAR, OURS, OURS_INSIDE};
use super::fullnat::Run;
use super::packets::{Content, Frame, frame, patched, udp};

/// Of connection IDs that are read.
const CONFIGS: u8 = 0b000_0101;
const FIRST: [u8; 3] = [1, 2, 3];
const SECOND: [u8; 3] = [1, 2, 4];
const DOWN: [u8; 3] = [1, 2, 5];
const NOBODY: [u8; 3] = [9, 9, 9];

const VERSION_1: u32 = 1;
const VERSION_2: u32 = 0x6b33_43cf;
/// Types of long headers in version 1.
const INITIAL: u8 = 0;
const ZERO_RTT: u8 = 1;
const HANDSHAKE: u8 = 2;

/// A service whose backends have these IDs, in their order.
pub fn with_ids(mut service: Service) -> Service {
    let mut listed = BTreeMap::new();
    for ((endpoint, backend), (id, n)) in service.backends.iter_mut().zip([FIRST, SECOND, DOWN].into_iter().zip(0..)) {
        let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
        listed.insert(*endpoint, digits.parse().expect("a server ID"));
        backend.weight = if n == 1 { 0 } else { 1 };
        backend.alive = n != 2;
    }
    service.server_ids = Some(Arc::new(ServerIds { len: 3, configs: CONFIGS, are_addresses: false, listed }));
    service
}

/// Their endpoints, and where those are.
pub fn backends(endpoints: [&str; 3], ways: [NextHop; 2]) -> [(&str, Option<NextHop>); 3] {
    [(endpoints[0], Some(ways[0])), (endpoints[1], Some(ways[1])), (endpoints[2], Some(ways[0]))]
}

/// A connection ID of 12 bytes: the first octet of a configuration, a server's ID, and a nonce.
fn connection_id(config: u8, server: [u8; 3]) -> Vec<u8> {
    [&[config << 5 | 0b10110][..], &server, &[0xee; 8]].concat()
}

/// A datagram of a connection that the second backend has.
pub fn named_second(vip: &str) -> Frame {
    to_vip(vip, short(&connection_id(0, SECOND)))
}

/// One whose flow the first has.
pub fn naming_nobody(vip: &str) -> Frame {
    to_vip(vip, short(&connection_id(0, NOBODY)))
}

fn short(id: &[u8]) -> Content {
    Content::Udp { payload: [&[0x41][..], id, &[0x77; 20]].concat() }
}

/// The destination's ID; the source's has 4 bytes.
fn long(version: u32, kind: u8, id: &[u8]) -> Content {
    let first = [0xc0 | kind << 4 | 3];
    let lens = [id.len() as u8];
    Content::Udp { payload: [&first, &version.to_be_bytes()[..], &lens, id, &[4, 1, 1, 1, 1], &[0x77; 40]].concat() }
}

pub fn all() -> Vec<Case> {
    [dsr("10.200.4.1:443"), dsr("[fd00:0:0:3::1]:443"), nat(), tunnel()].into_iter().flatten().collect()
}

/// Errors about packets of flows that are with whom they named, and not where they belong. They quote no connection ID.
pub fn check(run: Run<'_>) {
    for (vip, [named, other], router) in [
        ("10.200.4.1:443", ["10.9.0.100:40000", "10.9.0.100:40001"], "10.8.0.1"),
        ("[fd00:0:0:3::1]:443", ["[fd09::100]:40000", "[fd09::100]:40001"], "fd08::1"),
    ] {
        assert_eq!(run(&named_second(vip).from(named).bytes()).verdict, Verdict::Redirect, "{vip}");
        let host = vip.parse::<SocketAddr>().expect("an endpoint").ip().to_string();
        let about = |client| frame(router, &host, about(vip, client, udp(), 8));
        for (client, verdict, macs) in [(named, Verdict::Redirect, (OURS_INSIDE, FAR)), (other, Verdict::Tx, (OURS, NEAR))] {
            let outcome = run(&about(client).bytes());
            assert_eq!(outcome.verdict, verdict, "an error about a packet to {client}");
            assert_eq!(outcome.frame, about(client).macs(macs.0, macs.1).bytes(), "an error about a packet to {client}");
        }
    }
}

fn dsr(vip: &str) -> Vec<Case> {
    let is_v4 = vip.starts_with("10.");
    let first = |name, packet: Frame| case(name, packet.bytes(), Verdict::Tx, packet.clone().macs(OURS, NEAR).bytes());
    let second =
        |name, packet: Frame| case(name, packet.bytes(), Verdict::Redirect, packet.clone().macs(OURS_INSIDE, FAR).bytes());
    let to = |content| to_vip(vip, content);
    let by_second = || connection_id(2, SECOND);
    let mut cases = vec![
        first("quic: a short header that names the first", to(short(&connection_id(0, FIRST)))),
        second("quic: a short header that names the second", to(short(&by_second()))),
        second("quic: in a connection ID of another configuration", to(short(&connection_id(0, SECOND)))),
        first("quic: a configuration that is not in use names nobody", to(short(&connection_id(1, SECOND)))),
        first("quic: nor does the one that is of no configuration", to(short(&connection_id(7, SECOND)))),
        first("quic: a server ID that nobody has", to(short(&connection_id(2, NOBODY)))),
        first("quic: who is down is not named", to(short(&connection_id(2, DOWN)))),
        second("quic: a long header that names the second", to(long(VERSION_1, HANDSHAKE, &by_second()))),
        second("quic: whatever its type", to(long(VERSION_1, INITIAL, &by_second()))),
        second("quic: whatever its version", to(long(0xff00_001d, HANDSHAKE, &by_second()))),
        first("quic: a connection begins with an ID that names nobody", to(long(VERSION_1, INITIAL, &connection_id(2, NOBODY)))),
        first("quic: in version 2 likewise", to(long(VERSION_2, INITIAL + 1, &connection_id(7, NOBODY)))),
        first("quic: 0-RTT goes with it", to(long(VERSION_1, ZERO_RTT, &connection_id(2, NOBODY)))),
        first("quic: a connection ID that ends in the server's", to(long(VERSION_1, HANDSHAKE, &by_second()[..3]))),
        second("quic: a connection ID without a nonce", to(long(VERSION_1, HANDSHAKE, &by_second()[..4]))),
        first("quic: no connection ID at all", to(long(VERSION_1, HANDSHAKE, &[]))),
        first("quic: a datagram that is too short for one", to(Content::Udp { payload: by_second() })),
        first("quic: an empty datagram", to(Content::Udp { payload: Vec::new() })),
        second("quic: in a tagged frame", to(short(&by_second())).vlans(&[10])),
    ];
    let mut padded = to(Content::Udp { payload: vec![0x41] }).bytes();
    padded.extend(by_second());
    padded.resize(80, 0);
    let padded_sent = patched(padded.clone(), 0, &[NEAR, OURS].concat());
    cases.push(case("quic: what follows the packet is none of it", padded, Verdict::Tx, padded_sent));
    if is_v4 {
        cases.push(second("quic: behind IPv4 options", to(short(&by_second())).options(&[1; 8])));
    }
    cases
}

fn nat() -> Vec<Case> {
    let sent = |packet: &Frame, backend: &str| packet.clone().macs(OURS_INSIDE, FAR).to(backend).ttl(63).bytes();
    let packet = |server| to_vip("10.200.4.2:443", short(&connection_id(0, server)));
    let (named, unnamed) = (packet(SECOND), packet(NOBODY));
    vec![
        case("quic: by nat to whom it names", named.bytes(), Verdict::Redirect, sent(&named, "10.0.2.32:8443")),
        case("quic: by nat to whom the flow belongs", unnamed.bytes(), Verdict::Redirect, sent(&unnamed, "10.0.2.31:8443")),
    ]
}

fn tunnel() -> Vec<Case> {
    let packet = |server| to_vip("10.200.4.3:443", short(&connection_id(0, server)));
    let (named, unnamed) = (packet(SECOND), packet(NOBODY));
    let redirect = Verdict::Redirect;
    vec![
        case("quic: by ipip to whom it names", named.bytes(), redirect, tunnelled(&named, "10.0.2.35", false)),
        case("quic: by ipip to whom the flow belongs", unnamed.bytes(), redirect, tunnelled(&unnamed, "10.0.2.34", false)),
    ]
}
