//! A small world in which much collides, changed step by step, and the tables compiled and written at each.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use lb_common::flow::Tick;
use lb_common::limits::SLOTS_PER_LINE;
use lb_common::{BackendId, MacAddr, Slot};
use lb_ebpf::{Env, Route};
use lb_user::compile::{Layout, compile};
use lb_user::desired::{Algorithm, Backend, Desired, Forward, Hashing, NextHop, OnDown, Protocol, Service, ServiceName};
use lb_user::tables::{FilledDirectory, RegionSlots, Tables, Write, diff};

use super::bytes::Bytes;
use crate::path::fixture;
use crate::path::host::Host;

const N_SLOTS: u32 = 1 << 17;
/// More steps make an input slow, and find nothing that two inputs would not.
const STEPS_MAX: usize = 24;
const N_SERVICES: u8 = 5;
const N_HOSTS: u8 = 8;
const INGRESS: u32 = 2;
const INSIDE: u32 = 3;

/// Whatever is desired one after another: it is compiled or refused; what is written is what was compiled, whether packets may
/// still be on their way or not; no slot names a backend without a record; and the same again
/// needs no writes.
pub fn tables(bytes: &[u8]) {
    let mut bytes = Bytes(bytes);
    let mut services = BTreeMap::new();
    let mut layout = Layout::new(N_SLOTS);
    let mut tables = Tables::default();
    let mut host = Host::new(fixture::keys(), N_SLOTS, Box::new(|_| Route::Host));
    let mut retiring: Vec<Write> = Vec::new();
    for _ in 0..STEPS_MAX {
        if bytes.is_empty() {
            break;
        }
        for _ in 0..bytes.below(4) {
            change(&mut services, &mut bytes);
        }
        host.now.set(host.now.get().wrapping_add(elapsed(&mut bytes)));
        if bytes.byte() & 1 == 0 {
            retiring.drain(..).for_each(|write| host.write(&write));
            layout.recycle();
        }
        see_flows(&host, &tables, &mut bytes);
        let desired = desired(&services);
        // What does not fit changes nothing.
        let Ok((next, next_layout)) = compile(&desired, &layout, &tables, &host) else { continue };
        check_slots(&next);
        let plan = diff(&tables, &next);
        plan.writes.iter().for_each(|write| host.write(write));
        // What is in use again is not cleared: the daemon clears what the last tables do not hold.
        retiring.retain(|write| !holds(&next, write));
        retiring.extend(plan.retire);
        check_memory(&host, &next);
        assert!(diff(&next, &next).is_empty());
        let again =
            |tables: &Tables, layout: &Layout| compile(&desired, layout, tables, &host).expect("what fitted once fits again");
        let (second, second_layout) = again(&next, &next_layout);
        let is_unproven = next.regions.values().any(RegionSlots::is_any_unproven);
        assert!(is_unproven || second == next, "the same again, at the same time, makes other tables");
        assert!(again(&second, &second_layout).0 == second, "a third look at the same time makes other tables");
        (tables, layout) = (next, next_layout);
    }
}

fn elapsed(bytes: &mut Bytes<'_>) -> Tick {
    bytes.one_of(&[0, 1, 7, fixture::IDLE - 1, fixture::IDLE, fixture::IDLE + 1, 20 * fixture::IDLE])
}

/// Flows that the packet path would have seen, now.
fn see_flows(host: &Host, tables: &Tables, bytes: &mut Bytes<'_>) {
    for _ in 0..bytes.below(4) {
        let (slot, id) = (u32::from(bytes.word()), BackendId(bytes.word() % 64));
        host.note_elsewhere(slot, host.now.get());
        if tables.backends.contains_key(&id) {
            host.note_flow(id, host.now.get());
        }
    }
}

fn change(services: &mut BTreeMap<u8, Service>, bytes: &mut Bytes<'_>) {
    let name = bytes.below(N_SERVICES);
    match bytes.below(6) {
        0 => drop(services.insert(name, service(bytes))),
        1 => drop(services.remove(&name)),
        2 => {
            if let Some(moved) = services.remove(&name) {
                services.insert(bytes.below(N_SERVICES), moved);
            }
        }
        3 => {
            if let Some(service) = services.get_mut(&name) {
                let (endpoint, backend) = backend(service, bytes);
                service.backends.insert(endpoint, backend);
            }
        }
        4 => {
            if let Some(service) = services.get_mut(&name) {
                let (endpoint, _) = backend(service, bytes);
                service.backends.remove(&endpoint);
            }
        }
        _ => {
            if let Some(service) = services.get_mut(&name) {
                service.algorithm = bytes.one_of(&[Algorithm::Maglev, Algorithm::IpHash]);
                service.idle = bytes.one_of(&[1, fixture::IDLE, Tick::MAX]);
            }
        }
    }
}

