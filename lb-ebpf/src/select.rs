//! Chooses the backend of a flow.

use lb_common::BackendId;
use lb_common::records::{Backend, Service, Settings, forward, service_flags};

use crate::env::Env;
use crate::family::Family;
use crate::parse::Flow;

/// The backend that owns the flow's slot, or `None` if nobody does.
#[inline(always)]
pub fn backend<'e, F: Family>(
    env: &'e impl Env,
    settings: &Settings,
    service: &Service,
    flow: &Flow<F>,
) -> Option<(&'e Backend, BackendId)> {
    let hash = if service.flags & service_flags::IP_HASH != 0 {
        F::client_hash(&settings.hash_keys, flow.client)
    } else {
        F::flow_hash(&settings.hash_keys, flow)
    };
    let slot = env.slot(service.first_line, hash.slot(service.shift))?;
    let id = slot.current();
    if id.is_none() {
        return None;
    }
    let backend = env.backend(id)?;
    (backend.forward != forward::FREE).then_some((backend, id))
}
