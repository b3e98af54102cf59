//! Sessions of full NAT over time: no live flow loses its source address, port and backend, none has those of another, and what
//! comes from backends reaches whose flow it is.
//!
//! Random sequences of flows, silences, strangers and changes run through the real packet path, by a pool that is soon full.

mod steps;
mod world;

use std::cell::RefCell;
use std::sync::Mutex;

use lb_user::desired::OnDown;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngSeed, TestError, TestRunner};
use steps::{Setting, Step, setting, steps};
use world::{Tally, World};
use xlb_tests::path::memory::STACK_LEN;

use crate::balancer::{Balancer, InKernel, on_host_with};

/// Over the tests that run beside each other, unless `XLB_SEQUENCES` says otherwise.
const SEQUENCES: u32 = 3_000;
const N_STEPS: usize = 80;

fn check(balancer: &mut impl Balancer, setting: &Setting, steps: &[Step]) -> Result<Tally, TestCaseError> {
    let mut world = World::new(setting, balancer);
    for (n, step) in steps.iter().enumerate() {
        world.take(step).map_err(|error| TestCaseError::fail(format!("step {n}, {step:?}: {error}")))?;
    }
    Ok(world.tally)
}

/// Tries so many sequences; fails with the shortest that breaks something.
fn run(part: u64, n_sequences: u32, check: impl Fn(&Setting, &[Step]) -> Result<Tally, TestCaseError>) {
    let mut config = Config { cases: n_sequences, failure_persistence: None, max_shrink_iters: 20_000, ..Config::default() };
    if let RngSeed::Fixed(seed) = &mut config.rng_seed {
        *seed = seed.wrapping_add(part);
    }
    let tally = Mutex::new(Tally::default());
    let outcome = TestRunner::new(config).run(&(setting(), steps(N_STEPS)), |(setting, steps)| {
        tally.lock().expect("one thread").add(check(&setting, &steps)?);
        Ok(())
    });
    if let Err(TestError::Fail(reason, (setting, steps))) = outcome {
        panic!("{reason}\n{setting:?}\n{steps:#?}");
    }
    let tally = tally.into_inner().expect("one thread");
    println!("{n_sequences} sequences: {tally:?}");
    // What never came up was not tested.
    let Tally { flows, packets, answers, strangers, refused, taken_over, changes } = tally;
    assert!([flows, packets, answers, strangers, refused, taken_over, changes].iter().all(|&n| n > u64::from(n_sequences) / 10));
}

fn on_host(setting: &Setting, steps: &[Step]) -> Result<Tally, TestCaseError> {
    check(&mut on_host_with(&setting.pool), setting, steps)
}

#[test]
fn a_live_flow_keeps_its_port_and_its_answers() {
    run(10, crate::n_sequences(SEQUENCES) / 2, on_host);
}

#[test]
fn a_live_flow_keeps_its_port_and_its_answers_again() {
    run(11, crate::n_sequences(SEQUENCES) / 2, on_host);
}

/// Each sequence on the host first and then in the kernel, and both are judged by the same. A part of as many, for the kernel's maps
/// are read and written as a whole where time passes.
#[test]
#[ignore = "needs root: loads BPF programs"]
fn so_it_does_in_the_kernel() {
    let judge = || {
        let pool = steps::pool(2, 1, 24);
        let kernel = RefCell::new(InKernel::with_pool(&pool).expect("root"));
        let in_both = |setting: &Setting, steps: &[Step]| {
            let setting = Setting { pool: pool.clone(), ..setting.clone() };
            on_host(&setting, steps)?;
            let mut kernel = kernel.borrow_mut();
            kernel.begin();
            check(&mut *kernel, &setting, steps)
        };
        let (setting, steps) = another_in_its_place();
        in_both(&setting, &steps).expect("nobody waits for it");
        run(12, crate::n_sequences(SEQUENCES) / 10, in_both);
    };
    let thread = std::thread::Builder::new().stack_size(STACK_LEN).spawn(judge).expect("a thread");
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

/// A backend gets the id of another, and sends to where that one had a session.
fn another_in_its_place() -> (Setting, Vec<Step>) {
    use Step::{Add, Open, Remove, Stray, Wait};
    let pool = steps::pool(1, 1, 24);
    let setting = Setting { pool, services: vec![0], idle: [40, 8], on_down: OnDown::Remap, n_hosts: 1 };
    let steps = [
        Open { service: 0, client: 0, port: 0, is_answered: true },
        Remove(0),
        Wait(57),
        Wait(57),
        Wait(2),
        Add(1),
        Stray { nth: 0, host: 1, port: 8080, is_tcp: true },
    ];
    (setting, steps.into())
}

#[test]
fn a_backend_that_has_the_id_of_another_has_none_of_its_sessions() {
    let (setting, steps) = another_in_its_place();
    on_host(&setting, &steps).expect("nobody waits for it");
}
