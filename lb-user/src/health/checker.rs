//! The task that probes one backend on its schedule, and tells what changes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep_until};

use super::breaker::{Breaker, Phase};
use super::probe::{self, Outcome};
use super::quota::{Quota, Seat};
use super::state::State;
use super::steer::{Goal, Steering};
use super::suspicion::Suspicion;
use super::vitals::{Row, Vitals};
use super::window::Counts;
use super::{Check, Checks, Condition, News, Parts, TICK, Transition};
use crate::desired::ServiceName;

#[cfg(test)]
mod tests;

/// A backend's task. Dropping it ends the task; nothing more is sent then.
#[derive(Debug)]
pub struct Checker {
    task: AbortHandle,
    status: Arc<Mutex<Status>>,
    flows: Arc<Flows>,
}

/// What the backend's flows have shown that its task has not taken in yet.
#[derive(Debug, Default)]
struct Flows {
    counts: Mutex<Counts>,
    news: Notify,
}

impl Flows {
    async fn next(&self) -> Counts {
        self.news.notified().await;
        std::mem::take(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
    /// Why the state is what it is.
    pub cause: String,
    pub breaker: Phase,
    /// Ejections in a row.
    pub n_ejections: u32,
    pub is_flapping: bool,
    /// How often its flows have raised suspicion.
    pub n_suspicions: u64,
    /// The time from probe to probe, where that is longer than the interval; of several checks the longest.
    pub backoff: Option<Duration>,
}

impl Checker {
    /// Tells what the backend's flows have shown since the last time.
    pub fn note_flows(&self, counts: Counts) {
        self.flows.counts.lock().unwrap_or_else(PoisonError::into_inner).add(counts);
        self.flows.news.notify_one();
    }

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

/// Starts checking one backend. Where no check asks anything it is up at once. `quota` is what the service's backends share;
/// one without has no part in it.
///
/// News wait where the channel is full, and the probes with them: the receiver must not dawdle.
/// The task ends when the receiver is gone.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn(
    service: ServiceName,
    backend: SocketAddr,
    checks: Checks,
    quota: Option<Arc<Quota>>,
    news: mpsc::Sender<News>,
    steering: &Steering,
) -> Checker {
    let status = Arc::new(Mutex::new(Status::default()));
    let vitals = Vitals::new(&checks, quota.map(|quota| Seat::new(quota, backend)));
    let record = Record::new(service, backend, &checks, vitals, Arc::clone(&status), news);
    let flows = Arc::new(Flows::default());
    let task = match checks.is_active() {
        false => tokio::spawn(record.without_check(Arc::clone(&flows))),
        true => tokio::spawn(keep_checking_all(record, steering.clone(), Arc::clone(&flows))),
    };
    Checker { task: task.abort_handle(), status, flows }
}

/// Follows every check on its own schedule, all in one task, until nobody listens.
async fn keep_checking_all(record: Record, steering: Steering, flows: Arc<Flows>) {
    let (service, backend, checks) = (record.service.clone(), record.backend, Arc::clone(&record.checks));
    // Never contended for long: it is held while a result is noted, and while a transition waits for its receiver.
    let record = tokio::sync::Mutex::new(record);
    let suspicions: Vec<Notify> = checks.iter().map(|_| Notify::new()).collect();
    let schedules = checks.iter().zip(&suspicions).enumerate().map(|(index, (check, suspicion))| {
        let target = SocketAddr::new(check.path.map_or(backend.ip(), |path| path.vip), check.port.unwrap_or(backend.port()));
        let service = &service;
        let lease = Arc::new(check.path.map(|path| steering.lease(Goal { backend: backend.ip(), way: path.way })));
        let probe = move || {
            let lease = Arc::clone(&lease);
            async move {
                match &*lease {
                    Some(lease) => probe::run_steered(&check.probe, service, target, lease, check.timeout).await,
                    None => probe::run(&check.probe, service, target, check.timeout).await,
                }
            }
        };
        Box::pin(keep_checking(&record, index, check, suspicion, probe))
    });
    tokio::select! {
        _ = select_all(schedules) => {}
        Unheard = follow_flows(&record, &flows, &suspicions) => {}
    }
}

/// Has all checks made at once where flows raise suspicion.
async fn follow_flows(record: &tokio::sync::Mutex<Record>, flows: &Flows, suspicions: &[Notify]) -> Unheard {
    loop {
        let counts = flows.next().await;
        match record.lock().await.take_flows(counts).await {
            Ok(false) => {}
            Ok(true) => suspicions.iter().for_each(Notify::notify_one),
            Err(unheard) => return unheard,
        }
    }
}

/// Probes until nobody listens.
///
/// The schedule runs from start to start, whatever a probe took: a failure is not followed by a longer wait, unless the backend
/// is down and [`Check::pause`] says so, and a slow backend is not asked less often. Each step is the interval less up to a tenth at random, never more, so that the
/// bound of [`Check::detection_max`] holds while the probes of thousands of backends drift apart.
///
/// What is suspected is probed at once, and then up to `fall` times in a row, until that has confirmed it or not.
async fn keep_checking<P>(
    record: &tokio::sync::Mutex<Record>,
    index: usize,
    check: &Check,
    suspicion: &Notify,
    mut probe: impl FnMut() -> P,
) where
    P: Future<Output = Outcome>,
{
    let mut due = Instant::now() + check.interval.mul_f64(fastrand::f64() / 10.0);
    let mut was_held_up = false;
    // How many probes are to follow each other quickly.
    let mut n_hurried = 0;
    loop {
        tokio::select! {
            () = sleep_until(due) => {}
            () = suspicion.notified() => (n_hurried, due) = (check.fall, Instant::now()),
        }
        let started = Instant::now();
        let mut outcome = probe().await;
        let observed = Instant::now();
        let held_up = (observed - started).saturating_sub(check.timeout);
        // Not twice in a row: where all is late, backends die all the same.
        was_held_up = held_up > HELD_UP_MIN && !was_held_up && matches!(outcome, Outcome::Failed(_));
        if was_held_up {
            outcome = Outcome::Late(format!("{}; not counted, {} ms late", outcome.text(), held_up.as_millis()));
        }
        let Ok(next) = record.lock().await.take(index, outcome, observed, observed - started).await else { return };
        if n_hurried > 0 && next.has_passed {
            record.lock().await.report_cleared(observed);
        }
        n_hurried = if next.has_passed || next.is_down { 0 } else { n_hurried.saturating_sub(1) };
        if n_hurried > 0 {
            due = Instant::now() + HURRY.min(check.interval);
            continue;
        }
        // A starved machine does not make up for lost probes in a burst.
        due = (due + step(next.pause)).max(Instant::now());
    }
}

/// From probe to probe of a backend under suspicion.
const HURRY: Duration = Duration::from_millis(50);

/// What follows a probe.
struct Next {
    /// From its start to that of the next, at most.
    pause: Duration,
    has_passed: bool,
    /// As this check has it.
    is_down: bool,
}

/// From one warning to the next that clients do not reach a backend whose checks pass.
const WARN: Duration = Duration::from_secs(10 * 60);

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
    checks: Arc<[Check]>,
    /// Of each check, that the last probe could not be sent: said once, until one can.
    unasked: Vec<bool>,
    /// When it was last said that only the checks pass.
    warned: Option<Instant>,
    status: Arc<Mutex<Status>>,
    /// It was told that the backend flaps.
    is_told_flapping: bool,
    news: mpsc::Sender<News>,
}

impl Record {
    fn new(
        service: ServiceName,
        backend: SocketAddr,
        checks: &Checks,
        vitals: Vitals,
        status: Arc<Mutex<Status>>,
        news: mpsc::Sender<News>,
    ) -> Self {
        let unasked = vec![false; checks.list.len()];
        let checks = checks.list.clone().into();
        Self { service, backend, vitals, checks, unasked, warned: None, status, is_told_flapping: false, news }
    }

