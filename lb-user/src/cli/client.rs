//! Asks a running daemon.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(5);
/// Of the answer: 65,535 backends take some 25 MB.
const LEN_MAX: usize = 64 << 20;

/// What `GET /lb/status` answers.
///
/// # Errors
/// If no daemon answers there.
pub async fn status(api: SocketAddr) -> Result<Value> {
    let answer =
        timeout(LIMIT, ask(api)).await.with_context(|| format!("http://{api}/lb/status: no answer within {LIMIT:?}"))??;
    serde_json::from_slice(&answer).with_context(|| format!("http://{api}/lb/status: not the JSON of an xlb daemon"))
}

async fn ask(api: SocketAddr) -> Result<Bytes> {
    let stream = TcpStream::connect(api)
        .await
        .with_context(|| format!("no daemon answers on {api}; is it running, and is this its api.listen (--api)?"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/lb/status").header(header::HOST, api.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let code = response.status();
    let body = Limited::new(response.into_body(), LEN_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    ensure!(code.is_success(), "http://{api}/lb/status: {code}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}
