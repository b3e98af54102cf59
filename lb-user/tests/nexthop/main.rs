//! Next hops followed in real network namespaces. Each test changes the network as an operator or a fault would, and
//! waits for the resolver to say so.

#![expect(clippy::unwrap_used, clippy::panic, reason = "what fails here is a failed test, outside test functions too")]

mod net;
mod pass_program;

use std::time::{Duration, Instant};

use aya::programs::xdp::XdpMode;
use lb_common::MacAddr;
use lb_user::nexthop::{Answer, LinkFacts, NextHopError, RedirectMode, Unresolved, advise, facts};

use net::{Follower, Net, ip};

const FIRST: MacAddr = MacAddr::new([2, 0, 0, 0, 0xaa, 1]);
const SECOND: MacAddr = MacAddr::new([2, 0, 0, 0, 0xaa, 2]);

/// Resolved to this link-layer address.
fn leads_to(mac: MacAddr) -> impl Fn(&Answer) -> bool {
    move |answer| answer.as_ref().is_ok_and(|way| way.hop.destination == mac)
}

fn is(unresolved: &Unresolved) -> impl Fn(&Answer) -> bool {
    move |answer| answer.as_ref() == Err(unresolved)
}

fn mac(net: &Net, name: &str, interface: &str) -> MacAddr {
    facts_of(net, name, interface).unwrap().mac
}

