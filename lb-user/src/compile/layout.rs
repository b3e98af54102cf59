//! Who has which id and which region of slots, and who is among the owners of slots. Stable over changes; what is freed rests
//! before it is given to another.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::flow::Tick;
use lb_common::limits::SERVICES;
use lb_common::limits::{self, REGION_BITS_MIN, SLOTS_PER_LINE};
use lb_common::{BackendId, records, slot};

use super::ids::Ids;
use super::members::{Members, Standing};
use crate::desired::{Desired, Forward, Protocol, Service, ServiceName};

/// A service's region in the `SLOTS` map.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Region {
    pub first_line: u32,
    /// Logarithm of its number of slots.
    pub bits: u32,
}

impl Region {
    /// The region that a service's record names.
    pub fn of(record: &records::Service) -> Self {
        Self { first_line: record.region.first() / SLOTS_PER_LINE, bits: record.region.bits() }
    }

    /// As a record names it.
    pub fn in_record(self) -> slot::Region {
        slot::Region::new(self.first_line * SLOTS_PER_LINE, self.bits)
    }

    fn n_lines(bits: u32) -> u32 {
        (1 << bits) / SLOTS_PER_LINE
    }
}

const _: () = assert!(1 << REGION_BITS_MIN >= SLOTS_PER_LINE);

/// What a service takes and how it sends: address, port, protocol.
///
/// A service under the same name that takes something else is another service with ids and slots of its own, which packets see
/// all at once, by the directory. Records changed in place would in between be nobody's, or rewrite for the wrong VIP, and two
/// services that exchange their VIPs (blue and green) would both lose packets.
pub type Role = (IpAddr, u16, Protocol, Forward);

impl Service {
    /// What makes it another service if it changes.
    pub fn role(&self) -> Role {
        (self.vip, self.port, self.protocol, self.forward)
    }
}

/// Before all others.
const FIRST_ENDPOINT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Ids and regions in use, and those resting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    roles: BTreeMap<ServiceName, Role>,
    services: Ids<ServiceName>,
    vips: Ids<IpAddr>,
    backends: Ids<(ServiceName, SocketAddr)>,
    members: Members,
    /// Backends that nobody wants any more, since when, while flows may be on them.
    leaving: BTreeMap<(ServiceName, SocketAddr), Tick>,
    regions: BTreeMap<ServiceName, Region>,
    /// Where services go that will outgrow their regions once all their backends are members. No packet has seen them.
    reserved_regions: BTreeMap<ServiceName, Region>,
    resting_regions: Vec<Region>,
    n_lines: u32,
    n_prefix_lines: u32,
}

impl Layout {
    /// An empty layout over this many slots.
    pub fn new(n_slots: u32) -> Self {
        Self {
            roles: BTreeMap::new(),
            services: Ids::new(1, SERVICES as u16),
            vips: Ids::new(1 + SERVICES as u16, (limits::SERVICE_RECORDS - 1) as u16),
            backends: Ids::new(1, limits::BACKENDS as u16),
            members: Members::default(),
            leaving: BTreeMap::new(),
            regions: BTreeMap::new(),
            reserved_regions: BTreeMap::new(),
            resting_regions: Vec::new(),
            n_lines: n_slots / SLOTS_PER_LINE,
            n_prefix_lines: limits::prefix_lines(limits::PREFIXES_DEFAULT),
        }
    }

    /// The same, with room for another number of prefixes than by default.
    #[must_use]
    pub fn with_prefixes(self, n_prefixes: u32) -> Self {
        Self { n_prefix_lines: limits::prefix_lines(n_prefixes), ..self }
    }

