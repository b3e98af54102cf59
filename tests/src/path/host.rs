//! The packet path on the host: tables in memory, a frame in a buffer.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use lb_common::admission::{Line, Rule, Rules, Suspect};
use lb_common::counters::{BackendCounters, FlowEvents, Totals};
use lb_common::directory::{Bucket, Directory};
use lb_common::flow::{self, Tick};
use lb_common::handshake::{Event, Handshake};
use lb_common::hash::{HashKeys, avalanche};
use lb_common::limits;
use lb_common::load::{Load, Response};
use lb_common::meter;
use lb_common::records::{Backend, Link, Service, Settings, forward, link_flags, settings_flags};
use lb_common::session::{self, LINE, Offer, Pool, Range, Session, State};
use lb_common::trace::{self, Choice, Scratch};
use lb_common::{Addr, BackendId, Slot, Verdict};
use lb_ebpf::quic::Chosen;
use lb_ebpf::{Env, FlowEvent, Route, RouteQuery};
use lb_user::compile::Sightings;
use lb_user::explain::Frame;
use lb_user::tables::{FilledDirectory, Plan, Write};

use super::Outcome;
use super::fixture::{self, Interfaces};
use super::traces::Traced;

/// The kernel's routing table, as a test wants it.
pub type Routes = Box<dyn Fn(&RouteQuery) -> Route>;

/// Tables, counters and helpers in memory.
pub struct Host {
    pub settings: Settings,
    service_buckets: Vec<Bucket>,
    reply_buckets: Vec<Bucket>,
    services: BTreeMap<u16, Service>,
    no_service: Service,
    backends: BTreeMap<BackendId, Backend>,
    no_backend: Backend,
    server_ids: BTreeMap<BackendId, u64>,
    slots: Vec<Slot>,
    links: BTreeMap<u32, bool>,
    routes: Routes,
    flows: Vec<Cell<flow::Entry>>,
    fragments: Vec<Cell<flow::Entry>>,
    /// What the clock shows.
    pub now: Cell<Tick>,
    /// What the precise clock shows, in units of 1,024 ns.
    pub micros: Cell<u32>,
    loads: RefCell<BTreeMap<BackendId, Load>>,
    service_loads: RefCell<BTreeMap<u16, u64>>,
    turns: RefCell<BTreeMap<u16, u32>>,
    handshakes: RefCell<BTreeMap<u32, Handshake>>,
    random: Cell<u64>,
    elsewhere: RefCell<BTreeMap<u32, Tick>>,
    seen: RefCell<BTreeMap<BackendId, Tick>>,
    pub flow_events: Cell<FlowEvents>,
    pub totals: RefCell<Totals>,
    backend_counters: RefCell<BTreeMap<BackendId, BackendCounters>>,
    service_drops: RefCell<BTreeMap<u16, u64>>,
    rules: BTreeMap<u16, Rules>,
    no_rules: Rules,
    prefixes: Vec<Line>,
    meters: Vec<Cell<meter::Entry>>,
    known_flows: Vec<Cell<meter::Entry>>,
    pub pool: Pool,
    sessions: Vec<Cell<Session>>,
    session_tags: Vec<Cell<u64>>,
    /// What the clock of meters shows.
    pub meter_time: Cell<u64>,
    refused: RefCell<BTreeMap<(u16, Rule), u64>>,
    /// Who was refused, by place.
    pub suspects: RefCell<BTreeMap<usize, Suspect>>,
    redirected_to: Cell<Option<u32>>,
    handed_over: Cell<Chosen>,
    pub trace_rules: trace::Rules,
    scratch: RefCell<trace::Scratch>,
    /// Window and records in it.
    traced: Cell<(u32, u32)>,
    /// Of packets that were traced.
    pub records: RefCell<Vec<trace::Record>>,
}

