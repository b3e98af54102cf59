//! Packets that probe the tables, and where they may end.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::LazyLock;

use lb_common::{LinkAddresses, MacAddr, Verdict};
use lb_ebpf::{Route, RouteQuery};
use lb_user::compile::serves;
use lb_user::desired::{Desired, Forward, Protocol, Service};
use xlb_tests::path::fixture::{CLIENT, CLIENT_V6, GATEWAY, OURS};
use xlb_tests::path::host::Host;
use xlb_tests::path::judge::see;
use xlb_tests::path::packets::{Flags, frame, tcp, udp};

use crate::world::{self, INGRESS, N_HOSTS, N_POOLS, N_VIPS, PROTOCOLS, mac};

/// A port that no service has by itself.
const ANY_PORT: u16 = 7777;

/// A packet to an endpoint, or from one that may be a NAT backend's.
pub struct Probe {
    pub endpoint: SocketAddr,
    pub protocol: Protocol,
    frame: Vec<u8>,
}

fn probe(endpoint: SocketAddr, protocol: Protocol, client_port: u16, is_reply: bool) -> Probe {
    let client = if endpoint.is_ipv4() { CLIENT } else { CLIENT_V6 };
    let client = SocketAddr::new(client.parse().unwrap(), client_port);
    let content = match protocol {
        Protocol::Tcp => tcp(Flags::Ack),
        Protocol::Udp => udp(),
    };
    let (from, to) = if is_reply { (endpoint, client) } else { (client, endpoint) };
    Probe { endpoint, protocol, frame: frame(&from.to_string(), &to.to_string(), content).bytes() }
}

/// To every endpoint that a service may have, from a few clients' ports.
pub static REQUESTS: LazyLock<Vec<Probe>> = LazyLock::new(|| {
    let mut probes = Vec::new();
    for (vip, port) in (0..N_VIPS).flat_map(|vip| [80, 443, ANY_PORT].map(|port| (world::vip(vip), port))) {
        for protocol in PROTOCOLS {
            probes.extend((0..3).map(|n| probe(SocketAddr::new(vip, port), protocol, 40_000 + n, false)));
        }
    }
    probes
});

/// From every endpoint that a NAT backend may have.
pub static REPLIES: LazyLock<Vec<Probe>> = LazyLock::new(|| {
    let mut probes = Vec::new();
    for (pool, host) in (0..N_POOLS).flat_map(|pool| (0..N_HOSTS).map(move |host| (pool, host))) {
        for (is_v4, protocol) in [true, false].into_iter().flat_map(|is_v4| PROTOCOLS.map(|protocol| (is_v4, protocol))) {
            let address = world::address(is_v4, pool, host);
            probes.extend([8000 + u16::from(host), 80].map(|port| probe(SocketAddr::new(address, port), protocol, 40_000, true)));
        }
    }
    probes
});

/// Everybody but the balancer is behind the gateway.
pub fn route(_: &RouteQuery) -> Route {
    Route::Forward { ifindex: INGRESS, link: LinkAddresses::new(MacAddr::new(GATEWAY), MacAddr::new(OURS)) }
}

/// Where a packet to a service ended.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum End {
    /// At a backend: how it was sent, its address, and the port that the packet is for there.
    Backend(bool, SocketAddr),
    NotService,
    NoBackend,
    NoNextHop,
}

/// Runs a packet to a service.
pub fn request(host: &Host, probe: &Probe) -> Result<End, String> {
    let outcome = host.run(&probe.frame, INGRESS);
    match outcome.verdict {
        Verdict::NotService => return Ok(End::NotService),
        Verdict::NoBackend => return Ok(End::NoBackend),
        Verdict::NoNextHop => return Ok(End::NoNextHop),
        Verdict::Tx | Verdict::Redirect | Verdict::Routed => {}
        other => return Err(format!("{other:?}")),
    }
    let seen = see(&outcome.frame).ok_or("no packet any more")?;
    if !seen.checksums.hold() {
        return Err(format!("{:?} at {}", seen.checksums, seen.destination));
    }
    let by_mac = |address: &IpAddr| mac(*address) == seen.macs.1;
    if seen.destination == probe.endpoint {
        let all = (0..N_POOLS).flat_map(|pool| (0..N_HOSTS).map(move |host| (pool, host)));
        let mut all = all.map(|(pool, host)| world::address(probe.endpoint.is_ipv4(), pool, host));
        let address = all.find(by_mac).ok_or("for nobody's link-layer address")?;
        return Ok(End::Backend(false, SocketAddr::new(address, probe.endpoint.port())));
    }
    if outcome.verdict != Verdict::Routed && !by_mac(&seen.destination.ip()) {
        return Err(format!("{} under another's link-layer address", seen.destination));
    }
    Ok(End::Backend(true, seen.destination))
}

