//! Courses of results, and what they make of a backend.

use std::net::SocketAddr;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::quota::Quota;
use super::super::{Probe, breaker, flapping, suspicion};
use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn checks(check: Check) -> Checks {
    Checks::new(Mode::All, vec![check])
}

/// Results of one check, a second each, such as `+` passed, `-` failed, `50%`, `drain`, `slow`; the conditions after each.
fn course(checks: &Checks, seat: Option<Seat>, results: &str) -> String {
    let mut vitals = Vitals::new(checks, seat);
    let mut now = Instant::now();
    let mut shown = Vec::new();
    for word in results.split_whitespace() {
        let text = String::new();
        let latency = if word == "slow" { SECOND } else { Duration::ZERO };
        let outcome = match word {
            "+" | "slow" => Outcome::Passed(text),
            "-" => Outcome::Failed(text),
            "?" => Outcome::Unasked(text),
            "drain" => Outcome::Advised(Advice::Drain, text),
            "maint" => Outcome::Advised(Advice::Maint, text),
            percent => Outcome::Advised(Advice::percent(percent.trim_end_matches('%').parse().unwrap()), text),
        };
        let (before, left) = (vitals.condition(), vitals.observe(0, &outcome, latency, now));
        assert_eq!(left, (before != vitals.condition()).then_some(before), "{results}");
        let Condition { state, parts } = vitals.condition();
        let percent = parts.steps() * 100 / Parts::STEPS;
        shown.push(if percent == 100 { state.to_string() } else { format!("{state} {percent}%") });
        now += SECOND;
    }
    shown.join(", ")
}

#[test]
fn an_agents_word_holds_while_its_check_does() {
    for (results, expected) in [
        ("100% 50% 0% 75%", "up, up 50%, drain, up 75%"),
        ("drain maint 100%", "drain, maint, up"),
        // A failure that does not decide leaves what was said, and so does one that says nothing.
        ("50% - ? 50%", "up 50%, up 50%, up 50%, up 50%"),
        ("drain - - 50% 50%", "drain, drain, down, down, up 50%"),
        // One that is down has to come up before it is drained.
        ("- - drain drain", "unknown, down, down, drain"),
    ] {
        assert_eq!(course(&checks(Check::default()), None, results), expected, "{results}");
    }
}

#[test]
fn an_agent_that_is_down_has_no_say() {
    let checks = Checks::new(Mode::Any, vec![Check { fall: 1, ..Check::default() }; 2]);
    let mut vitals = Vitals::new(&checks, None);
    let mut observe = |index, outcome| vitals.observe(index, &outcome, Duration::ZERO, Instant::now()).is_some();
    assert!(observe(0, Outcome::Passed(String::new())));
    assert!(observe(1, Outcome::Advised(Advice::Drain, String::new())));
    assert!(observe(1, Outcome::Failed(String::new())));
    assert_eq!(vitals.condition(), State::Up.into());
}

#[test]
fn a_row_of_slow_answers_degrades_and_a_row_of_quick_ones_mends() {
    let degraded = Some(Degraded { above: Duration::from_millis(200), percent: 50 });
    let checks = checks(Check { degraded, ..Check::default() });
    for (results, expected) in [
        ("+ slow + slow slow + + +", "up, up, up, up, degraded 50%, degraded 50%, up, up"),
        // A failure is neither slow nor quick.
        ("+ slow - slow", "up, up, up, degraded 50%"),
        ("slow slow slow", "up, degraded 50%, degraded 50%"),
        ("slow slow - - + +", "up, degraded 50%, degraded 50%, down, down, up"),
        ("slow slow drain 50%", "up, degraded 50%, drain, up 50%"),
    ] {
        assert_eq!(course(&checks, None, results), expected, "{results}");
    }
}

fn breaking() -> Checks {
    let rules = breaker::Rules { requests_min: 4, ejection: 3 * SECOND, ..breaker::Rules::default() };
    Checks { breaker: Some(rules), ..checks(Check::default()) }
}

/// A seat beside one of another backend that serves.
fn seats() -> (Seat, Seat) {
    let quota = Arc::new(Quota::default());
    quota.set_max(50);
    let seat = |n| Seat::new(Arc::clone(&quota), SocketAddr::from(([10, 0, 0, n], 80)));
    (seat(1), seat(2))
}

