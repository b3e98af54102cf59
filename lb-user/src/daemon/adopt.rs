//! Taking over from an earlier daemon: which ids and slots the running program uses, and for whom. Nothing moves then.

use std::collections::BTreeMap;

use lb_common::BackendId;
use lb_common::records::{self, backend_flags};

use super::assemble::Findings;
use crate::compile::{Layout, Region};
use crate::config::Config;
use crate::desired::{NextHop, ServiceName};
use crate::maps::{KernelMaps, MapError, RecordsInUse};
use crate::tables::{RegionSlots, Tables};

/// What the maps hold, as the tables that the next change starts from; ids go into `layout`, what is known of backends into `findings`.
///
/// # Errors
/// If the maps cannot be read.
pub fn adopt(maps: &KernelMaps, config: &Config, layout: &mut Layout, findings: &mut Findings) -> Result<Tables, MapError> {
    let in_use = maps.records()?;
    let names = names(&in_use, config);
    let mut tables = Tables { flags: maps.settings().flags, ..Tables::default() };
    for (&id, service) in &in_use.services {
        if service.protocol == 0 {
            layout.adopt_vip(service.vip.into(), id);
        } else if let Some(name) = names.get(&id) {
            let region = Region { first_line: service.first_line, bits: 32 - service.shift };
            layout.adopt_service(name, id, region);
            let slots = maps.region(region.first_line, region.bits);
            tables.regions.insert(region.first_line, RegionSlots::adopted(region.bits, slots));
        }
    }
    for (&id, backend) in &in_use.backends {
        if let Some(name) = names.get(&backend.service) {
            adopt_backend(name, id, backend, &in_use, layout, findings);
        }
    }
    tables.services = in_use.services;
    tables.backends = in_use.backends;
    Ok(tables)
}

fn adopt_backend(
    name: &ServiceName,
    id: BackendId,
    backend: &records::Backend,
    in_use: &RecordsInUse,
    layout: &mut Layout,
    findings: &mut Findings,
) {
    let endpoint = in_use.endpoint(backend);
    layout.adopt_backend(name, endpoint, id);
    if backend.flags & backend_flags::ALIVE != 0 {
        findings.adopted_alive.insert((name.clone(), endpoint));
    }
    if backend.ifindex != 0 {
        let takes_redirects = backend.flags & backend_flags::VIA_HOST == 0;
        let (source, destination) = (backend.source, backend.next_hop);
        findings.last_next_hops.insert(endpoint.ip(), NextHop { ifindex: backend.ifindex, source, destination, takes_redirects });
    }
}

/// The configured service that each record is, by what it serves.
fn names(in_use: &RecordsInUse, config: &Config) -> BTreeMap<u16, ServiceName> {
    let name = |service: &records::Service| {
        let configured = config.services.iter().find(|configured| {
            let is_vip = configured.vip == std::net::IpAddr::from(service.vip);
            is_vip && configured.port == service.port.get() && configured.protocol.number() == service.protocol
        });
        configured.map(|configured| configured.name.clone())
    };
    in_use.services.iter().filter_map(|(&id, service)| Some((id, name(service)?))).collect()
}
