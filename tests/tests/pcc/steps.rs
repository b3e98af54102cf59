//! What can happen, at random.

use lb_common::flow::Tick;
use lb_user::desired::{Algorithm, OnDown};
use proptest::prelude::*;

/// Hosts that may be backends: more than a region of the smallest size has room for, so that some grow.
pub const N_HOSTS: u8 = 12;

/// How long silent flows are taken for alive: TCP, UDP.
pub const IDLE: [Tick; 2] = [100, 20];

/// What stays the same over a sequence.
#[derive(Clone, Debug)]
pub struct Setting {
    pub is_v4: bool,
    pub algorithm: Algorithm,
    /// Of algorithms that go by a hash, the factor by which a backend may have more than its share, in hundredths.
    pub max_load: Option<u16>,
    pub on_down: OnDown,
    pub is_tracked: bool,
    /// Weights of those who are there at first.
    pub weights: Vec<u16>,
    /// The flow table loses everything after each packet.
    pub forgets: bool,
}

#[derive(Clone, Debug)]
pub enum Step {
    Add(u8, u16),
    Remove(u8),
    /// 0 drains.
    Weight(u8, u16),
    Down(u8),
    Up(u8),
    /// The way to it is found.
    Reach(u8),
    /// The services have another algorithm, if what they go by is not the client's address: with another hash, all flows would be
    /// elsewhere.
    Algorithm(Algorithm, Option<u16>),
    /// A new daemon takes over what this one left.
    Restart,
    Wait(Tick),
    Open {
        client: u8,
        is_acknowledged: bool,
    },
    Ask {
        client: u8,
    },
    /// The SYN of a flow comes in while the next change is on its way to the maps.
    OpenMeanwhile {
        client: u8,
    },
    /// A packet of one of the flows, by its position among those that live, round and round.
    Send(u16),
    /// The SYN again, if nothing came after it.
    Resend(u16),
    Close(u16),
}

pub fn setting() -> impl Strategy<Value = Setting> {
    let algorithm = prop_oneof![2 => Just(Algorithm::Maglev), 1 => Just(Algorithm::IpHash), 1 => by_connection()];
    let on_down = prop_oneof![3 => Just(OnDown::Remap), 1 => Just(OnDown::Keep)];
    let weights = prop::collection::vec(1u16..3, 1..9);
    let is_tracked = prop::bool::weighted(0.2);
    (any::<bool>(), algorithm, max_load(), on_down, is_tracked, weights).prop_map(
        |(is_v4, algorithm, max_load, on_down, is_tracked, weights)| Setting {
            is_v4,
            algorithm,
            max_load,
            on_down,
            is_tracked,
            weights,
            forgets: false,
        },
    )
}

/// Any that does not go by the client's address alone.
fn by_connection() -> impl Strategy<Value = Algorithm> {
    use Algorithm::{LeastConnections, LeastResponseTime, Maglev, Random, RoundRobin, WeightedRoundRobin};
    prop::sample::select(vec![Maglev, RoundRobin, WeightedRoundRobin, Random, LeastConnections, LeastResponseTime])
}

fn max_load() -> impl Strategy<Value = Option<u16>> {
    prop_oneof![4 => Just(None), 1 => Just(Some(125))]
}

fn step() -> impl Strategy<Value = Step> {
    let host = || 0..N_HOSTS;
    let flow = any::<u16>;
    prop_oneof![
        3 => (host(), 1u16..3).prop_map(|(host, weight)| Step::Add(host, weight)),
        2 => host().prop_map(Step::Remove),
        2 => (host(), 0u16..4).prop_map(|(host, weight)| Step::Weight(host, weight)),
        2 => host().prop_map(Step::Down),
        3 => host().prop_map(Step::Up),
        3 => host().prop_map(Step::Reach),
        1 => (by_connection(), max_load()).prop_map(|(algorithm, max_load)| Step::Algorithm(algorithm, max_load)),
        1 => Just(Step::Restart),
        6 => prop_oneof![0..3u32, 10..30u32, 60..130u32].prop_map(Step::Wait),
        8 => (any::<u8>(), any::<bool>()).prop_map(|(client, is_acknowledged)| Step::Open { client, is_acknowledged }),
        4 => any::<u8>().prop_map(|client| Step::Ask { client }),
        2 => any::<u8>().prop_map(|client| Step::OpenMeanwhile { client }),
        24 => flow().prop_map(Step::Send),
        2 => flow().prop_map(Step::Resend),
        1 => flow().prop_map(Step::Close),
    ]
}

pub fn steps(n: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), n / 2..n)
}