#[test]
fn a_backend_that_fails_every_other_probe_is_ejected() {
    for (results, expected) in [
        ("+ - + - + + + +", "up, up, up, up, ejected, ejected, ejected, ejected"),
        ("+ - + - + + + + + + +", "up, up, up, up, ejected, ejected, ejected, ejected, ejected, up, up"),
        // What takes it down is told as such, and not held against it.
        ("+ - - + + + + + +", "up, up, down, down, up, up, up, up, up"),
        ("+ - + - + - - + +", "up, up, up, up, ejected, ejected, down, down, ejected"),
    ] {
        let (seat, other) = seats();
        other.note_serving(true);
        assert_eq!(course(&breaking(), Some(seat), results), expected, "{results}");
    }
}

#[test]
fn the_last_one_is_not_ejected() {
    let (seat, other) = seats();
    assert_eq!(course(&breaking(), Some(seat), "+ - + - + -"), "up, up, up, up, up, up");
    drop(other);
}

#[test]
fn one_that_flaps_is_held_until_it_has_been_up_for_long() {
    let rules = flapping::Rules { changes: 3, hold: Some(3 * SECOND), ..flapping::Rules::default() };
    let checks = Checks { flapping: rules, ..checks(Check { rise: 1, fall: 1, ..Check::default() }) };
    for (results, expected) in [
        ("+ - + - + + + + +", "up, down, up, down, held, held, held, up, up"),
        ("+ - + - + - + + + + + + +", "up, down, up, down, held, down, held, held, held, held, held, held, up"),
    ] {
        let (seat, other) = seats();
        other.note_serving(true);
        assert_eq!(course(&checks, Some(seat), results), expected, "{results}");
    }
    let unheld = Checks { flapping: flapping::Rules { hold: None, ..rules }, ..checks };
    assert_eq!(course(&unheld, None, "+ - + - +"), "up, down, up, down, up");
}

proptest! {
    /// Whatever was found: one that is down by its checks is down, and never do more get out than may.
    #[test]
    fn nobody_is_out_who_may_not_be(results in prop::collection::vec((0usize..4, any::<bool>()), 1..300)) {
        let quota = Arc::new(Quota::default());
        quota.set_max(50);
        let hold = flapping::Rules { changes: 3, hold: Some(2 * SECOND), ..flapping::Rules::default() };
        let checks = Checks { flapping: hold, ..breaking() };
        let mut all: Vec<Vitals> = (1..=4)
            .map(|n| Vitals::new(&checks, Some(Seat::new(Arc::clone(&quota), SocketAddr::from(([10, 0, 0, n], 80))))))
            .collect();
        let mut rows = vec![Machine::new(2, 2); 4];
        let mut now = Instant::now();
        for (index, passed) in results {
            let outcome = if passed { Outcome::Passed(String::new()) } else { Outcome::Failed(String::new()) };
            all[index].observe(0, &outcome, Duration::ZERO, now);
            rows[index].observe(passed);
            now += Duration::from_millis(300);
            let state = all[index].condition().state;
            match rows[index].state() {
                State::Up => prop_assert!(state.passes()),
                other => prop_assert_eq!(state, other),
            }
            let n_out = all.iter().filter(|vitals| vitals.condition().state.is_distrusted()).count();
            prop_assert!(n_out <= 2, "{} of 4 are out", n_out);
        }
    }
}

#[test]
fn flows_alone_eject_a_backend_that_nobody_asks_and_try_it_by_a_tenth() {
    let unasked = Check { probe: Probe::None, ..Check::default() };
    let passive = Some(suspicion::Rules::default());
    let rules = breaker::Rules { ejection: 2 * SECOND, ..breaker::Rules::default() };
    let checks = Checks { passive, breaker: Some(rules), ..checks(unasked) };
    let (seat, other) = seats();
    other.note_serving(true);
    let mut vitals = Vitals::new(&checks, Some(seat));
    let mut now = Instant::now();
    vitals.observe(0, &Outcome::Passed(String::new()), Duration::ZERO, now);
    let mut see = |passed, failed| {
        now += SECOND;
        assert!(vitals.observe_flows(Counts { passed, failed }, now).0.is_none(), "nobody could look");
        let Condition { state, parts } = vitals.condition();
        format!("{state} {}", parts.degraded)
    };
    let shown = [(9, 1), (0, 20), (0, 0), (0, 0), (2, 0), (3, 0)].map(|(passed, failed)| see(passed, failed));
    assert_eq!(shown, ["up 100", "ejected 100", "ejected 100", "degraded 10", "degraded 10", "up 100"]);
}
