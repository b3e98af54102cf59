//! Chooses the backend of a flow.

use lb_common::BackendId;
use lb_common::records::{Backend, Service, Settings, service_flags};

use crate::env::Env;
use crate::family::Family;
use crate::parse::Flow;

/// The backend that owns the flow's slot. If nobody does, a record that says so.
#[inline(always)]
pub fn backend<'e, F: Family>(
    env: &'e impl Env,
    settings: &Settings,
    service: &Service,
    flow: &Flow<F>,
) -> (&'e Backend, BackendId) {
    let hash = if service.flags & service_flags::IP_HASH != 0 {
        F::client_hash(&settings.hash_keys, flow.client)
    } else {
        F::flow_hash(&settings.hash_keys, flow)
    };
    let slot = env.slot(service.region.slot(hash)).unwrap_or_default();
    (env.backend(slot.current()), slot.current())
}
