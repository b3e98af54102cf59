//! What holds for every frame, on the host.

use lb_common::Verdict;
use lb_common::verdict::Class;
use proptest::prelude::*;
use xlb_tests::path::fixture::{self, Interfaces};
use xlb_tests::path::host::Host;
use xlb_tests::path::judge::{carries, see};

use crate::mutation::frames;

pub const INTERFACES: Interfaces = Interfaces { outside: 2, inside: 3 };

pub fn host() -> Host {
    let mut host = Host::new(fixture::keys(), fixture::N_SLOTS, Box::new(|query| fixture::route(INTERFACES, query)));
    let (_, _, plan) = fixture::plan(INTERFACES);
    host.carry_out(&plan);
    host.set_links(fixture::links(INTERFACES));
    host
}

pub fn config(cases_default: u32) -> ProptestConfig {
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(cases_default);
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

/// Positions of the bytes that differ.
fn changed(before: &[u8], after: &[u8]) -> Vec<usize> {
    (0..before.len()).filter(|&at| before[at] != after[at]).collect()
}

/// Whether a packet to this address is for a DSR service of the fixture.
fn is_dsr(frame: &[u8]) -> Option<bool> {
    let seen = see(frame)?;
    let services = fixture::desired(INTERFACES).services;
    let service = services
        .values()
        .find(|service| service.vip == seen.destination.ip() && (service.port == seen.destination.port() || service.port == 0))?;
    Some(service.forward == lb_user::desired::Forward::Dsr)
}

proptest! {
    #![proptest_config(config(20_000))]

    #[test]
    fn every_frame_has_one_verdict_that_its_bytes_bear_out(frame in frames(0)) {
        thread_local!(static HOST: Host = host());
        HOST.with(|host| -> Result<(), TestCaseError> {
            let before = *host.totals.borrow();
            let outcome = host.run(&frame, INTERFACES.outside);
            let after = *host.totals.borrow();
            prop_assert_eq!(after.received, before.received + 1);
            let counted: Vec<_> = Verdict::ALL.iter().copied().filter(|&v| after.of(v) != before.of(v)).collect();
            prop_assert_eq!(counted, vec![outcome.verdict]);
            prop_assert_eq!(after.verdicts.iter().sum::<u64>(), after.received);
            prop_assert!(outcome.verdict != Verdict::Internal);

            // What is told to a sender is another packet.
            if outcome.verdict == Verdict::TooBig {
                return Ok(());
            }
            if outcome.frame.len() != frame.len() {
                prop_assert!(carries(&outcome.frame, &frame), "a tunnel changes nothing of what is inside");
                return Ok(());
            }
            let changed = changed(&frame, &outcome.frame);
            if outcome.verdict.class() != Class::Forwarded {
                prop_assert!(changed.is_empty(), "{:?} changed bytes {:?}", outcome.verdict, changed);
                return Ok(());
            }
            if is_dsr(&frame) == Some(true) && outcome.verdict != Verdict::EchoReply {
                prop_assert!(changed.iter().all(|&at| at < 12), "dsr changed bytes {:?}", changed);
            }
            if let Some(seen) = see(&frame) {
                let forwarded = see(&outcome.frame);
                let checksums = forwarded.map(|seen| seen.checksums);
                prop_assert_eq!(checksums, Some(seen.checksums), "{:?}", outcome.verdict);
            }
            Ok(())
        })?;
    }
}
