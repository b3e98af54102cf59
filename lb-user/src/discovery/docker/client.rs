//! HTTP over Docker's socket.
//!
//! Two questions are all that is asked, which hyper, here anyhow, can put: bollard would bring thirty crates for the rest of the
//! API. No version is named, so that the daemon answers in its own: daemons refuse versions that are too old for them, and such
//! as are too new, and what is read here is the same in all.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::Value;
use tokio::net::UnixStream;

use crate::discovery::teller::{Failure, FailureKind};

/// For an answer's head, and for a list.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Far more than thousands of containers need.
const BYTES_MAX: usize = 32 << 20;
/// Of a complaint.
const COMPLAINT_BYTES_MAX: usize = 64 << 10;

pub(super) struct Client {
    socket: PathBuf,
}

impl Client {
    pub(super) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// The whole answer to a question.
    pub(super) async fn get(&self, path: &str, filters: &Value) -> Result<Bytes, Failure> {
        let asked = async {
            let body = self.open(path, filters).await?;
            self.whole(body, BYTES_MAX).await
        };
        tokio::time::timeout(TIMEOUT, asked).await.map_err(|_| self.late())?
    }

    /// An answer whose body has yet to come.
    pub(super) async fn open(&self, path: &str, filters: &Value) -> Result<Incoming, Failure> {
        let answer = tokio::time::timeout(TIMEOUT, self.ask(path, filters)).await.map_err(|_| self.late())??;
        let status = answer.status();
        if status == StatusCode::OK {
            return Ok(answer.into_body());
        }
        #[derive(Deserialize)]
        struct Complaint {
            message: String,
        }
        let complaint = tokio::time::timeout(TIMEOUT, self.whole(answer.into_body(), COMPLAINT_BYTES_MAX)).await;
        let complaint = complaint.ok().and_then(Result::ok).and_then(|body| serde_json::from_slice::<Complaint>(&body).ok());
        let colon = if complaint.is_some() { ": " } else { "" };
        let message = complaint.map(|complaint| complaint.message).unwrap_or_default();
        Err(self.failure(FailureKind::Refused, format!("Docker answered {path} with {status}{colon}{message}")))
    }

    async fn ask(&self, path: &str, filters: &Value) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| {
            let advice = match error.kind() {
                io::ErrorKind::PermissionDenied => "; xlb needs the right to write to the socket",
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => "; is Docker running?",
                _ => "",
            };
            self.failure(FailureKind::Unreachable, format!("{error}{advice}"))
        })?;
        let broken = |error: hyper::Error| self.failure(FailureKind::Unreachable, crate::error::chain(&error));
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // It ends when the answer's body is dropped, or the daemon's side closes.
        tokio::spawn(connection);
        let filters = filters.to_string();
        let uri = format!("{path}?filters={}", utf8_percent_encode(&filters, NON_ALPHANUMERIC));
        let request = Request::get(uri).header("host", "docker").body(Empty::<Bytes>::new());
        let request = request.map_err(|error| self.failure(FailureKind::Broken, error.to_string()))?;
        sender.send_request(request).await.map_err(broken)
    }

    async fn whole(&self, body: Incoming, n_bytes_max: usize) -> Result<Bytes, Failure> {
        let whole = Limited::new(body, n_bytes_max).collect().await;
        Ok(whole.map_err(|error| self.failure(FailureKind::Broken, error.to_string()))?.to_bytes())
    }

    fn late(&self) -> Failure {
        self.failure(FailureKind::TimedOut, format!("no answer within {} s", TIMEOUT.as_secs()))
    }

    pub(super) fn failure(&self, kind: FailureKind, text: String) -> Failure {
        Failure::new(kind, format!("{}: {text}", self.socket.display()))
    }
}
