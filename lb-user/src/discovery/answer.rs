//! What an answer is worth: which of its addresses can be backends, and how long it holds. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::unusable;

/// Addresses taken from one answer. A name with more is a mistake or a lie; the limit keeps either from filling the maps.
pub(super) const ADDRESSES_MAX: usize = 1024;

/// The soonest that the same name is asked for again, whatever its TTL.
pub(super) const WAIT_MIN: Duration = Duration::from_secs(1);

/// What the name server said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    /// Of the family asked for, in any order.
    pub(super) addresses: Vec<IpAddr>,
    /// The shortest on the way to the addresses.
    pub(super) ttl: Duration,
}

/// What of an answer can be used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Usable {
    pub(super) addresses: BTreeSet<IpAddr>,
    /// What was left out and why; empty if nothing was. The same for the same addresses in any order.
    pub(super) left_out: String,
}

impl Answer {
    pub(super) fn usable(&self) -> Usable {
        let (mut addresses, mut unreachable) = (BTreeSet::new(), BTreeSet::new());
        for address in &self.addresses {
            match unusable(*address) {
                None => addresses.insert(*address),
                Some(_) => unreachable.insert(*address),
            };
        }
        let mut left_out = Vec::new();
        if let Some(first) = unreachable.first() {
            let reason = unusable(*first).unwrap_or_default();
            left_out.push(format!("{} that no backend can have, such as {first} ({reason})", unreachable.len()));
        }
        if let Some(first_beyond) = addresses.iter().nth(ADDRESSES_MAX).copied() {
            let beyond = addresses.split_off(&first_beyond);
            left_out.push(format!("{} beyond the first {ADDRESSES_MAX}", beyond.len()));
        }
        Usable { addresses, left_out: left_out.join(", and ") }
    }

    /// How long to wait until the name is asked for again.
    pub(super) fn wait(&self, interval: Duration) -> Duration {
        self.ttl.min(interval).max(WAIT_MIN)
    }
}

/// How long to wait after the `n_failures`-th failure in a row: soon at first, then ever longer, up to the interval.
pub(super) fn wait_after_failure(n_failures: u32, interval: Duration) -> Duration {
    let doubled = 1u32.checked_shl(n_failures.saturating_sub(1)).unwrap_or(u32::MAX);
    WAIT_MIN.saturating_mul(doubled).min(interval).max(WAIT_MIN)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn answer(addresses: &[&str]) -> Answer {
        Answer { addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(), ttl: Duration::ZERO }
    }

    #[test]
    fn addresses_that_no_backend_can_have_are_left_out() {
        let usable =
            answer(&["10.0.0.2", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.1", "10.0.0.2"]).usable();
        assert_eq!(usable.addresses, answer(&["10.0.0.1", "10.0.0.2"]).addresses.into_iter().collect());
        assert_eq!(usable.left_out, "4 that no backend can have, such as 0.0.0.0 (this is the unspecified address)");

        let usable = answer(&["::", "::1", "ff02::1", "fe80::1", "::ffff:10.0.0.1", "2001:db8::1"]).usable();
        assert_eq!(usable.addresses, answer(&["2001:db8::1"]).addresses.into_iter().collect());
    }

    #[test]
    fn of_too_many_addresses_the_first_in_order_are_kept() {
        let all: Vec<IpAddr> = (0..1030u32).rev().map(|n| Ipv4Addr::from(0x0a00_0000 + n).into()).collect();
        let usable = Answer { addresses: all, ttl: Duration::ZERO }.usable();
        assert_eq!(usable.addresses.len(), ADDRESSES_MAX);
        assert_eq!(usable.addresses.last().unwrap().to_string(), "10.0.3.255");
        assert_eq!(usable.left_out, "6 beyond the first 1024");
    }

    #[test]
    fn the_next_query_honours_ttl_and_interval() {
        for (ttl_s, interval_s, wait_s) in [(30, 60, 30), (300, 60, 60), (0, 60, 1), (5, 1, 1)] {
            let [ttl, interval, wait] = [ttl_s, interval_s, wait_s].map(Duration::from_secs);
            assert_eq!(Answer { addresses: Vec::new(), ttl }.wait(interval), wait, "ttl {ttl_s} interval {interval_s}");
        }
    }

    #[test]
    fn failures_are_retried_soon_and_then_ever_later() {
        let waits =
            |interval_s| (1..8).map(|n| wait_after_failure(n, Duration::from_secs(interval_s)).as_secs()).collect::<Vec<_>>();
        assert_eq!(waits(60), [1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(waits(3), [1, 2, 3, 3, 3, 3, 3]);
        assert_eq!(wait_after_failure(u32::MAX, Duration::from_secs(60)), Duration::from_secs(60));
    }

    proptest! {
        // Few and big.
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn nothing_unusable_and_nothing_beyond_the_limit_passes(
            addresses in prop::collection::vec(any::<IpAddr>(), 0..3000), seed in any::<u64>(),
        ) {
            let usable = Answer { addresses: addresses.clone(), ttl: Duration::ZERO }.usable();
            prop_assert!(usable.addresses.len() <= ADDRESSES_MAX);
            prop_assert!(usable.addresses.iter().all(|address| unusable(*address).is_none() && addresses.contains(address)));
            let mut shuffled = addresses;
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            prop_assert_eq!(Answer { addresses: shuffled, ttl: Duration::ZERO }.usable(), usable);
        }
    }
}
