//! The HTTP faces of the daemon: a page for people, metrics for Prometheus, status and events as JSON, and health for whoever
//! watches over it.
//!
//! Read-only. The state comes from the control loop by question and answer, the counters straight from their maps.

mod events;
mod metrics;
mod page;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use axum::{Json, Router};
use rustix::net::sockopt::set_tcp_user_timeout;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::timeout;
use tracing::{debug, error};

use crate::daemon::Inquiry;
use crate::error::chain;
use crate::maps::Counters;
use crate::status::{Snapshot, Status};

/// Where answers come from.
#[derive(Clone)]
pub struct Source {
    pub inquiries: mpsc::Sender<Inquiry>,
    pub counters: Arc<Counters>,
    /// Wakes who follows events.
    changed: Arc<Notify>,
    newcomers: mpsc::Sender<events::Newcomer>,
    /// In seconds since 1970.
    started: f64,
}

/// Readers of events that may wait to be let in.
const N_NEWCOMERS: usize = 16;

/// What is sent must be taken within this time, or the connection ends: who stops reading would hold it for ever.
const TAKEN_LIMIT: Duration = Duration::from_secs(20);

/// A control loop that does not answer for this long is not alive.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Serves until the process ends. Who changes something says so by `changed`.
pub async fn serve(listener: TcpListener, inquiries: mpsc::Sender<Inquiry>, counters: Arc<Counters>, changed: Arc<Notify>) {
    let (newcomers, admitted) = mpsc::channel(N_NEWCOMERS);
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let source = Source { inquiries, counters, changed, newcomers, started };
    tokio::spawn(events::Herald::new(source.clone(), admitted).run());
    let listener = listener.tap_io(|stream| {
        if let Err(error) = set_tcp_user_timeout(&*stream, TAKEN_LIMIT.as_millis() as u32) {
            debug!(%error, "a connection to the API has no time limit");
        }
    });
    if let Err(error) = axum::serve(listener, router(source)).await {
        error!(%error, "the API has ended");
    }
}

fn router(source: Source) -> Router {
    Router::new()
        .route("/lb", get(page::answer))
        .route("/api/v1/events", get(events::answer))
        .route("/metrics", get(metrics::answer))
        .route("/lb/status", get(status))
        .route("/health", get(health))
        .route("/health/live", get(live))
        .route("/health/ready", get(ready))
        .with_state(source)
}

impl Source {
    /// The control loop's view now.
    async fn snapshot(&self) -> Result<Snapshot, Unavailable> {
        let ask = async {
            let (answer, question) = oneshot::channel();
            self.inquiries.send(answer).await.ok()?;
            question.await.ok()
        };
        timeout(ANSWER_LIMIT, ask).await.ok().flatten().ok_or(Unavailable::Control)
    }

    /// The same, with counters.
    async fn status(&self) -> Result<Status, Unavailable> {
        let snapshot = self.snapshot().await?;
        Status::read(&snapshot, &self.counters).map_err(|error| Unavailable::Counters(chain(&error)))
    }
}

/// Why there is no answer.
#[derive(Debug)]
enum Unavailable {
    Control,
    Counters(String),
}

impl Unavailable {
    fn in_words(&self) -> &str {
        match self {
            Self::Control => "the control loop does not answer; see the daemon's log",
            Self::Counters(error) => error,
        }
    }
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": self.in_words() }))).into_response()
    }
}

async fn status(State(source): State<Source>) -> Result<impl IntoResponse, Unavailable> {
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(source.status().await?)))
}

/// 200 while the daemon works, and what is wrong with the services, if anything.
async fn health(State(source): State<Source>) -> Result<impl IntoResponse, Unavailable> {
    let snapshot = source.snapshot().await?;
    let is_down = |service: &&crate::status::ServiceView| !service.backends.iter().any(|backend| backend.serves);
    let down: Vec<&str> = snapshot.services.iter().filter(is_down).map(|service| &*service.name).collect();
    let status = if down.is_empty() { "ok" } else { "degraded" };
    Ok(Json(json!({ "status": status, "ready": snapshot.is_ready, "services_down": down })))
}

/// 200 if the control loop answers.
async fn live(State(source): State<Source>) -> Result<impl IntoResponse, Unavailable> {
    source.snapshot().await?;
    Ok(Json(json!({ "status": "ok" })))
}

/// 200 once the program steers packets by complete tables.
async fn ready(State(source): State<Source>) -> Result<impl IntoResponse, Unavailable> {
    let snapshot = source.snapshot().await?;
    let code = if snapshot.is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((code, Json(json!({ "ready": snapshot.is_ready }))))
}