    /// What one service has, and no room for more.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> Self {
        let first = (service.clone(), FIRST_ENDPOINT);
        let is_own = |(name, _): &(ServiceName, SocketAddr)| name == service;
        let one = |regions: &BTreeMap<ServiceName, Region>| {
            regions.get(service).map(|&region| (service.clone(), region)).into_iter().collect()
        };
        let leaving = self.leaving.range(first.clone()..).take_while(|(key, _)| is_own(key));
        let backends = self.backends.from(first).take_while(|(key, _)| is_own(key));
        Self {
            roles: self.roles.get(service).map(|&role| (service.clone(), role)).into_iter().collect(),
            services: self.services.only(self.services.find(service).map(|id| (service.clone(), id)).into_iter()),
            vips: self.vips.only(std::iter::empty()),
            leaving: leaving.map(|(key, &since)| (key.clone(), since)).collect(),
            backends: self.backends.only(backends.map(|(key, id)| (key.clone(), id))),
            members: self.members.of(service),
            regions: one(&self.regions),
            reserved_regions: one(&self.reserved_regions),
            resting_regions: Vec::new(),
            n_lines: 0,
            n_prefix_lines: self.n_prefix_lines,
        }
    }

    /// What a service takes and how it sends, if it has anything here.
    pub fn role(&self, service: &ServiceName) -> Option<Role> {
        self.roles.get(service).copied()
    }

    /// Lines of either half of the table of prefixes.
    pub fn n_prefix_lines(&self) -> u32 {
        self.n_prefix_lines
    }

    pub fn n_slots(&self) -> u32 {
        self.n_lines * SLOTS_PER_LINE
    }

    /// Frees what `desired` has no more use for. It rests until [`recycle`](Self::recycle). Backends leave, and keep their ids
    /// until [`release`](Self::release).
    pub fn retain(&mut self, desired: &Desired, now: Tick) {
        let roles: BTreeMap<ServiceName, Role> =
            desired.services.iter().map(|(name, service)| (name.clone(), service.role())).collect();
        let before = std::mem::replace(&mut self.roles, roles);
        let stays = |name: &ServiceName| before.get(name).is_some_and(|role| self.roles.get(name) == Some(role));
        let vips: BTreeSet<IpAddr> = desired.services.values().map(|service| service.vip).collect();
        self.vips.retain(|vip| vips.contains(vip));
        // Most changes are of health, and leave all services as they were.
        let is_same = before == self.roles;
        if !is_same {
            self.services.retain(stays);
            self.backends.retain(|(name, _)| stays(name));
        }
        let is_wanted = |name: &ServiceName, endpoint: &SocketAddr| {
            desired.services.get(name).is_some_and(|service| service.backends.contains_key(endpoint))
        };
        self.leaving.retain(|(name, endpoint), _| stays(name) && !is_wanted(name, endpoint));
        let mut is_wanted_next = in_order(desired);
        for ((name, endpoint), _) in self.backends.iter().filter(|((name, endpoint), _)| !is_wanted_next(name, endpoint)) {
            self.leaving.entry((name.clone(), *endpoint)).or_insert(now);
        }
        let mut is_wanted_next = in_order(desired);
        self.members.retain(|name, endpoint| is_wanted_next(name, endpoint) && (is_same || stays(name)));
        self.reserved_regions.retain(|name, _| stays(name));
        let (kept, gone): (BTreeMap<ServiceName, Region>, BTreeMap<ServiceName, Region>) =
            std::mem::take(&mut self.regions).into_iter().partition(|(name, _)| stays(name));
        self.regions = kept;
        self.resting_regions.extend(gone.into_values());
    }

    /// Backends of a service that have left it, with their ids and since when.
    pub fn leaving(&self, service: &ServiceName) -> Vec<(SocketAddr, BackendId, Tick)> {
        let of_service = self.leaving.iter().filter(|((name, _), _)| name == service);
        of_service
            .filter_map(|((_, endpoint), &since)| Some((*endpoint, self.find_backend(service, *endpoint)?, since)))
            .collect()
    }

    /// All backends that have left their services, by id.
    pub fn leaving_ids(&self) -> BTreeSet<BackendId> {
        self.leaving.keys().filter_map(|(service, endpoint)| self.find_backend(service, *endpoint)).collect()
    }

    /// Whether some backend has left, and may still have flows.
    pub fn is_anyone_leaving(&self) -> bool {
        !self.leaving.is_empty()
    }

    /// Frees the id of a backend that has left, and has no flows.
    pub fn release(&mut self, service: &ServiceName, endpoint: SocketAddr) {
        let key = (service.clone(), endpoint);
        self.leaving.remove(&key);
        self.backends.release(&key);
    }

    /// Lets what rests be given away again: no packet can have an old id in its hands any more.
    pub fn recycle(&mut self) {
        self.services.recycle();
        self.vips.recycle();
        self.backends.recycle();
        self.resting_regions.clear();
    }

    /// How many ids and regions wait for [`recycle`](Self::recycle).
    pub fn n_resting(&self) -> usize {
        let n_ids = self.services.n_resting() + self.vips.n_resting() + self.backends.n_resting();
        n_ids + self.resting_regions.len()
    }

    pub fn service_id(&mut self, name: &ServiceName) -> Option<u16> {
        self.services.get_or_assign(name)
    }

    pub fn vip_id(&mut self, vip: IpAddr) -> Option<u16> {
        self.vips.get_or_assign(&vip)
    }

    pub fn backend_id(&mut self, service: &ServiceName, endpoint: SocketAddr) -> Option<BackendId> {
        self.backends.get_or_assign(&(service.clone(), endpoint)).map(BackendId)
    }

    /// The id that a backend has, if it has one.
    pub fn find_backend(&self, service: &ServiceName, endpoint: SocketAddr) -> Option<BackendId> {
        self.backends.find(&(service.clone(), endpoint)).map(BackendId)
    }

    /// The id that a service has, if it has one.
    pub fn find_service(&self, service: &ServiceName) -> Option<u16> {
        self.services.find(service)
    }

    pub fn backends(&self) -> impl Iterator<Item = (&ServiceName, SocketAddr, BackendId)> {
        self.backends.iter().map(|((name, endpoint), id)| (name, *endpoint, BackendId(id)))
    }

    /// Makes members of those who may be, of all the backends that a service has, each with whether it can serve now.
    pub fn admit(&mut self, service: &ServiceName, backends: impl Iterator<Item = (SocketAddr, bool)> + Clone) {
        self.members.admit(service, backends);
    }

    /// Whether a backend is among those that own slots.
    pub fn is_member(&self, service: &ServiceName, endpoint: SocketAddr) -> bool {
        self.members.contains(service, endpoint)
    }

    /// The service's region, at least of `bits`. It never shrinks: that would merge slots with different histories.
    ///
    /// A region of `bits_at_last`, for when all backends are members, is reserved beside it: what does not fit is refused when
    /// backends are added, and not when they come up, which is too late to say so.
    ///
    /// # Errors
    /// The number of lines in the largest free piece, if that is too small.
    pub fn region(&mut self, service: &ServiceName, bits: u32, bits_at_last: u32) -> Result<Region, u32> {
        let reserved = self.reserved_regions.remove(service).filter(|reserved| reserved.bits == bits_at_last);
        let current = self.regions.get(service).copied();
        if let Some(region) = current.filter(|region| region.bits >= bits_at_last) {
            return Ok(region);
        }
        let larger = match reserved {
            Some(reserved) => reserved,
            None => Region { first_line: self.first_fit(Region::n_lines(bits_at_last))?, bits: bits_at_last },
        };
        if let Some(region) = current.filter(|region| region.bits >= bits) {
            self.reserved_regions.insert(service.clone(), larger);
            return Ok(region);
        }
        self.resting_regions.extend(current);
        self.regions.insert(service.clone(), larger);
        Ok(larger)
    }

    /// Start of the first gap with this many lines.
    fn first_fit(&self, n_lines: u32) -> Result<u32, u32> {
        let mut taken: Vec<(u32, u32)> = self
            .regions
            .values()
            .chain(self.reserved_regions.values())
            .chain(&self.resting_regions)
            .map(|region| (region.first_line, region.first_line + Region::n_lines(region.bits)))
            .collect();
        taken.sort_unstable();
        taken.push((self.n_lines, self.n_lines));
        let mut free_from = 0;
        let mut largest = 0;
        for (start, end) in taken {
            // Where there is room for one service alone, its region ends behind the last line.
            let gap = start.saturating_sub(free_from);
            if gap >= n_lines {
                return Ok(free_from);
            }
            largest = largest.max(gap);
            free_from = end;
        }
        Err(largest)
    }

    /// Claims ids and a region that a running program already uses, so that its flows stay where they are.
    pub fn adopt_service(&mut self, name: &ServiceName, role: Role, id: u16, region: Region) {
        self.roles.insert(name.clone(), role);
        self.services.adopt(name.clone(), id);
        self.regions.insert(name.clone(), region);
    }

    /// Keeps an id and a region, of a service that nobody wants any more, from being given away while packets still find them.
    pub fn rest_service(&mut self, id: u16, region: Region) {
        self.services.rest(id);
        self.resting_regions.push(region);
    }

    /// Keeps the id of a backend that nobody wants any more from being given away while packets still find it.
    pub fn rest_backend(&mut self, id: BackendId) {
        self.backends.rest(id.0);
    }

    pub fn adopt_vip(&mut self, vip: IpAddr, id: u16) {
        self.vips.adopt(vip, id);
    }

    /// Claims the id of a running program's backend. It is a member, served or not: of one that does not, it cannot be told
    /// whether it has failed or was never up, and it has failed more often than not.
    pub fn adopt_backend(&mut self, service: &ServiceName, endpoint: SocketAddr, id: BackendId, serves: bool) {
        self.members.adopt(service, endpoint, if serves { Standing::Proven } else { Standing::Founder });
        self.backends.adopt((service.clone(), endpoint), id.0);
    }
}

