//! What is told of traced packets, on the host and in the kernel alike.

use std::net::IpAddr;

use lb_common::admission::Rule;
use lb_common::trace::{HEAD_LEN, How, Prefix, RECORDS_MAX, Record, Rules};
use lb_common::verdict::{Class, Verdict};
use lb_common::{Addr, Be32};

use super::Outcome;
use super::cases::Case;
use super::fixture::CLIENT;
use super::packets::{Flags, frame, tcp};

/// Of every packet.
pub const ALL: Rules = Rules { verdicts: u64::MAX, until: u64::MAX, one_in: 1, n_max: RECORDS_MAX, id: 7, ..Rules::NONE };

/// One machine with the fixture's tables.
pub trait Traced {
    fn set(&mut self, rules: Rules);
    fn ingress(&self) -> u32;
    /// Takes a packet through the path, and all records that there are then.
    fn run(&mut self, packet: &[u8]) -> (Outcome, Vec<Record>);
}

pub fn prefix(address: &str, n_bits: u32) -> Prefix {
    let address: IpAddr = address.parse().expect("an address");
    let shift = if address.is_ipv4() { 32 - n_bits } else { 128 - n_bits };
    let mask = Addr::from(IpAddr::V6((u128::MAX << shift).into()));
    let mut address = Addr::from(address);
    address.words.iter_mut().zip(mask.words).for_each(|(word, mask)| *word = Be32::from_raw(word.raw() & mask.raw()));
    Prefix { address, mask }
}

/// Checks that a packet that is traced ends as any other, and is told as it came and as it left.
///
/// Yields the records.
pub fn check_all(machine: &mut dyn Traced, cases: &[Case]) -> Vec<Record> {
    machine.set(ALL);
    let check = |case: &Case| {
        let (outcome, records) = machine.run(&case.packet);
        assert_eq!(outcome.verdict, case.verdict, "{}", case.name);
        assert!(outcome.frame == case.frame, "{}:\n  got      {:02x?}\n  expected {:02x?}", case.name, outcome.frame, case.frame);
        let [record] = records[..] else { panic!("{}: {} records", case.name, records.len()) };
        assert_eq!((record.verdict, record.id, record.ingress), (case.verdict as u8, ALL.id, machine.ingress()), "{}", case.name);
        assert_eq!(record.frame_len as usize, case.packet.len(), "{}", case.name);
        assert_eq!(record.came(), &case.packet[..case.packet.len().min(HEAD_LEN)], "{}", case.name);
        if case.verdict.class() == Class::Forwarded {
            assert_eq!(record.frame_left_len as usize, case.frame.len(), "{}", case.name);
            assert_eq!(record.left(), &case.frame[..case.frame.len().min(HEAD_LEN)], "{}", case.name);
        } else {
            assert!(record.left().is_empty(), "{}", case.name);
        }
        let sends = [Verdict::Tx, Verdict::Redirect, Verdict::Routed, Verdict::Reply, Verdict::ReplyRouted];
        if sends.contains(&case.verdict) {
            assert!(record.service != 0 && record.backend != 0 && record.how != How::NOT, "{}: {:?}", case.name, record.how);
        }
        if case.verdict == Verdict::NotService {
            // What a NAT backend sends to the host itself is no reply to a client.
            let is_from_backend = record.how == How::REPLY;
            assert!(is_from_backend || (record.backend, record.how) == (0, How::NOT), "{}: {:?}", case.name, record.how);
        }
        record
    };
    cases.iter().map(check).collect()
}

/// Checks why packets are told to go where they go.
pub fn check_reasons(machine: &mut dyn Traced) {
    machine.set(ALL);
    let mut how = |source: &str, vip: &str, flags| {
        let (_, records) = machine.run(&frame(source, vip, tcp(flags)).bytes());
        let [record] = records[..] else { panic!("{source} > {vip}: {} records", records.len()) };
        (record.how, record.slot_index)
    };
    // By turns; all flows are on record.
    let by_turns = super::choices::vip(1);
    let (first, slot) = how("10.9.0.1:5", &by_turns, Flags::Syn);
    assert_eq!(first, How::CHOSEN);
    assert_eq!(how("10.9.0.1:5", &by_turns, Flags::Syn), (How::ON_RECORD, slot), "the same SYN again");
    assert_eq!(how("10.9.0.1:5", &by_turns, Flags::Ack), (How::ON_RECORD, slot));
    assert_eq!(how("10.9.0.1:6", &by_turns, Flags::Ack).0, How::CURRENT, "a connection that began unseen");
    let (at_rest, slot) = how("10.9.0.1:5", "10.200.1.7:80", Flags::Syn);
    assert!(at_rest == How::AT_REST && slot < 1 << 13, "a number among its service's: {slot}");
    assert_eq!(how("10.0.2.1:8080", "10.9.0.100:5", Flags::Ack).0, How::REPLY);
}

