//! How TCP connections open, as far as the client's packets tell: where answers do not come back this way, there is nothing else to see.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A SYN of which the answer is awaited: the tag of its flow, and when it was seen. An element of the `HANDSHAKES` map, where a tag's
/// lower bits lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Handshake(u64);

impl Handshake {
    /// `time` is in units of 1,024 ns.
    #[inline(always)]
    pub const fn new(tag: u32, time: u32) -> Self {
        Self((tag as u64) << 32 | time as u64)
    }

    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Whether it is of the flow with this tag.
    #[inline(always)]
    pub const fn is_of(self, tag: u32) -> bool {
        self.0 != 0 && (self.0 >> 32) as u32 == tag
    }

    /// For how long it has been awaited, in units of 1,024 ns.
    #[inline(always)]
    pub const fn duration(self, now: u32) -> u32 {
        now.wrapping_sub(self.0 as u32)
    }
}

/// What there is to count about handshakes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// A first SYN.
    Opened,
    /// The same SYN once more: the first one has found no answer, or that has not found the client.
    Repeated,
    /// The client went on, so long after its first SYN, in units of 1,024 ns. Of two SYNs that came at a time, one's may be unknown.
    Answered(Option<u32>),
    /// The backend has answered a SYN by a RST, which only is seen where replies pass.
    Refused,
}

/// How many ranges of time are told apart.
pub const RANGES: usize = 10;

/// The first range ends here, and each after it at four times the end of the one before; the last has none. In units of 1,024 ns: 65 us.
const FIRST_END_BITS: u32 = 6;

/// One backend's handshakes, over all CPUs. The value of the `BACKEND_HANDSHAKES` map, by backend id; the packet path writes it. One
/// cache line; each number begins anew beyond 2^32.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Handshakes {
    /// Of those that were answered, how many took how long.
    pub durations: [u32; RANGES],
    pub n_opened: u32,
    pub n_repeated: u32,
    pub n_refused: u32,
    /// Answered, after an unknown time.
    pub n_untimed: u32,
    /// All durations that are known, in units of 1,024 ns.
    pub time: u64,
}

const _: () = assert!(size_of::<Handshakes>() == 64);

impl Handshakes {
    /// In words of 32 bits.
    pub const WORDS: usize = 16;
    /// Where the time is, in words of 64 bits.
    pub const TIME_WORD: usize = core::mem::offset_of!(Self, time) / 8;

    /// The word that an event is counted in.
    #[inline(always)]
    pub const fn word(event: Event) -> usize {
        match event {
            Event::Answered(Some(duration)) => range(duration),
            Event::Opened => core::mem::offset_of!(Self, n_opened) / 4,
            Event::Repeated => core::mem::offset_of!(Self, n_repeated) / 4,
            Event::Refused => core::mem::offset_of!(Self, n_refused) / 4,
            Event::Answered(None) => core::mem::offset_of!(Self, n_untimed) / 4,
        }
    }

    /// The end of a range in units of 1,024 ns, which is not in it; `None` for the last.
    pub const fn end(range: usize) -> Option<u64> {
        if range + 1 < RANGES { Some(1 << (FIRST_END_BITS + 2 * range as u32)) } else { None }
    }

    /// Together with another's. Counters wrap.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        self.each(other, u32::wrapping_add, u64::wrapping_add)
    }

    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        self.each(earlier, u32::wrapping_sub, u64::wrapping_sub)
    }

    fn each(&self, other: &Self, of_word: fn(u32, u32) -> u32, of_long: fn(u64, u64) -> u64) -> Self {
        Self {
            durations: core::array::from_fn(|range| of_word(self.durations[range], other.durations[range])),
            n_opened: of_word(self.n_opened, other.n_opened),
            n_repeated: of_word(self.n_repeated, other.n_repeated),
            n_refused: of_word(self.n_refused, other.n_refused),
            n_untimed: of_word(self.n_untimed, other.n_untimed),
            time: of_long(self.time, other.time),
        }
    }

    /// Counts an event.
    pub fn count(&mut self, event: Event) {
        if let Event::Answered(Some(duration)) = event {
            self.time = self.time.wrapping_add(duration.into());
        }
        let mut words: [u32; Self::WORDS] = zerocopy::transmute!(*self);
        words[Self::word(event)] = words[Self::word(event)].wrapping_add(1);
        *self = zerocopy::transmute!(words);
    }

    /// How many were answered.
    pub fn n_answered(&self) -> u64 {
        self.durations.iter().chain([&self.n_untimed]).map(|&n| u64::from(n)).sum()
    }
}

/// The range of a duration.
#[inline(always)]
const fn range(duration: u32) -> usize {
    let bits = (duration | (1 << (FIRST_END_BITS - 1))).ilog2();
    let range = ((bits + 2 - FIRST_END_BITS) / 2) as usize;
    if range < RANGES { range } else { RANGES - 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_where_its_range_says() {
        let mut seen = [0; RANGES];
        for duration in (0..100_000).chain((0..32).map(|bit| 1 << bit)).chain([u32::MAX]) {
            let range = Handshakes::word(Event::Answered(Some(duration)));
            seen[range] += 1;
            assert!(Handshakes::end(range).is_none_or(|end| u64::from(duration) < end), "{duration} in {range}");
            assert!(range == 0 || Handshakes::end(range - 1).unwrap() <= u64::from(duration), "{duration} in {range}");
        }
        assert!(seen.iter().all(|&n| n > 0), "{seen:?}");
    }

    #[test]
    fn what_is_counted_together_stays_apart() {
        let events = [Event::Opened, Event::Repeated, Event::Refused, Event::Answered(None), Event::Answered(Some(70))];
        let mut counted = Handshakes::default();
        for (event, n) in events.into_iter().zip(1..) {
            (0..n).for_each(|_| counted.count(event));
        }
        let others = Handshakes { n_opened: 1, n_repeated: 2, n_refused: 3, n_untimed: 4, ..Default::default() };
        let durations = [0, 5, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(counted, Handshakes { durations, time: 350, ..others });
        assert_eq!((counted.n_answered(), counted.since(&others).with(&others)), (9, counted));
    }
}
