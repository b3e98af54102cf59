//! `cargo xtask`: everything that building, testing and showing xlb takes, beyond what cargo does by itself.
//!
//! What a task needs is looked for before anything large is compiled, so that any of them works in a fresh clone, or soon
//! says what is missing.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use xtask::{command, deb, ebpf, setup, workspace};

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
    /// Build the Debian package, target/deb/xlb_VERSION_ARCH.deb
    Deb {
        /// Also has lintian look at it, and installs, upgrades and removes it in namespaces; takes root
        #[arg(long)]
        check: bool,
        /// A binary to pack that is built already
        #[arg(long, value_name = "FILE")]
        binary: Option<PathBuf>,
    },
    /// Set up, build, check formatting and lints, and run every test
    #[command(disable_help_flag = true)]
    Test(ForLab),
    /// Set up, build, and show the main job in network namespaces: under a minute after building, and nothing stays
    #[command(disable_help_flag = true)]
    Demo(ForLab),
    /// Measure nanoseconds a packet, beside a program of the usual design
    #[command(disable_help_flag = true)]
    Bench(ForLab),
    /// Boot other kernels in emulated machines, and run the packet path's tests there
    #[command(disable_help_flag = true)]
    Vm(ForLab),
    /// Look for inputs that break the packet path, the configuration's reader or the tables, for minutes or hours
    #[command(disable_help_flag = true)]
    Fuzz(ForLab),
    /// Run the tests, and check dependencies and documentation
    #[command(disable_help_flag = true)]
    Ci(ForLab),
}

/// What `xtask-lab` makes of the rest of the line, `--help` among it.
#[derive(clap::Args)]
struct ForLab {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<String>,
}

fn main() -> ExitCode {
    xtask::exit_code(&run(Cli::parse().task))
}

fn run(task: Task) -> Result<()> {
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
        Task::Deb { check, binary } => {
            let package = deb::build(binary.as_deref())?;
            if check {
                deb::check(&package)?;
            }
            println!("the package is at {}", package.display());
            Ok(())
        }
        Task::Test(rest) => lab("test", &rest, Some(setup::For::Everything)),
        // Without root these two only say so.
        Task::Demo(rest) => lab("demo", &rest, command::is_root().then_some(setup::For::Everything)),
        Task::Bench(rest) => lab("bench", &rest, command::is_root().then_some(setup::For::Building)),
        Task::Vm(rest) => lab("vm", &rest, Some(setup::For::Machines)),
        Task::Fuzz(rest) => lab("fuzz", &rest, None),
        Task::Ci(rest) => {
            let tests = !rest.arguments.iter().any(|argument| argument == "--skip-tests");
            lab("ci", &rest, tests.then_some(setup::For::Everything))
        }
    }
}

/// Finds what the task needs, and becomes `xtask-lab`, compiled if need be. A signal from the terminal then finds one process.
fn lab(task: &str, rest: &ForLab, needs: Option<setup::For>) -> Result<()> {
    let asks_for_help = rest.arguments.iter().take_while(|argument| *argument != "--").any(|it| it == "--help" || it == "-h");
    if let Some(needs) = needs.filter(|_| !asks_for_help) {
        setup::run(needs)?;
    }
    let mut command = command::cargo();
    command.args(["run", "--quiet", "--manifest-path"]).arg(workspace::root().join("Cargo.toml"));
    command.args(["--package", "xtask", "--bin", "xtask-lab", "--", task]).args(&rest.arguments);
    Err(command.exec()).context("cannot start cargo run")
}
