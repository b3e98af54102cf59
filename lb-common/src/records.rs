//! The values of the control-plane maps. User space writes them, the packet path reads them.
//!
//! One cache line each where possible. Padding is explicit: `IntoBytes` refuses to compile otherwise.

use core::mem::offset_of;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Addr, Be16, LinkAddresses, PortProtocol};
use crate::checksum::Delta;
use crate::directory::Directory;
use crate::flow::Tick;
use crate::hash::HashKeys;
use crate::slot::Region;

/// Changes whenever a record's meaning does: a daemon refuses to adopt maps of another layout.
pub const LAYOUT_VERSION: u32 = 6;

/// What holds for every packet. The only element of the `SETTINGS` map.
///
/// User space fills the half of a directory that is not in use, then stores the word that leads there: packets see the old set
/// of services or the new one.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Settings {
    pub layout_version: u32,
    /// Bits of [`settings_flags`].
    pub flags: u32,
    /// Where packets to services go. One store replaces it.
    pub services: Directory,
    /// Where packets from NAT backends come from, and who has which [server ID](crate::quic). One store replaces it.
    pub replies: Directory,
    pub hash_keys: HashKeys,
    /// With [`settings_flags::WATCHDOG`], the last tick in which the daemon is not away for too long.
    pub attended_until: Tick,
    pub pad: u32,
}

const _: () = assert!(size_of::<Settings>() == 64);

impl Settings {
    /// Positions of single 32-bit words that change while packets pass.
    pub const FLAGS_WORD: u32 = (offset_of!(Self, flags) / 4) as u32;
    pub const ATTENDED_WORD: u32 = (offset_of!(Self, attended_until) / 4) as u32;
    /// The same for 64-bit words.
    pub const SERVICES_WORD: u32 = (offset_of!(Self, services) / 8) as u32;
    pub const REPLIES_WORD: u32 = (offset_of!(Self, replies) / 8) as u32;
}

pub mod settings_flags {
    /// Some service takes every port of its VIP: a second lookup for packets that the first did not find.
    pub const ANY_PORT: u32 = 1;
    /// Some service forwards by NAT: packets from its backends are replies.
    pub const REPLIES: u32 = 2;
    /// Some service goes by QUIC connection IDs.
    pub const QUIC: u32 = 4;
    /// Some service forwards by full NAT: packets to addresses of the pool may be replies.
    pub const FULLNAT: u32 = 8;
    /// Some service is not open to everybody, or not at any rate, or not at all times.
    pub const ADMISSION: u32 = 1 << 16;
    /// Once the daemon has been away for too long, the host gets what is for VIPs.
    pub const WATCHDOG: u32 = 1 << 17;
    /// Nobody gets it.
    pub const WATCHDOG_DROPS: u32 = 1 << 18;
    /// Somebody traces packets. Of the maps' owner, and in no tables.
    pub const TRACE: u32 = 1 << 24;
}

/// A service (one VIP, port and protocol), or a VIP itself (port 0, protocol 0). The id is the index in the `SERVICES` map; 0 is none.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Service {
    pub vip: Addr,
    /// All zeros in a VIP's own record.
    pub listens: PortProtocol,
    /// Bits of [`service_flags`].
    pub flags: u32,
    /// Its slots. One store replaces it.
    pub region: Region,
    /// How long a silent flow is taken for alive, at most [`flow::IDLE_MAX`](crate::flow::IDLE_MAX).
    pub idle: Tick,
    /// One of [`choice`]. If it is not [`choice::SLOT`], none of its slots is at rest: every flow is on record.
    pub choice: u16,
    /// With [`service_flags::CLAMP`], the largest segment that either end is told of, in bytes.
    pub mss: u16,
    /// Its first slots, as many as this, name backends in the order of their turns; 0 if backends take no turns.
    pub n_turns: u32,
    /// For [`choice::BOUNDED`], the share of all active flows that a backend may have for each unit of its weight, in 2^-20.
    pub bound: u32,
    /// Of a client's address, the bits that [`service_flags::IP_HASH`] goes by.
    pub client_mask: Addr,
}

const _: () = assert!(size_of::<Service>() == 64);

