//! Backends that come and go: whose slots move then, and whose do not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::{BackendId, MacAddr};
use lb_user::compile::{CompileError, Layout};
use lb_user::desired::{Algorithm, Backend, Desired, Forward, Hashing, NextHop, OnDown, Protocol, Service};
use lb_user::tables::Tables;
use proptest::prelude::*;
use xlb_tests::path::fixture;

use crate::balancer::N_SLOTS;
use crate::sequences::cases;
use crate::world::INGRESS;

const HOP: NextHop = NextHop {
    ifindex: INGRESS,
    source: MacAddr::new([2; 6]),
    destination: MacAddr::new([4; 6]),
    takes_redirects: true,
    ..NextHop::NOWHERE
};
const UP: Backend = Backend { weight: 1, alive: true, is_undecided: false, next_hop: Some(HOP) };
/// Of the slots: what Maglev moves between backends that stay, besides what it must (see `lb_common::maglev`).
const DISRUPTION_MAX: f64 = 0.04;

const DOWN: Backend = Backend { alive: false, ..UP };

/// A nat service at `port` with these backends.
fn desired(port: u16, backends: impl IntoIterator<Item = (SocketAddr, Backend)>) -> Desired {
    let service = Service {
        vip: [10, 200, 1, 1].into(),
        port,
        protocol: Protocol::Tcp,
        algorithm: Algorithm::Maglev,
        hashing: Hashing::default(),
        forward: Forward::Nat,
        gue_port: 6080,
        mss: None,
        toa: false,
        idle: fixture::IDLE,
        on_down: OnDown::Remap,
        is_tracked: false,
        server_ids: None,
        backends: backends.into_iter().collect(),
    };
    Desired { services: BTreeMap::from([("web".into(), service)]), ingress: BTreeSet::from([INGRESS]), ..Desired::default() }
}

/// Hosts `0..n`, all on this port.
fn hosts(n: u8, port: u16) -> Vec<SocketAddr> {
    (0..n).map(|host| SocketAddr::from(([10, 0, 1, host + 1], port))).collect()
}

/// A service on port 80 with `n` hosts, of which the first `n_up` are up.
fn web(n: u8, n_up: usize) -> Desired {
    desired(80, hosts(n, 80).into_iter().enumerate().map(|(host, endpoint)| (endpoint, if host < n_up { UP } else { DOWN })))
}

/// Tables and ids over a row of changes.
struct Tabled {
    tables: Tables,
    layout: Layout,
}

impl Tabled {
    fn new() -> Self {
        Self { tables: Tables::default(), layout: Layout::new(N_SLOTS) }
    }

    fn bring_about(&mut self, desired: &Desired) {
        (self.tables, self.layout) = fixture::compile_to_rest(desired, &self.layout, &self.tables).unwrap();
    }

    /// The backend of each slot.
    fn owners(&self) -> Vec<Option<SocketAddr>> {
        let names: BTreeMap<BackendId, SocketAddr> = self.layout.backends().map(|(_, endpoint, id)| (id, endpoint)).collect();
        let record = self.tables.services[&self.layout.find_service(&"web".into()).unwrap()];
        let slots = &self.tables.regions[&lb_user::compile::Region::of(&record).first_line].slots;
        slots.iter().map(|slot| names.get(&slot.current()).copied()).collect()
    }
}

/// The part of all slots that went from one backend to another that was there before too.
fn moved_between_others(before: &[Option<SocketAddr>], after: &[Option<SocketAddr>]) -> f64 {
    assert_eq!(before.len(), after.len(), "another region");
    let stays: BTreeSet<_> = before.iter().collect();
    let moved = before.iter().zip(after).filter(|(from, to)| from != to && stays.contains(to));
    moved.count() as f64 / before.len() as f64
}

#[test]
fn an_address_that_serves_on_a_second_port_moves_no_more_than_any_backend_that_comes() {
    for second in [8081, 8079, 80, 1] {
        let mut tabled = Tabled::new();
        let first = hosts(5, 8080);
        tabled.bring_about(&desired(80, first.iter().map(|&host| (host, UP))));
        let before = tabled.owners();
        let more = SocketAddr::new(first[0].ip(), second);
        tabled.bring_about(&desired(80, first.iter().chain([&more]).map(|&host| (host, UP))));
        let after = tabled.owners();
        let got = after.iter().filter(|owner| **owner == Some(more)).count() as f64 / after.len() as f64;
        assert!((got - 1.0 / 6.0).abs() < 0.01, "port {second}: {got:.3} of the slots");
        let moved = moved_between_others(&before, &after);
        assert!(moved < DISRUPTION_MAX, "port {second}: {moved:.3} moved between the others");
    }
}

#[test]
fn services_with_the_same_backends_have_the_same_table_on_their_own_ports_and_at_a_distance() {
    let hosts_of = |port, backend_port| -> Vec<IpAddr> {
        let mut tabled = Tabled::new();
        tabled.bring_about(&desired(port, hosts(5, backend_port).into_iter().map(|host| (host, UP))));
        tabled.owners().into_iter().map(|owner| owner.unwrap().ip()).collect()
    };
    assert_eq!(hosts_of(80, 80), hosts_of(443, 443));
    assert_eq!(hosts_of(80, 8080), hosts_of(443, 8443));
    assert_eq!(hosts_of(0, 0), hosts_of(443, 443));
}

