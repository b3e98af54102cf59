//! What holds for every frame, on the host.

use proptest::prelude::*;

use crate::mutation::frames;

pub fn config(cases_default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases_default);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config(20_000))]

    #[test]
    fn every_frame_has_one_verdict_that_its_bytes_bear_out(frame in frames(0)) {
        xlb_tests::fuzz::packet(&frame);
    }
}
