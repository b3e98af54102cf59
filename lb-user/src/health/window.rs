//! How many of what was seen lately passed.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// Sums over a span of time, which slides in tenths of it.
#[derive(Clone, Debug)]
pub struct Window {
    tenth: Duration,
    /// When the first tenth began.
    began: Option<Instant>,
    /// The number of a tenth, and what passed and failed in it, in their order.
    tenths: VecDeque<(u128, Counts)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    pub passed: u64,
    pub failed: u64,
}

impl Counts {
    pub fn one(passed: bool) -> Self {
        Self { passed: passed.into(), failed: (!passed).into() }
    }

    pub fn add(&mut self, other: Self) {
        self.passed = self.passed.saturating_add(other.passed);
        self.failed = self.failed.saturating_add(other.failed);
    }

    pub fn total(self) -> u64 {
        self.passed.saturating_add(self.failed)
    }

    /// Whether at least this share failed, of at least one.
    pub fn fail(self, percent: u8) -> bool {
        self.failed > 0 && u128::from(self.failed) * 100 >= u128::from(percent) * u128::from(self.total())
    }
}

impl Window {
    const TENTHS: u128 = 10;

    pub fn new(span: Duration) -> Self {
        Self { tenth: span / Self::TENTHS as u32, began: None, tenths: VecDeque::new() }
    }

    pub fn add(&mut self, counts: Counts, now: Instant) {
        let number = self.slide(now);
        match self.tenths.back_mut() {
            Some((last, sums)) if *last == number => sums.add(counts),
            _ => self.tenths.push_back((number, counts)),
        }
    }

    /// What was added in the tenth that `now` is in, and the nine before.
    pub fn sums(&mut self, now: Instant) -> Counts {
        self.slide(now);
        self.tenths.iter().fold(Counts::default(), |mut sums, (_, counts)| {
            sums.add(*counts);
            sums
        })
    }

    pub fn clear(&mut self) {
        self.tenths.clear();
    }

    /// Forgets what is over, and yields the number of the present tenth.
    fn slide(&mut self, now: Instant) -> u128 {
        let began = *self.began.get_or_insert(now);
        let number = now.saturating_duration_since(began).as_nanos() / self.tenth.as_nanos().max(1);
        while self.tenths.front().is_some_and(|(first, _)| first + Self::TENTHS <= number) {
            self.tenths.pop_front();
        }
        number
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The definition, said a second way: by looking at all that was ever added.
        #[test]
        fn the_sums_are_of_the_last_ten_tenths(steps in prop::collection::vec((0u64..400, 0u64..5, 0u64..5), 1..60)) {
            let mut window = Window::new(Duration::from_millis(1000));
            let start = Instant::now();
            let mut at_ms = 0;
            let mut all = Vec::new();
            for (n, (gap_ms, passed, failed)) in steps.into_iter().enumerate() {
                at_ms += if n == 0 { 0 } else { gap_ms };
                let now = start + Duration::from_millis(at_ms);
                window.add(Counts { passed, failed }, now);
                all.push((at_ms / 100, passed, failed));
                let recent = all.iter().filter(|(tenth, ..)| tenth + 10 > at_ms / 100);
                let expected = recent.fold((0, 0), |(p, f), (_, passed, failed)| (p + passed, f + failed));
                let sums = window.sums(now);
                prop_assert_eq!((sums.passed, sums.failed), expected);
            }
        }
    }

    #[test]
    fn a_share_is_of_at_least_one_failure() {
        for (passed, failed, percent, fails) in
            [(0, 0, 1, false), (1, 1, 50, true), (2, 1, 50, false), (0, 1, 100, true), (9, 0, 1, false)]
        {
            assert_eq!(Counts { passed, failed }.fail(percent), fails, "{failed} of {}", passed + failed);
        }
    }
}
