//! Whose turn it is, in proportion to weights.

use alloc::collections::BinaryHeap;
use alloc::vec::Vec;
use core::cmp::Reverse;

/// Whose turn it is, one after the other, without end. Equal weights simply alternate.
///
/// With different weights, a turn is due once in a period of 1 / weight: after any number of turns each has had its share to
/// within one.
pub enum Turns {
    Alternate { next: usize, n: usize },
    ByDueTime(BinaryHeap<Reverse<(u64, usize, u64)>>),
}

impl Turns {
    /// Fixed-point one: large enough that the rounding of a period adds up to less than one turn over the largest region.
    const UNIT: u64 = 1 << 40;

    /// Each period's turn at its end: the heaviest come first. No weight may be 0.
    pub fn at_the_end_of_each_period(weights: &[u16]) -> Self {
        Self::new(weights, |period| period)
    }

    /// Each period's turn in its middle: turns of one are spread as evenly as can be. No weight may be 0.
    pub fn in_the_middle_of_each_period(weights: &[u16]) -> Self {
        Self::new(weights, |period| period / 2)
    }

    fn new(weights: &[u16], first_due: impl Fn(u64) -> u64) -> Self {
        if weights.windows(2).all(|pair| pair[0] == pair[1]) {
            return Self::Alternate { next: 0, n: weights.len() };
        }
        let first_turns = weights.iter().enumerate().map(|(index, &weight)| {
            let period = Self::UNIT / u64::from(weight.max(1));
            Reverse((first_due(period), index, period))
        });
        Self::ByDueTime(first_turns.collect())
    }
}

/// The index of the one whose turn it is; `None` if there is nobody.
impl Iterator for Turns {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        match self {
            Self::Alternate { next, n } => {
                let turn = *next;
                *next = (turn + 1).checked_rem(*n)?;
                Some(turn)
            }
            Self::ByDueTime(heap) => {
                let mut first = heap.peek_mut()?;
                let Reverse((due, index, period)) = *first;
                *first = Reverse((due + period, index, period));
                Some(index)
            }
        }
    }
}

/// The turns after which all begins anew, by index; those of weight 0 have none. Empty if nobody has a weight.
///
/// Each has exactly its share, unless that took more than `n_max` turns: then to within two turns.
pub fn round(weights: &[u16], n_max: usize) -> Vec<u16> {
    let taking: Vec<(u16, u16)> = (0..).zip(weights.iter().copied()).filter(|&(_, weight)| weight > 0).collect();
    let Some(divisor) = taking.iter().map(|&(_, weight)| weight).reduce(greatest_common_divisor) else { return Vec::new() };
    let n = taking.iter().map(|&(_, weight)| usize::from(weight / divisor)).sum::<usize>().min(n_max);
    let weights: Vec<u16> = taking.iter().map(|&(_, weight)| weight).collect();
    Turns::in_the_middle_of_each_period(&weights).take(n).map(|turn| taking[turn].0).collect()
}

fn greatest_common_divisor(a: u16, b: u16) -> u16 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

#[cfg(test)]
mod tests {
    use alloc::vec;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn turns_of_one_are_spread_over_the_round() {
        for (weights, expected) in [
            (&[1, 1, 1][..], &[0, 1, 2][..]),
            (&[7, 7, 0, 7], &[0, 1, 3]),
            (&[2, 1], &[0, 1, 0]),
            (&[5, 1, 1], &[0, 0, 0, 1, 2, 0, 0]),
            (&[300, 100], &[0, 0, 1, 0]),
            (&[9], &[0]),
            (&[0, 0], &[]),
            (&[], &[]),
        ] {
            assert_eq!(round(weights, 100), expected, "{weights:?}");
        }
    }

    proptest! {
        #[test]
        fn in_a_round_each_has_exactly_its_share(weights in prop::collection::vec(0u16..200, 1..40)) {
            let round = round(&weights, usize::MAX);
            let total: usize = weights.iter().map(|&weight| usize::from(weight)).sum();
            let mut counts = vec![0; weights.len()];
            round.iter().for_each(|&index| counts[usize::from(index)] += 1);
            for (count, &weight) in counts.iter().zip(&weights) {
                prop_assert_eq!(count * total, usize::from(weight) * round.len());
            }
        }

        #[test]
        fn a_round_cut_short_is_right_to_within_two_turns(weights in prop::collection::vec(1u16.., 2..10)) {
            const N: usize = 4096;
            let round = round(&weights, N);
            let total: f64 = weights.iter().map(|&weight| f64::from(weight)).sum();
            for (index, &weight) in (0..).zip(&weights) {
                let n = round.iter().filter(|&&turn| turn == index).count() as f64;
                let ideal = round.len() as f64 * f64::from(weight) / total;
                prop_assert!((n - ideal).abs() <= 2.0, "{n} turns of {}, ideal {ideal}", round.len());
            }
        }
    }
}
