//! What zones make of weights: how much each can bear, and what that leaves each backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use super::choice::{Health, Member};
use super::zones::{self, Capacity, Division, Shift, Zones};
use super::{Asked, Standing};
use crate::desired::{Backend, Service};
use crate::health::Parts;

impl Standing {
    /// Divides new flows among zones, and leaves backends without weight whose zones take none. Yields what is otherwise than before.
    pub(super) fn divide(
        &mut self,
        asked: Asked<'_>,
        service: &mut Service,
        members: &BTreeMap<SocketAddr, Member>,
        own_weight: impl Fn(&SocketAddr) -> u16,
        panics: bool,
    ) -> Option<Shift> {
        let before = self.division.take();
        let zones = asked.rules.zones.as_ref()?;
        self.is_known |=
            !members.is_empty() && members.values().all(|member| member.health != Health::Undecided || !member.is_wanted);
        let capacities = self.capacities(service, members, own_weight, panics);
        // Taken for healthy, a zone that is dead would take all, only for being near.
        let own_zone = asked.own_zone.filter(|_| !panics);
        let mut division = Division::new(zones, own_zone, capacities);
        if self.is_coarse {
            division.coarsen();
        }
        // Where nobody can take any, as little as possible changes.
        for (endpoint, backend) in service.backends.iter_mut().filter(|_| division.is_any()) {
            let Some(place) = self.backends.get_mut(endpoint).filter(|place| place.is_in_zones()) else { continue };
            let share = division.of(place.zone.as_ref());
            if share.percent == 0 {
                place.is_standby = share.capacity.healthy > 0;
                backend.weight = 0;
            }
        }
        let shift = |before: Division| Shift { before, now: division.clone() };
        // Where the sorry backend serves, zones have no part in it.
        let shift = before.filter(|before| !division.zones.is_empty() && !before.has_shares_of(&division)).map(shift);
        self.division = Some(division);
        shift
    }

    /// What each zone can bear, by the backends that have a part in it.
    ///
    /// What is not known counts as well at a start, until something has been heard of all: not the quickest check decides. Later it
    /// counts as nothing either way, for a backend that is added makes its zone neither ill nor healthier.
    fn capacities(
        &self,
        service: &Service,
        members: &BTreeMap<SocketAddr, Member>,
        own_weight: impl Fn(&SocketAddr) -> u16,
        panics: bool,
    ) -> Zones<Capacity> {
        let mut capacities: Zones<Capacity> = Zones::new();
        for (endpoint, backend) in &service.backends {
            let (Some(member), Some(place)) = (members.get(endpoint), self.backends.get(endpoint)) else { continue };
            if !place.is_in_zones() {
                continue;
            }
            let is_undecided = member.health == Health::Undecided && !panics;
            let takes = backend.weight > 0 && (panics || member.health == Health::Serves || is_undecided && !self.is_known);
            let is_counted = !is_undecided || !self.is_known || self.presumed_out.contains(endpoint);
            let whole = u64::from(own_weight(endpoint)) * u64::from(Parts::STEPS);
            let capacity = capacities.entry(place.zone.clone()).or_default();
            capacity.whole += whole;
            capacity.known += if is_counted { whole } else { 0 };
            capacity.healthy += if takes { u64::from(backend.weight) * u64::from(place.steps_in_force()) } else { 0 };
        }
        capacities
    }

    /// Gives backends weights by which each zone has its share, within it by what each backend has in force. Those who are out have
    /// theirs in the same measure, for nobody's slots to move when they come back but by what that changes of shares.
    pub(super) fn weigh_by_zone(&self, service: &mut Service) {
        /// Finer than any part of a zone.
        const FINE: u32 = 64;
        let Some(division) = self.division.as_ref().filter(|_| !self.is_coarse) else { return };
        let part = |(endpoint, backend): (&SocketAddr, &Backend)| {
            let Some(place) = self.backends.get(endpoint).filter(|place| place.is_in_zones()) else { return 0 };
            let share = division.of(place.zone.as_ref());
            let in_force = u128::from(backend.weight) * u128::from(place.steps_in_force());
            ((u128::from(share.percent) * in_force) << FINE).checked_div(share.capacity.healthy.into()).unwrap_or_default()
        };
        let parts: Vec<u128> = service.backends.iter().map(part).collect();
        for (backend, weight) in service.backends.values_mut().zip(zones::weights(&parts)) {
            backend.weight = weight;
        }
    }
}
