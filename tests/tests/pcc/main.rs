//! Per-connection consistency: no sequence of changes moves a live flow away from a backend that is alive.
//!
//! Random sequences of changes, flows and silences run through the daemon's own `compile` and `diff` and the real packet path,
//! on the host with a clock of the test's own, and in the kernel. An oracle knows for each flow which backend it began on.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's support stops the test")]

mod balancer;
mod daemon;
mod oracle;
mod sessions;
mod steps;

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};

use balancer::{Balancer, InKernel, on_host};
use lb_user::desired::{Algorithm, OnDown};
use oracle::World;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use steps::{Setting, Step, setting, steps};
use xlb_tests::path::memory::STACK_LEN;

/// In all, over the tests that run beside each other, unless `XLB_SEQUENCES` says otherwise.
const SEQUENCES: u32 = 10_000;

fn n_sequences(default: u32) -> u32 {
    std::env::var("XLB_SEQUENCES").map_or(default, |n| n.parse().expect("XLB_SEQUENCES is a number"))
}

static N_FLOWS: AtomicU64 = AtomicU64::new(0);
static N_PACKETS: AtomicU64 = AtomicU64::new(0);
static N_CHANGES: AtomicU64 = AtomicU64::new(0);

fn check(balancer: &mut impl Balancer, setting: &Setting, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(setting, balancer);
    for (n, step) in steps.iter().enumerate() {
        world.take(step).map_err(|error| TestCaseError::fail(format!("step {n}, {step:?}: {error}")))?;
    }
    N_FLOWS.fetch_add(world.n_flows, Ordering::Relaxed);
    N_PACKETS.fetch_add(world.n_packets, Ordering::Relaxed);
    N_CHANGES.fetch_add(world.n_changes, Ordering::Relaxed);
    prop_assert!(balancer.are_loads_right(), "each backend counts for the flows that it has on record");
    prop_assert_eq!(balancer.evicted(), 0, "the flow table is large enough for all flows");
    Ok(())
}

/// Tries so many sequences; fails with the shortest that `check` refuses. With a seed given (`PROPTEST_RNG_SEED`), each `part` has
/// others.
fn run(part: u64, n_sequences: u32, check: impl Fn(&Setting, &[Step]) -> Result<(), TestCaseError>) {
    let mut config = Config { cases: n_sequences, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    if let RngSeed::Fixed(seed) = &mut config.rng_seed {
        *seed = seed.wrapping_add(part);
    }
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
    run(0, n_sequences(SEQUENCES) / 2, |setting, steps| check(&mut on_host(), setting, steps));
}

#[test]
fn no_change_moves_a_live_flow_from_a_backend_that_is_alive_again() {
    run(1, n_sequences(SEQUENCES) / 2, |setting, steps| check(&mut on_host(), setting, steps));
}

/// Each sequence on the host first and then in the kernel, and both are judged by the same oracle. A part of as many, for loading
/// takes its time there.
#[test]
#[ignore = "needs root: loads BPF programs"]
fn nor_does_it_in_the_kernel() {
    let judge = || {
        let kernel = RefCell::new(InKernel::new().expect("root"));
        run(2, n_sequences(SEQUENCES) / 10, |setting, steps| {
            check(&mut on_host(), setting, steps)?;
            let mut kernel = kernel.borrow_mut();
            kernel.begin();
            check(&mut *kernel, setting, steps)
        });
        // What would break flows does break some there too.
        let broken = TestRunner::new(without_shrinking(500)).run(&(setting(), steps(60)), |(setting, steps)| {
            let mut kernel = kernel.borrow_mut();
            kernel.begin();
            is_sound_if_flows_are_forgotten(&mut *kernel, setting, &steps)
        });
        assert!(matches!(broken, Err(TestError::Fail(..))), "a packet path without a flow table passes the oracle");
    };
    let thread = std::thread::Builder::new().stack_size(STACK_LEN).spawn(judge).expect("a thread");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn without_shrinking(n_sequences: u32) -> Config {
    Config { cases: n_sequences, failure_persistence: None, max_shrink_iters: 0, ..Config::default() }
}

fn is_sound_if_flows_are_forgotten(balancer: &mut impl Balancer, setting: Setting, steps: &[Step]) -> Result<(), TestCaseError> {
    let mut world = World::new(&Setting { forgets: true, ..setting }, balancer);
    let broken = steps.iter().any(|step| world.take(step).is_err());
    prop_assert!(!broken);
    Ok(())
}

/// A test of the test: what would break flows does break some.
#[test]
fn forgetting_what_was_learnt_breaks_flows() {
    let outcome = TestRunner::new(without_shrinking(2_000))
        .run(&(setting(), steps(60)), |(setting, steps)| is_sound_if_flows_are_forgotten(&mut on_host(), setting, &steps));
    assert!(matches!(outcome, Err(TestError::Fail(..))), "a packet path without a flow table passes the oracle");
}

/// What random sequences have found, and was mended.
#[test]
fn sequences_that_once_broke_a_flow_do_so_no_more() {
    use Step::{Add, Open, Remove, Send, Wait};
    let setting = Setting {
        is_v4: false,
        algorithm: Algorithm::Maglev,
        max_load: None,
        on_down: OnDown::Remap,
        is_tracked: false,
        weights: vec![1],
        forgets: false,
    };
    // A region that grew took its slots for silent, whatever they had seen in the smaller one.
    let steps = [
        Open { client: 0, is_acknowledged: false },
        Remove(0),
        Add(2, 2),
        Wait(10),
        Send(0),
        Wait(91),
        Add(4, 2),
        Add(0, 2),
        Add(5, 1),
        Send(0),
        Add(1, 2),
        Wait(0),
        Send(0),
    ];
    check(&mut on_host(), &setting, &steps).expect("a flow goes on");
}
