//! What `xlb explain` says, on the host: by the same tables, it is what the packet path does.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's support stops the test when a case is wrong"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::admission::{Line, Rules};
use lb_common::directory::Bucket;
use lb_common::flow::{self, Tick};
use lb_common::load::Load;
use lb_common::meter;
use lb_common::records::{Backend, Link, Service, Settings};
use lb_common::{BackendId, Slot, Verdict};
use lb_ebpf::Env;
use lb_user::compile::{Layout, compile};
use lb_user::desired::{Desired, Protocol, ServiceName};
use lb_user::explain::{self, BackendFound, ErrorKind, Explanation, IcmpError, Names, Question, Records, ServiceAt};
use lb_user::tables::{Tables, diff};
use serde_json::{Value, json};
use xlb_tests::path::fixture::{self, Interfaces};
use xlb_tests::path::host::Host;

const OUTSIDE: u32 = 2;
const INSIDE: u32 = 3;
const INTERFACES: Interfaces = Interfaces { outside: OUTSIDE, inside: INSIDE };

/// The host's tables, as the daemon's maps are read.
struct InMemory<'h>(&'h Host);

impl Records for InMemory<'_> {
    fn settings(&self) -> Settings {
        *Env::settings(self.0)
    }

    fn service_bucket(&self, index: u32) -> Bucket {
        *self.0.service_bucket(index)
    }

    fn reply_bucket(&self, index: u32) -> Bucket {
        *self.0.reply_bucket(index)
    }

    fn service(&self, id: u16) -> Service {
        *self.0.service(id)
    }

    fn server_id(&self, id: BackendId) -> u64 {
        Env::server_id(self.0, id)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.0.slot(index)
    }

    fn backend(&self, id: BackendId) -> Backend {
        *self.0.backend(id)
    }

    fn link(&self, ifindex: u32) -> Option<Link> {
        self.0.link(ifindex)
    }

    fn flow_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        self.0.flow_entry(bucket, position)
    }

    fn fragment_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        self.0.fragment_entry(bucket, position)
    }

    fn load(&self, id: BackendId) -> Load {
        self.0.load(id)
    }

    fn active(&self, service: u16) -> u64 {
        Env::active(self.0, service)
    }

    fn turn(&self, service: u16) -> u64 {
        self.0.next_turn(service).into()
    }

    fn admission(&self, scope: u16) -> Rules {
        *self.0.admission(scope)
    }

    fn meter(&self, line: u32, position: usize) -> meter::Entry {
        self.0.meter(line, position)
    }

    fn known_flow(&self, line: u32, position: usize) -> meter::Entry {
        self.0.known_flow(line, position)
    }

    fn meter_time(&self) -> u64 {
        self.0.meter_time.get()
    }

    fn prefix_line(&self, index: u32) -> Option<Line> {
        self.0.prefix_line(index).copied()
    }

    fn pool(&self) -> lb_common::session::Pool {
        self.0.pool
    }

    fn session_tags(&self, line: u32) -> u64 {
        self.0.session_tags(line)
    }

    fn session_at(&self, index: u32) -> Option<lb_common::session::Session> {
        self.0.session_at(index)
    }

    fn now(&self) -> Tick {
        self.0.now.get()
    }
}

/// The fixture, changed step by step, with a packet path that has seen all that came of it.
struct World {
    desired: Desired,
    layout: Layout,
    tables: Tables,
    host: Host,
}

impl World {
    fn new() -> Self {
        let (tables, layout, _) = fixture::plan(INTERFACES);
        let host = Host::with_fixture(INTERFACES);
        host.now.set(1 << 22);
        Self { desired: fixture::desired(INTERFACES), layout, tables, host }
    }

    fn change(&mut self, change: impl FnOnce(&mut Desired)) {
        change(&mut self.desired);
        let (tables, layout) = compile(&self.desired, &self.layout, &self.tables, &self.host).unwrap();
        self.host.carry_out(&diff(&self.tables, &tables));
        (self.tables, self.layout) = (tables, layout);
    }