/// Checks that each filter lets pass what it should.
pub fn check_filters(machine: &mut dyn Traced) {
    let packets = [
        ("to a VIP", frame(&format!("{CLIENT}:5"), "10.200.1.1:80", tcp(Flags::Ack))),
        ("to a NAT service", frame(&format!("{CLIENT}:5"), "10.200.1.3:80", tcp(Flags::Ack))),
        ("its reply", frame("10.0.2.1:8080", &format!("{CLIENT}:5"), tcp(Flags::Ack))),
        ("from another", frame("10.8.0.1:5", "10.200.1.1:80", tcp(Flags::Ack))),
        ("by IPv6", frame("[fd09::100]:5", "[fd00::1]:80", tcp(Flags::Ack))),
        ("to no VIP", frame(&format!("{CLIENT}:5"), "10.77.0.1:80", tcp(Flags::Ack))),
        ("to nobody", frame(&format!("{CLIENT}:5"), "10.200.1.6:80", tcp(Flags::Ack))),
        ("tagged", frame(&format!("{CLIENT}:5"), "10.200.1.1:80", tcp(Flags::Ack)).vlans(&[7])),
    ];
    let only = |verdict: Verdict| Rules { verdicts: 1 << verdict as u8, ..ALL };
    let not_ip = [[0; 12].as_slice(), &[0x08, 0x06], &[0; 28]].concat();
    for (rules, expected, has_not_ip) in [
        (ALL, packets.each_ref().map(|(name, _)| *name).to_vec(), true),
        (Rules { vip: prefix("10.200.1.1", 32), ..ALL }, vec!["to a VIP", "from another", "tagged"], false),
        (Rules { vip: prefix("10.200.1.3", 32), ..ALL }, vec!["to a NAT service", "its reply"], false),
        (
            Rules { client: prefix(CLIENT, 24), ..ALL },
            vec!["to a VIP", "to a NAT service", "its reply", "to no VIP", "to nobody", "tagged"],
            false,
        ),
        (Rules { client: prefix("fd09::", 16), ..ALL }, vec!["by IPv6"], false),
        (Rules { backend: prefix("10.0.2.1", 32), ..ALL }, vec!["to a NAT service", "its reply"], false),
        (only(Verdict::NoBackend), vec!["to nobody"], false),
        (only(Verdict::NotService), vec!["to no VIP"], false),
        (only(Verdict::NotIp), vec![], true),
        (Rules { client: prefix(CLIENT, 32), vip: prefix("10.200.1.6", 32), ..ALL }, vec!["to nobody"], false),
        (Rules { until: 0, ..ALL }, vec![], false),
        (Rules::NONE, vec![], false),
    ] {
        machine.set(rules);
        let told: Vec<&str> = packets
            .iter()
            .filter(|(name, packet)| {
                let (_, records) = machine.run(&packet.bytes());
                assert!(records.len() <= 1, "{name}");
                !records.is_empty()
            })
            .map(|(name, _)| *name)
            .collect();
        assert_eq!(told, expected, "{rules:?}");
        assert_eq!(!machine.run(&not_ip).1.is_empty(), has_not_ip, "{rules:?}");
    }
}

/// Checks that one packet in so many is told, by chance. Yields how many of these packets were told with ten in a window.
pub fn check_bounds(machine: &mut dyn Traced, n_packets: usize) -> usize {
    let packet = frame("10.9.0.100:5", "10.200.1.1:80", tcp(Flags::Ack)).bytes();
    let mut told = |rules, n: usize| {
        machine.set(rules);
        (0..n).map(|_| machine.run(&packet).1.len()).sum::<usize>()
    };
    let limited = told(Rules { n_max: 0, ..ALL }, 50) + told(Rules { n_max: 10, ..ALL }, n_packets);
    let sampled = told(Rules { one_in: 4, ..ALL }, 2_000);
    assert!((400..600).contains(&sampled), "one in four of 2000: {sampled}");
    limited
}

/// Checks that a refusal is told with its rule.
pub fn check_refusals(machine: &mut dyn Traced, cases: &[Case]) {
    machine.set(ALL);
    let mut rules = Vec::new();
    for case in cases.iter().filter(|case| case.verdict == Verdict::Denied) {
        let (_, records) = machine.run(&case.packet);
        let [record] = records[..] else { panic!("{}: {} records", case.name, records.len()) };
        let rule = Rule::ALL[usize::from(record.rule)];
        assert!(matches!(rule, Rule::Deny | Rule::Allow), "{}: {rule:?}", case.name);
        assert!(record.scope == 0 || record.scope == record.service, "{}: a rule of another service", case.name);
        rules.push((record.scope == 0, rule));
    }
    assert!(rules.contains(&(true, Rule::Deny)) && rules.iter().any(|(is_of_all, _)| !is_of_all), "{rules:?}");
}

/// What of a record is the same on every machine.
pub fn what_is_the_same(record: &Record) -> Record {
    Record { at_ns: 0, ..*record }
}
