//! From what should hold to the tables that make it so. Pure: no clock, no I/O, no map.
//!
//! Ids and slot regions are stable: [`Layout`] remembers who has which, so that a change of one backend changes that
//! backend's slots and nothing else.

mod admission;
mod amend;
mod ids;
mod layout;
mod members;
pub mod rest;
mod slots;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use lb_common::checksum::{self, Delta};
use lb_common::directory::{self, Filled};
use lb_common::quic::{SERVER, ServerKey};
use lb_common::records::{self, backend_flags, choice, forward, service_flags, settings_flags};
use lb_common::{Addr, BackendId, Be16, LinkAddresses, PortProtocol, features, hash, limits, session};

pub use amend::{Amended, amend};
pub use layout::{Layout, Region, Role};
pub use rest::{Quiet, Sightings};

use crate::desired::{Absence, Algorithm, Backend, Desired, Forward, Hashing, NextHop, OnDown, Service, ServiceName};
use crate::tables::{Endpoint, FilledDirectory, RegionSlots, Tables};

/// IANA protocol numbers.
const UDP: u8 = 17;
const IPV4_IN_IP: u8 = 4;
const IPV6_IN_IP: u8 = 41;

/// Of an interface that carries even less, the packet path asks for no less: an IPv4 sender need not accept it.
const LEN_MAX_MIN: u16 = 256;

/// What a configuration asks beyond the tables' capacity. Nothing was changed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CompileError {
    #[error("{n_services} services, but the service table holds at most {limit}; split them over several balancers")]
    TooManyServices { n_services: usize, limit: u32 },
    #[error("service {service}: no id is left for backend {backend}: all services together hold at most {limit} backends")]
    TooManyBackends { service: ServiceName, backend: SocketAddr, limit: u32 },
    #[error("service {service} needs {wanted} slots, but only {free} of {limit} are free in one piece; raise limits.slots")]
    OutOfSlots { service: ServiceName, wanted: u32, free: u32, limit: u32 },
    #[error("the lists of admission need limits.prefixes = {wanted}, and it is {limit}")]
    TooManyPrefixes { wanted: usize, limit: u32 },
    #[error("{what}: {n_endpoints} endpoints do not fit {n_buckets} buckets; please report this")]
    Directory { what: &'static str, n_endpoints: usize, n_buckets: usize },
    #[error(
        "services {first} and {second} both forward by nat to {backend}: its replies could not be told apart; give it another port for one of them"
    )]
    SharedNatBackend { first: ServiceName, second: ServiceName, backend: SocketAddr },
}

impl CompileError {
    /// The service that the capacity ran out at.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            Self::TooManyBackends { service, .. } | Self::OutOfSlots { service, .. } => Some(service),
            Self::TooManyServices { .. }
            | Self::TooManyPrefixes { .. }
            | Self::Directory { .. }
            | Self::SharedNatBackend { .. } => None,
        }
    }
}

/// The tables for `desired`, reusing what did not change of `previous`, and the ids that they use.
///
/// # Errors
/// If the tables cannot hold it. `layout` and `previous` stand as they were.
///
/// Time is what `sightings` say: slots that moved come to rest, and ids of backends that left to be free, as flows end.
pub fn compile(
    desired: &Desired,
    layout: &Layout,
    previous: &Tables,
    sightings: &impl Sightings,
) -> Result<(Tables, Layout), CompileError> {
    let n_services = desired.services.len();
    if n_services > limits::SERVICES as usize {
        return Err(CompileError::TooManyServices { n_services, limit: limits::SERVICES });
    }
    // Before the reply directory is filled, which could not say who shares what.
    refuse_shared_nat_backends(desired)?;
    let mut layout = layout.clone();
    layout.retain(desired, sightings.now());
    let mut tables = Tables::default();
    for (name, service) in &desired.services {
        add_service(&mut tables, &mut layout, previous, sightings, desired, name, service)?;
    }
    for vip in desired.services.values().map(|service| service.vip).collect::<BTreeSet<_>>() {
        let id = layout.vip_id(vip).ok_or(CompileError::TooManyServices { n_services, limit: limits::SERVICES })?;
        tables.services.insert(id, records::Service { vip: vip.into(), ..Default::default() });
    }
    tables.flags = flags(desired);
    admission::add(&mut tables, &layout, desired, previous)?;
    tables.service_directory =
        fill("service directory", service_endpoints(&tables), limits::SERVICE_BUCKETS, &previous.service_directory)?;
    tables.reply_directory =
        fill("reply directory", reply_endpoints(&tables, &layout, desired), limits::REPLY_BUCKETS, &previous.reply_directory)?;
    Ok((tables, layout))
}

