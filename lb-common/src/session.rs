//! Sessions of services that forward by full NAT: which source address and port stand for a client towards its backend.
//!
//! A plain array, one record for each port of each address of the pool, in their order: a reply finds its session by where it goes to.
//! On the other way, a flow's hash leads to three lines of eight ports of one address; a byte for each port tells which of them may be the
//! flow's, so that one record is compared and not twenty-four. A session that nobody needs any more is known by the time in its record, and
//! whoever needs a port takes it from there: nothing is swept, and nothing is ever pushed out.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Addr, Be16};
use crate::branchless::{either, less};
use crate::flow::{self, Tick};
use crate::limits::POOL_ADDRESSES;
use crate::slot::BackendId;

/// Ports in a line, whose tags are one word.
pub const LINE: u32 = 8;

/// Lines that may have a flow's session.
pub const LINES: u32 = 3;

/// The fewest ports of an address: of fewer, there are not that many lines.
pub const PORTS_MIN: u32 = LINE * LINES;

/// What stands for a protocol where an address of the pool stands in an endpoint's place in the reply directory: no packet has it
/// (IANA: for experiments).
pub const POOL: u8 = 254;

/// No session's index.
pub const NONE: u32 = u32::MAX;

/// How long the port of a connection is kept that both sides have closed, or one has reset: what is still on its way may come.
pub const CLOSED_FOR: Tick = 2;
/// How long a port is kept that no answer has come to.
pub const UNANSWERED_FOR: Tick = 16;
/// How long a silent connection is taken for alive that one side has closed.
pub const HALF_CLOSED_FOR: Tick = 60;

/// Which ports of how many addresses there are. All zeros is none.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Range {
    pub first_port: u32,
    /// Of each address, a multiple of [`LINE`].
    pub n_ports: u32,
    /// IPv4 addresses, which come first.
    pub n_v4: u32,
    pub n_v6: u32,
}

impl Range {
    /// How many sessions there can be.
    pub const fn n_sessions(&self) -> u32 {
        self.n_ports * (self.n_v4 + self.n_v6)
    }

    /// The address that stands for a client with this hash, by its number; beyond all numbers if there is none of that family.
    #[inline(always)]
    pub const fn number(&self, is_v6: bool, client_hash: u64) -> u32 {
        let (first, n) = if is_v6 { (self.n_v4, self.n_v6) } else { (0, self.n_v4) };
        first + scaled(client_hash >> 32, n)
    }

    /// The index of an address's session with this port; [`NONE`] if it is not one of those.
    #[inline(always)]
    pub const fn index(&self, number: u32, port: Be16) -> u32 {
        let offset = (port.get() as u32).wrapping_sub(self.first_port);
        if offset < self.n_ports { number * self.n_ports + offset } else { NONE }
    }

    /// The port of an address's session.
    #[inline(always)]
    pub const fn port(&self, number: u32, index: u32) -> Be16 {
        Be16::new((index - number * self.n_ports + self.first_port) as u16)
    }

    /// One of the lines of an address that may have the session of a flow with this place, `which` below [`LINES`].
    ///
    /// Each is of another third. Where several offer the same, the first is taken: that leaves the fewest full ones (Vöcking, "How
    /// asymmetry helps load balancing", 1999).
    #[inline(always)]
    pub const fn line(&self, number: u32, place: flow::Place, which: u32) -> u32 {
        let (n_lines, third) = (self.n_ports / LINE, self.n_ports / LINE / LINES);
        let (hash, n) = match which {
            0 => (place.bucket, third),
            1 => (place.tag, third),
            // Of the lower bits of both: the upper ones lead to the others.
            _ => (place.bucket.wrapping_mul(0x9e37_79b1) ^ place.tag.rotate_left(16), n_lines - 2 * third),
        };
        number * n_lines + which * third + scaled(hash as u64, n)
    }
}

/// What a flow's session is known by in its line. Not 0, which an unused port has.
#[inline(always)]
pub const fn tag(place: flow::Place) -> u8 {
    let tag = place.tag as u8;
    tag | (tag == 0) as u8
}

/// A number of 32 bits scaled to one below `n`.
#[inline(always)]
const fn scaled(number: u64, n: u32) -> u32 {
    ((number * n as u64) >> 32) as u32
}

