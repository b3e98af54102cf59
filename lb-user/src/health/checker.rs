//! The task that probes one backend on its schedule, and tells what changes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::probe::{self, Outcome};
use super::state::State;
use super::vitals::{Row, Vitals};
use super::{Check, Checks, Parts, Probe, TICK, Transition};
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
    pub parts: Parts,
    /// Successes since the last failure; of several checks the least.
    pub passed_in_row: u32,
    /// Failures since the last success; of several checks the most.
    pub failed_in_row: u32,
    /// What the last probe of each check found, such as `http 200; connected`; empty before the first has ended.
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

/// Starts checking one backend. Where no check asks anything it is up at once.
///
/// Transitions wait where the channel is full, and the probes with them: the receiver must not dawdle.
/// The task ends when the receiver is gone.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn(service: ServiceName, backend: SocketAddr, checks: Checks, transitions: mpsc::Sender<Transition>) -> Checker {
    let status = Arc::new(Mutex::new(Status::default()));
    let record = Record::new(service, backend, &checks, Arc::clone(&status), transitions);
    let task = match checks.list.iter().all(|check| check.probe == Probe::None) {
        true => tokio::spawn(record.without_check()),
        false => tokio::spawn(keep_checking_all(record, checks.list)),
    };
    Checker { task: task.abort_handle(), status }
}

/// Follows every check on its own schedule, all in one task, until nobody listens.
async fn keep_checking_all(record: Record, checks: Vec<Check>) {
    let (service, backend) = (record.service.clone(), record.backend);
    // Never contended for long: it is held while a result is noted, and while a transition waits for its receiver.
    let record = tokio::sync::Mutex::new(record);
    let schedules = checks.iter().enumerate().map(|(index, check)| {
        let target = SocketAddr::new(backend.ip(), check.port.unwrap_or(backend.port()));
        let service = &service;
        let probe = move || probe::run(&check.probe, service, target, check.timeout);
        Box::pin(keep_checking(&record, index, check, probe))
    });
    select_all(schedules).await;
}

/// Probes until nobody listens.
///
/// The schedule runs from start to start, whatever a probe took: a failure is not followed by a longer wait, and a slow
/// backend is not asked less often. Each step is the interval less up to a tenth at random, never more, so that the
/// bound of [`Check::detection_max`] holds while the probes of thousands of backends drift apart.
async fn keep_checking<P>(record: &tokio::sync::Mutex<Record>, index: usize, check: &Check, mut probe: impl FnMut() -> P)
where
    P: Future<Output = Outcome>,
{
    let interval = check.interval;
    let mut due = Instant::now() + interval.mul_f64(fastrand::f64() / 10.0);
    let mut was_held_up = false;
    loop {
        sleep_until(due).await;
        let started = Instant::now();
        let mut outcome = probe().await;
        let observed = Instant::now();
        let held_up = (observed - started).saturating_sub(check.timeout);
        // Not twice in a row: where all is late, backends die all the same.
        was_held_up = held_up > HELD_UP_MIN && !was_held_up && matches!(outcome, Outcome::Failed(_));
        if was_held_up {
            outcome = Outcome::Late(format!("{}; not counted, {} ms late", outcome.text(), held_up.as_millis()));
        }
        if record.lock().await.take(index, outcome, observed, observed - started).await.is_err() {
            return;
        }
        // A starved machine does not make up for lost probes in a burst.
        due = (due + step(interval)).max(Instant::now());
    }
}

/// A failure that comes so long after a probe's time-out is this machine's: nobody looked whether there was an answer. So it is
/// after a SIGSTOP, or where a virtual machine stood still; without it all backends would be down then.
const HELD_UP_MIN: Duration = Duration::from_millis(250);

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
    vitals: Vitals,
    /// Of each check, that the last probe could not be sent: said once, until one can.
    unasked: Vec<bool>,
    status: Arc<Mutex<Status>>,
    transitions: mpsc::Sender<Transition>,
}

impl Record {
    fn new(
        service: ServiceName,
        backend: SocketAddr,
        checks: &Checks,
        status: Arc<Mutex<Status>>,
        transitions: mpsc::Sender<Transition>,
    ) -> Self {
        Self { service, backend, vitals: Vitals::new(checks), unasked: vec![false; checks.list.len()], status, transitions }
    }

    async fn without_check(mut self) {
        for index in 0..self.unasked.len() {
            let _ = self.take(index, Outcome::Passed("not checked".to_owned()), Instant::now(), Duration::ZERO).await;
        }
    }

    /// Notes what a probe of the check with this index found.
    async fn take(&mut self, index: usize, outcome: Outcome, observed: Instant, latency: Duration) -> Result<(), Unheard> {
        self.report_unasked(index, &outcome);
        let left = self.vitals.observe(index, &outcome, latency);
        self.show(latency);
        let Some(left) = left else { return Ok(()) };
        let condition = self.vitals.condition();
        let transition = Transition {
            service: self.service.clone(),
            backend: self.backend,
            from: left.state,
            to: condition.state,
            parts: condition.parts,
            cause: outcome.text().to_owned(),
            observed,
        };
        self.transitions.send(transition).await.map_err(|_| Unheard)
    }

    fn report_unasked(&mut self, index: usize, outcome: &Outcome) {
        let unasked = matches!(outcome, Outcome::Unasked(_));
        if unasked && !self.unasked[index] {
            tracing::warn!(
                service = %self.service, backend = %self.backend, cause = outcome.text(), state = %self.vitals.condition().state,
                "this machine cannot send health probes; the backend keeps its state",
            );
        }
        self.unasked[index] = unasked;
    }

    fn show(&self, latency: Duration) {
        let (condition, rows) = (self.vitals.condition(), self.vitals.rows());
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        (status.state, status.parts) = (condition.state, condition.parts);
        status.passed_in_row = rows.iter().map(Row::passed_in_row).min().unwrap_or(0);
        status.failed_in_row = rows.iter().map(Row::failed_in_row).max().unwrap_or(0);
        status.last_latency = Some(latency);
        // The allocation is kept.
        status.last_result.clear();
        for result in rows.iter().map(|row| row.last_result.as_str()).filter(|result| !result.is_empty()) {
            if !status.last_result.is_empty() {
                status.last_result.push_str("; ");
            }
            status.last_result.push_str(result);
        }
    }
}
