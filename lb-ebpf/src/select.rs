//! Chooses the backend of a flow.

use lb_common::BackendId;
use lb_common::records::{Backend, Service, Settings, service_flags};

use crate::env::Env;
use crate::family::Family;
use crate::flow;
use crate::parse::Parsed;

/// The backend that owns the flow's slot, or, in a slot that is not at rest, the flow itself. If nobody does, a record that says
/// so. One that is `QUOTED` is only told of, by an ICMP error.
#[inline(always)]
pub fn backend<'e, F: Family, const QUOTED: bool>(
    env: &'e impl Env,
    settings: &Settings,
    service: &Service,
    service_id: u16,
    parsed: &Parsed<F>,
) -> (&'e Backend, BackendId) {
    let hash = if service.flags & service_flags::IP_HASH != 0 {
        F::client_hash(&settings.hash_keys, F::masked(parsed.flow.client, &service.client_mask))
    } else {
        F::flow_hash(&settings.hash_keys, &parsed.flow)
    };
    let slot_index = service.region.slot(hash);
    let slot = env.slot(slot_index).unwrap_or_default();
    if slot.is_at_rest() {
        return (env.backend(slot.current()), slot.current());
    }
    let id = flow::backend::<F, QUOTED>(env, settings, service_id, slot, slot_index, parsed);
    (env.backend(id), id)
}
