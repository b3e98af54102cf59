//! The session of a flow that is forwarded by full NAT: found by the flow on the way to its backend, and by the port on the way back.
//!
//! Each step is a question of words, for in the kernel each is a function that the verifier looks at by itself.

use lb_common::flow::{Place, Tick};
use lb_common::records::Settings;
use lb_common::session::{self, Key, LINE, LINES, NONE, State, word};
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
    /// It is only told of, by an ICMP error: nothing is noted, and nothing taken.
    pub is_quoted: bool,
}

impl Question {
    #[inline(always)]
    pub fn new<F: Family>(
        env: &impl Env,
        settings: &Settings,
        service: u16,
        backend: BackendId,
        parsed: &Parsed<F>,
        is_quoted: bool,
    ) -> Self {
        let (keys, flow) = (&settings.hash_keys, &parsed.flow);
        Self {
            client: F::to_addr(flow.client).longs(),
            key: Key::new(flow.ports, backend, flow.protocol()),
            place: Place::new(F::flow_hash(keys, flow), service, keys),
            number: env.pool_range().number(F::IS_V6, F::client_hash(keys, flow.client).0),
            tcp_flags: parsed.tcp_flags,
            is_quoted,
        }
    }
}

/// The index of a flow's session, which is taken if it has none; [`NONE`] if there is no port for it.
#[inline(always)]
pub fn answer(env: &impl Env, question: Question) -> u32 {
    let index = found(env, question);
    if question.is_quoted {
        return index;
    }
    if index == NONE {
        return env.take_session(question);
    }
    let (now, id) = (env.now(), question.key.backend());
    let state = State::from_raw(env.session_word(index, word::STATE));
    note(env, index, state, state.after_client(question.tcp_flags, now, idle(env, id)), id, now);
    index
}

/// The index of a flow's session, or [`NONE`].
#[inline(always)]
fn found(env: &impl Env, question: Question) -> u32 {
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

/// The index of a flow's session in this line, or [`NONE`].
#[inline(always)]
pub fn find(env: &impl Env, Question { client, key, place, .. }: Question, line: u32) -> u32 {
    let mut left = session::matches(env.session_tags(line), session::tag(place));
    for _ in 0..LINE {
        if left == 0 {
            return NONE;
        }
        let index = line * LINE + session::position(left);
        let word = |number| env.session_word(index, number);
        let differs = (word(word::KEY) ^ key.raw()) | (word(word::CLIENT_HIGH) ^ client[0]) | (word(word::CLIENT_LOW) ^ client[1]);
        if differs == 0 && State::from_raw(word(word::STATE)).is_whole() {
            return index;
        }
        left &= left - 1;
    }
    NONE
}

/// Takes a port for a flow: the index of its session, or [`NONE`].
#[inline(always)]
pub fn take(env: &impl Env, question: Question) -> u32 {
    // If another CPU was faster, there is most likely another port.
    let index = try_to_take(env, question);
    if index == NONE { try_to_take(env, question) } else { index }
}

#[inline(always)]
fn try_to_take(env: &impl Env, Question { client, key, place, number, tcp_flags, .. }: Question) -> u32 {
    let now = env.now();
    let mut best = session::Offer { n: 0, position: 0 };
    let mut line = 0;
    let mut which = 0;
    while which < LINES {
        let candidate = env.pool_range().line(number, place, which);
        let offer = session::offer(|position| State::from_raw(env.session_word(candidate * LINE + position, word::STATE)), now);
        if offer.n > best.n {
            (best, line) = (offer, candidate);
        }
        which += 1;
    }
    let index = line * LINE + best.position;
    let seen = State::from_raw(env.session_word(index, word::STATE));
    // Whoever is not known to be dead keeps his port.
    if best.n == 0 || seen.is_live(now) || !env.replace_session_state(index, seen, State::in_the_making(now)) {
        return NONE;
    }
    env.set_session_word(index, word::CLIENT_HIGH, client[0]);
    env.set_session_word(index, word::CLIENT_LOW, client[1]);
    env.set_session_word(index, word::KEY, key.raw());
    env.set_session_tag(index, session::tag(place));
    let state = State::default().after_client(tcp_flags, now, idle(env, key.backend()));
    env.set_session_word(index, word::STATE, state.raw());
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
    let key = Key::from_raw(env.session_word(index, word::KEY));
    let state = State::from_raw(env.session_word(index, word::STATE));
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

/// The client's end of a session, as its packets have it, and the VIP's port.
pub struct Client {
    pub address: [u64; 2],
    pub key: Key,
}

#[inline(always)]
pub fn client(env: &impl Env, index: u32) -> Client {
    let word = |number| env.session_word(index, number);
    Client { address: [word(word::CLIENT_HIGH), word(word::CLIENT_LOW)], key: Key::from_raw(word(word::KEY)) }
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
