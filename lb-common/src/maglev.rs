//! Maglev consistent hashing (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4),
//! weighted: backends take turns in proportion to their weights, and at each turn claim the next free slot of their own permutation.
//!
//! Two differences from the paper. Tables have a power of two of slots instead of a prime, so that a region can grow while
//! every flow's new slot is known from its old one; and the permutation is a keyed bijection of the slot's bits instead of
//! `offset + j * skip`, which needs the prime and makes the permutations of different backends resemble each other.

use crate::hash::avalanche;
use crate::limits::{REGION_BITS_MAX, REGION_BITS_MIN, SLOTS_PER_BACKEND};
use crate::turns::Turns;
use alloc::vec;
use alloc::vec::Vec;

/// One backend that may own slots.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Candidate {
    /// What identifies the backend on every node and across restarts: a hash of its address and port.
    pub identity: u64,
    /// 0 owns no slot.
    pub weight: u16,
}

/// Marks a slot without owner in [`populate`]'s result: no candidate has a weight.
pub const NOBODY: u16 = u16::MAX;

/// The logarithm of the number of slots that keep each candidate's share within 1% of its weight.
///
/// Bounded by [`REGION_BITS_MAX`]: beyond it, the shares of the least-weighted candidates are rounded more coarsely.
pub fn region_bits(candidates: &[Candidate]) -> u32 {
    let weights = || candidates.iter().map(|candidate| u64::from(candidate.weight)).filter(|&weight| weight > 0);
    let Some(least) = weights().min() else { return REGION_BITS_MIN };
    let wanted = weights().sum::<u64>().div_ceil(least) * u64::from(SLOTS_PER_BACKEND);
    wanted.next_power_of_two().ilog2().clamp(REGION_BITS_MIN, REGION_BITS_MAX)
}

/// For each of `2^bits` slots the index of the candidate that owns it, or [`NOBODY`] in all of them.
///
/// The result depends on the set of candidates only, not on their order. Takes about `2^bits * ln(2^bits)` steps.
/// At most 65,535 candidates; identities must differ.
pub fn populate(candidates: &[Candidate], bits: u32) -> Vec<u16> {
    let n_slots = 1usize << bits;
    let mut owners = vec![NOBODY; n_slots];
    let mut claimants: Vec<Claimant> = candidates
        .iter()
        .enumerate()
        .filter(|(_, candidate)| candidate.weight > 0)
        .map(|(index, candidate)| Claimant::new(index as u16, candidate, bits))
        .collect();
    claimants.sort_unstable_by_key(|claimant| claimant.identity);
    let weights: Vec<u16> = claimants.iter().map(|claimant| claimant.weight).collect();
    Turns::at_the_end_of_each_period(&weights).take(n_slots).for_each(|turn| claimants[turn].claim(&mut owners));
    owners
}

/// Slots tried for one slot of a candidate that is out: with half of all candidates out, none of them serves with probability `2^-64`.
const STAND_INS: u64 = 64;

/// The owners while some candidates are out: each of their slots goes to the owner of another slot, chosen by the slot's own
/// fixed sequence of pseudo-random slots, the first whose owner serves.
///
/// Populating anew without those who are out would also move a few percent of the slots between candidates who serve. Here a
/// slot moves only if its own owner goes or comes back, whatever the order of failures; in return shares are as even as
/// chance makes them, not to one slot. All weights count, for a slot is chosen as often as its owner has slots.
pub fn stand_in(owners: &[u16], serves: impl Fn(u16) -> bool) -> Vec<u16> {
    let mask = owners.len() as u64 - 1;
    let serving = |&owner: &u16| owner != NOBODY && serves(owner);
    let Some(last_resort) = owners.iter().copied().find(serving) else { return vec![NOBODY; owners.len()] };
    let replace = |(slot, owner): (usize, &u16)| {
        if serving(owner) {
            return *owner;
        }
        let mut sequence = (0..STAND_INS).map(|n| owners[(avalanche((slot as u64) << 8 | (n + 1)) & mask) as usize]);
        sequence.find(serving).unwrap_or(last_resort)
    };
    owners.iter().enumerate().map(replace).collect()
}

