//! What fuzzers run: each function takes any bytes, and panics if something does not hold that must.
//!
//! They stand here, and not with the fuzzer, so that `tests/fuzz.rs` runs them too where no fuzzer is installed. The fuzzer's
//! own package (`fuzz/`) has one line a target.

#![allow(clippy::expect_used, clippy::panic, reason = "this is how a fuzzer is told")]

mod bytes;
mod config;
mod packet;
mod seeds;
mod tables;

pub use config::config;
pub use packet::packet;
pub use seeds::seeds;
pub use tables::tables;

/// A target.
pub struct Target {
    pub name: &'static str,
    pub run: fn(&[u8]),
}

pub const TARGETS: &[Target] =
    &[Target { name: "packet", run: packet }, Target { name: "config", run: config }, Target { name: "tables", run: tables }];
