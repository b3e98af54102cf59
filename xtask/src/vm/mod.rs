//! `cargo xtask vm`: the packet path's tests under other kernels.
//!
//! Each kernel is a package of Debian's, booted by qemu without hardware's help, with a RAM disk that holds the test program,
//! the BPF object and what these need. Nothing of the host is shared, and the machine has no network but its own.

mod archive;
pub mod guest;
pub mod kernel;
pub mod machine;
mod report;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{command, ebpf, workspace};
use guest::Payload;
use report::Report;

/// The test program, of the package `xlb-tests`, and what it calls.
const TEST: &str = "path_kernel";
const PROGRAMS: &[&str] = &["ip", "ethtool", "sysctl"];
/// What it takes of the kernel beyond what is built in.
const MODULES: &[&str] = &["veth"];

/// What an emulated processor may take to load the program, in milliseconds: about twenty times as long as a real one.
const LOAD_MS_MAX: u32 = 60_000;

#[derive(Args)]
pub struct Options {
    /// Kernels by version: 5.10, 6.1, 6.12, newest [default: all of them]
    kernels: Vec<String>,
    /// Print what the machines print
    #[arg(long)]
    verbose: bool,
}

/// Builds, fetches the kernels, runs the tests on each, and prints a table.
///
/// # Errors
/// A kernel cannot be fetched or does not boot, or a test fails on one.
pub fn run(options: &Options) -> Result<()> {
    let sources = kernel::chosen(&options.kernels)?;
    ebpf::build(ebpf::Object::Xlb)?;
    let mut payload = Payload::new(PROGRAMS)?;
    payload.own_program(&build_test()?, TEST)?;
    payload.add("xlb-ebpf.o", &ebpf::path(ebpf::Object::Xlb)?)?;
    let job = format!(
        "export XLB_OBJECT=/xlb-ebpf.o XLB_LOAD_MS_MAX={LOAD_MS_MAX} RUST_BACKTRACE=0\n\
         /bin/{TEST} --include-ignored --test-threads=1"
    );
    let mut reports = Vec::new();
    for source in sources {
        let kernel = kernel::fetch(source)?;
        let disk = guest::ram_disk(&kernel, &payload, MODULES, &job)?;
        let log = machine::boot(&kernel, &disk, machine::Clock::Wall, options.verbose)?;
        let report = Report::of(source, &kernel, &log);
        if !report.is_well() && !options.verbose {
            println!("{log}");
        }
        reports.push(report);
    }
    report::print(&reports);
    let ill: Vec<&str> = reports.iter().filter(|report| !report.is_well()).map(|report| report.version.as_str()).collect();
    if !ill.is_empty() {
        bail!("not everything holds on Linux {}", ill.join(", "));
    }
    Ok(())
}

fn build_test() -> Result<PathBuf> {
    let messages = command::output(command::cargo().current_dir(workspace::root()).args([
        "test",
        "--no-run",
        "--package",
        "xlb-tests",
        "--test",
        TEST,
        "--message-format=json",
    ]))?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let executables = messages.filter(|message| message["target"]["name"] == TEST);
    let executable = executables.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    executable.context("cargo test --no-run names no program")
}
