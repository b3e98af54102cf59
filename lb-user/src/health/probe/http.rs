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

use super::{Outcome, Phase};

/// What an answer's head may hold. Far above what servers send; a backend that sends more without end fails.
const HEAD_BYTES_MAX: usize = 16 * 1024;

const AGENT: &str = concat!("xlb/", env!("CARGO_PKG_VERSION"));

/// Asks over a fresh connection; without a bound of its own on time.
pub(super) async fn get(
    stream: TcpStream,
    target: SocketAddr,
    path: &str,
    host: Option<&str>,
    expect: &RangeInclusive<u16>,
) -> Outcome {
    let request = match request(target, path, host) {
        Ok(request) => request,
        Err(error) => return Outcome::Unasked(format!("{}: {error}", Phase::Http)),
    };
    match head(stream, request).await {
        Ok(response) => {
            let status = response.status().as_u16();
            let text = format!("http {status}");
            if expect.contains(&status) { Outcome::Passed(text) } else { Outcome::Failed(text) }
        }
        Err(error) => Outcome::Failed(described(&error)),
    }
}

fn request(target: SocketAddr, path: &str, host: Option<&str>) -> http::Result<Request<Empty<Bytes>>> {
    let request = Request::get(path).header(USER_AGENT, AGENT).header(CONNECTION, "close");
    let request = match host {
        Some(host) => request.header(HOST, host),
        None => request.header(HOST, target.to_string()),
    };
    request.body(Empty::new())
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
    let phase = Phase::Http;
    match error.source() {
        Some(source) => format!("{phase}: {error}: {source}"),
        None => format!("{phase}: {error}"),
    }
}
