//! The packet path under test: one table of cases, run on the host and in the kernel.

#![allow(clippy::expect_used, clippy::panic, reason = "a test's support stops the test when a case is wrong")]

pub mod cases;
pub mod choices;
pub mod decap;
pub mod fixture;
pub mod fullnat;
pub mod host;
pub mod judge;
pub mod kernel;
pub mod memory;
pub mod mss;
pub mod packets;
pub mod quic;
pub mod stack;
pub mod traces;

use lb_common::Verdict;

/// What became of a packet.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    /// The frame as it left, or as it was passed or dropped.
    pub frame: Vec<u8>,
}
