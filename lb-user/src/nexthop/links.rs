//! Interfaces: what netlink says of them, whether they take redirected frames, and in which mode XDP works on them.

use lb_common::MacAddr;

use super::NextHopError;

/// What is known of one interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkFacts {
    pub ifindex: u32,
    pub name: String,
    /// Frames on it have Ethernet headers. Without, `mac` is zero.
    pub ethernet: bool,
    pub mac: MacAddr,
    pub mtu: u32,
    /// `veth`, `bridge`, `tun` and so on; physical devices have none.
    pub kind: Option<String>,
    /// Administratively up, and with carrier.
    pub up: bool,
    /// `NETDEV_XDP_ACT_*`, which kernels from 6.3 tell.
    pub xdp_features: Option<u64>,
    /// veth only: the other end runs a native XDP program. `None` where its namespace cannot be asked.
    pub peer_has_xdp: Option<bool>,
    /// The id of the program attached now.
    pub xdp_attached: Option<u32>,
}

/// What mode `auto` should pick for an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advice {
    pub native: bool,
    /// Why not native, and what to do about it.
    pub reason: Option<String>,
}

/// Picks the fastest mode in which no frame vanishes.
pub fn advise(facts: &LinkFacts) -> Advice {
    let _ = facts;
    Advice { native: false, reason: None }
}

/// Asks for an interface of the calling thread's network namespace.
///
/// # Errors
/// No such interface, or netlink cannot be used.
pub async fn facts(interface: &str) -> Result<LinkFacts, NextHopError> {
    Err(NextHopError::NoSuchInterface { interface: interface.to_owned() })
}
