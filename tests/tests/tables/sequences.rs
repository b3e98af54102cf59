//! Random sequences of changes.

use lb_user::compile::Layout;
use lb_user::tables::{Tables, diff};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use xlb_tests::path::fixture;

use crate::balancer::{Balancer, N_SLOTS};
use crate::world::{Step, World, steps};

fn live_through(steps: Vec<Step>) -> Result<Balancer, TestCaseError> {
    let mut world = World::default();
    let mut balancer = Balancer::new();
    for (n, step) in steps.into_iter().enumerate() {
        if step.recycle {
            balancer.recycle();
        }
        step.ops.into_iter().for_each(|op| world.change(op));
        let done = match step.fails {
            Some(which) => balancer.bring_about_in_part(&world.desired(), which),
            None => balancer.bring_about(&world.desired()),
        };
        done.map_err(|error| TestCaseError::fail(format!("step {n}: {error}")))?;
    }
    // Whatever failed, the next round that does not makes everything right.
    balancer.bring_about(&world.desired()).map_err(|error| TestCaseError::fail(format!("at last: {error}")))?;
    Ok(balancer)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(24), max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn packets_meet_a_sound_state_after_every_write_and_the_wanted_one_at_last(steps in steps()) {
        live_through(steps)?;
    }

    #[test]
    fn what_is_compiled_again_is_the_same_and_needs_no_writes(steps in steps()) {
        let mut world = World::default();
        steps.into_iter().flat_map(|step| step.ops).for_each(|op| world.change(op));
        let desired = world.desired();
        let empty = Layout::new(N_SLOTS);
        let (tables, layout) = fixture::compile_to_rest(&desired, &empty, &Tables::default()).unwrap();
        prop_assert_eq!(&fixture::compile_to_rest(&desired, &empty, &Tables::default()).unwrap(), &(tables.clone(), layout.clone()));
        let (again, same_layout) = fixture::compile_to_rest(&desired, &layout, &tables).unwrap();
        prop_assert!(diff(&tables, &again).is_empty());
        prop_assert_eq!(same_layout, layout);
    }
}

/// `PROPTEST_CASES`, or so many.
pub fn cases(default: u32) -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}
