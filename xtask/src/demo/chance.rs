//! What chance alone may do.

/// Standard deviations that a claim about chance leaves room for: beyond them lies less than one try in 500 million.
const SIGMAS: f64 = 6.0;

/// By how much a backend's share of the slots may differ from its weight's, as a part of it.
const SHARE_TOLERANCE: f64 = 0.01;

/// Whether `count` of `n` flows is what chance makes of a probability of `share`.
pub fn is_plausible(count: usize, n: usize, share: f64) -> bool {
    let expected = n as f64 * share;
    (count as f64 - expected).abs() <= margin(n, share) + SHARE_TOLERANCE * expected
}

/// How far chance takes a count from its expected value: a binomial distribution's deviation, [`SIGMAS`] times.
pub fn margin(n: usize, share: f64) -> f64 {
    SIGMAS * (n as f64 * share * (1.0 - share)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_flows_over_five_backends_come_within_a_few_dozen_of_two_hundred() {
        assert!(is_plausible(200, 1000, 0.2) && is_plausible(277, 1000, 0.2) && is_plausible(123, 1000, 0.2));
        assert!(!is_plausible(279, 1000, 0.2) && !is_plausible(121, 1000, 0.2));
    }
}
