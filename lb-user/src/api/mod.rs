//! The HTTP faces of the daemon: a page for people, metrics for Prometheus, status and events as JSON, and health for whoever
//! watches over it; and the way to change at runtime what is balanced.
//!
//! The state comes from the control loop by question and answer, the counters straight from their maps. Changes are messages to
//! the control loop, which decides about them; nothing here touches a map.

mod audit;
mod auth;
mod changes;
mod doors;
mod events;
mod explain;
mod metrics;
mod page;
pub mod query;
mod tls;
mod trace;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post, put};
use axum::{Json, Router};
use serde_json::json;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::timeout;

pub(crate) use auth::{others_than_owner_may_read, token};
pub use doors::{Doors, SocketFile};
pub use tls::Identity;
pub(crate) use tls::{VALID_MIN, days, others_may_read, valid_for};

use crate::daemon::{Inquiry, Order};
use crate::error::chain;
use crate::journal;
use crate::maps::{Counters, Tracer};
use crate::status::{Snapshot, Status};

/// Where answers come from.
#[derive(Clone)]
pub struct Source {
    pub inquiries: mpsc::Sender<Inquiry>,
    pub counters: Arc<Counters>,
    /// Wakes who follows events.
    changed: Arc<Notify>,
    newcomers: mpsc::Sender<events::Newcomer>,
    pub orders: mpsc::Sender<Order>,
    policy: Arc<auth::Policy>,
    audit: audit::Audit,
    checks: Arc<Semaphore>,
    booth: trace::Booth,
    /// In seconds since 1970.
    started: f64,
}

/// Readers of events that may wait to be let in.
const N_NEWCOMERS: usize = 16;

/// A control loop that does not answer for this long is not alive.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Serves until the process ends. Who changes something says so by `changed`. The socket's file goes with what this yields.
pub fn serve(
    doors: Doors,
    inquiries: mpsc::Sender<Inquiry>,
    orders: mpsc::Sender<Order>,
    counters: Arc<Counters>,
    tracer: Tracer,
    journal: journal::Reader,
    changed: Arc<Notify>,
) -> Option<SocketFile> {
    let (newcomers, admitted) = mpsc::channel(N_NEWCOMERS);
    let (policy, audit) = (Arc::new(doors.policy.clone()), doors.audit.clone());
    let checks = changes::one_check_at_a_time();
    let started = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let booth = trace::Booth::new(tracer);
    let source = Source { inquiries, counters, changed, newcomers, orders, policy, audit, checks, booth, started };
    tokio::spawn(events::Herald::new(source.clone(), journal, admitted).run());
    doors.serve(&router(source))
}

fn router(source: Source) -> Router {
    let routes = routes().into_iter().fold(Router::new(), |router, (_, path, route)| router.route(path, route));
    routes.fallback(changes::nowhere).method_not_allowed_fallback(changes::not_so).with_state(source)
}

/// All there is, as `openapi.json` describes it: method, path, and who answers.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter<Source>)> {
    vec![
        ("get", "/lb", get(page::answer)),
        ("get", "/lb/status", get(status)),
        ("get", "/metrics", get(metrics::answer)),
        ("get", "/health", get(health)),
        ("get", "/health/live", get(live)),
        ("get", "/health/ready", get(ready)),
        ("get", "/api/v1/status", get(status)),
        ("get", "/api/v1/events", get(events::answer)),
        ("get", "/api/v1/explain", get(explain::answer)),
        ("get", "/api/v1/trace", get(trace::answer)),
        ("get", "/api/v1/runtime", get(runtime)),
        ("get", "/api/v1/openapi.json", get(openapi)),
        ("post", "/api/v1/services/{service}/backends", post(changes::add)),
        ("delete", "/api/v1/services/{service}/backends/{backend}", delete(changes::remove)),
        ("post", "/api/v1/services/{service}/backends/{backend}/drain", post(changes::drain)),
        ("post", "/api/v1/services/{service}/backends/{backend}/enable", post(changes::enable)),
        ("post", "/api/v1/services/{service}/backends/{backend}/disable", post(changes::disable)),
        ("put", "/api/v1/services/{service}/backends/{backend}/weight", put(changes::weight)),
        ("post", "/api/v1/services/{service}/maintenance", post(changes::maintenance)),
        ("post", "/api/v1/services/{service}/failback", post(changes::failback)),
        ("post", "/api/v1/reset", post(changes::reset)),
        ("post", "/api/v1/reload", post(changes::reload)),
        ("post", "/api/v1/check", post(changes::check)),
    ]
}

const OPENAPI: &str = include_str!("openapi.json");

async fn openapi() -> impl IntoResponse {
    let description = OPENAPI.replacen("\"0.0.0\"", &format!("\"{}\"", env!("CARGO_PKG_VERSION")), 1);
    ([(header::CONTENT_TYPE, "application/json")], description)
}

/// What was set at runtime, by whom and when.
async fn runtime(State(source): State<Source>) -> Result<impl IntoResponse, Unavailable> {
    let snapshot = source.snapshot().await?;
    let body = json!({ "services": snapshot.overrides, "trouble": snapshot.state_trouble });
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(body)))
}

impl Source {
    /// The control loop's view now.
    async fn snapshot(&self) -> Result<Snapshot, Unavailable> {
        self.inquire(Inquiry::Snapshot).await
    }

    /// Has the control loop answer a question.
    async fn inquire<T>(&self, inquiry: impl FnOnce(oneshot::Sender<T>) -> Inquiry) -> Result<T, Unavailable> {
        let ask = async {
            let (answer, answered) = oneshot::channel();
            self.inquiries.send(inquiry(answer)).await.ok()?;
            answered.await.ok()
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
    let lost: Vec<&String> = snapshot.interfaces_lost.keys().collect();
    let status = if down.is_empty() && lost.is_empty() { "ok" } else { "degraded" };
    Ok(Json(json!({ "status": status, "ready": snapshot.is_ready(), "services_down": down, "interfaces_lost": lost })))
}

/// 200 if the control loop answers.
async fn live(State(source): State<Source>) -> Result<impl IntoResponse, Unavailable> {
    source.snapshot().await?;
    Ok(Json(json!({ "status": "ok" })))
}

/// 200 once the program steers packets by complete tables.
async fn ready(State(source): State<Source>) -> Result<impl IntoResponse, Unavailable> {
    let snapshot = source.snapshot().await?;
    let code = if snapshot.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok((code, Json(json!({ "ready": snapshot.is_ready(), "waits_for": snapshot.waits_for }))))
}

#[cfg(test)]
mod tests;
