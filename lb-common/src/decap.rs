//! What the backend's end of a tunnel knows and counts.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{Addr, Be16};

/// Addresses of one kind that a record has room for.
pub const ADDRESSES: usize = 16;

/// Which packets are taken apart.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Ends {
    /// This host's own; all zeros are none.
    pub ours: [Addr; ADDRESSES],
    /// The balancers'; all zeros are none.
    pub senders: [Addr; ADDRESSES],
    /// UDP port of GUE.
    pub gue_port: Be16,
    /// Not 0: packets from others than `senders` are left alone.
    pub is_exclusive: u16,
}

/// What became of a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum Outcome {
    /// In no tunnel that ends here; untouched.
    Other = 0,
    /// Taken out of an IP packet.
    Ipip = 1,
    /// Taken out of a UDP datagram.
    Gue = 2,
    /// From somebody who is none of the balancers; untouched.
    Stranger = 3,
    /// A tunnel's header that contradicts itself or what follows; dropped.
    Malformed = 4,
    /// Congestion was met on the way, which this packet has no way to tell (RFC 6040); dropped.
    Congested = 5,
}

impl Outcome {
    pub const ALL: [Self; 6] = [Self::Other, Self::Ipip, Self::Gue, Self::Stranger, Self::Malformed, Self::Congested];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Other => "other",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Stranger => "stranger",
            Self::Malformed => "malformed",
            Self::Congested => "congested",
        }
    }

    pub const fn is_dropped(self) -> bool {
        matches!(self, Self::Malformed | Self::Congested)
    }
}

/// Packets of one CPU, indexed by [`Outcome`]; a power of two.
pub type Counts = [u64; 8];
