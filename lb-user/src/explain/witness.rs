//! The tables as the packet path sees them, and what it asks of them on the way of one packet. It changes nothing: what it would
//! count, note or record is let go.

use std::cell::{Cell, OnceCell};

use lb_common::admission::{Line, Rule, Rules, Suspect};
use lb_common::directory::Bucket;
use lb_common::flow::{self, Place, Tick};
use lb_common::handshake::{self, Handshake};
use lb_common::load::{Load, Response};
use lb_common::meter;
use lb_common::quic::ServerKey;
use lb_common::records::{Backend, Link, Service, Settings};
use lb_common::session::{self, LINE, Offer, Pool, Range, Session, State};
use lb_common::trace::{Choice, How};
use lb_common::{Addr, BackendId, Be16, Slot, Verdict};
use lb_ebpf::choose::NewFlow;
use lb_ebpf::flow::{Answer, Question, Quoted};
use lb_ebpf::quic::Chosen;
use lb_ebpf::{Env, FlowEvent, Route, RouteQuery, admit, fragments, session as sessions};

use super::frame::Frame;

/// The tables as they stand. A record that nobody wrote, or that is beyond the end, is all zeros.
pub trait Records {
    fn settings(&self) -> Settings;
    fn service_bucket(&self, index: u32) -> Bucket;
    fn reply_bucket(&self, index: u32) -> Bucket;
    fn service(&self, id: u16) -> Service;
    /// `None` beyond the end of the table.
    fn slot(&self, index: u32) -> Option<Slot>;
    fn backend(&self, id: BackendId) -> Backend;
    fn server_id(&self, id: BackendId) -> u64;
    /// `None` beyond the end of the table.
    fn link(&self, ifindex: u32) -> Option<Link>;
    /// Of either number, upper bits do not count.
    fn flow_entry(&self, bucket: u32, position: usize) -> flow::Entry;
    /// Likewise.
    fn fragment_entry(&self, bucket: u32, position: usize) -> flow::Entry;
    fn load(&self, id: BackendId) -> Load;
    /// Active flows of a service.
    fn active(&self, service: u16) -> u64;
    /// The number of a service's next turn.
    fn turn(&self, service: u16) -> u64;
    /// The rules of a service, by its id, or at 0 those of all VIPs.
    fn admission(&self, scope: u16) -> Rules;
    /// A line of the table of prefixes; `None` beyond its end.
    fn prefix_line(&self, index: u32) -> Option<Line>;
    /// A bucket of the table of meters. Of either number, upper bits do not count; likewise of the next.
    fn meter(&self, line: u32, position: usize) -> meter::Entry;
    fn known_flow(&self, line: u32, position: usize) -> meter::Entry;
    /// In units of [`meter`].
    fn meter_time(&self) -> u64;
    /// The pool of full NAT.
    fn pool(&self) -> Pool;
    fn session_tags(&self, line: u32) -> u64;
    /// `None` beyond the end.
    fn session_at(&self, index: u32) -> Option<Session>;
    fn now(&self) -> Tick;
}

/// What the packet path did with a packet, and what it asked for.
#[derive(Clone, Debug)]
pub struct Trail {
    pub verdict: Verdict,
    /// The service that the packet is for, by id.
    pub service: Option<(u16, Service)>,
    /// What its QUIC connection ID says, if that is read.
    pub named: Option<NamedSeen>,
    pub slot: Option<SlotSeen>,
    /// Of a slot that is not at rest, and of a packet that names somebody else.
    pub flow: Option<FlowSeen>,
    /// Whom the packet is for; of no backend at all, [`BackendId::NONE`].
    pub backend: Option<(BackendId, Backend)>,
    /// By full NAT, what stands for the client.
    pub session: Option<SessionSeen>,
    pub reply: Option<ReplySeen>,
    /// Of a later fragment, the backend that the first of its packet went to or came from; [`BackendId::NONE`] if none is on record.
    pub fragment: Option<BackendId>,
    /// The scope whose rule refused the packet, by a service's id or 0 for all VIPs, and that rule.
    pub refused: Option<(u16, Rule)>,
    /// The time by which ages count.
    pub now: Tick,
}

