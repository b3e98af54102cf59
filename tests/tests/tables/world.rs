//! A small world in which much collides: few names, VIPs, ports and backends, and changes that pass them around.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::MacAddr;
use lb_user::desired::{Algorithm, Backend, Desired, Forward, Hashing, NextHop, OnDown, Protocol, Service, ServiceName};
use proptest::prelude::*;
use proptest::sample::Index;
use xlb_tests::path::fixture;
use xlb_tests::path::fixture::OURS;
use xlb_tests::path::packets::Mac;

/// Interfaces: packets come in on one, backends are behind both.
pub const INGRESS: u32 = 2;
const INSIDE: u32 = 3;

const NAMES: [&str; 4] = ["a", "b", "c", "d"];
pub const N_VIPS: u8 = 3;
pub const PORTS: [u16; 3] = [80, 443, 0];
pub const PROTOCOLS: [Protocol; 2] = [Protocol::Tcp, Protocol::Udp];
pub const N_POOLS: u8 = 3;
pub const N_HOSTS: u8 = 6;

/// A VIP; the last is IPv6.
pub fn vip(number: u8) -> IpAddr {
    match number {
        2 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
        _ => Ipv4Addr::new(10, 200, 1, number + 1).into(),
    }
}

/// A backend's address in the VIP's family.
pub fn address(is_v4: bool, pool: u8, host: u8) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(10, 0, pool + 1, host + 1).into()
    } else {
        Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, u16::from(pool), u16::from(host) + 1).into()
    }
}

/// The link-layer address that tells who a frame is for.
pub fn mac(address: IpAddr) -> Mac {
    match address {
        IpAddr::V4(v4) => [2, 4, 0, 0, v4.octets()[2], v4.octets()[3]],
        IpAddr::V6(v6) => [2, 6, 0, 0, v6.octets()[13], v6.octets()[15]],
    }
}

/// A service of the world, and what may change about it.
#[derive(Clone, Debug)]
pub struct Spec {
    pub vip: u8,
    pub port: u16,
    pub protocol: Protocol,
    pub algorithm: Algorithm,
    pub forward: Forward,
    pub pool: u8,
    pub hosts: BTreeMap<u8, Host>,
}

/// A backend of a service.
#[derive(Clone, Copy, Debug)]
pub struct Host {
    pub weight: u16,
    pub alive: bool,
    pub way: Way,
}

/// The way to a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    Unknown,
    Ingress,
    Inside,
    /// Behind an interface that takes no redirected frames.
    Bridged,
}

/// A service's name, by number.
type Name = usize;

#[derive(Clone, Debug)]
pub enum Op {
    Put(Name, Spec),
    Remove(Name),
    Rename(Name, Name),
    /// Two services exchange what they listen on.
    Swap(Name, Name),
    Host(Name, u8, Host),
    Leave(Name, u8),
    Algorithm(Name, Algorithm),
}

/// Changes that happen at once, whether what rested is given away before them, and whether a write fails.
#[derive(Clone, Debug)]
pub struct Step {
    pub recycle: bool,
    pub fails: Option<Index>,
    pub ops: Vec<Op>,
}

fn hosts() -> impl Strategy<Value = Host> {
    let way = prop_oneof![1 => Just(Way::Unknown), 4 => Just(Way::Ingress), 3 => Just(Way::Inside), 1 => Just(Way::Bridged)];
    let weight = prop_oneof![1 => Just(0u16), 5 => Just(1), 1 => 2..5u16];
    (weight, prop::bool::weighted(0.8), way).prop_map(|(weight, alive, way)| Host { weight, alive, way })
}

fn algorithms() -> impl Strategy<Value = Algorithm> {
    prop_oneof![Just(Algorithm::Maglev), Just(Algorithm::IpHash)]
}

fn specs() -> impl Strategy<Value = Spec> {
    let listens = (0..N_VIPS, prop::sample::select(&PORTS[..]), prop::sample::select(&PROTOCOLS[..]));
    let forward = prop_oneof![Just(Forward::Dsr), Just(Forward::Nat)];
    let backends = prop::collection::btree_map(0..N_HOSTS, hosts(), 0..5);
    (listens, algorithms(), forward, 0..N_POOLS, backends).prop_map(|((vip, port, protocol), algorithm, forward, pool, hosts)| {
        Spec { vip, port, protocol, algorithm, forward, pool, hosts }
    })
}

