//! The backend of a flow whose slot is not at rest: what the flow table says, or else where the slot says that it belongs.
//!
//! | packet | goes to |
//! |---|---|
//! | starts a flow (TCP SYN) | `current`, recorded; sent again, it follows its record |
//! | recorded, and that backend may be kept | the recorded backend |
//! | not recorded, slot learning | `settled` if that may be kept, else `current`; recorded |
//! | not recorded, slot tracked | `current`; recorded |
//!
//! Of a service whose algorithm goes by more than the hash, no slot is at rest, and a new flow has its backend [chosen](crate::choose)
//! instead of `current`.
//!
//! User space says when a slot comes to rest, and for that it is told when flows were seen last that would move then.

use lb_common::flow::{self, Entry, Place, State, Tick};
use lb_common::handshake::{Event, Handshake};
use lb_common::records::{Service, Settings, backend_flags, choice, service_flags};
use lb_common::trace::How;
use lb_common::{BackendId, Slot};

use crate::choose::NewFlow;
use crate::env::{Env, FlowEvent};
use crate::family::Family;
use crate::parse::Parsed;
use crate::transport::{UDP, tcp_flags};

/// A packet of a flow whose slot is not at rest. Words only, four of them with the place in one: as many stay in registers while a BPF
/// function calls another.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// Where the flow's record is.
    pub place: Place,
    pub slot: Slot,
    pub slot_index: u32,
    pub service: u16,
    /// 0 for UDP, but for QUIC that opens a connection.
    pub tcp_flags: u8,
    /// The slot's current backend was chosen for this flow.
    pub is_chosen: bool,
}

/// The same of a packet that is only told of, by an ICMP error.
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    pub place: Place,
    pub slot: Slot,
    pub service: u16,
}

/// What became of a packet's flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// [`BackendId::NONE`] if nobody may have it.
    pub id: BackendId,
    pub how: How,
}

/// The flow's backend, recorded; of a packet that is only `QUOTED`, not recorded.
#[inline(always)]
pub fn backend<F: Family, const QUOTED: bool>(
    env: &impl Env,
    settings: &Settings,
    service: u16,
    slot: Slot,
    slot_index: u32,
    parsed: &Parsed<F>,
) -> Answer {
    let keys = &settings.hash_keys;
    let place = Place::new(F::flow_hash(keys, &parsed.flow), service, keys);
    if QUOTED {
        return env.quoted_backend(Quoted { place, slot, service });
    }
    env.flow_backend(Question { place, slot, slot_index, service, tcp_flags: parsed.tcp_flags, is_chosen: false })
}

/// Answers for a packet that is only told of.
#[inline(always)]
pub fn answer_quoted(env: &impl Env, Quoted { place: Place { bucket, tag }, slot, service: service_id }: Quoted) -> Answer {
    let service = env.service(service_id);
    let found = flow::find(|position| env.flow_entry(bucket, position), tag, env.now(), service.idle);
    let may_keep = |id: BackendId| may_keep(env, service, service_id, id);
    match found.map(|found| found.entry.backend()) {
        Some(id) if may_keep(id) => Answer { id, how: How::ON_RECORD },
        _ if may_keep(slot.settled()) => Answer { id: slot.settled(), how: How::SETTLED },
        _ => Answer { id: slot.current(), how: How::CURRENT },
    }
}

/// Answers a question, and records the answer.
#[inline(always)]
pub fn answer(env: &impl Env, question: Question) -> Answer {
    if let Some(id) = known(env, question) {
        return Answer { id, how: How::ON_RECORD };
    }
    let recorded = recorded_at_last(env, question);
    if recorded.then != Then::Choose {
        return Answer { id: count(env, question, recorded), how: how(question, recorded) };
    }
    let Question { place, slot, slot_index, service, .. } = question;
    let id = env.new_backend(NewFlow { service, slot_index, tag: place.tag });
    let recorded = recorded_at_last(env, Question { slot: Slot::new(id, slot.settled()), is_chosen: true, ..question });
    Answer { id: count(env, question, recorded), how: How::CHOSEN }
}

/// If another CPU was faster in a bucket, its entry will not be the one worth least.
#[inline(always)]
fn recorded_at_last(env: &impl Env, question: Question) -> Recorded {
    let recorded = env.record_flow(question);
    if recorded.then == Then::Again { env.record_flow(question) } else { recorded }
}