impl Host {
    pub fn new(keys: HashKeys, n_slots: u32, routes: Routes) -> Self {
        Self {
            settings: Settings { hash_keys: keys, ..Default::default() },
            service_buckets: vec![Bucket::default(); 2 * limits::SERVICE_BUCKETS as usize],
            reply_buckets: vec![Bucket::default(); 2 * limits::REPLY_BUCKETS as usize],
            services: BTreeMap::new(),
            no_service: Service::default(),
            backends: BTreeMap::new(),
            no_backend: Backend::default(),
            server_ids: BTreeMap::new(),
            slots: vec![Slot::default(); n_slots as usize],
            links: BTreeMap::new(),
            routes,
            flows: vec![Cell::default(); fixture::N_FLOWS as usize],
            fragments: vec![Cell::default(); limits::FRAGMENTS as usize],
            now: Cell::default(),
            micros: Cell::default(),
            loads: RefCell::default(),
            service_loads: RefCell::default(),
            turns: RefCell::default(),
            handshakes: RefCell::default(),
            random: Cell::default(),
            elsewhere: RefCell::default(),
            seen: RefCell::default(),
            flow_events: Cell::default(),
            totals: RefCell::default(),
            backend_counters: RefCell::default(),
            service_drops: RefCell::default(),
            rules: BTreeMap::new(),
            no_rules: Rules::default(),
            prefixes: vec![Line::default(); 2 * limits::prefix_lines(limits::PREFIXES_DEFAULT) as usize],
            meters: vec![Cell::default(); limits::SOURCES_MIN as usize],
            known_flows: vec![Cell::default(); limits::KNOWN_FLOWS as usize],
            pool: Pool::EMPTY,
            sessions: Vec::new(),
            session_tags: Vec::new(),
            meter_time: Cell::new(1 << 30),
            refused: RefCell::default(),
            suspects: RefCell::default(),
            redirected_to: Cell::default(),
            handed_over: Cell::default(),
            trace_rules: trace::Rules::NONE,
            scratch: RefCell::default(),
            traced: Cell::default(),
            records: RefCell::default(),
        }
    }

    /// With the fixture's tables.
    pub fn with_fixture(interfaces: Interfaces) -> Self {
        let mut host = Self::new(fixture::keys(), fixture::N_SLOTS, Box::new(move |query| fixture::route(interfaces, query)));
        let (_, _, plan) = fixture::plan(interfaces);
        host.carry_out(&plan);
        host.set_links(fixture::links(interfaces));
        host.set_pool(super::fullnat::pool().record());
        host
    }

    /// Carries out a plan, to its end.
    pub fn carry_out(&mut self, plan: &Plan) {
        plan.writes.iter().chain(&plan.retire).for_each(|write| self.write(write));
    }

    pub fn write(&mut self, write: &Write) {
        match write {
            Write::Backend(id, record) => drop(self.backends.insert(*id, *record)),
            Write::Service(id, record) => drop(self.services.insert(*id, *record)),
            Write::Slots(slots) => slots.iter().for_each(|&(number, slot)| self.slots[number as usize] = slot),
            Write::ServiceDirectory(directory) => {
                self.settings.services = fill_half(&mut self.service_buckets, 1 - self.settings.services.half(), directory);
            }
            Write::ReplyDirectory(directory) => {
                self.settings.replies = fill_half(&mut self.reply_buckets, 1 - self.settings.replies.half(), directory);
            }
            Write::Flags(flags) => self.settings.flags = *flags | self.settings.flags & settings_flags::TRACE,
            Write::Prefixes(image) => {
                let first = image.half as usize * self.prefixes.len() / 2;
                self.prefixes[first..][..image.lines.len()].copy_from_slice(&image.lines);
            }
            Write::Admission(scope, rules) => drop(self.rules.insert(*scope, *rules)),
            Write::ServerId(id, server_id) => drop(self.server_ids.insert(*id, *server_id)),
        }
    }

    pub fn set_links(&mut self, links: BTreeMap<u32, bool>) {
        self.links = links;
    }

    /// With this pool, none of whose ports is taken.
    pub fn set_pool(&mut self, pool: Pool) {
        let n_sessions = pool.range.n_sessions() as usize;
        self.pool = pool;
        self.sessions = vec![Cell::default(); n_sessions];
        self.session_tags = vec![Cell::default(); n_sessions / LINE as usize];
    }

    /// What the daemon does when it has cleared records of backends.
    pub fn forget_sessions_of_nobody(&self) {
        for session in &self.sessions {
            let id = session::Key::from_raw(session.get().key).backend();
            if !id.is_none() && self.backend(id).forward == forward::FREE {
                session.set(Session { key: 0, ..session.get() });
            }
        }
    }

    /// What each port of the pool is taken for that is taken, by its index.
    pub fn live_sessions(&self) -> BTreeMap<u32, session::Key> {
        let live = (0..).zip(&self.sessions).map(|(index, session)| (index, session.get()));
        let live = live.filter(|(_, session)| State::from_raw(session.state).is_live(self.now.get()));
        live.map(|(index, session)| (index, session::Key::from_raw(session.key))).collect()
    }

