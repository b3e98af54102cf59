//! One frame through the packet path of the host, with the fixture's tables.

use lb_common::Verdict;
use lb_common::decap::Outcome;
use lb_common::verdict::Class;
use lb_user::desired::Forward;
use lb_user::explain::Frame;

use crate::path::decap;
use crate::path::fixture::{self, Interfaces};
use crate::path::host::Host;
use crate::path::judge::{carries, see};

const INTERFACES: Interfaces = Interfaces { outside: 2, inside: 3 };

thread_local!(static HOST: Host = Host::with_fixture(INTERFACES));

/// Any frame ends in one counted verdict, which its bytes bear out: only what is forwarded is changed, direct server return
/// changes link-layer addresses only, and another implementation finds lengths and checksums as right as they were.
pub fn packet(frame: &[u8]) {
    taken_apart(frame);
    HOST.with(|host| {
        let before = *host.totals.borrow();
        let outcome = host.run(frame, INTERFACES.outside);
        let after = *host.totals.borrow();
        assert_eq!(after.received, before.received + 1);
        let counted: Vec<_> = Verdict::ALL.iter().copied().filter(|&v| after.of(v) != before.of(v)).collect();
        assert_eq!(counted, [outcome.verdict]);
        assert_eq!(after.verdicts.iter().sum::<u64>(), after.received);
        assert_ne!(outcome.verdict, Verdict::Internal);

        // What is told to a sender is another packet.
        if outcome.verdict == Verdict::TooBig {
            assert!(etherparse::SlicedPacket::from_ethernet(&outcome.frame).is_ok());
            return;
        }
        if outcome.frame.len() != frame.len() {
            assert!(is_clamped(frame) || carries(&outcome.frame, frame), "a tunnel changes nothing of what is inside");
            assert!(!matches!(forward_of(frame), Some(Forward::Dsr | Forward::Nat)));
            return;
        }
        let mut changed: Vec<usize> = (0..frame.len()).filter(|&at| frame[at] != outcome.frame[at]).collect();
        match outcome.verdict.class() {
            Class::Forwarded => {}
            Class::Passed => {
                assert!(changed.is_empty(), "{:?} changed bytes {changed:?}", outcome.verdict);
                return;
            }
            // Nobody sees it any more.
            Class::Dropped => return,
        }
        if is_clamped(frame) {
            // A size in its options, and the checksum, which is looked at below.
            let n = changed.iter().filter(|&&at| at >= 12).count();
            assert!(n <= 4 || forward_of(frame) != Some(Forward::Dsr), "clamping changed bytes {changed:?}");
            changed.retain(|&at| at < FIRST_CHECKSUM);
        }
        if outcome.verdict != Verdict::EchoReply && forward_of(frame) == Some(Forward::Dsr) {
            assert!(changed.iter().all(|&at| at < 12), "dsr changed bytes {changed:?}");
        }
        if let Some(seen) = see(frame) {
            let forwarded = see(&outcome.frame).map(|seen| seen.checksums);
            assert_eq!(forwarded, Some(seen.checksums), "{:?}", outcome.verdict);
        }
    });
}

/// Where the checksum of a TCP header is in a frame, at the least.
const FIRST_CHECKSUM: usize = 14 + 20 + 16;

/// Whether it is to a service that clamps segment sizes, or from a backend of one.
fn is_clamped(frame: &[u8]) -> bool {
    let services = fixture::desired(INTERFACES).services;
    let mut clamping = services.values().filter(|service| service.mss.is_some());
    see(frame).is_some_and(|seen| {
        clamping.any(|service| {
            let is_to = service.vip == seen.destination.ip() && service.port == seen.destination.port();
            is_to || service.backends.keys().any(|backend| *backend == seen.source)
        })
    })
}

/// At the end of tunnels, a frame is untouched, or loses what it is told to have in front of an IP packet of its ethertype.
fn taken_apart(frame: &[u8]) {
    let mut taken = Frame::new(frame, INTERFACES.inside);
    let outcome = lb_ebpf::decap::take_apart(&mut taken, &decap::ends());
    if !matches!(outcome, Outcome::Ipip | Outcome::Gue) {
        assert_eq!(taken.bytes().len(), frame.len(), "{outcome:?}");
        return;
    }
    let taken = taken.bytes();
    assert!(frame.len() - taken.len() >= 20 && taken[..12] == frame[..12]);
    let inside = etherparse::LaxSlicedPacket::from_ethernet(taken).expect("an Ethernet header");
    let version = match inside.net {
        Some(etherparse::LaxNetSlice::Ipv4(_)) => Some(4),
        Some(etherparse::LaxNetSlice::Ipv6(_)) => Some(6),
        _ => None,
    };
    // Of a packet inside nothing but its version was looked at: another may find it cut short.
    let at = frame.len() - taken.len();
    let l3 = 14 + 4 * taken[12..].chunks(4).take(2).take_while(|tag| matches!(tag, [0x81, 0, ..] | [0x88, 0xa8, ..])).count();
    assert!(version.is_none_or(|version| version == frame[at + l3] >> 4), "{outcome:?}");
}

/// How the fixture's service forwards that a frame is for.
fn forward_of(frame: &[u8]) -> Option<Forward> {
    let destination = see(frame)?.destination;
    let is_it = |vip, port| vip == destination.ip() && (port == destination.port() || port == 0);
    let services = fixture::desired(INTERFACES).services;
    services.values().find(|service| is_it(service.vip, service.port)).map(|service| service.forward)
}
