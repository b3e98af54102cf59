//! The services that the table of cases is about, compiled as the daemon compiles them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_common::flow::Tick;
use lb_common::hash::HashKeys;
use lb_common::meter::{Limit, Meter};
use lb_common::{LinkAddresses, MacAddr};
use lb_ebpf::{Route, RouteQuery};
use lb_user::admission::{Admission, Limits, List, Lists, Rules};
use lb_user::compile::{CompileError, Layout, Quiet, compile};
use lb_user::desired::{Absence, Algorithm, Backend, Desired, Forward, Hashing, NextHop, OnDown, Protocol, Service, Watchdog};
use lb_user::tables::{Plan, Tables, diff};

use super::packets::Mac;
use super::{choices, fullnat, mss, quic};

/// The router that clients are behind.
pub const GATEWAY: Mac = [2, 0, 0, 0, 0, 1];
/// The balancer, on the interface that packets come in on.
pub const OURS: Mac = [2, 0, 0, 0, 0, 2];
/// The balancer, on the interface towards some backends.
pub const OURS_INSIDE: Mac = [2, 0, 0, 0, 0, 3];
/// Backends.
pub const NEAR: Mac = [2, 0, 0, 0, 1, 1];
pub const FAR: Mac = [2, 0, 0, 0, 1, 2];

pub const CLIENT: &str = "10.9.0.100";
pub const CLIENT_V6: &str = "fd09::100";

/// The balancer's own addresses towards backends, and what that network carries.
pub const TUNNEL_SOURCE: &str = "10.0.2.254";
pub const TUNNEL_SOURCE_V6: &str = "fd02::254";
pub const MTU: u16 = 1500;

/// Interfaces of the balancer. Clients are on `outside`.
#[derive(Clone, Copy, Debug)]
pub struct Interfaces {
    pub outside: u32,
    pub inside: u32,
}

pub fn keys() -> HashKeys {
    HashKeys::from_bytes(std::array::from_fn(|i| (i * 37 + 11) as u8))
}

pub const N_SLOTS: u32 = 1 << 18;

pub const N_FLOWS: u32 = 1 << 14;

/// How long a silent flow is taken for alive.
pub const IDLE: Tick = 800;

