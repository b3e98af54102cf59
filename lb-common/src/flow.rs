//! The flow table: which backend a flow was sent to, for flows in slots that are not at rest.
//!
//! A plain array of buckets, one cache line each, eight entries of one 64-bit word. An entry is read and replaced as a whole, so
//! there are no locks; who replaces one does so only if it is still what he saw. A full bucket gives up what is worth least:
//! nothing, the expired, the closed, the unconfirmed, and only then the flow that has been silent longest. So a flood of SYNs
//! cannot push out flows that answered.

use crate::branchless::either;
use crate::hash::{FlowHash, HashKeys};
use crate::slot::BackendId;

/// Time in the packet path: units of 2^30 ns (1.07 s) of the kernel's monotonic clock.
pub type Tick = u32;

/// How far to shift nanoseconds for ticks.
pub const TICK_SHIFT: u32 = 30;

/// Ticks that an entry can tell apart. What is older was removed before (`lb_user`'s sweep) or has the age of something younger.
const CLOCK_BITS: u32 = 13;
const CLOCK_MASK: u32 = (1 << CLOCK_BITS) - 1;

/// Ticks by which an entry may be newer than the time that it is looked at with.
const FUTURE: u32 = 16;

/// The longest time for which a silent flow may be taken for alive: half of what the clock can tell, about 73 minutes.
pub const IDLE_MAX: Tick = 1 << (CLOCK_BITS - 1);

/// How long a connection that was closed is kept in preference to one that may be alive: about as long as TIME_WAIT.
const CLOSED_FOR: Tick = 60;

/// Entries in a bucket, which is one cache line.
pub const ENTRIES: usize = 8;

/// What is known of a flow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum State {
    /// A SYN, and nothing else yet.
    Opening = 1,
    /// Packets of one instant that were no SYN: a flow from before its slot moved, UDP, or a flood.
    Guessed = 2,
    Established = 3,
    /// FIN or RST from the client.
    Closing = 4,
}

impl State {
    #[inline(always)]
    const fn from_bits(bits: u64) -> Self {
        match bits & 7 {
            1 => Self::Opening,
            2 => Self::Guessed,
            3 => Self::Established,
            _ => Self::Closing,
        }
    }
}

const STATE_BITS: u64 = 7 << CLOCK_BITS;
/// Of what an entry is to one who needs its place: it is his own.
const OWN: u64 = 1 << 28;
const BACKEND_SHIFT: u32 = 16;
const BACKEND_BITS: u64 = 0xffff << BACKEND_SHIFT;

/// One flow in a word: tag (32 bits), backend (16), state (3), clock (13). 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Entry(u64);

impl Entry {
    #[inline(always)]
    pub const fn new(tag: u32, backend: BackendId, state: State, now: Tick) -> Self {
        let state_clock = (state as u64) << CLOCK_BITS | (now & CLOCK_MASK) as u64;
        Self((tag as u64) << 32 | (backend.0 as u64) << BACKEND_SHIFT | state_clock)
    }

    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub const fn raw(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    #[inline(always)]
    pub const fn backend(self) -> BackendId {
        BackendId((self.0 >> BACKEND_SHIFT) as u16)
    }

    #[inline(always)]
    pub const fn state(self) -> State {
        State::from_bits(self.0 >> CLOCK_BITS)
    }

    /// Whose active flow it is: its backend's, until it has ended; [`BackendId::NONE`] if it has, or if there is none. No branch.
    #[inline(always)]
    pub const fn active(self) -> BackendId {
        let is_closing = (self.0 >> (CLOCK_BITS + 2)) as u16 & 1;
        BackendId(self.backend().0 & is_closing.wrapping_sub(1))
    }

    /// Ticks since its last packet. One of the near future is of now: who looks has read the clock before the entry, and another
    /// CPU's packet, or all that a sweep takes, may lie between.
    #[inline(always)]
    pub const fn age(self, now: Tick) -> Tick {
        // No branch, nor what the compiler would make one of: eight entries would be 256 ways to the verifier.
        let age = ((now.wrapping_add(FUTURE).wrapping_sub(self.0 as u32) & CLOCK_MASK) as u64).wrapping_sub(FUTURE as u64);
        // Below 0 the upper half is all ones.
        (age & !(age >> 32)) as u32 & CLOCK_MASK
    }

    /// How little the entry is worth to one who needs a place for `tag`; the age decides between equals. No branch.
    ///
    /// Most of all is given up what has this tag, for a flow has one entry, then nothing, the expired, the closed, and the unconfirmed.
    #[inline(always)]
    const fn dispensability(self, tag: u32, now: Tick, idle: Tick) -> u64 {
        // Bits of what is below 0. Of more than one, the uppermost decides.
        const EMPTY: u64 = 1 << 27;
        const EXPIRED: u64 = 1 << 26;
        const CLOSED: u64 = 1 << 25;
        const UNCONFIRMED: u64 = 1 << 24;
        let age = self.age(now) as u64;
        // The state's bits, each in the place of the lowest: closing, and of the other states those with an odd number of bits.
        let (low, middle, closing) = (self.0 << (24 - CLOCK_BITS), self.0 << (23 - CLOCK_BITS), self.0 << (22 - CLOCK_BITS));
        let unconfirmed = (low ^ middle) & !closing & UNCONFIRMED;
        let closed = (CLOSED_FOR as u64).wrapping_sub(age) & closing << 1 & CLOSED;
        let expired = (idle as u64).wrapping_sub(age) & EXPIRED;
        let empty = (self.0 & STATE_BITS).wrapping_sub(1) & EMPTY;
        let own = ((self.tag() ^ tag) as u64).wrapping_sub(1) >> 32 & OWN & !(empty << 1);
        own | empty | expired | closed | unconfirmed | age
    }
}

impl core::fmt::Debug for Entry {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "{:08x}:{} {:?}", self.tag(), self.backend().0, self.state())
    }
}

