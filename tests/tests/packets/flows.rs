//! What holds for flows: where they go, and that replies undo what was done to requests. For TCP and UDP, IPv4 and IPv6 alike.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::{LinkAddresses, MacAddr, Verdict};
use lb_ebpf::Route;
use lb_user::compile::Layout;
use lb_user::desired::{Algorithm, Backend, Desired, Forward, Hashing, NextHop, OnDown, Protocol, Service, ServiceName};
use lb_user::tables::{Tables, diff};
use proptest::prelude::*;
use xlb_tests::path::fixture::{self, GATEWAY, OURS};
use xlb_tests::path::host::Host;
use xlb_tests::path::judge::{Seen, see};
use xlb_tests::path::packets::{Content, Flags, Frame, frame};

use crate::host::config;

const INGRESS: u32 = 2;
const N_BACKENDS: u8 = 5;
const NAT_PORT: u16 = 8080;

/// What a flow goes to; each has a VIP of its own.
#[derive(Clone, Copy, Debug)]
struct Kind {
    is_v4: bool,
    protocol: Protocol,
    forward: Forward,
    algorithm: Algorithm,
    every_port: bool,
}

impl Kind {
    /// Distinct for each kind.
    fn number(self) -> u8 {
        let bits = [self.protocol == Protocol::Tcp, self.forward == Forward::Dsr, self.algorithm == Algorithm::Maglev];
        bits.into_iter().chain([self.every_port]).fold(0, |number, bit| number << 1 | u8::from(bit))
    }

    fn vip(self) -> IpAddr {
        self.address(200, 0)
    }

    fn address(self, network: u8, host: u8) -> IpAddr {
        if self.is_v4 {
            Ipv4Addr::new(10, network, self.number(), host + 1).into()
        } else {
            Ipv6Addr::new(0xfd00, u16::from(network), 0, 0, 0, 0, u16::from(self.number()), u16::from(host) + 1).into()
        }
    }

    fn backend(self, host: u8) -> SocketAddr {
        let port = match (self.every_port, self.forward) {
            (true, _) => 0,
            (false, Forward::Nat | Forward::Fullnat) => NAT_PORT,
            (false, Forward::Dsr | Forward::Ipip | Forward::Gue) => 80,
        };
        SocketAddr::new(self.address(0, host), port)
    }