fn service(bytes: &mut Bytes<'_>) -> Service {
    let vip = match bytes.below(3) {
        2 => Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1).into(),
        number => Ipv4Addr::new(10, 200, 1, number + 1).into(),
    };
    let mut service = Service {
        vip,
        port: bytes.one_of(&[80, 443, 0]),
        protocol: bytes.one_of(&[Protocol::Tcp, Protocol::Udp]),
        algorithm: bytes.one_of(&[Algorithm::Maglev, Algorithm::IpHash]),
        hashing: Hashing::default(),
        forward: bytes.one_of(&[Forward::Dsr, Forward::Nat]),
        gue_port: 6080,
        mss: None,
        toa: false,
        idle: fixture::IDLE,
        on_down: bytes.one_of(&[OnDown::Remap, OnDown::Keep]),
        is_tracked: bytes.one_of(&[false, true]),
        server_ids: None,
        backends: BTreeMap::new(),
    };
    for _ in 0..bytes.below(6) {
        let (endpoint, backend) = backend(&service, bytes);
        service.backends.insert(endpoint, backend);
    }
    service
}

fn backend(service: &Service, bytes: &mut Bytes<'_>) -> (SocketAddr, Backend) {
    let host = bytes.below(N_HOSTS);
    let address: IpAddr = match service.vip {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 1, host + 1).into(),
        IpAddr::V6(_) => Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, u16::from(host) + 1).into(),
    };
    let port = if service.forward == Forward::Nat && service.port != 0 { 8000 + service.port } else { service.port };
    let ways = bytes.byte();
    let hop = NextHop {
        ifindex: if ways & 1 == 0 { INGRESS } else { INSIDE },
        source: MacAddr::new(fixture::OURS),
        destination: MacAddr::new([2, 0, 0, 0, 9, host]),
        takes_redirects: ways & 2 == 0,
        ..NextHop::NOWHERE
    };
    let backend = Backend {
        weight: bytes.one_of(&[1, 0, 2, 7, 100, u16::MAX]),
        alive: ways & 4 == 0,
        is_undecided: ways & 32 != 0,
        next_hop: (ways & 24 != 24).then_some(hop),
    };
    (SocketAddr::new(address, port), backend)
}

/// What the configuration would let pass: of services that listen on the same, the first. NAT backends that several services
/// share are for the compilation to refuse.
fn desired(services: &BTreeMap<u8, Service>) -> Desired {
    let mut listening = BTreeSet::new();
    let free = services.iter().filter(|(_, service)| listening.insert((service.vip, service.port, service.protocol as u8)));
    let services = free.map(|(name, service)| (ServiceName::from(format!("s{name}")), service.clone())).collect();
    Desired { services, ingress: BTreeSet::from([INGRESS]), ..Desired::default() }
}

fn holds(tables: &Tables, write: &Write) -> bool {
    match write {
        Write::Backend(id, _) => tables.backends.contains_key(id),
        Write::Service(id, _) => tables.services.contains_key(id),
        _ => false,
    }
}

fn check_slots(tables: &Tables) {
    for region in tables.regions.values() {
        for slot in region.slots.iter().flat_map(|slot| [slot.current(), slot.settled()]).filter(|id| !id.is_none()) {
            assert!(tables.backends.contains_key(&slot), "{slot:?} is in a slot, and has no record");
        }
    }
}

fn check_memory(host: &Host, tables: &Tables) {
    for (&id, backend) in &tables.backends {
        assert_eq!(host.backend(id), backend, "{id:?}");
    }
    for (&id, service) in &tables.services {
        assert_eq!(host.service(id), service, "service {id}");
    }
    for (&first_line, region) in &tables.regions {
        let held = (first_line * SLOTS_PER_LINE..).take(region.slots.len()).map(|index| host.slot(index));
        assert!(held.eq(region.slots.iter().map(|&slot: &Slot| Some(slot))), "the slots from line {first_line}");
    }
    assert_eq!(host.settings.flags, tables.flags);
    let services = |index| *host.service_bucket(index);
    check_directory(&tables.service_directory, host.settings.services, lb_common::limits::SERVICE_BUCKETS, services);
    let replies = |index| *host.reply_bucket(index);
    check_directory(&tables.reply_directory, host.settings.replies, lb_common::limits::REPLY_BUCKETS, replies);
}

fn check_directory(
    wanted: &FilledDirectory,
    held: lb_common::directory::Directory,
    n_buckets: u32,
    bucket: impl Fn(u32) -> lb_common::directory::Bucket,
) {
    if wanted.endpoints.is_empty() && held.raw() == 0 {
        return;
    }
    let half = held.half();
    assert_eq!(held.raw(), wanted.filled.in_half(half).raw());
    for (index, wanted) in (half * n_buckets..).zip(&wanted.filled.buckets) {
        assert_eq!(bucket(index), *wanted, "bucket {index}");
    }
}