/// The pool: the only element of the `POOL` map.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Pool {
    pub range: Range,
    pub pad: [u32; 12],
    /// By number; those beyond the range are all zeros.
    pub addresses: [Addr; POOL_ADDRESSES as usize],
}

const _: () = assert!(size_of::<Pool>() == 64 + 16 * POOL_ADDRESSES as usize);

impl Pool {
    /// No address.
    pub const EMPTY: Self = Self {
        range: Range { first_port: 0, n_ports: 0, n_v4: 0, n_v6: 0 },
        pad: [0; 12],
        addresses: [Addr::UNSPECIFIED; POOL_ADDRESSES as usize],
    };
}

impl Default for Pool {
    fn default() -> Self {
        Self::EMPTY
    }
}

/// Whose session it is, but for the client's address: ports, backend and protocol in a word. 0 is nobody's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Key(u64);

impl Key {
    /// `ports` are both as they stand in the client's packet, its own in the lower half.
    #[inline(always)]
    pub const fn new(ports: u32, backend: BackendId, protocol: u8) -> Self {
        Self(ports as u64 | (backend.0 as u64) << 32 | (protocol as u64) << 48)
    }

    /// Of a word, upper bits do not count.
    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw << 8 >> 8)
    }

    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn client_port(self) -> Be16 {
        Be16::from_raw(self.0 as u16)
    }

    #[inline(always)]
    pub const fn vip_port(self) -> Be16 {
        Be16::from_raw((self.0 >> 16) as u16)
    }

    #[inline(always)]
    pub const fn backend(self) -> BackendId {
        BackendId((self.0 >> 32) as u16)
    }

    #[inline(always)]
    pub const fn protocol(self) -> u8 {
        (self.0 >> 48) as u8
    }
}

/// One session. Its words are read and written each as a whole.
#[repr(C, align(32))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Session {
    pub client: [u64; 2],
    /// A [`Key`].
    pub key: u64,
    /// A [`State`].
    pub state: u64,
}

const _: () = assert!(size_of::<Session>() == 32);

/// The words of a [`Session`].
pub mod word {
    pub const CLIENT_HIGH: usize = 0;
    pub const CLIENT_LOW: usize = 1;
    pub const KEY: usize = 2;
    pub const STATE: usize = 3;
    pub const N: usize = 4;
}

/// How long a session is kept, in the lower half of a word, and what was seen of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct State(u64);

/// Something has come from the backend.
const ANSWERED: u8 = 1;
const CLIENT_FIN: u8 = 2;
const BACKEND_FIN: u8 = 4;
const RESET: u8 = 8;
/// Its other words are being written.
const IN_THE_MAKING: u8 = 16;

mod tcp {
    pub const FIN: u8 = 0x01;
    pub const SYN: u8 = 0x02;
    pub const RST: u8 = 0x04;
    pub const ACK: u8 = 0x10;
}

impl State {
    #[inline(always)]
    const fn new(until: Tick, seen: u8) -> Self {
        Self(until as u64 | (seen as u64) << 32)
    }

    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// From this tick on, whoever needs the port may take it.
    #[inline(always)]
    pub const fn until(self) -> Tick {
        self.0 as Tick
    }

