//! Taking over from an earlier daemon: which ids and slots the running program uses, and for whom. Nothing moves then.

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::flow::Tick;
use lb_common::records::{self, backend_flags};
use lb_common::{BackendId, Slot};

use super::assemble::Findings;
use crate::compile::{Layout, Region};
use crate::config::{self, Config};
use crate::desired::{Forward, NextHop};
use crate::maps::{self, KernelMaps, RecordsInUse};
use crate::nexthop::Way;
use crate::tables::{RegionSlots, Tables};

/// What the maps hold, as the tables that the next change starts from; ids go into `layout`, what is known of backends into `findings`.
pub fn adopt(maps: &KernelMaps, config: &Config, layout: &mut Layout, findings: &mut Findings) -> Tables {
    // A daemon that died may have had no time for it.
    maps.forget_sessions_of_nobody();
    let in_use = maps.records();
    let named = in_use.backends.iter().filter(|(_, record)| record.flags & backend_flags::NAMED != 0);
    let server_ids = named.map(|(&id, _)| (id, maps.server_id(id))).collect();
    let region = |region: Region| maps.region(region.first_line, region.bits);
    let (admission, prefixes) = maps.rules();
    Tables {
        flags: maps.settings().flags,
        admission,
        prefixes,
        server_ids,
        ..take_over(in_use, region, maps::now(), config, layout, findings)
    }
}

fn take_over(
    in_use: RecordsInUse,
    slots: impl Fn(Region) -> Arc<[Slot]>,
    now: Tick,
    config: &Config,
    layout: &mut Layout,
    findings: &mut Findings,
) -> Tables {
    let configured = configured(&in_use, config);
    let mut tables = Tables::default();
    for (&id, service) in &in_use.services {
        if service.listens.protocol == 0 {
            layout.adopt_vip(service.vip.into(), id);
        } else if let Some(configured) = configured.get(&id) {
            let region = Region::of(service);
            let forward = forward(id, &in_use).unwrap_or(configured.forward);
            layout.adopt_service(&configured.name, (configured.vip, configured.port, configured.protocol, forward), id, region);
            tables.regions.insert(region.first_line, RegionSlots::adopted(region.bits, slots(region), now));
        } else {
            layout.rest_service(id, Region::of(service));
        }
    }
    for (&id, backend) in &in_use.backends {
        match configured.get(&backend.service) {
            Some(service) => adopt_backend(service, id, backend, &in_use, layout, findings),
            None => layout.rest_backend(id),
        }
    }
    tables.services = in_use.services;
    tables.backends = in_use.backends;
    tables
}

fn adopt_backend(
    service: &config::Service,
    id: BackendId,
    backend: &records::Backend,
    in_use: &RecordsInUse,
    layout: &mut Layout,
    findings: &mut Findings,
) {
    let endpoint = in_use.endpoint(backend);
    let name = &service.name;
    let serves = backend.flags & backend_flags::ALIVE != 0;
    layout.adopt_backend(name, endpoint, id, serves);
    // Until its sources have answered, their earlier answers hold: otherwise the service would have nobody for that long. Which
    // one it was of is not on record, so it stays until the last has.
    if !findings.overrides.fixed(service).iter().any(|fixed| fixed.endpoint == endpoint) {
        for source in service.sources().filter(|source| source.may_have(endpoint)) {
            let by_source = findings.discovered.entry(name.clone()).or_default();
            by_source.entry(source.kind()).or_default().insert(endpoint, source.weight());
        }
    }
    if serves {
        findings.adopted_alive.insert((name.clone(), endpoint));
    }
    if backend.ifindex != 0 {
        let takes_redirects = backend.flags & backend_flags::VIA_HOST == 0;
        let (source, destination) = (backend.link.source(), backend.link.destination());
        let is_tunnel = backend.len_max > 0;
        let (address, overhead) = (is_tunnel.then(|| backend.source.into()), service.forward.overhead(endpoint.ip()));
        let mtu = overhead.map_or(NextHop::NOWHERE.mtu, |overhead| backend.len_max.saturating_add(overhead));
        let hop = NextHop { ifindex: backend.ifindex, source, destination, takes_redirects, address, mtu };
        findings.last_ways.insert(endpoint.ip(), Way { hop, gateway: None });
    }
}

/// How packets of a running service reach its backends, if it has any.
fn forward(service: u16, in_use: &RecordsInUse) -> Option<Forward> {
    let backend = in_use.backends.values().find(|backend| backend.service == service)?;
    Some(match backend.forward {
        records::forward::NAT => Forward::Nat,
        records::forward::IPIP => Forward::Ipip,
        records::forward::GUE => Forward::Gue,
        records::forward::FULLNAT => Forward::Fullnat,
        _ => Forward::Dsr,
    })
}

/// The configured service that each record is, by what it serves.
fn configured<'c>(in_use: &RecordsInUse, config: &'c Config) -> BTreeMap<u16, &'c config::Service> {
    let find = |service: &records::Service| {
        config.services.iter().find(|configured| {
            let is_vip = configured.vip == std::net::IpAddr::from(service.vip);
            is_vip && configured.port == service.listens.port.get() && configured.protocol.number() == service.listens.protocol
        })
    };
    in_use.services.iter().filter_map(|(&id, service)| Some((id, find(service)?))).collect()
}

#[cfg(test)]
mod tests;
