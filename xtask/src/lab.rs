//! The tasks of `cargo xtask` that take the workspace's own crates, and the namespaces and peers of its tests. One
//! subcommand, one module.

mod bench;
mod ci;
mod demo;
mod fuzz;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use xtask::{command, ebpf, paint, setup, workspace};

/// Test and show xlb
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
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
    /// Boot other kernels in emulated machines, and run the packet path's tests there
    ///
    /// Needs no root, if nothing has to be installed: qemu emulates the processor, and kernels are fetched from Debian into
    /// the target directory by an apt configuration of their own.
    Vm(vm::Options),
    /// Look for inputs that break the packet path, the configuration's reader or the tables, for minutes or hours
    Fuzz(fuzz::Options),
    /// Run the tests, and check dependencies and documentation
    Ci {
        /// The tests have run already
        #[arg(long)]
        skip_tests: bool,
    },
}

fn main() -> ExitCode {
    xtask::exit_code(&match Cli::parse().task {
        Task::Test { arguments } => test::run(&arguments),
        Task::Demo(options) => demo::run(&options),
        Task::Bench(options) => bench::run(&options),
        Task::Vm(options) => vm::run(&options),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Ci { skip_tests } => ci::run(skip_tests),
    })
}
