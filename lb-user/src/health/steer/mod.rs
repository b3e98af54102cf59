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

mod actor;
mod kernel;
mod messages;

use std::io;
use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};

use crate::nexthop::NextHopError;

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
    fn holds(self, table: u32) -> bool {
        (self.first_table..=self.first_table.saturating_add(N_TABLES - 1)).contains(&table)
    }
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
    Aim { vip: IpAddr, backend: IpAddr, answer: oneshot::Sender<Result<Mark, Trouble>> },
    Lease { backend: IpAddr },
    Release { backend: IpAddr },
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

    /// Keeps the backend's rule and table for as long as it is held.
    pub fn lease(&self, backend: IpAddr) -> Lease {
        // Without the task nothing is made, and nothing need be removed.
        drop(self.orders.send(Order::Lease { backend }));
        Lease { steering: self.clone(), backend }
    }

    /// Removes every rule and route. Whoever asks afterwards is refused.
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
    backend: IpAddr,
}

impl Lease {
    /// What to mark a socket with whose packets for `vip` shall go to the backend.
    ///
    /// # Errors
    /// They would not.
    pub async fn aim(&self, vip: IpAddr) -> Result<Mark, Trouble> {
        let (answer, answered) = oneshot::channel();
        let order = Order::Aim { vip, backend: self.backend, answer };
        self.steering.orders.send(order).map_err(|_| Trouble::Ending)?;
        answered.await.map_err(|_| Trouble::Ending)?
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.steering.orders.send(Order::Release { backend: self.backend }));
    }
}
