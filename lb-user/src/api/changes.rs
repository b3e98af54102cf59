//! Requests that change something: who asks is admitted or not, the body is read within limits, the control loop decides, and
//! what came of it is answered and noted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Json;
use axum::body::Body;
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, request};
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::Source;
use super::audit::{Entry, Verdict};
use super::auth::Peer;
use crate::config;
use crate::daemon::preview::preview;
use crate::daemon::{Answer, Order, Trouble};
use crate::runtime::{BackendName, Change, Refused, Target};

/// The longest body of a change.
const LEN_MAX: usize = 16 << 10;
/// The longest configuration to check: 65,535 backends take some 4 MB.
const CONFIG_LEN_MAX: usize = 16 << 20;
/// A body must have come within this time.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// So long is waited for what comes of a change: it takes a write to the disk.
const CHANGE_LIMIT: Duration = Duration::from_secs(10);
const DEADLINE_MIN: Duration = Duration::from_secs(1);
const DEADLINE_MAX: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Why a request is not carried out.
#[derive(Debug)]
pub struct Failure {
    code: StatusCode,
    reason: String,
}

impl Failure {
    pub fn new(code: StatusCode, reason: impl Into<String>) -> Self {
        Self { code, reason: reason.into() }
    }

    pub fn wrong(reason: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.code, Json(json!({ "error": self.reason }))).into_response()
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        let code = match &trouble {
            Trouble::Refused(refusal) => match refusal.kind() {
                Refused::Unknown => StatusCode::NOT_FOUND,
                Refused::Conflict => StatusCode::CONFLICT,
                Refused::Senseless => StatusCode::UNPROCESSABLE_ENTITY,
            },
            Trouble::DoesNotFit(_) => StatusCode::CONFLICT,
            Trouble::NotReloaded(_) => StatusCode::UNPROCESSABLE_ENTITY,
            Trouble::NotKept(_) => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self::new(code, crate::error::chain(&trouble))
    }
}

/// A request that changes something, before its body is read.
pub struct Asking {
    peer: Peer,
    headers: HeaderMap,
    line: String,
    at: SystemTime,
}

impl<S: Sync> FromRequestParts<S> for Asking {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut request::Parts, _: &S) -> Result<Self, Failure> {
        let peer = parts.extensions.get::<Peer>().cloned();
        let peer = peer.ok_or_else(|| Failure::new(StatusCode::FORBIDDEN, "nobody knows where this comes from"))?;
        let line = format!("{} {}", parts.method, parts.uri.path());
        Ok(Self { peer, headers: parts.headers.clone(), line, at: SystemTime::now() })
    }
}

impl Asking {
    /// Does what is asked for, if it may be, and notes what came of it.
    async fn carry_out<B: DeserializeOwned>(
        self,
        source: &Source,
        body: Body,
        understand: impl FnOnce(B) -> Result<Change, Failure>,
    ) -> Response {
        let mut what = Value::Null;
        let mut by = None;
        let work = async {
            by = Some(self.admitted(source)?);
            let change = understand(read_json(body).await?)?;
            what = serde_json::to_value(&change).unwrap_or_default();
            let by = by.clone().unwrap_or_default();
            ask(source, |answer| Order::Change { change, by, answer }).await
        };
        let done = work.await;
        self.conclude(source, by, what, done)
    }

    /// Who asks, if he may.
    ///
    /// # Errors
    /// He may not.
    pub fn admitted(&self, source: &Source) -> Result<String, Failure> {
        source.policy.admit(&self.peer, &self.headers).map_err(|forbidden| Failure::new(forbidden.code, forbidden.reason))
    }

    fn conclude(self, source: &Source, by: Option<String>, what: Value, done: Result<Vec<String>, Failure>) -> Response {
        self.note_changes(source, by, what, done.as_deref());
        match done {
            Ok(changed) => Json(json!({ "changed": changed })).into_response(),
            Err(failure) => failure.into_response(),
        }
    }

    /// Puts what came of it into the audit log, where nothing is changed.
    pub fn note(&self, source: &Source, by: Option<String>, what: Value, failure: Option<&Failure>) {
        self.note_changes(source, by, what, failure.map_or(Ok(&[]), Err));
    }

    fn note_changes(&self, source: &Source, by: Option<String>, what: Value, done: Result<&[String], &Failure>) {
        let verdict = match &done {
            Ok(_) => Verdict::Done,
            Err(failure) if failure.code.is_client_error() => Verdict::Refused,
            Err(_) => Verdict::Failed,
        };
        source.audit.note(Entry {
            at: humantime::format_rfc3339_millis(self.at).to_string(),
            by,
            from: self.peer.origin(),
            request: self.line.clone(),
            what,
            verdict,
            changed: done.map(<[String]>::to_vec).unwrap_or_default(),
            error: done.err().map(|failure| failure.reason.clone()),
            unlisted: 0,
        });
    }
}

