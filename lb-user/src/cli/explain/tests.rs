use expect_test::{Expect, expect};
use serde_json::json;

use super::*;

fn backend(address: &str, state: Value, admin: Value) -> Value {
    json!({
        "id": 1, "address": address, "port": 80, "service": "web", "state": state, "admin": admin, "weight": 1, "serving": true,
        "check": "connection refused", "unreachable": null,
    })
}

fn answer() -> Value {
    json!({
        "packet": {
            "client": "203.0.113.7:40000", "vip": "192.0.2.1:80", "protocol": "tcp", "syn": false, "interface": "eth0", "ttl": 64,
            "length": 40,
        },
        "service": { "id": 3, "name": "web", "vip": "192.0.2.1", "port": 80, "protocol": "tcp", "algorithm": "maglev" },
        "services_at_vip": [],
        "slot": {
            "number": 77, "of": 4096, "hashed_by": "the client's address and both ports", "at_rest": false,
            "current": backend("10.0.1.1", json!("up"), Value::Null), "settled": backend("10.0.1.2", json!("up"), json!("drain")),
        },
        "flow": {
            "on_record": { "backend": backend("10.0.1.2", json!("up"), json!("drain")), "state": "established", "silent_s": 3.22 },
            "would_record": "established",
        },
        "backend": {
            "chosen": backend("10.0.1.2", json!("up"), json!("drain")), "reason": "on_record", "why": "the flow is on record there",
        },
        "way": {
            "forward": "dsr", "interface": "eth0", "ifindex": 2, "to": "02:00:00:00:01:02", "from": "02:00:00:00:00:02",
            "destination": null, "tunnel": null, "by_host": false,
        },
        "reply": null,
        "verdict": "tx",
        "class": "forwarded",
        "meaning": "Sent to its backend on the interface it came from.",
    })
}

fn check(answer: Value, expected: Expect) {
    expected.assert_eq(&lines(&answer));
}

