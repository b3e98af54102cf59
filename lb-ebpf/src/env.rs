//! What surrounds the packet path: tables, counters and the kernel's helpers.

use lb_common::admission::{Line, Rule, Rules, Suspect};
use lb_common::directory::Bucket;
use lb_common::flow::{self, Place, Tick};
use lb_common::handshake::{self, Handshake};
use lb_common::load::{Load, Response};
use lb_common::meter;
use lb_common::quic::ServerKey;
use lb_common::records::{Backend, Link, Service, Settings};
use lb_common::session::{Offer, Range, Session, State};
use lb_common::trace::{Choice, Rules as TraceRules, Scratch};
use lb_common::{Addr, BackendId, Be16, LinkAddresses, Slot, Verdict};

use crate::choose::NewFlow;
use crate::flow::{Answer, Question, Quoted, Recorded, Stepped};
use crate::{admit, choose, fragments, quic, session};

/// The tables that user space writes, the counters that it reads, and the helpers of the kernel.
///
/// A record that nobody wrote is all zeros. What has a body here is the packet path's own: a machine may take another way to it, as the
/// kernel does by global functions.
pub trait Env: Sized {
    /// Whether the program is to know of this, one of [`features`](lb_common::features). It is the same for all packets, and no service
    /// asks for what it does not know of.
    fn has(&self, _feature: u32) -> bool {
        true
    }

    fn settings(&self) -> &Settings;
    fn service_bucket(&self, index: u32) -> &Bucket;
    fn reply_bucket(&self, index: u32) -> &Bucket;
    fn service(&self, id: u16) -> &Service;
    /// `None` beyond the end of the table.
    fn slot(&self, index: u32) -> Option<Slot>;
    fn backend(&self, id: BackendId) -> &Backend;
    /// `None` beyond the end of the table.
    fn link(&self, ifindex: u32) -> Option<Link>;

    /// The rules of a service, or of all VIPs.
    fn admission(&self, scope: u16) -> &Rules;
    /// A line of the table of prefixes; `None` beyond its end.
    fn prefix_line(&self, index: u32) -> Option<&Line>;
    /// The verdict on what may not go to its service.
    fn refuse(&self, question: admit::Question) -> Option<Verdict> {
        admit::answer(self, question)
    }
    /// What a list says of an address.
    fn listed(&self, listing: admit::Listing) -> u8 {
        admit::listed(|index| self.prefix_line(index), listing)
    }
    /// The limit of a scope that a packet is beyond.
    fn exceeded(&self, excess: admit::Excess) -> Option<Rule> {
        admit::exceeded(self, excess)
    }
    /// Takes one out of a bucket.
    fn take(&self, charge: admit::Charge) -> Option<bool> {
        admit::take(self, charge)
    }
    /// Whether a UDP flow is known to have begun. One that is put on record is from then on.
    fn is_known(&self, place: meter::Place, idle: Tick, is_recorded: bool) -> bool {
        admit::is_known(self, place, idle, is_recorded)
    }
    /// The coarse time in units of [`meter`](lb_common::meter).
    fn meter_time(&self) -> u64;
    /// A bucket of the table of meters. Upper bits of either number do not count.
    fn meter(&self, line: u32, position: usize) -> meter::Entry;
    /// Replaces a bucket, unless somebody else did meanwhile.
    fn replace_meter(&self, line: u32, old: meter::Found, new: meter::Entry) -> bool;
    /// An entry of the table of known flows. Upper bits of either number do not count.
    fn known_flow(&self, line: u32, position: usize) -> meter::Entry;
    /// Replaces an entry of the table of known flows, unless somebody else did meanwhile.
    fn replace_known_flow(&self, line: u32, old: meter::Found, new: meter::Entry) -> bool;

    /// A backend's server ID, if it is [`NAMED`](lb_common::records::backend_flags::NAMED).
    fn server_id(&self, id: BackendId) -> u64;
    /// Who has a server ID, [`BackendId::NONE`] if nobody.
    fn server(&self, key: ServerKey) -> BackendId {
        quic::server(self, key)
    }

