//! The gRPC probe: `grpc.health.v1.Health/Check` over HTTP/2 without TLS.
//!
//! The protocol is <https://github.com/grpc/grpc/blob/master/doc/health-checking.md>. Its two messages have one field each,
//! and are written and read by hand rather than by generated code.

use bytes::Bytes;
use h2::RecvStream;
use h2::client::SendRequest;
use hyper::header::{CONTENT_TYPE, TE, USER_AGENT};
use hyper::{HeaderMap, Request, Response, StatusCode, Version, http};
use tokio::net::TcpStream;

use super::time::Time;
use super::{Found, Setback, Target, connect, driven, excerpt};

const PHASE: &str = "grpc";
const METHOD: &str = "/grpc.health.v1.Health/Check";
const AGENT: &str = concat!("xlb/", env!("CARGO_PKG_VERSION"));
const HEADERS_BYTES_MAX: u32 = 16 * 1024;
/// An answer has 7 bytes.
const ANSWER_BYTES_MAX: usize = 1024;
/// Before each message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// That a gRPC server says that it serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grpc {
    /// The service to ask about, at most [`Self::SERVICE_BYTES_MAX`]; empty is the server as a whole.
    pub service: String,
    /// The `:authority`; `None` is the probed address and port.
    pub host: Option<String>,
}

impl Grpc {
    /// What one byte counts in protobuf.
    pub const SERVICE_BYTES_MAX: usize = 127;

    pub(super) async fn ask(&self, target: Target, time: &Time) -> Found {
        let request = self.request(target).map_err(|error| Setback::Unasked(format!("{PHASE}: {error}")))?;
        let stream = connect(target, time).await?;
        let answered = time.keep(PHASE, exchange(stream, request, self.question())).await?;
        let answer = answered.map_err(|error| failed(&error))?;
        answer.judge()
    }

    fn request(&self, target: Target) -> http::Result<Request<()>> {
        let authority = self.host.clone().unwrap_or_else(|| target.to_string());
        Request::post(format!("http://{authority}{METHOD}"))
            .version(Version::HTTP_2)
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .header(USER_AGENT, AGENT)
            .body(())
    }

    /// `HealthCheckRequest { string service = 1; }`. Fields of a default value are left out.
    fn question(&self) -> Bytes {
        const SERVICE_FIELD: u8 = 1 << 3 | 2;
        let mut message = Vec::new();
        if !self.service.is_empty() {
            message.extend([SERVICE_FIELD, self.service.len() as u8]);
            message.extend(self.service.as_bytes());
        }
        let length = message.len() as u32;
        [[0].as_slice(), &length.to_be_bytes(), &message].concat().into()
    }
}

fn failed(what: &dyn std::fmt::Display) -> Setback {
    Setback::Failed(format!("{PHASE}: {what}"))
}

/// What a server said, as far as it matters.
struct Answer {
    status: StatusCode,
    /// With `grpc-status`: the trailers, or the headers where an answer has nothing else.
    headers: HeaderMap,
    body: Vec<u8>,
}

async fn exchange(stream: TcpStream, request: Request<()>, question: Bytes) -> Result<Answer, h2::Error> {
    let mut builder = h2::client::Builder::new();
    builder.enable_push(false).max_header_list_size(HEADERS_BYTES_MAX);
    let (sender, connection) = builder.handshake(stream).await?;
    driven(connection, call(sender, request, question)).await
}

async fn call(sender: SendRequest<Bytes>, request: Request<()>, question: Bytes) -> Result<Answer, h2::Error> {
    let mut sender = sender.ready().await?;
    let (response, mut request_body) = sender.send_request(request, false)?;
    request_body.send_data(question, true)?;
    read(response.await?).await
}

/// Too long a body is cut, and then makes no sense.
async fn read(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = stream.data().await {
        body.extend_from_slice(&piece?);
        if body.len() > ANSWER_BYTES_MAX {
            return Ok(Answer { status: head.status, headers: head.headers, body });
        }
    }
    let headers = stream.trailers().await?.unwrap_or(head.headers);
    Ok(Answer { status: head.status, headers, body })
}

impl Answer {
    fn judge(&self) -> Found {
        if self.status != StatusCode::OK {
            return Err(failed(&format!("http {}", self.status.as_u16())));
        }
        let header = |name: &str| self.headers.get(name).map(|value| value.as_bytes());
        match header("grpc-status") {
            Some(b"0") => {}
            // Such as 12, unimplemented: the server has no health service. 5, not found: it does not know this one.
            Some(code) => {
                let message = header("grpc-message").unwrap_or_default();
                return Err(failed(&format!("status {}: {}", code.escape_ascii(), excerpt(message))));
            }
            None => return Err(failed(&"what came back is not gRPC")),
        }
        match self.serving_status() {
            Some(0) => Err(failed(&"unknown")),
            Some(1) => Ok(format!("{PHASE}: serving")),
            Some(2) => Err(failed(&"not serving")),
            _ => Err(failed(&format!("answered {}", excerpt(&self.body)))),
        }
    }

    /// `HealthCheckResponse { ServingStatus status = 1; }`. Its values need one byte, and 0 none.
    fn serving_status(&self) -> Option<u8> {
        const STATUS_FIELD: u8 = 1 << 3;
        let (prefix, message) = self.body.split_first_chunk::<PREFIX_BYTES>()?;
        let [0, length @ ..] = prefix else { return None };
        match message {
            _ if u32::from_be_bytes(*length) as usize != message.len() => None,
            [] => Some(0),
            [STATUS_FIELD, status] => Some(*status),
            _ => None,
        }
    }
}