    /// Runs a packet through the path.
    pub fn run(&self, bytes: &[u8], ingress: u32) -> Outcome {
        self.redirected_to.set(None);
        let mut frame = Frame::new(bytes, ingress);
        let verdict = lb_ebpf::process(&mut frame, self);
        Outcome { verdict, frame: frame.bytes().to_vec() }
    }

    /// With a watchdog, somebody is taken to be there until then.
    pub fn attend_until(&mut self, tick: Tick) {
        self.settings.attended_until = tick;
    }

    /// Packets that were not looked at, for the window had its records.
    pub fn n_limited(&self) -> u64 {
        self.scratch.borrow().n_limited
    }

    /// Loses all flows on record.
    pub fn forget_flows(&mut self) {
        self.flows.iter().for_each(|entry| entry.set(flow::Entry::default()));
        self.loads.borrow_mut().values_mut().for_each(|load| load.active = 0);
        self.service_loads.borrow_mut().clear();
    }

    /// The number of a service's next turn, which stays the next.
    pub fn next_turn(&self, service: u16) -> u32 {
        self.turns.borrow().get(&service).copied().unwrap_or_default()
    }

    /// Whether each backend counts for as many active flows as it has on record.
    pub fn are_loads_right(&self) -> bool {
        let mut active = BTreeMap::<BackendId, u64>::new();
        let entries = self.flows.iter().map(Cell::get).filter(|entry| !entry.active().is_none());
        entries.for_each(|entry| *active.entry(entry.backend()).or_default() += 1);
        let loads = self.loads.borrow();
        let is_right = |(id, load): (&BackendId, &Load)| load.active == active.get(id).copied().unwrap_or_default();
        loads.iter().all(is_right) && active.keys().all(|id| loads.contains_key(id))
    }

    /// Where the last packet was redirected to, if it was.
    pub fn redirected_to(&self) -> Option<u32> {
        self.redirected_to.get()
    }

    pub fn backend_counters(&self, id: BackendId) -> BackendCounters {
        self.backend_counters.borrow().get(&id).copied().unwrap_or_default()
    }

    /// Packets that a rule of a scope refused.
    pub fn refused(&self, scope: u16, rule: Rule) -> u64 {
        self.refused.borrow().get(&(scope, rule)).copied().unwrap_or_default()
    }

    pub fn service_drops(&self, id: u16) -> u64 {
        self.service_drops.borrow().get(&id).copied().unwrap_or_default()
    }
}

/// What this packet path has seen is what the tables are compiled by.
impl Sightings for Host {
    fn now(&self) -> Tick {
        self.now.get()
    }

    fn elsewhere(&self, line: u32) -> Tick {
        self.elsewhere.borrow().get(&line).copied().unwrap_or_default()
    }

    fn flow(&self, backend: BackendId) -> Tick {
        self.seen.borrow().get(&backend).copied().unwrap_or_default()
    }

    fn is_used(&self, backend: BackendId) -> bool {
        self.backend_counters(backend).packets > 0
    }
}

/// An entry of a table whose lines have eight.
fn at<E>(table: &[E], line: u32, position: usize) -> &E {
    let n_lines = table.len() / flow::ENTRIES;
    &table[line as usize % n_lines * flow::ENTRIES + position]
}

fn replace<E: Copy + PartialEq>(place: &Cell<E>, seen: E, new: E) -> bool {
    let is_same = place.get() == seen;
    if is_same {
        place.set(new);
    }
    is_same
}

fn fill_half(buckets: &mut [Bucket], half: u32, directory: &FilledDirectory) -> Directory {
    let base = half * (buckets.len() as u32 / 2);
    let filled = &directory.filled;
    buckets[base as usize..][..filled.buckets.len()].copy_from_slice(&filled.buckets);
    filled.in_half(half)
}

impl Env for Host {
    fn settings(&self) -> &Settings {
        &self.settings
    }

    fn service_bucket(&self, index: u32) -> &Bucket {
        &self.service_buckets[index as usize]
    }

    fn reply_bucket(&self, index: u32) -> &Bucket {
        &self.reply_buckets[index as usize]
    }

    fn service(&self, id: u16) -> &Service {
        self.services.get(&id).unwrap_or(&self.no_service)
    }

    fn slot(&self, index: u32) -> Option<Slot> {
        self.slots.get(index as usize).copied()
    }

    fn backend(&self, id: BackendId) -> &Backend {
        self.backends.get(&id).unwrap_or(&self.no_backend)
    }