    /// Leaves to the next part of the packet path who was chosen for this packet.
    fn hand_over(&self, chosen: quic::Chosen);
    /// What the part before has left.
    fn handed_over(&self) -> quic::Chosen;

    /// The backend of a flow whose slot is not at rest.
    fn flow_backend(&self, question: Question) -> Answer {
        crate::flow::answer(self, question)
    }
    /// The same of a packet that is only told of.
    fn quoted_backend(&self, quoted: Quoted) -> Answer {
        crate::flow::answer_quoted(self, quoted)
    }
    /// The backend on record, or the slot's.
    fn record_flow(&self, question: Question) -> Recorded {
        crate::flow::record(self, question)
    }
    /// Counts a step of a handshake.
    fn count_step(&self, stepped: Stepped) {
        crate::flow::count_step(self, stepped);
    }
    /// The backend of a new flow.
    fn new_backend(&self, flow: NewFlow) -> BackendId {
        choose::answer(self, flow)
    }
    /// The coarse time.
    fn now(&self) -> Tick;
    /// The same for where all parts are, without a branch: the verifier would look at what follows for both of its ends.
    fn now_by_call(&self) -> Tick {
        self.now()
    }
    /// An entry of the flow table. Upper bits of either number do not count.
    fn flow_entry(&self, bucket: u32, position: usize) -> flow::Entry;
    /// Replaces an entry of the flow table, unless somebody else did meanwhile.
    fn replace_flow(&self, bucket: u32, old: flow::Found, new: flow::Entry) -> bool;
    /// What is on record of a packet's fragments.
    fn fragment_backend(&self, place: Place, id: BackendId) -> BackendId {
        fragments::answer(self, place, id)
    }
    /// The same of replies to the pool: a port instead of a backend.
    fn fragment_port(&self, place: Place, port: Be16) -> Be16 {
        Be16::from_raw(fragments::answer(self, place, BackendId(port.raw())).0)
    }
    /// An entry of the table of fragments. Upper bits of either number do not count.
    fn fragment_entry(&self, bucket: u32, position: usize) -> flow::Entry;
    /// Replaces an entry of the table of fragments, unless somebody else did meanwhile.
    fn replace_fragment(&self, bucket: u32, old: flow::Found, new: flow::Entry) -> bool;
    /// Notes that a flow of this slot went to another backend than the slot's current one.
    fn note_elsewhere(&self, slot_index: u32, now: Tick);
    /// Notes that a flow on record went to this backend.
    fn note_flow(&self, id: BackendId, now: Tick);
    /// Counts what became of a flow that was not on record.
    fn count_flow(&self, event: FlowEvent);

    /// How busy a backend is.
    fn load(&self, id: BackendId) -> Load;
    /// Active flows of a service, as [`Load`] counts those of a backend.
    fn active(&self, service: u16) -> u64;
    /// Changes the number of active flows of a backend and of its service by 1 or -1 (as wrapping numbers have it).
    fn add_active(&self, id: BackendId, service: u16, change: u64);
    fn set_response(&self, id: BackendId, response: Response);
    /// The SYN that was noted last where this tag leads.
    fn handshake(&self, tag: u32) -> Handshake;
    fn note_handshake(&self, tag: u32, handshake: Handshake);
    /// Counts what there is to see of a backend's handshakes.
    fn count_handshake(&self, id: BackendId, event: handshake::Event);
    /// The number of a service's next turn, which is taken by this.
    fn take_turn(&self, service: u16) -> u32;
    /// A random number.
    fn random(&self) -> u32;
    /// The precise time, in units of 1,024 ns.
    fn micros(&self) -> u32;