    fn explain(&self, question: &Question) -> Value {
        let trail = explain::follow(question.frame(OUTSIDE).unwrap(), &InMemory(&self.host));
        serde_json::to_value(Explanation::new(question, "outside", &trail, self).unwrap()).unwrap()
    }

    /// What really becomes of the packet: the verdict, and who got it.
    fn send(&self, question: &Question) -> (Verdict, Option<BackendId>) {
        let ids: Vec<BackendId> = self.layout.backends().map(|(.., id)| id).collect();
        let packets = || ids.iter().map(|&id| self.host.backend_counters(id).packets).collect::<Vec<_>>();
        let before = packets();
        let outcome = self.host.run(question.frame(OUTSIDE).unwrap().bytes(), OUTSIDE);
        let who = packets().iter().zip(before).position(|(after, before)| *after != before);
        (outcome.verdict, who.map(|position| ids[position]))
    }
}

impl Names for World {
    fn service(&self, id: u16) -> Option<ServiceName> {
        self.desired.services.keys().find(|name| self.layout.find_service(name) == Some(id)).cloned()
    }

    fn backend(&self, id: BackendId) -> Option<BackendFound> {
        let (name, endpoint, _) = self.layout.backends().find(|(.., assigned)| *assigned == id)?;
        Some(BackendFound {
            id: id.0,
            address: endpoint.ip(),
            port: endpoint.port(),
            service: Some(name.clone()),
            state: None,
            admin: None,
            weight: 1,
            serving: true,
            check: String::new(),
            unreachable: None,
        })
    }

    fn interface(&self, ifindex: u32) -> Option<String> {
        BTreeMap::from([(OUTSIDE, "outside".to_owned()), (INSIDE, "inside".to_owned())]).remove(&ifindex)
    }

    fn services_at(&self, vip: IpAddr) -> Vec<ServiceAt> {
        let there = self.desired.services.iter().filter(|(_, service)| service.vip == vip);
        there.map(|(name, service)| ServiceAt { name: name.clone(), port: service.port, protocol: service.protocol }).collect()
    }
}

fn question(client: &str, vip: &str, protocol: Protocol) -> Question {
    let endpoint = |text: &str| text.parse().unwrap();
    let (client, vip) = (endpoint(client), endpoint(vip));
    Question::new(client, vip, protocol)
}

fn tcp(client: &str, vip: &str) -> Question {
    question(client, vip, Protocol::Tcp)
}

fn syn(client: &str, vip: &str) -> Question {
    Question { syn: true, ..tcp(client, vip) }
}

/// Packets from many clients to every service of the fixture, and to what is none.
fn many() -> impl Iterator<Item = Question> {
    let desired = fixture::desired(INTERFACES);
    let mut destinations: Vec<(SocketAddr, Protocol)> = desired
        .services
        .values()
        .map(|service| (SocketAddr::new(service.vip, if service.port == 0 { 4711 } else { service.port }), service.protocol))
        .collect();
    destinations.extend([
        ("10.200.1.1:81".parse().unwrap(), Protocol::Tcp),
        ("10.99.0.1:80".parse().unwrap(), Protocol::Udp),
        ("[fd00::1]:80".parse().unwrap(), Protocol::Udp),
    ]);
    destinations.into_iter().flat_map(|(vip, protocol)| {
        (0..40u16).flat_map(move |n| {
            let client: IpAddr =
                if vip.is_ipv4() { [10, 9, 0, 100 + (n % 3) as u8].into() } else { "fd09::100".parse().unwrap() };
            let client = SocketAddr::new(client, 40_000 + n);
            let of = move |syn, length| Question { syn, length, ..Question::new(client, vip, protocol) };
            let first = (protocol == Protocol::Tcp).then(|| of(true, None));
            let tagged = |vlans: &[u16]| Question { vlans: vlans.to_vec(), ..of(false, None) };
            let router: IpAddr = if vip.is_ipv4() { [10, 9, 0, 1].into() } else { "fd09::1".parse().unwrap() };
            let error = |kind| Question { error: Some(IcmpError { kind, from: router }), ..of(false, None) };
            let errors = [ErrorKind::Unreachable, ErrorKind::TooBig, ErrorKind::TimeExceeded].map(error);
            let later = Question { fragment: Some(n.into()), ..of(false, None) };
            let whole = [of(false, None), of(false, Some(1500)), of(false, Some(1460)), tagged(&[7]), tagged(&[7, 8]), later];
            first.into_iter().chain(whole).chain(errors)
        })
    })
}

