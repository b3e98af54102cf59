//! Runs our small backend (`src/bin/backend.rs`) in namespaces.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use crate::{Host, Netns, Network, Process, paths};

const START_LIMIT: Duration = Duration::from_secs(5);

/// A running backend. Dropping it kills it.
#[derive(Debug)]
pub struct Backend {
    process: Process,
}

impl Backend {
    /// Starts a backend called `name`, listening where `listen` says: pairs of `"http"`, `"tcp"` or `"udp"` and an
    /// address. Returns when it listens.
    ///
    /// For UDP on a VIP give the VIP itself: from a wildcard socket the answers would leave with another source.
    ///
    /// # Errors
    /// An address is not there or taken.
    pub fn start(netns: &Netns, name: &str, listen: &[(&str, SocketAddr)]) -> Result<Self> {
        let mut command = netns.command(paths::test_backend()?);
        command.arg(name).args(listen.iter().map(|(protocol, address)| format!("{protocol}={address}")));
        let mut process = Process::start(format!("backend {name}"), &mut command)?;
        process.wait_for_log("ready", START_LIMIT)?;
        Ok(Self { process })
    }

    /// One backend in each of the network's backend namespaces, as [`Backend::start_nth`].
    ///
    /// # Errors
    /// As [`Backend::start`].
    pub fn start_all(network: &Network, port: u16, vips: &[IpAddr]) -> Result<Vec<Self>> {
        (0..network.backends.len()).map(|i| Self::start_nth(network, i, port, vips)).collect()
    }

    /// The backend of the network's namespace `i`, named `backend<i>`: HTTP on `port` of every address, and UDP on
    /// `port` of the host's addresses and of `vips`, which must be on its loopback.
    ///
    /// # Errors
    /// As [`Backend::start`].
    pub fn start_nth(network: &Network, i: usize, port: u16, vips: &[IpAddr]) -> Result<Self> {
        let host: &Host = &network.backends[i];
        let own = [IpAddr::V4(host.v4), IpAddr::V6(host.v6)];
        // The IPv6 wildcard takes IPv4 as well.
        let mut listen = vec![("http", SocketAddr::from(([0u16; 8], port)))];
        listen.extend(own.iter().chain(vips).map(|&address| ("udp", SocketAddr::new(address, port))));
        Self::start(&host.netns, &format!("backend{i}"), &listen)
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Switches what `/health` answers between 200 and 503.
    ///
    /// # Errors
    /// The backend is gone.
    pub fn toggle_health(&self) -> Result<()> {
        self.process.signal(Signal::SIGUSR1)
    }

    /// Freezes it: connections are accepted by its kernel, nothing answers.
    ///
    /// # Errors
    /// The backend is gone.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// # Errors
    /// The backend is gone.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
