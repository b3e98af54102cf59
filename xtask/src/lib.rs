//! What the tasks share: finding and installing tools, building the BPF objects, running other programs.
//!
//! Two programs are made of it. `xtask` depends on next to nothing, so that on a new machine it says within seconds what is
//! missing. `xtask-lab` tests, shows and measures with the workspace's own crates, whose compilation takes minutes; `xtask`
//! starts it when it is needed.

pub mod command;
pub mod deb;
pub mod ebpf;
pub mod paint;
pub mod setup;
pub mod workspace;

use std::process::ExitCode;

use paint::{Paint, RED};

/// Says what went wrong, if something did.
pub fn exit_code(result: &anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    // The chain of causes, without the backtrace that RUST_BACKTRACE would have anyhow add.
    eprintln!("{}: {error}", Paint::of(&std::io::stderr()).painted(RED, "error"));
    error.chain().skip(1).for_each(|cause| eprintln!("  because: {cause}"));
    ExitCode::FAILURE
}
