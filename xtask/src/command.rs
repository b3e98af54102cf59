//! Running other programs, with errors that say which program failed and how.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::paint::{DIM, Paint};

/// `cargo` as this process was started by: the toolchain that the user chose, not another from `PATH`.
pub fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Prints the command, runs it with the terminal as its output, and fails unless it succeeds.
///
/// # Errors
/// The program cannot be started, or ends with another status than zero.
pub fn run(command: &mut Command) -> Result<()> {
    eprintln!("{}", Paint::of(&std::io::stderr()).painted(DIM, &format!("$ {}", shown(command))));
    let status = command.stdin(Stdio::null()).status().with_context(|| format!("cannot start {}", shown(command)))?;
    if !status.success() {
        bail!("{} failed: {status}", shown(command));
    }
    Ok(())
}

/// What the command writes to its standard output.
///
/// # Errors
/// The program cannot be started, or ends with another status than zero; the error then holds what it complained of.
pub fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {}", shown(command)))?;
    if !output.status.success() {
        bail!("{} failed: {}\n{}", shown(command), output.status, String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it, without the environment that it is given.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(program).chain(command.get_args()).map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// The program's path: looked for in `PATH`, then where cargo installs programs, then where Debian keeps those of
/// the administrator, which a plain user's `PATH` lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = [cargo_home().join("bin"), "/usr/sbin".into(), "/sbin".into()];
    std::env::split_paths(&path).chain(more).map(|directory| directory.join(program)).find(|path| is_executable(path))
}

/// Whether `path` is a file that can be run.
pub fn is_executable(path: &Path) -> bool {
    path.metadata().is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Where cargo keeps its registry and the programs that `cargo install` builds.
pub fn cargo_home() -> PathBuf {
    home_directory("CARGO_HOME", ".cargo")
}

/// Where rustup keeps its toolchains.
pub fn rustup_home() -> PathBuf {
    home_directory("RUSTUP_HOME", ".rustup")
}

fn home_directory(variable: &str, under_home: &str) -> PathBuf {
    std::env::var_os(variable)
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap_or_else(|| "/root".into())).join(under_home))
}

/// Whether this process may install packages, create namespaces and load BPF programs.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
