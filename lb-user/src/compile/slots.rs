//! Who owns which slot of a service's region.

use std::net::SocketAddr;
use std::sync::Arc;

use lb_common::hash::{self, avalanche};
use lb_common::maglev::{self, Candidate, NOBODY};
use lb_common::{BackendId, Be16, PortProtocol, turns};

use super::Region;
use super::rest::{self, Sightings};
use crate::desired::{Algorithm, Service};
use crate::tables::{Order, RegionSlots};

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

/// The size that these owners need, serving or not: one that comes back needs no larger region.
pub fn region_bits(owners: &[Owner]) -> u32 {
    let all: Vec<Candidate> = owners.iter().map(|owner| Candidate { identity: 0, weight: owner.weight }).collect();
    maglev::region_bits(&all)
}

/// The slots of a service's region, shared with `previous` if nothing that they depend on has changed.
///
/// Of its members, health decides nothing about the population, only who stands in for whom: a failure and a recovery move that
/// backend's slots.
///
/// What was known of a smaller region, `previous`, says at least where its flows are.
pub fn assign(
    service: &Service,
    owners: &[Owner],
    region: Region,
    previous: Option<(&RegionSlots, Region)>,
    sightings: &impl Sightings,
) -> RegionSlots {
    let bits = region.bits;
    let candidates = candidates(service, owners);
    let serving: Vec<bool> = owners.iter().filter(|owner| owner.weight > 0).map(|owner| owner.serves).collect();
    let order = if service.algorithm.is_hash() { Order::Maglev } else { Order::Turns };
    let records_since = service.records_all_flows().then(|| {
        let long_ago = sightings.now().wrapping_sub(service.idle.saturating_add(1));
        previous.map_or(long_ago, |(previous, _)| previous.records_since.unwrap_or(sightings.now()))
    });
    // Of adopted slots the population is not known, not even that it was nobody's.
    let is_known = |previous: &RegionSlots| previous.bits == bits && previous.population.len() == 1 << bits;
    let is_same = |previous: &RegionSlots| previous.candidates == candidates && previous.order == order;
    let reusable = previous.map(|(previous, _)| previous).filter(|previous| is_known(previous) && is_same(previous));
    if let Some(previous) = reusable
        && previous.serving == serving
        && previous.records_since == records_since
        && previous.restless.is_empty()
    {
        return previous.clone();
    }
    let reusable = reusable.filter(|previous| order == Order::Maglev || previous.serving == serving);
    let (population, n_turns) = match (reusable, order) {
        (Some(previous), _) => (previous.population.clone(), previous.n_turns),
        (None, Order::Maglev) => {
            let maglev: Vec<Candidate> = candidates.iter().map(|&(_, candidate)| candidate).collect();
            (maglev::populate(&maglev, bits).into(), 0)
        }
        (None, Order::Turns) => turns(&candidates, &serving, bits),
    };
    let id = |index| if index == NOBODY { BackendId::NONE } else { candidates[usize::from(index)].0 };
    let current = maglev::stand_in(&population, |index| serving[usize::from(index)]);
    let (slots, restless) =
        rest::slots(current.into_iter().map(id), region, records_since.is_some(), previous, service.idle, sightings);
    RegionSlots { bits, candidates, serving, order, records_since, n_turns, population, slots, restless }
}

/// Those who serve, in the order of their turns, over and over; and how many turns it is until all begins anew.
///
/// Who is out has no turn and needs nobody to stand in: all flows are on record, so that a slot may change hands at any time.
fn turns(candidates: &[(BackendId, Candidate)], serving: &[bool], bits: u32) -> (Arc<[u16]>, u32) {
    let weight = |(&(_, candidate), &serves): (&(BackendId, Candidate), &bool)| if serves { candidate.weight } else { 0 };
    let weights: Vec<u16> = candidates.iter().zip(serving).map(weight).collect();
    let round = turns::round(&weights, 1 << bits);
    if round.is_empty() {
        return (vec![NOBODY; 1 << bits].into(), 0);
    }
    let slots = round.iter().copied().cycle().take(1 << bits).collect();
    (slots, round.len() as u32)
}

/// Backends with a weight and what identifies them on every node.
fn candidates(service: &Service, owners: &[Owner]) -> Vec<(BackendId, Candidate)> {
    let candidate = |owner: &Owner| {
        // Round-robin proper asks only whether there is one.
        let weight = if service.algorithm == Algorithm::RoundRobin { 1 } else { owner.weight };
        Candidate { identity: identity(service.port, owner.endpoint), weight }
    };
    owners.iter().filter(|owner| owner.weight > 0).map(|owner| (owner.id, candidate(owner))).collect()
}

/// What identifies a backend of the service at `port`: its address, and how far its port is from the service's.
///
/// Nothing that another backend has a part in, or one that comes would move the flows of the others. The port itself is
/// left out: so services with the same backends have the same table, and under ip-hash a client meets the same backend on
/// 80 and 443, be they 80 and 443 there too, or 8080 and 8443.
fn identity(port: u16, backend: SocketAddr) -> u64 {
    let distance = Be16::new(backend.port().wrapping_sub(port));
    avalanche(hash::endpoint(IDENTITY, backend.ip().into(), PortProtocol::new(distance, 0)))
}