/// The server that a connection ID names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NamedSeen {
    pub key: ServerKey,
    /// [`BackendId::NONE`] if nobody has that ID.
    pub owner: BackendId,
}

/// A packet's slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotSeen {
    /// In the whole map.
    pub index: u32,
    pub slot: Slot,
}

/// What the flow table says of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowSeen {
    /// Its entry, unless it has been silent for too long.
    pub entry: Option<flow::Entry>,
    /// The entry that the packet path would write now.
    pub recorded: Option<flow::Entry>,
}

/// A flow's session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SessionSeen {
    pub address: Addr,
    pub port: Be16,
    /// It has none yet, and this would be its own.
    pub is_new: bool,
}

/// A packet from a NAT backend.
#[derive(Clone, Copy, Debug)]
pub struct ReplySeen {
    pub backend: (BackendId, Backend),
    pub service: (u16, Service),
    /// Whom it goes to.
    pub client: Addr,
}

/// Takes a frame through the packet path.
pub fn follow(mut frame: Frame, records: &impl Records) -> Trail {
    let witness = Witness::new(records);
    let verdict = lb_ebpf::process(&mut frame, &witness);
    let slot = witness.slot.get();
    Trail {
        verdict,
        service: witness.service.get(),
        named: witness.named.get(),
        slot,
        flow: witness.flow.get(),
        // Once there is a slot, the last backend asked for is the one that was chosen; a fragment follows without.
        backend: slot.and(witness.last_backend.get()).or(witness.followed.get()),
        fragment: witness.fragment.get(),
        session: witness.session.get(),
        reply: witness.reply.get(),
        refused: witness.refused.get(),
        now: witness.now,
    }
}

/// The tables, and what was asked of them.
struct Witness<'r, R> {
    records: &'r R,
    settings: Settings,
    pool: Pool,
    now: Tick,
    buckets: Kept<Bucket>,
    services: Kept<Service>,
    backends: Kept<Backend>,
    last_service: Cell<Option<(u16, Service)>>,
    last_backend: Cell<Option<(BackendId, Backend)>>,
    service: Cell<Option<(u16, Service)>>,
    named: Cell<Option<NamedSeen>>,
    slot: Cell<Option<SlotSeen>>,
    flow: Cell<Option<FlowSeen>>,
    session: Cell<Option<SessionSeen>>,
    reply: Cell<Option<ReplySeen>>,
    fragment: Cell<Option<BackendId>>,
    handed_over: Cell<Chosen>,
    followed: Cell<Option<(BackendId, Backend)>>,
    refused: Cell<Option<(u16, Rule)>>,
    rules: Kept<Rules>,
    lines: Kept<Line>,
    /// What the packet path would write into the flow table.
    recorded: Cell<Option<flow::Entry>>,
}

impl<'r, R: Records> Witness<'r, R> {
    fn new(records: &'r R) -> Self {
        Self {
            records,
            settings: records.settings(),
            pool: records.pool(),
            now: records.now(),
            buckets: Kept::default(),
            services: Kept::default(),
            backends: Kept::default(),
            last_service: Cell::default(),
            last_backend: Cell::default(),
            service: Cell::default(),
            named: Cell::default(),
            slot: Cell::default(),
            flow: Cell::default(),
            session: Cell::default(),
            reply: Cell::default(),
            fragment: Cell::default(),
            handed_over: Cell::default(),
            followed: Cell::default(),
            refused: Cell::default(),
            rules: Kept::default(),
            lines: Kept::default(),
            recorded: Cell::default(),
        }
    }
}

impl<R: Records> Witness<'_, R> {
    /// What is on record of a flow.
    fn entry(&self, place: Place, service: u16) -> Option<flow::Entry> {
        let idle = self.records.service(service).idle;
        let bucket = |position| self.records.flow_entry(place.bucket, position);
        flow::find(bucket, place.tag, self.now, idle).map(|found| found.entry)
    }
}

