//! The control loop's part in what is set at runtime: putting it in force, and how far drains have come.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::flow::{IDLE_MAX, Tick};
use lb_common::{BackendId, Slot};
use tokio::time::Instant;

use super::{Control, ControlError, SWEEP, record};
use crate::compile;
use crate::config::Config;
use crate::daemon::assemble::{BackendKey, assemble};
use crate::daemon::preview::Running;
use crate::desired::{Service, ServiceName};
use crate::maps::{self, Sweep};
use crate::runtime::{Admin, Known, Overrides};
use crate::status::Drain;

/// Flows on record from the first packet on after a drain began: counted before that, they would seem to be fewer than they are.
const RECORDED_AFTER: Duration = Duration::from_secs(1);

/// How many flows are looked at each second, at most, while somebody drains: about four milliseconds of work.
const COUNTED_EACH_SECOND: usize = 4 << 20;

/// Who is in the flow table, and when that was looked at.
pub struct Counted {
    pub at: Instant,
    pub sweep: Sweep,
    /// Since when backends drain, so far as this daemon knows.
    draining: BTreeMap<BackendKey, Instant>,
}

impl Counted {
    pub fn new() -> Self {
        Self { at: Instant::now(), sweep: Sweep::default(), draining: BTreeMap::new() }
    }

    /// Whether some drain was not looked at yet.
    pub fn is_behind(&self) -> bool {
        self.draining.values().any(|&since| self.at < since + RECORDED_AFTER)
    }

    fn follow(&mut self, overrides: &Overrides) {
        let is_drained = |admin| matches!(admin, Some(Admin::Drain { .. }));
        let drained = overrides.backends().filter(|(.., set)| is_drained(set.admin()));
        let mut before = std::mem::take(&mut self.draining);
        let keys = drained.map(|(name, endpoint, _)| (name.clone(), endpoint));
        self.draining = keys.map(|key| before.remove_entry(&key).unwrap_or_else(|| (key, Instant::now()))).collect();
    }
}

impl Control {
    pub fn overrides(&self) -> &Overrides {
        &self.findings.overrides
    }

    /// Whom a change can be about.
    pub fn known(&self) -> Known<'_> {
        Known { config: &self.config, discovered: &self.findings.discovered }
    }

    /// What the daemon runs by, for a comparison elsewhere: that may take its time.
    pub fn running(&self) -> Running {
        Running { config: self.config.clone(), text: self.config_text.clone(), overrides: self.findings.overrides.clone() }
    }

    /// Whether the tables could hold what these make of the configuration.
    ///
    /// # Errors
    /// What they have no room for.
    pub fn fits(&mut self, overrides: &Overrides) -> Result<(), ControlError> {
        let before = std::mem::replace(&mut self.findings.change().overrides, overrides.clone());
        let desired = assemble(&self.config, &self.findings);
        self.findings.change().overrides = before;
        compile::compile(&desired, &self.layout, &self.tables, &self.seen())?;
        Ok(())
    }

    /// Puts these in force, and no others.
    ///
    /// # Errors
    /// As [`reconcile`](Control::reconcile); those from before hold then.
    pub fn set_overrides(&mut self, overrides: Overrides) -> Result<(), ControlError> {
        record::overrides(&self.findings.overrides, &overrides, &mut self.journal, &mut self.causes);
        let before = std::mem::replace(&mut self.findings.change().overrides, overrides);
        self.counted.follow(&self.findings.overrides);
        let done = self.reconcile(None);
        if done.is_err() {
            record::overrides(&self.findings.overrides, &before, &mut self.journal, &mut self.causes);
            self.findings.change().overrides = before;
            self.counted.follow(&self.findings.overrides);
        }
        done
    }

    /// Another configuration, and what was set at runtime as far as that still means something; in words what does not. A
    /// failure later on is undone by giving it back.
    pub(super) fn exchange(&mut self, config: Config, text: Arc<str>) -> (Before, Vec<String>) {
        let (overrides, forgotten) = self.findings.overrides.under(&config);
        let before = Before {
            config: std::mem::replace(&mut self.config, config),
            text: std::mem::replace(&mut self.config_text, text),
            overrides: std::mem::replace(&mut self.findings.change().overrides, overrides),
        };
        self.is_followed = false;
        self.counted.follow(&self.findings.overrides);
        (before, forgotten)
    }

    pub(super) fn give_back(&mut self, before: Before) {
        (self.config, self.config_text, self.findings.change().overrides) = (before.config, before.text, before.overrides);
        self.is_followed = false;
        self.counted.follow(&self.findings.overrides);
    }

    /// Goes through the flow table if it is time.
    pub(super) fn count_flows(&mut self) {
        let is_small = self.maps.flows.capacity() <= COUNTED_EACH_SECOND;
        let period = if is_small && !self.counted.draining.is_empty() { super::SETTLE } else { SWEEP };
        if self.counted.at.elapsed() < period {
            return;
        }
        let idle = idle_by_backend(&self.layout, &self.desired);
        self.counted.sweep = self.maps.sweep(maps::now(), |id| idle.get(&id).copied().unwrap_or(IDLE_MAX));
        self.counted.at = Instant::now();
    }

    /// How far a backend's drain has come, if it drains.
    pub(super) fn drain(
        &self,
        name: &ServiceName,
        endpoint: SocketAddr,
        id: Option<BackendId>,
        slots: Option<&[Slot]>,
    ) -> Option<Drain> {
        let since = *self.counted.draining.get(&(name.clone(), endpoint))?;
        let is_settled_there = |slot: &Slot| !slot.is_at_rest() && Some(slot.settled()) == id;
        Some(Drain {
            flows: (self.counted.at >= since + RECORDED_AFTER).then(|| self.n_flows(id)),
            silent_possible: slots.unwrap_or_default().iter().any(is_settled_there),
        })
    }

    /// Flows that a backend had on record at the last count.
    pub(super) fn n_flows(&self, id: Option<BackendId>) -> u64 {
        id.and_then(|id| self.counted.sweep.by_backend.get(&id)).copied().unwrap_or_default()
    }
}

/// What held before an exchange.
pub(super) struct Before {
    config: Config,
    text: Arc<str>,
    pub(super) overrides: Overrides,
}

fn idle_by_backend(layout: &compile::Layout, desired: &crate::desired::Desired) -> BTreeMap<BackendId, Tick> {
    let idle = |service: &Service| service.idle;
    layout.backends().filter_map(|(name, _, id)| Some((id, desired.services.get(name).map(idle)?))).collect()
}