/// Each service by what is special about it.
pub fn desired(interfaces: Interfaces) -> Desired {
    let near = NextHop {
        ifindex: interfaces.outside,
        source: MacAddr::new(OURS),
        destination: MacAddr::new(NEAR),
        takes_redirects: true,
        ..NextHop::NOWHERE
    };
    let far = NextHop {
        ifindex: interfaces.inside,
        source: MacAddr::new(OURS_INSIDE),
        destination: MacAddr::new(FAR),
        takes_redirects: true,
        ..NextHop::NOWHERE
    };
    let bridged = NextHop { takes_redirects: false, ..far };
    let service = |vip: &str, protocol, forward, backends: &[(&str, Option<NextHop>)]| {
        let vip: SocketAddr = vip.parse().expect("ADDRESS:PORT");
        let backends = backends.iter().map(|&(endpoint, next_hop)| {
            let backend = Backend { weight: 1, alive: next_hop.is_some(), is_undecided: false, next_hop };
            (endpoint.parse().expect("ADDRESS:PORT"), backend)
        });
        Service {
            vip: vip.ip(),
            port: vip.port(),
            protocol,
            algorithm: Algorithm::Maglev,
            hashing: Hashing::default(),
            forward,
            gue_port: 6080,
            mss: None,
            toa: false,
            idle: IDLE,
            on_down: OnDown::Remap,
            is_tracked: false,
            server_ids: None,
            backends: backends.collect(),
        }
    };
    let tunnel = |address: &str| NextHop { address: Some(address.parse().expect("an address")), mtu: MTU, ..far };
    let (from4, from6) = (tunnel(TUNNEL_SOURCE), tunnel(TUNNEL_SOURCE_V6));
    use Forward::{Dsr, Fullnat, Gue, Ipip, Nat};
    use Protocol::{Tcp, Udp};
    let mut services = BTreeMap::from([
        ("dsr".into(), service("10.200.1.1:80", Tcp, Dsr, &[("10.0.1.1:80", Some(near))])),
        ("dsr-udp".into(), service("10.200.1.1:53", Udp, Dsr, &[("10.0.1.1:53", Some(near))])),
        ("dsr-v6".into(), service("[fd00::1]:80", Tcp, Dsr, &[("[fd01::1]:80", Some(near))])),
        ("dsr-far".into(), service("10.200.1.2:80", Tcp, Dsr, &[("10.0.2.1:80", Some(far))])),
        ("nat".into(), service("10.200.1.3:80", Tcp, Nat, &[("10.0.2.1:8080", Some(far))])),
        ("nat-udp".into(), service("10.200.1.3:53", Udp, Nat, &[("10.0.2.1:5353", Some(far))])),
        ("nat-v6".into(), service("[fd00::3]:80", Tcp, Nat, &[("[fd02::1]:8080", Some(far))])),
        ("nat-udp-v6".into(), service("[fd00::3]:53", Udp, Nat, &[("[fd02::1]:5353", Some(far))])),
        ("nat-near".into(), service("10.200.1.5:80", Tcp, Nat, &[("10.0.1.5:8080", Some(near))])),
        ("nat-bridged".into(), service("10.200.1.4:80", Tcp, Nat, &[("10.0.3.1:8080", Some(bridged))])),
        ("every-port".into(), service("10.200.1.9:0", Tcp, Dsr, &[("10.0.1.1:0", Some(near))])),
        ("every-port-nat".into(), service("10.200.1.10:0", Tcp, Nat, &[("10.0.2.10:0", Some(far))])),
        ("4in4".into(), service("10.200.2.1:80", Tcp, Ipip, &[("10.0.2.21:80", Some(from4))])),
        ("4in6".into(), service("10.200.2.2:80", Tcp, Ipip, &[("[fd02::21]:80", Some(from6))])),
        ("6in4".into(), service("[fd00:0:0:2::1]:80", Tcp, Ipip, &[("10.0.2.21:80", Some(from4))])),
        ("6in6".into(), service("[fd00:0:0:2::2]:80", Tcp, Ipip, &[("[fd02::21]:80", Some(from6))])),
        ("gue".into(), service("10.200.2.3:80", Tcp, Gue, &[("10.0.2.22:80", Some(from4))])),
        ("gue-udp".into(), service("10.200.2.3:53", Udp, Gue, &[("10.0.2.22:53", Some(from4))])),
        ("gue-6in6".into(), service("[fd00:0:0:2::3]:80", Tcp, Gue, &[("[fd02::22]:80", Some(from6))])),
        ("no-source".into(), service("10.200.2.9:80", Tcp, Ipip, &[("10.0.2.21:80", Some(far))])),
        ("fullnat".into(), service("10.200.5.1:80", Tcp, Fullnat, &[("10.0.2.41:8080", Some(far))])),
        ("fullnat-udp".into(), service("10.200.5.1:53", Udp, Fullnat, &[("10.0.2.41:5353", Some(far))])),
        ("fullnat-v6".into(), service("[fd00:0:0:5::1]:80", Tcp, Fullnat, &[("[fd02::41]:8080", Some(far))])),
        ("fullnat-udp-v6".into(), service("[fd00:0:0:5::1]:53", Udp, Fullnat, &[("[fd02::41]:5353", Some(far))])),
        ("fullnat-every-port".into(), service("10.200.5.2:0", Tcp, Fullnat, &[("10.0.2.42:0", Some(far))])),
        ("fullnat-bridged".into(), service("10.200.5.3:80", Tcp, Fullnat, &[("10.0.3.1:8080", Some(bridged))])),
        ("down".into(), service("10.200.1.6:80", Tcp, Dsr, &[("10.0.1.6:80", None)])),
    ]);
    let by_id = [
        ("quic", "10.200.4.1:443", Dsr, ["10.0.1.31:443", "10.0.2.31:443", "10.0.2.33:443"], [near, far]),
        ("quic-v6", "[fd00:0:0:3::1]:443", Dsr, ["[fd01::31]:443", "[fd02::31]:443", "[fd02::33]:443"], [near, far]),
        ("quic-nat", "10.200.4.2:443", Nat, ["10.0.2.31:8443", "10.0.2.32:8443", "10.0.2.33:8443"], [far, far]),
        ("quic-fullnat", "10.200.5.7:443", Fullnat, ["10.0.2.46:8443", "10.0.2.47:8443", "10.0.2.48:8443"], [far, far]),
        ("quic-ipip", "10.200.4.3:443", Ipip, ["10.0.2.34:443", "10.0.2.35:443", "10.0.2.36:443"], [from4, from4]),
    ];
    for (name, vip, forward, endpoints, ways) in by_id {
        let service = service(vip, Udp, forward, &quic::backends(endpoints, ways));
        services.insert(name.into(), quic::with_ids(service));
    }
    for (name, vip, forward, backend, way) in [
        ("mss", "10.200.6.1:80", Dsr, "10.0.2.51:80", far),
        ("mss-v6", "[fd00:0:0:6::1]:80", Dsr, "[fd02::51]:80", far),
        ("mss-nat", "10.200.6.2:80", Nat, "10.0.2.52:8080", far),
        ("mss-nat-v6", "[fd00:0:0:6::2]:80", Nat, "[fd02::52]:8080", far),
        ("mss-ipip", "10.200.6.3:80", Ipip, "10.0.2.53:80", from4),
    ] {
        let service = service(vip, Tcp, forward, &[(backend, Some(way))]);
        services.insert(name.into(), Service { mss: Some(mss::MSS), ..service });
    }
    for (name, vip, backend, toa) in [
        ("mss-fullnat", "10.200.5.5:80", "10.0.2.44:8080", false),
        ("mss-fullnat-v6", "[fd00:0:0:5::5]:80", "[fd02::44]:8080", false),
        ("mss-toa", "10.200.5.6:80", "10.0.2.45:8080", true),
        ("mss-toa-v6", "[fd00:0:0:5::6]:80", "[fd02::45]:8080", true),
    ] {
        let service = service(vip, Tcp, Fullnat, &[(backend, Some(far))]);
        services.insert(name.into(), Service { mss: Some(mss::MSS), toa, ..service });
    }
    for (name, vip, backend) in [("toa", "10.200.5.4:80", "10.0.2.43:8080"), ("toa-v6", "[fd00:0:0:5::4]:80", "[fd02::43]:8080")]
    {
        let service = service(vip, Tcp, Fullnat, &[(backend, Some(far))]);
        services.insert(name.into(), Service { toa: true, ..service });
    }
    let many: Vec<String> = (1..=5).map(|i| format!("10.0.4.{i}:80")).collect();
    let many: Vec<_> = many.iter().map(|endpoint| (endpoint.as_str(), Some(near))).collect();
    services.insert("spread".into(), service("10.200.1.7:80", Tcp, Dsr, &many));
    let by_client = Service { algorithm: Algorithm::IpHash, ..service("10.200.1.8:80", Tcp, Dsr, &many) };
    services.insert("by-client".into(), by_client);
    for (n, (algorithm, hashing)) in (1..).zip(choices::ALGORITHMS) {
        let backends: Vec<String> = (1..=choices::WEIGHTS.len()).map(|host| format!("10.0.{}.{host}:8080", 10 + n)).collect();
        let backends: Vec<_> = backends.iter().map(|endpoint| (endpoint.as_str(), Some(far))).collect();
        let mut service = Service { algorithm, hashing, ..service(&choices::vip(n), Tcp, Nat, &backends) };
        service.backends.values_mut().zip(choices::WEIGHTS).for_each(|(backend, weight)| backend.weight = weight);
        services.insert(format!("chosen-{n}").into(), service);
    }
    let ingress = BTreeSet::from([interfaces.outside]);
    Desired { services, ingress, pool: fullnat::pool().into(), ..Desired::default() }
}

