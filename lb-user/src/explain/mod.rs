//! What the packet path would do with a packet now, and why.
//!
//! Nothing is decided here a second time: [`follow`] takes a packet through the packet path itself, over tables that are read and
//! not changed, and keeps what it asked for on its way. [`Explanation`] says that with names.

mod explanation;
mod frame;
mod question;
mod witness;

pub use explanation::{BackendFound, Explanation, Names, ServiceAt};
pub use frame::Frame;
pub use question::{ConnectionId, ErrorKind, IcmpError, Question, Senseless, TTL_DEFAULT};
pub use witness::{FlowSeen, NamedSeen, Records, ReplySeen, SlotSeen, Trail, follow};