fn add_service(
    tables: &mut Tables,
    layout: &mut Layout,
    previous: &Tables,
    sightings: &impl Sightings,
    desired: &Desired,
    name: &ServiceName,
    service: &Service,
) -> Result<(), CompileError> {
    let too_many = CompileError::TooManyServices { n_services: desired.services.len(), limit: limits::SERVICES };
    let service_id = layout.service_id(name).ok_or(too_many)?;
    layout.admit(name, service.backends.iter().map(|(&endpoint, backend)| (endpoint, can_serve(desired, service, backend))));
    let mut owners = Vec::with_capacity(service.backends.len());
    let mut named = BTreeSet::new();
    for (&endpoint, backend) in &service.backends {
        let id = layout.backend_id(name, endpoint).ok_or_else(|| CompileError::TooManyBackends {
            service: name.clone(),
            backend: endpoint,
            limit: limits::BACKENDS,
        })?;
        let mut record = backend_record(desired, service, service_id, endpoint, backend);
        // Two may have the same if they are discovered: the first of them has it.
        let server_id = service.server_ids.as_ref().and_then(|ids| ids.of(endpoint)).filter(|id| named.insert(*id));
        if let Some(server_id) = server_id {
            record.flags |= backend_flags::NAMED;
            tables.server_ids.insert(id, server_id.number());
        }
        // One that left, and is wanted again before its flows have ended: until it is known whether it serves they stay as they are.
        let was_alive = |record: &&records::Backend| record.flags & backend_flags::ALIVE != 0;
        let before = previous.backends.get(&id).filter(was_alive);
        let is_alive = can_serve(desired, service, backend);
        let record = before.copied().filter(|_| backend.is_undecided && !is_alive).unwrap_or(record);
        tables.backends.insert(id, record);
        owners.push(slots::Owner { id, endpoint, weight: backend.weight, serves: serves(desired, service, backend) });
    }
    let bits_at_last = slots::region_bits(&owners);
    owners.retain(|owner| layout.is_member(name, owner.endpoint));
    let region = layout.region(name, slots::region_bits(&owners), bits_at_last).map_err(|free| CompileError::OutOfSlots {
        service: name.clone(),
        wanted: 1 << bits_at_last,
        free: free * limits::SLOTS_PER_LINE,
        limit: layout.n_slots(),
    })?;
    let region_before = previous.services.get(&service_id).map(Region::of);
    let slots_before = region_before.and_then(|region| Some((previous.regions.get(&region.first_line)?, region)));
    let slots = slots::assign(service, &owners, region, slots_before, sightings);
    keep_leaving(tables, layout, previous, sightings, name, service, &slots);
    let by_client = u32::from(service.algorithm == Algorithm::IpHash) * service_flags::IP_HASH;
    let keep = u32::from(service.on_down == OnDown::Keep) * service_flags::KEEP;
    let learning = u32::from(slots.is_learning(sightings.now(), service.idle)) * service_flags::LEARNING;
    let handshakes = u32::from(service.counts_handshakes()) * service_flags::HANDSHAKES;
    let quic = service.server_ids.as_ref().map_or(0, |ids| ids.reading().flags());
    let clamp = u32::from(service.mss.is_some()) * service_flags::CLAMP;
    let fullnat = u32::from(service.forward == Forward::Fullnat) * service_flags::FULLNAT;
    let toa = u32::from(service.toa) * service_flags::TOA;
    let record = records::Service {
        vip: service.vip.into(),
        listens: PortProtocol::new(Be16::new(service.port), service.protocol.number()),
        flags: by_client | keep | learning | handshakes | quic | clamp | fullnat | toa,
        region: region.in_record(),
        idle: service.idle,
        choice: choice(service),
        mss: service.mss.unwrap_or_default(),
        n_turns: slots.n_turns,
        bound: bound(service.hashing, &owners),
        client_mask: client_mask(service),
    };
    tables.regions.insert(region.first_line, slots);
    tables.services.insert(service_id, record);
    Ok(())
}

