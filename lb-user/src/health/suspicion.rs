//! Passive detection: what the flows of a backend say of it between two probes. No clock, no I/O.

use std::time::Duration;

use lb_common::handshake::Handshakes;
use tokio::time::Instant;

use super::window::{Counts, Window};

/// `[service.passive]`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// The share of handshakes in `window` that must have failed, in percent.
    pub unanswered_percent: u8,
    pub window: Duration,
    /// Fewer handshakes than these decide nothing.
    pub handshakes_min: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { unanswered_percent: 50, window: Duration::from_secs(10), handshakes_min: 5 }
    }
}

/// What a backend's handshakes say: those that were answered, against SYNs that a client had to send once more, and those that
/// were refused.
///
/// That a SYN was opened and is not answered yet says nothing: it may be on its way, or of a flood, whose senders neither go on
/// nor ask once more.
pub fn counts(since: &Handshakes) -> Counts {
    Counts { passed: since.n_answered(), failed: u64::from(since.n_repeated) + u64::from(since.n_refused) }
}

/// Whether a backend is to be looked at before its next probe.
#[derive(Clone, Debug)]
pub struct Suspicion {
    rules: Rules,
    window: Window,
    n_raised: u64,
}

impl Suspicion {
    pub fn new(rules: Rules) -> Self {
        Self { rules, window: Window::new(rules.window), n_raised: 0 }
    }

    /// What was seen until now is not to count.
    pub fn forget(&mut self) {
        self.window.clear();
    }

    /// How often it was raised.
    pub fn n_raised(&self) -> u64 {
        self.n_raised
    }

    /// Takes in what has been seen since the last time. Yields what was seen in all if that raises suspicion; the next one then needs
    /// as much again.
    pub fn observe(&mut self, counts: Counts, now: Instant) -> Option<Counts> {
        self.window.add(counts, now);
        let sums = self.window.sums(now);
        let is_raised = sums.total() >= self.rules.handshakes_min.into() && sums.fail(self.rules.unanswered_percent);
        if is_raised {
            self.n_raised += 1;
            self.window.clear();
        }
        is_raised.then_some(sums)
    }
}

#[cfg(test)]
mod tests {
    use lb_common::handshake::Event;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_flood_says_nothing_and_silence_and_refusals_do() {
        let seen = |events: &[(Event, u32)]| {
            let mut handshakes = Handshakes::default();
            events.iter().for_each(|(event, n)| (0..*n).for_each(|_| handshakes.count(*event)));
            let counts = counts(&handshakes);
            (counts.passed, counts.failed)
        };
        let answered = Event::Answered(Some(100));
        assert_eq!(seen(&[(Event::Opened, 9)]), (0, 0), "a flood");
        assert_eq!(seen(&[(Event::Opened, 9), (answered, 9)]), (9, 0), "well");
        assert_eq!(seen(&[(Event::Opened, 9), (Event::Refused, 9)]), (0, 9), "refused");
        assert_eq!(seen(&[(Event::Opened, 9), (Event::Repeated, 12), (Event::Answered(None), 3)]), (3, 12), "silent");
    }

    proptest! {
        /// Said a second way: what was seen since the last suspicion, of the last ten tenths, is enough and bad enough.
        #[test]
        fn it_is_raised_when_the_history_says_so(steps in prop::collection::vec((0u64..30, 0u64..4, 0u64..4), 1..80)) {
            let mut suspicion = Suspicion::new(Rules { handshakes_min: 6, ..Rules::default() });
            let start = Instant::now();
            let mut at = 0;
            let mut seen: Vec<(u64, u64, u64)> = Vec::new();
            for (n, (gap, passed, failed)) in steps.into_iter().enumerate() {
                // A tenth of the window is a second.
                at += if n == 0 { 0 } else { gap };
                let raised = suspicion.observe(Counts { passed, failed }, start + Duration::from_millis(at * 100));
                seen.push((at / 10, passed, failed));
                let recent = seen.iter().filter(|(second, ..)| second + 10 > at / 10);
                let (passed, failed) = recent.fold((0, 0), |(p, f), (_, passed, failed)| (p + passed, f + failed));
                let is_raised = passed + failed >= 6 && failed > 0 && failed >= passed;
                prop_assert_eq!(raised.map(|sums| (sums.passed, sums.failed)), is_raised.then_some((passed, failed)));
                if is_raised {
                    seen.clear();
                }
            }
        }
    }
}
