//! Single packets as they pass, with what became of them and why.
//!
//! [`Wish`] says which: as much of it as is cheap is decided in the packet path ([`Rules`](lb_common::trace::Rules)). [`Told`] is a
//! record with names; [`Summary`] is what a line has room for of a packet.

mod summary;
mod told;
mod wish;

pub use summary::Summary;
pub use told::{Clock, Names, Told};
pub use wish::{KEYS, Wish};
