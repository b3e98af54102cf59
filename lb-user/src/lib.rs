//! The xlb daemon: what the operator asked for, what health and discovery found out, and the BPF maps that follow.
//!
//! ```text
//! config, discovery, health, nexthop  ->  Desired  ->  compile  ->  Tables  ->  diff  ->  writes  ->  maps
//! ```

pub mod config;
pub mod desired;
pub mod discovery;
pub mod health;
pub mod nexthop;
