//! The HTTP probe: `GET path` over HTTP/1.1, judged by the status line. The body is not read.

use std::error::Error as _;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::pin::pin;

use bytes::Bytes;
use http_body_util::Empty;
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, HOST, USER_AGENT};
use hyper::{Request, Response, http};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::time::Time;
use super::{Found, Setback, connect};

const PHASE: &str = "http";

/// What an answer's head may hold. Far above what servers send; a backend that sends more without end fails.
const HEAD_BYTES_MAX: usize = 16 * 1024;

const AGENT: &str = concat!("xlb/", env!("CARGO_PKG_VERSION"));

/// That a backend answers `GET path` over HTTP/1.1 with an expected status. Redirects are not followed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Http {
    /// Begins with `/`; with its query, if any.
    pub path: String,
    /// The `Host` header; `None` sends the probed address and port.
    pub host: Option<String>,
    pub expect: RangeInclusive<u16>,
}

impl Http {
    /// The statuses that pass unless the configuration names others.
    pub const EXPECT_DEFAULT: RangeInclusive<u16> = 200..=399;

    pub(super) async fn ask(&self, target: SocketAddr, time: &Time) -> Found {
        let request = self.request(target).map_err(|error| Setback::Unasked(format!("{PHASE}: {error}")))?;
        let stream = connect(target, time).await?;
        let answered = time.keep(PHASE, head(stream, request)).await?;
        let response = answered.map_err(|error| Setback::Failed(described(&error)))?;
        let status = response.status().as_u16();
        let text = format!("{PHASE} {status}");
        if self.expect.contains(&status) { Ok(text) } else { Err(Setback::Failed(text)) }
    }

    fn request(&self, target: SocketAddr) -> http::Result<Request<Empty<Bytes>>> {
        let request = Request::get(&self.path).header(USER_AGENT, AGENT).header(CONNECTION, "close");
        let request = match &self.host {
            Some(host) => request.header(HOST, host),
            None => request.header(HOST, target.to_string()),
        };
        request.body(Empty::new())
    }
}

/// The answer's head. The connection is driven in place rather than in a task of its own: it lives as long as this.
async fn head(stream: TcpStream, request: Request<Empty<Bytes>>) -> hyper::Result<Response<hyper::body::Incoming>> {
    let (mut sender, connection) = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await?;
    let mut connection = pin!(connection);
    let mut response = pin!(sender.send_request(request));
    tokio::select! {
        biased;
        response = &mut response => response,
        // It ends first when it breaks; the response then knows why.
        _ = &mut connection => response.await,
    }
}

/// hyper says what failed, and its source why.
fn described(error: &hyper::Error) -> String {
    match error.source() {
        Some(source) => format!("{PHASE}: {error}: {source}"),
        None => format!("{PHASE}: {error}"),
    }
}