    fn server_id(&self, id: BackendId) -> u64 {
        self.server_ids.get(&id).copied().unwrap_or_default()
    }

    fn link(&self, ifindex: u32) -> Option<Link> {
        let takes_redirects = self.links.get(&ifindex).copied().unwrap_or_default();
        Some(Link { flags: if takes_redirects { link_flags::REDIRECT } else { 0 }, pad: 0 })
    }

    fn admission(&self, scope: u16) -> &Rules {
        self.rules.get(&scope).unwrap_or(&self.no_rules)
    }

    fn prefix_line(&self, index: u32) -> Option<&Line> {
        self.prefixes.get(index as usize)
    }

    fn meter_time(&self) -> u64 {
        self.meter_time.get()
    }

    fn meter(&self, line: u32, position: usize) -> meter::Entry {
        at(&self.meters, line, position).get()
    }

    fn replace_meter(&self, line: u32, old: meter::Found, new: meter::Entry) -> bool {
        replace(at(&self.meters, line, old.position), old.entry, new)
    }

    fn known_flow(&self, line: u32, position: usize) -> meter::Entry {
        at(&self.known_flows, line, position).get()
    }

    fn replace_known_flow(&self, line: u32, old: meter::Found, new: meter::Entry) -> bool {
        replace(at(&self.known_flows, line, old.position), old.entry, new)
    }

    fn load(&self, id: BackendId) -> Load {
        self.loads.borrow().get(&id).copied().unwrap_or_default()
    }

    fn active(&self, service: u16) -> u64 {
        self.service_loads.borrow().get(&service).copied().unwrap_or_default()
    }

    fn add_active(&self, id: BackendId, service: u16, change: u64) {
        let mut loads = self.loads.borrow_mut();
        let active = &mut loads.entry(id).or_default().active;
        *active = active.wrapping_add(change);
        let mut services = self.service_loads.borrow_mut();
        let active = services.entry(service).or_default();
        *active = active.wrapping_add(change);
    }

    fn set_response(&self, id: BackendId, response: Response) {
        self.loads.borrow_mut().entry(id).or_default().response = response;
    }

    fn handshake(&self, tag: u32) -> Handshake {
        self.handshakes.borrow().get(&(tag % limits::HANDSHAKES)).copied().unwrap_or_default()
    }

    fn note_handshake(&self, tag: u32, handshake: Handshake) {
        self.handshakes.borrow_mut().insert(tag % limits::HANDSHAKES, handshake);
    }

    fn count_handshake(&self, id: BackendId, event: Event) {
        self.backend_counters.borrow_mut().entry(id).or_default().handshakes.count(event);
    }

    fn take_turn(&self, service: u16) -> u32 {
        let mut turns = self.turns.borrow_mut();
        let next = turns.entry(service).or_default();
        *next += 1;
        *next - 1
    }

    /// The same numbers in every run.
    fn random(&self) -> u32 {
        self.random.set(self.random.get() + 1);
        avalanche(self.random.get()) as u32
    }

    fn micros(&self) -> u32 {
        self.micros.get()
    }

    fn now(&self) -> Tick {
        self.now.get()
    }

