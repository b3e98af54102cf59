//! Whom a probe asks.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use socket2::SockRef;

use crate::health::steer::Mark;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Target {
    pub(super) address: SocketAddr,
    /// Decides which of those that have the address is asked; `None` where it is a backend's own.
    mark: Option<Mark>,
}

impl Target {
    pub(super) fn steered(vip: SocketAddr, mark: Mark) -> Self {
        Self { address: vip, mark: Some(mark) }
    }

    pub(super) fn ip(self) -> IpAddr {
        self.address.ip()
    }

    pub(super) fn port(self) -> u16 {
        self.address.port()
    }

    /// Has the socket's packets go to whom is meant, and no further. Before the first of them.
    ///
    /// # Errors
    /// The daemon has no CAP_NET_ADMIN.
    pub(super) fn prepare(self, socket: &impl AsFd) -> io::Result<()> {
        let Some(Mark(mark)) = self.mark else { return Ok(()) };
        let socket = SockRef::from(socket);
        socket.set_mark(mark)?;
        match self.address {
            SocketAddr::V4(_) => socket.set_ttl_v4(1),
            SocketAddr::V6(_) => socket.set_unicast_hops_v6(1),
        }
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self { address, mark: None }
    }
}

/// As in a URL.
impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.address.fmt(formatter)
    }
}
