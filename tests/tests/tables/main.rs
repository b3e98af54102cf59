//! From one state of the maps to the next: whatever changes, packets find a sound state before, between and after the writes.
//! Needs neither root nor the BPF toolchain; `PROPTEST_CASES` says how often.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's support stops the test when a case is wrong"
)]

mod balancer;
mod health;
mod limits;
mod membership;
mod outcome;
mod sequences;
mod world;
