//! A script in a freshly booted systemd, over this machine's own files: what a unit and a package do in earnest.
//!
//! The machine is one of namespaces. It sees this machine's files through an overlay that goes with it, has its own network with
//! one cable (`xlb0`, 10.9.0.1, to `xlb1`), its own processes, control groups and BPF file system, and cannot change the
//! kernel's settings.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::Process;

const OUTER: &str = include_str!("booted/outer.sh");
const INNER: &str = include_str!("booted/inner.sh");
/// Booting takes two seconds where nobody else is at work.
const LIMIT: Duration = Duration::from_secs(120);

/// A machine that has not been booted yet.
#[derive(Debug)]
pub struct Booted {
    directory: tempfile::TempDir,
}

impl Booted {
    /// # Errors
    /// No room for temporary files.
    pub fn new() -> Result<Self> {
        Ok(Self { directory: tempfile::tempdir()? })
    }

    /// A directory that the script sees as `/mnt/shared`.
    pub fn shared(&self) -> &Path {
        self.directory.path()
    }

    /// Copies a file into that directory, under this name.
    ///
    /// # Errors
    /// It cannot be copied.
    pub fn share(&self, from: &Path, name: &str) -> Result<PathBuf> {
        let to = self.shared().join(name);
        std::fs::copy(from, &to).with_context(|| format!("{} cannot be copied", from.display()))?;
        Ok(to)
    }

    /// Boots, runs the script by `bash -eu`, and yields what it printed.
    ///
    /// # Errors
    /// systemd does not come up, or a command of the script fails; the error holds what was printed.
    pub fn run(self, script: &str) -> Result<String> {
        let directory = self.shared();
        std::fs::write(directory.join("inner.sh"), INNER)?;
        std::fs::write(directory.join("script.sh"), script)?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "--fork", "--kill-child", "bash", "-c", OUTER, "booted"]).arg(directory);
        let mut process = Process::start("a booted systemd", &mut command)?;
        let ended = process.wait(LIMIT);
        let read = |name: &str| std::fs::read_to_string(directory.join(name)).unwrap_or_default();
        let (output, status) = (read("output"), read("status"));
        ended.with_context(|| format!("the script printed:\n{output}"))?;
        ensure!(!status.is_empty(), "systemd did not get as far as the script:\n{}", process.log());
        ensure!(status.trim() == "0", "the script ended with {}:\n{output}", status.trim());
        Ok(output)
    }
}
