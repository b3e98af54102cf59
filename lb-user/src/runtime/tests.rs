use std::collections::BTreeMap;
use std::time::Duration;

use expect_test::{Expect, expect};
use lb_common::MacAddr;
use proptest::prelude::*;

use super::*;
use crate::compile::{Layout, Quiet, compile, names};
use crate::daemon::{Findings, assemble};
use crate::desired::NextHop;
use crate::discovery;
use crate::health::State;
use crate::nexthop::Way;
use crate::tables::Tables;

const FILE: &str = r#"
[xdp]
interfaces = ["eth0"]

[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
health.type = "none"
backend = [{ address = "10.0.0.1", weight = 2 }, { address = "10.0.0.2" }, { address = "10.0.0.3" }]

[[service]]
name = "shop"
vip = "192.0.2.2"
port = 80
forward = "nat"
health.type = "none"
backend = [{ address = "10.0.1.1", port = 8080 }, { address = "10.0.1.1", port = 8081 }]

[[service]]
name = "found"
vip = "2001:db8::1"
port = 443
health.type = "none"
dns = { name = "web.internal", weight = 7 }
"#;

fn config(text: &str) -> Config {
    config::parse("test.toml", text).unwrap_or_else(|error| panic!("{error}"))
}

fn discovered() -> BTreeMap<ServiceName, BTreeMap<discovery::Kind, discovery::Backends>> {
    let backends = discovery::Backends::from([("[fd00::1]:443".parse().unwrap(), 1)]);
    BTreeMap::from([("found".into(), BTreeMap::from([(discovery::Kind::Dns, backends)]))])
}

/// As the command line has it: `drain web 10.0.0.1`.
fn change(words: &str) -> Change {
    let words: Vec<&str> = words.split(' ').collect();
    let target = || Target { service: words[1].into(), backend: words[2].parse().unwrap() };
    let weight = || words.get(3).map(|weight| weight.parse().unwrap());
    match words[0] {
        "drain" => {
            let deadline = words.get(3).map(|deadline| humantime::parse_duration(deadline).unwrap());
            Change::Drain { target: target(), deadline }
        }
        "enable" => Change::Enable { target: target() },
        "disable" => Change::Disable { target: target() },
        "weight" => Change::Weight { target: target(), weight: weight().unwrap() },
        "add" => Change::Add { target: target(), weight: weight(), zone: words.get(4).map(|zone| (*zone).into()) },
        "remove" => Change::Remove { target: target() },
        "maintenance" => Change::Maintenance { service: words[1].into(), on: words[2] == "on" },
        "failback" => Change::Failback { service: words[1].into() },
        "reset" => Change::Reset {
            service: words.get(1).map(ToString::to_string),
            backend: words.get(2).map(|name| name.parse().unwrap()),
        },
        verb => panic!("{verb}"),
    }
}

fn after(overrides: &Overrides, words: &str, at_ms: UnixMs) -> Result<Outcome, Refusal> {
    let (config, discovered) = (config(FILE), discovered());
    let mark = Mark { by: "root".into(), at_ms };
    overrides.after(&change(words), Known { config: &config, discovered: &discovered }, &mark)
}

fn set(changes: &[&str]) -> Overrides {
    changes.iter().fold(Overrides::default(), |overrides, words| {
        after(&overrides, words, 1_000).unwrap_or_else(|refusal| panic!("{words}: {refusal}")).overrides
    })
}

/// The backends after these changes, as they should be: weight, and who is alive, all being so by themselves.
fn effective(overrides: &Overrides) -> String {
    let findings = findings(&config(FILE), overrides.clone());
    let desired = assemble(&config(FILE), &findings);
    let line = |(name, service): (&ServiceName, &crate::desired::Service)| {
        let backends = service
            .backends
            .iter()
            .map(|(endpoint, backend)| format!(" {endpoint} {}{}", backend.weight, if backend.alive { "" } else { " out" }));
        format!("{name}:{}\n", backends.collect::<Vec<_>>().join(","))
    };
    desired.services.iter().map(line).collect()
}

/// Everybody is well, and can be reached.
fn findings(config: &Config, overrides: Overrides) -> Findings {
    let mut findings = Findings { discovered: discovered(), overrides, ..Findings::default() };
    for (name, service) in &assemble(config, &findings).services {
        for &endpoint in service.backends.keys() {
            findings.health.insert((name.clone(), endpoint), State::Up.into());
            let (source, destination) = (MacAddr::new([2; 6]), MacAddr::new([4; 6]));
            let hop = NextHop { ifindex: 2, source, destination, takes_redirects: true, ..NextHop::NOWHERE };
            findings.last_ways.insert(endpoint.ip(), Way { hop, gateway: None });
        }
    }
    findings
}

fn check(changes: &[&str], expected: Expect) {
    expected.assert_eq(&effective(&set(changes)));
}

#[test]
fn without_anything_set_the_file_holds() {
    check(
        &[],
        expect![[r#"
            found: [fd00::1]:443 1
            shop: 10.0.1.1:8080 1, 10.0.1.1:8081 1
            web: 10.0.0.1:80 2, 10.0.0.2:80 1, 10.0.0.3:80 1
        "#]],
    );
}

#[test]
fn each_change_does_to_its_backend_what_it_says() {
    check(
        &["drain web 10.0.0.1", "disable web 10.0.0.2", "weight shop 10.0.1.1:8081 9", "drain found fd00::1"],
        expect![[r#"
            found: [fd00::1]:443 0
            shop: 10.0.1.1:8080 1, 10.0.1.1:8081 9
            web: 10.0.0.1:80 0, 10.0.0.2:80 1 out, 10.0.0.3:80 1
        "#]],
    );
    check(
        &["remove web 10.0.0.1", "add web 10.0.0.9 4", "maintenance shop on", "add found fd00::9"],
        expect![[r#"
            found: [fd00::1]:443 1, [fd00::9]:443 1
            shop: 10.0.1.1:8080 0, 10.0.1.1:8081 0
            web: 10.0.0.2:80 1, 10.0.0.3:80 1, 10.0.0.9:80 4
        "#]],
    );
}

#[test]
fn enable_ends_drain_and_disable_and_keeps_the_weight() {
    let enabled = set(&["weight web 10.0.0.1 5", "drain web 10.0.0.1", "disable web 10.0.0.1", "enable web 10.0.0.1"]);
    assert!(effective(&enabled).contains("10.0.0.1:80 5,"), "{}", effective(&enabled));
    assert_eq!(enabled.len(), 1);
}

#[test]
fn who_was_removed_comes_back_by_add_or_reset_and_who_was_added_goes_without_a_trace() {
    assert_eq!(set(&["remove web 10.0.0.1", "add web 10.0.0.1"]), Overrides::default());
    assert_eq!(set(&["remove web 10.0.0.1", "reset web 10.0.0.1"]), Overrides::default());
    assert_eq!(set(&["add web 10.0.0.9 4", "weight web 10.0.0.9 5", "remove web 10.0.0.9"]), Overrides::default());
    assert_eq!(set(&["maintenance web on", "drain web 10.0.0.1", "reset web"]), Overrides::default());
    assert_eq!(set(&["maintenance web on", "maintenance web off"]), Overrides::default());
}

#[test]
fn what_is_so_already_changes_nothing_and_says_so_by_no_line() {
    for words in ["drain web 10.0.0.1", "disable web 10.0.0.2", "weight web 10.0.0.3 4", "maintenance shop on"] {
        let before = set(&[words]);
        let outcome = after(&before, words, 2_000).unwrap();
        assert_eq!((outcome.overrides, outcome.lines.len()), (before, 0), "{words}");
    }
    for words in ["enable web 10.0.0.1", "maintenance web off", "reset", "reset web", "reset web 10.0.0.1"] {
        let outcome = after(&Overrides::default(), words, 2_000).unwrap();
        assert_eq!((outcome.overrides, outcome.lines.len()), (Overrides::default(), 0), "{words}");
    }
}

#[test]
fn what_cannot_be_is_refused_and_what_is_there_instead_is_named() {
    let before = set(&["remove web 10.0.0.3"]);
    let refused = |words: &str| after(&before, words, 0).expect_err(words).to_string();
    let all = [
        "drain nope 10.0.0.1",
        "drain web 10.9.9.9",
        "drain web 10.0.0.1:81",
        "drain shop 10.0.1.1",
        "drain web 10.0.0.3",
        "add web 10.0.0.1",
        "add web 192.0.2.2",
        "add web fd00::7",
        "add web 10.0.0.9:81",
        "add web 127.0.0.1",
        "remove found fd00::1",
        "weight found fd00::2 3",
    ];
    expect![[r#"
        no service is named "nope"; there is web, shop, found
        service web has no backend 10.9.9.9; it has 10.0.0.1:80, 10.0.0.2:80
        service web has no backend 10.0.0.1:81; it has 10.0.0.1:80, 10.0.0.2:80
        service shop has several backends at 10.0.1.1: name one of 10.0.1.1:8080, 10.0.1.1:8081
        backend 10.0.0.3:80 of service web was removed at runtime; `xlb add` or `xlb reset` brings it back
        service web has the backend 10.0.0.1:80 already
        192.0.2.2 cannot be a backend of service web: it is the VIP of service shop
        fd00::7 cannot be a backend of service web: packets keep their family, and the VIP is of the other
        10.0.0.9 cannot be a backend of service web: the service forwards to its own port 80, not to 81
        127.0.0.1 cannot be a backend of service web: this is a loopback address: it never leaves a machine
        backend [fd00::1]:443 of service found was discovered, and would be again: disable it, or change its source
        service found has no backend fd00::2; it has [fd00::1]:443"#]]
    .assert_eq(&all.map(refused).join("\n"));
}

#[test]
fn two_nat_services_cannot_share_a_backend_that_is_added_to_one() {
    let other = FILE.replace("name = \"web\"", "name = \"web\"\nforward = \"nat\"");
    let (config, discovered) = (config(&other), discovered());
    let add = |name: &str| Change::Add {
        target: Target { service: "web".into(), backend: name.parse().unwrap() },
        weight: None,
        zone: None,
    };
    let known = Known { config: &config, discovered: &discovered };
    let mark = Mark { by: "root".into(), at_ms: 0 };
    let refusal = Overrides::default().after(&add("10.0.1.1:8080"), known, &mark).unwrap_err();
    assert_eq!(refusal.kind(), Refused::Conflict);
    assert!(refusal.to_string().contains("nat service shop"), "{refusal}");
    Overrides::default().after(&add("10.0.1.1:8082"), known, &mark).unwrap();
}

#[test]
fn a_backend_is_added_in_a_zone_that_takes_something() {
    let zones = "zones.weights = { a = 1, b = 1 }\nbackend = [{ address = \"10.0.0.1\", zone = \"a\" }, { address = \"10.0.0.2\", zone = \"b\" }]";
    let backends = "backend = [{ address = \"10.0.0.1\", weight = 2 }, { address = \"10.0.0.2\" }, { address = \"10.0.0.3\" }]";
    let (config, discovered) = (config(&FILE.replace(backends, zones)), discovered());
    let known = Known { config: &config, discovered: &discovered };
    let mark = Mark { by: "root".into(), at_ms: 0 };
    let mut overrides = Overrides::default();
    let mut told = Vec::new();
    for words in [
        "add web 10.0.0.7 1",
        "add web 10.0.0.7 1 c",
        "add web 10.0.0.7 3 b",
        "remove web 10.0.0.1",
        "add web 10.0.0.1 1 b",
        "add web 10.0.0.1 1 a",
    ] {
        match overrides.after(&change(words), known, &mark) {
            Ok(outcome) => {
                overrides = outcome.overrides;
                told.extend(outcome.lines);
            }
            Err(refusal) => told.push(refusal.to_string()),
        }
    }
    expect![[r#"
        10.0.0.7 cannot be a backend of service web: zones have weights there, and it would take nothing: name its zone, one of a, b
        10.0.0.7 cannot be a backend of service web: zones have weights there, and it would take nothing: name its zone, one of a, b
        web 10.0.0.7:80: added, with weight 3, in zone b
        web 10.0.0.1:80: removed; connections that it has stay until they end
        10.0.0.1 cannot be a backend of service web: the file has it, and says what zone it is in: leave the zone out
        web 10.0.0.1:80: added, with weight 1, in zone a"#]]
    .assert_eq(&told.join("\n"));
    let added = |overrides: &Overrides| overrides.fixed(&config.services[0]).pop().and_then(|backend| backend.zone);
    assert_eq!(added(&overrides).as_deref(), Some("b"));
    // What was kept before zones were known of is read, and what is kept now.
    let kept = serde_json::to_string(&overrides).unwrap();
    assert_eq!(serde_json::from_str::<Overrides>(&kept).unwrap(), overrides);
    let earlier = kept.replace(",\"zone\":\"b\"", "");
    assert_ne!(earlier, kept);
    assert_eq!(added(&serde_json::from_str(&earlier).unwrap()), None);
}

#[test]
fn a_drain_past_its_deadline_disables_and_one_that_was_lifted_does_not() {
    let draining = set(&["drain web 10.0.0.1 10m", "drain web 10.0.0.2"]);
    let key: BackendKey = ("web".into(), "10.0.0.1:80".parse().unwrap());
    assert_eq!(draining.deadlines().collect::<Vec<_>>(), [(key.clone(), 1_000 + 600_000)]);
    let expired = draining.expired(&BTreeSet::from([key.clone()]), 601_000);
    let admin = expired.backend(&key.0, key.1).and_then(|set| set.admin.clone()).unwrap();
    assert_eq!((admin.value, &*admin.by), (Admin::Disable, "the deadline of the drain by root"));
    assert_eq!(expired.deadlines().count(), 0);
    let lifted = set(&["drain web 10.0.0.1 10m", "enable web 10.0.0.1"]);
    assert_eq!(lifted.expired(&BTreeSet::from([key]), 601_000), lifted);
}

#[test]
fn another_file_takes_along_what_was_set_of_those_who_are_gone() {
    let before = set(&[
        "drain web 10.0.0.1",
        "weight web 10.0.0.2 4",
        "add web 10.0.0.9 3",
        "disable web 10.0.0.9",
        "remove web 10.0.0.3",
        "add web 10.0.0.8",
        "maintenance shop on",
        "drain found fd00::1",
    ]);
    let new = FILE
        .replace("{ address = \"10.0.0.1\", weight = 2 }", "{ address = \"10.0.0.9\", weight = 6 }")
        .replace(", { address = \"10.0.0.3\" }", "")
        .replace("\"192.0.2.2\"", "\"10.0.0.8\"");
    let (kept, forgotten) = before.under(&config(&new));
    expect![[r#"
        web 10.0.0.1:80: what was set at runtime, for the backend is no longer in the file
        web 10.0.0.3:80: what was set at runtime, for the backend is no longer in the file
        web 10.0.0.8:80: what was set at runtime, for 10.0.0.8 cannot be a backend of service web: it is the VIP of service shop"#]]
    .assert_eq(&forgotten.join("\n"));
    let web = kept.service(&"web".into()).unwrap();
    assert_eq!(web.backends.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.2:80", "10.0.0.9:80"]);
    let nine = &web.backends[&"10.0.0.9:80".parse().unwrap()];
    assert_eq!((nine.presence.clone(), nine.admin()), (None, Some(Admin::Disable)));
    assert!(kept.service(&"shop".into()).unwrap().maintenance.is_some() && kept.service(&"found".into()).is_some());
    let (none, forgotten) = before.under(&config("[xdp]\ninterfaces = [\"eth0\"]\n"));
    assert_eq!((none.is_empty(), forgotten.len()), (true, 3));
}

#[test]
fn what_took_over_is_held_until_failback_a_reset_or_another_file() {
    let manual = FILE
        .replace("{ address = \"10.0.0.3\" }", "{ address = \"10.0.0.3\", priority = 1 }")
        .replace("name = \"web\"", "name = \"web\"\nfailback = \"manual\"");
    let (manual, discovered) = (config(&manual), discovered());
    let known = Known { config: &manual, discovered: &discovered };
    let mark = Mark { by: "root".into(), at_ms: 2_000 };
    let web: ServiceName = "web".into();
    let mut held = set(&["drain web 10.0.0.1"]);
    held.hold(&web, Some(1), 1_000);
    assert_eq!((held.held(&web), held.len()), (Some(1), 2));
    for words in ["failback web", "reset web", "reset"] {
        let outcome = held.after(&change(words), known, &mark).unwrap();
        assert_eq!(outcome.overrides.held(&web), None, "{words}");
        assert_eq!(outcome.lines[0], "web: no longer held at priority 1", "{words}");
    }
    let freed = held.after(&change("failback web"), known, &mark).unwrap().overrides;
    assert_eq!(freed, set(&["drain web 10.0.0.1"]), "nothing else is forgotten");
    assert!(freed.after(&change("failback web"), known, &mark).unwrap().lines.is_empty());
    assert_eq!(after(&held, "failback web", 2_000).unwrap_err().kind(), Refused::Conflict, "by itself it goes back anyhow");
    assert_eq!(after(&held, "failback nobody", 2_000).unwrap_err().kind(), Refused::Unknown);
    assert_eq!(held.under(&manual), (held.clone(), Vec::new()));
    let (kept, forgotten) = held.under(&config(FILE));
    assert_eq!((kept.held(&web), forgotten.len()), (None, 1), "{forgotten:?}");
    let text = serde_json::to_string(&held).unwrap();
    assert_eq!(serde_json::from_str::<Overrides>(&text).unwrap(), held, "{text}");
}

#[test]
fn who_is_no_longer_named_is_absent_and_can_be_forgotten_alone() {
    let before = set(&["drain found fd00::1", "add found fd00::9", "drain web 10.0.0.1", "remove web 10.0.0.2"]);
    let (config, discovered) = (config(FILE), discovered());
    assert_eq!(before.absent(Known { config: &config, discovered: &discovered }), []);
    let gone: BackendKey = ("found".into(), "[fd00::1]:443".parse().unwrap());
    let absent = before.absent(Known { config: &config, discovered: &BTreeMap::new() });
    assert_eq!(absent.as_slice(), std::slice::from_ref(&gone));
    let left = before.without(&BTreeSet::from([gone]));
    assert_eq!(left, set(&["add found fd00::9", "drain web 10.0.0.1", "remove web 10.0.0.2"]));
}

#[test]
fn what_is_kept_is_what_was_set_and_a_broken_file_is_taken_for_nothing() {
    let directory = std::env::temp_dir().join(format!("xlb-state-{}", std::process::id()));
    let path = directory.join("deep/state.json");
    assert_eq!(state::load(&path).unwrap(), Default::default());
    let overrides = set(&["drain web 10.0.0.1 10m", "add web 10.0.0.9 4", "remove web 10.0.0.3", "maintenance found on"]);
    let deadlines = Deadlines::of(&overrides, &Deadlines::default(), clocks("a", 5_000, 2_000));
    state::store(&path, &overrides, &deadlines).unwrap();
    assert_eq!(state::load(&path).unwrap(), (overrides.clone(), deadlines.clone()));
    let whole = std::fs::read_to_string(&path).unwrap();
    for broken in [
        &whole[..whole.len() / 2],
        "",
        "{}",
        &whole.replace("\"version\": 1", "\"version\": 2"),
        &whole.replace("\"weight\"", "\"wieght\""),
        &whole.replace("\"boot_ms\"", "\"boot\""),
    ] {
        std::fs::write(&path, broken).unwrap();
        let error = state::load(&path).expect_err(broken).to_string();
        assert!(error.contains("state.json") && error.contains("not to be had"), "{error}");
    }
    let aside = state::put_aside(&path).unwrap();
    assert!(aside.ends_with("state.json.broken") && !path.exists());
    // A directory where the file should be: nothing is written, and nothing is left lying about.
    std::fs::create_dir(&path).unwrap();
    let error = state::store(&path, &overrides, &deadlines).unwrap_err().to_string();
    assert!(error.contains("cannot be written"), "{error}");
    assert_eq!(std::fs::read_dir(directory.join("deep")).unwrap().count(), 2);
    std::fs::remove_dir_all(directory).unwrap();
}

fn clocks(boot_id: &str, boot_ms: BootMs, unix_ms: UnixMs) -> Clocks<'_> {
    Clocks { boot_id, boot_ms, unix_ms }
}

/// A drain that was set at 1,000 by the wall clock, and ends at 601,000.
fn drained() -> (Overrides, BackendKey) {
    (set(&["drain web 10.0.0.1 10m", "drain web 10.0.0.2"]), ("web".into(), "10.0.0.1:80".parse().unwrap()))
}

#[test]
fn a_deadline_holds_wherever_the_wall_clock_jumps_until_the_next_boot() {
    let (drained, key) = drained();
    let set = Deadlines::of(&drained, &Deadlines::default(), clocks("a", 50_000, 1_000));
    assert_eq!(set.next(), Some(650_000));
    for wall_ms in [0, 1_000, 700_000, UnixMs::MAX] {
        assert_eq!(Deadlines::of(&drained, &set, clocks("a", 60_000, wall_ms)), set, "the wall clock at {wall_ms}");
    }
    assert_eq!((set.due(649_999), set.due(650_000)), (BTreeSet::new(), BTreeSet::from([key])));
    // After a reboot there is nothing but the wall clock.
    let rebooted = Deadlines::of(&drained, &set, clocks("b", 3_000, 101_000));
    assert_eq!((rebooted.next(), rebooted.is_of("b")), (Some(503_000), true));
    let overdue = Deadlines::of(&drained, &set, clocks("b", 3_000, UnixMs::MAX));
    assert_eq!(overdue.next(), Some(3_000));
}

#[test]
fn a_drain_with_another_deadline_is_another_one_and_what_is_lifted_has_none() {
    let (drained, key) = drained();
    let clocks = clocks("a", 50_000, 1_000);
    let before = Deadlines::of(&drained, &Deadlines::default(), clocks);
    let longer = set(&["drain web 10.0.0.1 20m"]);
    assert_eq!(Deadlines::of(&longer, &before, clocks).next(), Some(1_250_000));
    let lifted = Deadlines::of(&Overrides::default(), &before, clocks);
    assert_eq!((lifted.next(), lifted.is_to_be_kept()), (None, false));
    let mut put_off = before.clone();
    put_off.put_off(&BTreeSet::from([key]), 700_000);
    assert_eq!(Deadlines::of(&drained, &put_off, clocks).next(), Some(700_000));
}

#[test]
fn a_file_without_times_since_boot_is_read_and_one_without_deadlines_says_nothing_of_them() {
    let directory = std::env::temp_dir().join(format!("xlb-deadlines-{}", std::process::id()));
    let path = directory.join("state.json");
    let (drained, _) = drained();
    state::store(&path, &drained, &Deadlines::default()).unwrap();
    assert!(!std::fs::read_to_string(&path).unwrap().contains("deadlines"));
    let (overrides, deadlines) = state::load(&path).unwrap();
    assert_eq!((&overrides, &deadlines), (&drained, &Deadlines::default()));
    assert_eq!(Deadlines::of(&overrides, &deadlines, clocks("a", 50_000, 2_000)).next(), Some(649_000));
    // Where no boot has a name, times since boot would be taken for another's.
    let nameless = Deadlines::of(&drained, &Deadlines::default(), clocks("", 50_000, 1_000));
    state::store(&path, &drained, &nameless).unwrap();
    assert_eq!(state::load(&path).unwrap(), (drained, Deadlines::default()));
    std::fs::remove_dir_all(directory).unwrap();
}

/// Who owns how many slots, by name.
fn owners(tables: &Tables, layout: &Layout) -> BTreeMap<SocketAddr, usize> {
    let names = names(layout, &tables.backends.keys().copied().collect());
    let mut owners = BTreeMap::new();
    for slot in tables.regions.values().flat_map(|region| region.slots.iter()) {
        if let Some((_, endpoint)) = names.get(&slot.current()) {
            *owners.entry(*endpoint).or_default() += 1;
        }
    }
    owners
}

fn any_change() -> impl Strategy<Value = String> {
    let weight = prop_oneof![Just(0u16), Just(1), Just(2)];
    let verb = prop_oneof![Just("drain"), Just("enable"), Just("disable"), Just("weight"), Just("add"), Just("remove")];
    // One more than the file has, so that regions stay of the size that the file needs.
    let one = (verb, 1..=4u8, weight).prop_map(|(verb, host, weight)| match verb {
        "weight" | "add" => format!("{verb} web 10.0.0.{host} {weight}"),
        _ => format!("{verb} web 10.0.0.{host}"),
    });
    let maintenance = any::<bool>().prop_map(|on| format!("maintenance web {}", if on { "on" } else { "off" }));
    prop_oneof![8 => one, 1 => maintenance]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn after_any_changes_a_reset_brings_the_tables_of_the_file(changes in prop::collection::vec(any_change(), 1..20)) {
        let config = config(FILE);
        let by_file = assemble(&config, &findings(&config, Overrides::default()));
        let first = Layout::new(1 << 16);
        let (file_tables, file_layout) = compile(&by_file, &first, &Tables::default(), &Quiet(0)).unwrap();
        let (mut tables, mut layout) = (file_tables.clone(), file_layout.clone());
        let mut overrides = Overrides::default();
        for words in changes.iter().map(String::as_str).chain(["reset"]) {
            // A refusal leaves all as it was.
            let Ok(outcome) = after(&overrides, words, 1) else { continue };
            overrides = outcome.overrides;
            let desired = assemble(&config, &findings(&config, overrides.clone()));
            (tables, layout) = compile(&desired, &layout, &tables, &Quiet(0)).unwrap();
        }
        prop_assert_eq!(&overrides, &Overrides::default());
        prop_assert_eq!(&assemble(&config, &findings(&config, overrides)), &by_file);
        prop_assert_eq!(owners(&tables, &layout), owners(&file_tables, &file_layout));
    }
}

#[test]
fn a_deadline_is_told_in_words() {
    let told = serde_json::to_string(&change("drain web 10.0.0.1 10m")).unwrap();
    assert_eq!(told, r#"{"change":"drain","service":"web","backend":"10.0.0.1","deadline":"10m"}"#);
    assert_eq!(serde_json::to_string(&change("reset")).unwrap(), r#"{"change":"reset"}"#);
    assert_eq!(Duration::from_secs(600), humantime::parse_duration("10m").unwrap());
}
