//! `cargo xtask fuzz`: long runs of the fuzz targets, by cargo-fuzz. Short ones are among the tests (`tests/tests/fuzz.rs`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use xlb_tests::fuzz::{TARGETS, Target, seeds};

use crate::{command, workspace};

#[derive(Args)]
pub struct Options {
    /// packet, config or tables [default: each in turn]
    target: Option<String>,
    /// How long, for each target
    #[arg(default_value_t = 300)]
    seconds: u64,
    /// Only write the seeds, made of the table of cases, to a directory
    #[arg(long, value_name = "DIRECTORY")]
    seeds: Option<PathBuf>,
}

/// Fuzzes, beginning with the seeds and with what is in `fuzz/corpus`. What leads further is kept in the target directory.
///
/// # Errors
/// An input makes a target panic: the fuzzer shows it, and where it is kept. Or cargo-fuzz or the nightly compiler is missing.
pub fn run(options: &Options) -> Result<()> {
    let known = || TARGETS.iter().map(|target| target.name).collect::<Vec<_>>().join(", ");
    let is_chosen = |target: &&Target| options.target.as_deref().is_none_or(|name| name == target.name);
    let targets: Vec<&Target> = TARGETS.iter().filter(is_chosen).collect();
    if targets.is_empty() {
        bail!("no target {}; there are {}", options.target.as_deref().unwrap_or_default(), known());
    }
    if let Some(directory) = &options.seeds {
        return targets.iter().try_for_each(|target| write_seeds(target, &directory.join(target.name)));
    }
    check_tools()?;
    targets.iter().try_for_each(|target| fuzz(target, options.seconds))
}

fn check_tools() -> Result<()> {
    if command::find("cargo-fuzz").is_none() {
        bail!("no cargo-fuzz; run: cargo install --locked cargo-fuzz");
    }
    command::output(std::process::Command::new("rustup").args(["run", "nightly", "rustc", "--version"]))
        .context("fuzzing takes a nightly compiler; run: rustup toolchain install nightly")?;
    Ok(())
}

fn fuzz(target: &Target, seconds: u64) -> Result<()> {
    let directory = workspace::target()?.join("fuzz");
    let (found, from_cases) = (directory.join("found").join(target.name), directory.join("seeds").join(target.name));
    std::fs::create_dir_all(&found)?;
    write_seeds(target, &from_cases)?;
    let committed = workspace::root().join("fuzz/corpus").join(target.name);
    let mut command = std::process::Command::new("rustup");
    command.args(["run", "nightly", "cargo", "fuzz", "run", "--target-dir"]).arg(directory.join("build"));
    // New inputs go to the first corpus; a run of the packet path stops at the longest frame.
    command.arg(target.name).args([&found, &committed, &from_cases]);
    command.args(["--", &format!("-max_total_time={seconds}"), "-max_len=4000", "-timeout=20"]);
    command.current_dir(workspace::root()).env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC").env_remove("CARGO_TARGET_DIR");
    command::run(&mut command)
        .with_context(|| format!("{}: mend it, and keep the input that shows it in fuzz/corpus/{}", target.name, target.name))
}

fn write_seeds(target: &Target, directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory)?;
    for (name, seed) in seeds(target.name) {
        std::fs::write(directory.join(&name), seed).with_context(|| format!("cannot write {name}"))?;
    }
    Ok(())
}
