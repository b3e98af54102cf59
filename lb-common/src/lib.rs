//! What the packet path and the daemon share: the records that stand in BPF maps, the limits they obey,
//! the verdicts packets end in, and the pure algorithms both sides must agree on.
//!
//! `no_std`, no I/O, no clock, no dependency: this crate compiles for the kernel's BPF machine, for the host
//! and for a fuzzer alike.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

#[cfg(feature = "alloc")]
extern crate alloc;

pub mod addr;
pub mod admission;
pub mod branchless;
pub mod checksum;
pub mod counters;
pub mod decap;
pub mod directory;
pub mod features;
pub mod flow;
pub mod handshake;
pub mod hash;
pub mod limits;
pub mod load;
#[cfg(feature = "alloc")]
pub mod maglev;
pub mod meter;
pub mod quic;
pub mod records;
pub mod session;
pub mod slot;
pub mod trace;
#[cfg(feature = "alloc")]
pub mod turns;
pub mod verdict;

pub use addr::{Addr, Be16, Be32, LinkAddresses, MacAddr, PortProtocol};
pub use slot::{BackendId, Slot};
pub use verdict::Verdict;
