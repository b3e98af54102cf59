//! The table of packet cases on the host. Needs neither root nor the BPF toolchain.

use lb_common::admission::Rule;
use lb_common::handshake::Handshakes;
use lb_common::{BackendId, Verdict};
use xlb_tests::path::fixture::{self, Interfaces};
use xlb_tests::path::host::{Host, TracedHost};
use xlb_tests::path::packets::{Content, Flags, frame, tcp};
use xlb_tests::path::{cases, choices, decap, fullnat, quic, traces};

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
fn under_rules_of_admission_every_packet_ends_as_its_case_says() {
    let mut host = Host::with_fixture(INTERFACES);
    host.carry_out(&fixture::plan_to(INTERFACES, &fixture::guarded(INTERFACES)));
    for case in cases::guarded().into_iter().chain(cases::all()) {
        let outcome = host.run(&case.packet, INTERFACES.outside);
        assert_eq!((outcome.verdict, outcome.frame), (case.verdict, case.frame), "{}", case.name);
    }
    let n_refused: u64 = [Rule::Deny, Rule::Allow]
        .iter()
        .flat_map(|&rule| (0..9000).map(move |scope| (scope, rule)))
        .map(|(scope, rule)| host.refused(scope, rule))
        .sum();
    assert_eq!(n_refused, host.totals.borrow().of(Verdict::Denied), "each refusal is counted for one rule");
    assert!(host.refused(0, Rule::Deny) > 5, "those for all VIPs are counted apart");
}

#[test]
fn by_full_nat_packets_go_to_and_fro() {
    let host = Host::with_fixture(INTERFACES);
    fullnat::check(&mut |packet| host.run(packet, INTERFACES.outside));
}

#[test]
fn errors_about_packets_of_quic_follow_the_connection() {
    let host = Host::with_fixture(INTERFACES);
    quic::check(&mut |packet| host.run(packet, INTERFACES.outside));
}

#[test]
fn without_a_free_port_a_new_flow_is_refused_and_those_that_have_one_go_on() {
    let host = Host::with_fixture(INTERFACES);
    host.now.set(1000);
    let run = &mut |packet: &[u8]| host.run(packet, INTERFACES.outside);
    let n = fullnat::exhaust(run);
    assert!(n * 5 > 2104 * 4, "{n} of 2104");
    let live = host.live_sessions();
    assert_eq!(live.len(), n);
    assert_eq!(live.values().map(|key| key.raw()).collect::<std::collections::BTreeSet<_>>().len(), n, "each flow has one port");
    let again = |n| run(&frame(&format!("10.9.0.100:{}", 1024 + n), "10.200.5.1:80", tcp(Flags::Ack)).bytes()).verdict;
    assert!((0..n).map(again).all(|verdict| verdict == Verdict::Redirect));
    assert_eq!(host.live_sessions(), live);
    let id = (0..9000).find(|&id| host.service_drops(id) > 0);
    assert!(id.is_some(), "the service's drop is counted");
    // Nobody has answered: some seconds later the ports are anybody's.
    host.now.set(1000 + lb_common::session::UNANSWERED_FOR);
    assert_eq!(host.live_sessions().len(), 0);
    assert!(fullnat::exhaust(&mut |packet: &[u8]| host.run(packet, INTERFACES.outside)) >= n - 200);
}

#[test]
fn under_limits_bursts_pass_and_what_is_beyond_them_is_dropped() {
    let mut host = Host::with_fixture(INTERFACES);
    host.carry_out(&fixture::plan_to(INTERFACES, &fixture::limited(INTERFACES)));
    for case in cases::limited() {
        let outcome = host.run(&case.packet, INTERFACES.outside);
        assert_eq!((outcome.verdict, outcome.frame), (case.verdict, case.frame), "{}", case.name);
    }
    // Seventeen seconds, at which one more may pass of each.
    host.meter_time.set(host.meter_time.get() + u64::from(u32::MAX));
    let syn = &cases::limited()[3].packet;
    assert_eq!([0; 3].map(|_| host.run(syn, INTERFACES.outside).verdict), [Verdict::Tx, Verdict::Limited, Verdict::Limited]);
}

#[test]
fn a_flood_of_spoofed_sources_harms_nobody_and_who_sends_most_is_found() {
    let mut host = Host::with_fixture(INTERFACES);
    host.carry_out(&fixture::plan_to(INTERFACES, &fixture::limited(INTERFACES)));
    let packet = |from: String| {
        let content = Content::Tcp { flags: Flags::Ack, payload: Vec::new() };
        host.run(&frame(&from, "10.200.1.9:7", content).bytes(), INTERFACES.outside).verdict
    };
    let heavy = || packet("10.77.0.1:9".to_owned());
    assert_eq!((0..100).filter(|_| heavy() == Verdict::Tx).count(), 20);
    for n in 0..200_000u32 {
        let spoofed = std::net::Ipv4Addr::from_bits(0x6000_0000 + (n << 8));
        assert_eq!(packet(format!("{spoofed}:5")), Verdict::Tx, "who sends once passes");
        if n % 1000 == 0 {
            assert_eq!(heavy(), Verdict::Limited, "who sends most is not forgotten for others");
        }
    }
    let suspects = host.suspects.borrow();
    let most = suspects.values().max_by_key(|suspect| suspect.votes).unwrap();
    assert_eq!((most.high >> 32, most.n_bits, most.rule()), (0x0a4d_0000, 24, Some(Rule::SourcePackets)));
    assert_eq!(most.votes, 280);
}

