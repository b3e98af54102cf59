//! `cargo xtask vm`: the packet path's tests under other kernels.
//!
//! Each kernel is a package of Debian's, booted by qemu without hardware's help, with a RAM disk that holds the test program,
//! the BPF object and what these need. Nothing of the host is shared, and the machine has no network but its own.

mod archive;
mod guest;
mod kernel;
mod machine;
mod report;

use anyhow::{Result, bail};
use clap::Args;

use crate::ebpf;
use report::Report;

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
    let payload = guest::Payload::build()?;
    let mut reports = Vec::new();
    for source in sources {
        let kernel = kernel::fetch(source)?;
        let disk = guest::ram_disk(&kernel, &payload)?;
        let log = machine::boot(&kernel, &disk, options.verbose)?;
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
