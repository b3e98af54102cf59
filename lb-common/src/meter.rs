//! Rates: token buckets, each in one word.
//!
//! A bucket is not counted but timed (the generic cell rate algorithm, ITU-T I.371): the word holds the time at which it will be full
//! again. Each packet puts that off by the time that the rate allows it; one that would put it off by more than the burst takes does
//! not pass. So a bucket that is full is no word at all, and a table that has no room forgets the one that is nearest to full: the
//! sources that send most are forgotten last, whoever floods the table with others.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::branchless::{either, less};
use crate::flow::{self, Tick};
use crate::hash::{self, HashKeys};

/// How far to shift nanoseconds for the unit of time here, 4 ns.
pub const TIME_SHIFT: u32 = 2;

/// Bits of a time: 73 minutes.
const TIME_BITS: u32 = 40;
const TAG_BITS: u32 = 64 - TIME_BITS;
const TAG_MASK: u32 = (1 << TAG_BITS) - 1;
const TIME_MASK: u64 = (1 << TIME_BITS) - 1;

/// A quarter of what the clock can tell.
const AHEAD_BITS: u32 = TIME_BITS - 2;

/// The most that a bucket may be away from full, in units: 18 minutes. What is further away was full long ago.
pub const AHEAD_MAX: u64 = (1 << AHEAD_BITS) - 1;

/// Entries in a line of the table, which is one cache line.
pub const ENTRIES: usize = 8;

/// How often something may happen. All zeros: always.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Limit {
    /// Between two, in units of time; 0 is no limit.
    pub interval: u32,
    /// How many at once, after a pause.
    pub burst: u32,
}

const _: () = assert!(size_of::<Limit>() == 8);

impl Limit {
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.interval == 0
    }

    /// How far from full a bucket may get.
    #[inline(always)]
    const fn ahead_max(self) -> u64 {
        self.interval as u64 * self.burst as u64
    }

    /// The bucket after one more, if that may pass at `now`.
    #[inline(always)]
    pub fn take(self, entry: Entry, tag: u32, now: u64) -> Option<Entry> {
        let ahead = if entry.tag() == tag { entry.ahead(now) } else { 0 };
        // A bucket cannot be that far from full: it is from long ago, or of another limit.
        let ahead = if ahead > self.ahead_max() { 0 } else { ahead };
        let next = ahead + self.interval as u64;
        if next <= self.ahead_max() { Some(Entry::new(tag, now.wrapping_add(next))) } else { None }
    }
}

/// A bucket: tag (24 bits), and when it is full (40). 0 is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Entry(u64);

impl Entry {
    #[inline(always)]
    pub const fn new(tag: u32, full_at: u64) -> Self {
        Self((tag as u64) << TIME_BITS | full_at & TIME_MASK)
    }

    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub const fn raw(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn tag(self) -> u32 {
        (self.0 >> TIME_BITS) as u32
    }

    /// How long until it is full; 0 if it is, or has been for long.
    #[inline(always)]
    pub const fn ahead(self, now: u64) -> u64 {
        let ahead = self.0.wrapping_sub(now) & TIME_MASK;
        // All ones, or none of what is too far. No branch, for eight entries are looked at.
        ahead & ((ahead >> AHEAD_BITS | ahead >> (AHEAD_BITS + 1)) & 1).wrapping_sub(1)
    }
}

/// What is limited in one scope. The numbers are places in [`Rules`](crate::admission::Rules).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Meter {
    SourcePackets = 0,
    SourceConnections = 1,
    Packets = 2,
    Connections = 3,
}

pub const METERS: usize = 4;

/// Where a bucket is, and what it is known by there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// Of which the lower bits count.
    pub line: u32,
    /// 24 bits.
    pub tag: u32,
}

impl Place {
    /// That of a prefix (its upper 64 bits; 0 for what is no single source's) for one meter of a scope. Keyed: nobody can choose who
    /// shares a line with him.
    #[inline(always)]
    pub fn new(keys: &HashKeys, prefix: u64, scope: u16, is_v6: bool, meter: Meter) -> Self {
        let what = scope as u32 | (meter as u32) << 16 | (is_v6 as u32) << 24;
        // The lower bits of a flow's hash are badly mixed.
        let hash = hash::avalanche(hash::flow_v6(keys, [prefix, u64::from(what)], 1).0);
        Self { line: (hash >> 32) as u32, tag: hash as u32 >> 8 }
    }
}

impl From<flow::Place> for Place {
    #[inline(always)]
    fn from(place: flow::Place) -> Self {
        Self { line: place.bucket, tag: place.tag & TAG_MASK }
    }
}

/// So many ticks in units of time, as far as those go.
#[inline(always)]
pub const fn lasting(ticks: Tick) -> u64 {
    let lasting = (ticks as u64) << (flow::TICK_SHIFT - TIME_SHIFT);
    if lasting < AHEAD_MAX { lasting } else { AHEAD_MAX }
}