/// Each is explained before it is sent, and twice the same: asking changes nothing.
fn check_all(world: &World) {
    for question in many() {
        let (explained, again) = (world.explain(&question), world.explain(&question));
        assert_eq!(explained, again);
        let (verdict, who) = world.send(&question);
        assert_eq!(explained["verdict"], verdict.label(), "{question:?}\n{explained:#}");
        // One that goes nowhere is counted for nobody.
        let chosen = explained["backend"]["chosen"]["id"].as_u64();
        let by_chance = ["random", "least-connections", "least-response-time"].map(Value::from);
        if explained["backend"]["reason"] == "chosen" && by_chance.contains(&explained["service"]["algorithm"]) {
            assert!(chosen.is_some() && who.is_some(), "{question:?}\n{explained:#}");
        } else if let Some(BackendId(id)) = who {
            assert_eq!(chosen, Some(id.into()), "{question:?}\n{explained:#}");
        } else {
            assert!(!matches!(verdict, Verdict::Tx | Verdict::Redirect | Verdict::Routed), "{question:?}\n{explained:#}");
        }
    }
}

#[test]
fn the_explanation_is_what_happens_for_every_service_and_while_slots_move() {
    let mut world = World::new();
    check_all(&world);
    let remove = |desired: &mut Desired, n: u8| {
        for name in ["spread", "by-client"] {
            let endpoint = SocketAddr::new([10, 0, 4, n].into(), 80);
            desired.services.get_mut(name).unwrap().backends.get_mut(&endpoint).unwrap().weight = 0;
        }
    };
    world.change(|desired| remove(desired, 1));
    check_all(&world);
    world.change(|desired| remove(desired, 2));
    world.host.now.set(world.host.now.get() + 2);
    check_all(&world);
    world.change(|desired| *desired = fixture::desired(INTERFACES));
    check_all(&world);
}

#[test]
fn a_later_fragment_is_said_to_follow_the_first_one_of_its_packet() {
    let world = World::new();
    for (client, vip, by) in [
        ("10.9.0.100:5", "10.200.1.7:80", "slot"),
        ("10.9.0.100:5", "10.200.1.3:80", "slot"),
        // A NAT backend's reply.
        ("10.0.2.1:8080", "10.9.0.100:5", "reply"),
    ] {
        let whole = tcp(client, vip);
        let later = Question { fragment: Some(77), ..whole.clone() };
        let unseen = world.explain(&later);
        assert_eq!(unseen["fragment"], json!({ "on_record": null }), "{unseen:#}");
        assert!(["fragment", "not_service"].map(Value::from).contains(&unseen["verdict"]), "{unseen:#}");
        let mut first = whole.frame(OUTSIDE).unwrap().bytes().to_vec();
        // Identification, and more fragments.
        first[14 + 4..][..3].copy_from_slice(&[0, 77, 0x20]);
        let sent = world.host.run(&first, OUTSIDE).verdict;
        let followed = world.explain(&later);
        let (explained, on_record) = (world.explain(&whole), &followed["fragment"]["on_record"]);
        if by == "slot" {
            assert_eq!(followed["verdict"], sent.label(), "{followed:#}");
            assert_eq!(followed["backend"]["reason"], "fragment");
            assert_eq!(followed["backend"]["chosen"], explained["backend"]["chosen"], "{followed:#}");
            assert_eq!((on_record, &followed["service"]), (&explained["backend"]["chosen"], &explained["service"]));
        } else {
            // By a way that the kernel's routing table knows alone.
            assert_eq!((&followed["verdict"], sent), (&json!("reply_routed"), Verdict::Reply), "{followed:#}");
            assert_eq!((on_record, &followed["reply"]), (&explained["reply"]["backend"], &explained["reply"]));
        }
        assert_eq!(world.send(&later).0, sent);
    }
}