impl<R: Records> Env for Witness<'_, R> {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn service_bucket(&self, index: u32) -> &Bucket {
        self.buckets.keep(self.records.service_bucket(index))
    }

    fn reply_bucket(&self, index: u32) -> &Bucket {
        self.buckets.keep(self.records.reply_bucket(index))
    }

    fn service(&self, id: u16) -> &Service {
        let service = self.services.keep(self.records.service(id));
        self.last_service.set(Some((id, *service)));
        service
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        // Nobody asks for a slot but of the service that was found last.
        self.service.set(self.last_service.get());
        let slot = self.records.slot(index);
        self.slot.set(Some(SlotSeen { index, slot: slot.unwrap_or_default() }));
        slot
    }

    fn backend(&self, id: BackendId) -> &Backend {
        let backend = self.backends.keep(self.records.backend(id));
        self.last_backend.set(Some((id, *backend)));
        backend
    }

    fn link(&self, ifindex: u32) -> Option<Link> {
        self.records.link(ifindex)
    }

    fn admission(&self, scope: u16) -> &Rules {
        self.rules.keep(self.records.admission(scope))
    }

    fn prefix_line(&self, index: u32) -> Option<&Line> {
        Some(self.lines.keep(self.records.prefix_line(index)?))
    }

    fn refuse(&self, question: admit::Question) -> Option<Verdict> {
        // Nobody is held against rules but of the service that was found last.
        self.service.set(self.last_service.get());
        admit::answer(self, question)
    }

    fn meter_time(&self) -> u64 {
        self.records.meter_time()
    }

    fn meter(&self, line: u32, position: usize) -> meter::Entry {
        self.records.meter(line, position)
    }

    fn replace_meter(&self, _line: u32, _old: meter::Found, _new: meter::Entry) -> bool {
        true
    }

    fn known_flow(&self, line: u32, position: usize) -> meter::Entry {
        self.records.known_flow(line, position)
    }

    fn replace_known_flow(&self, _line: u32, _old: meter::Found, _new: meter::Entry) -> bool {
        true
    }

    fn server(&self, key: ServerKey) -> BackendId {
        let owner = lb_ebpf::quic::server(self, key);
        self.named.set(Some(NamedSeen { key, owner }));
        owner
    }

    fn server_id(&self, id: BackendId) -> u64 {
        self.records.server_id(id)
    }

    fn flow_backend(&self, question: Question) -> Answer {
        let entry = self.entry(question.place, question.service);
        let chosen = lb_ebpf::flow::answer(self, question);
        self.flow.set(Some(FlowSeen { entry, recorded: self.recorded.get() }));
        chosen
    }

    fn quoted_backend(&self, quoted: Quoted) -> Answer {
        let entry = self.entry(quoted.place, quoted.service);
        self.flow.set(Some(FlowSeen { entry, recorded: None }));
        lb_ebpf::flow::answer_quoted(self, quoted)
    }

    /// Who was asked for on the way has no part in it: the slot that the hash leads to is the packet's.
    fn new_backend(&self, flow: NewFlow) -> BackendId {
        let slot = self.slot.get();
        let chosen = lb_ebpf::choose::answer(self, flow);
        self.slot.set(slot);
        chosen
    }

    fn load(&self, id: BackendId) -> Load {
        self.records.load(id)
    }

    fn active(&self, service: u16) -> u64 {
        self.records.active(service)
    }

    fn add_active(&self, _id: BackendId, _service: u16, _change: u64) {}

    fn set_response(&self, _id: BackendId, _response: Response) {}

    fn handshake(&self, _tag: u32) -> Handshake {
        Handshake::default()
    }

    fn note_handshake(&self, _tag: u32, _handshake: Handshake) {}

    fn count_handshake(&self, _id: BackendId, _event: handshake::Event) {}

    fn take_turn(&self, service: u16) -> u32 {
        self.records.turn(service) as u32
    }

    /// What chance would have it cannot be told: this is one of its answers.
    fn random(&self) -> u32 {
        0
    }

    fn micros(&self) -> u32 {
        0
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn flow_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        self.records.flow_entry(bucket, position)
    }

    fn replace_flow(&self, _bucket: u32, _old: flow::Found, new: flow::Entry) -> bool {
        self.recorded.set(Some(new));
        true
    }

    fn hand_over(&self, chosen: Chosen) {
        self.handed_over.set(chosen);
    }

    fn handed_over(&self) -> Chosen {
        self.handed_over.get()
    }

    fn fragment_backend(&self, place: Place, id: BackendId) -> BackendId {
        let found = fragments::answer(self, place, id);
        self.fragment.set(Some(found));
        found
    }

    fn fragment_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        self.records.fragment_entry(bucket, position)
    }

    fn replace_fragment(&self, _bucket: u32, _old: flow::Found, _new: flow::Entry) -> bool {
        true
    }

    fn note_choice(&self, choice: Choice) {
        if choice.how == How::FRAGMENT {
            self.service.set(Some((choice.service, self.records.service(choice.service))));
            self.followed.set(Some((choice.backend, self.records.backend(choice.backend))));
        }
    }

    fn pool_range(&self) -> Range {
        self.pool.range
    }

    fn pool_address(&self, number: u32) -> &Addr {
        &self.pool.addresses[number as usize % self.pool.addresses.len()]
    }

    fn session_tags(&self, line: u32) -> u64 {
        self.records.session_tags(line)
    }

    fn session_at(&self, index: u32) -> Option<Session> {
        self.records.session_at(index)
    }

    fn replace_session(&self, _index: u32, _seen: State, _new: Session, _tag: u8, _now: Tick) -> bool {
        true
    }

    fn offer(&self, line: u32, now: Tick) -> Offer {
        let state = |position| self.records.session_at(line * LINE + position).unwrap_or_default().state;
        session::offer(0, |position| State::from_raw(state(position)), now)
    }

    fn replace_session_state(&self, _index: u32, _seen: State, _new: State) -> bool {
        true
    }

    fn session(&self, question: sessions::Question) -> u32 {
        let known = sessions::known(self, question);
        let index = if known == session::NONE { sessions::answer(self, question) } else { known };
        if index != session::NONE {
            let (address, port) = (*self.pool_address(question.number), self.pool.range.port(question.number, index));
            self.session.set(Some(SessionSeen { address, port, is_new: known == session::NONE }));
        }
        index
    }

    fn note_elsewhere(&self, _slot_index: u32, _now: Tick) {}

    fn note_flow(&self, _id: BackendId, _now: Tick) {}

    fn count_flow(&self, _event: FlowEvent) {}

    fn count(&self, _verdict: Verdict) {}

    fn count_backend(&self, _id: BackendId, _bytes: u32, _is_new_connection: bool) {}

    fn count_service_drop(&self, _id: u16) {}

    fn count_refused(&self, scope: u16, rule: Rule, _source: &Suspect) {
        self.refused.set(Some((scope, rule)));
    }

    fn redirect(&self, _ifindex: u32) -> bool {
        true
    }

    /// The kernel is not asked: it would answer for the daemon's own packets, not for what comes in on an interface.
    fn route(&self, query: &RouteQuery) -> Route {
        if let (Some(backend), Some(service)) = (self.last_backend.get(), self.last_service.get()) {
            self.reply.set(Some(ReplySeen { backend, service, client: query.destination }));
        }
        Route::Host
    }
}

/// Records that stay where they are for as long as the witness lives.
struct Kept<T>(OnceCell<(T, Box<Kept<T>>)>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Self(OnceCell::new())
    }
}

impl<T> Kept<T> {
    fn keep(&self, record: T) -> &T {
        let mut place = self;
        while let Some((_, next)) = place.0.get() {
            place = next;
        }
        &place.0.get_or_init(|| (record, Box::default())).0
    }
}
