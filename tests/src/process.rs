//! A process in a namespace that ends with its owner, and whose output can be read at any time.

use std::fs::File;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::interrupt;
use crate::wait::until;

/// A running process; dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    output: tempfile::NamedTempFile,
}

impl Process {
    /// Starts `command` (made by [`crate::Netns::command`]), with its output kept for [`Process::log`].
    ///
    /// # Errors
    /// It cannot be started. A program that is not there shows only as an early end: see [`Process::log`].
    pub fn start(name: impl Into<String>, command: &mut Command) -> Result<Self> {
        let name = name.into();
        let output = tempfile::NamedTempFile::new().context("no temporary file")?;
        // Appending, so that what both streams say ends up whole.
        let append = || File::options().append(true).open(output.path());
        // In a process group of its own: Ctrl-C is for its owner, who ends it.
        command.stdout(append()?).stderr(append()?).process_group(0);
        let _admission = interrupt::admission();
        let child = command.spawn().with_context(|| format!("{name}: cannot start"))?;
        Ok(Self { child, name, output })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// All that it has printed until now.
    pub fn log(&self) -> String {
        let mut log = Vec::new();
        let _ = File::open(self.output.path()).and_then(|mut file| file.read_to_end(&mut log));
        String::from_utf8_lossy(&log).into_owned()
    }

    /// The file that holds it.
    pub fn log_file(&self) -> &Path {
        self.output.path()
    }

    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("pid")?);
        kill(pid, signal).with_context(|| format!("{}: cannot send {signal}", self.name))
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// It still runs after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.name);
        until(limit, &what, || Ok(self.child.try_wait()?)).with_context(|| format!("it printed:\n{}", self.log()))
    }

    /// Waits for `text` in its output.
    ///
    /// # Errors
    /// It ends, or stays silent for `limit`.
    pub fn wait_for_log(&mut self, text: &str, limit: Duration) -> Result<()> {
        let what = format!("{} to print {text:?}", self.name);
        let seen = until(limit, &what, || {
            // Asked before the log is read: what a process prints last must not be missed.
            let ended = self.child.try_wait()?;
            match (self.log().contains(text), ended) {
                (true, _) => Ok(Some(true)),
                (false, Some(_)) => Ok(Some(false)),
                (false, None) => Ok(None),
            }
        });
        match seen {
            Ok(true) => Ok(()),
            Ok(false) => bail!("{} ended before it printed {text:?}; it printed:\n{}", self.name, self.log()),
            Err(error) => Err(error.context(format!("it printed:\n{}", self.log()))),
        }
    }

    /// SIGKILL, and waits for the end. What `kill -9` does to a backend.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}