    async fn without_check(mut self, flows: Arc<Flows>) {
        for index in 0..self.unasked.len() {
            let _ = self.take(index, Outcome::Passed("not checked".to_owned()), Instant::now(), Duration::ZERO).await;
        }
        while self.take_flows(flows.next().await).await.is_ok() {}
    }

    /// Notes what flows have shown. Yields whether that is suspicious, so that all checks are to be made at once.
    async fn take_flows(&mut self, counts: Counts) -> Result<bool, Unheard> {
        let now = Instant::now();
        let (raised, left) = self.vitals.observe_flows(counts, now);
        if let Some(sums) = raised {
            let (n_failed, n_handshakes) = (sums.failed, sums.total());
            tracing::info!(service = %self.service, backend = %self.backend, n_failed, n_handshakes, "suspected; probed at once");
            let cause = format!("{n_failed} of {n_handshakes} handshakes failed");
            self.send(News::Suspected { service: self.service.clone(), backend: self.backend, cause }).await?;
        }
        if raised.is_some() || left.is_some() {
            let latency = self.status.lock().unwrap_or_else(PoisonError::into_inner).last_latency;
            self.show(latency);
        }
        self.tell(left, now).await?;
        Ok(raised.is_some())
    }

    /// Notes what a probe of the check with this index found.
    async fn take(&mut self, index: usize, outcome: Outcome, observed: Instant, latency: Duration) -> Result<Next, Unheard> {
        self.report_unasked(index, &outcome);
        let left = self.vitals.observe(index, &outcome, latency, observed);
        self.show(Some(latency));
        let row = &self.vitals.rows()[index];
        let next = Next { pause: self.pause(index), has_passed: row.passed_in_row() > 0, is_down: row.state() == State::Down };
        self.tell(left, observed).await?;
        Ok(next)
    }