#[test]
fn one_that_comes_owns_nothing_and_moves_nothing_before_it_is_up() {
    // The ninth would need a larger region.
    for (n, n_up) in [(1, 1), (4, 4), (8, 8)] {
        let mut tabled = Tabled::new();
        tabled.bring_about(&web(n, n_up));
        let before = tabled.tables.regions.clone();
        tabled.bring_about(&web(n + 1, n_up));
        assert_eq!(tabled.tables.regions, before, "{n} backends, and one that was never up");
        tabled.bring_about(&web(n, n_up));
        assert_eq!(tabled.tables.regions, before, "{n} backends, and one that has left again");
        tabled.bring_about(&web(n + 1, n_up + 1));
        let mut fresh = Tabled::new();
        fresh.bring_about(&web(n + 1, n_up + 1));
        assert_eq!(tabled.owners(), fresh.owners(), "{n} backends, and one that is up");
    }
}

#[test]
fn one_that_comes_up_moves_little_besides_its_own_share_and_one_that_fails_afterwards_nothing_else() {
    let mut tabled = Tabled::new();
    tabled.bring_about(&web(5, 4));
    tabled.bring_about(&web(6, 4));
    let before = tabled.owners();
    tabled.bring_about(&web(6, 6));
    let up = tabled.owners();
    let moved = moved_between_others(&before, &up);
    assert!(moved < DISRUPTION_MAX, "{moved:.3} moved between the others");
    tabled.bring_about(&web(6, 5));
    let failed = tabled.owners();
    let sixth = hosts(6, 80).pop();
    assert!(up.iter().zip(&failed).all(|(from, to)| from == to || *from == sixth), "others than its own slots moved");
    tabled.bring_about(&web(6, 6));
    assert_eq!(tabled.owners(), up);
}

#[test]
fn one_that_left_and_came_back_has_to_be_up_first() {
    let mut tabled = Tabled::new();
    tabled.bring_about(&web(5, 5));
    tabled.bring_about(&web(4, 4));
    let without = tabled.owners();
    tabled.bring_about(&web(5, 4));
    assert_eq!(tabled.owners(), without);
}

#[test]
fn where_nobody_is_left_who_was_ever_up_those_who_come_begin_together() {
    let mut tabled = Tabled::new();
    tabled.bring_about(&web(3, 3));
    let others = |up: &dyn Fn(usize) -> bool| {
        let others: Vec<_> = hosts(7, 80).into_iter().skip(3).enumerate().collect();
        desired(80, others.into_iter().map(|(n, host)| (host, if up(n) { UP } else { DOWN })))
    };
    tabled.bring_about(&others(&|_| false));
    tabled.bring_about(&others(&|n| n == 2));
    let third_up = tabled.owners();
    tabled.bring_about(&others(&|n| n > 1));
    assert_eq!(moved_between_others(&third_up, &tabled.owners()), 0.0);
}

#[test]
fn a_larger_region_is_there_when_the_backend_that_needs_it_comes_up_or_the_backend_is_refused() {
    let web_and_other = |n, n_up, other: bool| {
        let mut desired = web(n, n_up);
        let mut service = desired.services.values().next().unwrap().clone();
        service.vip = [10, 200, 1, 2].into();
        service.forward = Forward::Dsr;
        desired.services.extend(other.then(|| ("other".into(), service)));
        desired
    };
    // 4,096 slots for eight, and 8,192 for nine.
    let mut tabled = Tabled { layout: Layout::new(3 << 12), ..Tabled::new() };
    tabled.bring_about(&web_and_other(8, 8, false));
    tabled.bring_about(&web_and_other(9, 8, false));
    let refused = fixture::compile_to_rest(&web_and_other(9, 8, true), &tabled.layout, &tabled.tables);
    assert!(matches!(refused, Err(CompileError::OutOfSlots { .. })), "its place was given away");
    tabled.bring_about(&web_and_other(9, 9, false));
    assert_eq!(tabled.owners().len(), 1 << 13);

    let mut tabled = Tabled { layout: Layout::new(3 << 12), ..Tabled::new() };
    tabled.bring_about(&web_and_other(8, 8, true));
    let refused = fixture::compile_to_rest(&web_and_other(9, 8, true), &tabled.layout, &tabled.tables);
    assert!(matches!(refused, Err(CompileError::OutOfSlots { .. })), "it would be refused when it is up");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(48), ..ProptestConfig::default() })]

    #[test]
    fn at_a_start_each_takes_its_own_slots_as_it_comes_up_and_no_others(order in Just((0..7usize).collect::<Vec<_>>()).prop_shuffle()) {
        let mut tabled = Tabled::new();
        let with = |up: &[usize]| {
            desired(80, hosts(7, 80).into_iter().enumerate().map(|(n, host)| (host, if up.contains(&n) { UP } else { DOWN })))
        };
        let mut before = Vec::new();
        for n in 0..=order.len() {
            tabled.bring_about(&with(&order[..n]));
            let after = tabled.owners();
            if n > 1 {
                prop_assert_eq!(moved_between_others(&before, &after), 0.0);
            }
            before = after;
        }
        let mut fresh = Tabled::new();
        fresh.bring_about(&web(7, 7));
        prop_assert_eq!(before, fresh.owners());
    }
}