/// Why a flow's backend is its backend, of one that was not chosen.
#[inline(always)]
fn how(Question { slot, .. }: Question, Recorded { id, noted, .. }: Recorded) -> How {
    match noted.step() {
        Step::Opens => How::NEW,
        _ if noted.is_known() => How::ON_RECORD,
        _ if id == slot.settled() => How::SETTLED,
        _ => How::CURRENT,
    }
}

/// The backend of a connection that had a packet in this tick already: most packets have, and change nothing of its record.
#[inline(always)]
fn known(env: &impl Env, question: Question) -> Option<BackendId> {
    let Question { place: Place { bucket, tag }, service, tcp_flags, .. } = question;
    if tcp_flags & (tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) != 0 {
        return None;
    }
    let id = flow::find_live(|position| env.flow_entry(bucket, position), tag, env.now())?;
    may_keep(env, env.service(service), service, id).then_some(id)
}

/// Whether a flow on record may stay with its backend.
#[inline(always)]
pub fn may_keep(env: &impl Env, service: &Service, service_id: u16, id: BackendId) -> bool {
    let backend = env.backend(id);
    let is_kept = service.flags & service_flags::KEEP != 0 || backend.flags & backend_flags::ALIVE != 0;
    is_kept && backend.service == service_id
}

/// Counts whose active flow it is now, and how its connection opens; the flow's backend.
#[inline(always)]
fn count(env: &impl Env, question: Question, Recorded { id, noted, change, .. }: Recorded) -> BackendId {
    let step = noted.step();
    if step != Step::None && env.service(question.service).flags & service_flags::HANDSHAKES != 0 {
        env.count_step(Stepped { service: question.service, tag: question.place.tag, id, step });
    }
    if change.from != change.to {
        if !change.from.is_none() {
            env.add_active(change.from, env.backend(change.from).service, u64::MAX);
        }
        if !change.to.is_none() {
            env.add_active(change.to, env.backend(change.to).service, 1);
        }
    }
    id
}

/// What became of a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Recorded {
    /// The flow's backend; [`BackendId::NONE`] if nobody may have it.
    pub id: BackendId,
    pub then: Then,
    pub noted: Noted,
    pub change: Change,
}

/// What remains to be done about a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Then {
    #[default]
    Nothing,
    /// A backend has to be chosen first, and the question asked once more.
    Choose,
    /// It has to be asked once more: somebody else has taken the place in the table.
    Again,
}

impl Then {
    /// By its number, of which the lower bits count.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number & 3 {
            1 => Self::Choose,
            2 => Self::Again,
            _ => Self::Nothing,
        }
    }
}

/// What a packet is in the handshake of its connection, and whether its flow was on record with its backend. One word: two would be one
/// too many for the stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Noted(u8);

impl Noted {
    const KNOWN: u8 = 4;

    #[inline(always)]
    const fn new(step: Step, is_known: bool) -> Self {
        Self(step as u8 | (is_known as u8 * Self::KNOWN))
    }

    /// By its number, of which the lower bits count.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        Self(number)
    }

    #[inline(always)]
    pub const fn number(self) -> u8 {
        self.0
    }

    #[inline(always)]
    const fn step(self) -> Step {
        Step::from_number(self.0)
    }

    #[inline(always)]
    const fn is_known(self) -> bool {
        self.0 & Self::KNOWN != 0
    }
}

/// A step of a handshake. Words only.
#[derive(Clone, Copy, Debug)]
pub struct Stepped {
    pub service: u16,
    /// Its record's tag.
    pub tag: u32,
    pub id: BackendId,
    pub step: Step,
}

/// What a packet is in the handshake of its connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum Step {
    #[default]
    None,
    /// The first SYN.
    Opens,
    /// The same SYN again.
    Repeats,
    /// The client's first packet after it, whatever it is.
    GoesOn,
}

impl Step {
    /// By its number, of which the lower bits count.
    #[inline(always)]
    pub const fn from_number(number: u8) -> Self {
        match number & 3 {
            0 => Self::None,
            1 => Self::Opens,
            2 => Self::Repeats,
            _ => Self::GoesOn,
        }
    }

    /// No branch: what follows would be looked at for each of its ends.
    #[inline(always)]
    const fn of(is_syn: bool, is_opening: bool) -> Self {
        let (is_syn, is_opening) = (is_syn as u8, is_opening as u8);
        Self::from_number(is_syn + is_opening + (is_opening & !is_syn) * 2)
    }
}

/// Who had an active flow before, and who has one now, by one change of the table; [`BackendId::NONE`] is nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Change {
    pub from: BackendId,
    pub to: BackendId,
}

