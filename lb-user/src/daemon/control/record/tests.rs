use expect_test::{Expect, expect};
use tokio::time::Instant;

use super::*;
use crate::config;
use crate::daemon::{Findings, assemble};
use crate::desired::{Backend, NextHop};
use crate::failover::{Choice, Tier};
use crate::health::{Parts, State};
use crate::runtime::{Admin, Mark, Setting};

/// Has something noted, and yields what a reader gets of it, without the times.
fn told(note: impl FnOnce(&mut Journal, &mut Causes)) -> (Vec<String>, Causes) {
    let (mut journal, mut causes) = (Journal::default(), Causes::default());
    let mut reader = journal.reader();
    note(&mut journal, &mut causes);
    journal.publish();
    let lines = reader.read().into_iter().map(|event| serde_json::to_string(&event.change).unwrap());
    (lines.collect(), causes)
}

fn check(note: impl FnOnce(&mut Journal, &mut Causes), expected: Expect) -> Causes {
    let (lines, causes) = told(note);
    expected.assert_eq(&lines.join("\n"));
    causes
}

fn endpoint(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 80))
}

fn web() -> ServiceName {
    "web".into()
}

fn went(from: State, to: State, parts: Parts) -> Transition {
    let (backend, cause, observed) = (endpoint(1), "connect: refused".to_owned(), Instant::now());
    Transition { service: web(), backend, from, to, parts, cause, observed }
}

