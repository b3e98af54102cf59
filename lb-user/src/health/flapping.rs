//! Backends that come and go: which do, and how long they are to be distrusted. No clock, no I/O.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

use super::breaker::doubled;

/// `[service.flapping]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// So many changes between up and down within `window` are too many.
    pub changes: u32,
    pub window: Duration,
    /// How long a backend that flaps must be up before it gets new flows; `None` gives it new flows at once.
    pub hold: Option<Duration>,
    pub hold_max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self { changes: 6, window: Duration::from_secs(5 * 60), hold: None, hold_max: Duration::from_secs(10 * 60) }
    }
}

/// A backend flaps from the change that is one too many, until it has been up for as long as it is to be distrusted: `hold`, doubled
/// with each time that it went down meanwhile; without `hold`, `window`.
#[derive(Clone, Debug)]
pub struct Flapping {
    rules: Rules,
    changes: VecDeque<Instant>,
    /// Since it flaps: how often it went down.
    n_downs: Option<u32>,
    up_since: Option<Instant>,
}

impl Flapping {
    pub fn new(rules: Rules) -> Self {
        Self { rules, changes: VecDeque::new(), n_downs: None, up_since: None }
    }

    pub fn is_flapping(&self) -> bool {
        self.n_downs.is_some()
    }

    /// Whether it is to get no new flows though it is up.
    pub fn is_held(&self) -> bool {
        self.is_flapping() && self.rules.hold.is_some()
    }

    /// How long it has to be up until it is trusted again.
    pub fn trial(&self) -> Duration {
        let n_downs = self.n_downs.unwrap_or_default();
        self.rules.hold.map_or(self.rules.window, |hold| doubled(hold, n_downs, self.rules.hold_max))
    }

    /// It has come up, or gone down.
    pub fn note_change(&mut self, is_up: bool, now: Instant) {
        self.tick(now);
        self.up_since = is_up.then_some(now);
        self.changes.push_back(now);
        while self.changes.len() > self.rules.changes as usize {
            self.changes.pop_front();
        }
        let is_full = self.changes.len() >= self.rules.changes as usize;
        let is_within = self.changes.front().is_some_and(|first| now.saturating_duration_since(*first) <= self.rules.window);
        self.n_downs = match self.n_downs {
            Some(n_downs) => Some(n_downs.saturating_add(u32::from(!is_up))),
            None => (is_full && is_within).then_some(0),
        };
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        let is_over = |since: Instant| now.saturating_duration_since(since) >= self.trial();
        if self.is_flapping() && self.up_since.is_some_and(is_over) {
            self.n_downs = None;
            self.changes.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rules(hold_s: Option<u64>) -> Rules {
        let second = Duration::from_secs;
        Rules { changes: 4, window: second(60), hold: hold_s.map(second), hold_max: second(40) }
    }

    /// Changes at these seconds, beginning with a fall; at which second, of 1000, it flaps.
    fn course(rules: Rules, changes_s: &[u64]) -> Vec<u64> {
        let mut flapping = Flapping::new(rules);
        let start = Instant::now();
        let mut is_up = true;
        let flaps = |s: &u64| {
            let now = start + Duration::from_secs(*s);
            flapping.tick(now);
            if changes_s.contains(s) {
                is_up = !is_up;
                flapping.note_change(is_up, now);
            }
            flapping.is_flapping()
        };
        (0..1000).filter(flaps).collect()
    }

    #[test]
    fn too_many_changes_are_flapping_until_it_has_been_up_for_long() {
        for (what, hold_s, changes, expected) in [
            ("three are not four", None, vec![1, 2, 3], 0..0),
            ("four are, for a window", None, vec![1, 2, 3, 4], 4..64),
            ("too far apart", None, vec![1, 21, 41, 62, 82], 0..0),
            ("a hold ends it", Some(10), vec![1, 2, 3, 4], 4..14),
            ("each fall doubles the hold", Some(10), vec![1, 2, 3, 4, 5, 6], 4..26),
            ("up to a bound", Some(10), vec![1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12], 4..52),
            ("while it is down nothing ends", Some(10), vec![1, 2, 3, 4, 5, 500], 4..520),
            ("it begins anew after", Some(10), vec![1, 2, 3, 4, 20, 21, 22], 4..14),
        ] {
            assert_eq!(course(rules(hold_s), &changes), expected.collect::<Vec<_>>(), "{what}");
        }
    }

    proptest! {
        /// Said a second way: it begins with the fourth change since it last ended, all of them within a window, and ends with the
        /// first moment at which it has been up for its trial.
        #[test]
        fn it_flaps_when_the_history_says_so(gaps in prop::collection::vec(1u64..70, 1..30), hold_s in prop::option::of(1u64..30)) {
            let changes: Vec<u64> = gaps.iter().scan(0, |at, gap| { *at += gap; Some(*at) }).collect();
            let shown = course(rules(hold_s), &changes);
            let mut expected = Vec::new();
            let (mut since, mut began): (usize, Option<usize>) = (0, None);
            for s in 0..1000 {
                let n = changes.iter().filter(|at| **at <= s).count();
                let is_change = changes.contains(&s);
                let known = n - usize::from(is_change);
                // Changes alternate, the first is a fall.
                if let Some(first) = began && known % 2 == 0 && known > 0 {
                    let n_downs = (first..known).filter(|index| index % 2 == 0).count() as u32;
                    let trial = hold_s.map_or(60, |hold| (hold << n_downs.min(20)).min(40.max(hold)));
                    if s >= changes[known - 1] + trial {
                        (since, began) = (known, None);
                    }
                }
                if is_change && began.is_none() && n >= since + 4 && changes[n - 1] - changes[n - 4] <= 60 {
                    began = Some(n);
                }
                if began.is_some() {
                    expected.push(s);
                }
            }
            prop_assert_eq!(shown, expected);
        }
    }
}
