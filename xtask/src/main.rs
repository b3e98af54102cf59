//! `cargo xtask`: everything that building, testing and showing xlb takes, beyond what cargo does by itself.
//!
//! One subcommand, one module. `setup` finds or installs the tools, `ebpf` builds the BPF objects, and the others
//! call these two first, so that any of them works in a fresh clone.

mod bench;
mod ci;
mod command;
mod demo;
mod ebpf;
mod paint;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::paint::{Paint, RED};

/// Build, test and show xlb
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install what the build, the tests and the demo need
    ///
    /// Installs packages only on Debian and its like, and only as root; elsewhere it says what to install. When
    /// nothing is missing it changes nothing and ends at once.
    Setup,
    /// Build the BPF program to target/xlb-ebpf.o
    BuildEbpf,
    /// Build the BPF program and the `xlb` binary around it
    Build,
    /// Set up, build, check formatting and lints, and run every test
    ///
    /// As root it runs the tests in network namespaces and in the kernel too; else it lists them as not run, which in CI
    /// (the environment has CI=true) is an error.
    Test {
        /// As for `cargo test`: a filter, options, `--` and more. Then formatting and lints are not checked
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Set up, build, and show the main job in network namespaces: under a minute after building, and nothing stays
    ///
    /// Fails if anything that it shows is not so.
    Demo(demo::Options),
    /// Measure nanoseconds a packet, beside a program of the usual design
    Bench(bench::Options),
    /// Run the tests, and check dependencies and documentation
    Ci {
        /// The tests have run already
        #[arg(long)]
        skip_tests: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The chain of causes, without the backtrace that RUST_BACKTRACE would have anyhow add.
            eprintln!("{}: {error}", Paint::of(&std::io::stderr()).painted(RED, "error"));
            error.chain().skip(1).for_each(|cause| eprintln!("  because: {cause}"));
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> anyhow::Result<()> {
    match task {
        Task::Setup => setup::run(setup::For::Everything),
        Task::BuildEbpf => {
            setup::run(setup::For::Building)?;
            ebpf::build(ebpf::Object::Xlb).map(drop)
        }
        Task::Build => {
            setup::run(setup::For::Building)?;
            let xlb = ebpf::build_xlb()?;
            println!("xlb is at {}", xlb.display());
            Ok(())
        }
        Task::Test { arguments } => test::run(&arguments),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Ci { skip_tests } => ci::run(skip_tests),
    }
}
