use std::net::SocketAddr;

use expect_test::{Expect, expect};
use lb_common::counters::BackendCounters;

use super::*;
use crate::daemon::ServiceSums;
use crate::desired::{Algorithm, Forward, Protocol};
use crate::health;
use crate::runtime::{Admin, BackendOverrides, Setting};
use crate::status::{Drain, ZoneStatus};

fn backend(host: u8, state: State) -> BackendView {
    BackendView {
        id: None,
        endpoint: SocketAddr::from(([10, 0, 0, host], 80)),
        weight: 1,
        check: health::Status { state, cause: format!("found {state}"), ..health::Status::default() },
        serves: state.serves(),
        unreachable: None,
        sources: vec!["fixed"],
        zone: None,
        server_id: None,
        base: BackendCounters::default(),
        flows: 0,
        set: BackendOverrides::default(),
        drain: None,
        place: crate::failover::Place::default(),
    }
}

fn service(name: &str, backends: Vec<BackendView>) -> ServiceView {
    ServiceView {
        id: None,
        name: name.into(),
        vip: [192, 0, 2, 1].into(),
        port: 80,
        protocol: Protocol::Tcp,
        algorithm: Algorithm::Maglev,
        forward: Forward::Dsr,
        counts_handshakes: false,
        discovery: Vec::new(),
        backends,
        slots: None,
        n_slots_restless: 0,
        leaving: Vec::new(),
        drop_base: 0,
        maintenance: None,
        failover: None,
    }
}

fn snapshot(services: Vec<ServiceView>) -> Snapshot {
    Snapshot { services, is_ready: true, ..Snapshot::default() }
}

/// `web` with two backends that are up.
fn usual() -> Snapshot {
    snapshot(vec![service("web", vec![backend(1, State::Up), backend(2, State::Up)])])
}

fn check(now: Snapshot, expected: Expect) {
    let lines: Vec<String> =
        differences(Some(&usual()), &now).iter().map(|change| serde_json::to_string(change).unwrap()).collect();
    expected.assert_eq(&lines.join("\n"));
}

#[test]
fn what_stays_is_no_event() {
    check(usual(), expect![""]);
}

