//! One change of each kind, for tests of those who tell of them.

use super::Change::*;
use super::*;

/// All of them. A kind without an arm here does not compile, and one that no arm leads to is missed by the test below.
pub fn all() -> Vec<Change> {
    std::iter::successors(Some(Started { version: "1.2.3" }), after).collect()
}

fn after(change: &Change) -> Option<Change> {
    let (service, backend, cause) = (|| ServiceName::from("web"), SocketAddr::from(([10, 0, 0, 1], 80)), || "why".to_owned());
    Some(match change {
        Started { .. } => Missing { n_events: 7 },
        Missing { .. } => Ready { ready: false, waits_for: Some("its first check".to_owned()) },
        Ready { .. } => Reload { accepted: false, cause: Some("why".into()) },
        Reload { .. } => Tables { failing: Some("why".into()) },
        Tables { .. } => InterfaceAttached { interface: "eth0".to_owned(), mode: "native" },
        InterfaceAttached { .. } => InterfaceDetached { interface: "eth0".to_owned() },
        InterfaceDetached { .. } => ServiceAdded { service: service(), cause: cause() },
        ServiceAdded { .. } => ServiceRemoved { service: service(), cause: cause() },
        ServiceRemoved { .. } => Discovery { service: service(), source: "dns", stale: true, cause: Some(cause()) },
        Discovery { .. } => ServiceState { service: service(), up: false, cause: cause() },
        ServiceState { .. } => SlotsMoved { service: service(), n_slots: 7, cause: cause() },
        SlotsMoved { .. } => BackendAdded { service: service(), backend, weight: 1, cause: cause() },
        BackendAdded { .. } => BackendRemoved { service: service(), backend, cause: cause() },
        BackendRemoved { .. } => BackendState { service: service(), backend, from: State::Up, to: State::Down, cause: cause() },
        BackendState { .. } => {
            WeightPart { service: service(), backend, parts: BTreeMap::from([("agent", 0.5)]), cause: cause() }
        }
        WeightPart { .. } => Suspected { service: service(), backend, cause: cause() },
        Suspected { .. } => Flapping { service: service(), backend, flapping: true },
        Flapping { .. } => BackendReach { service: service(), backend, unreachable: Some(cause()) },
        BackendReach { .. } => BackendWeight { service: service(), backend, from: 1, to: 3, by: Some("root".to_owned()) },
        BackendWeight { .. } => {
            let set = Some(Setting { value: Admin::Disable, by: "root".to_owned(), at_ms: 1 });
            BackendAdmin { service: service(), backend, set }
        }
        BackendAdmin { .. } => Drained { service: service(), backend, silent_possible: true },
        Drained { .. } => Maintenance { service: service(), set: Some(Mark { by: "root".to_owned(), at_ms: 1 }) },
        Maintenance { .. } => {
            Failover { service: service(), from: vec![Tier::Priority(0)], to: vec![Tier::Sorry], cause: cause() }
        }
        Failover { .. } => Panic { service: service(), panic: true, cause: cause() },
        Panic { .. } => {
            Spillover { service: service(), spilled: 0.5, shares: BTreeMap::from([("a".into(), 0.5)]), cause: cause() }
        }
        Spillover { .. } => SlowStart { service: service(), backend, over: false },
        SlowStart { .. } => return None,
    })
}

/// As they are called where they are told.
pub fn kind(change: &Change) -> String {
    serde_json::to_value(change).unwrap()["kind"].as_str().unwrap().to_owned()
}

#[test]
fn each_kind_is_documented_and_known_to_the_page() {
    let (docs, page) = (include_str!("../../../../docs/events.md"), include_str!("../../api/page/format.js"));
    let kinds: Vec<String> = all().iter().map(kind).collect();
    for kind in &kinds {
        assert!(docs.contains(&format!("| `{kind}` |")), "docs/events.md does not know {kind}");
        assert!(page.contains(&format!("case '{kind}':")), "the page does not know {kind}");
    }
    let documented = docs.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(kind, _)| kind);
    let documented: Vec<&str> = documented.collect();
    assert_eq!(documented.len(), kinds.len(), "a kind is documented that is not told, or not a sample here: {documented:?}");
}
