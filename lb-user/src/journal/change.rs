//! Something that an operator would want to know the time of.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use serde::Serialize;

use crate::desired::ServiceName;
use crate::failover::{Tier, Zone};
use crate::health::State;
use crate::runtime::{Admin, Mark, Setting};

/// What happened, to whom, and why.
#[derive(Clone, PartialEq, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Change {
    /// The daemon.
    Started {
        version: &'static str,
    },
    /// So many events were not kept for who reads now. The log has them.
    Missing {
        n_events: u64,
    },
    /// All tables hold what they should, and every backend has been heard of; or something is waited for.
    Ready {
        ready: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        waits_for: Option<String>,
    },
    Reload {
        accepted: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<Arc<str>>,
    },
    /// The maps could not be brought to what should hold, for this reason; or they are as they should be again.
    Tables {
        failing: Option<Arc<str>>,
    },
    /// The program runs on another interface, or in another mode.
    InterfaceAttached {
        interface: String,
        mode: &'static str,
    },
    InterfaceDetached {
        interface: String,
    },
    ServiceAdded {
        service: ServiceName,
        cause: String,
    },
    ServiceRemoved {
        service: ServiceName,
        cause: String,
    },
    /// A source of backends does not answer usefully any more, or it does again.
    Discovery {
        service: ServiceName,
        source: &'static str,
        /// Its earlier answer holds.
        stale: bool,
        /// Why it does not.
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<String>,
    },
    /// Some backend serves, or none does.
    ServiceState {
        service: ServiceName,
        up: bool,
        cause: String,
    },
    SlotsMoved {
        service: ServiceName,
        n_slots: u64,
        cause: String,
    },
    BackendAdded {
        service: ServiceName,
        backend: SocketAddr,
        weight: u16,
        cause: String,
    },
    BackendRemoved {
        service: ServiceName,
        backend: SocketAddr,
        cause: String,
    },
    BackendState {
        service: ServiceName,
        backend: SocketAddr,
        from: State,
        to: State,
        cause: String,
    },
    /// Another part of its weight is in force, by what its checks say.
    WeightPart {
        service: ServiceName,
        backend: SocketAddr,
        /// Who wants how much of it; nobody if it has all of it.
        parts: BTreeMap<&'static str, f64>,
        cause: String,
    },
    /// Its flows have raised suspicion, and it is probed at once.
    Suspected {
        service: ServiceName,
        backend: SocketAddr,
        cause: String,
    },
    /// It comes and goes too often, or no longer does.
    Flapping {
        service: ServiceName,
        backend: SocketAddr,
        flapping: bool,
    },
    /// It cannot be reached, for this reason; or it can again.
    BackendReach {
        service: ServiceName,
        backend: SocketAddr,
        unreachable: Option<String>,
    },
    BackendWeight {
        service: ServiceName,
        backend: SocketAddr,
        from: u16,
        to: u16,
        /// By whom at runtime; without, by the configuration or who discovered it.
        #[serde(skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
    /// Somebody drained or disabled it, or a drain's deadline has come; without `set`, that is over.
    BackendAdmin {
        service: ServiceName,
        backend: SocketAddr,
        set: Option<Setting<Admin>>,
    },
    /// It drains, and no flow that was seen since is left.
    Drained {
        service: ServiceName,
        backend: SocketAddr,
        /// Others may be that have been silent for as long.
        silent_possible: bool,
    },
    Maintenance {
        service: ServiceName,
        /// By whom; without, it is over.
        set: Option<Mark>,
    },
    /// New flows go to backends of other priorities than before.
    Failover {
        service: ServiceName,
        from: Vec<Tier>,
        to: Vec<Tier>,
        cause: String,
    },
    /// So few backends are healthy that all are taken for it, or that is over.
    Panic {
        service: ServiceName,
        panic: bool,
        cause: String,
    },
    /// New flows are divided otherwise among zones.
    Spillover {
        service: ServiceName,
        /// What goes to others than while all backends are well, from 0 to 1.
        spilled: f64,
        /// Of each zone, from 0 to 1; without a name, of backends that are in none.
        shares: BTreeMap<Zone, f64>,
        cause: String,
    },
    /// It has come up, and gets its weight by and by; or it has all of it.
    SlowStart {
        service: ServiceName,
        backend: SocketAddr,
        over: bool,
    },
}

#[cfg(test)]
pub mod samples;