/// What the packet path calls a service's algorithm.
fn choice(service: &Service) -> u16 {
    match service.algorithm {
        Algorithm::Maglev | Algorithm::IpHash if service.hashing.max_load.is_some() => choice::BOUNDED,
        Algorithm::Maglev | Algorithm::IpHash => choice::SLOT,
        Algorithm::RoundRobin => choice::ROUND_ROBIN,
        Algorithm::WeightedRoundRobin => choice::WEIGHTED_ROUND_ROBIN,
        Algorithm::Random => choice::RANDOM,
        Algorithm::LeastConnections => choice::LEAST_CONNECTIONS,
        Algorithm::LeastResponseTime => choice::LEAST_RESPONSE_TIME,
    }
}

/// The share of all active flows that a backend may have for each unit of its weight, rounded up.
fn bound(hashing: Hashing, owners: &[slots::Owner]) -> u32 {
    let Some(max_load) = hashing.max_load else { return 0 };
    let weights: u64 = owners.iter().filter(|owner| owner.serves).map(|owner| u64::from(owner.weight)).sum();
    let share = (u64::from(max_load) << records::BOUND_SHIFT).div_ceil(100 * weights.max(1));
    u32::try_from(share).unwrap_or(u32::MAX)
}

fn client_mask(service: &Service) -> Addr {
    let prefix = service.hashing.client_prefix;
    match service.vip {
        IpAddr::V4(_) => {
            let host_bits = 32 - u32::from(prefix.unwrap_or(32).min(32));
            IpAddr::V4(u32::MAX.checked_shl(host_bits).unwrap_or(0).into()).into()
        }
        IpAddr::V6(_) => {
            let host_bits = 128 - u32::from(prefix.unwrap_or(128).min(128));
            IpAddr::V6(u128::MAX.checked_shl(host_bits).unwrap_or(0).into()).into()
        }
    }
}

/// Keeps the records of backends that left for as long as flows may be on them, as they were when they left.
fn keep_leaving(
    tables: &mut Tables,
    layout: &mut Layout,
    previous: &Tables,
    sightings: &impl Sightings,
    name: &ServiceName,
    service: &Service,
    slots: &RegionSlots,
) {
    let leaving = layout.leaving(name);
    if leaving.is_empty() {
        return;
    }
    let settled: BTreeSet<BackendId> = slots.restless.iter().map(|slot| slot.settled).collect();
    for (endpoint, id, since) in leaving {
        let is_over = |then| rest::is_over(then, sightings.now(), service.idle);
        let may_have_flows = settled.contains(&id) || !is_over(since) || !is_over(sightings.flow(id));
        match previous.backends.get(&id).filter(|_| may_have_flows) {
            Some(record) => {
                tables.backends.insert(id, *record);
                let server_id = previous.server_ids.get(&id).filter(|_| record.flags & backend_flags::NAMED != 0);
                tables.server_ids.extend(server_id.map(|&server_id| (id, server_id)));
            }
            None => layout.release(name, endpoint),
        }
    }
}

/// Whether new flows may go to a backend: it is healthy, wanted, and there is a way to it.
pub fn serves(desired: &Desired, service: &Service, backend: &Backend) -> bool {
    backend.weight > 0 && can_serve(desired, service, backend)
}

/// Whether it only takes a weight for new flows to go to a backend.
fn can_serve(desired: &Desired, service: &Service, backend: &Backend) -> bool {
    backend.alive && is_reachable(desired, service, backend)
}