fn ops() -> impl Strategy<Value = Op> {
    let name = || 0..NAMES.len();
    prop_oneof![
        4 => (name(), specs()).prop_map(|(name, spec)| Op::Put(name, spec)),
        1 => name().prop_map(Op::Remove),
        1 => (name(), name()).prop_map(|(from, to)| Op::Rename(from, to)),
        2 => (name(), name()).prop_map(|(a, b)| Op::Swap(a, b)),
        6 => (name(), 0..N_HOSTS, hosts()).prop_map(|(name, host, to)| Op::Host(name, host, to)),
        2 => (name(), 0..N_HOSTS).prop_map(|(name, host)| Op::Leave(name, host)),
        1 => (name(), algorithms()).prop_map(|(name, algorithm)| Op::Algorithm(name, algorithm)),
    ]
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    let fails = prop::option::weighted(0.3, any::<Index>());
    let step = (any::<bool>(), fails, prop::collection::vec(ops(), 0..5));
    let step = step.prop_map(|(recycle, fails, ops)| Step { recycle, fails, ops });
    prop::collection::vec(step, 1..7)
}

/// The services by name.
#[derive(Clone, Debug, Default)]
pub struct World(BTreeMap<Name, Spec>);

impl World {
    pub fn change(&mut self, op: Op) {
        match op {
            Op::Put(name, spec) => drop(self.0.insert(name, spec)),
            Op::Remove(name) => drop(self.0.remove(&name)),
            Op::Rename(from, to) => {
                if let Some(spec) = self.0.remove(&from) {
                    self.0.insert(to, spec);
                }
            }
            Op::Swap(a, b) => self.swap(a, b),
            Op::Host(name, host, to) => drop(self.0.get_mut(&name).map(|spec| spec.hosts.insert(host, to))),
            Op::Leave(name, host) => drop(self.0.get_mut(&name).map(|spec| spec.hosts.remove(&host))),
            Op::Algorithm(name, algorithm) => {
                self.0.entry(name).and_modify(|spec| spec.algorithm = algorithm);
            }
        }
    }

    fn swap(&mut self, a: Name, b: Name) {
        let (Some(first), Some(second)) = (self.0.get(&a).cloned(), self.0.get(&b).cloned()) else { return };
        let listening = |spec: &Spec, on: &Spec| Spec { vip: on.vip, port: on.port, protocol: on.protocol, ..spec.clone() };
        self.0.insert(a, listening(&first, &second));
        self.0.insert(b, listening(&second, &first));
    }

    /// What the configuration would let pass of it: of services that exclude each other, the first.
    pub fn desired(&self) -> Desired {
        let mut listening = BTreeSet::new();
        let mut pools_of_nat = BTreeSet::new();
        let mut services = BTreeMap::new();
        for (&name, spec) in &self.0 {
            let is_free = listening.insert((spec.vip, spec.port, spec.protocol));
            let family = vip(spec.vip).is_ipv4();
            let owns = spec.forward != Forward::Nat || pools_of_nat.insert((family, spec.pool, spec.protocol));
            if is_free && owns {
                services.insert(ServiceName::from(NAMES[name]), spec.service());
            }
        }
        Desired { services, ingress: BTreeSet::from([INGRESS]), ..Desired::default() }
    }
}

impl Spec {
    fn service(&self) -> Service {
        let vip = vip(self.vip);
        let backends = self.hosts.iter().map(|(&host, state)| {
            let address = address(vip.is_ipv4(), self.pool, host);
            let port = if self.forward == Forward::Nat && self.port != 0 { 8000 + u16::from(host) } else { self.port };
            let backend =
                Backend { weight: state.weight, alive: state.alive, is_undecided: false, next_hop: state.next_hop(address) };
            (SocketAddr::new(address, port), backend)
        });
        Service {
            vip,
            port: self.port,
            protocol: self.protocol,
            algorithm: self.algorithm,
            hashing: Hashing::default(),
            forward: self.forward,
            gue_port: 6080,
            mss: None,
            toa: false,
            idle: fixture::IDLE,
            on_down: OnDown::Remap,
            is_tracked: false,
            server_ids: None,
            backends: backends.collect(),
        }
    }
}

impl Host {
    fn next_hop(&self, address: IpAddr) -> Option<NextHop> {
        let ifindex = match self.way {
            Way::Unknown => return None,
            Way::Ingress => INGRESS,
            Way::Inside | Way::Bridged => INSIDE,
        };
        let takes_redirects = self.way != Way::Bridged;
        Some(NextHop {
            ifindex,
            source: MacAddr::new(OURS),
            destination: MacAddr::new(mac(address)),
            takes_redirects,
            ..NextHop::NOWHERE
        })
    }
}
