//! Who owns which slot of a service's region.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use lb_common::hash::{self, avalanche};
use lb_common::maglev::{self, Candidate, NOBODY};
use lb_common::{BackendId, Be16, PortProtocol, Slot};

use crate::tables::RegionSlots;

/// Any odd number; the same on every node.
const IDENTITY: u64 = 0x9e37_79b9_7f4a_7c15;

/// A backend that may own slots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Owner {
    pub id: BackendId,
    pub endpoint: SocketAddr,
    pub weight: u16,
    /// Whether new flows may go to it now.
    pub serves: bool,
}

/// The size that all owners need, serving or not: one that comes back needs no larger region.
pub fn region_bits(owners: &[Owner]) -> u32 {
    let all: Vec<Candidate> = owners.iter().map(|owner| Candidate { identity: 0, weight: owner.weight }).collect();
    maglev::region_bits(&all)
}

/// The slots of a region, shared with `previous` if nothing that they depend on has changed.
///
/// Health decides nothing about the population, only who stands in for whom: a failure and a recovery move that backend's slots.
pub fn assign(owners: &[Owner], bits: u32, previous: Option<&RegionSlots>) -> RegionSlots {
    let candidates = candidates(owners);
    let serving: Vec<bool> = owners.iter().filter(|owner| owner.weight > 0).map(|owner| owner.serves).collect();
    // Of adopted slots the population is not known, not even that it was nobody's.
    let is_known = |previous: &RegionSlots| previous.bits == bits && previous.population.len() == 1 << bits;
    let reusable = previous.filter(|previous| is_known(previous) && previous.candidates == candidates);
    if let Some(previous) = reusable
        && previous.serving == serving
    {
        return previous.clone();
    }
    let population = reusable.map_or_else(
        || {
            let maglev: Vec<Candidate> = candidates.iter().map(|&(_, candidate)| candidate).collect();
            maglev::populate(&maglev, bits).into()
        },
        |previous| previous.population.clone(),
    );
    let id = |index| if index == NOBODY { BackendId::NONE } else { candidates[usize::from(index)].0 };
    let current = maglev::stand_in(&population, |index| serving[usize::from(index)]);
    let slots = current.into_iter().map(|index| Slot::at_rest(id(index))).collect();
    RegionSlots { bits, candidates, serving, population, slots }
}

/// Backends with a weight and what identifies them on every node: the address, and the port only where one address serves twice.
///
/// Without the port, services with the same backends have the same table, and under ip-hash a client meets the same backend
/// on ports 80 and 443.
fn candidates(owners: &[Owner]) -> Vec<(BackendId, Candidate)> {
    let mut n_by_address: BTreeMap<IpAddr, usize> = BTreeMap::new();
    for owner in owners {
        *n_by_address.entry(owner.endpoint.ip()).or_default() += 1;
    }
    let is_twice = n_by_address.values().any(|&n| n > 1);
    let identity = |endpoint: SocketAddr| {
        let port = if is_twice { endpoint.port() } else { 0 };
        avalanche(hash::endpoint(IDENTITY, endpoint.ip().into(), PortProtocol::new(Be16::new(port), 0)))
    };
    owners
        .iter()
        .filter(|owner| owner.weight > 0)
        .map(|owner| (owner.id, Candidate { identity: identity(owner.endpoint), weight: owner.weight }))
        .collect()
}
