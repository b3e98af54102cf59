//! The link-layer way to every backend: which interface, which addresses on the frame, and whether the interface takes
//! frames that XDP redirects to it.
//!
//! The packet path must not ask for a route per packet, so user space asks beforehand and follows what changes. The
//! kernel is asked for each address (as `ip route get` does) instead of its tables being read and a second, subtly
//! different FIB being built here: policy rules, nexthop objects and multipath are then the kernel's business.
//!
//! ```text
//! wanted addresses -> route -> link + neighbour -> answer        table.rs  pure
//!        netlink replies and events -> table -> changes          actor.rs  the only I/O
//! ```
//!
//! Neighbours are kept fresh by telling the kernel that they are in use (`NTF_USE`) whenever it calls them stale:
//! packets that XDP forwards never do so, and a changed link-layer address would go unnoticed. `NTF_EXT_MANAGED`, which
//! makes the kernel do the same by itself, is not used: such an entry outlives a killed daemon and is probed forever,
//! and two daemons that share a gateway would remove each other's.

mod actor;
mod addresses;
mod links;
mod message;
mod neighbours;
mod netdev;
mod offloads;
mod probe;
mod routes;
mod socket;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use tokio::sync::{mpsc, watch};

use crate::desired::NextHop;

pub use addresses::Addresses;
pub use links::{Advice, LinkFacts, advise, facts, name_of, native_mtu_max};
pub use offloads::partial_checksums;
pub(crate) use routes::{Route, parse as route_in, parse_refusal as route_refused};
pub(crate) use socket::Requests;

/// The way to one address, or why there is none.
pub type Answer = Result<Way, Unresolved>;

/// The way to one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    pub hop: NextHop,
    /// The router that the hop leads to. `None` where it is the address itself, in a network of the interface's.
    ///
    /// A router sends a packet on by its destination: right for what NAT has rewritten, but one that still is for the VIP
    /// would come back.
    pub gateway: Option<IpAddr>,
}

/// What became different since the last time.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Wanted addresses whose answer changed.
    pub next_hops: BTreeMap<IpAddr, Answer>,
    /// By interface index, whether frames redirected to it arrive. Every Ethernet interface, whenever one of them
    /// changed; the NAT reply path needs those that lead to clients too.
    pub redirects: Option<BTreeMap<u32, bool>>,
}

impl Changes {
    fn is_empty(&self) -> bool {
        self.next_hops.is_empty() && self.redirects.is_none()
    }
}

/// Why packets for an address cannot be sent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unresolved {
    #[error("no route leads to it; add one, or an address in its network")]
    NoRoute,
    #[error("it is an address of this host; a backend must be another machine")]
    LocalAddress,
    #[error("its route is a blackhole, unreachable, prohibited, or for broadcast")]
    Unreachable,
    #[error("its route leads through {interface}, which is down or has no carrier")]
    InterfaceDown { interface: String },
    #[error("asking on {interface} for the link-layer address of {gateway}")]
    NeighbourPending { interface: String, gateway: IpAddr },
    #[error("{gateway} does not answer on {interface}; is it up, and in the same network?")]
    NeighbourFailed { interface: String, gateway: IpAddr },
    /// Nothing to address, as on a tun or WireGuard interface, `ifindex`: only the host's routing can send there.
    #[error("its route leads through {interface} ({kind}), which has no link-layer addresses")]
    NoLinkLayerAddress { ifindex: u32, interface: String, kind: String },
}

/// How the program is attached where packets come in, which decides where it may redirect them to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RedirectMode {
    /// Only to devices whose driver takes XDP frames (`ndo_xdp_xmit`).
    Native,
    /// To every device, as an ordinary packet.
    Generic,
}

/// Netlink could not be used.
#[derive(Debug, thiserror::Error)]
pub enum NextHopError {
    #[error("netlink socket")]
    Socket(#[source] io::Error),
    #[error("interface {interface} does not exist; `ip link` lists those that do")]
    NoSuchInterface { interface: String },
    #[error("netlink: the kernel refused to {request}")]
    Refused {
        request: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("netlink: no answer within {timeout_ms} ms to the request to {request}")]
    TimedOut { request: &'static str, timeout_ms: u128 },
}

/// The addresses to follow, each with a number that is another one when it was not wanted in between: who asks anew has forgotten
/// the answer, and the task may never have seen the address missing.
type Wishes = BTreeMap<IpAddr, u64>;

/// Follows the ways to a set of addresses. Dropping it ends its task.
#[derive(Debug)]
pub struct Resolver {
    wanted: watch::Sender<Arc<Wishes>>,
    mode: watch::Sender<RedirectMode>,
    answers: Arc<RwLock<BTreeMap<IpAddr, Answer>>>,
}

impl Resolver {
    /// Starts following links, routes and neighbours in the calling thread's network namespace. Must be called within
    /// a tokio runtime.
    ///
    /// # Errors
    /// No netlink socket, or the kernel refuses to list its links.
    pub async fn start(mode: RedirectMode, changes: mpsc::Sender<Changes>) -> Result<Self, NextHopError> {
        let (wanted, wanted_seen) = watch::channel(Arc::default());
        let (mode, mode_seen) = watch::channel(mode);
        let answers = Arc::<RwLock<BTreeMap<IpAddr, Answer>>>::default();
        let actor = actor::Actor::open(mode_seen, wanted_seen, changes, Arc::clone(&answers)).await?;
        tokio::spawn(actor.run());
        Ok(Self { wanted, mode, answers })
    }

    /// How the program is attached from now on. Returns at once; what becomes different by it is sent as a change.
    pub fn set_mode(&self, mode: RedirectMode) {
        self.mode.send_if_modified(|before| std::mem::replace(before, mode) != mode);
    }

    /// Replaces the set of addresses to follow. Returns at once.
    pub fn want(&self, addresses: BTreeSet<IpAddr>) {
        self.wanted.send_modify(|wishes| {
            let next = wishes.values().max().map_or(0, |newest| newest + 1);
            *wishes = Arc::new(addresses.into_iter().map(|address| (address, *wishes.get(&address).unwrap_or(&next))).collect());
        });
    }

    /// All answers so far, as sent in [`Changes`].
    pub fn snapshot(&self) -> BTreeMap<IpAddr, Answer> {
        self.answers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