/// A bucket and its position in a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found {
    pub position: usize,
    pub entry: Entry,
}

/// The bucket with this tag, or else the one to give up for it: the one that is nearest to full.
///
/// No branch: three for each of eight would be more ways than the verifier follows in good time.
#[inline(always)]
pub fn find(line: impl Fn(usize) -> Entry, tag: u32, now: u64) -> Found {
    let mut least = u64::MAX;
    let mut position = 0;
    while position < ENTRIES {
        let entry = line(position);
        let is_other = (u64::from(entry.tag() ^ tag) + u64::from(TAG_MASK)) >> TAG_BITS;
        // One's own comes before all others.
        let rank = ((entry.ahead(now) + 1) & is_other.wrapping_neg()) * ENTRIES as u64 + position as u64;
        least = either(less(rank, least), rank, least);
        position += 1;
    }
    let position = least as usize % ENTRIES;
    Found { position, entry: line(position) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000 >> TIME_SHIFT;
    const NOW: u64 = 7 << 40;

    fn limit(per_second: u64, burst: u32) -> Limit {
        Limit { interval: (SECOND / per_second) as u32, burst }
    }

    #[derive(Default)]
    struct Line([Entry; ENTRIES]);

    impl Line {
        fn take(&mut self, limit: Limit, tag: u32, now: u64) -> bool {
            let found = find(|position| self.0[position], tag, now);
            let next = limit.take(found.entry, tag, now);
            if let Some(next) = next {
                self.0[found.position] = next;
            }
            next.is_some()
        }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (mut line, limit) = (Line::default(), limit(100, 20));
        assert_eq!((0..50).filter(|_| line.take(limit, 5, NOW)).count(), 20);
        // In each of ten seconds, at whatever steps the clock goes.
        for step in [1, 4, 10, 100] {
            let (mut line, n_steps) = (Line::default(), 10_000 / step);
            let passed = (1..=n_steps)
                .flat_map(|n| std::iter::repeat_n(NOW + n * step * SECOND / 1000, 50))
                .filter(|&now| line.take(limit, 5, now))
                .count();
            assert!((1000..=1021).contains(&passed), "{passed} in steps of {step} ms");
        }
    }

    #[test]
    fn after_a_pause_there_is_a_burst_again_and_no_more_than_that() {
        let (mut line, limit) = (Line::default(), limit(10, 5));
        for pause in [SECOND, 60 * SECOND, 3600 * SECOND, 4000 * SECOND, 5000 * SECOND, 86_400 * SECOND] {
            let now = NOW + pause;
            assert_eq!((0..9).filter(|_| line.take(limit, 5, now)).count(), 5, "after {} s", pause / SECOND);
        }
    }

    #[test]
    fn a_flood_of_single_sources_does_not_make_room_for_the_one_that_sends_most() {
        let (mut line, limit) = (Line::default(), limit(10, 20));
        assert_eq!((0..100).filter(|_| line.take(limit, 5, NOW)).count(), 20);
        for tag in 1000..100_000 {
            assert!(line.take(limit, tag, NOW + 1), "who sends once passes");
        }
        assert!(!line.take(limit, 5, NOW + 2), "it is still over its rate");
    }

    #[test]
    fn who_is_forgotten_for_others_gets_more_and_never_less() {
        let (mut line, limit) = (Line::default(), limit(10, 20));
        for tag in 0..9 {
            for _ in 0..=tag {
                assert!(line.take(limit, 100 + tag, NOW));
            }
        }
        // Nine buckets in a line of eight: the one nearest to full gave way.
        assert_eq!((0..30).filter(|_| line.take(limit, 108, NOW)).count(), 11);
        assert_eq!((0..30).filter(|_| line.take(limit, 100, NOW)).count(), 20);
    }

    #[test]
    fn a_lower_limit_is_in_force_after_one_burst() {
        let mut line = Line::default();
        assert_eq!((0..2000).filter(|_| line.take(limit(1000, 1000), 5, NOW)).count(), 1000);
        assert_eq!((0..100).filter(|_| line.take(limit(100, 10), 5, NOW)).count(), 10);
    }

    #[test]
    fn each_meter_of_each_scope_and_source_has_a_place_of_its_own() {
        let keys = HashKeys::from_bytes([9; 32]);
        let mut places = Vec::new();
        for scope in 0..50 {
            for meter in [Meter::SourcePackets, Meter::SourceConnections, Meter::Packets, Meter::Connections] {
                for source in 0..200u64 {
                    for is_v6 in [false, true] {
                        let place = Place::new(&keys, source << 32, scope, is_v6, meter);
                        assert!(place.tag < 1 << 24);
                        places.push((place.line & 0xffff, place.tag));
                    }
                }
            }
        }
        let n = places.len();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), n);
    }
}
