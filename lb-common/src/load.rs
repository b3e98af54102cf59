//! What the packet path knows of how busy backends are, for algorithms that go by it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::branchless::{either, less};
use crate::flow::Tick;

/// One backend's load, over all CPUs. The value of the `BACKEND_LOADS` map, by backend id; the packet path writes it.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Load {
    /// Flows on record that have not ended ([`n_active`]): each that is recorded counts, until it ends, its place is taken or it is
    /// swept away.
    pub active: u64,
    pub response: Response,
}

const _: () = assert!(size_of::<Load>() == 16);

impl Load {
    /// Active flows. What other CPUs have taken off already and not yet put on is not less than none.
    #[inline(always)]
    pub const fn n_active(self) -> u64 {
        n_active(self.active)
    }
}

/// What a count of active flows says: none, if it is below.
///
/// Here as in all that is done for each of several backends, no branch: eight of them would be 256 ways to the verifier.
#[inline(always)]
pub const fn n_active(count: u64) -> u64 {
    count & !((count as i64 >> 63) as u64)
}

/// How long a backend takes to answer: from the SYN to the client's first packet after it, which is what there is to see where answers
/// do not come back this way. It includes the way to the client, which for all backends is the same.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Response {
    /// The moving average in units of 1,024 ns; 0 if none was seen.
    pub time: u32,
    /// When it was seen last.
    pub at: Tick,
}

/// What each flow counts for on a backend that has not answered yet: 1 ms. It is tried, and not flooded until it has.
const UNKNOWN: u32 = 1_000;

/// One part in this many of the average is the latest sample.
const SHARE: u32 = 8;

/// What is not confirmed halves in this many ticks, so that one that was slow is tried again.
const HALVED_IN: Tick = 4;

/// About a second. What takes longer was lost.
pub const RESPONSE_MAX: u32 = (1 << 20) - 1;

impl Response {
    /// How busy so many active flows make a backend of this weight: each counts for as long as an answer takes, and so does one flow
    /// more for each unit of weight, by which those are told apart that have none. Less than 2^47 for less than 2^26 flows.
    #[inline(always)]
    pub const fn busy(self, n_flows: u64, weight: u64, now: Tick) -> u64 {
        let known = (n_flows + weight) * self.expected(now) as u64;
        either(less(0, self.time as u64), known, n_flows * UNKNOWN as u64)
    }

    /// The response time to be expected now, between 1 and [`RESPONSE_MAX`].
    #[inline(always)]
    pub const fn expected(self, now: Tick) -> u32 {
        let halvings = self.age(now) / HALVED_IN;
        let if_many = (31u32.wrapping_sub(halvings) as i32 >> 31) as u32;
        self.time >> ((halvings | if_many) & 31) | 1
    }

    /// Another CPU's sample may be newer than the time that it is looked at with.
    #[inline(always)]
    const fn age(self, now: Tick) -> Tick {
        let age = now.wrapping_sub(self.at);
        age & !((age as i32 >> 31) as u32)
    }

    /// With one more sample.
    #[inline(always)]
    #[must_use]
    pub const fn with(self, sample: u32, now: Tick) -> Self {
        let sample = if sample < RESPONSE_MAX { sample | 1 } else { RESPONSE_MAX };
        let is_stale = self.time == 0 || self.age(now) >= HALVED_IN;
        let time = if is_stale { sample } else { self.time - self.time / SHARE + sample / SHARE };
        Self { time, at: now }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_average_follows_its_samples_and_fades_without() {
        let mut response = Response::default().with(800, 100);
        assert_eq!((response.time, response.expected(100)), (801, 801));
        for _ in 0..60 {
            response = response.with(8_000, 101);
        }
        assert!((7_900..=8_001).contains(&response.time), "{response:?}");
        assert_eq!((response.expected(101 + HALVED_IN), response.expected(101 + 800)), ((response.time / 2) | 1, 1));
        assert_eq!(response.with(51, 109).time, 51);
        // Of the near future, as another CPU's clock may have it.
        assert_eq!(response.expected(100), response.time | 1);
    }

    #[test]
    fn who_has_not_answered_yet_is_tried_and_not_flooded() {
        let (unknown, fast) = (Response::default(), Response::default().with(100, 0));
        assert!(unknown.busy(0, 1, 0) < fast.busy(0, 1, 0));
        assert!(unknown.busy(1, 1, 0) > fast.busy(5, 1, 0));
    }

    #[test]
    fn whatever_is_seen_the_expectation_is_within_bounds() {
        for sample in [0, 1, 7, RESPONSE_MAX, u32::MAX] {
            let response = Response::default().with(sample, 7).with(sample, 8);
            for now in [8, 16, 100, 8 + 31 * HALVED_IN, 8 + 32 * HALVED_IN] {
                assert!((1..=RESPONSE_MAX).contains(&response.expected(now)), "{sample} {now}: {response:?}");
            }
        }
    }
}
