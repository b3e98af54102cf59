//! From one state of the maps to the next: whatever changes, packets find a sound state before, between and after the writes.
//! Needs neither root nor the BPF toolchain; `PROPTEST_CASES` says how often.

mod balancer;
mod health;
mod limits;
mod outcome;
mod sequences;
mod world;