#[test]
fn a_flow_on_record_is_told_step_by_step() {
    check(
        answer(),
        expect![[r#"
        packet    203.0.113.7:40000 > 192.0.2.1:80 tcp, 40 bytes, ttl 64, in on eth0
        service   web (id 3), 192.0.2.1:80/tcp, by maglev
        slot      77 of 4096, by the client's address and both ports
                  not at rest: current 10.0.1.1:80 (up), settled 10.0.1.2:80 (up, draining)
        flow      on record: 10.0.1.2:80 (up, draining), established, last packet 3 s ago
        backend   10.0.1.2:80 (up, draining): the flow is on record there
        forward   dsr; out of eth0, to 02:00:00:00:01:02 from 02:00:00:00:00:02
        verdict   tx, forwarded: Sent to its backend on the interface it came from.
    "#]],
    );
}

#[test]
fn ways_are_told_as_they_differ() {
    let way = |changed: Value| {
        let mut way = answer()["way"].clone();
        changed.as_object().unwrap().iter().for_each(|(key, value)| way[key] = value.clone());
        way_line(&way)
    };
    let nat = way(json!({ "forward": "nat", "destination": "10.0.1.2:8080", "interface": null }));
    assert_eq!(nat, "nat, to 10.0.1.2:8080; out of interface 2, to 02:00:00:00:01:02 from 02:00:00:00:00:02");
    let by_host = way(json!({ "forward": "nat", "destination": "10.0.1.2:8080", "to": null, "by_host": true }));
    assert_eq!(by_host, "nat, to 10.0.1.2:8080; sent by the host's routing, for eth0 takes no redirected frames");
    let tunnel = json!({ "source": "10.0.1.254", "destination": "10.0.2.2", "port": 6080, "length_max": 1472 });
    let gue = way(json!({ "forward": "gue", "tunnel": tunnel, "to": null, "interface": null, "ifindex": 0 }));
    assert_eq!(gue, "gue, 10.0.1.254 > 10.0.2.2 port 6080, for packets of 1472 bytes at most; no next hop is known");
}

#[test]
fn a_backend_is_told_with_what_keeps_flows_from_it() {
    for (state, admin, told) in [
        (json!("up"), Value::Null, "10.0.1.1:80 (up)"),
        (json!("down"), Value::Null, "10.0.1.1:80 (down: connection refused)"),
        (json!("up"), json!("disable"), "10.0.1.1:80 (up, disabled)"),
        (Value::Null, Value::Null, "10.0.1.1:80 (left the service)"),
    ] {
        assert_eq!(named(&backend("10.0.1.1", state, admin)), told);
    }
    assert_eq!(named(&Value::Null), "nobody");
}

#[test]
fn no_service_is_told_with_those_that_are_there() {
    let mut answer = answer();
    answer["service"] = Value::Null;
    assert_eq!(service_line(&answer), "none: the destination is no VIP");
    answer["services_at_vip"] =
        json!([{ "name": "dns", "port": 53, "protocol": "udp" }, { "name": "all", "port": 0, "protocol": "tcp" }]);
    assert_eq!(service_line(&answer), "none: the destination is a VIP, but takes only dns 53/udp, all every port/tcp");
}

#[test]
fn a_destination_has_a_port_and_a_protocol() {
    let read = |text: &str| text.parse::<Destination>().map(|to| (to.endpoint.to_string(), to.protocol));
    assert_eq!(read("192.0.2.1:80/tcp"), Ok(("192.0.2.1:80".into(), Protocol::Tcp)));
    assert_eq!(read("[2001:db8::1]:53/udp"), Ok(("[2001:db8::1]:53".into(), Protocol::Udp)));
    for wrong in ["", "192.0.2.1:80", "192.0.2.1/tcp", "192.0.2.1:80/icmp", "2001:db8::1:53/udp"] {
        assert!(read(wrong).is_err_and(|error| error.starts_with("write ADDRESS:PORT/tcp")), "{wrong}");
    }
}

#[test]
fn the_path_holds_the_whole_question() {
    let (client, vip) = ("[2001:db8::7]:5".parse().unwrap(), "[2001:db8::1]:53/udp".parse().unwrap());
    let packet = Packet {
        client,
        vip,
        syn: false,
        interface: Some("eth0".into()),
        ttl: Some(1),
        length: Some(99),
        vlan: vec![7, 8],
        fragment: Some(5),
        error: Some(Kind::TooBig),
        from: Some("::1".parse().unwrap()),
        connection_id: Some("0a01ff".parse().unwrap()),
    };
    let query = "client=%5B2001%3Adb8%3A%3A7%5D%3A5&vip=%5B2001%3Adb8%3A%3A1%5D%3A53&protocol=udp&syn=false";
    let more = "&vlan=7%2C8&fragment=5&error=too_big&from=%3A%3A1&connection_id=0a01ff";
    assert_eq!(packet.path(), format!("/api/v1/explain?{query}&ttl=1&length=99&interface=eth0{more}"));
}

#[test]
fn errors_fragments_and_tagged_frames_are_named_so() {
    let first = |change: fn(&mut Value)| {
        let mut answer = answer();
        change(&mut answer["packet"]);
        lines(&answer).lines().next().unwrap_or_default().to_owned()
    };
    let tail = "40 bytes, ttl 64, in on eth0";
    for (told, expected) in [
        (first(|packet| packet["vlans"] = json!([100, 7])), "vlan 100, vlan 7, 203.0.113.7:40000 > 192.0.2.1:80 tcp"),
        (first(|packet| packet["fragment"] = json!(9)), "203.0.113.7 > 192.0.2.1 tcp, a later fragment of packet 9"),
        (
            first(|packet| packet["error"] = json!({ "kind": "too_big", "from": "198.51.100.1" })),
            "198.51.100.1 > 192.0.2.1 icmp too big, about 192.0.2.1:80 > 203.0.113.7:40000 tcp",
        ),
    ] {
        assert_eq!(told, format!("packet    {expected}, {tail}"));
    }
    let mut followed = answer();
    followed["fragment"] = json!({ "on_record": backend("10.0.1.1", json!("up"), Value::Null) });
    assert!(lines(&followed).contains("fragment  on record: the first one of its packet is 10.0.1.1:80 (up)'s"));
    followed["fragment"] = json!({ "on_record": null });
    assert!(lines(&followed).contains("fragment  not on record: no first fragment"));
}