/// Single hosts, every other of a /20: their tree has several levels.
fn every_other_host() -> Vec<String> {
    (0..2048u32).map(|n| IpAddr::V4((0xac10_0000 + 2 * n).into()).to_string()).collect()
}

/// The same with rules of admission: some for all VIPs, some for single services.
pub fn guarded(interfaces: Interfaces) -> Desired {
    let prefix = |text: &str| lb_user::admission::prefix(text).expect("a prefix");
    let list = |prefixes: &[&str]| List::new(prefixes.iter().map(|text| prefix(text)).collect(), Vec::new());
    let every_other = List::new(every_other_host().iter().map(|host| prefix(host)).collect(), Vec::new());
    let rules = |deny: List, allow: List| Rules { lists: Lists::new(deny, allow).into(), ..Rules::default() };
    let services = [
        ("dsr", rules(list(&["10.9.0.128/25", "10.9.0.0/16"]), list(&["10.9.0.0/24", "10.66.0.0/16"]))),
        ("dsr-v6", rules(list(&["fd09:0:0:1::/64", "fd09::bad"]), List::default())),
        ("dsr-udp", rules(every_other, List::default())),
    ];
    let admission = Admission {
        all_vips: rules(list(&["10.66.0.0/16", "fd66::/16"]), List::default()),
        services: services.into_iter().map(|(name, rules)| (name.into(), rules)).collect(),
    };
    Desired { admission: admission.into(), ..desired(interfaces) }
}

