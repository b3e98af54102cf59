//! Who owns which slot of a service's region.

use std::net::SocketAddr;

use lb_common::flow::Tick;
use lb_common::hash::{self, avalanche};
use lb_common::maglev::{self, Candidate, NOBODY};
use lb_common::{BackendId, Be16, PortProtocol};

use super::Region;
use super::rest::{self, Sightings};
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

/// The size that these owners need, serving or not: one that comes back needs no larger region.
pub fn region_bits(owners: &[Owner]) -> u32 {
    let all: Vec<Candidate> = owners.iter().map(|owner| Candidate { identity: 0, weight: owner.weight }).collect();
    maglev::region_bits(&all)
}

/// The slots of the region of the service at `port`, shared with `previous` if nothing that they depend on has changed.
///
/// Of its members, health decides nothing about the population, only who stands in for whom: a failure and a recovery move that
/// backend's slots.
///
/// What was known of a smaller region, `previous`, says at least where its flows are.
pub fn assign(
    port: u16,
    owners: &[Owner],
    region: Region,
    previous: Option<(&RegionSlots, Region)>,
    idle: Tick,
    sightings: &impl Sightings,
) -> RegionSlots {
    let bits = region.bits;
    let candidates = candidates(port, owners);
    let serving: Vec<bool> = owners.iter().filter(|owner| owner.weight > 0).map(|owner| owner.serves).collect();
    // Of adopted slots the population is not known, not even that it was nobody's.
    let is_known = |previous: &RegionSlots| previous.bits == bits && previous.population.len() == 1 << bits;
    let reusable = previous.map(|(previous, _)| previous);
    let reusable = reusable.filter(|previous| is_known(previous) && previous.candidates == candidates);
    if let Some(previous) = reusable
        && previous.serving == serving
        && previous.restless.is_empty()
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
    let (slots, restless) = rest::slots(current.into_iter().map(id), region, previous, idle, sightings);
    RegionSlots { bits, candidates, serving, population, slots, restless }
}

/// Backends with a weight and what identifies them on every node.
fn candidates(port: u16, owners: &[Owner]) -> Vec<(BackendId, Candidate)> {
    let candidate = |owner: &Owner| Candidate { identity: identity(port, owner.endpoint), weight: owner.weight };
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
