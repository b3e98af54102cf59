//! Backends that come and go: whose slots move then, and whose do not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::{BackendId, MacAddr};
use lb_user::compile::{Layout, compile};
use lb_user::desired::{Algorithm, Backend, Desired, Forward, NextHop, Protocol, Service};
use lb_user::tables::Tables;

use crate::balancer::N_SLOTS;
use crate::world::INGRESS;

const HOP: NextHop =
    NextHop { ifindex: INGRESS, source: MacAddr::new([2; 6]), destination: MacAddr::new([4; 6]), takes_redirects: true };
const UP: Backend = Backend { weight: 1, alive: true, next_hop: Some(HOP) };
/// Of the slots: what Maglev moves between backends that stay, besides what it must (see `lb_common::maglev`).
const DISRUPTION_MAX: f64 = 0.04;

/// A nat service at `port` with these backends.
fn desired(port: u16, backends: impl IntoIterator<Item = (SocketAddr, Backend)>) -> Desired {
    let service = Service {
        vip: [10, 200, 1, 1].into(),
        port,
        protocol: Protocol::Tcp,
        algorithm: Algorithm::Maglev,
        forward: Forward::Nat,
        backends: backends.into_iter().collect(),
    };
    Desired { services: BTreeMap::from([("web".into(), service)]), ingress: BTreeSet::from([INGRESS]) }
}

/// Hosts `0..n`, all on this port.
fn hosts(n: u8, port: u16) -> Vec<SocketAddr> {
    (0..n).map(|host| SocketAddr::from(([10, 0, 1, host + 1], port))).collect()
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
        (self.tables, self.layout) = compile(desired, &self.layout, &self.tables).unwrap();
    }

    /// The backend of each slot.
    fn owners(&self) -> Vec<Option<SocketAddr>> {
        let names: BTreeMap<BackendId, SocketAddr> = self.layout.backends().map(|(_, endpoint, id)| (id, endpoint)).collect();
        let record = self.tables.services[&self.layout.find_service(&"web".into()).unwrap()];
        let slots = &self.tables.regions[&record.first_line].slots;
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
