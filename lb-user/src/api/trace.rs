//! `GET /api/v1/trace`: single packets as they pass, a line of JSON each. Who may ask is who may change: packets are private.
//!
//! | line | holds |
//! |---|---|
//! | `{"packet": ...}` | a [`Told`] |
//! | `{"lost": ...}` | packets that were wanted and are not told, so far, as soon as there are more of them |
//! | `{"end": ...}` | why this is the last line, and how many packets and losses there were |
//!
//! One at a time: there is one ring and one set of rules. The packet path traces for a short time only, which is extended while
//! somebody reads: it stops with its reader, with this process, and even if this process hangs.

use std::convert::Infallible;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex as PlainMutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use lb_common::meter;
use lb_common::trace::Record;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Mutex, OwnedMutexGuard, mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{info, warn};

use super::Source;
use super::changes::{Asking, Failure};
use crate::daemon::Order;
use crate::maps::{self, Traced, Tracer};
use crate::trace::{Clock, Names, Told, Wish};

/// For how long the packet path traces by itself.
const LEASE: Duration = Duration::from_secs(3);
/// How often that is extended, and losses are told.
const PERIOD: Duration = Duration::from_secs(1);
/// Lines that wait for a reader.
const N_LINES_WAITING: usize = 4096;
/// So long is waited for the control loop.
const CONTROL_LIMIT: Duration = Duration::from_secs(10);

/// Where a tracer waits for whoever comes.
#[derive(Clone)]
pub struct Booth {
    tracer: Arc<Mutex<Tracer>>,
    /// Who is in it.
    holder: Arc<PlainMutex<String>>,
    n_traces: Arc<AtomicU32>,
}

impl Booth {
    pub fn new(tracer: Tracer) -> Self {
        Self { tracer: Arc::new(Mutex::new(tracer)), holder: Arc::default(), n_traces: Arc::default() }
    }

    /// # Errors
    /// Somebody is in it.
    fn enter(&self, by: &str) -> Result<OwnedMutexGuard<Tracer>, Failure> {
        let holder = self.holder.lock();
        let mut holder = holder.map_err(|_| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "an earlier trace broke off"))?;
        let tracer = self.tracer.clone().try_lock_owned().map_err(|_| {
            let reason = format!("there is a trace already, {holder}; one at a time: end that first, or wait");
            Failure::new(StatusCode::CONFLICT, reason)
        })?;
        let since = humantime::format_rfc3339_seconds(std::time::SystemTime::now());
        *holder = format!("by {by} since {since}");
        Ok(tracer)
    }
}

pub async fn answer(State(source): State<Source>, asking: Asking, RawQuery(query): RawQuery) -> Response {
    let mut by = None;
    let mut what = Value::Null;
    let begin = async {
        by = Some(asking.admitted(&source)?);
        let wish = Wish::read(query.as_deref().unwrap_or_default()).map_err(Failure::wrong)?;
        what = json!({ "trace": wish });
        let tracer = source.booth.enter(by.as_deref().unwrap_or_default())?;
        let (answer, answered) = oneshot::channel();
        // By itself: who asks may go in the middle of it, and what has begun must be ended.
        tokio::spawn(Trace::begin_and_run(source.clone(), tracer, wish, answer));
        let gone = || Failure::new(StatusCode::INTERNAL_SERVER_ERROR, "the trace broke off; see the daemon's log");
        answered.await.unwrap_or_else(|_| Err(gone()))
    };
    let begun = begin.await;
    asking.note(&source, by.clone(), what.clone(), begun.as_ref().err());
    let lines = match begun {
        Ok(lines) => lines,
        Err(failure) => return failure.into_response(),
    };
    info!(by = by.unwrap_or_default(), %what, "packets are traced");
    let lines = stream::unfold(lines, async |mut lines| {
        let line = lines.recv().await?;
        Some((Ok::<_, Infallible>(line), lines))
    });
    let headers = [(header::CONTENT_TYPE, "application/x-ndjson"), (header::CACHE_CONTROL, "no-store")];
    // nginx would gather lines until its buffer is full.
    (headers, [("x-accel-buffering", "no")], Body::from_stream(lines)).into_response()
}

/// Packets that were wanted and are not told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
struct Lost {
    /// Not looked at: there were more at once than a trace may have.
    limited: u64,
    /// The ring to the daemon was full.
    ring: u64,
    /// The reader was too slow.
    reader: u64,
}

/// A trace that somebody reads.
struct Trace {
    source: Source,
    wish: Wish,
    id: u32,
    tracer: OwnedMutexGuard<Tracer>,
    /// The ring, as what one can wait for.
    ring: AsyncFd<OwnedFd>,
    names: Names,
    clock: Clock,
    counted_before: Traced,
    n_told: u64,
    n_unread: u64,
    lost: Lost,
}

impl Trace {
    /// Answers with the lines, or why there are none.
    async fn begin_and_run(
        source: Source,
        tracer: OwnedMutexGuard<Tracer>,
        wish: Wish,
        answer: oneshot::Sender<Result<mpsc::Receiver<Bytes>, Failure>>,
    ) {
        let (to_lines, lines) = mpsc::channel(N_LINES_WAITING);
        match Self::begin(&source, tracer, wish).await {
            Ok(trace) => {
                // Who asked may have gone. Then nobody reads, which ends it.
                let _ = answer.send(Ok(lines));
                trace.run(to_lines).await;
            }
            Err(failure) => drop(answer.send(Err(failure))),
        }
    }