    #[inline(always)]
    const fn seen(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Whether its record says whose it is.
    #[inline(always)]
    pub const fn is_whole(self) -> bool {
        self.seen() & IN_THE_MAKING == 0
    }

    /// Whether nobody may take its port.
    #[inline(always)]
    pub const fn is_live(self, now: Tick) -> bool {
        now < self.until()
    }

    /// Taken by one who has still to write whose it is.
    #[inline(always)]
    pub const fn in_the_making(now: Tick) -> Self {
        Self::new(now + CLOSED_FOR, IN_THE_MAKING)
    }

    /// After a packet of the client's. One that opens a connection begins anew.
    #[inline(always)]
    #[must_use]
    pub const fn after_client(self, tcp_flags: u8, now: Tick, idle: Tick) -> Self {
        let before = if tcp_flags & (tcp::SYN | tcp::ACK) == tcp::SYN { 0 } else { self.seen() };
        Self::kept(before | ended(tcp_flags, CLIENT_FIN), now, idle)
    }

    /// After one of the backend's.
    #[inline(always)]
    #[must_use]
    pub const fn after_backend(self, tcp_flags: u8, now: Tick, idle: Tick) -> Self {
        Self::kept(self.seen() | ANSWERED | ended(tcp_flags, BACKEND_FIN), now, idle)
    }

    #[inline(always)]
    const fn kept(seen: u8, now: Tick, idle: Tick) -> Self {
        const BOTH: u8 = CLIENT_FIN | BACKEND_FIN;
        let is_closed = seen & RESET != 0 || seen & BOTH == BOTH;
        let longest = if is_closed {
            CLOSED_FOR
        } else if seen & ANSWERED == 0 {
            UNANSWERED_FOR
        } else if seen & BOTH != 0 {
            HALF_CLOSED_FOR
        } else {
            idle
        };
        Self::new(now + if longest < idle { longest } else { idle }, seen)
    }
}

#[inline(always)]
const fn ended(tcp_flags: u8, fin: u8) -> u8 {
    let fin = if tcp_flags & tcp::FIN != 0 { fin } else { 0 };
    if tcp_flags & tcp::RST != 0 { fin | RESET } else { fin }
}

/// Of a line's tags, those that are `tag`: the uppermost bit of each.
#[inline(always)]
pub const fn matches(tags: u64, tag: u8) -> u64 {
    const LOW: u64 = 0x7f7f_7f7f_7f7f_7f7f;
    let differs = tags ^ (tag as u64 * 0x0101_0101_0101_0101);
    !(((differs & LOW) + LOW) | differs | LOW)
}

/// Which tag of a line the lowest of these bits belongs to. BPF has no instruction to count zeros.
#[inline(always)]
pub const fn position(matches: u64) -> u32 {
    let lowest = matches & matches.wrapping_neg();
    ((lowest >> 7).wrapping_mul(0x0001_0203_0405_0607) >> 56) as u32
}

/// What a line has for one who needs a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Ports that may be taken.
    pub n: u32,
    /// Of these, the position of the one that has been free for longest.
    pub position: u32,
}

