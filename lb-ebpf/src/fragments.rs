//! Fragments. Only the first of a packet's fragments has ports: its way is put on record, and the others, which are known by the
//! packet's identification, follow it.
//!
//! A fragment that comes before the first one has nobody to follow, and is dropped and counted: nothing can wait here.

use lb_common::flow::{self, Entry, Place, State, Tick};
use lb_common::hash::FlowHash;
use lb_common::records::settings_flags;
use lb_common::trace::{Choice, How};
use lb_common::{BackendId, Be16, Verdict};

use crate::env::Env;
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::{self, Flow, Parsed};
use crate::{forward as stage, reply, select, service};

/// How long fragments of one packet may be apart: as long as Linux waits for them, 30 s.
const LIFETIME: Tick = 28;

/// What a network header says of a packet's fragmentation. Words, for an enumeration is copied in pieces that no access on the
/// stack may be split into.
#[derive(Clone, Copy)]
pub struct Fragment {
    /// What the fragments of one packet have in common.
    identification: u32,
    /// One of the constants below.
    kind: u32,
}

const WHOLE: u32 = 0;
const FIRST: u32 = 1;
const LATER: u32 = 2;

impl Fragment {
    pub const WHOLE: Self = Self { identification: 0, kind: WHOLE };

    /// One at this offset of its packet, in any unit.
    #[inline(always)]
    pub fn at(offset: u16, identification: u32) -> Self {
        Self { identification, kind: if offset == 0 { FIRST } else { LATER } }
    }

    /// It is none.
    #[inline(always)]
    pub fn is_whole(self) -> bool {
        self.kind == WHOLE
    }

    /// It has ports, and fragments without follow.
    #[inline(always)]
    pub fn is_first(self) -> bool {
        self.kind == FIRST
    }

    /// It has no ports.
    #[inline(always)]
    pub fn is_later(self) -> bool {
        self.kind == LATER
    }
}

/// Where the way of a packet's fragments is on record. Identifications are of a sender, an addressee and a protocol (RFC 791).
#[inline(always)]
fn place<F: Family>(env: &impl Env, parsed: &Parsed<F>) -> Place {
    let (keys, flow) = (&env.settings().hash_keys, &parsed.flow);
    let sender = F::flow_hash(keys, &Flow::new(flow.client, flow.vip, parsed.fragment.identification, flow.protocol()));
    let addressee = F::client_hash(keys, flow.vip);
    Place::new(FlowHash(sender.0 ^ addressee.0.rotate_left(32)), flow.protocol().into(), keys)
}

/// Puts on record which backend a first fragment goes to, or comes from.
#[inline(always)]
fn record<F: Family>(env: &impl Env, parsed: &Parsed<F>, id: BackendId) {
    env.fragment_backend(place(env, parsed), id);
}

/// The backend that the first fragment of the same packet went to, or came from; [`BackendId::NONE`] if there was none.
#[inline(always)]
pub fn recorded<F: Family>(env: &impl Env, parsed: &Parsed<F>) -> BackendId {
    env.fragment_backend(place(env, parsed), BackendId::NONE)
}

/// Puts on record which port of the pool a first fragment came to, in the place of a backend.
#[inline(always)]
pub fn record_port<F: Family>(env: &impl Env, parsed: &Parsed<F>) {
    env.fragment_port(place(env, parsed), parsed.flow.vip_port());
}

/// The port of the pool that the first fragment of the same packet came to; 0 if there was none.
#[inline(always)]
pub fn recorded_port<F: Family>(env: &impl Env, parsed: &Parsed<F>) -> Be16 {
    env.fragment_port(place(env, parsed), Be16::new(0))
}

/// Looks into the record for [`BackendId::NONE`], and puts any other backend into it.
#[inline(always)]
pub fn answer(env: &impl Env, place: Place, id: BackendId) -> BackendId {
    let (now, bucket) = (env.now(), |position| env.fragment_entry(place.bucket, position));
    if id.is_none() {
        return flow::find(bucket, place.tag, now, LIFETIME).map_or(BackendId::NONE, |found| found.entry.backend());
    }
    // Whoever loses against another CPU goes without, as if the table were too small.
    let entry = Entry::new(place.tag, id, State::Guessed, now);
    env.replace_fragment(place.bucket, flow::victim(bucket, place.tag, now, LIFETIME), entry);
    id
}

/// Chooses the backend of a first fragment, and puts it on record. `None` if there is one, or if the packet may be a reply.
#[inline(always)]
pub fn choose<F: Family>(env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let settings = env.settings();
    let Some((service, service_id)) = service::find::<F>(env, settings, parsed.flow.vip, parsed.flow.listener()) else {
        return (settings.flags & (settings_flags::REPLIES | settings_flags::FULLNAT) == 0).then_some(Verdict::NotService);
    };
    let (_, id) = select::backend::<F, false>(env, settings, service, service_id, parsed);
    if id.is_none() {
        env.count_service_drop(service_id);
        return Some(Verdict::NoBackend);
    }
    record(env, parsed, id);
    None
}

/// Sends any fragment to the backend on record. `None` if the packet may be a NAT backend's.
#[inline(always)]
pub fn follow<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let settings = env.settings();
    let id = recorded(env, parsed);
    let backend = env.backend(id);
    if !F::is(&env.service(backend.service).vip, parsed.flow.vip) {
        let is_not_reply = settings.flags & settings_flags::REPLIES == 0;
        return is_not_reply.then(|| of_nobody(env, parsed));
    }
    if parsed.fragment.is_later() {
        env.note_choice(Choice { service: backend.service, backend: id, slot_index: 0, how: How::FRAGMENT });
    }
    let sent = stage::send::<F, false>(packet, env, settings, backend, id, parsed);
    Some(stage::count::<F>(env, id, parsed, sent))
}

/// Restores a fragment of a NAT backend's reply: the first as any reply, the others after it.
#[inline(always)]
pub fn restore<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Verdict {
    let is_first = parsed.fragment.is_first();
    let id = if is_first { reply::sender::<F>(env, env.settings(), parsed) } else { recorded(env, parsed) };
    if id.is_none() {
        return of_nobody(env, parsed);
    }
    if is_first {
        record(env, parsed, id);
    }
    reply::restore::<F>(packet, env, id, parsed)
}

/// The verdict on what is neither of a service nor of a NAT backend. What follows may be of a service all the same.
#[inline(always)]
fn of_nobody<F: Family>(env: &impl Env, parsed: &Parsed<F>) -> Verdict {
    if parsed.fragment.is_later() { parse::judge(env, &parsed.flow, Verdict::Fragment) } else { Verdict::NotService }
}