    fn flow_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        at(&self.flows, bucket, position).get()
    }

    fn replace_flow(&self, bucket: u32, old: flow::Found, new: flow::Entry) -> bool {
        replace(at(&self.flows, bucket, old.position), old.entry, new)
    }

    fn fragment_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        at(&self.fragments, bucket, position).get()
    }

    fn replace_fragment(&self, bucket: u32, old: flow::Found, new: flow::Entry) -> bool {
        replace(at(&self.fragments, bucket, old.position), old.entry, new)
    }

    fn note_elsewhere(&self, slot_index: u32, now: Tick) {
        self.elsewhere.borrow_mut().insert(slot_index / limits::SLOTS_PER_LINE, now);
    }

    fn note_flow(&self, id: BackendId, now: Tick) {
        self.seen.borrow_mut().insert(id, now);
    }

    fn count_flow(&self, event: FlowEvent) {
        let mut events = self.flow_events.get();
        events.recorded += 1;
        events.evicted_unconfirmed += u64::from(event == FlowEvent::EvictedUnconfirmed);
        events.evicted += u64::from(event == FlowEvent::Evicted);
        self.flow_events.set(events);
    }

    fn pool_range(&self) -> Range {
        self.pool.range
    }

    fn pool_address(&self, number: u32) -> &Addr {
        &self.pool.addresses[number as usize % self.pool.addresses.len()]
    }

    fn session_tags(&self, line: u32) -> u64 {
        self.session_tags.get(line as usize).map_or(0, Cell::get)
    }

    fn session_at(&self, index: u32) -> Option<Session> {
        self.sessions.get(index as usize).map(Cell::get)
    }

    fn replace_session(&self, index: u32, seen: State, new: Session, tag: u8, _now: Tick) -> bool {
        let is_same = self.sessions[index as usize].get().state == seen.raw();
        if is_same {
            self.sessions[index as usize].set(new);
            let tags = &self.session_tags[(index / LINE) as usize];
            let mut bytes = tags.get().to_le_bytes();
            bytes[(index % LINE) as usize] = tag;
            tags.set(u64::from_le_bytes(bytes));
        }
        is_same
    }

    fn offer(&self, line: u32, now: Tick) -> Offer {
        let state = |position| self.session_at(line * LINE + position).unwrap_or_default().state;
        session::offer(0, |position| State::from_raw(state(position)), now)
    }

    fn replace_session_state(&self, index: u32, seen: State, new: State) -> bool {
        let session = &self.sessions[index as usize];
        let is_same = session.get().state == seen.raw();
        if is_same {
            session.set(Session { state: new.raw(), ..session.get() });
        }
        is_same
    }

    fn count(&self, verdict: Verdict) {
        let mut totals = self.totals.borrow_mut();
        totals.received += 1;
        totals.verdicts[verdict as usize] += 1;
    }

    fn count_backend(&self, id: BackendId, bytes: u32, is_new_connection: bool) {
        let mut counters = self.backend_counters.borrow_mut();
        let counters = counters.entry(id).or_default();
        counters.packets += 1;
        counters.bytes += u64::from(bytes);
        counters.connections += u64::from(is_new_connection);
    }

    fn count_service_drop(&self, id: u16) {
        *self.service_drops.borrow_mut().entry(id).or_default() += 1;
    }

    fn count_refused(&self, scope: u16, rule: Rule, source: &Suspect) {
        let place = source.place(&self.settings.hash_keys) as usize % limits::SUSPECTS as usize;
        self.suspects.borrow_mut().entry(place).or_default().hear(source);
        *self.refused.borrow_mut().entry((scope, rule)).or_default() += 1;
        let record = &mut self.scratch.borrow_mut().record;
        (record.scope, record.rule) = (scope, rule as u8);
    }

    fn hand_over(&self, chosen: Chosen) {
        self.handed_over.set(chosen);
    }

    fn handed_over(&self) -> Chosen {
        self.handed_over.get()
    }

    fn redirect(&self, ifindex: u32) -> bool {
        self.redirected_to.set(Some(ifindex));
        true
    }

    fn route(&self, query: &RouteQuery) -> Route {
        (self.routes)(query)
    }

    fn trace_rules(&self) -> &trace::Rules {
        &self.trace_rules
    }

    fn note_choice(&self, choice: Choice) {
        lb_ebpf::trace::note(&mut self.scratch.borrow_mut(), choice);
    }

    fn with_trace(&self, change: impl FnOnce(&mut Scratch)) {
        change(&mut self.scratch.borrow_mut());
    }

    fn write_trace(&self) -> bool {
        self.records.borrow_mut().push(self.scratch.borrow().record);
        true
    }

    fn n_traced(&self, window: u32) -> u32 {
        let (last, n) = self.traced.get();
        if last == window { n } else { 0 }
    }

    fn count_traced(&self, window: u32) {
        self.traced.set((window, self.n_traced(window) + 1));
    }

    fn time_ns(&self) -> u64 {
        self.meter_time.get() << meter::TIME_SHIFT
    }
}

/// A host whose packets come in on an interface.
pub struct TracedHost(pub Host, pub u32);

impl Traced for TracedHost {
    fn set(&mut self, rules: trace::Rules) {
        self.0.settings.flags |= settings_flags::TRACE;
        self.0.trace_rules = rules;
    }

    fn ingress(&self) -> u32 {
        self.1
    }

    fn run(&mut self, packet: &[u8]) -> (Outcome, Vec<trace::Record>) {
        // Each in a window of its own, unless these are bounded.
        if self.0.trace_rules.n_max == trace::RECORDS_MAX {
            self.0.traced.set((0, 0));
        }
        (self.0.run(packet, self.1), self.0.records.take())
    }
}