#[test]
fn a_recorded_flow_stays_and_a_new_one_goes_to_the_current_backend() {
    let mut world = World::new();
    let vip = "10.200.1.7:80";
    let clients: Vec<String> = (0..400).map(|n| format!("10.9.0.100:{}", 30_000 + n)).collect();
    let id = |explained: &Value| explained["backend"]["chosen"]["id"].clone();
    let before: Vec<Value> = clients.iter().map(|client| id(&world.explain(&tcp(client, vip)))).collect();
    let drained: SocketAddr = "10.0.4.1:80".parse().unwrap();
    world.change(|desired| desired.services.get_mut("spread").unwrap().backends.get_mut(&drained).unwrap().weight = 0);
    let mut reasons = BTreeSet::new();
    for (client, before) in clients.iter().zip(before) {
        let fresh = world.explain(&tcp(client, vip));
        assert_eq!(id(&fresh), before, "{fresh:#}");
        if fresh["slot"]["at_rest"] == true {
            assert!(fresh["flow"].is_null() && fresh["backend"]["reason"] == "at_rest", "{fresh:#}");
            continue;
        }
        assert_eq!(fresh["flow"], json!({ "on_record": null, "would_record": "guessed" }));
        assert_eq!(fresh["slot"]["settled"]["id"], before, "{fresh:#}");
        let opened = world.explain(&syn(client, vip));
        assert_eq!(
            (&opened["backend"]["reason"], id(&opened)),
            (&json!("new_connection"), opened["slot"]["current"]["id"].clone())
        );
        let _ = world.send(&tcp(client, vip));
        world.host.now.set(world.host.now.get() + 3);
        let recorded = world.explain(&tcp(client, vip));
        assert_eq!((&recorded["backend"]["reason"], id(&recorded)), (&json!("on_record"), before), "{recorded:#}");
        let record = &recorded["flow"]["on_record"];
        assert!(record["state"] == "guessed" && record["silent_s"] == 3.22, "{recorded:#}");
        assert_eq!(recorded["flow"]["would_record"], "established");
        reasons.insert(fresh["backend"]["reason"].to_string());
    }
    assert_eq!(reasons, BTreeSet::from(["\"settled\"".to_owned()]));
}

#[test]
fn a_flow_whose_backend_is_down_goes_to_another_and_it_is_said_why() {
    let mut world = World::new();
    let vip = "10.200.1.7:80";
    let gone: SocketAddr = "10.0.4.1:80".parse().unwrap();
    let clients: Vec<String> = (0..200).map(|n| format!("10.9.0.100:{}", 30_000 + n)).collect();
    let change = |world: &mut World, weight, alive| {
        world.change(|desired| {
            let backend = desired.services.get_mut("spread").unwrap().backends.get_mut(&gone).unwrap();
            (backend.weight, backend.alive) = (weight, alive);
        });
    };
    change(&mut world, 0, true);
    for client in &clients {
        let _ = world.send(&tcp(client, vip));
    }
    change(&mut world, 0, false);
    let mut n_moved = 0;
    for client in &clients {
        let explained = world.explain(&tcp(client, vip));
        if explained["flow"]["on_record"]["backend"]["address"] == "10.0.4.1" {
            n_moved += 1;
            assert_eq!(explained["backend"]["reason"], "current", "{explained:#}");
            assert_eq!(explained["backend"]["why"], "10.0.4.1:80 may not keep it; the slot's current backend takes it");
            assert_eq!(explained["backend"]["chosen"], explained["slot"]["current"]);
        }
    }
    assert!(n_moved > 10, "{n_moved}");
}

