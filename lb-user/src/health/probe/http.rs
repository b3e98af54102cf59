//! The HTTP and HTTPS probes: one request over HTTP/1.1, judged by the status line and, if asked, by what the body holds.
//! Otherwise the body is not read.

use std::error::Error as _;
use std::ops::RangeInclusive;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Method, Request, http};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::time::Time;
use super::tls::Tls;
use super::{Found, Setback, Target, connect, contains, driven};

/// What an answer's head may hold. Far above what servers send; a backend that sends more without end fails.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How much of a body is looked at.
const BODY_BYTES_MAX: usize = 64 * 1024;

const AGENT: &str = concat!("xlb/", env!("CARGO_PKG_VERSION"));

/// That a backend answers a request with an expected status. Redirects are not followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    pub method: Method,
    /// Begins with `/`; with its query, if any.
    pub path: String,
    /// The `Host` header; `None` sends the probed address and port.
    pub host: Option<String>,
    pub expect: RangeInclusive<u16>,
    /// What must stand somewhere in the first 64 KiB of the body.
    pub body: Option<String>,
    /// `None` for plain HTTP.
    pub tls: Option<Tls>,
}

impl Http {
    /// The statuses that pass unless the configuration names others.
    pub const EXPECT_DEFAULT: RangeInclusive<u16> = 200..=399;

    pub(super) async fn ask(&self, target: Target, time: &Time) -> Found {
        let phase = if self.tls.is_some() { "https" } else { "http" };
        let request = self.request(target).map_err(|error| Setback::Unasked(format!("{phase}: {error}")))?;
        let stream = connect(target, time).await?;
        let answered = match &self.tls {
            None => time.keep(phase, exchange(stream, request, self)).await?,
            Some(tls) => {
                let stream = tls.handshake(stream, target, time).await?;
                time.keep(phase, exchange(stream, request, self)).await?
            }
        };
        let answer = answered.map_err(|error| Setback::Failed(format!("{phase}: {}", described(&error))))?;
        self.judge(phase, &answer)
    }

    fn request(&self, target: Target) -> http::Result<Request<Empty<Bytes>>> {
        let request =
            Request::builder().method(&self.method).uri(&self.path).header(USER_AGENT, AGENT).header(CONNECTION, "close");
        let request = match &self.host {
            Some(host) => request.header(HOST, host),
            None => request.header(HOST, target.to_string()),
        };
        request.body(Empty::new())
    }

    fn judge(&self, phase: &str, answer: &Answer) -> Found {
        let found = format!("{phase} {}", answer.status);
        match &self.body {
            _ if !self.expect.contains(&answer.status) => Err(Setback::Failed(found)),
            Some(wanted) if !answer.has_wanted => Err(Setback::Failed(format!(
                "{found}, without {wanted:?} in the first {} KiB of the body",
                BODY_BYTES_MAX / 1024
            ))),
            _ => Ok(found),
        }
    }
}

struct Answer {
    status: u16,
    /// Whether the body holds what it must, if that was looked at.
    has_wanted: bool,
}

/// The answer to `request`.
async fn exchange<S>(stream: S, request: Request<Empty<Bytes>>, http: &Http) -> hyper::Result<Answer>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (mut sender, connection) = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await?;
    let exchange = async {
        let response = sender.send_request(request).await?;
        let status = response.status().as_u16();
        let has_wanted = match &http.body {
            Some(wanted) if http.expect.contains(&status) => holds(response.into_body(), wanted.as_bytes()).await?,
            _ => false,
        };
        Ok(Answer { status, has_wanted })
    };
    driven(connection, exchange).await
}

/// Whether `wanted` stands in the beginning of the body. No more is read than it takes to know.
async fn holds(mut body: Incoming, wanted: &[u8]) -> hyper::Result<bool> {
    let mut read: Vec<u8> = Vec::new();
    while read.len() < BODY_BYTES_MAX {
        let Some(frame) = body.frame().await else { break };
        let Ok(piece) = frame?.into_data() else { continue };
        // It may have begun in what was read before. Looking at all of that again would let a backend that sends single
        // bytes cost billions of comparisons.
        let overlap = read.len().saturating_sub(wanted.len().saturating_sub(1));
        read.extend_from_slice(&piece[..piece.len().min(BODY_BYTES_MAX - read.len())]);
        if contains(&read[overlap..], wanted) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// hyper says what failed, and its source why.
fn described(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
