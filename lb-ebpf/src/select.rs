//! Chooses the backend of a flow.

use lb_common::records::{Backend, Service, Settings, service_flags};
use lb_common::trace::{Choice, How};
use lb_common::{BackendId, Slot};

use crate::env::Env;
use crate::family::Family;
use crate::flow::{self, Answer};
use crate::parse::Parsed;

/// The backend that owns the flow's slot, or, in a slot that is not at rest, the flow itself. If nobody does, a record that says
/// so. One that is `QUOTED` is only told of, by an ICMP error; it has no connection ID, and where there are such, any flow may be on record
/// with another than the owner.
#[inline(always)]
pub fn backend<'e, F: Family, const QUOTED: bool>(
    env: &'e impl Env,
    settings: &Settings,
    service: &Service,
    service_id: u16,
    parsed: &Parsed<F>,
) -> (&'e Backend, BackendId) {
    let (slot_index, slot) = slot(env, settings, service, parsed);
    let may_be_elsewhere = QUOTED && service.flags & service_flags::QUIC != 0;
    let Answer { id, how } = if slot.is_at_rest() && !may_be_elsewhere {
        Answer { id: slot.current(), how: How::AT_REST }
    } else {
        flow::backend::<F, QUOTED>(env, settings, service_id, slot, slot_index, parsed)
    };
    env.note_choice(Choice { service: service_id, backend: id, slot_index, how });
    (env.backend(id), id)
}

/// The same where the packet itself may have `named` its backend. That has it wherever its hash leads, and the flow is on record with it
/// unless it would come to rest there anyway: drains count it, and errors find it.
#[inline(always)]
pub fn named<'e, F: Family>(
    env: &'e impl Env,
    settings: &Settings,
    service: &Service,
    service_id: u16,
    parsed: &Parsed<F>,
    named: BackendId,
) -> (&'e Backend, BackendId) {
    let (slot_index, slot) = slot(env, settings, service, parsed);
    let is_named = !named.is_none();
    let mut answer = Answer { id: slot.current(), how: How::AT_REST };
    if !slot.is_at_rest() || (is_named && slot.current() != named) {
        let slot = if is_named { Slot::at_rest(named) } else { slot };
        answer = flow::backend::<F, false>(env, settings, service_id, slot, slot_index, parsed);
    }
    let Answer { id, how } = if is_named { Answer { id: named, how: How::CONNECTION_ID } } else { answer };
    env.note_choice(Choice { service: service_id, backend: id, slot_index, how });
    (env.backend(id), id)
}

#[inline(always)]
fn slot<F: Family>(env: &impl Env, settings: &Settings, service: &Service, parsed: &Parsed<F>) -> (u32, Slot) {
    let hash = if service.flags & service_flags::IP_HASH != 0 {
        F::client_hash(&settings.hash_keys, F::masked(parsed.flow.client, &service.client_mask))
    } else {
        F::flow_hash(&settings.hash_keys, &parsed.flow)
    };
    let slot_index = service.region.slot(hash);
    (slot_index, env.slot(slot_index).unwrap_or_default())
}
