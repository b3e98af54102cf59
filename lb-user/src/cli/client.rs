//! Asks a running daemon, over TCP or its socket.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

/// Longer than the daemon takes to say that it cannot.
const LIMIT: Duration = Duration::from_secs(15);
/// Of the answer: 65,535 backends take some 25 MB.
const LEN_MAX: usize = 64 << 20;
/// Where a daemon listens that is not told otherwise.
const SOCKET_DEFAULT: &str = "/run/xlb/xlb.sock";

/// Where to ask for a change.
#[derive(Args, Debug)]
pub struct Reach {
    /// The daemon's socket: its api.socket
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    socket: PathBuf,
    /// Ask over TCP instead: its api.listen
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "socket", requires = "token_file")]
    api: Option<SocketAddr>,
    /// A file with the token that changes over TCP take
    #[arg(long, value_name = "FILE", requires = "api")]
    token_file: Option<PathBuf>,
}

/// Where a daemon is, and what opens it.
#[derive(Clone, Debug)]
pub enum Door {
    Tcp { address: SocketAddr, token: Option<String> },
    Socket(PathBuf),
}

impl Door {
    /// Reading takes no token.
    pub fn reading(address: SocketAddr) -> Self {
        Self::Tcp { address, token: None }
    }

    fn name(&self) -> String {
        match self {
            Self::Tcp { address, .. } => address.to_string(),
            Self::Socket(path) => path.display().to_string(),
        }
    }
}

impl TryFrom<&Reach> for Door {
    type Error = anyhow::Error;

    fn try_from(reach: &Reach) -> Result<Self> {
        let Some(address) = reach.api else { return Ok(Self::Socket(reach.socket.clone())) };
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()));
        let token = reach.token_file.as_ref().map(read).transpose()?.map(|text| text.trim().to_owned());
        Ok(Self::Tcp { address, token })
    }
}

/// What `GET /lb/status` answers.
///
/// # Errors
/// If no daemon answers there.
pub async fn status(api: SocketAddr) -> Result<Value> {
    let door = Door::reading(api);
    let (code, answer) = ask(&door, Method::GET, "/lb/status", Bytes::new()).await?;
    if !code.is_success() {
        bail!("http://{api}/lb/status: {code}: {}", String::from_utf8_lossy(&answer));
    }
    serde_json::from_slice(&answer).with_context(|| format!("http://{api}/lb/status: not the JSON of an xlb daemon"))
}

/// Asks once, and yields the answer whole.
///
/// # Errors
/// No daemon answers there, or not in time.
pub async fn ask(door: &Door, method: Method, path: &str, body: Bytes) -> Result<(StatusCode, Bytes)> {
    let asked = async {
        let response = begin(door, method, path, body).await?;
        let code = response.status();
        let body = Limited::new(response.into_body(), LEN_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
        Ok((code, body))
    };
    timeout(LIMIT, asked).await.with_context(|| format!("{}: no answer within {LIMIT:?}", door.name()))?
}

/// Asks, and yields the answer as it begins.
///
/// # Errors
/// No daemon answers there.
pub async fn begin(door: &Door, method: Method, path: &str, body: Bytes) -> Result<Response<Incoming>> {
    match door {
        Door::Tcp { address, token } => {
            let stream = TcpStream::connect(address).await;
            let stream = stream
                .with_context(|| format!("no daemon answers on {address}; is it running, and is this its api.listen (--api)?"))?;
            converse(stream, method, path, &address.to_string(), token.as_deref(), body).await
        }
        Door::Socket(socket) => converse(connect(socket).await?, method, path, "xlb", None, body).await,
    }
}

async fn connect(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).await.with_context(|| {
        format!("no daemon answers on {}; is it running, is this its api.socket (--socket), and may you?", socket.display())
    })
}

async fn converse<S>(
    stream: S,
    method: Method,
    path: &str,
    host: &str,
    token: Option<&str>,
    body: Bytes,
) -> Result<Response<Incoming>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header(header::HOST, host);
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
    }
    Ok(sender.send_request(request.body(Full::new(body))?).await?)
}

/// A part of a path, with all that could mean something else there encoded (RFC 3986, section 2.1).
pub fn encoded(part: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:".contains(&byte);
    part.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_mean_something_in_a_path_is_encoded() {
        assert_eq!(encoded("10.0.1.1:80"), "10.0.1.1:80");
        assert_eq!(encoded("[fd02::1]:80"), "%5Bfd02::1%5D:80");
        assert_eq!(encoded("a/b?c#d e"), "a%2Fb%3Fc%23d%20e");
    }
}