/// Whether `desired` has a backend, asked in their order: without looking up each of tens of thousands.
fn in_order(desired: &Desired) -> impl FnMut(&ServiceName, &SocketAddr) -> bool {
    let all = desired.services.iter().flat_map(|(name, service)| service.backends.keys().map(move |endpoint| (name, endpoint)));
    let mut wanted = all.peekable();
    move |name, endpoint| {
        while wanted.next_if(|wanted| *wanted < (name, endpoint)).is_some() {}
        wanted.peek() == Some(&(name, endpoint))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServiceName {
        text.into()
    }

    #[test]
    fn regions_grow_but_never_overlap_and_never_shrink() {
        let mut layout = Layout::new(1 << 14);
        let a = layout.region(&name("a"), 10, 10).unwrap();
        let b = layout.region(&name("b"), 12, 12).unwrap();
        assert_eq!((a.first_line, b.first_line), (0, 64));
        let grown = layout.region(&name("a"), 11, 11).unwrap();
        assert_eq!((grown.first_line, grown.bits), (64 + 256, 11));
        assert_eq!(layout.region(&name("a"), 10, 10).unwrap(), grown);
        // The outgrown region rests: packets may still be on their way to it.
        assert_eq!(layout.region(&name("c"), 10, 10).unwrap().first_line, 64 + 256 + 128);
        assert_eq!(layout.n_resting(), 1);
        layout.recycle();
        assert_eq!(layout.n_resting(), 0);
        assert_eq!(layout.region(&name("d"), 10, 10).unwrap().first_line, 0);
    }

    #[test]
    fn a_region_that_fits_nowhere_is_refused_with_the_largest_gap() {
        let mut layout = Layout::new(1 << 12);
        layout.region(&name("a"), 11, 11).unwrap();
        assert_eq!(layout.region(&name("b"), 12, 12), Err(128));
    }

    #[test]
    fn a_region_to_grow_into_is_nobody_elses_and_free_again_when_it_is_not_needed() {
        let mut layout = Layout::new(1 << 13);
        let a = layout.region(&name("a"), 10, 10).unwrap();
        assert_eq!(layout.region(&name("a"), 10, 12).unwrap(), a);
        assert_eq!(layout.region(&name("b"), 12, 12), Err(192));
        // Half of those who were to come have left, and then the others are up.
        assert_eq!(layout.region(&name("a"), 10, 11).unwrap(), a);
        let b = layout.region(&name("b"), 12, 12).unwrap();
        assert_eq!((b.first_line, b.bits), (192, 12));
        let grown = layout.region(&name("a"), 11, 11).unwrap();
        assert_eq!((grown.first_line, grown.bits, layout.n_resting()), (64, 11, 1));
    }
}