/// The same with limits, so low that nothing comes back while a test runs: only bursts pass.
pub fn limited(interfaces: Interfaces) -> Desired {
    let rules = |limits: &[(Meter, u32)]| {
        let mut of_service = Limits { source_bits_v4: 24, ..Limits::default() };
        for &(meter, burst) in limits {
            of_service.limits[meter as usize] = Limit { interval: u32::MAX, burst };
        }
        Rules { limits: of_service, ..Rules::default() }
    };
    let services = [
        ("dsr", rules(&[(Meter::SourceConnections, 3)])),
        ("dsr-udp", rules(&[(Meter::SourceConnections, 2), (Meter::SourcePackets, 6)])),
        ("dsr-v6", rules(&[(Meter::SourcePackets, 3)])),
        ("nat", rules(&[(Meter::Packets, 4)])),
        ("nat-udp", rules(&[(Meter::Connections, 2)])),
    ];
    let services = services.into_iter().map(|(name, rules)| (name.into(), rules)).collect();
    let all_vips = rules(&[(Meter::SourcePackets, 20)]);
    Desired { admission: Admission { all_vips, services }.into(), ..desired(interfaces) }
}

/// Both kinds.
pub fn watchdogs() -> [Watchdog; 2] {
    [Absence::Pass, Absence::Drop].map(|absence| Watchdog { after: Duration::from_secs(60), absence })
}

pub fn watched(interfaces: Interfaces, watchdog: Watchdog) -> Desired {
    Desired { watchdog: Some(watchdog), ..desired(interfaces) }
}

/// What leads from the fixture's tables to others with the same services.
pub fn plan_to(interfaces: Interfaces, desired: &Desired) -> Plan {
    let (tables, layout, _) = plan(interfaces);
    let (guarded, _) = compile_to_rest(desired, &layout, &tables).expect("the rules fit");
    diff(&tables, &guarded)
}

/// The tables once all flows of before have ended: no slot is learning, and nobody is leaving.
///
/// # Errors
/// As [`compile`].
pub fn compile_to_rest(desired: &Desired, layout: &Layout, previous: &Tables) -> Result<(Tables, Layout), CompileError> {
    let (tables, layout) = compile(desired, layout, previous, &Quiet(1 << 20))?;
    compile(desired, &layout, &tables, &Quiet(1 << 21))
}

/// The fixture's tables and the plan that writes them to empty maps.
pub fn plan(interfaces: Interfaces) -> (Tables, Layout, Plan) {
    let (tables, layout) =
        compile_to_rest(&desired(interfaces), &Layout::new(N_SLOTS), &Tables::default()).expect("the fixture fits");
    let plan = diff(&Tables::default(), &tables);
    (tables, layout, plan)
}

/// Interfaces that take redirected frames.
pub fn links(interfaces: Interfaces) -> BTreeMap<u32, bool> {
    BTreeMap::from([(interfaces.outside, true), (interfaces.inside, true)])
}

/// The routing table that [`kernel`](super::kernel) sets up for real: two networks outside, with one neighbour each.
pub fn route(interfaces: Interfaces, query: &RouteQuery) -> Route {
    let destination = IpAddr::from(query.destination);
    let (is_outside, is_ours) = match destination {
        // The broadcast address is nobody's to forward to. The lowest one is a host's like any other since Linux 5.14.
        IpAddr::V4(address) => (address.octets()[..3] == [10, 9, 0], matches!(address.octets()[3], 1 | 255)),
        // The first address of a network is every router's (RFC 4291 section 2.6.1).
        IpAddr::V6(address) => (address.segments()[..4] == [0xfd09, 0, 0, 0], address.to_bits() as u64 <= 1),
    };
    if destination.to_string() == CLIENT || destination.to_string() == CLIENT_V6 {
        Route::Forward { ifindex: interfaces.outside, link: LinkAddresses::new(MacAddr::new(GATEWAY), MacAddr::new(OURS)) }
    } else if is_outside && !is_ours {
        Route::Host
    } else {
        Route::Local
    }
}