fn facts_of(net: &Net, name: &str, interface: &str) -> Result<LinkFacts, NextHopError> {
    net.within(name, || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(facts(interface)))
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn neighbours_of_both_families_resolve_within_a_second_and_the_task_ends_with_the_resolver() {
    let net = Net::with_backend();
    let theirs = mac(&net, "backend", "eth0");
    let started = Instant::now();
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &["10.0.0.2", "fd00::2"]);
    follower.wait_for("10.0.0.2", leads_to(theirs));
    follower.wait_for("fd00::2", leads_to(theirs));
    let took = follower.changed_at - started;
    println!("resolved within {took:?}");
    assert!(took < Duration::from_secs(1), "{took:?}");
    let ours = facts_of(&net, "lb", "eth0").unwrap();
    let hop = follower.answers[&ip("10.0.0.2")].clone().unwrap().hop;
    assert_eq!((hop.ifindex, hop.source), (ours.ifindex, ours.mac));
    assert_eq!(follower.resolver().snapshot(), follower.answers);
    // Whoever asks again has forgotten, even if the task slept in between.
    for wanted in [vec!["fd00::2"], vec!["10.0.0.2", "fd00::2"]] {
        follower.resolver().want(wanted.into_iter().map(ip).collect());
    }
    follower.answers.remove(&ip("10.0.0.2"));
    follower.wait_for("10.0.0.2", leads_to(theirs));
    follower.resolver().want([ip("fd00::2")].into());
    let deadline = Instant::now() + net::DEADLINE;
    while follower.resolver().snapshot().len() != 1 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    assert!(follower.stop());
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn addresses_behind_gateways_lead_to_the_gateway() {
    let net = Net::with_backend();
    let theirs = mac(&net, "backend", "eth0");
    net.ip("lb", "route add 10.1.0.0/16 via 10.0.0.2");
    net.ip("lb", "route add fd01::/64 via fd00::2");
    net.ip("lb", "route add 10.2.0.0/16 via inet6 fd00::2");
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &["10.1.0.7", "fd01::7", "10.2.0.7"]);
    for (address, gateway) in [("10.1.0.7", "10.0.0.2"), ("fd01::7", "fd00::2"), ("10.2.0.7", "fd00::2")] {
        follower.wait_for(address, leads_to(theirs));
        assert_eq!(follower.answers[&ip(address)].clone().unwrap().gateway, Some(ip(gateway)), "{address}");
    }
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn ten_thousand_addresses_resolve_within_seconds() {
    let net = Net::with_backend();
    net.ip("lb", "route add 10.1.0.0/16 via 10.0.0.2");
    let wanted: Vec<String> = (0..10_000).map(|n| format!("10.1.{}.{}", n / 250, n % 250)).collect();
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let started = Instant::now();
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &wanted);
    follower.wait_until("all resolved", |follower| {
        follower.answers.len() == wanted.len() && follower.answers.values().all(Result::is_ok)
    });
    println!("10,000 addresses within {:?}", follower.changed_at - started);

    let changed = Instant::now();
    net.sysctl("backend", "ipv4/conf/eth0/arp_notify", "1");
    net.ip("backend", &format!("link set eth0 address {SECOND}"));
    follower.wait_until("all moved", |follower| follower.answers.values().all(leads_to(SECOND)));
    println!("their gateway's new address within {:?}", follower.changed_at - changed);
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn a_neighbour_that_announces_a_new_link_layer_address_is_followed_at_once() {
    let net = Net::with_backend();
    net.sysctl("backend", "ipv4/conf/eth0/arp_notify", "1");
    net.sysctl("backend", "ipv6/conf/eth0/ndisc_notify", "1");
    net.ip("backend", &format!("link set eth0 address {FIRST}"));
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &["10.0.0.2", "fd00::2"]);
    follower.wait_for("10.0.0.2", leads_to(FIRST));
    follower.wait_for("fd00::2", leads_to(FIRST));
    let changed = Instant::now();
    net.ip("backend", &format!("link set eth0 address {SECOND}"));
    follower.wait_for("10.0.0.2", leads_to(SECOND));
    println!("followed within {:?}, the command included", follower.changed_at - changed);
    follower.wait_for("fd00::2", leads_to(SECOND));
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn hundreds_of_silent_neighbours_do_not_hold_back_one_that_answers() {
    let net = Net::with_backend();
    let silent: Vec<String> = (10..250).map(|n| format!("10.0.0.{n}")).chain((10..250).map(|n| format!("fd00::{n}"))).collect();
    let wanted: Vec<&str> = silent.iter().map(String::as_str).chain(["10.0.0.2"]).collect();
    let started = Instant::now();
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &wanted);
    follower.wait_for("10.0.0.2", Result::is_ok);
    println!("resolved among silent ones within {:?}", follower.changed_at - started);
    follower.wait_until("the others fail", |follower| {
        let failed = |answer: &Answer| matches!(answer, Err(Unresolved::NeighbourFailed { .. }));
        silent.iter().all(|address| follower.answers.get(&ip(address)).is_some_and(failed))
    });
    assert!(follower.answers[&ip("10.0.0.2")].is_ok());
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn from_the_kernels_word_to_the_change_it_is_less_than_ten_milliseconds() {
    let net = Net::with_backend();
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &["10.0.0.2"]);
    follower.wait_for("10.0.0.2", Result::is_ok);
    let mut took: Vec<_> = (0..11)
        .map(|n| {
            let mac = if n % 2 == 0 { FIRST } else { SECOND };
            net.ip("lb", &format!("neigh replace 10.0.0.2 lladdr {mac} nud reachable dev eth0"));
            let changed = Instant::now();
            follower.wait_for("10.0.0.2", leads_to(mac));
            follower.changed_at.saturating_duration_since(changed)
        })
        .collect();
    took.sort();
    println!("from the command's end: {took:?}");
    // The median: the other tests run at the same time, on what may be a single processor.
    assert!(took[took.len() / 2] < Duration::from_millis(10), "{took:?}");
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn a_neighbour_that_falls_silent_without_traffic_is_noticed_and_found_again() {
    let net = Net::with_backend();
    for (setting, value) in [("base_reachable_time_ms", "500"), ("delay_first_probe_time", "1"), ("retrans_time_ms", "100")] {
        net.sysctl("lb", &format!("ipv4/neigh/eth0/{setting}"), value);
    }
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &["10.0.0.2"]);
    follower.wait_for("10.0.0.2", Result::is_ok);
    net.ip("backend", "addr del 10.0.0.2/24 dev eth0");
    let failed = Unresolved::NeighbourFailed { interface: "eth0".to_owned(), gateway: ip("10.0.0.2") };
    follower.wait_for("10.0.0.2", is(&failed));
    net.ip("backend", "addr add 10.0.0.2/24 dev eth0");
    follower.wait_for("10.0.0.2", Result::is_ok);
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn an_entry_that_the_administrator_made_permanent_stays_so() {
    let net = Net::with_backend();
    net.ip("lb", &format!("neigh replace 10.0.0.2 lladdr {FIRST} nud permanent dev eth0"));
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &["10.0.0.2", "fd00::2"]);
    follower.wait_for("10.0.0.2", leads_to(FIRST));
    follower.wait_for("fd00::2", Result::is_ok);
    // It announced another address meanwhile, and the resolver looked again.
    net.sysctl("backend", "ipv4/conf/eth0/arp_notify", "1");
    net.ip("backend", &format!("link set eth0 address {SECOND}"));
    follower.wait_for("fd00::2", Result::is_ok);
    assert!(net.ip("lb", "neigh show 10.0.0.2").contains("PERMANENT"));
    assert!(follower.answers[&ip("10.0.0.2")].as_ref().is_ok_and(|way| way.hop.destination == FIRST));
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn an_interface_that_goes_down_comes_back_and_is_deleted_is_followed() {
    let net = Net::with_backend();
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &["10.0.0.2"]);
    follower.wait_for("10.0.0.2", Result::is_ok);
    // The other end: no carrier here, but the route stays.
    net.ip("backend", "link set eth0 down");
    follower.wait_for("10.0.0.2", is(&Unresolved::InterfaceDown { interface: "eth0".to_owned() }));
    net.ip("backend", "link set eth0 up");
    follower.wait_for("10.0.0.2", Result::is_ok);
    // This end: the route goes too, unannounced.
    net.ip("lb", "link set eth0 down");
    follower.wait_for("10.0.0.2", is(&Unresolved::NoRoute));
    net.ip("lb", "link set eth0 up");
    follower.wait_for("10.0.0.2", Result::is_ok);
    let ifindex = facts_of(&net, "lb", "eth0").unwrap().ifindex;
    assert!(follower.redirects.contains_key(&ifindex));
    net.ip("lb", "link del eth0");
    follower.wait_for("10.0.0.2", is(&Unresolved::NoRoute));
    follower.wait_until("the interface is gone", |follower| !follower.redirects.contains_key(&ifindex));
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn a_route_that_moves_to_another_interface_takes_the_next_hop_with_it() {
    let net = Net::with_backend();
    net.veth("lb", "eth1", "backend", "eth1");
    net.ip("lb", "addr add 10.9.0.1/24 dev eth1");
    net.ip("backend", "addr add 10.9.0.2/24 dev eth1");
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &["10.1.0.7"]);
    follower.wait_for("10.1.0.7", is(&Unresolved::NoRoute));
    net.ip("lb", "route add 10.1.0.0/16 via 10.0.0.2");
    follower.wait_for("10.1.0.7", leads_to(mac(&net, "backend", "eth0")));
    net.ip("lb", "route add 10.1.0.0/24 via 10.9.0.2");
    follower.wait_for("10.1.0.7", leads_to(mac(&net, "backend", "eth1")));
    let other = facts_of(&net, "lb", "eth1").unwrap();
    let hop = follower.answers[&ip("10.1.0.7")].clone().unwrap().hop;
    assert_eq!((hop.ifindex, hop.source), (other.ifindex, other.mac));
    net.ip("lb", "route del 10.1.0.0/24");
    follower.wait_for("10.1.0.7", leads_to(mac(&net, "backend", "eth0")));
    net.ip("lb", "nexthop add id 5 via 10.9.0.2 dev eth1");
    net.ip("lb", "route add 10.1.0.0/24 nhid 5");
    follower.wait_for("10.1.0.7", leads_to(mac(&net, "backend", "eth1")));
    // The route stays as it is, only what it names changes.
    net.ip("lb", "nexthop replace id 5 via 10.0.0.2 dev eth0");
    follower.wait_for("10.1.0.7", leads_to(mac(&net, "backend", "eth0")));
    net.ip("lb", "rule add to 10.1.0.7 prohibit");
    follower.wait_for("10.1.0.7", is(&Unresolved::Unreachable));
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn addresses_that_nothing_can_be_sent_to_say_why() {
    let net = Net::with_backend();
    net.ip("lb", "route add blackhole 10.7.0.0/16");
    net.ip("lb", "route add unreachable fd07::/64");
    net.ip("lb", "route add prohibit 10.8.0.0/16");
    net.ip("lb", "route add 10.6.0.0/16 dev lo");
    let cases = [
        ("10.0.0.1", Unresolved::LocalAddress),
        ("127.0.0.1", Unresolved::LocalAddress),
        ("fd00::1", Unresolved::LocalAddress),
        ("192.0.2.1", Unresolved::NoRoute),
        ("2001:db8::1", Unresolved::NoRoute),
        ("10.0.0.255", Unresolved::Unreachable),
        ("10.7.0.1", Unresolved::Unreachable),
        ("10.8.0.1", Unresolved::Unreachable),
        ("fd07::1", Unresolved::Unreachable),
        ("10.6.0.1", Unresolved::NoLinkLayerAddress { ifindex: 1, interface: "lo".to_owned(), kind: "no Ethernet".to_owned() }),
        ("10.0.0.77", Unresolved::NeighbourFailed { interface: "eth0".to_owned(), gateway: ip("10.0.0.77") }),
    ];
    let wanted: Vec<_> = cases.iter().map(|(address, _)| *address).collect();
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &wanted);
    for (address, expected) in &cases {
        follower.wait_for(address, is(expected));
    }
    net.ip("lb", "addr add 192.0.2.1/32 dev lo");
    follower.wait_for("192.0.2.1", is(&Unresolved::LocalAddress));
}

