//! The HTTP faces of the daemon: metrics for Prometheus, status as JSON, and health for whoever watches over it.
//!
//! Read-only. The state comes from the control loop by question and answer, the counters straight from their maps.

mod metrics;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tracing::error;

use crate::daemon::Inquiry;
use crate::error::chain;
use crate::maps::Counters;
use crate::status::{Snapshot, Status};

/// Where answers come from.
#[derive(Clone)]
pub struct Source {
    pub inquiries: mpsc::Sender<Inquiry>,
    pub counters: Arc<Counters>,
}

/// A control loop that does not answer for this long is not alive.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Serves until the process ends.
pub async fn serve(listener: TcpListener, source: Source) {
    if let Err(error) = axum::serve(listener, router(source)).await {
        error!(%error, "the API has ended");
    }
}

fn router(source: Source) -> Router {
    Router::new()
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

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        let error = match self {
            Self::Control => "the control loop does not answer; see the daemon's log".to_owned(),
            Self::Counters(error) => error,
        };
        (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "error": error }))).into_response()
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
