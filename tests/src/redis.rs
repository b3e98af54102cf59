//! A real Redis server.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use crate::{Netns, Process};

const START_LIMIT: Duration = Duration::from_secs(10);

/// A running redis-server. Dropping it kills it.
#[derive(Debug)]
pub struct Redis {
    process: Process,
    _directory: tempfile::TempDir,
}

impl Redis {
    /// Starts a server on `listen` with further `arguments`, of the form `--key value`. Returns when it listens.
    ///
    /// # Errors
    /// redis-server is not installed, the port is taken, or an argument is wrong.
    pub fn start(netns: &Netns, listen: SocketAddr, arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = netns.command("redis-server");
        command
            .args(["--bind", &listen.ip().to_string(), "--port", &listen.port().to_string()])
            .args(["--save", "", "--appendonly", "no", "--repl-diskless-sync-delay", "0", "--dir"])
            .arg(directory.path())
            .args(arguments);
        let mut process = Process::start(format!("redis {listen}"), &mut command)?;
        process.wait_for_log("Ready to accept connections", START_LIMIT)?;
        Ok(Self { process, _directory: directory })
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