/// A candidate with its way through its permutation of the slots.
struct Claimant {
    index: u16,
    weight: u16,
    identity: u64,
    permutation: Permutation,
    next: u32,
}

impl Claimant {
    fn new(index: u16, candidate: &Candidate, bits: u32) -> Self {
        let permutation = Permutation::new(candidate.identity, bits);
        Self { index, weight: candidate.weight, identity: candidate.identity, permutation, next: 0 }
    }

    /// Takes the first free slot in the order of its permutation. There is one: as many turns as slots are given.
    fn claim(&mut self, owners: &mut [u16]) {
        loop {
            let slot = self.permutation.at(self.next) as usize;
            self.next += 1;
            if owners[slot] == NOBODY {
                owners[slot] = self.index;
                return;
            }
        }
    }
}

/// A pseudo-random bijection of `bits`-bit numbers: odd multiplications, additions and xor-shifts are each invertible modulo `2^bits`.
struct Permutation {
    add: u32,
    multiply: [u32; 2],
    mask: u32,
    shift: u32,
}

impl Permutation {
    fn new(identity: u64, bits: u32) -> Self {
        let first = avalanche(identity ^ 0x9e37_79b9_7f4a_7c15);
        let second = avalanche(first.wrapping_add(identity));
        Self {
            add: first as u32,
            multiply: [(first >> 32) as u32 | 1, second as u32 | 1],
            mask: ((1u64 << bits) - 1) as u32,
            shift: bits.div_ceil(2),
        }
    }

