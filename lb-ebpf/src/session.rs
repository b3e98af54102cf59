//! The session of a flow that is forwarded by full NAT: found by the flow on the way to its backend, and by the port on the way back.
//!
//! Each step is a question of words, for in the kernel each is a function that the verifier looks at by itself.

use lb_common::flow::{Place, Tick};
use lb_common::records::Settings;
use lb_common::session::{self, Key, LINE, LINES, NONE, Session, State};
use lb_common::{BackendId, Be16};

use crate::env::Env;
use crate::family::Family;
use crate::parse::{Flow, Parsed};

/// A flow to a backend. Words only: a BPF function takes five.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    pub client: [u64; 2],
    pub key: Key,
    pub place: Place,
    /// Of the pool's address that stands for the client.
    pub number: u32,
    /// 0 for UDP.
    pub tcp_flags: u8,
}

impl Question {
    #[inline(always)]
    pub fn new<F: Family>(env: &impl Env, settings: &Settings, service: u16, backend: BackendId, parsed: &Parsed<F>) -> Self {
        let (keys, flow) = (&settings.hash_keys, &parsed.flow);
        Self {
            client: F::to_addr(flow.client).longs(),
            key: Key::new(flow.ports, backend, flow.protocol()),
            place: Place::new(F::flow_hash(keys, flow), service, keys),
            number: number_for::<F>(env, settings, flow.client),
            tcp_flags: parsed.tcp_flags,
        }
    }
}

/// The number of the pool's address that stands for a client.
#[inline(always)]
pub fn number_for<F: Family>(env: &impl Env, settings: &Settings, client: F::Address) -> u32 {
    env.pool_range().number(F::IS_V6, F::client_hash(&settings.hash_keys, client).0)
}

/// The index of a flow's session, which is taken if it has none; [`NONE`] if there is no port for it.
#[inline(always)]
pub fn answer(env: &impl Env, question: Question) -> u32 {
    let index = known(env, question);
    if index == NONE {
        // If another CPU was faster, there is most likely another port.
        let index = take_best(env, question);
        return if index == NONE { take_best(env, question) } else { index };
    }
    let (now, id) = (env.now(), question.key.backend());
    let Some(session) = env.session_at(index) else { return NONE };
    let state = State::from_raw(session.state);
    note(env, index, state, state.after_client(question.tcp_flags, now, idle(env, id)), id, now);
    index
}

/// The index of a flow's session, or [`NONE`]. Nothing is noted.
#[inline(always)]
pub fn known(env: &impl Env, question: Question) -> u32 {
    let line = |which| env.pool_range().line(question.number, question.place, which);
    let index = env.find_session(question, line(0));
    if index != NONE {
        return index;
    }
    let index = env.find_session(question, line(1));
    if index != NONE {
        return index;
    }
    env.find_session(question, line(2))
}

/// Takes the best of all ports that a flow may have: the index of its session, or [`NONE`].
#[inline(always)]
fn take_best(env: &impl Env, question: Question) -> u32 {
    let line = |which| env.pool_range().line(question.number, question.place, which);
    let now = env.now();
    let mut best = env.offer(line(0), now);
    let mut index = line(0) * LINE + best.position;
    let mut which = 1;
    while which < LINES {
        let offer = env.offer(line(which), now);
        if offer.n > best.n {
            best = offer;
            index = line(which) * LINE + offer.position;
        }
        which += 1;
    }
    if best.n == 0 { NONE } else { env.take_session(question, index) }
}

/// The index of a flow's session in this line, or [`NONE`].
#[inline(always)]
pub fn find(env: &impl Env, Question { client, key, place, .. }: Question, line: u32) -> u32 {
    let mut left = session::matches(env.session_tags(line), session::tag(place));
    for _ in 0..LINE {
        if left == 0 {
            return NONE;
        }
        let index = line * LINE + session::position(left);
        let Some(session) = env.session_at(index) else { return NONE };
        let differs = (session.key ^ key.raw()) | (session.client[0] ^ client[0]) | (session.client[1] ^ client[1]);
        if differs == 0 && State::from_raw(session.state).is_whole() {
            return index;
        }
        left &= left - 1;
    }
    NONE
}