pub mod service_flags {
    /// The slot depends on the client's address alone, as far as the mask has it.
    pub const IP_HASH: u32 = 1;
    /// Recorded flows stay with a backend that is down.
    pub const KEEP: u32 = 2;
    /// All flows are recorded, but not for long: one without a record may be from before, and belongs where its slot says.
    pub const LEARNING: u32 = 4;
    /// Handshakes of flows on record are counted.
    pub const HANDSHAKES: u32 = 8;
    /// How QUIC connection IDs are read, if they are: [`Reading`](crate::quic::Reading).
    pub const QUIC: u32 = crate::quic::Reading::MASK;
    /// Not everybody may send to it, or not at any rate: of a service by rules of its own or those of all VIPs, of a VIP by the latter.
    pub const ADMISSION: u32 = 1 << 16;
    /// The maximum segment size that connections are opened with is not above the service's.
    pub const CLAMP: u32 = 1 << 17;
    /// It forwards by full NAT.
    pub const FULLNAT: u32 = 1 << 18;
    /// And tells its backends by a TCP option who their clients are.
    pub const TOA: u32 = 1 << 19;
}

/// The bits of the fraction in a service's `bound`.
pub const BOUND_SHIFT: u32 = 20;

/// Who gets a new flow.
pub mod choice {
    /// The current backend of the slot that its hash leads to.
    pub const SLOT: u16 = 0;
    /// The slot's current backend, or the next slot's, that has not more than its share of flows.
    pub const BOUNDED: u16 = 1;
    /// One turn after the other, of which each backend has one.
    pub const ROUND_ROBIN: u16 = 2;
    /// The same, of which each backend has as many as its weight says.
    pub const WEIGHTED_ROUND_ROBIN: u16 = 3;
    /// Any turn.
    pub const RANDOM: u16 = 4;
    /// Of some turns in a row the one whose backend has the fewest active flows for its weight.
    pub const LEAST_CONNECTIONS: u16 = 5;
    /// Likewise, each flow counted for as long as its backend takes to answer.
    pub const LEAST_RESPONSE_TIME: u16 = 6;
}

/// A backend of one service. The id is the index in the `BACKENDS` map; 0 is none.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Backend {
    pub address: Addr,
    /// From the egress interface to the next hop.
    pub link: LinkAddresses,
    /// Where the next hop is; 0 while it is not known.
    pub ifindex: u32,
    /// Port that NAT rewrites to; 0 keeps the packet's. Of GUE, the port that the backend takes the packets apart at.
    pub port: Be16,
    /// The service that it serves, by id.
    pub service: u16,
    /// One of [`forward`].
    pub forward: u8,
    /// Bits of [`backend_flags`].
    pub flags: u8,
    /// What NAT changes in the checksum of TCP and UDP: address and port.
    pub l4_delta: Delta,
    /// What NAT changes in the checksum of an IPv4 header: the address.
    pub ip_delta: Delta,
    /// Length of the largest IP packet that fits with its tunnel headers, in bytes; 0 without a tunnel.
    pub len_max: u16,
    /// A tunnel's source: this host's own address on the way.
    pub source: Addr,
    /// The checksum of a tunnel's IPv4 header without length and type of service, and the tunnel's own length counted in.
    pub outer_checksum: u16,
    /// For algorithms that go by load; 0 if it takes no new flows.
    pub weight: u16,
}

const _: () = assert!(size_of::<Backend>() == 64);

/// How packets reach a backend.
pub mod forward {
    /// No backend has this id.
    pub const FREE: u8 = 0;
    /// Direct server return: the frame goes to the backend's link-layer address, the packet stays as it is.
    pub const DSR: u8 = 1;
    /// The destination becomes the backend's; its replies come back through xlb and get the VIP as their source again.
    pub const NAT: u8 = 2;
    /// In an IP packet to the backend (RFC 2003, RFC 2473, RFC 4213): 4in4, 6in6, 4in6 or 6in4.
    pub const IPIP: u8 = 3;
    /// In a UDP datagram to the backend (Generic UDP Encapsulation, variant 1: the IP packet follows the UDP header).
    pub const GUE: u8 = 4;
    /// The destination becomes the backend's, and the source an address and a port of the pool.
    pub const FULLNAT: u8 = 5;
}

pub mod backend_flags {
    /// The interface takes no redirected frames (a bridge, a tunnel): the rewritten packet goes on through the host's routing.
    pub const VIA_HOST: u8 = 1;
    /// Healthy, or not checked: flows on record may stay.
    pub const ALIVE: u8 = 2;
    /// QUIC connection IDs name it: it has a server ID.
    pub const NAMED: u8 = 4;
}

/// What is known of an interface, by index. The value of the `LINKS` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Link {
    /// Bits of [`link_flags`].
    pub flags: u32,
    pub pad: u32,
}

const _: () = assert!(size_of::<Link>() == 8);

pub mod link_flags {
    /// Redirected frames arrive.
    pub const REDIRECT: u32 = 1;
}
