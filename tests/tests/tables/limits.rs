//! What does not fit is refused, and changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use lb_common::limits;
use lb_user::compile::{CompileError, Layout};
use lb_user::desired::{Algorithm, Backend, Desired, Forward, Hashing, OnDown, Protocol, Service, ServiceName};
use lb_user::tables::Tables;
use xlb_tests::path::fixture;

fn service(vip: Ipv4Addr, forward: Forward, backends: impl IntoIterator<Item = SocketAddr>) -> Service {
    // Without a weight a backend takes an id and no slot.
    let backend = Backend { weight: 0, alive: true, is_undecided: false, next_hop: None };
    Service {
        vip: vip.into(),
        port: 80,
        protocol: Protocol::Tcp,
        algorithm: Algorithm::Maglev,
        hashing: Hashing::default(),
        forward,
        gue_port: 6080,
        mss: None,
        toa: false,
        idle: fixture::IDLE,
        on_down: OnDown::Remap,
        is_tracked: false,
        server_ids: None,
        backends: backends.into_iter().map(|endpoint| (endpoint, backend.clone())).collect(),
    }
}

fn desired(services: impl IntoIterator<Item = Service>) -> Desired {
    let named = services.into_iter().enumerate().map(|(n, service)| (ServiceName::from(format!("s{n:04}")), service));
    Desired { services: named.collect(), ingress: BTreeSet::new(), ..Desired::default() }
}

fn address(network: u8, n: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(network) << 24 | n as u32)
}

fn endpoints(range: std::ops::Range<usize>) -> impl Iterator<Item = SocketAddr> {
    range.map(|n| SocketAddr::from((address(11, n), 80)))
}

/// Compiles what fits, then what does not; the error, having seen that nothing came of it.
fn refused(fits: &Desired, too_much: &Desired, n_slots: u32) -> CompileError {
    let (tables, layout) = fixture::compile_to_rest(fits, &Layout::new(n_slots), &Tables::default()).unwrap();
    let (tables_before, layout_before) = (tables.clone(), layout.clone());
    let error = fixture::compile_to_rest(too_much, &layout, &tables).unwrap_err();
    assert!(tables == tables_before && layout == layout_before, "an error changed something");
    let again = fixture::compile_to_rest(fits, &layout, &tables).unwrap();
    assert!(again == (tables, layout), "what held before the error compiles to something else after it");
    error
}

#[test]
fn one_service_more_than_the_table_holds_is_refused() {
    let n = limits::SERVICES as usize;
    let services = |n| desired((0..n).map(|n| service(address(12, n), Forward::Dsr, [])));
    let error = refused(&services(n), &services(n + 1), limits::SLOTS_DEFAULT);
    assert_eq!(error, CompileError::TooManyServices { n_services: n + 1, limit: limits::SERVICES });
}

#[test]
fn one_backend_more_than_there_are_ids_is_refused_whichever_services_have_them() {
    let n = limits::BACKENDS as usize;
    let services = |n| {
        let all: Vec<SocketAddr> = endpoints(0..n).collect();
        desired(all.chunks(20_000).enumerate().map(|(n, part)| service(address(12, n), Forward::Nat, part.to_vec())))
    };
    let error = refused(&services(n), &services(n + 1), 1 << 20);
    let backend = SocketAddr::from((address(11, n), 80));
    assert_eq!(error, CompileError::TooManyBackends { service: "s0003".into(), backend, limit: limits::BACKENDS });
}

#[test]
fn an_id_that_rests_is_not_yet_another_backends() {
    let n = limits::BACKENDS as usize;
    let full = desired([service(address(12, 0), Forward::Dsr, endpoints(0..n))]);
    let exchanged = desired([service(address(12, 0), Forward::Dsr, endpoints(1..n + 1))]);
    let (mut tables, mut layout) = fixture::compile_to_rest(&full, &Layout::new(1 << 16), &Tables::default()).unwrap();
    assert!(matches!(fixture::compile_to_rest(&exchanged, &layout, &tables), Err(CompileError::TooManyBackends { .. })));
    // Once its last flow is over, and packets on their way have passed.
    let without = desired([service(address(12, 0), Forward::Dsr, endpoints(1..n))]);
    (tables, layout) = fixture::compile_to_rest(&without, &layout, &tables).unwrap();
    assert!(matches!(fixture::compile_to_rest(&exchanged, &layout, &tables), Err(CompileError::TooManyBackends { .. })));
    layout.recycle();
    assert!(fixture::compile_to_rest(&exchanged, &layout, &tables).is_ok());
}

#[test]
fn services_that_need_more_slots_than_there_are_left_are_refused() {
    let mut fits = desired((0..2).map(|n| service(address(12, n), Forward::Dsr, endpoints(n..n + 1))));
    let mut too_much = fits.clone();
    let weighted = |desired: &mut Desired, weights: &[u16]| {
        let first = desired.services.values_mut().next().unwrap();
        let backend = |&weight| Backend { weight, alive: true, is_undecided: false, next_hop: None };
        first.backends = endpoints(0..weights.len()).zip(weights.iter().map(backend)).collect::<BTreeMap<_, _>>();
    };
    weighted(&mut fits, &[1]);
    // 512 slots for the least-weighted, sixteen times that for the other, as a power of two.
    weighted(&mut too_much, &[1, 16]);
    let smallest = 1 << limits::REGION_BITS_MIN;
    let error = refused(&fits, &too_much, 4 * smallest);
    let service = "s0000".into();
    let wanted = CompileError::OutOfSlots { service, wanted: 4 * smallest, free: 2 * smallest, limit: 4 * smallest };
    assert_eq!(error, wanted);
}

#[test]
fn a_nat_backend_of_two_services_is_refused_by_name() {
    let shared = SocketAddr::from((address(11, 0), 80));
    let nat = |n| service(address(12, n), Forward::Nat, [shared]);
    let error = refused(&desired([nat(0)]), &desired([nat(0), nat(1)]), 4096);
    let (first, second) = ("s0000".into(), "s0001".into());
    assert_eq!(error, CompileError::SharedNatBackend { first, second, backend: shared });
}
