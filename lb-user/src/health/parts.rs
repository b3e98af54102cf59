//! What a backend's health makes of its weight.

use std::collections::BTreeMap;

use super::State;

/// What an agent wants for a backend that is well.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Advice {
    /// Of its weight. From 1; more than 100 is more than its weight.
    Percent(u16),
    /// No new flows, and those that it has stay.
    Drain,
    /// No new flows.
    Maint,
}

impl Default for Advice {
    fn default() -> Self {
        Self::Percent(100)
    }
}

impl Advice {
    /// More is taken for this.
    pub const PERCENT_MAX: u16 = 1000;

    /// A share of nothing is how an agent drains.
    pub fn percent(percent: u32) -> Self {
        match u16::try_from(percent).unwrap_or(u16::MAX).min(Self::PERCENT_MAX) {
            0 => Self::Drain,
            percent => Self::Percent(percent),
        }
    }

    /// The one that leaves a backend the least.
    pub fn strongest(all: impl Iterator<Item = Self>) -> Self {
        let rank = |advice: &Self| match advice {
            Self::Percent(percent) => (0, u16::MAX - percent),
            Self::Drain => (1, 0),
            Self::Maint => (2, 0),
        };
        all.max_by_key(rank).unwrap_or_default()
    }
}

/// What is in force of a backend's weight, in percent, by who says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Parts {
    pub agent: u16,
    /// While its answers come slowly.
    pub degraded: u16,
}

impl Default for Parts {
    fn default() -> Self {
        Self { agent: 100, degraded: 100 }
    }
}

impl Parts {
    /// In what steps a weight is lessened: finer ones take larger tables, and follow every breath of a host.
    pub const STEPS: u16 = 20;

    /// All of them together, in steps of a twentieth; never nothing.
    pub fn steps(self) -> u16 {
        let share = u32::from(self.agent) * u32::from(self.degraded);
        let steps = ((share * u32::from(Self::STEPS) + 5_000) / 10_000).max(1);
        u16::try_from(steps).unwrap_or(u16::MAX)
    }

    /// Such as `50% of its weight`.
    pub fn in_words(self) -> String {
        match self.steps() {
            Self::STEPS => "all of its weight".to_owned(),
            steps => format!("{}% of its weight", u32::from(steps) * 100 / u32::from(Self::STEPS)),
        }
    }

    /// Those that are not all of the weight, as shares of it.
    pub fn named(self) -> BTreeMap<&'static str, f64> {
        let all = [("agent", self.agent), ("degraded", self.degraded)];
        all.into_iter().filter(|(_, percent)| *percent != 100).map(|(by, percent)| (by, f64::from(percent) / 100.0)).collect()
    }
}

/// How a backend is, and what that makes of its weight.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Condition {
    pub state: State,
    pub parts: Parts,
}

impl From<State> for Condition {
    fn from(state: State) -> Self {
        Self { state, parts: Parts::default() }
    }
}

impl Condition {
    /// Whether nothing but up and down has to be known of it.
    pub fn is_plain(self) -> bool {
        self.parts == Parts::default() && matches!(self.state, State::Unknown | State::Up | State::Down)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_rounded_to_a_twentieth_and_never_to_nothing() {
        for (percent, steps) in [(1, 1), (2, 1), (7, 1), (8, 2), (37, 7), (38, 8), (50, 10), (99, 20), (100, 20), (1000, 200)] {
            assert_eq!(Parts { agent: percent, ..Parts::default() }.steps(), steps, "{percent}%");
        }
    }

    #[test]
    fn parts_are_taken_of_each_other() {
        assert_eq!(Parts { agent: 50, degraded: 50 }.steps(), 5);
        assert_eq!(Parts { agent: 200, degraded: 50 }.steps(), Parts::STEPS);
        assert_eq!(Parts { agent: 1, degraded: 1 }.steps(), 1);
    }

    #[test]
    fn the_strongest_advice_leaves_the_least() {
        use Advice::{Drain, Maint, Percent};
        for (all, strongest) in [
            (vec![], Percent(100)),
            (vec![Percent(50), Percent(20), Percent(80)], Percent(20)),
            (vec![Drain, Percent(1)], Drain),
            (vec![Drain, Maint, Percent(1)], Maint),
        ] {
            assert_eq!(Advice::strongest(all.iter().copied()), strongest, "{all:?}");
            assert_eq!(Advice::strongest(all.iter().rev().copied()), strongest, "{all:?}");
        }
    }
}
