//! Steering: probes that are addressed to a VIP, and reach one backend whatever else has the VIP.
//!
//! The kernel's own policy routing does it. Each backend has a number, which is the mark on its probes' sockets, a rule
//! that leads packets with this mark into a table, and the table, whose one way out is the backend itself. Marks were
//! preferred to frames of our own: a TCP connection then stays the kernel's, and so does everything that is asked over it.
//!
//! Two things keep a probe from anybody else. Beneath the way to the backend each table says "unreachable", so that a
//! probe goes nowhere where the way is lost with its interface, rather than on to the tables that others see. And a
//! probe's packets live for one hop, so that a backend without the VIP cannot pass them on, to a balancer for one, which
//! would find another that answers.
//!
//! Before each probe the kernel is asked where it would go, and rule and table are made anew if that is not the backend:
//! whatever flushes rules, or takes an interface down and up, is mended with the next probe, and no event need be followed.
//!
//! Where packets go to backends in tunnels, the table leads to a device of our own instead, by a gateway that stands for the backend
//! (`frame`). What arrives there is sent on in the tunnel's headers (`tunnel`, `senders`); the backend takes it apart and
//! answers straight to this machine, as it answers clients. So all is asked of it that clients need: its tunnel's end, and the VIP.

mod actor;
mod frame;
mod kernel;
mod messages;
mod senders;
mod tunnel;

use std::io;
use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};

use crate::nexthop::NextHopError;
pub use tunnel::look_for_tun;

/// Who made a rule or route, as `ip rule` and `ip route show table all` tell. Named in nobody's `rt_protos`.
pub const PROTOCOL: u8 = 120;
/// How many tables there are, from the first on: as many addresses can be steered to at a time.
pub const N_TABLES: u32 = 4096;

/// `[steering]`: which marks, tables and rules are xlb's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The first table, and the first mark. A multiple of [`N_TABLES`], so that two ranges are the same or apart.
    pub first_table: u32,
    /// Of the rules. After 0, at which the kernel looks for local addresses, and before all that would take marked packets.
    pub priority: u32,
}

impl Default for Range {
    fn default() -> Self {
        // "xl" in ASCII; far from what people number their tables with.
        Self { first_table: 0x786c_0000, priority: 120 }
    }
}

impl Range {
    /// A table's place among ours.
    fn number(self, table: u32) -> u16 {
        // There are no more than 4,096.
        table.saturating_sub(self.first_table) as u16
    }

    fn holds(self, table: u32) -> bool {
        (self.first_table..=self.first_table.saturating_add(N_TABLES - 1)).contains(&table)
    }
}

/// How packets for a VIP get to a backend.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Way {
    /// As they are, to its link-layer address.
    Direct,
    /// In an IP packet.
    Ipip,
    /// In a UDP datagram to this port.
    Gue { port: u16 },
}

/// What clients ask, and how that gets to the backends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Path {
    pub vip: IpAddr,
    pub way: Way,
}

/// A backend, by one of the ways: each has a mark, rules and a table of its own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Goal {
    pub backend: IpAddr,
    pub way: Way,
}

/// What is set on a probe's socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mark(pub u32);

/// Why a probe cannot be sent along the VIP's path.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error("{vip} is an address of this machine; take it off, or check without `via = \"path\"`")]
    VipIsLocal { vip: IpAddr },
    #[error("{backend} is in no network of this machine's")]
    NotOnLink { backend: IpAddr },
    #[error("packets for {vip} with mark {mark} go elsewhere: a rule before priority {priority} takes them; see `ip rule`")]
    TakenByOthers { vip: IpAddr, mark: u32, priority: u32 },
    #[error("all {N_TABLES} routing tables are in use; so many backends can be checked with `via = \"path\"`")]
    NoTableLeft,
    #[error("another xlb in this network namespace uses the routing tables from {first_table}; set another `steering.tables`")]
    TablesTaken { first_table: u32 },
    #[error("cannot claim the routing tables from {first_table}")]
    Unclaimed {
        first_table: u32,
        #[source]
        source: io::Error,
    },
    #[error(
        "/dev/net/tun, which probes into tunnels need, cannot be opened; `modprobe tun`, or let the container or unit have it"
    )]
    NoTun {
        #[source]
        source: io::Error,
    },
    #[error("no device for probes into tunnels")]
    NoDevice {
        #[source]
        source: io::Error,
    },
    #[error("the device for probes into tunnels was taken away; there will be another")]
    DeviceLost,
    #[error("{vip} could not answer: this machine has no address of its family; give it one")]
    NoSource { vip: IpAddr },
    #[error("no socket for packets in tunnels, which takes CAP_NET_RAW")]
    NoSender {
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Netlink(#[from] NextHopError),
    #[error("the daemon is ending")]
    Ending,
}

impl Trouble {
    /// Whether clients' packets could not reach the backend either. All others say nothing about it.
    pub fn is_the_backends(&self) -> bool {
        matches!(self, Self::NotOnLink { .. })
    }
}

enum Order {
    Aim { vip: IpAddr, goal: Goal, answer: oneshot::Sender<Result<Mark, Trouble>> },
    Lease { goal: Goal },
    Release { goal: Goal },
    End { answer: oneshot::Sender<()> },
}

/// Where steering is asked for. Clones ask the same task.
#[derive(Clone, Debug)]
pub struct Steering {
    // Bounded by those who ask: each probe waits for its answer.
    orders: mpsc::UnboundedSender<Order>,
}

impl Steering {
    /// Starts the task, which first removes what a killed daemon left. Must be called within a tokio runtime.
    pub fn start(range: Range) -> Self {
        let (orders, asked) = mpsc::unbounded_channel();
        tokio::spawn(actor::run(range, asked));
        Self { orders }
    }

    /// One that steers nothing, where no check asks for it.
    pub fn none() -> Self {
        Self { orders: mpsc::unbounded_channel().0 }
    }

    /// Keeps the rules and the table of a backend, by this way, for as long as it is held.
    pub fn lease(&self, goal: Goal) -> Lease {
        // Without the task nothing is made, and nothing need be removed.
        drop(self.orders.send(Order::Lease { goal }));
        Lease { steering: self.clone(), goal }
    }

    /// Removes every rule and route, and the device. Whoever asks afterwards is refused.
    pub async fn end(&self) {
        let (answer, done) = oneshot::channel();
        if self.orders.send(Order::End { answer }).is_ok() {
            drop(done.await);
        }
    }
}

/// The right to be steered to one backend.
#[derive(Debug)]
pub struct Lease {
    steering: Steering,
    goal: Goal,
}

impl Lease {
    /// What to mark a socket with whose packets for `vip` shall go to the backend.
    ///
    /// # Errors
    /// They would not.
    pub async fn aim(&self, vip: IpAddr) -> Result<Mark, Trouble> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Aim { vip, goal: self.goal, answer };
        self.steering.orders.send(order).map_err(|_| Trouble::Ending)?;
        answered.await.map_err(|_| Trouble::Ending)?
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.steering.orders.send(Order::Release { goal: self.goal }));
    }
}
