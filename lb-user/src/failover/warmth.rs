//! Slow start: which backends have come up lately, and how much of their weight they get.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

/// Tenths of a weight.
pub const FULL: u8 = 10;

/// What is known of each backend.
#[derive(Clone, Debug, Default)]
pub struct Warmth(BTreeMap<SocketAddr, Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    is_up: bool,
    /// It is cold when it comes up. Those of which the first word is that they are up may have served for long, unless others
    /// served when they came.
    is_cold: bool,
    since: Option<Instant>,
}

impl Warmth {
    /// Takes in each backend: whether it is up, and whether that is not known yet.
    pub fn observe(
        &mut self,
        backends: impl Iterator<Item = (SocketAddr, bool, bool)>,
        slow_start: Option<Duration>,
        now: Instant,
    ) {
        let before = std::mem::take(&mut self.0);
        let is_other_up = |one: SocketAddr| before.iter().any(|(endpoint, seen)| *endpoint != one && seen.is_up);
        for (endpoint, is_up, is_undecided) in backends {
            let known = before.get(&endpoint).copied();
            let mut seen = known.unwrap_or_else(|| Seen { is_up: false, is_cold: is_other_up(endpoint), since: None });
            let comes_up = is_up && !seen.is_up;
            // With nobody to share with, it could not be spared.
            if comes_up && seen.is_cold && is_other_up(endpoint) {
                seen.since = Some(now);
            }
            seen.is_cold |= !is_up && !is_undecided;
            let is_over = |since: &Instant| slow_start.is_none_or(|slow_start| now >= *since + slow_start);
            if !is_up || seen.since.as_ref().is_some_and(is_over) {
                seen.since = None;
            }
            seen.is_up = is_up;
            self.0.insert(endpoint, seen);
        }
    }

    /// How much of its weight a backend gets: from 1 to [`FULL`].
    pub fn tenths(&self, endpoint: SocketAddr, slow_start: Duration, now: Instant) -> u8 {
        let Some(since) = self.0.get(&endpoint).and_then(|seen| seen.since) else { return FULL };
        let n_steps = u128::from(FULL - 1);
        let passed = now.saturating_duration_since(since).as_nanos() * n_steps / slow_start.as_nanos().max(1);
        u8::try_from(passed.min(n_steps)).unwrap_or(FULL - 1) + 1
    }

    /// When somebody gets more.
    pub fn next_step(&self, slow_start: Duration, now: Instant) -> Option<Instant> {
        let next = |(&endpoint, seen): (&SocketAddr, &Seen)| {
            let n = u32::from(self.tenths(endpoint, slow_start, now));
            // A nanosecond more than a share that was rounded down.
            Some(seen.since? + slow_start * n / u32::from(FULL - 1) + Duration::from_nanos(1))
        };
        self.0.iter().filter_map(next).min()
    }

    /// All are warm from now on.
    pub fn end(&mut self) {
        self.0.values_mut().for_each(|seen| seen.since = None);
    }
}
