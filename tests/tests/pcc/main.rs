//! Per-connection consistency: no sequence of changes moves a live flow away from a backend that is alive.
//!
//! Random sequences of changes, flows and silences run through the daemon's own `compile` and `diff` and the real packet path,
//! on the host with a clock of the test's own, and in the kernel. An oracle knows for each flow which backend it began on.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's support stops the test")]

mod oracle;
mod steps;

use std::sync::atomic::{AtomicU64, Ordering};

use oracle::World;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use steps::{Setting, Step, setting, steps};

/// In all, over the tests that run beside each other, unless `XLB_SEQUENCES` says otherwise.
const SEQUENCES: u32 = 10_000;

fn n_sequences() -> u32 {
    std::env::var("XLB_SEQUENCES").map_or(SEQUENCES, |n| n.parse().expect("XLB_SEQUENCES is a number"))
}

static N_FLOWS: AtomicU64 = AtomicU64::new(0);
static N_PACKETS: AtomicU64 = AtomicU64::new(0);
static N_CHANGES: AtomicU64 = AtomicU64::new(0);

fn check(setting: &Setting, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(setting);
    for (n, step) in steps.iter().enumerate() {
        world.take(step).map_err(|error| TestCaseError::fail(format!("step {n}, {step:?}: {error}")))?;
    }
    N_FLOWS.fetch_add(world.n_flows, Ordering::Relaxed);
    N_PACKETS.fetch_add(world.n_packets, Ordering::Relaxed);
    N_CHANGES.fetch_add(world.n_changes, Ordering::Relaxed);
    prop_assert!(world.are_loads_right(), "each backend counts for the flows that it has on record");
    prop_assert_eq!(world.evicted(), 0, "the flow table is large enough for all flows");
    Ok(())
}

fn run(n_sequences: u32) {
    let config = Config { cases: n_sequences, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    let outcome = TestRunner::new(config).run(&(setting(), steps(60)), |(setting, steps)| check(&setting, &steps));
    if let Err(TestError::Fail(reason, (setting, steps))) = outcome {
        panic!("{reason}\n{setting:?}\n{steps:#?}");
    }
    let (flows, packets, changes) =
        (N_FLOWS.load(Ordering::Relaxed), N_PACKETS.load(Ordering::Relaxed), N_CHANGES.load(Ordering::Relaxed));
    println!("so far: {flows} flows, {packets} packets, {changes} changes, broken 0");
}

#[test]
fn no_change_moves_a_live_flow_from_a_backend_that_is_alive() {
    run(n_sequences() / 2);
}

#[test]
fn no_change_moves_a_live_flow_from_a_backend_that_is_alive_again() {
    run(n_sequences() / 2);
}

/// A test of the test: what would break flows does break some.
#[test]
fn forgetting_what_was_learnt_breaks_flows() {
    let config = Config { cases: 2_000, failure_persistence: None, max_shrink_iters: 0, ..Config::default() };
    let outcome = TestRunner::new(config).run(&(setting(), steps(60)), |(setting, steps)| {
        let mut world = World::new(&Setting { forgets: true, ..setting });
        let broken = steps.iter().any(|step| world.take(step).is_err());
        prop_assert!(!broken);
        Ok(())
    });
    assert!(matches!(outcome, Err(TestError::Fail(..))), "a packet path without a flow table passes the oracle");
}