/// Where a flow's entry is, and what it is known by there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Of which the lower bits count.
    pub bucket: u32,
    pub tag: u32,
}

impl Place {
    /// Hashed a second time, and with the service: flows of one slot share the upper bits of their hash, and the same client may
    /// use the same port towards several services. Ids differ from node to node, which does not matter here.
    #[inline(always)]
    pub fn new(hash: FlowHash, service: u16, keys: &HashKeys) -> Self {
        let state = (hash.0 ^ service as u64).wrapping_mul(keys.multiply[1] | 1);
        let place = (state ^ state >> 32).wrapping_mul(keys.multiply[0] | 1);
        Self { bucket: (place >> 32) as u32, tag: place as u32 ^ state as u32 }
    }

    /// In one word, and back.
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        (self.tag as u64) << 32 | self.bucket as u64
    }

    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Self {
        Self { bucket: raw as u32, tag: (raw >> 32) as u32 }
    }
}

/// A live entry and its position.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub position: usize,
    pub entry: Entry,
}

impl Found {
    /// It is the flow's own, which has not been silent for longer than `idle`.
    #[inline(always)]
    pub const fn is_live(self, tag: u32, now: Tick, idle: Tick) -> bool {
        self.entry.tag() == tag && !self.entry.is_empty() && self.entry.age(now) <= idle
    }
}

/// The flow's entry in its bucket, unless it has been silent for longer than `idle`.
#[inline(always)]
pub fn find(bucket: impl Fn(usize) -> Entry, tag: u32, now: Tick, idle: Tick) -> Option<Found> {
    let mut position = 0;
    while position < ENTRIES {
        let entry = bucket(position);
        if entry.tag() == tag && !entry.is_empty() {
            return if entry.age(now) <= idle { Some(Found { position, entry }) } else { None };
        }
        position += 1;
    }
    None
}

/// The backend of a flow whose entry says that it is established, and was seen in this tick. One comparison an entry.
#[inline(always)]
pub fn find_live(bucket: impl Fn(usize) -> Entry, tag: u32, now: Tick) -> Option<BackendId> {
    let live = Entry::new(tag, BackendId::NONE, State::Established, now).0;
    let mut position = 0;
    while position < ENTRIES {
        // All but the backend is as it is in such an entry.
        let backend = bucket(position).0 ^ live;
        if backend & !BACKEND_BITS == 0 {
            return Some(BackendId((backend >> BACKEND_SHIFT) as u16));
        }
        position += 1;
    }
    None
}

