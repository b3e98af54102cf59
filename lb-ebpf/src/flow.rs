//! The backend of a flow whose slot is not at rest: what the flow table says, or else where the slot says that it belongs.
//!
//! | packet | goes to |
//! |---|---|
//! | starts a flow (TCP SYN) | `current`, recorded; sent again, it follows its record |
//! | recorded, and that backend may be kept | the recorded backend |
//! | not recorded, slot learning | `settled` if that may be kept, else `current`; recorded |
//! | not recorded, slot tracked | `current`; recorded |
//!
//! User space says when a slot comes to rest, and for that it is told when flows were seen last that would move then.

use lb_common::flow::{self, Entry, Place, State, Tick};
use lb_common::records::{Service, Settings, backend_flags, service_flags};
use lb_common::{BackendId, Slot};

use crate::env::{Env, FlowEvent};
use crate::family::Family;
use crate::parse::Parsed;
use crate::transport::tcp_flags;

/// A packet of a flow whose slot is not at rest. Words only, five of them: a BPF function takes no more.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Where the flow's record is.
    pub place: Place,
    pub slot: Slot,
    pub slot_index: u32,
    pub service: u16,
    /// 0 for UDP.
    pub tcp_flags: u8,
    /// The packet is only told of: nothing is recorded.
    pub is_quoted: bool,
}

/// The flow's backend, recorded; [`BackendId::NONE`] if nobody may have it.
#[inline(always)]
pub fn backend<F: Family, const QUOTED: bool>(
    env: &impl Env,
    settings: &Settings,
    service: u16,
    slot: Slot,
    slot_index: u32,
    parsed: &Parsed<F>,
) -> BackendId {
    let keys = &settings.hash_keys;
    let place = Place::new(F::flow_hash(keys, &parsed.flow), service, keys);
    env.flow_backend(Question { place, slot, slot_index, service, tcp_flags: parsed.tcp_flags, is_quoted: QUOTED })
}

/// Answers a question, and records the answer.
#[inline(always)]
pub fn answer(env: &impl Env, question: Question) -> BackendId {
    let Question { place: Place { bucket, tag }, slot, slot_index, service: service_id, tcp_flags, is_quoted } = question;
    let service: &Service = env.service(service_id);
    let now = env.now();
    let is_syn = tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
    let found = flow::find(|position| env.flow_entry(bucket, position), tag, now, service.idle);
    let may_keep = |id: BackendId| {
        let backend = env.backend(id);
        let is_kept = service.flags & service_flags::KEEP != 0 || backend.flags & backend_flags::ALIVE != 0;
        is_kept && backend.service == service_id
    };
    let is_new = is_syn && !found.is_some_and(|found| matches!(found.entry.state(), State::Opening));
    let chosen = match found {
        _ if is_new => slot.current(),
        Some(found) if may_keep(found.entry.backend()) => found.entry.backend(),
        _ if may_keep(slot.settled()) => slot.settled(),
        _ => slot.current(),
    };
    if chosen.is_none() || is_quoted {
        return chosen;
    }
    let state = match found {
        _ if is_syn => State::Opening,
        _ if tcp_flags & (tcp_flags::FIN | tcp_flags::RST) != 0 => State::Closing,
        Some(found) => confirmed(found.entry, now),
        None => State::Guessed,
    };
    let entry = Entry::new(tag, chosen, state, now);
    match found {
        // A flow's record changes once a tick, not with every packet. What else is to be noted was noted then.
        Some(found) if found.entry == entry => return chosen,
        Some(found) => drop(env.replace_flow(bucket, found, entry)),
        None => insert(env, bucket, entry, now, service.idle),
    }
    if chosen != slot.current() {
        env.note_elsewhere(slot_index, now);
    }
    env.note_flow(chosen, now);
    chosen
}

/// The state of a recorded flow after one more packet that neither opens nor ends it.
#[inline(always)]
fn confirmed(entry: Entry, now: Tick) -> State {
    match entry.state() {
        State::Guessed if entry.age(now) == 0 => State::Guessed,
        State::Closing => State::Closing,
        _ => State::Established,
    }
}

#[inline(always)]
fn insert(env: &impl Env, bucket: u32, entry: Entry, now: Tick, idle: Tick) {
    let victim = || flow::victim(|position| env.flow_entry(bucket, position), entry.tag(), now, idle);
    let displaced = victim();
    if !env.replace_flow(bucket, displaced, entry) {
        // Another CPU was faster in this bucket. Its entry will not be the one worth least.
        env.replace_flow(bucket, victim(), entry);
    }
    env.count_flow(match displaced.entry.state() {
        _ if displaced.entry.is_empty() || displaced.entry.age(now) > idle => FlowEvent::Recorded,
        State::Opening | State::Guessed => FlowEvent::EvictedUnconfirmed,
        State::Established | State::Closing => FlowEvent::Evicted,
    });
}