/// Runs a packet from a backend: the endpoint that it comes from afterwards, if it was taken for a reply.
pub fn reply(host: &Host, probe: &Probe) -> Result<Option<SocketAddr>, String> {
    let outcome = host.run(&probe.frame, INGRESS);
    match outcome.verdict {
        Verdict::NotService => return Ok(None),
        Verdict::Reply => {}
        other => return Err(format!("{other:?}")),
    }
    let seen = see(&outcome.frame).ok_or("no packet any more")?;
    if seen.checksums.hold() { Ok(Some(seen.source)) } else { Err(format!("{:?} from {}", seen.checksums, seen.source)) }
}

/// Where packets may end while the first of these states is turned into the last, by way of those between.
pub fn ends_between(states: &[&Desired], probe: &Probe) -> BTreeSet<End> {
    let port = probe.endpoint.port();
    let has_own = |desired: &&Desired| service_at(desired, probe, port).is_some();
    let mut all: BTreeSet<End> = states.iter().flat_map(|desired| ends(desired, probe)).collect();
    if !states.iter().all(has_own) {
        // The service of every port changes too, and has the packet until its own service comes, or from when that leaves.
        let every_port = states.iter().filter_map(|desired| Some((desired, service_at(desired, probe, 0)?)));
        all.extend(every_port.flat_map(|(desired, service)| ends_at(desired, service, probe)));
    }
    all
}

/// Where the packet may end if nothing else than this holds.
pub fn ends(desired: &Desired, probe: &Probe) -> BTreeSet<End> {
    let service = service_at(desired, probe, probe.endpoint.port()).or_else(|| service_at(desired, probe, 0));
    service.map_or_else(|| BTreeSet::from([End::NotService]), |service| ends_at(desired, service, probe))
}

fn service_at<'d>(desired: &'d Desired, probe: &Probe, port: u16) -> Option<&'d Service> {
    let listens = (probe.endpoint.ip(), port, probe.protocol);
    desired.services.values().find(|service| (service.vip, service.port, service.protocol) == listens)
}

fn ends_at(desired: &Desired, service: &Service, probe: &Probe) -> BTreeSet<End> {
    let serving = service.backends.iter().filter(|(_, backend)| serves(desired, service, backend));
    let end = |(endpoint, _): (&SocketAddr, _)| {
        let is_nat = service.forward == Forward::Nat;
        let keeps_port = !is_nat || endpoint.port() == 0;
        let port = if keeps_port { probe.endpoint.port() } else { endpoint.port() };
        End::Backend(is_nat, SocketAddr::new(endpoint.ip(), port))
    };
    let ends: BTreeSet<End> = serving.map(end).collect();
    if ends.is_empty() { BTreeSet::from([End::NoBackend]) } else { ends }
}

/// What a reply from the probe's endpoint must look as if it came from, if nothing else than this holds.
pub fn restored(desired: &Desired, probe: &Probe) -> Option<SocketAddr> {
    let owner = |port: u16| {
        let sender = SocketAddr::new(probe.endpoint.ip(), port);
        desired.services.values().find(|service| {
            service.forward == Forward::Nat && service.protocol == probe.protocol && service.backends.contains_key(&sender)
        })
    };
    let service = owner(probe.endpoint.port()).or_else(|| owner(0))?;
    let port = if service.port == 0 { probe.endpoint.port() } else { service.port };
    Some(SocketAddr::new(service.vip, port))
}

/// A reply to a packet that ended at a NAT backend, and the endpoint that it must look as if it came from.
pub fn restored_to(desired: &Desired, probe: &Probe, end: &End) -> Option<(&'static Probe, SocketAddr)> {
    let End::Backend(true, backend) = end else { return None };
    let reply = REPLIES.iter().find(|reply| reply.endpoint == *backend && reply.protocol == probe.protocol)?;
    Some((reply, restored(desired, reply)?))
}
