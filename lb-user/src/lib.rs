//! The xlb daemon: what the operator asked for, what health and discovery found out, and the BPF maps that follow.
//!
//! ```text
//! config, discovery, health, nexthop  ->  Desired  ->  compile  ->  Tables  ->  diff  ->  writes  ->  maps
//! ```

pub mod admission;
pub mod agent;
pub mod api;
pub mod cli;
pub mod compile;
pub mod config;
pub mod daemon;
pub mod datapath;
pub mod decap;
pub mod desired;
pub mod discovery;
pub mod doctor;
pub mod error;
pub mod explain;
pub mod failover;
pub mod health;
pub mod journal;
pub mod maps;
pub mod nexthop;
pub mod pool;
pub mod rights;
pub mod runtime;
pub mod server_ids;
pub mod status;
pub mod tables;
pub mod trace;
