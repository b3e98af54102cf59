//! What new flows are chosen for, by each algorithm, on the host and in the kernel alike.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::Verdict;
use lb_common::handshake::Handshakes;
use lb_user::desired::{Algorithm, Hashing};

use super::Outcome;
use super::packets::{Flags, frame, tcp};

/// Services of the fixture, each with backends of these weights.
pub const ALGORITHMS: [(Algorithm, Hashing); 7] = [
    (Algorithm::RoundRobin, HASHING),
    (Algorithm::WeightedRoundRobin, HASHING),
    (Algorithm::Random, HASHING),
    (Algorithm::LeastConnections, HASHING),
    (Algorithm::LeastResponseTime, HASHING),
    (Algorithm::Maglev, Hashing { max_load: Some(125), ..HASHING }),
    // All clients of these tests are one network.
    (Algorithm::IpHash, Hashing { client_prefix: Some(16), max_load: Some(150) }),
];
const HASHING: Hashing = Hashing { client_prefix: None, max_load: None };
pub const WEIGHTS: [u16; 3] = [1, 2, 5];
const N_TURNS: usize = 1 + 2 + 5;

/// What the addresses of these services begin with.
const VIPS: [u8; 3] = [10, 200, 3];

/// The address and port of a service, counted from 1.
pub fn vip(number: usize) -> String {
    format!("{}.{number}:80", VIPS.map(|byte| byte.to_string()).join("."))
}

/// Whether a frame may be for one of these services: where it goes is up to chance, and to the time, and may differ from run to run.
pub fn may_be_for_one(frame: &[u8]) -> bool {
    frame.windows(VIPS.len()).any(|bytes| bytes == VIPS)
}

fn number(algorithm: (Algorithm, Hashing)) -> usize {
    1 + ALGORITHMS.iter().position(|&other| other == algorithm).expect("it is in the fixture")
}

/// A client's way to a service: whichever flow of which client goes to which backend, by its last octet less one.
struct Client<'r> {
    run: &'r mut dyn FnMut(&[u8]) -> Outcome,
    vip: String,
}

impl Client<'_> {
    fn send(&mut self, flow: usize, flags: Flags) -> usize {
        let source = format!("10.9.{}.{}:{}", flow % 7, 1 + flow % 200, 1024 + flow);
        let outcome = (self.run)(&frame(&source, &self.vip, tcp(flags)).bytes());
        assert_eq!(outcome.verdict, Verdict::Redirect, "{} flow {flow}", self.vip);
        usize::from(outcome.frame[33]) - 1
    }

    /// Begins and confirms flows; how many each backend got.
    fn open(&mut self, flows: std::ops::Range<usize>) -> [usize; 3] {
        let mut counts = [0; 3];
        for flow in flows {
            let backend = self.send(flow, Flags::Syn);
            assert_eq!(self.send(flow, Flags::Ack), backend, "{} flow {flow}", self.vip);
            counts[backend] += 1;
        }
        counts
    }

    fn close(&mut self, flow: usize) {
        self.send(flow, Flags::Fin);
    }
}

/// Who is equally busy takes turns by chance.
fn assert_about(counts: [usize; 3], expected: [usize; 3]) {
    assert!(counts.iter().zip(expected).all(|(&count, expected)| count.abs_diff(expected) <= 3), "{counts:?}, not {expected:?}");
}

fn is_within(count: usize, ideal: f64, share: f64) -> bool {
    (count as f64 - ideal).abs() <= ideal * share
}

/// Checks that each step of a handshake is counted once, of a service whose flows are all on record. `counted` is what was counted of
/// all backends.
pub fn check_handshakes(run: &mut dyn FnMut(&[u8]) -> Outcome, counted: &dyn Fn() -> Handshakes) {
    let mut client = Client { run, vip: vip(number((Algorithm::WeightedRoundRobin, HASHING))) };
    let mut before = counted();
    let mut assert_counted = |what: &str, opened: u32, repeated: u32, answered: u64| {
        let since = counted().since(&before);
        assert_eq!((since.n_opened, since.n_repeated, since.n_answered()), (opened, repeated, answered), "{what}");
        assert_eq!(since.n_refused, 0, "{what}");
        before = counted();
    };
    client.send(7000, Flags::Syn);
    assert_counted("a SYN", 1, 0, 0);
    for _ in 0..3 {
        client.send(7000, Flags::Syn);
    }
    assert_counted("the same SYN, three times", 0, 3, 0);
    client.send(7000, Flags::Ack);
    assert_counted("the client goes on", 0, 0, 1);
    client.send(7000, Flags::Ack);
    client.close(7000);
    assert_counted("what comes then", 0, 0, 0);
    client.send(7000, Flags::Syn);
    assert_counted("another connection from the same port", 1, 0, 0);
    client.close(7000);
    assert_counted("a client that gives up at once has had an answer", 0, 0, 1);
    client.send(7001, Flags::Ack);
    assert_counted("a connection that began unseen", 0, 0, 0);
    let times = counted();
    assert_eq!(times.n_untimed, 0, "all SYNs were seen");
}

