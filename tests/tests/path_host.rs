//! The table of packet cases on the host. Needs neither root nor the BPF toolchain.

use xlb_tests::path::fixture::Interfaces;
use xlb_tests::path::host::{Frame, Host};
use xlb_tests::path::{cases, decap};

const INTERFACES: Interfaces = Interfaces { outside: 2, inside: 3 };

#[test]
fn every_packet_ends_as_its_case_says() {
    let host = Host::with_fixture(INTERFACES);
    let mut wrong = Vec::new();
    for case in cases::all() {
        let outcome = host.run(&case.packet, INTERFACES.outside);
        if outcome.verdict != case.verdict {
            wrong.push(format!("{}: {:?}, expected {:?}", case.name, outcome.verdict, case.verdict));
        } else if outcome.frame != case.frame {
            wrong.push(format!("{}:\n  got      {:02x?}\n  expected {:02x?}", case.name, outcome.frame, case.frame));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn packets_come_out_of_tunnels_as_their_cases_say() {
    let ends = decap::ends();
    for case in decap::all() {
        let mut frame = Frame::new(&case.packet, INTERFACES.inside);
        assert_eq!(lb_ebpf::decap::take_apart(&mut frame, &ends), case.outcome, "{}", case.name);
        assert_eq!(frame.bytes(), case.frame, "{}", case.name);
    }
}

#[test]
fn every_packet_is_counted_once() {
    let host = Host::with_fixture(INTERFACES);
    let cases = cases::all();
    for case in &cases {
        let _ = host.run(&case.packet, INTERFACES.outside);
    }
    let totals = host.totals.borrow();
    assert_eq!(totals.received, cases.len() as u64);
    assert_eq!(totals.verdicts.iter().sum::<u64>(), totals.received);
}
