//! The circuit breaker: a backend that fails too often gets no new flows for a while. No clock, no I/O.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::window::{Counts, Window};

/// `[service.breaker]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The share of results in `window` that must have failed, in percent.
    pub errors_percent: u8,
    pub window: Duration,
    /// Fewer results than these decide nothing.
    pub requests_min: u32,
    /// How long the first ejection takes. Each further one takes twice as long.
    pub ejection: Duration,
    pub ejection_max: Duration,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            errors_percent: 50,
            window: Duration::from_secs(30),
            requests_min: 5,
            ejection: Duration::from_secs(10),
            ejection_max: Duration::from_secs(5 * 60),
        }
    }
}

/// How many results of a half-open breaker decide.
pub const TRIALS: u64 = 3;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// All is well.
    #[default]
    Closed,
    /// Ejected, until time is up.
    Open,
    /// Time is up, and the next few results decide.
    HalfOpen,
}

/// | phase     | leaves it                                                                               |
/// |-----------|-----------------------------------------------------------------------------------------|
/// | closed    | to open once the window has enough results, and too many of them failed, if that is allowed |
/// | open      | to half-open when its time is up                                                        |
/// | half-open | after [`TRIALS`] results: to open if too many of them failed, else to closed            |
///
/// Each ejection takes twice as long as the one before, unless the breaker was closed in between for as long as the longest takes.
#[derive(Clone, Debug)]
pub struct Breaker {
    rules: Rules,
    phase: Phase,
    window: Window,
    /// What has been seen since it was half open.
    trials: Counts,
    n_ejections: u32,
    until: Option<Instant>,
    closed_since: Option<Instant>,
}

impl Breaker {
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            phase: Phase::Closed,
            window: Window::new(rules.window),
            trials: Counts::default(),
            n_ejections: 0,
            until: None,
            closed_since: None,
        }
    }

    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Ejections in a row.
    pub fn n_ejections(&self) -> u32 {
        self.n_ejections
    }

    /// Takes in results; `may_open` is asked if there is reason to open a closed one.
    pub fn observe(&mut self, counts: Counts, now: Instant, may_open: impl FnOnce() -> bool) {
        self.tick(now);
        match self.phase {
            Phase::Open => {}
            Phase::Closed => {
                self.window.add(counts, now);
                let sums = self.window.sums(now);
                let is_enough = sums.total() >= self.rules.requests_min.into();
                if is_enough && sums.fail(self.rules.errors_percent) && may_open() {
                    self.open(now);
                }
            }
            Phase::HalfOpen => {
                self.trials.add(counts);
                match self.trials.total() >= TRIALS {
                    true if self.trials.fail(self.rules.errors_percent) => self.open(now),
                    true => self.close(now),
                    false => {}
                }
            }
        }
    }

    /// What was seen until now is not to count.
    pub fn forget(&mut self) {
        self.window.clear();
        self.trials = Counts::default();
    }

    /// Lets time pass.
    pub fn tick(&mut self, now: Instant) {
        if self.phase == Phase::Open && self.until.is_some_and(|until| until <= now) {
            self.phase = Phase::HalfOpen;
            self.trials = Counts::default();
        }
    }

    /// Ends an ejection, whatever its reason; it may not be ejected any more.
    pub fn close(&mut self, now: Instant) {
        self.phase = Phase::Closed;
        self.window.clear();
        self.until = None;
        self.closed_since = Some(now);
    }

    fn open(&mut self, now: Instant) {
        let is_forgiven = |since: Instant| now.saturating_duration_since(since) >= self.rules.ejection_max;
        if self.phase == Phase::Closed && self.closed_since.is_some_and(is_forgiven) {
            self.n_ejections = 0;
        }
        self.n_ejections = self.n_ejections.saturating_add(1);
        self.phase = Phase::Open;
        self.until = Some(now + doubled(self.rules.ejection, self.n_ejections - 1, self.rules.ejection_max));
    }
}

