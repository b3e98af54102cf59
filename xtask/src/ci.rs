//! `cargo xtask ci`: the tests, and what else has to hold but takes longer or matters less while one works.

use anyhow::{Context, Result};

use crate::{command, test, workspace};

/// Tests (unless they have run already), dependencies, documentation.
///
/// # Errors
/// Any of them is not in order.
pub fn run(skip_tests: bool) -> Result<()> {
    if !skip_tests {
        test::run(&[])?;
    }
    dependencies()?;
    documentation()?;
    println!("cargo xtask ci: all in order");
    Ok(())
}

/// Licences, sources and bans of the crates in `Cargo.lock`, by `deny.toml`.
fn dependencies() -> Result<()> {
    if command::find("cargo-deny").is_none() {
        command::run(command::cargo().args(["install", "--locked", "cargo-deny"]))
            .context("cargo-deny could not be installed; see https://embarkstudios.github.io/cargo-deny")?;
    }
    command::run(command::cargo().current_dir(workspace::root()).args(["deny", "check", "bans", "licenses", "sources"]))
}

fn documentation() -> Result<()> {
    command::run(
        command::cargo()
            .current_dir(workspace::root())
            .args(["doc", "--workspace", "--no-deps", "--features", "lb-common/alloc"])
            .env("RUSTDOCFLAGS", "-D warnings"),
    )
}