/// Takes a port for a flow: its index, or [`NONE`] if somebody else has it.
#[inline(always)]
pub fn take(env: &impl Env, Question { client, key, place, tcp_flags, .. }: Question, index: u32) -> u32 {
    let now = env.now();
    let Some(seen) = env.session_at(index) else { return NONE };
    let seen = State::from_raw(seen.state);
    let state = State::default().after_client(tcp_flags, now, idle(env, key.backend()));
    let session = Session { client, key: key.raw(), state: state.raw() };
    if seen.is_live(now) || !env.replace_session(index, seen, session, session::tag(place), now) {
        return NONE;
    }
    env.note_flow(key.backend(), now);
    index
}

/// A packet to a port of the pool, by who sent it.
#[derive(Clone, Copy, Debug)]
pub struct Reply {
    pub backend: [u64; 2],
    pub backend_port: Be16,
    pub protocol: u8,
    /// 0 for UDP.
    pub tcp_flags: u8,
    /// It is only told of, by an ICMP error: nothing is noted.
    pub is_quoted: bool,
    /// The index of the port's session.
    pub index: u32,
}

/// Whether it is one of the session's, and of the backend's that the session is with.
#[inline(always)]
pub fn is_of(env: &impl Env, reply: Reply) -> bool {
    let index = reply.index;
    let Some(session) = env.session_at(index) else { return false };
    let (key, state) = (Key::from_raw(session.key), State::from_raw(session.state));
    let id = key.backend();
    let backend = env.backend(id);
    let port = if backend.port.raw() == 0 { key.vip_port() } else { backend.port };
    let address = backend.address.longs();
    let differs = (address[0] ^ reply.backend[0])
        | (address[1] ^ reply.backend[1])
        | u64::from(port.raw() ^ reply.backend_port.raw())
        | u64::from(key.protocol() ^ reply.protocol);
    if differs != 0 || id.is_none() || !state.is_whole() {
        return false;
    }
    if !reply.is_quoted {
        let now = env.now();
        note(env, index, state, state.after_backend(reply.tcp_flags, now, idle(env, id)), id, now);
    }
    true
}

/// How long a backend's silent flows are taken for alive.
#[inline(always)]
fn idle(env: &impl Env, id: BackendId) -> Tick {
    env.service(env.backend(id).service).idle
}

/// Changes a session once a tick, and when it begins or ends; not with every packet. The backend's record is kept for as long.
#[inline(always)]
fn note(env: &impl Env, index: u32, before: State, after: State, id: BackendId, now: Tick) {
    if before != after {
        env.replace_session_state(index, before, after);
        env.note_flow(id, now);
    }
}

/// The number of the pool's address that this is, if it is one.
#[inline(always)]
pub fn number<F: Family>(env: &impl Env, settings: &Settings, address: F::Address) -> Option<u32> {
    let directory = settings.replies;
    let hash = F::endpoint_hash(directory.multiplier(), address, lb_common::PortProtocol::new(Be16::new(0), session::POOL));
    let bucket = env.reply_bucket(directory.bucket(hash, lb_common::limits::REPLY_BUCKETS));
    let number = u32::from(crate::service::look_up(bucket, hash)?).wrapping_sub(1);
    F::is(env.pool_address(number), address).then_some(number)
}

/// What [`is_of`] needs of a flow whose `vip` is an address of the pool.
#[inline(always)]
pub fn reply_of<F: Family>(flow: &Flow<F>, tcp_flags: u8, index: u32, is_quoted: bool) -> Reply {
    Reply {
        backend: F::to_addr(flow.client).longs(),
        backend_port: flow.client_port(),
        protocol: flow.protocol(),
        tcp_flags,
        is_quoted,
        index,
    }
}
