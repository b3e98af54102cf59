use expect_test::{Expect, expect};

use super::*;
use crate::health::{self, State};
use crate::runtime::{BackendOverrides, Setting};
use crate::status::samples::service;
use crate::status::{Drain, samples};

fn backend(host: u8, state: State) -> BackendView {
    let check = health::Status { state, cause: format!("found {state}"), ..health::Status::default() };
    BackendView { check, serves: state.serves(), ..samples::backend(SocketAddr::from(([10, 0, 0, host], 80))) }
}

fn snapshot(services: Vec<ServiceView>) -> Snapshot {
    Snapshot { services, ..Snapshot::default() }
}

/// `web` with two backends that are up.
fn usual() -> Snapshot {
    snapshot(vec![service("web", vec![backend(1, State::Up), backend(2, State::Up)])])
}

fn check(now: Snapshot, expected: Expect) {
    let lines: Vec<String> = differences(&usual(), &now).iter().map(|change| serde_json::to_string(change).unwrap()).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn what_stays_is_no_event_and_what_the_journal_tells_is_none_here() {
    check(usual(), expect![""]);
    check(
        snapshot(vec![service("web", vec![backend(1, State::Down), backend(3, State::Up)]), service("api", Vec::new())]),
        expect![""],
    );
}

#[test]
fn weights_and_reach_are_told() {
    let by = Setting { value: 3, by: "root".into(), at_ms: 1_000 };
    let set = BackendOverrides { weight: Some(by), ..BackendOverrides::default() };
    let heavy = BackendView { weight: 3, set, unreachable: Some("no route leads to it".into()), ..backend(1, State::Up) };
    let light = BackendView { weight: 2, ..backend(2, State::Up) };
    check(
        snapshot(vec![service("web", vec![heavy, light])]),
        expect![[r#"
        {"kind":"backend_reach","service":"web","backend":"10.0.0.1:80","unreachable":"no route leads to it"}
        {"kind":"backend_weight","service":"web","backend":"10.0.0.1:80","from":1,"to":3,"by":"root"}
        {"kind":"backend_weight","service":"web","backend":"10.0.0.2:80","from":1,"to":2}"#]],
    );
}

#[test]
fn what_is_waited_for_is_named() {
    let waits_for = Some("web 10.0.0.3:80: the end of its first check".to_owned());
    check(
        Snapshot { waits_for, ..usual() },
        expect![[r#"{"kind":"ready","ready":false,"waits_for":"web 10.0.0.3:80: the end of its first check"}"#]],
    );
}

#[test]
fn a_slow_start_is_told_at_both_ends() {
    let with = |tenths: Option<u8>| {
        let mut snapshot = usual();
        snapshot.services[0].backends[0].place.tenths = tenths;
        snapshot
    };
    let told = |before: Option<u8>, now: Option<u8>| {
        let changes = differences(&with(before), &with(now));
        changes.iter().map(|change| serde_json::to_string(change).unwrap()).collect::<String>()
    };
    assert_eq!(told(None, Some(3)), r#"{"kind":"slow_start","service":"web","backend":"10.0.0.1:80","over":false}"#);
    assert_eq!(told(Some(3), Some(4)), "");
    assert_eq!(told(Some(9), None), r#"{"kind":"slow_start","service":"web","backend":"10.0.0.1:80","over":true}"#);
}

#[test]
fn a_drain_is_told_when_the_last_flow_has_gone() {
    let drain = |flows| Some(Drain { flows, silent_possible: true });
    let with = |drain| {
        let drains = BackendView { drain, ..backend(1, State::Up) };
        snapshot(vec![service("web", vec![drains, backend(2, State::Up)])])
    };
    check(with(drain(None)), expect![""]);
    check(with(drain(Some(2))), expect![""]);
    check(
        with(drain(Some(0))),
        expect![[r#"{"kind":"drained","service":"web","backend":"10.0.0.1:80","silent_possible":true}"#]],
    );
    assert!(differences(&with(drain(Some(0))), &with(drain(Some(0)))).is_empty());
}
