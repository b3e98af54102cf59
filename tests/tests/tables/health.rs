//! Failures and recoveries.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::{BackendId, MacAddr, Slot};
use lb_user::compile::{Layout, Quiet, amend, compile};
use lb_user::desired::{Algorithm, Backend, Desired, Forward, Hashing, NextHop, OnDown, Protocol, Service};
use lb_user::tables::{Tables, diff};
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

fn endpoint(n: usize) -> SocketAddr {
    SocketAddr::from(([10, 0, 1, n as u8 + 1], 80))
}

fn desired(weights: &[u16], alive: &[bool]) -> Desired {
    let backends = weights.iter().zip(alive).enumerate();
    let backends =
        backends.map(|(n, (&weight, &alive))| (endpoint(n), Backend { weight, alive, is_undecided: false, next_hop: Some(HOP) }));
    let service = Service {
        vip: [10, 200, 1, 1].into(),
        port: 80,
        protocol: Protocol::Tcp,
        algorithm: Algorithm::Maglev,
        hashing: Hashing::default(),
        forward: Forward::Dsr,
        gue_port: 6080,
        mss: None,
        toa: false,
        idle: fixture::IDLE,
        on_down: OnDown::Remap,
        is_tracked: false,
        server_ids: None,
        backends: backends.collect(),
    };
    Desired { services: BTreeMap::from([("web".into(), service)]), ingress: BTreeSet::from([INGRESS]), ..Desired::default() }
}

fn slots(tables: &Tables) -> Arc<[Slot]> {
    tables.regions.values().next().unwrap().slots.clone()
}

fn weights_and_health() -> impl Strategy<Value = (Vec<u16>, Vec<Vec<bool>>)> {
    (2..9usize).prop_flat_map(|n| {
        let health = prop::collection::vec(prop::bool::weighted(0.7), n);
        (prop::collection::vec(1..4u16, n), prop::collection::vec(health, 1..8))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(48), ..ProptestConfig::default() })]

    #[test]
    fn failures_and_recoveries_move_only_the_slots_of_the_backends_concerned((weights, history) in weights_and_health()) {
        let all = vec![true; weights.len()];
        let (mut tables, mut layout) = fixture::compile_to_rest(&desired(&weights, &all), &Layout::new(N_SLOTS), &Tables::default()).unwrap();
        let home = slots(&tables);
        let id = |layout: &Layout, n| layout.find_backend(&"web".into(), endpoint(n)).unwrap();
        let ids: Vec<BackendId> = (0..weights.len()).map(|n| id(&layout, n)).collect();
        let serving = |health: &[bool]| ids.iter().zip(health).filter(|(_, up)| **up).map(|(&id, _)| id).collect::<BTreeSet<_>>();
        let mut health = all;
        for next in history {
            let before = slots(&tables);
            (tables, layout) = fixture::compile_to_rest(&desired(&weights, &next), &layout, &tables).unwrap();
            let (was, is) = (serving(&health), serving(&next));
            for ((&home, &from), &to) in home.iter().zip(&*before).zip(&*slots(&tables)) {
                let (from, to, home) = (from.current(), to.current(), home.current());
                // Who serves has all its slots, whatever has happened; a slot without its owner is somebody else's who serves.
                let is_right = if is.contains(&home) { to == home } else { is.contains(&to) || is.is_empty() && to.is_none() };
                prop_assert!(is_right, "of {:?}, the slot of {:?} went to {:?}", is, home, to);
                let between_survivors = was.contains(&from) && is.contains(&from) && was.contains(&to);
                prop_assert!(from == to || !between_survivors, "a slot went from {:?} to {:?}, who both served and serve", from, to);
            }
            health = next;
        }
    }

    /// What is made of single services is what would be made of all, and so is what is to be written. Who decides by health gives
    /// other weights too, which may take another region: then nothing is made of them alone.
    #[test]
    fn where_only_health_changes_the_services_concerned_are_made_alone(
        (weights, history) in weights_and_health(),
        others in prop::collection::vec((any::<bool>(), 0usize..5, prop::sample::select(vec![0u16, 1, 5, 90])), 8),
        pauses in prop::collection::vec(prop::sample::select(vec![0, 1, fixture::IDLE / 2, 2 * fixture::IDLE]), 8),
    ) {
        let both = |weights_now: &[u16], health: &[bool]| {
            let (mut wanted, all) = (desired(weights_now, health), vec![true; weights.len()]);
            let shop = Service { port: 81, ..desired(&weights, &all).services.remove("web").unwrap() };
            wanted.services.insert("shop".into(), shop);
            wanted
        };
        let start = both(&weights, &vec![true; weights.len()]);
        let (mut tables, mut layout) = fixture::compile_to_rest(&start, &Layout::new(N_SLOTS), &Tables::default()).unwrap();
        let (mut now, mut weights_now) = (1, weights.clone());
        for ((health, pause), (is_other, n, weight)) in history.iter().zip(pauses).zip(others) {
            now += pause;
            if let Some(changed) = weights_now.get_mut(n).filter(|_| is_other) {
                *changed = weight;
            }
            let wanted = both(&weights_now, health);
            let concerned = BTreeMap::from([("web".into(), wanted.services["web"].clone())]);
            let alone = amend(&start, &concerned, &layout, &tables, &Quiet(now));
            let Ok((whole, whole_layout)) = compile(&wanted, &layout, &tables, &Quiet(now)) else {
                prop_assert!(alone.is_none(), "there is no room for it");
                return Ok(());
            };
            match alone {
                Some(amended) => {
                    prop_assert_eq!(diff(&amended.before, &amended.after), diff(&tables, &whole));
                    tables.amend(amended.after);
                    prop_assert_eq!(&tables, &whole);
                    prop_assert_eq!(&layout, &whole_layout);
                }
                None => prop_assert_ne!(&layout, &whole_layout, "nothing but its own tables is concerned"),
            }
            (tables, layout) = (whole, whole_layout);
        }
    }
}

#[test]
fn what_takes_ids_or_regions_is_not_made_of_single_services() {
    let before = desired(&[1, 1], &[true, true]);
    let (tables, layout) = fixture::compile_to_rest(&before, &Layout::new(N_SLOTS), &Tables::default()).unwrap();
    let alone = |wanted: Desired| amend(&before, &wanted.services, &layout, &tables, &Quiet(1));
    assert!(alone(desired(&[1, 1], &[true, false])).is_some());
    assert!(alone(desired(&[1, 1, 1], &[true, true, true])).is_none(), "a backend more");
    assert!(alone(desired(&[1], &[true])).is_none(), "a backend less");
    let mut other = desired(&[1, 1], &[true, true]);
    other.services.get_mut("web").unwrap().port = 443;
    assert!(alone(other).is_none(), "another service by the same name");
}
