//! Asks a running daemon, over TCP or its socket.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::health::Trust;

/// Longer than the daemon takes to say that it cannot.
const LIMIT: Duration = Duration::from_secs(15);
/// Of the answer: 65,535 backends take some 25 MB.
const LEN_MAX: usize = 64 << 20;
/// Where a daemon listens that is not told otherwise.
const SOCKET_DEFAULT: &str = "/run/xlb/xlb.sock";
const API_DEFAULT: &str = "127.0.0.1:9400";

/// Where a daemon's api.listen is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Address {
    has_tls: bool,
    host: String,
    port: u16,
}

impl FromStr for Address {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const HELP: &str = "write ADDRESS:PORT, or https://NAME:PORT where it speaks TLS";
        let (has_tls, rest) = match (text.strip_prefix("https://"), text.strip_prefix("http://")) {
            (Some(rest), _) => (true, rest),
            (None, Some(rest)) => (false, rest),
            (None, None) => (false, text),
        };
        let (host, port) = rest.trim_end_matches('/').rsplit_once(':').ok_or(HELP)?;
        let is_v6 = host.starts_with('[') && host.ends_with(']');
        let host = host.trim_matches(['[', ']']);
        // ServerName takes addresses, and names as DNS has them.
        if host.contains(':') != is_v6 || ServerName::try_from(host).is_err() {
            return Err(HELP);
        }
        Ok(Self { has_tls, host: host.to_owned(), port: port.parse().map_err(|_| HELP)? })
    }
}

/// As a URL begins.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.has_tls { "https" } else { "http" }, self.authority())
    }
}

impl Address {
    fn authority(&self) -> String {
        let Self { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

/// Whom to ask.
#[derive(Args, Clone, Debug)]
pub struct Server {
    /// The daemon's API: its api.listen; https:// before it where it speaks TLS
    #[arg(long, value_name = "[https://]ADDRESS:PORT", default_value = API_DEFAULT)]
    api: Address,
    /// Whom to trust with https://: a PEM file; what this machine trusts unless given
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Where to ask for a change.
#[derive(Args, Debug)]
pub struct Reach {
    /// The daemon's socket: its api.socket
    #[arg(long, value_name = "PATH", default_value = SOCKET_DEFAULT)]
    socket: PathBuf,
    /// Ask over TCP instead: its api.listen; https:// before it where it speaks TLS
    #[arg(long, value_name = "[https://]ADDRESS:PORT", conflicts_with = "socket", requires = "token_file")]
    api: Option<Address>,
    /// Whom to trust with https://: a PEM file; what this machine trusts unless given
    #[arg(long, value_name = "FILE", requires = "api")]
    ca_file: Option<PathBuf>,
    /// A file with the token that changes over TCP take
    #[arg(long, value_name = "FILE", requires = "api")]
    token_file: Option<PathBuf>,
}

/// Where a daemon is, and what opens it.
#[derive(Clone, Debug)]
pub enum Door {
    Tcp { address: Address, ca_file: Option<PathBuf>, token: Option<String> },
    Socket(PathBuf),
}

/// Reading takes no token.
impl From<Server> for Door {
    fn from(Server { api: address, ca_file }: Server) -> Self {
        Self::Tcp { address, ca_file, token: None }
    }
}

impl Door {
    /// As the beginning of a URL, or as a path.
    pub fn name(&self) -> String {
        match self {
            Self::Tcp { address, .. } => address.to_string(),
            Self::Socket(path) => path.display().to_string(),
        }
    }
}

impl TryFrom<&Reach> for Door {
    type Error = anyhow::Error;

    fn try_from(reach: &Reach) -> Result<Self> {
        let Some(address) = reach.api.clone() else { return Ok(Self::Socket(reach.socket.clone())) };
        let read = |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("{}: cannot be read", path.display()));
        let token = reach.token_file.as_ref().map(read).transpose()?.map(|text| text.trim().to_owned());
        Ok(Self::Tcp { address, ca_file: reach.ca_file.clone(), token })
    }
}

/// What `GET /lb/status` answers.
///
/// # Errors
/// If no daemon answers there.
pub async fn status(door: &Door) -> Result<Value> {
    let (code, answer) = ask(door, Method::GET, "/lb/status", Bytes::new()).await?;
    if !code.is_success() {
        bail!("{}/lb/status: {code}: {}", door.name(), String::from_utf8_lossy(&answer));
    }
    serde_json::from_slice(&answer).with_context(|| format!("{}/lb/status: not the JSON of an xlb daemon", door.name()))
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
        Door::Tcp { address, ca_file, token } => {
            let (host, port) = (address.host.as_str(), address.port);
            let stream = TcpStream::connect((host, port)).await.map_err(|error| {
                let address = address.authority();
                anyhow!(
                    "no daemon answers on {address}; is it running (systemctl status xlb), and is this its api.listen (--api)? {error}"
                )
            })?;
            let authority = address.authority();
            if !address.has_tls {
                return converse(stream, method, path, &authority, token.as_deref(), body).await;
            }
            let trust = ca_file.clone().map_or(Trust::System, Trust::File);
            let config = trust.config().await.map_err(anyhow::Error::msg)?;
            let connected = TlsConnector::from(config).connect(ServerName::try_from(host.to_owned())?, stream).await;
            let stream = connected.with_context(|| format!("{address}: no TLS with it; --ca-file says whom to trust"))?;
            converse(stream, method, path, &authority, token.as_deref(), body).await
        }
        Door::Socket(socket) => converse(connect(socket).await?, method, path, "xlb", None, body).await,
    }
}

/// Why something was not done, from the answer that says so.
pub fn refusal(code: StatusCode, answer: &[u8]) -> String {
    let answer: Value = serde_json::from_slice(answer).unwrap_or_else(|_| String::from_utf8_lossy(answer).into());
    answer["error"].as_str().map_or_else(|| format!("{code}: {answer}"), str::to_owned)
}

async fn connect(socket: &Path) -> Result<UnixStream> {
    UnixStream::connect(socket).await.map_err(|error| {
        let socket = socket.display();
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                anyhow!("{socket}: only root, the daemon's user and members of api.socket_gid may ask there: {error}")
            }
            _ => anyhow!(
                "no daemon answers on {socket}; is it running (systemctl status xlb), and is this its api.socket (--socket)? {error}"
            ),
        }
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
    fn a_daemon_is_found_by_address_or_name_with_tls_or_without() {
        for (text, shown) in [
            ("127.0.0.1:9400", "http://127.0.0.1:9400"),
            ("http://lb1:80/", "http://lb1:80"),
            ("https://lb1.example.org:9400", "https://lb1.example.org:9400"),
            ("https://[fd02::1]:9400", "https://[fd02::1]:9400"),
        ] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()), Ok(shown.to_owned()));
        }
        for wrong in ["", "lb1", "https://lb1", "fd02::1:9400", "a b:80", "lb1:99999", "ftp://lb1:80", "[lb1]:80", ":80"] {
            assert!(wrong.parse::<Address>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_could_mean_something_in_a_path_is_encoded() {
        assert_eq!(encoded("10.0.1.1:80"), "10.0.1.1:80");
        assert_eq!(encoded("[fd02::1]:80"), "%5Bfd02::1%5D:80");
        assert_eq!(encoded("a/b?c#d e"), "a%2Fb%3Fc%23d%20e");
    }
}