/// What a line offers whose sessions, from the `first`, have these states. No branch: eight of them would be 256 ways to the verifier.
#[inline(always)]
pub fn offer(first: u32, states: impl Fn(u32) -> State, now: Tick) -> Offer {
    let (mut n, mut best) = (0, u64::MAX);
    let mut position = first;
    while position < LINE {
        let until = u64::from(states(position).until());
        let is_live = less(now.into(), until);
        n += 1 - is_live;
        let candidate = until << 3 | u64::from(position) | is_live.wrapping_neg() >> 1;
        best = either(less(candidate, best), candidate, best);
        position += 1;
    }
    Offer { n: n as u32, position: best as u32 % LINE }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Place;
    use crate::hash::avalanche;

    const IDLE: Tick = 800;

    #[test]
    fn a_port_leads_to_its_session_and_back() {
        let range = Range { first_port: 10_240, n_ports: 55_296, n_v4: 3, n_v6: 2 };
        for number in 0..5 {
            for port in [10_240, 10_241, 40_000, 65_535] {
                let index = range.index(number, Be16::new(port));
                assert!(index < range.n_sessions());
                assert_eq!(range.port(number, index).get(), port);
            }
            assert_eq!(range.index(number, Be16::new(10_239)), NONE);
        }
        assert_eq!(Range { n_ports: 8, ..range }.index(0, Be16::new(10_248)), NONE);
        assert_eq!(Range::default().index(0, Be16::new(0)), NONE);
        let numbers = |is_v6| (0..1000u64).map(move |n| range.number(is_v6, avalanche(n)));
        assert_eq!(numbers(false).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(numbers(true).collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>(), [3, 4]);
    }

    #[test]
    fn a_flow_has_three_lines_of_its_address() {
        for n_ports in [24, 32, 64, 55_296] {
            let range = Range { first_port: 1024, n_ports, n_v4: 4, n_v6: 0 };
            for n in 1..5000u64 {
                let hash = avalanche(n);
                let place = Place { bucket: hash as u32, tag: (hash >> 32) as u32 };
                let lines = [0, 1, 2].map(|which| range.line(3, place, which));
                assert!(lines.iter().all(|line| (3 * n_ports / 8..4 * n_ports / 8).contains(line)), "{n_ports}: {lines:?}");
                assert!(tag(place) != 0 && lines.is_sorted_by(|a, b| a < b), "{n_ports}: {lines:?}");
            }
        }
    }

    #[test]
    fn tags_are_found_and_no_others() {
        for n in 0..20_000u64 {
            let mut tags = avalanche(n).to_le_bytes();
            let tag = avalanche(n + 1) as u8;
            tags[n as usize % 8] = tag;
            tags[(n / 8) as usize % 8] = [tag, tag ^ 0x80, tag ^ 1, 0][n as usize % 4];
            let mut left = matches(u64::from_le_bytes(tags), tag);
            let mut found = Vec::new();
            while left != 0 {
                found.push(position(left));
                left &= left - 1;
            }
            assert_eq!(found, (0..8).filter(|&at| tags[at as usize] == tag).collect::<Vec<_>>(), "{tags:x?} {tag:x}");
        }
    }

    #[test]
    fn a_port_is_kept_for_as_long_as_its_session_may_be_alive() {
        let kept = |state: State| state.until() - 100;
        let opened = State::default().after_client(tcp::SYN, 100, IDLE);
        assert_eq!(kept(opened), UNANSWERED_FOR);
        let answered = opened.after_backend(tcp::SYN | tcp::ACK, 100, IDLE);
        assert_eq!(kept(answered), IDLE);
        assert_eq!(kept(answered.after_client(tcp::ACK, 100, IDLE)), IDLE);
        assert_eq!(kept(answered.after_client(tcp::ACK, 100, 10)), 10);
        let half = answered.after_client(tcp::FIN | tcp::ACK, 100, IDLE);
        assert_eq!(kept(half), HALF_CLOSED_FOR);
        assert_eq!(kept(half.after_backend(tcp::ACK, 100, IDLE)), HALF_CLOSED_FOR);
        let closed = half.after_backend(tcp::FIN | tcp::ACK, 100, IDLE);
        assert_eq!(kept(closed), CLOSED_FOR);
        assert_eq!(kept(closed.after_client(tcp::ACK, 100, IDLE)), CLOSED_FOR);
        assert_eq!(kept(answered.after_backend(tcp::RST, 100, IDLE)), CLOSED_FOR);
        assert_eq!(kept(closed.after_client(tcp::SYN, 100, IDLE)), UNANSWERED_FOR, "the same ports again");
        assert!(answered.is_live(100 + IDLE - 1) && !answered.is_live(100 + IDLE));
        assert!(!State::in_the_making(5).is_whole() && opened.is_whole());
    }

    #[test]
    fn a_line_offers_the_port_that_has_been_free_for_longest() {
        let of = |untils: [Tick; 8]| offer(0, |position| State::new(untils[position as usize], 0), 100);
        assert_eq!(of([0; 8]), Offer { n: 8, position: 0 });
        assert_eq!(of([101, 500, 99, 100, 98, 101, 101, 101]), Offer { n: 3, position: 4 });
        assert_eq!(of([101; 8]).n, 0);
        assert_eq!(of([101, 101, 101, 101, 101, 101, 101, 100]), Offer { n: 1, position: 7 });
    }

    #[test]
    fn more_than_four_fifths_of_all_ports_are_taken_before_the_first_is_refused() {
        for (n_ports, seed) in (0..4).flat_map(|seed| [(4096, seed), (55_296, seed)]) {
            let range = Range { first_port: 10_240, n_ports, n_v4: 1, n_v6: 0 };
            let mut states = vec![State::default(); n_ports as usize];
            let mut n_taken = 0;
            for n in 0.. {
                let hash = avalanche(n + (seed << 40) + 1);
                let place = Place { bucket: hash as u32, tag: (hash >> 32) as u32 };
                let of = |line: u32| offer(0, |position| states[(line * LINE + position) as usize], 1);
                let offers = (0..LINES).map(|which| range.line(0, place, which)).map(|line| (line, of(line)));
                let (line, offer) = offers.rev().max_by_key(|(_, offer)| offer.n).expect("three");
                if offer.n == 0 {
                    break;
                }
                let place = &mut states[(line * LINE + offer.position) as usize];
                assert!(!place.is_live(1), "nobody loses a port");
                *place = place.after_client(tcp::SYN, 1, IDLE);
                n_taken += 1;
            }
            println!("{n_taken} of {n_ports}");
            assert!(n_taken * 5 > n_ports * 4, "{n_taken} of {n_ports}");
        }
    }
}
