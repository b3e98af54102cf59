//! What should hold, as plain data: the services with every backend that may serve, amended by discovery, health and
//! next-hop resolution. [`compile`](crate::compile) turns it into tables; nothing here knows of maps, clocks or sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_common::MacAddr;
use lb_common::flow::Tick;
use serde::{Deserialize, Serialize};

use crate::admission::Admission;
use crate::pool::Pool;
use crate::server_ids::ServerIds;

/// A service's name, unique in a configuration.
pub type ServiceName = Arc<str>;

/// All services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Desired {
    pub services: BTreeMap<ServiceName, Service>,
    /// Interfaces, by index, that the program runs on: what came in there can always leave there again.
    pub ingress: BTreeSet<u32>,
    pub admission: Arc<Admission>,
    pub watchdog: Option<Watchdog>,
    /// What stands for clients of services that forward by full NAT.
    pub pool: Arc<Pool>,
}

/// What becomes of packets to VIPs if nobody attends to the program any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watchdog {
    /// How long the daemon may be away before.
    pub after: Duration,
    pub absence: Absence,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Absence {
    /// The host gets them.
    Pass,
    Drop,
}

impl Desired {
    /// Whether it has the same services with the same backends, whatever is known of them.
    pub fn has_backends_of(&self, other: &Self) -> bool {
        let pairs = self.services.iter().zip(&other.services);
        let is_same = |((name, service), (other_name, other)): ((_, &Service), (_, &Service))| {
            name == other_name && service.backends.keys().eq(other.backends.keys())
        };
        self.services.len() == other.services.len() && pairs.into_iter().all(is_same)
    }
}

/// One VIP, port and protocol, and those who serve it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    pub vip: IpAddr,
    /// 0 takes every port.
    pub port: u16,
    pub protocol: Protocol,
    pub algorithm: Algorithm,
    pub hashing: Hashing,
    pub forward: Forward,
    /// Where backends take GUE datagrams.
    pub gue_port: u16,
    /// The largest TCP segment that either end may be told of, in bytes.
    pub mss: Option<u16>,
    /// Backends are told by a TCP option who their clients are.
    pub toa: bool,
    /// How long a silent flow is taken for alive.
    pub idle: Tick,
    pub on_down: OnDown,
    /// Every flow is on record, though its hash would do.
    pub is_tracked: bool,
    /// By what QUIC connection IDs name backends, if they do.
    pub server_ids: Option<Arc<ServerIds>>,
    /// By address and the port that packets reach them on.
    pub backends: BTreeMap<SocketAddr, Backend>,
}

/// One backend of one service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// 0 takes no new flows.
    pub weight: u16,
    /// Passed its health check, or needs none.
    pub alive: bool,
    /// No check has said anything yet, or the way to it is still being asked for: it takes no new flows, and those that it
    /// still has may stay.
    pub is_undecided: bool,
    /// Where its packets go; `None` while unresolved, and where no packet may go as its service forwards.
    pub next_hop: Option<NextHop>,
}

/// The link-layer way to an address, as resolved from routes, links and neighbours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// The egress interface.
    pub ifindex: u32,
    /// The egress interface's own link-layer address.
    pub source: MacAddr,
    /// The backend's, or its gateway's, link-layer address.
    pub destination: MacAddr,
    /// Frames redirected to the interface by XDP arrive. Otherwise packets must go on through the host's routing.
    pub takes_redirects: bool,
    /// This host's own address on the way, if it has one of that family: the source of tunnels.
    pub address: Option<IpAddr>,
    /// Length of the largest IP packet that the way carries, in bytes.
    pub mtu: u16,
}

impl NextHop {
    /// Nowhere, by Ethernet.
    pub const NOWHERE: Self = Self {
        ifindex: 0,
        source: MacAddr::new([0; 6]),
        destination: MacAddr::new([0; 6]),
        takes_redirects: false,
        address: None,
        mtu: 1500,
    };
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// The IANA protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// How a packet's backend is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// By the connection: addresses, ports and protocol.
    #[default]
    Maglev,
    /// By the client's address, so that one client stays with one backend.
    IpHash,
    /// One after the other, whatever their weights.
    RoundRobin,
    /// One after the other, in proportion to their weights.
    WeightedRoundRobin,
    /// By chance, in proportion to their weights.
    Random,
    /// The one with the fewest active connections for its weight.
    LeastConnections,
    /// The one whose active connections, each counted for as long as it takes to answer, are the least for its weight.
    LeastResponseTime,
}

impl Algorithm {
    /// Whether the hash of a packet says where it belongs.
    pub const fn is_hash(self) -> bool {
        matches!(self, Self::Maglev | Self::IpHash)
    }

    /// Whether it goes by how busy backends are.
    pub const fn is_by_load(self) -> bool {
        matches!(self, Self::LeastConnections | Self::LeastResponseTime)
    }
}

/// What can be asked of algorithms that go by a hash.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Hashing {
    /// Of `ip-hash`, how many bits of a client's address count; all of them if `None`.
    pub client_prefix: Option<u8>,
    /// New flows pass by a backend that has more than its share of active ones by this factor, in hundredths.
    pub max_load: Option<u16>,
}

impl Service {
    /// Every flow is on record: where it is follows from more than its hash, or somebody wants to know.
    pub fn records_all_flows(&self) -> bool {
        !self.algorithm.is_hash() || self.hashing.max_load.is_some() || self.is_tracked
    }

    /// It is known how the connections of its backends open.
    pub fn counts_handshakes(&self) -> bool {
        self.records_all_flows() && self.protocol == Protocol::Tcp
    }
}

/// What becomes of the flows of a backend that fails its checks.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDown {
    /// They go to others, which answer them with a reset.
    #[default]
    Remap,
    /// They stay, as far as they are on record.
    Keep,
}

/// How a packet reaches its backend.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Forward {
    /// Direct server return: the link-layer address is rewritten, the backend answers the client itself.
    #[default]
    Dsr,
    /// The destination is rewritten; replies come back through xlb, the backends' gateway.
    Nat,
    /// In an IP packet; the backend takes it out and answers the client itself.
    Ipip,
    /// In a UDP datagram (GUE); likewise.
    Gue,
    /// Destination and source are rewritten: backends answer xlb.
    Fullnat,
}

impl Forward {
    /// Whether packets go to the backend's own address and port.
    pub const fn translates(self) -> bool {
        matches!(self, Self::Nat | Self::Fullnat)
    }

    /// Length in bytes of what a tunnel to a backend puts before a packet; `None` if this is none.
    pub fn overhead(self, backend: IpAddr) -> Option<u16> {
        let ip = if backend.is_ipv4() { 20 } else { 40 };
        match self {
            Self::Dsr | Self::Nat | Self::Fullnat => None,
            Self::Ipip => Some(ip),
            Self::Gue => Some(ip + 8),
        }
    }
}
