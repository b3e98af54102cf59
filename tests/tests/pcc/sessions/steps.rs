//! What can happen, at random.

use lb_common::flow::Tick;
use lb_user::desired::OnDown;
use lb_user::pool::Pool;
use proptest::prelude::*;

use super::world::SERVICES;

pub const N_HOSTS: u8 = 6;
/// Addresses of clients, of either family.
pub const N_CLIENTS: u8 = 6;

/// What stays the same over a sequence.
#[derive(Clone, Debug)]
pub struct Setting {
    pub pool: Pool,
    /// Some of all: the more there are, the longer a change takes.
    pub services: Vec<usize>,
    /// How long silent flows are taken for alive: TCP, UDP.
    pub idle: [Tick; 2],
    pub on_down: OnDown,
    /// Those who are there at first.
    pub n_hosts: u8,
}

/// What a packet does to its flow. Of UDP, each is a datagram.
#[derive(Clone, Copy, Debug)]
pub enum Does {
    Opens,
    GoesOn,
    Ends,
    Resets,
}

#[derive(Clone, Debug)]
pub enum Step {
    Add(u8),
    Remove(u8),
    /// 0 drains.
    Weight(u8, u16),
    Down(u8),
    Up(u8),
    /// A new daemon takes over what this one left.
    Restart,
    Wait(Tick),
    /// A flow to one of the setting's services begins, or one with the same ends begins again.
    Open {
        service: usize,
        client: u8,
        port: u8,
        is_answered: bool,
    },
    /// So many from one client.
    Flood {
        service: usize,
        client: u8,
        first_port: u8,
        n: u8,
        is_answered: bool,
    },
    /// A packet of one of the flows, by its position, round and round, whether or not it is alive.
    Send {
        nth: u16,
        does: Does,
        is_tagged: bool,
    },
    /// One of its backend's.
    Answer {
        nth: u16,
        does: Does,
        is_tagged: bool,
    },
    /// One from some host to the source of a flow.
    Stray {
        nth: u16,
        host: u8,
        port: u16,
        is_tcp: bool,
    },
    /// One from some host to some port of the pool, or beside it.
    Stranger {
        host: u8,
        port: u16,
        is_tcp: bool,
        number: usize,
        to: u16,
    },
}

/// Services of a sequence.
const N_SERVICES: usize = 3;

/// A line more than a flow may have of the larger ones.
const PORTS: [u16; 2] = [24, 32];
const FIRST_PORT: u16 = 20_000;

/// A pool with so many addresses of each family, and so many ports of each.
pub fn pool(n_v4: usize, n_v6: usize, n_ports: u16) -> Pool {
    let v4 = ["10.0.3.200", "10.0.3.201"].into_iter().take(n_v4);
    let v6 = ["fd03::200", "fd03::201"].into_iter().take(n_v6);
    let addresses = v6.chain(v4).map(|address| address.parse().expect("an address")).collect();
    Pool { addresses, ports: FIRST_PORT..=FIRST_PORT + n_ports - 1 }
}

pub fn setting() -> impl Strategy<Value = Setting> {
    let pool = (1..3usize, 1..3usize, prop::sample::select(PORTS.to_vec())).prop_map(|(n_v4, n_v6, n)| pool(n_v4, n_v6, n));
    let idle = (prop::sample::select(vec![40, 100]), prop::sample::select(vec![8, 30]));
    let on_down = prop_oneof![3 => Just(OnDown::Remap), 1 => Just(OnDown::Keep)];
    let services = prop::sample::subsequence((0..SERVICES.len()).collect::<Vec<_>>(), N_SERVICES);
    (pool, services, idle, on_down, 1..4u8).prop_map(|(pool, services, (tcp, udp), on_down, n_hosts)| Setting {
        pool,
        services,
        idle: [tcp, udp],
        on_down,
        n_hosts,
    })
}

fn does() -> impl Strategy<Value = Does> {
    prop_oneof![2 => Just(Does::Opens), 6 => Just(Does::GoesOn), 3 => Just(Does::Ends), 1 => Just(Does::Resets)]
}

/// A port that backends have, or another.
fn backend_port() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![8080, 8080, 8080, 5353, 7001, 8081])
}

fn step() -> impl Strategy<Value = Step> {
    let host = || 0..N_HOSTS;
    let seldom = prop::bool::weighted(0.2);
    let ends = || (0..N_SERVICES, 0..N_CLIENTS);
    let ticks = prop_oneof![4 => 0..4u32, 2 => 7..10u32, 2 => 14..19u32, 1 => 28..32u32, 1 => 57..63u32, 1 => 95..120u32];
    let to = FIRST_PORT - 1..FIRST_PORT + PORTS[1] + 1;
    prop_oneof![
        4 => host().prop_map(Step::Add),
        3 => host().prop_map(Step::Remove),
        1 => (host(), 0u16..3).prop_map(|(host, weight)| Step::Weight(host, weight)),
        1 => host().prop_map(Step::Down),
        2 => host().prop_map(Step::Up),
        1 => Just(Step::Restart),
        16 => ticks.prop_map(Step::Wait),
        10 => (ends(), 0..12u8, any::<bool>())
            .prop_map(|((service, client), port, is_answered)| Step::Open { service, client, port, is_answered }),
        6 => (ends(), any::<u8>(), 6..30u8, any::<bool>()).prop_map(|((service, client), first_port, n, is_answered)| {
            Step::Flood { service, client, first_port, n, is_answered }
        }),
        36 => (any::<u16>(), does(), seldom).prop_map(|(nth, does, is_tagged)| Step::Send { nth, does, is_tagged }),
        24 => (any::<u16>(), does(), prop::bool::weighted(0.2))
            .prop_map(|(nth, does, is_tagged)| Step::Answer { nth, does, is_tagged }),
        5 => (any::<u16>(), host(), backend_port(), prop::bool::weighted(0.8))
            .prop_map(|(nth, host, port, is_tcp)| Step::Stray { nth, host, port, is_tcp }),
        5 => (host(), backend_port(), prop::bool::weighted(0.8), 0..5usize, to)
            .prop_map(|(host, port, is_tcp, number, to)| Step::Stranger { host, port, is_tcp, number, to }),
    ]
}

pub fn steps(n: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..n)
}