#[test]
fn each_way_is_told_with_its_addresses() {
    let world = World::new();
    let client = "10.9.0.100:40000";
    let mac = |octets: [u8; 6]| lb_common::MacAddr::new(octets).to_string();
    let way = |explained: &Value, verdict: &str| {
        assert_eq!(explained["verdict"], verdict, "{explained:#}");
        explained["way"].clone()
    };
    let dsr = way(&world.explain(&tcp(client, "10.200.1.1:80")), "tx");
    assert_eq!((&dsr["forward"], &dsr["interface"]), (&json!("dsr"), &json!("outside")));
    assert_eq!((dsr["to"].clone(), dsr["from"].clone()), (json!(mac(fixture::NEAR)), json!(mac(fixture::OURS))));
    let nat = way(&world.explain(&tcp(client, "10.200.1.3:80")), "redirect");
    assert_eq!((&nat["destination"], &nat["interface"]), (&json!("10.0.2.1:8080"), &json!("inside")));
    let bridged = way(&world.explain(&tcp(client, "10.200.1.4:80")), "routed");
    assert!(bridged["by_host"] == true && bridged["to"].is_null(), "{bridged:#}");
    let gue = way(&world.explain(&tcp(client, "10.200.2.3:80")), "redirect");
    let tunnel = json!({ "source": fixture::TUNNEL_SOURCE, "destination": "10.0.2.22", "port": 6080, "length_max": 1472 });
    assert_eq!(gue["tunnel"], tunnel);
    let too_long = Question { length: Some(1473), ..tcp(client, "10.200.2.3:80") };
    assert_eq!(world.explain(&too_long)["verdict"], "too_big");
    let last_hop = Question { ttl: 1, ..tcp(client, "10.200.1.3:80") };
    assert_eq!(world.explain(&last_hop)["verdict"], "ttl_exceeded");
    let any_port = world.explain(&tcp(client, "10.200.1.10:4711"));
    assert_eq!((&any_port["service"]["port"], &any_port["way"]["destination"]), (&json!(0), &json!("10.0.2.10:4711")));
}

#[test]
fn who_serves_nobody_and_what_is_no_service_is_said() {
    let world = World::new();
    let client = "10.9.0.100:40000";
    let down = world.explain(&tcp(client, "10.200.1.6:80"));
    assert_eq!((&down["service"]["name"], &down["verdict"]), (&json!("down"), &json!("no_backend")));
    assert_eq!((&down["backend"]["reason"], &down["backend"]["chosen"]), (&json!("nobody"), &Value::Null));
    let other_port = world.explain(&tcp(client, "10.200.1.1:81"));
    assert!(other_port["verdict"] == "not_service" && other_port["service"].is_null(), "{other_port:#}");
    let there = json!([{ "name": "dsr", "port": 80, "protocol": "tcp" }, { "name": "dsr-udp", "port": 53, "protocol": "udp" }]);
    assert_eq!(other_port["services_at_vip"], there);
    let nowhere = world.explain(&tcp(client, "10.99.0.1:80"));
    assert!(nowhere["verdict"] == "not_service" && nowhere["services_at_vip"] == json!([]), "{nowhere:#}");
}

#[test]
fn a_packet_from_a_nat_backend_is_the_reply_of_its_service() {
    let world = World::new();
    for (backend, protocol, service, source, client) in [
        ("10.0.2.1:8080", Protocol::Tcp, "nat", "10.200.1.3:80", "10.9.0.100"),
        ("10.0.2.1:5353", Protocol::Udp, "nat-udp", "10.200.1.3:53", "10.9.0.100"),
        ("[fd02::1]:8080", Protocol::Tcp, "nat-v6", "[fd00::3]:80", "fd09::100"),
        ("10.0.2.10:4711", Protocol::Tcp, "every-port-nat", "10.200.1.10:4711", "10.9.0.100"),
    ] {
        let to = SocketAddr::new(client.parse().unwrap(), 40_000).to_string();
        let explained = world.explain(&question(backend, &to, protocol));
        let reply = &explained["reply"];
        assert_eq!((&reply["service"], &reply["source"]), (&json!(service), &json!(source)), "{explained:#}");
        assert_eq!((&reply["client"], &explained["verdict"]), (&json!(client), &json!("reply_routed")));
        assert_eq!(reply["backend"]["address"], backend.parse::<SocketAddr>().unwrap().ip().to_string());
        assert!(explained["service"].is_null() && explained["backend"].is_null(), "{explained:#}");
    }
    let stranger = world.explain(&tcp("10.0.2.1:22", "10.9.0.100:40000"));
    assert!(stranger["reply"].is_null() && stranger["verdict"] == "not_service", "{stranger:#}");
}
