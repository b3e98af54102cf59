//! One named network namespace, and working in it.

use std::ffi::OsStr;
use std::fs::File;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};

/// A namespace's name. A [`crate::World`] makes the namespace, and deletes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Netns {
    name: String,
}

impl Netns {
    pub(crate) fn named(name: String) -> Self {
        Self { name }
    }

    /// As `ip netns` lists it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file that stands for the namespace.
    pub fn path(&self) -> PathBuf {
        PathBuf::from("/run/netns").join(&self.name)
    }

    /// Runs `work` on a thread of its own inside the namespace, and yields its result.
    ///
    /// Sockets that `work` opens stay in the namespace wherever they are used afterwards. A child process that it
    /// starts must end before it: children die with the thread that started them (see [`Netns::command`]).
    ///
    /// # Errors
    /// The namespace cannot be entered, or `work` fails or panics.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(self.path()).with_context(|| format!("namespace {} is not there", self.name))?;
                setns(file, CloneFlags::CLONE_NEWNET).with_context(|| format!("namespace {}: cannot enter", self.name))?;
                work()
            });
            thread.join().map_err(|panic| {
                let said = panic.downcast_ref::<String>().cloned();
                let said = said.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                anyhow!("namespace {}: {}", self.name, said.unwrap_or_else(|| "panic".into()))
            })?
        })
    }

    /// A command that runs in the namespace, and is killed when the thread that starts it ends.
    ///
    /// Through `nsenter`, not `ip netns exec`: the latter mounts another `/sys`, without the BPF file system. So `/sys`
    /// is the machine's, and `/sys/class/net` shows the machine's links, not the namespace's.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display()));
        command.args(["--", "setpriv", "--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
        command
    }

    /// Runs a command line (split at spaces) in the namespace to its end; yields what it printed.
    ///
    /// # Errors
    /// The program cannot be started, or fails; the error holds what it complained of.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command line")?;
        let output = self.command(program).args(words).output().with_context(|| format!("cannot start {program}"))?;
        if !output.status.success() {
            let complaint = String::from_utf8_lossy(&output.stderr);
            bail!("namespace {}: {line}: {}: {}", self.name, output.status, complaint.trim_end());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs commands of `ip` in the namespace, all with one process.
    ///
    /// # Errors
    /// One of them fails; those before it have been done.
    pub fn ip<S: AsRef<str>>(&self, lines: &[S]) -> Result<()> {
        ip_batch(&["-n", &self.name], lines)
    }

    /// Sets kernel parameters, named as paths under `/proc/sys/net`.
    ///
    /// # Errors
    /// A parameter does not exist in this kernel, or refuses the value.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                std::fs::write(PathBuf::from("/proc/sys/net").join(key), value)
                    .with_context(|| format!("namespace {}: sysctl net/{key} = {value}", self.name))?;
            }
            Ok(())
        })
    }

    /// The hardware address of an interface in the namespace.
    ///
    /// # Errors
    /// No such interface.
    pub fn mac(&self, interface: &str) -> Result<[u8; 6]> {
        self.enter(|| crate::frames::link_address(interface)?.addr().with_context(|| format!("{interface}: no hardware address")))
    }
}

/// Feeds `lines` to one `ip` process.
pub(crate) fn ip_batch<S: AsRef<str>>(arguments: &[&str], lines: &[S]) -> Result<()> {
    let batch: String = lines.iter().flat_map(|line| [line.as_ref(), "\n"]).collect();
    let mut child = Command::new("ip")
        .args(arguments)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip")?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes()).context("ip -batch stopped reading")?;
    }
    let output = child.wait_with_output().context("ip -batch")?;
    if !output.status.success() {
        bail!("ip {} -batch: {}\nin:\n{batch}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}
