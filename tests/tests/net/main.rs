//! The daemon with real traffic, in network namespaces. One scenario a file.

mod admission;
mod algorithms;
mod auto_mode;
mod bad_input;
mod consistency;
mod discovery;
mod docker;
mod doctor;
mod dsr;
mod events;
mod explain;
mod faces;
mod failover;
mod fragments;
mod nat;
mod page;
mod reload;
mod restart;
mod runtime;
mod runtime_abuse;
mod side_by_side;
mod standby;
mod strangers;
mod support;
mod tunnels;