#[test]
fn every_transition_is_told_however_soon_the_next_one_comes() {
    let all = Parts::default();
    let before = |state| Condition { state, parts: Parts::default() };
    let causes = check(
        |journal, causes| {
            transition(&went(State::Up, State::Down, all), before(State::Up), journal, causes);
            transition(&went(State::Down, State::Up, all), before(State::Down), journal, causes);
        },
        expect![[r#"
            {"kind":"backend_state","service":"web","backend":"10.0.0.1:80","from":"up","to":"down","cause":"connect: refused"}
            {"kind":"backend_state","service":"web","backend":"10.0.0.1:80","from":"down","to":"up","cause":"connect: refused"}"#]],
    );
    assert_eq!(causes.of(&web()), "10.0.0.1:80 is down (connect: refused), 10.0.0.1:80 is up (connect: refused)");
}

#[test]
fn a_part_of_a_weight_is_told_only_of_who_serves() {
    let half = Parts { agent: 50, ..Parts::default() };
    let before = |state| Condition { state, parts: Parts::default() };
    check(
        |journal, causes| {
            transition(&went(State::Up, State::Up, half), before(State::Up), journal, causes);
            transition(
                &went(State::Up, State::Down, Parts::default()),
                Condition { state: State::Up, parts: half },
                journal,
                causes,
            );
        },
        expect![[r#"
            {"kind":"weight_part","service":"web","backend":"10.0.0.1:80","parts":{"agent":0.5},"cause":"connect: refused"}
            {"kind":"backend_state","service":"web","backend":"10.0.0.1:80","from":"up","to":"down","cause":"connect: refused"}"#]],
    );
}

#[test]
fn a_source_says_what_it_names_and_that_it_fails() {
    let news = |what| discovery::News { service: web(), source: discovery::Kind::Dns, what };
    let causes = check(
        |journal, causes| {
            let failing = What::Failing { is_stale: true, cause: "10.0.0.53:53: timed out".to_owned() };
            [failing, What::Recovered].into_iter().for_each(|what| discovered(&news(what), journal, causes));
            discovered(&news(What::Backends([(endpoint(1), 1)].into())), journal, causes);
        },
        expect![[r#"
            {"kind":"discovery","service":"web","source":"dns","stale":true,"cause":"10.0.0.53:53: timed out"}
            {"kind":"discovery","service":"web","source":"dns","stale":false}"#]],
    );
    assert_eq!(causes.of(&web()), "dns names 1 backend");
}

#[test]
fn interfaces_come_go_and_change_their_mode() {
    let interface = |name: &str, mode| Interface { name: name.into(), ifindex: 2, mode };
    let before = [interface("eth0", "native"), interface("eth1", "native")];
    let now = [interface("eth1", "generic"), interface("eth2", "native")];
    check(
        |journal, causes| interfaces(&before, &now, journal, causes),
        expect![[r#"
        {"kind":"interface_detached","interface":"eth0"}
        {"kind":"interface_attached","interface":"eth1","mode":"generic"}
        {"kind":"interface_attached","interface":"eth2","mode":"native"}"#]],
    );
}

fn choice(tiers: &[Tier], panics: bool) -> Choice {
    Choice { tiers: tiers.iter().copied().collect(), panics, cause: "priority 0: 0 of 1 healthy".to_owned(), ..Choice::default() }
}

#[test]
fn failover_and_panic_are_told_with_their_cause_and_the_first_decision_is_none() {
    let (first, second) = (&[Tier::Priority(0)][..], &[Tier::Priority(1), Tier::Sorry][..]);
    let of = |before, now| Turn { service: web(), before, now, held: None, shift: None };
    check(
        |journal, causes| {
            turn(&of(choice(&[], false), choice(first, false)), journal, causes);
            turn(&of(choice(first, false), choice(second, false)), journal, causes);
            turn(&of(choice(second, false), choice(second, true)), journal, causes);
        },
        expect![[r#"
            {"kind":"failover","service":"web","from":[0],"to":[1,"sorry"],"cause":"priority 0: 0 of 1 healthy"}
            {"kind":"panic","service":"web","panic":true,"cause":"priority 0: 0 of 1 healthy"}"#]],
    );
}

fn set(admin: Option<Admin>) -> Overrides {
    let admin = admin.map(|value| Setting { value, by: "root".to_owned(), at_ms: 1_000 });
    let state = serde_json::json!({ "web": { "backends": { "10.0.0.1:80": { "admin": admin } } } });
    serde_json::from_value(state).unwrap()
}

#[test]
fn what_is_set_at_runtime_is_told_with_who_did_it_and_its_end() {
    let (drained, disabled) = (set(Some(Admin::Drain { until_ms: Some(7_000) })), set(Some(Admin::Disable)));
    let causes = check(
        |journal, causes| {
            overrides(&Overrides::default(), &drained, journal, causes);
            overrides(&drained, &disabled, journal, causes);
            overrides(&disabled, &Overrides::default(), journal, causes);
        },
        expect![[r#"
            {"kind":"backend_admin","service":"web","backend":"10.0.0.1:80","set":{"value":{"drain":{"until_ms":7000}},"by":"root","at_ms":1000}}
            {"kind":"backend_admin","service":"web","backend":"10.0.0.1:80","set":{"value":"disable","by":"root","at_ms":1000}}
            {"kind":"backend_admin","service":"web","backend":"10.0.0.1:80","set":null}"#]],
    );
    assert_eq!(causes.of(&web()), "10.0.0.1:80 was set by root, 10.0.0.1:80 was reset");
    let mark = Mark { by: "root".to_owned(), at_ms: 1_000 };
    let maintained: Overrides = serde_json::from_value(serde_json::json!({ "web": { "maintenance": mark } })).unwrap();
    check(
        |journal, causes| {
            overrides(&Overrides::default(), &maintained, journal, causes);
            overrides(&maintained, &Overrides::default(), journal, causes);
        },
        expect![[r#"
            {"kind":"maintenance","service":"web","set":{"by":"root","at_ms":1000}}
            {"kind":"maintenance","service":"web","set":null}"#]],
    );
}

/// Services with backends on these hosts, those that are alive first.
fn services(services: &[(&str, &[u8], &[u8])]) -> Desired {
    let toml = "[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"plain\"\nvip = \"10.200.1.1\"\nport = 80\nforward = \"nat\"\n\
                [[service.backend]]\naddress = \"10.0.0.1\"\nport = 80\n";
    let plain = assemble(&config::parse("test.toml", toml).unwrap(), &Findings::default()).services["plain"].clone();
    let backend = |alive| Backend { alive, is_undecided: false, weight: 1, next_hop: Some(NextHop::NOWHERE) };
    let service = |&(name, alive, dead): &(&str, &[u8], &[u8])| {
        let of = |hosts: &[u8], alive| hosts.iter().map(|&host| (endpoint(host), backend(alive))).collect::<Vec<_>>();
        let backends = [of(alive, true), of(dead, false)].concat().into_iter().collect();
        (ServiceName::from(name), Service { backends, ..plain.clone() })
    };
    Desired { services: services.iter().map(service).collect(), ..Desired::default() }
}

#[test]
fn who_comes_and_goes_is_told_and_whether_a_service_is_left_with_nobody_each_with_its_cause() {
    let before = services(&[("old", &[9], &[]), ("web", &[1, 2], &[])]);
    let now = services(&[("new", &[8], &[]), ("web", &[], &[1, 3])]);
    check(
        |journal, causes| {
            causes.add_for_all("reload");
            causes.add(&web(), "dns names 2 backends".to_owned());
            desired(&before, &now, |_, _| 5, journal, causes);
        },
        expect![[r#"
            {"kind":"service_removed","service":"old","cause":"reload"}
            {"kind":"service_added","service":"new","cause":"reload"}
            {"kind":"backend_removed","service":"web","backend":"10.0.0.2:80","cause":"dns names 2 backends"}
            {"kind":"backend_added","service":"web","backend":"10.0.0.3:80","weight":5,"cause":"dns names 2 backends"}
            {"kind":"service_state","service":"web","up":false,"cause":"dns names 2 backends"}"#]],
    );
}
