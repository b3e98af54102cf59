use std::collections::BTreeSet;

use lb_common::{Addr, MacAddr};
use proptest::prelude::*;

use super::*;
use crate::desired::{NextHop, Protocol};

const INGRESS: u32 = 2;

fn service(vip: IpAddr, port: u16, forward: Forward, backend: (SocketAddr, Backend)) -> Service {
    let (protocol, algorithm) = (Protocol::Tcp, Algorithm::Maglev);
    let (gue_port, idle, on_down) = (6080, 800, OnDown::Remap);
    Service {
        vip,
        port,
        protocol,
        algorithm,
        hashing: Hashing::default(),
        forward,
        gue_port,
        mss: None,
        toa: false,
        idle,
        on_down,
        is_tracked: false,
        server_ids: None,
        backends: BTreeMap::from([backend]),
    }
}

fn desired(service: Service) -> Desired {
    Desired { services: BTreeMap::from([("web".into(), service)]), ingress: BTreeSet::from([INGRESS]), ..Desired::default() }
}

fn backend(ifindex: u32, takes_redirects: bool) -> Backend {
    let hop =
        NextHop { ifindex, source: MacAddr::new([2; 6]), destination: MacAddr::new([4; 6]), takes_redirects, ..NextHop::NOWHERE };
    Backend { weight: 1, alive: true, is_undecided: false, next_hop: Some(hop) }
}

fn compiled(service: Service) -> Tables {
    compile(&desired(service), &Layout::new(1 << 12), &Tables::default(), &Quiet(0)).unwrap().0
}

fn record(tables: &Tables) -> records::Backend {
    tables.backends[&BackendId(1)]
}

/// The one's complement sum of these words, complemented: a checksum in full (RFC 1071).
fn checksum(words: &[u16]) -> u16 {
    let mut sum: u32 = words.iter().map(|&word| u32::from(word)).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !sum as u16
}

/// The address as it stands in a packet, in words.
fn words(address: IpAddr) -> Vec<u16> {
    let octets = match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    octets.chunks(2).map(|pair| u16::from_ne_bytes([pair[0], pair[1]])).collect()
}

fn endpoints() -> impl Strategy<Value = (IpAddr, IpAddr)> {
    let v4 = any::<[u32; 2]>().prop_map(|pair| (IpAddr::V4(pair[0].into()), IpAddr::V4(pair[1].into())));
    let v6 = any::<[u128; 2]>().prop_map(|pair| (IpAddr::V6(pair[0].into()), IpAddr::V6(pair[1].into())));
    prop_oneof![v4, v6]
}

proptest! {
    #[test]
    fn a_nat_records_deltas_lead_to_the_checksums_of_a_full_sum(
        (vip, address) in endpoints(),
        (port, backend_port) in (1..u16::MAX, 1..u16::MAX),
        every_port in any::<bool>(),
        // What else is summed: never all zeros, for a length or a protocol is among it.
        rest in prop::collection::vec(1..u16::MAX, 1..20),
    ) {
        let (service_port, backend_port) = if every_port { (0, 0) } else { (port, backend_port) };
        let at = SocketAddr::new(address, backend_port);
        let record = record(&compiled(service(vip, service_port, Forward::Nat, (at, backend(INGRESS, true)))));
        let sum = |address, port: &[u16]| checksum(&[&rest[..], &words(address), port].concat());
        prop_assert_eq!(record.ip_delta.apply(sum(vip, &[])), sum(address, &[]));
        prop_assert_eq!(record.ip_delta.reversed().apply(sum(address, &[])), sum(vip, &[]));
        let arrives = [port.to_be()];
        let leaves = [if every_port { port } else { backend_port }.to_be()];
        prop_assert_eq!(record.l4_delta.apply(sum(vip, &arrives)), sum(address, &leaves));
        prop_assert_eq!(record.l4_delta.reversed().apply(sum(address, &leaves)), sum(vip, &arrives));
        prop_assert_eq!((record.address, record.port.get()), (Addr::from(address), backend_port));
    }
}

#[test]
fn a_backend_serves_where_packets_can_be_sent_the_way_its_service_forwards() {
    let at = SocketAddr::from(([10, 0, 0, 1], 80));
    // Which interface, whether it takes redirected frames, how it is forwarded to; and whether it serves.
    let cases = [
        (3, true, Forward::Dsr, true),
        (3, false, Forward::Dsr, false),
        (INGRESS, false, Forward::Dsr, true),
        (3, true, Forward::Nat, true),
        (3, false, Forward::Nat, true),
        (INGRESS, false, Forward::Nat, true),
    ];
    for (ifindex, takes_redirects, forward, expected) in cases {
        let service = service([10, 200, 1, 1].into(), 80, forward, (at, backend(ifindex, takes_redirects)));
        let tables = compiled(service);
        let case = format!("interface {ifindex}, redirects {takes_redirects}, {forward:?}");
        let owner = if expected { BackendId(1) } else { BackendId::NONE };
        assert!(tables.regions.values().all(|region| region.slots.iter().all(|slot| slot.current() == owner)), "{case}");
        let flags = record(&tables).flags;
        assert_eq!(flags & backend_flags::ALIVE != 0, expected, "{case}");
        assert_eq!(flags & backend_flags::VIA_HOST != 0, !takes_redirects, "{case}");
    }
}

#[test]
fn who_is_down_without_weight_or_without_a_way_gets_no_slot() {
    let at = SocketAddr::from(([10, 0, 0, 1], 80));
    let up = backend(INGRESS, true);
    let cases = [Backend { alive: false, ..up.clone() }, Backend { weight: 0, ..up.clone() }, Backend { next_hop: None, ..up }];
    for case in cases {
        let tables = compiled(service([10, 200, 1, 1].into(), 80, Forward::Nat, (at, case.clone())));
        assert!(tables.regions.values().all(|region| region.slots.iter().all(|slot| slot.current().is_none())), "{case:?}");
        // Without a weight it keeps the flows that it has.
        assert_eq!(record(&tables).flags & backend_flags::ALIVE != 0, case.weight == 0, "{case:?}");
    }
}
