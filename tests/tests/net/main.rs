//! The daemon with real traffic, in network namespaces. One scenario a file.

mod algorithms;
mod auto_mode;
mod bad_input;
mod consistency;
mod discovery;
mod dsr;
mod faces;
mod failover;
mod nat;
mod reload;
mod restart;
mod side_by_side;
mod strangers;
mod support;