impl Recorded {
    const TO_CHOOSE: Self = Self { then: Then::Choose, ..Self::unchanged(BackendId::NONE, Noted(0)) };

    const fn unchanged(id: BackendId, noted: Noted) -> Self {
        Self { id, then: Then::Nothing, noted, change: Change { from: BackendId::NONE, to: BackendId::NONE } }
    }
}

/// The backend that the record or the slot says, recorded.
#[inline(always)]
pub fn record(env: &impl Env, question: Question) -> Recorded {
    let Question { place: Place { bucket, tag }, slot, slot_index, service: service_id, tcp_flags, is_chosen } = question;
    let service: &Service = env.service(service_id);
    let now = env.now();
    let is_syn = tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
    let seen = flow::victim(|position| env.flow_entry(bucket, position), tag, now, service.idle);
    let found = Some(seen).filter(|seen| seen.is_live(tag, now, service.idle));
    let is_opening = found.is_some_and(|found| matches!(found.entry.state(), State::Opening));
    let is_new = is_syn && !is_opening;
    let kept = match found {
        _ if is_new => None,
        Some(found) if may_keep(env, service, service_id, found.entry.backend()) => Some(found.entry.backend()),
        _ => Some(slot.settled()).filter(|&settled| may_keep(env, service, service_id, settled)),
    };
    // Of a connection that began unseen the hash tells at least where all nodes send it.
    let may_choose = service.choice != choice::SLOT && !is_chosen;
    let is_first_datagram = service.listens.protocol == UDP && service.flags & service_flags::LEARNING == 0;
    if kept.is_none() && may_choose && (is_syn || is_first_datagram) {
        return Recorded::TO_CHOOSE;
    }
    let chosen = kept.unwrap_or(slot.current());
    let is_known = found.is_some_and(|found| found.entry.backend() == chosen);
    if chosen.is_none() {
        return Recorded::unchanged(chosen, Noted::new(Step::None, is_known));
    }
    let noted = Noted::new(Step::of(is_syn, is_opening), is_known);
    let state = match found {
        _ if is_syn => State::Opening,
        _ if tcp_flags & (tcp_flags::FIN | tcp_flags::RST) != 0 => State::Closing,
        Some(found) => confirmed(found.entry, now),
        None => State::Guessed,
    };
    let entry = Entry::new(tag, chosen, state, now);
    if seen.entry == entry {
        // A flow's record changes once a tick, not with every packet. What else is to be noted was noted then.
        return Recorded::unchanged(chosen, noted);
    }
    let is_recorded = env.replace_flow(bucket, seen, entry);
    let then = if found.is_none() && !is_recorded { Then::Again } else { Then::Nothing };
    if found.is_none() && is_recorded {
        env.count_flow(displaced(seen.entry, now, service.idle));
    }
    if chosen != slot.current() {
        env.note_elsewhere(slot_index, now);
    }
    env.note_flow(chosen, now);
    let change = Change { from: seen.entry.active(), to: entry.active() };
    Recorded { id: chosen, then, noted, change: if is_recorded { change } else { Change::default() } }
}

/// Counts a step of a handshake. How long the backend took to answer is known if the first SYN was seen.
#[inline(always)]
pub fn count_step(env: &impl Env, Stepped { service, tag, id, step }: Stepped) {
    let service = env.service(service);
    let event = match step {
        Step::None | Step::Opens => {
            env.note_handshake(tag, Handshake::new(tag, env.micros()));
            Event::Opened
        }
        Step::Repeats => Event::Repeated,
        Step::GoesOn => {
            let handshake = env.handshake(tag);
            if handshake.is_of(tag) {
                let duration = handshake.duration(env.micros());
                env.note_handshake(tag, Handshake::default());
                if service.choice == choice::LEAST_RESPONSE_TIME {
                    env.set_response(id, env.load(id).response.with(duration, env.now()));
                }
                Event::Answered(Some(duration))
            } else {
                Event::Answered(None)
            }
        }
    };
    env.count_handshake(id, event);
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

/// What a flow that was not on record has displaced.
#[inline(always)]
fn displaced(entry: Entry, now: Tick, idle: Tick) -> FlowEvent {
    match entry.state() {
        _ if entry.is_empty() || entry.age(now) > idle => FlowEvent::Recorded,
        State::Opening | State::Guessed => FlowEvent::EvictedUnconfirmed,
        State::Established | State::Closing => FlowEvent::Evicted,
    }
}
