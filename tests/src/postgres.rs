//! A real PostgreSQL server, and a replica of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::unistd::{User, chown};

use crate::{Netns, Process};

const LIMIT: Duration = Duration::from_secs(30);
/// The server refuses to run as root. Debian's package makes this user.
const USER: &str = "postgres";
/// Of the user `postgres`, to log in by over TCP.
pub const PASSWORD: &str = "hedgehog";
/// Where Debian has the programs, a directory for each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A running server on loopback. Dropping it kills it.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    netns: Netns,
    port: u16,
    directory: tempfile::TempDir,
}

impl Postgres {
    /// Starts a new server, which asks for a password. Returns when it takes logins.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or the port is taken.
    pub fn start(netns: &Netns, port: u16) -> Result<Self> {
        let directory = scratch()?;
        let password_file = directory.path().join("password");
        std::fs::write(&password_file, PASSWORD)?;
        let arguments = ["--username", USER, "--auth", "scram-sha-256", "--no-sync", "--no-instructions", "--pwfile"];
        run(command(netns, "initdb")?.args(arguments).arg(&password_file).arg("--pgdata").arg(directory.path().join("data")))?;
        Self::serve(netns, port, directory, "database system is ready to accept connections")
    }

    /// Starts a replica that follows this server. Returns when it takes logins.
    ///
    /// # Errors
    /// The port is taken, or this server is gone.
    pub fn replica(&self, port: u16) -> Result<Self> {
        let directory = scratch()?;
        let arguments = ["--write-recovery-conf", "--checkpoint", "fast", "--no-sync", "--wal-method", "stream"];
        let from = ["--host", "127.0.0.1", "--port", &self.port.to_string(), "--username", USER, "--pgdata"];
        let mut copy = command(&self.netns, "pg_basebackup")?;
        run(copy.args(arguments).args(from).arg(directory.path().join("data")).env("PGPASSWORD", PASSWORD))?;
        Self::serve(&self.netns, port, directory, "database system is ready to accept read-only connections")
    }

    fn serve(netns: &Netns, port: u16, directory: tempfile::TempDir, ready: &str) -> Result<Self> {
        let mut server = command(netns, "postgres")?;
        server.arg("-D").arg(directory.path().join("data")).args(["-p", &port.to_string(), "-h", "127.0.0.1", "-k", ""]);
        server.args(["-F", "-c", "log_connections=off"]);
        let mut process = Process::start(format!("postgres {port}"), &mut server)?;
        process.wait_for_log(ready, LIMIT)?;
        Ok(Self { process, netns: netns.clone(), port, directory })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// Makes a primary of a replica. Returns when it is one.
    ///
    /// # Errors
    /// It is no replica, or gone.
    pub fn promote(&self) -> Result<()> {
        run(command(&self.netns, "pg_ctl")?.args(["promote", "--wait", "--pgdata"]).arg(self.directory.path().join("data")))
    }

    /// `kill -9`. Its children end by themselves.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// A directory that only the server's user may read, as it demands.
fn scratch() -> Result<tempfile::TempDir> {
    let user = User::from_name(USER)?.with_context(|| format!("there is no user {USER}: PostgreSQL is not installed"))?;
    let directory = tempfile::tempdir()?;
    chown(directory.path(), Some(user.uid), Some(user.gid))?;
    Ok(directory)
}

/// A command of PostgreSQL's, as its user. Changing users forgets the signal at the parent's death, so it is set again.
fn command(netns: &Netns, program: &str) -> Result<Command> {
    let mut command = netns.command("setpriv");
    command.args(["--reuid", USER, "--regid", USER, "--init-groups", "--pdeathsig", "KILL", "--"]);
    command.arg(programs()?.join(program)).current_dir("/");
    Ok(command)
}

/// Where the programs of the newest version are.
fn programs() -> Result<PathBuf> {
    let installed = std::fs::read_dir(VERSIONS).with_context(|| format!("{VERSIONS}: PostgreSQL is not installed"))?;
    let directories = installed.filter_map(|entry| Some(entry.ok()?.path().join("bin")));
    directories.filter(|bin| Path::new(bin).join("postgres").exists()).max().context("PostgreSQL's server is not installed")
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
