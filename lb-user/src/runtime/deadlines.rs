//! When drains end, by a clock that does not jump and that goes on from one daemon to the next: the time since boot.
//!
//! What was set says when by the wall clock, for people, and for the daemon that comes after a reboot. Both are kept, and of the same
//! boot the time since boot counts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::sync::LazyLock;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::{Overrides, UnixMs, unix_ms};
use crate::daemon::BackendKey;
use crate::desired::ServiceName;

/// Milliseconds since boot, those of suspension too.
pub type BootMs = u64;

/// A boot's own name; empty if the kernel does not tell.
static BOOT_ID: LazyLock<String> = LazyLock::new(|| {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim().to_owned()
});

/// What the clocks say at one moment, and of which boot.
#[derive(Clone, Copy, Debug)]
pub struct Clocks<'b> {
    pub boot_id: &'b str,
    pub boot_ms: BootMs,
    pub unix_ms: UnixMs,
}

impl Clocks<'static> {
    pub fn read() -> Self {
        let since_boot = clock_gettime(ClockId::Boottime);
        let boot_ms = since_boot.tv_sec as u64 * 1000 + since_boot.tv_nsec as u64 / 1_000_000;
        Self { boot_id: &BOOT_ID, boot_ms, unix_ms: unix_ms() }
    }
}

/// When each drain with a deadline ends.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Deadlines {
    /// The times since boot are since this one.
    boot_id: String,
    drains: BTreeMap<ServiceName, BTreeMap<SocketAddr, Deadline>>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Deadline {
    /// As it was set: with another one it is another deadline.
    until_ms: UnixMs,
    boot_ms: BootMs,
}

impl Deadlines {
    /// Those of what is set. Of one that is not among `known`, or is of another boot there, the wall clock says now how far it is.
    #[must_use]
    pub fn of(overrides: &Overrides, known: &Self, clocks: Clocks<'_>) -> Self {
        let mut new = Self::default();
        for ((name, endpoint), until_ms) in overrides.deadlines() {
            let known = known.drains.get(&name).and_then(|drains| drains.get(&endpoint)).filter(|_| known.is_of(clocks.boot_id));
            let known = known.copied().filter(|known| known.until_ms == until_ms);
            let boot_ms = clocks.boot_ms.saturating_add(until_ms.saturating_sub(clocks.unix_ms));
            let deadline = known.unwrap_or(Deadline { until_ms, boot_ms });
            new.drains.entry(name).or_default().insert(endpoint, deadline);
        }
        if !new.is_empty() {
            clocks.boot_id.clone_into(&mut new.boot_id);
        }
        new
    }

    pub fn is_empty(&self) -> bool {
        self.drains.is_empty()
    }

    pub fn is_of(&self, boot_id: &str) -> bool {
        self.boot_id == boot_id
    }

    /// Whether they mean something to a later daemon.
    pub fn is_to_be_kept(&self) -> bool {
        !self.is_empty() && !self.boot_id.is_empty()
    }

    /// Who is due.
    pub fn due(&self, now_ms: BootMs) -> BTreeSet<BackendKey> {
        self.iter().filter(|&(.., at_ms)| at_ms <= now_ms).map(|(name, endpoint, _)| (name.clone(), endpoint)).collect()
    }

    /// When the first one is.
    pub fn next(&self) -> Option<BootMs> {
        self.iter().map(|(.., at_ms)| at_ms).min()
    }

    /// Has these come later.
    pub fn put_off(&mut self, which: &BTreeSet<BackendKey>, until_ms: BootMs) {
        for (name, endpoint) in which {
            if let Some(deadline) = self.drains.get_mut(name).and_then(|drains| drains.get_mut(endpoint)) {
                deadline.boot_ms = until_ms;
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&ServiceName, SocketAddr, BootMs)> {
        let drains = self.drains.iter().flat_map(|(name, drains)| drains.iter().map(move |(&endpoint, at)| (name, endpoint, at)));
        drains.map(|(name, endpoint, at)| (name, endpoint, at.boot_ms))
    }
}