    async fn begin(source: &Source, mut tracer: OwnedMutexGuard<Tracer>, wish: Wish) -> Result<Self, Failure> {
        let broken = |reason: String| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, reason);
        let unavailable = |reason: &str| Failure::new(StatusCode::SERVICE_UNAVAILABLE, reason);
        let snapshot = source.snapshot().await.map_err(|error| unavailable(error.in_words()))?;
        let id = source.booth.n_traces.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
        tracer.set(&wish.rules(id)).map_err(|error| broken(crate::error::chain(&error)))?;
        #[expect(deprecated, reason = "the sound way takes unsafe; this descriptor is owned, and as it was")]
        let ring = tracer.descriptor().and_then(AsyncFd::new).map_err(|error| broken(format!("the ring of traces: {error}")))?;
        let mut trace = Self {
            source: source.clone(),
            wish,
            id,
            tracer,
            ring,
            names: Names::of(&snapshot),
            clock: Clock::now(),
            counted_before: source.counters.traced(),
            n_told: 0,
            n_unread: 0,
            lost: Lost::default(),
        };
        // What an earlier trace left.
        while trace.tracer.read().is_some() {}
        trace.extend();
        match trace.switch(true).await {
            true => Ok(trace),
            false => {
                trace.end().await;
                Err(unavailable("the control loop does not answer; see the daemon's log"))
            }
        }
    }

    /// Has the control loop set the flag by which packets are looked at for this.
    async fn switch(&self, is_on: bool) -> bool {
        let (answer, answered) = oneshot::channel();
        let switch = async {
            self.source.orders.send(Order::Trace { is_on, answer }).await.ok()?;
            answered.await.ok()
        };
        timeout(CONTROL_LIMIT, switch).await.ok().flatten().is_some()
    }

    fn extend(&mut self) {
        let lease = LEASE.as_nanos() as u64 >> meter::TIME_SHIFT;
        self.tracer.extend(maps::meter_time() + lease);
    }

    /// Nothing is traced from here on.
    async fn end(&mut self) {
        self.tracer.extend(0);
        if !self.switch(false).await {
            warn!(
                "the control loop does not take it that a trace is over; each packet costs some nanoseconds more until it does"
            );
        }
    }

    /// Tells packets until enough are told, or nobody reads any more.
    async fn run(mut self, lines: mpsc::Sender<Bytes>) {
        let reason = self.tell(&lines).await;
        self.end().await;
        self.count_losses();
        info!(reason, packets = self.n_told, "packets are not traced any more");
        let end = json!({ "end": { "reason": reason, "packets": self.n_told, "lost": self.lost } });
        // Whoever reads slowly gets this too, if it reads at all.
        let _ = timeout(CONTROL_LIMIT, lines.send(line(&end))).await;
    }

    async fn tell(&mut self, lines: &mpsc::Sender<Bytes>) -> &'static str {
        let deadline = Instant::now() + self.wish.duration;
        let mut period = interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = lines.closed() => return "nobody reads any more",
                () = sleep_until(deadline) => return "duration",
                _ = period.tick() => {
                    self.extend();
                    self.clock = Clock::now();
                    if self.count_losses() && lines.try_send(line(&json!({ "lost": self.lost }))).is_err() {
                        // The next one says it, or the end does.
                        continue;
                    }
                }
                ready = self.ring.readable() => {
                    if let Ok(mut ready) = ready {
                        ready.clear_ready();
                    }
                }
            }
            while let Some(record) = self.tracer.read() {
                if record.id == self.id && !self.tell_one(&record, lines).await {
                    return "nobody reads any more";
                }
                if self.n_told >= self.wish.count {
                    return "count";
                }
            }
        }
    }

    /// Whether somebody reads.
    async fn tell_one(&mut self, record: &Record, lines: &mpsc::Sender<Bytes>) -> bool {
        if self.names.lack(record)
            && let Ok(snapshot) = self.source.snapshot().await
        {
            self.names = Names::of(&snapshot);
        }
        let Some(told) = Told::new(record, &self.names, self.clock, self.wish.bytes) else { return true };
        match lines.try_send(line(&json!({ "packet": told }))) {
            Ok(()) => self.n_told += 1,
            Err(TrySendError::Full(_)) => self.n_unread += 1,
            Err(TrySendError::Closed(_)) => return false,
        }
        true
    }

    /// Whether there are more than before.
    fn count_losses(&mut self) -> bool {
        let counted = self.source.counters.traced().since(&self.counted_before);
        let lost = Lost { limited: counted.n_limited, ring: counted.n_lost, reader: self.n_unread };
        std::mem::replace(&mut self.lost, lost) != lost
    }
}

fn line(value: &Value) -> Bytes {
    Bytes::from(format!("{value}\n"))
}

#[cfg(test)]
mod tests {
    use crate::trace::KEYS;

    #[test]
    fn the_description_lists_what_a_query_may_have() {
        crate::api::query::assert_described("/api/v1/trace", &KEYS);
    }
}
