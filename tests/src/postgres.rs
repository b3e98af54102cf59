//! A real PostgreSQL server, and a replica of it.

use std::io::Write as _;
use std::net::SocketAddr;
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
/// A user that a test may make, and who needs no password: for clients that log in so often that SCRAM, which takes an unoptimised
/// program a tenth of a second, would be most of what they do.
pub const APPLICATION: &str = "application";
/// Whoever has the password may log in and replicate, from anywhere; what initdb writes lets in loopback alone.
const ADMITTED: [&str; 2] = ["host all all all scram-sha-256", "host replication all all scram-sha-256"];
/// Where Debian has the programs, a directory for each version.
const VERSIONS: &str = "/usr/lib/postgresql";

/// A running server, on all addresses of its namespace. Dropping it kills it.
#[derive(Debug)]
pub struct Postgres {
    process: Process,
    netns: Netns,
    at: SocketAddr,
    directory: tempfile::TempDir,
}

impl Postgres {
    /// Starts a new server, to be reached at one of the namespace's addresses. It asks for a password. Returns when it takes
    /// logins.
    ///
    /// # Errors
    /// PostgreSQL is not installed, or the port is taken.
    pub fn start(netns: &Netns, at: SocketAddr) -> Result<Self> {
        let directory = scratch()?;
        let data = directory.path().join("data");
        let password_file = directory.path().join("password");
        std::fs::write(&password_file, PASSWORD)?;
        let arguments = ["--username", USER, "--auth", "scram-sha-256", "--no-sync", "--no-instructions", "--pwfile"];
        run(command(netns, "initdb")?.args(arguments).arg(&password_file).arg("--pgdata").arg(&data))?;
        let mut admission = std::fs::File::options().append(true).open(data.join("pg_hba.conf"))?;
        writeln!(admission, "host all {APPLICATION} all trust\n{}", ADMITTED.join("\n"))?;
        Self::serve(netns, at, directory, "database system is ready to accept connections")
    }

    /// Starts a replica that follows this server, in the same namespace or another. Returns when it takes logins.
    ///
    /// # Errors
    /// The port is taken, this server is gone, or there is no way to it.
    pub fn replica(&self, netns: &Netns, at: SocketAddr) -> Result<Self> {
        let directory = scratch()?;
        let arguments = ["--write-recovery-conf", "--checkpoint", "fast", "--no-sync", "--wal-method", "stream"];
        let mut copy = self.client(netns, "pg_basebackup")?;
        run(copy.args(arguments).arg("--pgdata").arg(directory.path().join("data")))?;
        Self::serve(netns, at, directory, "database system is ready to accept read-only connections")
    }

    fn serve(netns: &Netns, at: SocketAddr, directory: tempfile::TempDir, ready: &str) -> Result<Self> {
        let mut server = command(netns, "postgres")?;
        server.arg("-D").arg(directory.path().join("data")).args(["-p", &at.port().to_string(), "-h", "*", "-k", ""]);
        server.args(["-F", "-c", "log_connections=off"]);
        let mut process = Process::start(format!("postgres {at}"), &mut server)?;
        process.wait_for_log(ready, LIMIT)?;
        Ok(Self { process, netns: netns.clone(), at, directory })
    }

    /// What psql prints upon a statement: a line for each row, without a header.
    ///
    /// # Errors
    /// The server is gone, or refuses the statement.
    pub fn sql(&self, statement: &str) -> Result<String> {
        let arguments = ["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--command", statement];
        run(self.client(&self.netns, "psql")?.args(arguments))
    }

    /// A program of PostgreSQL's that logs in to this server.
    fn client(&self, netns: &Netns, program: &str) -> Result<Command> {
        let mut client = command(netns, program)?;
        client.args(["--host", &self.at.ip().to_string(), "--port", &self.at.port().to_string(), "--username", USER]);
        client.env("PGPASSWORD", PASSWORD);
        Ok(client)
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
        run(command(&self.netns, "pg_ctl")?.args(["promote", "--wait", "--pgdata"]).arg(self.directory.path().join("data")))?;
        Ok(())
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

/// Runs it to its end; yields what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