    /// Whether there can be sessions of full NAT at all.
    fn has_pool(&self) -> bool {
        true
    }
    /// What addresses and ports the pool of full NAT has.
    fn pool_range(&self) -> Range;
    /// An address of the pool by its number; beyond all numbers, any.
    fn pool_address(&self, number: u32) -> &Addr;
    /// The tags of a line of sessions; none beyond the end.
    fn session_tags(&self, line: u32) -> u64;
    /// A session; `None` beyond the end.
    fn session_at(&self, index: u32) -> Option<Session>;
    /// Replaces a session and its tag by another, unless its state is another by now. Meanwhile it is [in the
    /// making](State::in_the_making).
    fn replace_session(&self, index: u32, seen: State, new: Session, tag: u8, now: Tick) -> bool;
    /// What a line has for one who needs a port.
    fn offer(&self, line: u32, now: Tick) -> Offer;
    /// Replaces a session's state, unless somebody else did meanwhile.
    fn replace_session_state(&self, index: u32, seen: State, new: State) -> bool;
    /// The index of a flow's session, which it has then, if there is a port for it.
    fn session(&self, question: session::Question) -> u32 {
        session::answer(self, question)
    }
    /// The index of a flow's session in one line.
    fn find_session(&self, question: session::Question, line: u32) -> u32 {
        session::find(self, question, line)
    }
    /// A port for a flow that has none, by its index.
    fn take_session(&self, question: session::Question, index: u32) -> u32 {
        session::take(self, question, index)
    }
    /// Whether a packet to the pool is of the session that its port has.
    fn is_of_session(&self, reply: session::Reply) -> bool {
        session::is_of(self, reply)
    }

    /// Counts a packet's verdict. Once a packet.
    fn count(&self, verdict: Verdict);
    /// Counts a packet towards a backend. `bytes` is the frame's length without padding.
    fn count_backend(&self, id: BackendId, bytes: u32, is_new_connection: bool);
    /// Counts a packet to a service that reached no backend.
    fn count_service_drop(&self, id: u16);
    /// Counts a packet that a rule of a scope refused, and notes its source.
    fn count_refused(&self, scope: u16, rule: Rule, source: &Suspect);

    /// Remembers where [`Verdict::Redirect`] and [`Verdict::Reply`] send the frame. False if the kernel refuses.
    fn redirect(&self, ifindex: u32) -> bool;
    /// Asks the kernel's routing table.
    fn route(&self, query: &RouteQuery) -> Route;

    /// Which packets are traced. Like all that follows, it is asked only while some are: a machine that traces none has no more to say.
    fn trace_rules(&self) -> &TraceRules {
        &TraceRules::NONE
    }
    /// Notes what was chosen for the packet.
    fn note_choice(&self, _choice: Choice) {}
    /// Has something done to the record of the packet.
    fn with_trace(&self, _change: impl FnOnce(&mut Scratch)) {}
    /// Hands the record over. False if there is no room for it.
    fn write_trace(&self) -> bool {
        false
    }
    /// Records in this window so far.
    fn n_traced(&self, _window: u32) -> u32 {
        0
    }
    fn count_traced(&self, _window: u32) {}
    /// The precise time.
    fn time_ns(&self) -> u64 {
        0
    }
}

/// What a flow that was not on record displaced in the flow table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowEvent {
    /// Nothing, or a flow that was over.
    Recorded,
    /// A flow that never was confirmed.
    EvictedUnconfirmed,
    /// A flow that may be alive: the table is too small.
    Evicted,
}

/// A question to the kernel's routing table, as if the packet had come in on `ingress`.
#[derive(Clone, Copy, Debug)]
pub struct RouteQuery {
    pub source: Addr,
    pub destination: Addr,
    pub ingress: u32,
    /// IANA protocol number.
    pub protocol: u8,
    /// Length of the IP packet in bytes, for the route's MTU.
    pub ip_len: u16,
}

/// The routing table's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Route {
    /// Out of this interface, with these link-layer addresses.
    Forward { ifindex: u32, link: LinkAddresses },
    /// To this host itself, or nowhere: there is no route, or the host forwards nothing.
    Local,
    /// The host's stack must look after it: no neighbour yet, a tunnel, too big, or a route that refuses.
    Host,
}