/// Checks all algorithms. `run` is a packet's way through the packet path with the fixture's tables.
pub fn check(run: &mut dyn FnMut(&[u8]) -> Outcome) {
    let mut with = |algorithm: (Algorithm, Hashing), check: fn(&mut Client<'_>)| {
        check(&mut Client { run: &mut *run, vip: vip(number(algorithm)) });
    };
    with((Algorithm::RoundRobin, HASHING), |client| {
        let order: Vec<usize> = (0..6).map(|flow| client.send(flow, Flags::Syn)).collect();
        assert_eq!(order[..3], order[3..], "turns repeat");
        assert_eq!(order[..3].iter().collect::<BTreeSet<_>>().len(), 3, "each has one: {order:?}");
        assert_eq!(client.open(10..310), [100; 3], "weights do not count");
    });
    with((Algorithm::WeightedRoundRobin, HASHING), |client| {
        assert_eq!(client.open(0..100 * N_TURNS), [100, 200, 500]);
        // Whoever begins again gets another turn; who only repeats himself does not.
        let first = client.send(5000, Flags::Syn);
        assert!((0..20).all(|_| client.send(5000, Flags::Syn) == first));
    });
    with((Algorithm::Random, HASHING), |client| {
        let counts = client.open(0..500 * N_TURNS);
        // Of 4,000, five standard deviations at the smallest share.
        let ideals = WEIGHTS.map(|weight| 500.0 * f64::from(weight));
        assert!(counts.iter().zip(ideals).all(|(&count, ideal)| (count as f64 - ideal).abs() < 5.0 * ideal.sqrt()), "{counts:?}");
    });
    with((Algorithm::LeastConnections, HASHING), |client| {
        let counts = client.open(0..100 * N_TURNS);
        assert_about(counts, [100, 200, 500]);
        // All that the heaviest has end: it gets what comes until it is as busy as the others again.
        let mut ended = 0;
        for flow in 0..100 * N_TURNS {
            if client.send(flow, Flags::Ack) == 2 {
                client.close(flow);
                ended += 1;
            }
        }
        assert_eq!(ended, counts[2]);
        assert_about(client.open(1000..1500), [0, 0, 500]);
        assert_about(client.open(2000..2000 + 10 * N_TURNS), [10, 20, 50]);
    });
    with((Algorithm::LeastResponseTime, HASHING), |client| {
        let counts = client.open(0..100 * N_TURNS);
        assert!(counts.iter().all(|&count| count > 0), "{counts:?}");
    });
    with((Algorithm::Maglev, Hashing { max_load: Some(125), ..HASHING }), |client| {
        let n = 200 * N_TURNS;
        let counts = client.open(0..n);
        for (&count, weight) in counts.iter().zip(WEIGHTS) {
            let share = n as f64 * f64::from(weight) / N_TURNS as f64;
            assert!(count as f64 <= 1.25 * share + 1.0, "{counts:?}");
        }
    });
    let spread = Hashing { client_prefix: Some(16), max_load: Some(150) };
    with((Algorithm::IpHash, spread), |client| {
        let n = 100 * N_TURNS;
        let counts = client.open(0..n);
        let mut bounds: BTreeMap<usize, f64> = BTreeMap::new();
        for (backend, (&count, weight)) in counts.iter().zip(WEIGHTS).enumerate() {
            let bound = 1.5 * n as f64 * f64::from(weight) / N_TURNS as f64;
            assert!(count as f64 <= bound + 1.0, "{counts:?}");
            bounds.insert(backend, bound);
        }
        // One network is one backend's, up to its bound.
        let own = counts.iter().enumerate().filter(|&(backend, &count)| is_within(count, bounds[&backend], 0.02));
        assert!(own.count() >= 1, "{counts:?}, bounds {bounds:?}");
    });
}
