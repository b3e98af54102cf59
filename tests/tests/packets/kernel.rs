//! The same frames in the kernel.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use xlb_tests::path::host::Host;
use xlb_tests::path::kernel::{Kernel, action};
use xlb_tests::path::{choices, fixture, fullnat};

use crate::host::config;
use crate::mutation::frames;

/// The kernel takes no shorter frame for BPF_PROG_TEST_RUN.
const LEN_MIN: usize = 14;
/// A longer one stands in several buffers.
const LEN_MAX: usize = 1500;

#[test]
#[ignore = "needs root and the BPF object; run by cargo xtask test"]
fn the_kernel_does_with_every_frame_what_the_host_does() {
    let kernel = Kernel::new().unwrap();
    let interfaces = kernel.interfaces;
    let mut host = Host::new(fixture::keys(), fixture::N_SLOTS, Box::new(move |query| fixture::route(interfaces, query)));
    let (_, _, plan) = fixture::plan(interfaces);
    host.carry_out(&plan);
    host.set_links(fixture::links(interfaces));
    let seed = seed();
    let mut rng_seed = [0; 32];
    rng_seed[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &rng_seed);
    let mut runner = TestRunner::new_with_rng(config(20_000), rng);
    let ran_frames = Cell::new(0);
    let outcome = runner.run(&frames(LEN_MIN), |frame| {
        prop_assume!(frame.len() <= LEN_MAX && !choices::may_be_for_one(&frame) && !fullnat::may_be_for_one(&frame));
        let ran = kernel.run(&frame, interfaces.outside).map_err(|error| TestCaseError::fail(format!("{error:#}")))?;
        let expected = host.run(&frame, interfaces.outside);
        prop_assert_eq!(ran.verdict, expected.verdict);
        prop_assert_eq!(ran.action, action(expected.verdict));
        prop_assert_eq!(ran.frame, expected.frame);
        ran_frames.set(ran_frames.get() + 1);
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("XLB_SEED={seed} after {} frames: {error}", ran_frames.get()));
    assert!(ran_frames.get() > 0);
}

/// `XLB_SEED`, or another each time.
fn seed() -> u64 {
    let given = std::env::var("XLB_SEED").ok().map(|seed| seed.parse().expect("XLB_SEED is a number"));
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64)
}