#[test]
fn a_backend_that_dies_is_told_with_its_cause_and_the_slots_that_moved() {
    let mut now = snapshot(vec![service("web", vec![backend(1, State::Down), backend(2, State::Up)])]);
    now.sums.services.insert("web".into(), ServiceSums { n_slots_moved: 512, ..ServiceSums::default() });
    check(
        now,
        expect![[r#"
            {"kind":"backend_state","service":"web","backend":"10.0.0.1:80","from":"up","to":"down","cause":"found down"}
            {"kind":"slots_moved","service":"web","n_slots":512}"#]],
    );
}

#[test]
fn the_last_backend_takes_its_service_along() {
    check(
        snapshot(vec![service("web", vec![backend(1, State::Down)])]),
        expect![[r#"
            {"kind":"backend_removed","service":"web","backend":"10.0.0.2:80"}
            {"kind":"backend_state","service":"web","backend":"10.0.0.1:80","from":"up","to":"down","cause":"found down"}
            {"kind":"service_state","service":"web","up":false}"#]],
    );
}

#[test]
fn weights_and_reach_are_told_and_so_are_newcomers() {
    let heavy = BackendView { weight: 3, unreachable: Some("no route leads to it".into()), ..backend(1, State::Up) };
    check(
        snapshot(vec![service("web", vec![heavy, backend(2, State::Up), backend(3, State::Unknown)])]),
        expect![[r#"
            {"kind":"backend_reach","service":"web","backend":"10.0.0.1:80","unreachable":"no route leads to it"}
            {"kind":"backend_weight","service":"web","backend":"10.0.0.1:80","from":1,"to":3}
            {"kind":"backend_added","service":"web","backend":"10.0.0.3:80","weight":1}"#]],
    );
}

#[test]
fn a_reload_comes_before_what_it_brought() {
    let mut now = Snapshot { is_ready: false, ..snapshot(vec![service("api", Vec::new())]) };
    now.sums.n_reloads = 1;
    check(
        now,
        expect![[r#"
            {"kind":"reload","accepted":true}
            {"kind":"service_removed","service":"web"}
            {"kind":"service_added","service":"api"}
            {"kind":"ready","ready":false}"#]],
    );
}

#[test]
fn a_refused_reload_and_tables_that_cannot_be_written_say_why() {
    let mut now = usual();
    now.sums.n_reloads_refused = 1;
    now.sums.last_reload_refused = Some("invalid `port` --> xlb.toml:7:8".into());
    now.sums.failing = Some("service web: no room for 8192 slots".into());
    check(
        now,
        expect![[r#"
            {"kind":"reload","accepted":false,"cause":"invalid `port` --> xlb.toml:7:8"}
            {"kind":"tables","failing":"service web: no room for 8192 slots"}"#]],
    );
}

#[test]
fn interfaces_come_go_and_change_their_mode() {
    let interface = |name: &str, mode| Interface { name: name.into(), ifindex: 2, mode };
    let before = Snapshot { interfaces: vec![interface("eth0", "native"), interface("eth1", "native")], ..usual() };
    let now = Snapshot { interfaces: vec![interface("eth1", "generic"), interface("eth2", "native")], ..usual() };
    let changes: Vec<String> =
        differences(Some(&before), &now).iter().map(|change| serde_json::to_string(change).unwrap()).collect();
    expect![[r#"
        {"kind":"interface_detached","interface":"eth0"}
        {"kind":"interface_attached","interface":"eth1","mode":"generic"}
        {"kind":"interface_attached","interface":"eth2","mode":"native"}"#]]
    .assert_eq(&changes.join("\n"));
}

#[test]
fn a_source_that_does_not_answer_is_told_once_and_so_is_its_return() {
    let with = |stale: bool| {
        let last_error = stale.then(|| "10.0.0.53:53: timed out".to_owned());
        let dns = crate::discovery::Status {
            source: crate::discovery::Kind::Dns,
            name: "api.internal".into(),
            answered: None,
            last_error,
            n_queries: 2,
            n_failures: 1,
            n_too_few: 0,
            n_hosts: 1,
            n_standby: 0,
            n_refused: 0,
            stale,
        };
        let mut snapshot = usual();
        snapshot.services[0].discovery = vec![dns];
        snapshot
    };
    let told = |before: bool, now: bool| {
        let changes = differences(Some(&with(before)), &with(now));
        changes.iter().map(|change| serde_json::to_string(change).unwrap()).collect::<String>()
    };
    assert_eq!(
        told(false, true),
        r#"{"kind":"discovery","service":"web","source":"dns","stale":true,"cause":"10.0.0.53:53: timed out"}"#
    );
    assert_eq!(told(true, true), "");
    assert_eq!(told(true, false), r#"{"kind":"discovery","service":"web","source":"dns","stale":false}"#);
}

#[test]
fn failover_panic_and_slow_starts_are_told_with_their_cause() {
    let failover = |serving: &[Tier], panic: bool| {
        let (serving, cause) = (serving.to_vec(), "priority 0: 0 of 1 healthy".to_owned());
        Some(FailoverStatus { serving, panic, held: None, cause, failed_over: false, zones: None })
    };
    let with = |failover: Option<FailoverStatus>, tenths: Option<u8>| {
        let mut snapshot = usual();
        snapshot.services[0].failover = failover;
        snapshot.services[0].backends[0].place.tenths = tenths;
        snapshot
    };
    let (first, second) = (&[Tier::Priority(0)][..], &[Tier::Priority(1), Tier::Sorry][..]);
    let told = |before: Snapshot, now: Snapshot| {
        let changes = differences(Some(&before), &now);
        changes.iter().map(|change| serde_json::to_string(change).unwrap()).collect::<String>()
    };
    assert_eq!(
        told(with(failover(first, false), None), with(failover(second, false), None)),
        r#"{"kind":"failover","service":"web","from":[0],"to":[1,"sorry"],"cause":"priority 0: 0 of 1 healthy"}"#
    );
    assert_eq!(
        told(with(failover(first, false), None), with(failover(second, true), None)),
        r#"{"kind":"panic","service":"web","panic":true,"cause":"priority 0: 0 of 1 healthy"}"#
    );
    assert_eq!(
        told(with(None, None), with(failover(first, false), Some(3))),
        r#"{"kind":"slow_start","service":"web","backend":"10.0.0.1:80","over":false}"#
    );
    assert_eq!(told(with(None, Some(3)), with(None, Some(4))), "");
}

#[test]
fn zones_that_take_other_shares_are_told_with_what_spills_over() {
    let with = |shares: [(Option<&str>, f64); 2], spilled: f64, healthy: f64| {
        let zone = |(zone, share): (Option<&str>, f64)| ZoneStatus {
            zone: zone.map(Zone::from),
            share,
            usual: share,
            healthy: Some(healthy),
        };
        let zones = ZonesStatus {
            local: Some("a".into()),
            spilled,
            shares: shares.map(zone).into(),
            cause: "zone a (local): 50% healthy".into(),
        };
        let (serving, cause) = (vec![Tier::Priority(0)], String::new());
        let mut snapshot = usual();
        snapshot.services[0].failover =
            Some(FailoverStatus { serving, panic: false, held: None, cause, failed_over: false, zones: Some(zones) });
        snapshot
    };
    let whole = with([(Some("a"), 1.0), (None, 0.0)], 0.0, 1.0);
    let spilling = with([(Some("a"), 0.7), (None, 0.3)], 0.3, 0.5);
    let told = |before: &Snapshot, now: &Snapshot| -> Vec<String> {
        differences(Some(before), now).iter().map(|change| serde_json::to_string(change).unwrap()).collect()
    };
    let expected =
        r#"{"kind":"spillover","service":"web","spilled":0.3,"shares":{"":0.3,"a":0.7},"cause":"zone a (local): 50% healthy"}"#;
    assert_eq!(told(&whole, &spilling), [expected]);
    assert_eq!(told(&spilling, &whole).len(), 1);
    // How healthy a zone is makes no event by itself.
    assert!(told(&whole, &with([(Some("a"), 1.0), (None, 0.0)], 0.0, 0.8)).is_empty());
}

#[test]
fn the_first_snapshot_is_the_start() {
    assert!(matches!(differences(None, &usual())[..], [Change::Started { .. }]));
}

#[test]
fn who_was_drained_by_whom_is_told_and_when_the_last_flow_has_gone() {
    let set = BackendOverrides {
        admin: Some(Setting { value: Admin::Drain { until_ms: Some(7_000) }, by: "root".into(), at_ms: 1_000 }),
        ..BackendOverrides::default()
    };
    let drain = Some(Drain { flows: Some(0), silent_possible: true });
    let drained = BackendView { weight: 0, set, drain, ..backend(1, State::Up) };
    check(
        snapshot(vec![service("web", vec![drained, backend(2, State::Up)])]),
        expect![[r#"
            {"kind":"backend_admin","service":"web","backend":"10.0.0.1:80","set":{"value":{"drain":{"until_ms":7000}},"by":"root","at_ms":1000}}
            {"kind":"backend_weight","service":"web","backend":"10.0.0.1:80","from":1,"to":0}
            {"kind":"drained","service":"web","backend":"10.0.0.1:80","silent_possible":true}"#]],
    );
}
