//! Comparisons and choices without a branch. BPF has no other comparison, and to the verifier each branch in a loop over eight entries
//! doubles the ways through all that follows.

/// 1 if `a < b`, else 0.
#[inline(always)]
pub const fn less(a: u64, b: u64) -> u64 {
    borrow(a, b, a.wrapping_sub(b))
}

/// What is borrowed by a subtraction with this result (Hacker's Delight, section 2-16).
#[inline(always)]
pub const fn borrow(a: u64, b: u64, difference: u64) -> u64 {
    ((!a & b) | ((!a | b) & difference)) >> 63
}

/// `a` for 1, `b` for 0.
#[inline(always)]
pub const fn either(is_first: u64, a: u64, b: u64) -> u64 {
    b ^ ((a ^ b) & is_first.wrapping_neg())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_say_what_branches_would() {
        let numbers = [0, 1, 2, u64::MAX / 2, u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX];
        for a in numbers {
            for b in numbers {
                assert_eq!(less(a, b), u64::from(a < b), "{a} {b}");
                assert_eq!((either(1, a, b), either(0, a, b)), (a, b));
            }
        }
    }
}