    fn at(&self, n: u32) -> u32 {
        let mut x = n.wrapping_add(self.add).wrapping_mul(self.multiply[0]) & self.mask;
        x ^= x >> self.shift;
        x = x.wrapping_mul(self.multiply[1]) & self.mask;
        x ^ x >> self.shift
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn candidates(weights: &[u16]) -> Vec<Candidate> {
        weights.iter().enumerate().map(|(i, &weight)| Candidate { identity: avalanche(i as u64 + 1), weight }).collect()
    }

    fn shares(owners: &[u16], n: usize) -> Vec<usize> {
        let mut shares = vec![0; n];
        for &owner in owners {
            shares[owner as usize] += 1;
        }
        shares
    }

    fn moved(before: &[u16], after: &[u16]) -> f64 {
        before.iter().zip(after).filter(|(a, b)| a != b).count() as f64 / before.len() as f64
    }

    #[test]
    fn a_permutation_visits_every_slot_once() {
        for bits in [10, 11, 16, 17] {
            for identity in 0..50 {
                let permutation = Permutation::new(avalanche(identity), bits);
                let mut seen = vec![false; 1 << bits];
                (0..1 << bits).for_each(|n| seen[permutation.at(n) as usize] = true);
                assert!(seen.iter().all(|&seen| seen));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
        #[test]
        fn each_share_is_within_one_percent_of_its_weight(weights in prop::collection::vec(1u16..300, 1..60)) {
            let candidates = candidates(&weights);
            let bits = region_bits(&candidates);
            let shares = shares(&populate(&candidates, bits), weights.len());
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            for (share, weight) in shares.iter().zip(&weights) {
                let ideal = (1u64 << bits) as f64 * f64::from(*weight) / total as f64;
                prop_assert!((*share as f64 - ideal).abs() <= ideal * 0.01, "{} slots for weight {weight}, ideal {ideal}", share);
            }
        }

        #[test]
        fn the_order_of_candidates_does_not_matter(weights in prop::collection::vec(0u16..50, 2..20)) {
            let forward = candidates(&weights);
            let backward: Vec<_> = forward.iter().rev().copied().collect();
            let n = weights.len() as u16;
            let flipped: Vec<u16> = populate(&backward, 12).into_iter().map(|i| if i == NOBODY { i } else { n - 1 - i }).collect();
            prop_assert_eq!(populate(&forward, 12), flipped);
        }
    }

    #[test]
    fn extreme_weights_hold_their_shares_too() {
        let mut weights = vec![1; 9];
        weights.push(u16::MAX);
        let candidates = candidates(&weights);
        let bits = region_bits(&candidates);
        let shares = shares(&populate(&candidates, bits), 10);
        let unit = (1u64 << bits) as f64 / 65_544.0;
        assert!(shares[..9].iter().all(|&share| (share as f64 - unit).abs() < unit * 0.01), "{shares:?}, ideal {unit}");
    }

    #[test]
    fn a_removed_backend_moves_little_more_than_its_own_share() {
        // The paper's figure 12 reports a few percent of disruption besides the unavoidable share.
        for n in [3usize, 5, 20, 100] {
            let all = candidates(&vec![1; n]);
            let bits = region_bits(&all);
            let before = populate(&all, bits);
            let mut one_less = all.clone();
            one_less[n / 2].weight = 0;
            let ideal = 1.0 / n as f64;
            let moved = moved(&before, &populate(&one_less, bits));
            assert!(moved >= ideal * 0.99 && moved - ideal < 0.04, "{n} backends: {moved:.4} moved, ideal {ideal:.4}");
        }
    }

    #[test]
    fn a_small_service_grows_to_eight_backends_with_little_more_than_the_ideal_disruption() {
        let all = candidates(&[1; 8]);
        for (n_before, n_after) in [(1, 2), (3, 5), (4, 5), (4, 8), (7, 8)] {
            let populated = |n: usize| populate(&all[..n], region_bits(&all[..n]));
            let (before, after) = (populated(n_before), populated(n_after));
            assert_eq!(before.len(), after.len(), "{n_before} to {n_after}: another region");
            let ideal = (n_after - n_before) as f64 / n_after as f64;
            let moved = moved(&before, &after);
            assert!(moved - ideal < 0.04, "{n_before} to {n_after}: {moved:.4} moved, ideal {ideal:.4}");
        }
    }

    #[test]
    fn a_failure_moves_only_the_failed_ones_slots_and_its_return_moves_them_back() {
        let all = candidates(&[1, 2, 3, 4, 5]);
        let owners = populate(&all, region_bits(&all));
        let mut before = owners.clone();
        let mut out = [false; 5];
        // Down and up in every order that three steps make, and back to all up.
        for failing in [0usize, 3, 1, 3, 4, 0, 4, 1] {
            out[failing] = !out[failing];
            let after = stand_in(&owners, |owner| !out[usize::from(owner)]);
            for (slot, (&was, &is)) in before.iter().zip(&after).enumerate() {
                let concerns_it = usize::from(was) == failing || usize::from(is) == failing;
                assert!(was == is || concerns_it, "slot {slot} went from {was} to {is} when {failing} changed");
                assert!(!out[usize::from(is)]);
            }
            before = after;
        }
        assert_eq!(before, owners);
    }

    #[test]
    fn those_who_serve_share_the_slots_of_those_who_are_out_by_weight() {
        for n in [3usize, 5, 20, 100] {
            let all = candidates(&vec![1; n]);
            let owners = populate(&all, region_bits(&all));
            let shares = shares(&stand_in(&owners, |owner| owner != 0), n);
            let ideal = owners.len() as f64 / (n - 1) as f64;
            let worst = shares[1..].iter().map(|&share| (share as f64 - ideal).abs() / ideal).fold(0.0, f64::max);
            assert!(shares[0] == 0 && worst < 0.05, "{n} backends: {:.1}% from the ideal", worst * 100.0);
        }
    }

    #[test]
    fn nobody_stands_in_when_all_are_out() {
        assert!(stand_in(&populate(&candidates(&[1, 1]), 10), |_| false).iter().all(|&owner| owner == NOBODY));
    }

    #[test]
    fn nobody_owns_slots_when_no_candidate_has_weight() {
        assert!(populate(&candidates(&[0, 0]), 10).iter().all(|&owner| owner == NOBODY));
        assert!(populate(&[], 10).iter().all(|&owner| owner == NOBODY));
    }

    #[test]
    fn the_most_backends_that_a_service_may_have_fit() {
        let all = candidates(&vec![1; 65_535]);
        let bits = region_bits(&all);
        assert_eq!(bits, REGION_BITS_MAX);
        let shares = shares(&populate(&all, bits), all.len());
        assert!(shares.iter().all(|share| (128..=129).contains(share)));
    }
}