#[test]
fn packets_come_out_of_tunnels_as_their_cases_say() {
    let ends = decap::ends();
    for case in decap::all() {
        let mut frame = lb_user::explain::Frame::new(&case.packet, INTERFACES.inside);
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

#[test]
fn new_flows_go_where_the_algorithm_says() {
    let host = Host::with_fixture(INTERFACES);
    choices::check(&mut |packet| host.run(packet, INTERFACES.outside));
    assert!(host.are_loads_right());
}

#[test]
fn each_step_of_a_handshake_is_counted_and_its_time() {
    let host = Host::with_fixture(INTERFACES);
    let counted = || {
        let of = |id| host.backend_counters(BackendId(id)).handshakes;
        (1..200).map(of).fold(Handshakes::default(), |sum, of_one| sum.with(&of_one))
    };
    choices::check_handshakes(&mut |packet| host.run(packet, INTERFACES.outside), &counted);
    let before = counted();
    let send = |flags| host.run(&frame("10.9.1.1:999", &choices::vip(2), tcp(flags)).bytes(), INTERFACES.outside);
    send(Flags::Syn);
    host.micros.set(host.micros.get() + 2_000);
    send(Flags::Syn);
    host.micros.set(host.micros.get() + 1_000);
    send(Flags::Ack);
    let since = counted().since(&before);
    assert_eq!((since.time, since.durations), (3_000, [0, 0, 0, 1, 0, 0, 0, 0, 0, 0]), "from the first SYN on");
}

#[test]
fn who_answers_slowly_gets_less_until_it_answers_fast_again() {
    let host = Host::with_fixture(INTERFACES);
    let vip = choices::vip(5);
    let send = |flow: usize, flags| {
        let source = format!("10.9.1.{}:{}", 1 + flow % 200, 1024 + flow);
        usize::from(host.run(&frame(&source, &vip, tcp(flags)).bytes(), INTERFACES.outside).frame[33]) - 1
    };
    // Each flow takes as long as its backend has it, and then ends.
    let n_of = |flows: std::ops::Range<usize>, slow: u32| {
        let mut counts = [0usize; 3];
        for flow in flows {
            let backend = send(flow, Flags::Syn);
            counts[backend] += 1;
            host.micros.set(host.micros.get() + if backend == 2 { slow } else { 1_000 });
            send(flow, Flags::Ack);
            send(flow, Flags::Fin);
            host.now.set(host.micros.get() >> 20);
        }
        counts
    };
    let equal = n_of(0..800, 1_000);
    assert!(equal[2] > equal[1] && equal[1] > equal[0], "{equal:?}");
    let slow = n_of(1000..9000, 100_000);
    assert!(slow[2] > 0 && slow[2] < 80, "a hundred times slower, tried now and then: {slow:?}");
    // Half a minute in which nobody asks, and it is tried again.
    host.micros.set(host.micros.get() + 30 * 1024 * 1024);
    let again = n_of(30_000..30_800, 1_000);
    assert!(again[2] > again[1] && again[1] > again[0], "{again:?}");
}

#[test]
fn once_the_daemon_is_away_for_too_long_the_host_gets_what_is_for_vips_or_nobody_does() {
    for watchdog in fixture::watchdogs() {
        let mut host = Host::with_fixture(INTERFACES);
        host.carry_out(&fixture::plan_to(INTERFACES, &fixture::watched(INTERFACES, watchdog)));
        host.attend_until(host.now.get() + 5);
        for (n_ticks, cases) in [(5, cases::all()), (6, cases::unattended(watchdog.absence))] {
            host.now.set(n_ticks);
            for case in cases {
                let outcome = host.run(&case.packet, INTERFACES.outside);
                assert_eq!((outcome.verdict, outcome.frame), (case.verdict, case.frame), "tick {n_ticks}, {}", case.name);
            }
        }
        // It is back.
        host.attend_until(7);
        let echo = cases::all().into_iter().find(|case| case.verdict == Verdict::EchoReply).expect("a ping");
        assert_eq!(host.run(&echo.packet, INTERFACES.outside).verdict, Verdict::EchoReply);
    }
}

fn traced() -> TracedHost {
    TracedHost(Host::with_fixture(INTERFACES), INTERFACES.outside)
}

#[test]
fn a_packet_that_is_traced_ends_as_any_other_and_is_told_as_it_came_and_left() {
    traces::check_all(&mut traced(), &cases::all());
}

#[test]
fn a_packet_is_told_with_the_reason_for_its_backend() {
    traces::check_reasons(&mut traced());
    let mut guarded = traced();
    guarded.0.carry_out(&fixture::plan_to(INTERFACES, &fixture::guarded(INTERFACES)));
    traces::check_refusals(&mut guarded, &cases::guarded());
}

#[test]
fn only_packets_that_are_asked_for_are_told() {
    traces::check_filters(&mut traced());
}

#[test]
fn no_more_packets_are_told_than_may_be() {
    let mut host = traced();
    assert_eq!(traces::check_bounds(&mut host, 500), 10, "time stands still: it is one window");
    assert_eq!(host.0.n_limited(), 50 + 490);
    let packet = frame("10.9.0.100:5", "10.200.1.1:80", tcp(Flags::Ack)).bytes();
    traces::Traced::set(&mut host, lb_common::trace::Rules { n_max: 10, ..traces::ALL });
    for window in 0..3 {
        host.0.meter_time.set(host.0.meter_time.get() + (1 << lb_common::trace::WINDOW_SHIFT));
        let n_told: usize = (0..12).map(|_| traces::Traced::run(&mut host, &packet).1.len()).sum();
        assert_eq!(n_told, 10, "window {window}");
    }
}
