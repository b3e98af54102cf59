//! `GET /api/v1/events`: how things stand, once a second and at every change, and what changed, as server-sent events.
//!
//! One task looks, for all readers. What the control loop is told and what it decides stands in its [journal](crate::journal), at the
//! time when it happened; what nobody decides (who can be reached, who has all of its weight, whose flows have ended) is seen by
//! comparing how things stand with how they stood at the look before.
//!
//! | event | holds |
//! |---|---|
//! | `hello` | first of all: version, what verdicts mean, and the last events |
//! | `status` | what `GET /lb/status` answers, with the time |
//! | `changes` | a list of [`Event`]s |
//! | `trouble` | why there is no status |
//! | `end` | why this is the last word |

mod levels;
mod readers;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use lb_common::verdict::Verdict;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::Source;
use crate::journal::{self, Event};
use crate::runtime::unix_ms;
use crate::status::{Snapshot, Status};
use levels::differences;
use readers::{N_READERS_MAX, Readers, frame};

/// How often readers are told how things stand when nothing changes. Rates are computed from it.
const PERIOD: Duration = Duration::from_secs(1);
/// The shortest time between two looks: a burst of changes is told at once.
const GATHER: Duration = Duration::from_millis(100);
/// Events that are kept for readers to come.
const N_EVENTS_KEPT: usize = 200;

/// Who wants to read, and is answered with a queue of frames, or with none if there is no room.
pub type Newcomer = oneshot::Sender<Option<mpsc::Receiver<Bytes>>>;

/// The task that looks and tells.
pub struct Herald {
    source: Source,
    journal: journal::Reader,
    newcomers: mpsc::Receiver<Newcomer>,
    readers: Readers,
    started: Instant,
    before: Option<Snapshot>,
    events: VecDeque<Event>,
    looked_at: Instant,
    /// Something may have changed since.
    is_stale: bool,
}

impl Herald {
    pub fn new(source: Source, journal: journal::Reader, newcomers: mpsc::Receiver<Newcomer>) -> Self {
        let now = Instant::now();
        Self {
            source,
            journal,
            newcomers,
            readers: Readers::default(),
            started: now,
            before: None,
            events: VecDeque::new(),
            looked_at: now,
            is_stale: false,
        }
    }

    /// Runs until nobody can join any more.
    pub async fn run(mut self) {
        // Before anybody reads: what comes next is told from here.
        self.look().await;
        loop {
            let due = self.next_look();
            tokio::select! {
                newcomer = self.newcomers.recv() => match newcomer {
                    Some(newcomer) => self.greet(newcomer),
                    None => return,
                },
                () = self.source.changed.notified() => self.is_stale = true,
                () = sleep_until(due.unwrap_or(self.looked_at)), if due.is_some() => self.look().await,
            }
        }
    }

    /// Without readers only changes are looked at, for the log of events, and at leisure.
    fn next_look(&self) -> Option<Instant> {
        let wait = match (self.readers.is_empty(), self.is_stale) {
            (false, true) => GATHER,
            (false, false) | (true, true) => PERIOD,
            (true, false) => return None,
        };
        Some(self.looked_at + wait)
    }

    fn greet(&mut self, newcomer: Newcomer) {
        let hello = frame("hello", &self.hello());
        // Who asked may have gone: then the reader is gone too, and noticed with the next frame.
        let _ = newcomer.send(self.readers.admit(hello));
        self.is_stale = true;
    }

    fn hello(&self) -> impl Serialize {
        let verdicts: Vec<_> = Verdict::ALL
            .iter()
            .map(|verdict| json!({ "label": verdict.label(), "class": verdict.class().label(), "text": verdict.explanation().trim() }))
            .collect();
        json!({ "version": env!("CARGO_PKG_VERSION"), "verdicts": verdicts, "events": self.events })
    }

    async fn look(&mut self) {
        self.is_stale = false;
        let looked = self.source.snapshot().await;
        self.looked_at = Instant::now();
        let mut events = self.journal.read();
        if let (Ok(snapshot), Some(before)) = (&looked, &self.before) {
            events.extend(differences(before, snapshot).into_iter().map(Event::now));
        }
        self.tell(events);
        let snapshot = match looked {
            Ok(snapshot) => snapshot,
            Err(unavailable) => return self.readers.tell(&frame("trouble", &json!({ "error": unavailable.in_words() }))),
        };
        if !self.readers.is_empty() {
            let frame = match Status::read(&snapshot, &self.source.counters) {
                Ok(status) => {
                    frame("status", &Now { at_ms: unix_ms(), uptime_ms: self.started.elapsed().as_millis() as u64, status })
                }
                Err(error) => frame("trouble", &json!({ "error": crate::error::chain(&error) })),
            };
            self.readers.tell(&frame);
        }
        self.before = Some(snapshot);
    }

    fn tell(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.readers.tell(&frame("changes", &events));
            self.events.extend(events);
            self.events.drain(..self.events.len().saturating_sub(N_EVENTS_KEPT));
        }
    }
}

/// How things stand, and when.
#[derive(Serialize)]
struct Now {
    /// Milliseconds since 1970, which may jump.
    at_ms: u64,
    /// Milliseconds since the API began, which do not: for rates.
    uptime_ms: u64,
    status: Status,
}

pub async fn answer(State(source): State<Source>) -> Response {
    let (newcomer, admission) = oneshot::channel();
    let is_asked = source.newcomers.send(newcomer).await.is_ok();
    let Some(frames) = (if is_asked { admission.await.ok().flatten() } else { None }) else {
        let error = format!("{N_READERS_MAX} readers follow the events already; end one, or read GET /lb/status");
        return (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": error }))).into_response();
    };
    let frames = stream::unfold(frames, async |mut frames| {
        let frame = frames.recv().await?;
        Some((Ok::<_, Infallible>(frame), frames))
    });
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    // nginx would gather events until its buffer is full.
    (headers, [("x-accel-buffering", "no")], Body::from_stream(frames)).into_response()
}