    /// Tells of another condition, if one was left, and whether it is so too often.
    async fn tell(&mut self, left: Option<Condition>, observed: Instant) -> Result<(), Unheard> {
        if let Some(left) = left {
            let condition = self.vitals.condition();
            let transition = Transition {
                service: self.service.clone(),
                backend: self.backend,
                from: left.state,
                to: condition.state,
                parts: condition.parts,
                cause: self.vitals.cause().to_owned(),
                observed,
            };
            self.send(News::Transition(transition)).await?;
        }
        let is_flapping = self.vitals.flapping().is_flapping();
        if is_flapping != self.is_told_flapping {
            self.is_told_flapping = is_flapping;
            self.send(News::Flapping { service: self.service.clone(), backend: self.backend, is_flapping }).await?;
        }
        Ok(())
    }

    async fn send(&self, news: News) -> Result<(), Unheard> {
        self.news.send(news).await.map_err(|_| Unheard)
    }

    /// From probe to probe of one check. Only while it takes its backend for dead may that be long.
    fn pause(&self, index: usize) -> Duration {
        let (check, row) = (&self.checks[index], &self.vitals.rows()[index]);
        check.pause(if row.state() == State::Down { row.failed_in_row() } else { 0 })
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

    /// A probe has passed though flows raised suspicion: clients find something else than the check does.
    fn report_cleared(&mut self, now: Instant) {
        if self.warned.is_some_and(|warned| now < warned + WARN) {
            return;
        }
        self.warned = Some(now);
        tracing::warn!(
            service = %self.service, backend = %self.backend,
            "clients' connections to this backend fail, but its check passes; is its port open to clients, its queue of connections full, \
             or the VIP missing on it (`via = \"path\"` in `[service.health]` would tell)?",
        );
    }

    fn show(&self, latency: Option<Duration>) {
        let (condition, rows) = (self.vitals.condition(), self.vitals.rows());
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        (status.state, status.parts) = (condition.state, condition.parts);
        self.vitals.cause().clone_into(&mut status.cause);
        status.breaker = self.vitals.breaker().map(Breaker::phase).unwrap_or_default();
        status.n_ejections = self.vitals.breaker().map_or(0, Breaker::n_ejections);
        status.is_flapping = self.vitals.flapping().is_flapping();
        status.n_suspicions = self.vitals.suspicion().map_or(0, Suspicion::n_raised);
        let pauses = self.checks.iter().enumerate().map(|(index, check)| (self.pause(index), check.interval));
        status.backoff = pauses.filter(|(pause, interval)| pause > interval).map(|(pause, _)| pause).max();
        status.passed_in_row = rows.iter().map(Row::passed_in_row).min().unwrap_or(0);
        status.failed_in_row = rows.iter().map(Row::failed_in_row).max().unwrap_or(0);
        status.last_latency = latency;
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
