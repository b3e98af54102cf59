//! The task that probes one backend on its schedule, and tells what changes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::probe::{self, Outcome};
use super::state::{Machine, State};
use super::{Check, Probe, TICK, Transition};
use crate::desired::ServiceName;

#[cfg(test)]
mod tests;

/// A backend's task. Dropping it ends the task; nothing more is sent then.
#[derive(Debug)]
pub struct Checker {
    task: AbortHandle,
    status: Arc<Mutex<Status>>,
}

/// What is known of a backend at one moment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    pub state: State,
    /// Successes since the last failure.
    pub passed_in_row: u32,
    /// Failures since the last success.
    pub failed_in_row: u32,
    /// What the last probe found, such as `http 200`; empty before the first has ended.
    pub last_result: String,
    /// How long the last probe took, if there was one.
    pub last_latency: Option<Duration>,
}

impl Checker {
    /// A snapshot.
    pub fn status(&self) -> Status {
        // Whoever held it only replaced whole values: they are sound even if it panicked.
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts checking one backend. Without a check it is up at once.
///
/// Transitions wait where the channel is full, and the probes with them: the receiver must not dawdle.
/// The task ends when the receiver is gone.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn(service: ServiceName, backend: SocketAddr, check: Check, transitions: mpsc::Sender<Transition>) -> Checker {
    let status = Arc::new(Mutex::new(Status::default()));
    let target = SocketAddr::new(backend.ip(), check.port.unwrap_or(backend.port()));
    let record = Record {
        service,
        backend,
        machine: Machine::new(check.rise, check.fall),
        status: Arc::clone(&status),
        transitions,
        unasked: false,
    };
    let task = match check.probe {
        Probe::None => tokio::spawn(async move { record.without_check().await }),
        _ => tokio::spawn(async move {
            let (probe, timeout, service) = (check.probe, check.timeout, record.service.clone());
            keep_checking(record, check.interval, || probe::run(&probe, &service, target, timeout)).await;
        }),
    };
    Checker { task: task.abort_handle(), status }
}

/// Probes until nobody listens.
///
/// The schedule runs from start to start, whatever a probe took: a failure is not followed by a longer wait, and a slow
/// backend is not asked less often. Each step is the interval less up to a tenth at random, never more, so that the
/// bound of [`Check::detection_max`] holds while the probes of thousands of backends drift apart.
async fn keep_checking<P>(mut record: Record, interval: Duration, mut probe: impl FnMut() -> P)
where
    P: Future<Output = Outcome>,
{
    let mut due = Instant::now() + interval.mul_f64(fastrand::f64() / 10.0);
    loop {
        sleep_until(due).await;
        let started = Instant::now();
        let outcome = probe().await;
        let observed = Instant::now();
        if record.take(outcome, observed, observed - started).await.is_err() {
            return;
        }
        // A starved machine does not make up for lost probes in a burst.
        due = (due + step(interval)).max(Instant::now());
    }
}

/// From one probe to the next: between 0.9 intervals, and the interval less the timer's granularity.
fn step(interval: Duration) -> Duration {
    let shortest = interval.mul_f64(0.9);
    let spread = interval.saturating_sub(TICK).saturating_sub(shortest);
    shortest + spread.mul_f64(fastrand::f64())
}

/// Nobody receives transitions any more.
struct Unheard;

/// One backend's record of results.
struct Record {
    service: ServiceName,
    backend: SocketAddr,
    machine: Machine,
    status: Arc<Mutex<Status>>,
    transitions: mpsc::Sender<Transition>,
    /// The last probe could not be sent: said once, until one can.
    unasked: bool,
}

impl Record {
    async fn without_check(mut self) {
        let _ = self.take(Outcome::Passed("not checked".to_owned()), Instant::now(), Duration::ZERO).await;
    }

    async fn take(&mut self, outcome: Outcome, observed: Instant, latency: Duration) -> Result<(), Unheard> {
        let left = match &outcome {
            Outcome::Passed(_) => self.machine.observe(true),
            Outcome::Failed(_) => self.machine.observe(false),
            Outcome::Unasked(_) => None,
        };
        self.report_unasked(&outcome);
        self.show(outcome.text(), latency);
        let Some(from) = left else { return Ok(()) };
        let transition = Transition {
            service: self.service.clone(),
            backend: self.backend,
            from,
            to: self.machine.state(),
            cause: outcome.text().to_owned(),
            observed,
        };
        self.transitions.send(transition).await.map_err(|_| Unheard)
    }

    fn report_unasked(&mut self, outcome: &Outcome) {
        let unasked = matches!(outcome, Outcome::Unasked(_));
        if unasked && !self.unasked {
            tracing::warn!(
                service = %self.service, backend = %self.backend, cause = outcome.text(), state = %self.machine.state(),
                "this machine cannot send health probes; the backend keeps its state",
            );
        }
        self.unasked = unasked;
    }

    fn show(&self, result: &str, latency: Duration) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.state = self.machine.state();
        status.passed_in_row = self.machine.passed_in_row();
        status.failed_in_row = self.machine.failed_in_row();
        status.last_latency = Some(latency);
        // Mostly it is the same as before: keep the allocation.
        if status.last_result != result {
            result.clone_into(&mut status.last_result);
        }
    }
}
