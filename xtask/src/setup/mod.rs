//! `cargo xtask setup`: finds what is needed, installs what is missing where it knows how, else says what to install.
//!
//! Looking takes files only, no package manager: every other task calls this first, so it has to be instant when
//! nothing is missing.

mod apt;
pub mod toolchain;
mod tools;

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command;
use tools::Tool;

/// What the tools are wanted for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// The BPF object and the binary.
    Building,
    /// That, and booting other kernels.
    Machines,
    /// That, and what balances there.
    MachinePeers,
    /// What building needs, and making a Debian package.
    Packaging,
    /// That, and the tests' needs, and other balancers.
    Peers,
    /// What building needs, and the tests and the demo: peers, traffic, network namespaces.
    Everything,
}

/// Finds or installs what `purpose` needs.
///
/// # Errors
/// Something is missing, and cannot be installed on this system or by this user: the error says what to run.
pub fn run(purpose: For) -> Result<()> {
    toolchain::install_missing()?;
    match purpose {
        For::Building => Ok(()),
        For::Packaging => install_missing_tools(tools::PACKAGING_TOOLS),
        For::Machines => install_missing_tools(tools::MACHINE_TOOLS),
        For::MachinePeers => {
            install_missing_tools(tools::MACHINE_TOOLS)?;
            install_missing_tools(tools::MACHINE_PEERS)
        }
        For::Everything | For::Peers => {
            install_missing_tools(tools::TOOLS)?;
            if purpose == For::Peers {
                install_missing_tools(tools::PEERS)?;
            }
            mount_bpf_filesystem()
        }
    }
}

fn install_missing_tools(tools: &[Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().filter(|tool| !tool.is_here()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if !apt::is_here() {
        let wanted: Vec<String> = missing.iter().map(|tool| format!("  {:<10} {}", tool.binary, tool.what_for)).collect();
        bail!("these programs are needed; install them and run this again:\n{}", wanted.join("\n"));
    }
    apt::install(&packages)
}

/// The daemon pins its program and maps under `/sys/fs/bpf`: systemd mounts it, many containers do not.
fn mount_bpf_filesystem() -> Result<()> {
    const BPF_FS: &str = "/sys/fs/bpf";
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(BPF_FS)) {
        return Ok(());
    }
    if !command::is_root() {
        eprintln!("note: {BPF_FS} is not mounted; as root: mount -t bpf bpf {BPF_FS}");
        return Ok(());
    }
    if !Path::new(BPF_FS).is_dir() {
        bail!("{BPF_FS} does not exist: this kernel has no BPF file system (CONFIG_BPF_SYSCALL), or /sys is not mounted");
    }
    command::run(Command::new("mount").args(["-t", "bpf", "bpf", BPF_FS]))
}
