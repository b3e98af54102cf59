//! Which of many tries count: on a shared machine, the neighbours change from second to second.

use anyhow::{Result, ensure};

/// A floor within this fraction of the best one was measured in quiet.
pub const TOLERANCE: f64 = 0.1;

/// What a program costs.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Nanoseconds a packet over an empty program: the median of the tries that count.
    pub ns: f64,
    pub ns_min: f64,
    pub ns_max: f64,
    /// What the wrapper around an empty program took.
    pub floor_ns: f64,
    /// What the program did with the packets: `XDP_TX`, say.
    pub action: &'static str,
    /// Too few tries were quiet: the figure is of the largest group of tries that are alike.
    pub is_noisy: bool,
    pub n_kept: usize,
    pub n_tries: usize,
}

/// One measurement of a program, between two of the floor. All in nanoseconds a packet.
pub struct Try {
    /// Before and after.
    pub floors: [f64; 2],
    pub net: f64,
}

/// All tries for one figure.
pub struct Tries {
    pub made: Vec<Try>,
    pub best_floor: f64,
}

impl Default for Tries {
    fn default() -> Self {
        Self { made: Vec::new(), best_floor: f64::INFINITY }
    }
}

impl Tries {
    /// The tries whose floors are near the best one.
    pub fn quiet(&self) -> Vec<&Try> {
        self.near(self.best_floor)
    }

    fn near(&self, floor: f64) -> Vec<&Try> {
        let is_near = |one: &f64| (one / floor - 1.0).abs() <= TOLERANCE;
        self.made.iter().filter(|one| one.floors.iter().all(is_near)).collect()
    }

    /// The figure.
    ///
    /// # Errors
    /// No try at all.
    pub fn finish(&self, runs: usize, action: &'static str) -> Result<Measured> {
        let mut kept = self.quiet();
        let is_noisy = kept.len() < runs;
        if is_noisy {
            let groups = self.made.iter().map(|one| self.near(one.floors[0]));
            kept = groups.chain([kept]).max_by_key(Vec::len).unwrap_or_default();
        }
        ensure!(!kept.is_empty(), "too noisy: no two floors alike in {} tries", self.made.len());
        let mut nets: Vec<f64> = kept.iter().map(|one| one.net).collect();
        let mut floors: Vec<f64> = kept.iter().flat_map(|one| one.floors).collect();
        Ok(Measured {
            ns: median(&mut nets),
            // Sorted by the median.
            ns_min: nets[0],
            ns_max: nets[nets.len() - 1],
            floor_ns: median(&mut floors),
            action,
            is_noisy,
            n_kept: kept.len(),
            n_tries: self.made.len(),
        })
    }
}

/// The middle value, or the mean of the middle two; sorts. There is at least one value.
pub fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(tries: &[([f64; 2], f64)]) -> Tries {
        let made: Vec<_> = tries.iter().map(|&(floors, net)| Try { floors, net }).collect();
        let best_floor = made.iter().flat_map(|one| one.floors).fold(f64::INFINITY, f64::min);
        Tries { made, best_floor }
    }

    #[test]
    fn tries_with_a_disturbed_floor_do_not_count() {
        let tries = made(&[([100.0, 101.0], 10.0), ([100.0, 150.0], 99.0), ([102.0, 100.0], 12.0), ([100.0, 100.0], 11.0)]);
        let measured = tries.finish(3, "XDP_TX").unwrap();
        assert_eq!((measured.ns, measured.ns_max, measured.n_kept, measured.is_noisy), (11.0, 12.0, 3, false));
    }

    #[test]
    fn without_quiet_the_largest_group_counts_and_is_called_noisy() {
        let tries = made(&[([100.0, 101.0], 10.0), ([150.0, 150.0], 20.0), ([151.0, 150.0], 22.0)]);
        let measured = tries.finish(3, "XDP_TX").unwrap();
        assert_eq!((measured.ns, measured.n_kept, measured.is_noisy), (21.0, 2, true));
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(median(&mut [4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&mut [3.0, 1.0, 2.0]), 2.0);
    }
}