/// A time that doubles, up to a bound; at least as it was.
pub fn doubled(time: Duration, n: u32, max: Duration) -> Duration {
    time.saturating_mul(1u32.checked_shl(n).unwrap_or(u32::MAX)).min(max.max(time))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const RULES: Rules = Rules {
        errors_percent: 50,
        window: Duration::from_secs(10),
        requests_min: 4,
        ejection: Duration::from_secs(10),
        ejection_max: Duration::from_secs(40),
    };

    /// Feeds a result a second, `+` or `-`, or `.` for none; shows the phase after each by `c`, `o` and `h`.
    fn course(results: &str) -> String {
        let mut breaker = Breaker::new(RULES);
        let mut now = Instant::now();
        let mut shown = String::new();
        for result in results.chars() {
            match result {
                '.' => breaker.tick(now),
                other => breaker.observe(Counts::one(other == '+'), now, || true),
            }
            shown.push(match breaker.phase() {
                Phase::Closed => 'c',
                Phase::Open => 'o',
                Phase::HalfOpen => 'h',
            });
            now += Duration::from_secs(1);
        }
        shown
    }

    #[test]
    fn a_row_of_results_opens_and_closes_it() {
        for (what, results, expected) in [
            ("too few decide nothing", "---+", "ccco"),
            ("a third is not half", "+-++-++-+", "ccccccccc"),
            ("what is long ago does not count", "---..........-++", "cccccccccccccccc"),
            ("three good ones close it", "----.........+++", "cccoooooooooohhc"),
            ("one of three may fail", "----.........-++++++", "cccoooooooooohhcccc"),
            (
                "two may not, and it takes twice as long",
                "----.........--+...................+",
                "cccoooooooooohhoooooooooooooooooooo",
            ),
        ] {
            assert_eq!(course(results).get(..expected.len()), Some(expected), "{what}");
        }
    }

    #[test]
    fn it_stays_closed_if_it_may_not_open() {
        let mut breaker = Breaker::new(RULES);
        for _ in 0..20 {
            breaker.observe(Counts { passed: 0, failed: 10 }, Instant::now(), || false);
        }
        assert_eq!((breaker.phase(), breaker.n_ejections()), (Phase::Closed, 0));
    }

    #[test]
    fn ejections_double_up_to_their_bound_and_are_forgiven() {
        let mut breaker = Breaker::new(RULES);
        let mut now = Instant::now();
        let eject = |breaker: &mut Breaker, now: &mut Instant| {
            let failed = Counts { passed: 0, failed: 10 };
            breaker.observe(failed, *now, || true);
            let began = *now;
            while breaker.phase() == Phase::Open {
                *now += Duration::from_secs(1);
                breaker.tick(*now);
            }
            (*now - began).as_secs()
        };
        let took: Vec<u64> = (0..5).map(|_| eject(&mut breaker, &mut now)).collect();
        assert_eq!(took, [10, 20, 40, 40, 40]);
        breaker.observe(Counts { passed: 3, failed: 0 }, now, || true);
        assert_eq!(breaker.phase(), Phase::Closed);
        now += Duration::from_secs(39);
        assert_eq!(eject(&mut breaker, &mut now), 40);
        breaker.observe(Counts { passed: 3, failed: 0 }, now, || true);
        now += Duration::from_secs(40);
        assert_eq!(eject(&mut breaker, &mut now), 10);
    }

    proptest! {
        /// The definition, said a second way: from the history of results since the last change of phase.
        #[test]
        fn the_phase_is_what_the_history_says(history in prop::collection::vec((0u64..8, any::<bool>(), any::<bool>()), 1..200)) {
            let mut breaker = Breaker::new(RULES);
            let start = Instant::now();
            let (mut phase, mut since_s, mut seen, mut first_s) = (Phase::Closed, 0u64, Vec::<(u64, bool)>::new(), None);
            let (mut ejected, mut length_s, mut closed_s) = (0u32, 0u64, None);
            let mut at_s = 0;
            for (gap_s, passed, allowed) in history {
                at_s += gap_s;
                breaker.observe(Counts::one(passed), start + Duration::from_secs(at_s), || allowed);
                if phase == Phase::Open && at_s >= since_s + length_s {
                    (phase, seen) = (Phase::HalfOpen, Vec::new());
                }
                if phase == Phase::Open {
                    prop_assert_eq!(breaker.phase(), phase);
                    continue;
                }
                seen.push((at_s, passed));
                let first = *first_s.get_or_insert(at_s);
                // A tenth of the window is a second.
                let recent: Vec<bool> =
                    seen.iter().filter(|(when, _)| phase == Phase::HalfOpen || (when - first) + 10 > at_s - first).map(|(_, passed)| *passed).collect();
                let n_failed = recent.iter().filter(|passed| !**passed).count();
                let fails = n_failed > 0 && n_failed * 2 >= recent.len();
                let opens = match phase {
                    Phase::Closed => recent.len() >= 4 && fails && allowed,
                    _ => recent.len() == 3 && fails,
                };
                if opens {
                    let is_forgiven = phase == Phase::Closed && closed_s.is_some_and(|closed_s| at_s - closed_s >= 40);
                    ejected = if is_forgiven { 1 } else { ejected + 1 };
                    length_s = (10 << (ejected - 1).min(8)).min(40);
                    (phase, since_s) = (Phase::Open, at_s);
                } else if phase == Phase::HalfOpen && recent.len() == 3 {
                    (phase, seen, closed_s) = (Phase::Closed, Vec::new(), Some(at_s));
                }
                prop_assert_eq!(breaker.phase(), phase, "at {} s", at_s);
                prop_assert_eq!(breaker.n_ejections(), ejected);
            }
        }
    }
}
