//! What a row of probe results means. No clock, no I/O: the same results give the same states.

use std::fmt;

use serde::Serialize;

/// Whether a backend serves.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Nothing is known yet; it does not serve.
    #[default]
    Unknown,
    Up,
    /// Its answers come slowly: it has a part of its weight.
    Degraded,
    /// Its agent wants it to have no new flows, and to keep those that it has.
    Drain,
    /// Its agent says that it is being worked on.
    Maint,
    /// Its circuit breaker is open: too many of its results were failures.
    Ejected,
    /// It is up, and has come and gone too often to be trusted yet.
    Held,
    Down,
}

impl State {
    /// Whether new flows may go there.
    pub fn serves(self) -> bool {
        matches!(self, Self::Up | Self::Degraded)
    }

    /// Whether it is out though its checks pass, for they have not always.
    pub fn is_distrusted(self) -> bool {
        matches!(self, Self::Ejected | Self::Held)
    }

    /// Whether its checks pass, whatever else keeps new flows away.
    pub fn passes(self) -> bool {
        !matches!(self, Self::Unknown | Self::Down)
    }

    /// Whether it may keep the flows that it has, as one that drains.
    pub fn keeps_flows(self) -> bool {
        self.passes() && self != Self::Maint
    }

    /// Whether it is out on purpose, which is no failure.
    pub fn is_meant(self) -> bool {
        matches!(self, Self::Drain | Self::Maint)
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Drain => "drain",
            Self::Maint => "maint",
            Self::Ejected => "ejected",
            Self::Held => "held",
            Self::Down => "down",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// The state of one backend, and the row of equal results that stands behind it.
///
/// | state   | leaves it                                          |
/// |---------|----------------------------------------------------|
/// | unknown | to up at the first success, to down at `fall` failures in a row |
/// | up      | to down at `fall` failures in a row                |
/// | down    | to up at `rise` successes in a row                 |
///
/// From unknown one success is enough: a backend that answers its first probe has no history to be distrusted for, and
/// after a start of the daemon every second without backends counts.
#[derive(Clone, Debug)]
pub struct Machine {
    state: State,
    rise: u32,
    fall: u32,
    passed_in_row: u32,
    failed_in_row: u32,
}

impl Machine {
    /// A backend of which nothing is known. A `rise` or `fall` of 0 counts as 1.
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { state: State::Unknown, rise: rise.max(1), fall: fall.max(1), passed_in_row: 0, failed_in_row: 0 }
    }

    pub fn state(&self) -> State {
        self.state
    }

    /// Successes since the last failure.
    pub fn passed_in_row(&self) -> u32 {
        self.passed_in_row
    }

    /// Failures since the last success.
    pub fn failed_in_row(&self) -> u32 {
        self.failed_in_row
    }

    /// Takes the next result, and yields the state that was left if that changed it.
    pub fn observe(&mut self, passed: bool) -> Option<State> {
        let (row, other) = match passed {
            true => (&mut self.passed_in_row, &mut self.failed_in_row),
            false => (&mut self.failed_in_row, &mut self.passed_in_row),
        };
        *row = row.saturating_add(1);
        *other = 0;

        let next = match self.state {
            State::Unknown if passed => State::Up,
            State::Unknown | State::Up if self.failed_in_row >= self.fall => State::Down,
            State::Down if self.passed_in_row >= self.rise => State::Up,
            unchanged => unchanged,
        };
        let left = std::mem::replace(&mut self.state, next);
        (left != next).then_some(left)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds results, `+` passed and `-` failed, and shows the state after each by its first letter.
    fn states(rise: u32, fall: u32, results: &str) -> String {
        let mut machine = Machine::new(rise, fall);
        let after = |result| {
            machine.observe(result == '+');
            machine.state().to_string().remove(0)
        };
        results.chars().map(after).collect()
    }

    #[test]
    fn rows_of_results_make_states() {
        let cases = [
            ("one success is enough at first", 3, 3, "+", "u"),
            ("at first, failures are counted too", 2, 2, "--", "ud"),
            ("a success between failures starts over", 2, 3, "+--+--+---", "uuuuuuuuud"),
            ("a failure between successes starts over", 3, 1, "+-++-+++", "uddddddu"),
            ("at first, too few failures do not decide", 2, 3, "--+", "uuu"),
            ("rise 1 and fall 1 follow every result", 1, 1, "+-+-", "udud"),
            ("0 counts as 1", 0, 0, "+-+", "udu"),
        ];
        for (what, rise, fall, results, expected) in cases {
            assert_eq!(states(rise, fall, results), expected, "{what}");
        }
    }

    #[test]
    fn unknown_and_up_are_told_apart() {
        let mut machine = Machine::new(2, 3);
        assert_eq!((machine.observe(false), machine.state()), (None, State::Unknown));
        assert_eq!((machine.observe(true), machine.state()), (Some(State::Unknown), State::Up));
        assert_eq!((machine.observe(false), machine.state()), (None, State::Up));
    }

    proptest! {
        /// The definition, said a second way: by looking at the whole history.
        #[test]
        fn the_state_is_what_the_history_says(rise in 1u32..5, fall in 1u32..5, history in prop::collection::vec(any::<bool>(), 0..60)) {
            let mut machine = Machine::new(rise, fall);
            let mut state = State::Unknown;
            for n in 1..=history.len() {
                let seen = &history[..n];
                let ends_in = |result: bool, length: u32| {
                    let length = length as usize;
                    n >= length && seen[n - length..].iter().all(|one| *one == result)
                };
                let before = state;
                state = match before {
                    State::Unknown if ends_in(true, 1) => State::Up,
                    State::Down if ends_in(true, rise) => State::Up,
                    State::Unknown | State::Up if ends_in(false, fall) => State::Down,
                    same => same,
                };
                let left = machine.observe(history[n - 1]);
                prop_assert_eq!(machine.state(), state);
                prop_assert_eq!(left, (before != state).then_some(before));
                prop_assert_eq!(machine.passed_in_row() == 0, machine.failed_in_row() > 0);
            }
        }

        #[test]
        fn nothing_serves_before_a_success(fall in 1u32..5, n_failures in 0usize..20) {
            let mut machine = Machine::new(1, fall);
            (0..n_failures).for_each(|_| { machine.observe(false); });
            prop_assert!(!machine.state().serves());
        }
    }
}
