//! The same for single services: a change of one backend's health need not look at ten thousand others.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::BackendId;
use lb_common::records::service_flags;

use super::{Layout, Region, Sightings, add_service};
use crate::desired::{Desired, Service, ServiceName};
use crate::tables::Tables;

/// What single services have in the tables, before a change and after it, and nothing else.
#[derive(Debug)]
pub struct Amended {
    pub before: Tables,
    pub after: Tables,
    /// Whose backends these are.
    pub names: BTreeMap<BackendId, (ServiceName, SocketAddr)>,
}

/// What [`compile`](super::compile) would make of these services, in place of those of that name in `desired`. `None` if that concerns more
/// than their own tables, or ids and regions: then everything has to be looked at.
///
/// Time is what `sightings` say.
pub fn amend(
    desired: &Desired,
    services: &BTreeMap<ServiceName, Service>,
    layout: &Layout,
    previous: &Tables,
    sightings: &impl Sightings,
) -> Option<Amended> {
    let around = || Tables {
        flags: previous.flags,
        service_directory: previous.service_directory.clone(),
        reply_directory: previous.reply_directory.clone(),
        prefixes: previous.prefixes.clone(),
        ..Tables::default()
    };
    let mut amended = Amended { before: around(), after: around(), names: BTreeMap::new() };
    for (name, service) in services {
        let own = layout.of(name);
        if own.role(name) != Some(service.role()) || own.is_anyone_leaving() {
            return None;
        }
        let mut after = own.clone();
        add_service(&mut amended.after, &mut after, previous, sightings, desired, name, service).ok()?;
        if after != own {
            return None;
        }
        let id = own.find_service(name)?;
        let (record, before) = (amended.after.services.get_mut(&id)?, previous.services.get(&id)?);
        // Who may send is not up to what a service's backends are.
        record.flags |= before.flags & service_flags::ADMISSION;
        amended.before.services.insert(id, *before);
        let first_line = Region::of(before).first_line;
        amended.before.regions.insert(first_line, previous.regions.get(&first_line)?.clone());
        for (name, endpoint, id) in own.backends() {
            amended.before.backends.insert(id, *previous.backends.get(&id)?);
            amended.names.insert(id, (name.clone(), endpoint));
        }
    }
    let before = |id: &BackendId| Some((*id, *previous.server_ids.get(id)?));
    amended.before.server_ids = amended.after.server_ids.keys().filter_map(before).collect();
    let is_complete = amended.before.backends.keys().eq(amended.after.backends.keys());
    is_complete.then_some(amended)
}
