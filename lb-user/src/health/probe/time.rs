//! A probe's time-out, over all its steps.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::Setback;
use crate::health::TICK;

/// When a probe that starts now must have ended: early by what a timer may be late, so that `timeout` is kept.
pub(in crate::health) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.saturating_sub(TICK).max(TICK)
}

/// How much time one probe has.
#[derive(Debug)]
pub(super) struct Time {
    deadline: Instant,
    /// As configured, for the operator to recognise.
    timeout: Duration,
}

impl Time {
    pub(super) fn from_now(timeout: Duration) -> Self {
        Self { deadline: deadline(timeout), timeout }
    }

    /// What `step` yields; or the probe's failure, which names `phase`, if its time is up before that.
    pub(super) async fn keep<T>(&self, phase: &str, step: impl Future<Output = T>) -> Result<T, Setback> {
        timeout_at(self.deadline, step)
            .await
            .map_err(|_| Setback::Failed(format!("{phase}: timed out after {}", humantime::format_duration(self.timeout))))
    }
}