/// Has the control loop do something, unless too much waits already.
async fn ask(source: &Source, order: impl FnOnce(oneshot::Sender<Answer>) -> Order) -> Result<Vec<String>, Failure> {
    let (answer, answered) = oneshot::channel();
    put(source, order(answer))?;
    match timeout(CHANGE_LIMIT, answered).await {
        Ok(Ok(done)) => Ok(done?),
        Ok(Err(_)) => Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the daemon is ending; see xlb status afterwards")),
        Err(_) => {
            let reason =
                format!("no answer within {} s, though it may still be done; see the daemon's log", CHANGE_LIMIT.as_secs());
            Err(Failure::new(StatusCode::GATEWAY_TIMEOUT, reason))
        }
    }
}

fn put(source: &Source, order: Order) -> Result<(), Failure> {
    source.orders.try_send(order).map_err(|error| {
        let reason = match error {
            TrySendError::Full(_) => "too many changes at once; ask again in a moment",
            TrySendError::Closed(_) => "the control loop has ended; see the daemon's log",
        };
        Failure::new(StatusCode::SERVICE_UNAVAILABLE, reason)
    })
}

async fn read(body: Body, len_max: usize) -> Result<Vec<u8>, Failure> {
    match timeout(BODY_LIMIT, Limited::new(body, len_max).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes().to_vec()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => {
            Err(Failure::new(StatusCode::PAYLOAD_TOO_LARGE, format!("the body has more than {len_max} bytes")))
        }
        Ok(Err(error)) => Err(Failure::wrong(format!("the body did not arrive whole: {error}"))),
        Err(_) => {
            let reason = format!("the body did not arrive within {} s", BODY_LIMIT.as_secs());
            Err(Failure::new(StatusCode::REQUEST_TIMEOUT, reason))
        }
    }
}

/// The body as JSON; none stands for an object without keys.
async fn read_json<B: DeserializeOwned>(body: Body) -> Result<B, Failure> {
    let body = read(body, LEN_MAX).await?;
    let body = if body.iter().all(u8::is_ascii_whitespace) { b"{}" } else { &body[..] };
    serde_json::from_slice(body).map_err(|error| Failure::wrong(format!("the body is not what belongs here: {error}")))
}

/// A path's service and backend.
pub struct Named(Result<Target, Failure>);