/// Whether packets can be sent to a backend at all. A rewritten packet may go through the host's routing; one that keeps
/// the VIP as its destination may not, for the host would route it to the VIP.
fn is_reachable(desired: &Desired, service: &Service, backend: &Backend) -> bool {
    backend.next_hop.is_some_and(|hop| match service.forward {
        Forward::Nat => true,
        // The host would take a packet for forged that comes from outside with an address of its own.
        Forward::Dsr | Forward::Fullnat => takes_redirects(desired, hop),
        Forward::Ipip | Forward::Gue => takes_redirects(desired, hop) && hop.address.is_some(),
    })
}

fn takes_redirects(desired: &Desired, hop: NextHop) -> bool {
    hop.takes_redirects || desired.ingress.contains(&hop.ifindex)
}

fn backend_record(
    desired: &Desired,
    service: &Service,
    service_id: u16,
    endpoint: SocketAddr,
    backend: &Backend,
) -> records::Backend {
    let address = Addr::from(endpoint.ip());
    let (vip, vip_port) = (Addr::from(service.vip), Be16::new(service.port));
    let port = Be16::new(match service.forward {
        Forward::Gue => service.gue_port,
        _ if service.port == 0 => 0,
        _ => endpoint.port(),
    });
    let address_delta = Delta::of_addr(vip, address);
    let mut record = records::Backend {
        address,
        port,
        service: service_id,
        forward: match service.forward {
            Forward::Dsr => forward::DSR,
            Forward::Nat => forward::NAT,
            Forward::Fullnat => forward::FULLNAT,
            Forward::Ipip => forward::IPIP,
            Forward::Gue => forward::GUE,
        },
        l4_delta: address_delta.and(Delta::of_word(vip_port.raw(), port.raw())),
        ip_delta: address_delta,
        ..Default::default()
    };
    if can_serve(desired, service, backend) {
        record.flags |= backend_flags::ALIVE;
    }
    if service.algorithm.is_by_load() || service.hashing.max_load.is_some() {
        record.weight = backend.weight;
    }
    if let Some(hop) = backend.next_hop {
        record.ifindex = hop.ifindex;
        record.link = LinkAddresses::new(hop.destination, hop.source);
        if !hop.takes_redirects {
            record.flags |= backend_flags::VIA_HOST;
        }
        if let (Some(overhead), Some(source)) = (service.forward.overhead(endpoint.ip()), hop.address) {
            let protocol = match (service.forward, service.vip) {
                (Forward::Gue, _) => UDP,
                (_, IpAddr::V4(_)) => IPV4_IN_IP,
                (_, IpAddr::V6(_)) => IPV6_IN_IP,
            };
            record.len_max = hop.mtu.saturating_sub(overhead).max(LEN_MAX_MIN);
            record.source = source.into();
            record.outer_checksum = checksum::own_header(record.source.words[3], address.words[3], protocol);
        }
    }
    record
}

fn flags(desired: &Desired) -> u32 {
    let watchdog = match desired.watchdog.map(|watchdog| watchdog.absence) {
        None => 0,
        Some(Absence::Pass) => settings_flags::WATCHDOG,
        Some(Absence::Drop) => settings_flags::WATCHDOG | settings_flags::WATCHDOG_DROPS,
    };
    when_any(desired, settings_flags::ANY_PORT, |service| service.port == 0)
        | when_any(desired, settings_flags::REPLIES, |service| service.forward == Forward::Nat)
        | when_any(desired, settings_flags::QUIC, |service| service.server_ids.is_some())
        | if uses_pool(desired) { settings_flags::FULLNAT } else { 0 }
        | watchdog
}

/// What a program has to know of for these services, whoever serves them: of `lb_common`'s `features`.
pub fn features(desired: &Desired) -> u32 {
    let is_guarded = desired.watchdog.is_some() || !desired.admission.is_empty();
    when_any(desired, features::NAT, |service| service.forward == Forward::Nat)
        | when_any(desired, features::TUNNELS, |service| matches!(service.forward, Forward::Ipip | Forward::Gue))
        | when_any(desired, features::QUIC, |service| service.server_ids.is_some())
        | when_any(desired, features::CLAMP, |service| service.mss.is_some())
        | if is_guarded { features::ADMISSION } else { 0 }
}