/// `lb` reaches its backend through a bridge whose only port is a veth.
fn bridged() -> Net {
    let net = Net::new(&["lb", "backend"]);
    net.veth("lb", "port0", "backend", "eth0");
    net.ip("lb", "link add br0 type bridge");
    net.ip("lb", "link set port0 master br0");
    net.ip("lb", "link set br0 up");
    net.address("lb", "br0", 1);
    net.address("backend", "eth0", 2);
    net
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn a_bridge_takes_redirects_from_generic_programs_only() {
    let net = bridged();
    for (mode, takes) in [(RedirectMode::Native, false), (RedirectMode::Generic, true)] {
        let mut follower = Follower::start(&net, "lb", mode, &["10.0.0.2"]);
        follower.wait_for("10.0.0.2", |answer| answer.as_ref().is_ok_and(|way| way.hop.takes_redirects == takes));
        let bridge = facts_of(&net, "lb", "br0").unwrap();
        assert_eq!(bridge.kind.as_deref(), Some("bridge"));
        assert_eq!(follower.redirects.get(&bridge.ifindex), Some(&takes));
        // A port that leaves is announced as if deleted, and is not.
        net.ip("lb", "link set port0 nomaster");
        net.ip("lb", "link set port0 master br0");
        net.ip("lb", "link set br0 mtu 1400");
        let port = facts_of(&net, "lb", "port0").unwrap();
        assert!(follower.redirects.contains_key(&port.ifindex));
        // Another program is attached, the other way.
        let other = if takes { RedirectMode::Native } else { RedirectMode::Generic };
        follower.resolver().set_mode(other);
        follower.wait_for("10.0.0.2", |answer| answer.as_ref().is_ok_and(|way| way.hop.takes_redirects != takes));
        assert_eq!(follower.redirects.get(&bridge.ifindex), Some(&!takes));
    }
    assert!(!advise(&facts_of(&net, "lb", "br0").unwrap()).native);
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn a_tap_takes_redirects_and_a_tun_never_does() {
    let net = Net::new(&["lb"]);
    net.ip("lb", "tuntap add tap0 mode tap");
    net.ip("lb", "tuntap add tun0 mode tun");
    let (tap, tun) = (facts_of(&net, "lb", "tap0").unwrap(), facts_of(&net, "lb", "tun0").unwrap());
    println!("{tap:?} {tun:?}");
    assert!(tap.ethernet && !tun.ethernet);
    assert!(advise(&tap).native && !advise(&tun).native);
    for mode in [RedirectMode::Native, RedirectMode::Generic] {
        let mut follower = Follower::start(&net, "lb", mode, &[]);
        follower.wait_until("the interfaces", |follower| !follower.redirects.is_empty());
        assert_eq!(follower.redirects.get(&tap.ifindex), Some(&true), "{mode:?}");
        assert_eq!(follower.redirects.get(&tun.ifindex), None, "{mode:?}");
    }
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn a_veth_takes_redirects_while_its_other_end_has_gro_or_a_program() {
    let net = Net::with_backend();
    let mut follower = Follower::start(&net, "lb", RedirectMode::Native, &["10.0.0.2"]);
    let takes = |takes| move |answer: &Answer| answer.as_ref().is_ok_and(|way| way.hop.takes_redirects == takes);
    follower.wait_for("10.0.0.2", takes(false));
    net.run("backend", "ethtool -K eth0 gro on");
    follower.wait_for("10.0.0.2", takes(true));
    net.run("backend", "ethtool -K eth0 gro off");
    follower.wait_for("10.0.0.2", takes(false));
    let program = net.within("backend", || pass_program::attach("eth0", XdpMode::Driver));
    follower.wait_for("10.0.0.2", takes(true));
    let ifindex = facts_of(&net, "lb", "eth0").unwrap().ifindex;
    assert_eq!(follower.redirects.get(&ifindex), Some(&true));
    drop(program);
    follower.wait_for("10.0.0.2", takes(false));
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn native_is_advised_for_a_veth_only_while_a_native_program_runs_on_its_other_end() {
    let net = Net::with_backend();
    net.ip("lb", "link add left type veth peer name right");
    let advised = |interface| advise(&facts_of(&net, "lb", interface).unwrap());
    assert_eq!(facts_of(&net, "lb", "eth0").unwrap().peer_has_xdp, Some(false));
    assert!(!advised("eth0").native);
    net.run("backend", "ethtool -K eth0 gro on");
    assert!(!advised("eth0").native, "GRO lets frames in, but not back out");
    let generic = net.within("backend", || pass_program::attach("eth0", XdpMode::Skb));
    assert!(!advised("eth0").native, "a generic program takes no part in native transmission");
    drop(generic);
    let native = net.within("backend", || pass_program::attach("eth0", XdpMode::Driver));
    assert!(advised("eth0").native, "{:?}", advised("eth0"));
    assert!(facts_of(&net, "backend", "eth0").unwrap().xdp_attached.is_some());
    drop(native);
    assert!(!advised("left").native);
    let _native = net.within("lb", || pass_program::attach("right", XdpMode::Driver));
    assert!(advised("left").native, "both ends in one namespace");
}

#[test]
#[ignore = "needs root and network namespaces; run by cargo xtask test"]
fn an_interface_that_does_not_exist_is_said_not_to() {
    let net = Net::new(&["lb"]);
    for interface in ["eth7", "", "a-name-that-no-interface-can-have"] {
        let error = facts_of(&net, "lb", interface).unwrap_err();
        assert!(matches!(error, NextHopError::NoSuchInterface { .. }), "{interface}: {error:?}");
    }
    assert!(!advise(&facts_of(&net, "lb", "lo").unwrap()).native);
}
