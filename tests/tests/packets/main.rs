//! Packets as nobody would send them: whatever comes, the packet path keeps its word about verdicts, bytes and checksums, and
//! the kernel does what the host does. `PROPTEST_CASES` says how often.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test's support stops the test when a case is wrong"
)]

mod flows;
mod host;
mod kernel;
mod mutation;