    fn service(self) -> Service {
        let backends = (0..N_BACKENDS).map(|host| {
            let destination = MacAddr::new([2, 9, 0, 0, self.number(), host]);
            let hop =
                NextHop { ifindex: INGRESS, source: MacAddr::new(OURS), destination, takes_redirects: true, ..NextHop::NOWHERE };
            (self.backend(host), Backend { weight: 1, alive: true, is_undecided: false, next_hop: Some(hop) })
        });
        Service {
            vip: self.vip(),
            port: if self.every_port { 0 } else { 80 },
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

fn kinds() -> impl Iterator<Item = Kind> {
    (0..32u8).map(|bits| Kind {
        is_v4: bits & 1 == 0,
        protocol: if bits & 2 == 0 { Protocol::Tcp } else { Protocol::Udp },
        forward: if bits & 4 == 0 { Forward::Dsr } else { Forward::Nat },
        algorithm: if bits & 8 == 0 { Algorithm::Maglev } else { Algorithm::IpHash },
        every_port: bits & 16 == 0,
    })
}

fn host() -> Host {
    let named = kinds().enumerate().map(|(n, kind)| (ServiceName::from(format!("s{n}")), kind.service()));
    let desired =
        Desired { services: named.collect::<BTreeMap<_, _>>(), ingress: BTreeSet::from([INGRESS]), ..Desired::default() };
    let (tables, _) = fixture::compile_to_rest(&desired, &Layout::new(1 << 18), &Tables::default()).unwrap();
    let route = Route::Forward { ifindex: INGRESS, link: LinkAddresses::new(MacAddr::new(GATEWAY), MacAddr::new(OURS)) };
    let mut host = Host::new(fixture::keys(), 1 << 18, Box::new(move |_| route));
    host.carry_out(&diff(&Tables::default(), &tables));
    host
}

thread_local!(static HOST: Host = host());

fn run(frame: &Frame) -> (Verdict, Seen) {
    let outcome = HOST.with(|host| host.run(&frame.bytes(), INGRESS));
    (outcome.verdict, see(&outcome.frame).unwrap())
}

#[derive(Clone, Debug)]
struct Flow {
    kind: Kind,
    client: SocketAddr,
    port: u16,
    payloads: Vec<Vec<u8>>,
}

impl Flow {
    fn packet(&self, n: usize) -> Frame {
        let (client, vip) = (self.client.to_string(), SocketAddr::new(self.kind.vip(), self.port).to_string());
        frame(&client, &vip, self.content(n))
    }

    /// The first packet opens a connection, others are of all sorts.
    fn content(&self, n: usize) -> Content {
        let payload = self.payloads[n].clone();
        match self.kind.protocol {
            Protocol::Tcp => {
                let flags = [Flags::Syn, Flags::Ack, Flags::Fin, Flags::Rst, Flags::SynAck][n % 5];
                Content::Tcp { flags, payload }
            }
            Protocol::Udp => Content::Udp { payload },
        }
    }
}

fn flows() -> impl Strategy<Value = Flow> {
    let kind = prop::sample::select(kinds().collect::<Vec<_>>());
    let payloads = prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 2..6);
    (kind, any::<[u16; 2]>(), 1..u16::MAX, 1..u16::MAX, payloads).prop_map(|(kind, host, client_port, port, payloads)| {
        let client: IpAddr = if kind.is_v4 {
            Ipv4Addr::from_bits(u32::from(host[0] % 0x6000 + 0x1000) << 16 | u32::from(host[1])).into()
        } else {
            Ipv6Addr::new(0x2001, 0xdb8, host[0], 0, 0, host[1], 0, 1).into()
        };
        let port = if kind.every_port { port } else { 80 };
        Flow { kind, client: SocketAddr::new(client, client_port), port, payloads }
    })
}

proptest! {
    #![proptest_config(config(4_000))]

    #[test]
    fn a_flow_stays_on_one_backend_and_replies_bear_the_vip(flow in flows()) {
        let (_, first) = run(&flow.packet(0));
        for n in 0..flow.payloads.len() {
            let (verdict, seen) = run(&flow.packet(n));
            prop_assert_eq!(verdict, Verdict::Tx);
            prop_assert_eq!((seen.macs, seen.source, seen.destination), (first.macs, first.source, first.destination));
            prop_assert!(seen.checksums.hold(), "{:?}", seen.checksums);
        }
        prop_assert_eq!(first.source, flow.client);
        prop_assert_eq!(first.macs.1[..5].to_vec(), vec![2, 9, 0, 0, flow.kind.number()]);
        let backend = flow.kind.backend(first.macs.1[5]);
        if flow.kind.forward == Forward::Dsr {
            prop_assert_eq!(first.destination, SocketAddr::new(flow.kind.vip(), flow.port));
            return Ok(());
        }
        let port = if flow.kind.every_port { flow.port } else { NAT_PORT };
        prop_assert_eq!(first.destination, SocketAddr::new(backend.ip(), port));
        for n in 0..flow.payloads.len() {
            let (from, to) = (first.destination.to_string(), first.source.to_string());
            let (verdict, seen) = run(&frame(&from, &to, flow.content(n)));
            prop_assert_eq!(verdict, Verdict::Reply);
            prop_assert_eq!(seen.source, SocketAddr::new(flow.kind.vip(), flow.port));
            prop_assert_eq!((seen.destination, seen.macs), (flow.client, (OURS, GATEWAY)));
            prop_assert!(seen.checksums.hold(), "{:?}", seen.checksums);
        }
    }

    #[test]
    fn ip_hash_knows_the_client_and_not_its_ports(flow in flows(), ports in prop::collection::vec(1..u16::MAX, 1..8)) {
        let kind = Kind { algorithm: Algorithm::IpHash, ..flow.kind };
        let flow = Flow { kind, ..flow };
        let home = run(&flow.packet(0)).1.macs;
        for port in ports {
            let client = SocketAddr::new(flow.client.ip(), port);
            let port = if kind.every_port { port } else { flow.port };
            prop_assert_eq!(run(&Flow { client, port, ..flow.clone() }.packet(0)).1.macs, home);
        }
    }
}

#[test]
fn maglev_spreads_the_ports_of_one_client_and_ip_hash_spreads_clients() {
    for kind in kinds() {
        let mut at = BTreeMap::new();
        for n in 0..500u16 {
            let (host, port) = if kind.algorithm == Algorithm::IpHash { (n, 1234) } else { (7, 2000 + n) };
            let client = SocketAddr::new(kind.address(64 + (host >> 8) as u8, host as u8 & 0x7f), port);
            let flow = Flow { kind, client, port: 80, payloads: vec![Vec::new()] };
            *at.entry(run(&flow.packet(0)).1.macs.1).or_insert(0) += 1;
        }
        assert!(at.len() == usize::from(N_BACKENDS) && at.values().all(|&n| n > 40), "{kind:?}: {at:?}");
    }
}
