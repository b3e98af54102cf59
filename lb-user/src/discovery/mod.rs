//! Discovery: backends that are found rather than written down.
//!
//! [`dns`] watches a name and tells the whole set of its addresses whenever it changes. What serves is still for the
//! health checks to say; nothing here touches a map.

mod answer;
pub mod dns;
mod query;

use std::net::IpAddr;

pub use dns::{Discovered, Status, Watcher, spawn};

/// Which addresses a service can use: packets keep the family of its VIP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddressFamily {
    V4,
    V6,
}

impl AddressFamily {
    /// Of this address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}