impl<S: Send + Sync> FromRequestParts<S> for Named {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut request::Parts, state: &S) -> Result<Self, Self::Rejection> {
        let path = Path::<(String, String)>::from_request_parts(parts, state).await;
        Ok(Self(match path {
            Ok(Path((service, backend))) => {
                backend.parse().map(|backend| Target { service, backend }).map_err(|reason: String| Failure::wrong(reason))
            }
            Err(rejection) => Err(Failure::wrong(rejection.to_string())),
        }))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NoKeys {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DrainBody {
    deadline: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightBody {
    weight: u16,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddBody {
    address: String,
    weight: Option<u16>,
    zone: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct MaintenanceBody {
    on: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResetBody {
    service: Option<String>,
    backend: Option<String>,
}

pub async fn drain(State(source): State<Source>, asking: Asking, Named(target): Named, body: Body) -> Response {
    let understand = |DrainBody { deadline }| Ok(Change::Drain { target: target?, deadline: deadline_of(deadline)? });
    asking.carry_out(&source, body, understand).await
}

fn deadline_of(text: Option<String>) -> Result<Option<Duration>, Failure> {
    let Some(text) = text else { return Ok(None) };
    let deadline = humantime::parse_duration(&text).map_err(|error| {
        Failure::wrong(format!("deadline {text:?}: {error}; write a number and a unit, such as \"10m\" or \"1h 30m\""))
    })?;
    if !(DEADLINE_MIN..=DEADLINE_MAX).contains(&deadline) {
        return Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, format!("deadline {text:?}: write 1s to 7days")));
    }
    Ok(Some(deadline))
}

pub async fn enable(State(source): State<Source>, asking: Asking, Named(target): Named, body: Body) -> Response {
    asking.carry_out(&source, body, |NoKeys {}| Ok(Change::Enable { target: target? })).await
}

pub async fn disable(State(source): State<Source>, asking: Asking, Named(target): Named, body: Body) -> Response {
    asking.carry_out(&source, body, |NoKeys {}| Ok(Change::Disable { target: target? })).await
}

pub async fn weight(State(source): State<Source>, asking: Asking, Named(target): Named, body: Body) -> Response {
    asking.carry_out(&source, body, |WeightBody { weight }| Ok(Change::Weight { target: target?, weight })).await
}

pub async fn remove(State(source): State<Source>, asking: Asking, Named(target): Named, body: Body) -> Response {
    asking.carry_out(&source, body, |NoKeys {}| Ok(Change::Remove { target: target? })).await
}

pub async fn add(State(source): State<Source>, asking: Asking, Path(service): Path<String>, body: Body) -> Response {
    let understand = |AddBody { address, weight, zone }| {
        let backend: BackendName = address.parse().map_err(|reason: String| Failure::wrong(reason))?;
        let zone = zone.map(|name| config::zone(&name)).transpose().map_err(Failure::wrong)?;
        Ok(Change::Add { target: Target { service, backend }, weight, zone })
    };
    asking.carry_out(&source, body, understand).await
}

pub async fn maintenance(State(source): State<Source>, asking: Asking, Path(service): Path<String>, body: Body) -> Response {
    asking.carry_out(&source, body, |MaintenanceBody { on }| Ok(Change::Maintenance { service, on })).await
}

pub async fn failback(State(source): State<Source>, asking: Asking, Path(service): Path<String>, body: Body) -> Response {
    asking.carry_out(&source, body, |NoKeys {}| Ok(Change::Failback { service })).await
}

pub async fn reset(State(source): State<Source>, asking: Asking, body: Body) -> Response {
    let understand = |ResetBody { service, backend }| {
        let backend = backend.map(|name| name.parse()).transpose().map_err(|reason: String| Failure::wrong(reason))?;
        Ok(Change::Reset { service, backend })
    };
    asking.carry_out(&source, body, understand).await
}

pub async fn reload(State(source): State<Source>, asking: Asking, body: Body) -> Response {
    let mut by = None;
    let work = async {
        by = Some(asking.admitted(&source)?);
        let NoKeys {} = read_json(body).await?;
        let by = by.clone().unwrap_or_default();
        ask(&source, |answer| Order::Reload { by, answer }).await
    };
    let done = work.await;
    asking.conclude(&source, by, json!({ "change": "reload" }), done)
}

/// What a reload would change, if the body were the file. It changes nothing; who may ask is who may change, for the answer
/// shows the running configuration.
pub async fn check(State(source): State<Source>, asking: Asking, request: Request) -> Result<Response, Failure> {
    asking.admitted(&source)?;
    // One at a time: a large file is work for a second, and two of them would be work for two CPUs.
    let turn = source.checks.clone().try_acquire_owned();
    let turn = turn.map_err(|_| Failure::new(StatusCode::SERVICE_UNAVAILABLE, "another file is being checked; ask again"))?;
    let text = read(request.into_body(), CONFIG_LEN_MAX).await?;
    let text = String::from_utf8(text).map_err(|_| Failure::wrong("the body is not UTF-8"))?;
    let (answer, answered) = oneshot::channel();
    put(&source, Order::Running { answer })?;
    let unanswered = || Failure::new(StatusCode::SERVICE_UNAVAILABLE, "the control loop does not answer; see the daemon's log");
    let running = timeout(CHANGE_LIMIT, answered).await.ok().and_then(Result::ok).ok_or_else(unanswered)?;
    let compared = tokio::task::spawn_blocking(move || {
        let compared = preview(&running, "the new configuration", &text);
        drop(turn);
        compared
    });
    let compared = compared.await.map_err(|error| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    match compared {
        Ok(preview) => Ok(Json(preview).into_response()),
        Err(error) => Err(Failure::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string())),
    }
}

/// Where nothing is.
pub async fn nowhere(request: Request) -> Failure {
    let reason = format!("nothing is at {}; GET /api/v1/openapi.json lists what is", request.uri().path());
    Failure::new(StatusCode::NOT_FOUND, reason)
}

/// Where something is, but not for this method.
pub async fn not_so(request: Request) -> Failure {
    let reason =
        format!("{} does not take {}; GET /api/v1/openapi.json says what it takes", request.uri().path(), request.method());
    Failure::new(StatusCode::METHOD_NOT_ALLOWED, reason)
}

/// Permits to check a configuration.
pub fn one_check_at_a_time() -> Arc<tokio::sync::Semaphore> {
    Arc::new(tokio::sync::Semaphore::new(1))
}