/// The bit, if any service is so.
fn when_any(desired: &Desired, bit: u32, is_so: fn(&Service) -> bool) -> u32 {
    if desired.services.values().any(is_so) { bit } else { 0 }
}

/// Whether packets to addresses of the pool may be replies.
fn uses_pool(desired: &Desired) -> bool {
    desired.services.values().any(|service| service.forward == Forward::Fullnat)
}

/// Where packets to services and VIPs are addressed.
fn service_endpoints(tables: &Tables) -> Vec<(Endpoint, u16)> {
    let endpoint = |service: &records::Service| (service.vip.into(), service.listens.port.get(), service.listens.protocol);
    tables.services.iter().map(|(&id, service)| (endpoint(service), id)).collect()
}

/// Where packets from NAT backends come from, and server IDs and addresses of the pool in the place of such endpoints. A backend that has left one service and
/// joined another is the other's; and likewise an ID.
fn reply_endpoints(tables: &Tables, layout: &Layout, desired: &Desired) -> Vec<(Endpoint, u16)> {
    let nat = tables.backends.iter().filter(|(_, backend)| backend.forward == forward::NAT);
    let endpoints = nat.filter_map(|(&id, backend)| {
        let protocol = tables.services.get(&backend.service)?.listens.protocol;
        Some(((backend.address.into(), backend.port.get(), protocol), id))
    });
    let named = tables.server_ids.iter().filter_map(|(&id, &server_id)| {
        let key = ServerKey { service: tables.backends.get(&id)?.service, server_id };
        let bytes: [u8; 16] = zerocopy::transmute!(key.longs());
        Some(((IpAddr::V6(bytes.into()), 0, SERVER), id))
    });
    let leaving_ids = layout.leaving_ids();
    let (leaving, staying): (Vec<_>, Vec<_>) = endpoints.chain(named).partition(|(_, id)| leaving_ids.contains(id));
    let owners: BTreeMap<Endpoint, BackendId> = leaving.into_iter().chain(staying).collect();
    let pool = desired.pool.numbered().filter(|_| uses_pool(desired));
    let pool = pool.map(|(number, address)| ((address, 0, session::POOL), number as u16 + 1));
    owners.into_iter().map(|(endpoint, id)| (endpoint, id.0)).chain(pool).collect()
}

fn fill(
    what: &'static str,
    endpoints: Vec<(Endpoint, u16)>,
    n_buckets_max: u32,
    previous: &Arc<FilledDirectory>,
) -> Result<Arc<FilledDirectory>, CompileError> {
    if previous.endpoints == endpoints {
        return Ok(previous.clone());
    }
    let hash = |multiplier, &(address, port, protocol): &Endpoint| {
        hash::endpoint(multiplier, IpAddr::into(address), PortProtocol::new(Be16::new(port), protocol))
    };
    let filled: Filled = directory::fill(&endpoints, hash, n_buckets_max).map_err(|full| CompileError::Directory {
        what,
        n_endpoints: full.n_endpoints,
        n_buckets: full.n_buckets,
    })?;
    Ok(Arc::new(FilledDirectory { endpoints, filled }))
}

fn refuse_shared_nat_backends(desired: &Desired) -> Result<(), CompileError> {
    let mut seen = BTreeMap::new();
    for (name, service) in desired.services.iter().filter(|(_, service)| service.forward == Forward::Nat) {
        for &backend in service.backends.keys() {
            if let Some(first) = seen.insert((backend, service.protocol), name) {
                let (first, second) = (first.clone(), name.clone());
                return Err(CompileError::SharedNatBackend { first, second, backend });
            }
        }
    }
    Ok(())
}

/// What these are called, for logs: the reverse of the layout.
pub fn names(layout: &Layout, ids: &BTreeSet<BackendId>) -> BTreeMap<BackendId, (ServiceName, SocketAddr)> {
    let named = layout.backends().filter(|(.., id)| ids.contains(id));
    named.map(|(name, endpoint, id)| (id, (name.clone(), endpoint))).collect()
}

#[cfg(test)]
mod tests;