/// The entry to replace by a new flow's: that flow's own if it has one, or else the one that is worth least.
#[inline(always)]
pub fn victim(bucket: impl Fn(usize) -> Entry, tag: u32, now: Tick, idle: Tick) -> Found {
    let (mut at, mut entry) = (0, bucket(0));
    let mut most = entry.dispensability(tag, now, idle);
    let mut position = 1;
    // To the verifier, all ways out of here are one: whose position it is, it cannot tell.
    while position < ENTRIES && most & OWN == 0 {
        let other = bucket(position);
        let dispensability = other.dispensability(tag, now, idle);
        // As many bits are that number's sign, and this one the compiler does not make a comparison of.
        let is_other = most.wrapping_sub(dispensability) >> 40 & 1;
        at = either(is_other, position as u64, at);
        entry = Entry(either(is_other, other.0, entry.0));
        most = either(is_other, dispensability, most);
        position += 1;
    }
    Found { position: at as usize, entry }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::*;

    const IDLE: Tick = 800;
    const B: BackendId = BackendId(7);

    #[derive(Default)]
    struct Bucket([Entry; ENTRIES]);

    impl Bucket {
        fn insert(&mut self, tag: u32, state: State, now: Tick) -> Entry {
            let victim = victim(|position| self.0[position], tag, now, IDLE);
            self.0[victim.position] = Entry::new(tag, B, state, now);
            victim.entry
        }

        fn find(&self, tag: u32, now: Tick) -> Option<Entry> {
            find(|position| self.0[position], tag, now, IDLE).map(|found| found.entry)
        }
    }

    #[test]
    fn an_entry_keeps_all_its_parts() {
        for state in [State::Opening, State::Guessed, State::Established, State::Closing] {
            let entry = Entry::new(0xdead_beef, BackendId(65_535), state, 123_456);
            assert_eq!((entry.tag(), entry.backend(), entry.state()), (0xdead_beef, BackendId(65_535), state));
            assert_eq!((entry.age(123_456), entry.age(123_466)), (0, 10));
            assert!(!entry.is_empty());
        }
        assert!(!Entry::new(0, BackendId(0), State::Opening, 0).is_empty());
        let active = |state| Entry::new(5, B, state, 9).active();
        assert_eq!([State::Opening, State::Guessed, State::Established].map(active), [B; 3]);
        assert!(active(State::Closing).is_none() && Entry::default().active().is_none());
    }

    #[test]
    fn a_flow_is_found_until_it_was_silent_for_too_long() {
        let mut bucket = Bucket::default();
        bucket.insert(5, State::Established, 100);
        assert_eq!(bucket.find(5, 100 + IDLE).map(Entry::backend), Some(B));
        assert_eq!(bucket.find(5, 101 + IDLE), None);
        assert_eq!(bucket.find(6, 100), None);
    }

    #[test]
    fn a_flow_is_live_while_it_is_established_and_of_this_tick() {
        let mut bucket = Bucket::default();
        let live = |bucket: &Bucket, tag, now| find_live(|position| bucket.0[position], tag, now);
        for (tag, state) in [(5, State::Established), (6, State::Opening), (7, State::Guessed), (8, State::Closing)] {
            bucket.insert(tag, state, 100);
        }
        assert_eq!([5, 6, 7, 8, 0].map(|tag| live(&bucket, tag, 100)), [Some(B), None, None, None, None]);
        assert_eq!([99, 101, 100 + CLOCK_MASK].map(|now| live(&bucket, 5, now)), [None; 3]);
        assert_eq!(live(&bucket, 5, 101 + CLOCK_MASK), Some(B), "as far as the clock can tell");
    }

    #[test]
    fn a_flow_that_another_cpu_saw_after_our_clock_was_read_is_young() {
        let mut bucket = Bucket::default();
        for now in [100, CLOCK_MASK, 0] {
            bucket.insert(5, State::Established, now.wrapping_add(1));
            assert_eq!(bucket.find(5, now).map(|entry| entry.age(now)), Some(0));
            assert_eq!(bucket.find(5, now.wrapping_add(3)).map(|entry| entry.age(now.wrapping_add(3))), Some(2));
        }
        // Nor is it given up for others as if it were the oldest.
        for tag in 10..16 {
            bucket.insert(tag, State::Established, 0);
        }
        bucket.insert(16, State::Established, u32::MAX - 20);
        assert_eq!(bucket.insert(17, State::Established, 0).tag(), 16);
    }

    #[test]
    fn a_full_bucket_gives_up_what_is_worth_least() {
        let mut bucket = Bucket::default();
        let states = [
            (1, State::Established, 1000),
            (2, State::Established, 900),
            (3, State::Opening, 1001),
            (4, State::Guessed, 999),
            (5, State::Closing, 930),
            (6, State::Closing, 995),
            (7, State::Established, 150),
            (8, State::Opening, 998),
        ];
        for (tag, state, at) in states {
            assert!(bucket.insert(tag, state, at).is_empty());
        }
        // Expired, closed for long, the oldest unconfirmed ones, then the one that was silent longest.
        for (tag, gone) in [(11, 7), (12, 5), (13, 8), (14, 4), (15, 3), (16, 2), (17, 6), (18, 1)] {
            assert_eq!(bucket.insert(tag, State::Established, 1001).tag(), gone);
        }
    }

    /// What an entry is worth to one who needs its place, said by comparisons. Of the expired, one is as good as another.
    fn worth(entry: Entry, tag: u32, now: Tick) -> (u32, Tick) {
        let age = entry.age(now);
        match entry.state() {
            _ if entry.is_empty() => (4, 0),
            _ if entry.tag() == tag => (5, 0),
            _ if age > IDLE => (3, 0),
            State::Closing if age > CLOSED_FOR => (2, age),
            State::Opening | State::Guessed => (1, age),
            State::Established | State::Closing => (0, age),
        }
    }

    /// An entry, or none, of a flow among a few, with an age around each limit and in the near future.
    fn entry(now: Tick) -> impl Strategy<Value = Entry> {
        let states = [State::Opening, State::Guessed, State::Established, State::Closing];
        let age = (select(vec![0, CLOSED_FOR, IDLE, CLOCK_MASK]), 0..8u32).prop_map(|(limit, more)| limit + more);
        let entry = (0..20u32, select(states.to_vec()), age)
            .prop_map(move |(tag, state, age)| Entry::new(tag, B, state, now.wrapping_sub(age).wrapping_add(2)));
        prop_oneof![1 => Just(Entry::default()), 7 => entry]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn who_is_given_up_is_who_comparisons_would_give_up(
            (now, bucket) in any::<Tick>().prop_flat_map(|now| (Just(now), prop::array::uniform8(entry(now))))
        ) {
            let given_up = victim(|position| bucket[position], 7, now, IDLE);
            prop_assert_eq!(bucket[given_up.position], given_up.entry);
            let most = bucket.iter().map(|entry| worth(*entry, 7, now)).max();
            prop_assert_eq!(Some(worth(given_up.entry, 7, now)), most);
        }
    }

    #[test]
    fn a_flood_of_syns_leaves_established_flows_alone() {
        let mut bucket = Bucket::default();
        for tag in 0..7 {
            bucket.insert(tag, State::Established, 1000);
        }
        for tag in 100..10_000 {
            bucket.insert(tag, State::Opening, 1001);
        }
        assert!((0..7).all(|tag| bucket.find(tag, 1001).is_some()));
    }

    #[test]
    fn a_flow_has_one_entry_however_often_it_begins() {
        let mut bucket = Bucket::default();
        for now in [10, 11, 5000] {
            bucket.insert(9, State::Opening, now);
            bucket.insert(8, State::Opening, now);
        }
        assert_eq!(bucket.0.iter().filter(|entry| !entry.is_empty()).count(), 2);
    }

    #[test]
    fn services_and_flows_have_places_of_their_own() {
        let keys = HashKeys::from_bytes([11; 32]);
        let mut seen: Vec<(u32, u32)> = Vec::new();
        for service in 1..20 {
            for flow in 0..5000 {
                let place = Place::new(crate::hash::flow_v4(&keys, flow, 80), service, &keys);
                seen.push((place.bucket & 0xffff, place.tag));
            }
        }
        let n = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), n);
        let mut per_bucket = vec![0u32; 1 << 12];
        seen.iter().for_each(|(bucket, _)| per_bucket[(bucket & 0xfff) as usize] += 1);
        // 95,000 over 4,096: 23 on average, a standard deviation of 4.8.
        assert!(per_bucket.iter().all(|&n| n < 60), "{:?}", per_bucket.iter().max());
    }
}
