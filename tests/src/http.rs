//! Single HTTP requests, with choice of the client's address and port.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Socket, Type};

use crate::Netns;

const LIMIT: Duration = Duration::from_secs(2);

/// An answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// Fetches `http://ADDRESS[:PORT]/PATH` from within a namespace; an IPv6 address stands in brackets or not.
///
/// # Errors
/// No connection within two seconds, or no answer.
pub fn get(netns: &Netns, url: &str) -> Result<Answer> {
    let (address, path) = parse(url)?;
    netns.enter(|| request(connect(address, None, LIMIT)?, path)).with_context(|| url.to_owned())
}

/// The same with the client's address, and its port unless 0.
///
/// # Errors
/// As [`get`], and when the address is not the namespace's or the port is taken.
pub fn get_from(netns: &Netns, source: SocketAddr, url: &str) -> Result<Answer> {
    let (address, path) = parse(url)?;
    netns.enter(|| request(connect(address, Some(source), LIMIT)?, path)).with_context(|| format!("{url} from {source}"))
}

/// Sends a request with a method, headers and a body of its own from within a namespace. `url` as for [`get`].
///
/// # Errors
/// No connection within two seconds, or no answer.
pub fn send(netns: &Netns, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Result<Answer> {
    let (address, path) = parse(url)?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: xlb\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
    let asked = netns.enter(|| exchange(connect(address, None, LIMIT)?, format!("{head}\r\n{body}").as_bytes()));
    asked.with_context(|| format!("{method} {url}"))
}

/// Fetches the body (the backend's name, as ours answer) over `n` new connections, one after another.
///
/// # Errors
/// The first failing request.
pub fn names(netns: &Netns, url: &str, n: usize) -> Result<Vec<String>> {
    let (address, path) = parse(url)?;
    netns.enter(|| (0..n).map(|_| Ok(request(connect(address, None, LIMIT)?, path)?.body.trim().to_owned())).collect())
}

/// One request over a connection of its own.
#[derive(Debug)]
pub struct Attempt {
    /// When the connection was begun.
    pub started: Instant,
    /// The body, trimmed: the backend's name, as ours answer.
    pub name: Result<String>,
}

/// Makes one request after another, each over a new connection, for as long as `goes_on` says so of the last one.
///
/// # Errors
/// The namespace cannot be entered; a request that fails is not an error here.
pub fn attempts(netns: &Netns, url: &str, mut goes_on: impl FnMut(Attempt) -> bool + Send) -> Result<()> {
    let (address, path) = parse(url)?;
    netns.enter(|| {
        loop {
            let started = Instant::now();
            let answer = connect(address, None, LIMIT).and_then(|stream| request(stream, path));
            if !goes_on(Attempt { started, name: answer.map(|answer| answer.body.trim().to_owned()) }) {
                return Ok(());
            }
        }
    })
}

/// A connection from the calling thread's namespace.
///
/// # Errors
/// Refused, not answered within `limit`, or `source` cannot be used.
pub fn connect(to: SocketAddr, source: Option<SocketAddr>, limit: Duration) -> Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if let Some(source) = source {
        // A port used a moment ago is in TIME-WAIT.
        socket.set_reuse_address(true)?;
        socket.bind(&source.into()).with_context(|| format!("source {source}"))?;
    }
    socket.connect_timeout(&to.into(), limit).with_context(|| format!("connecting to {to}"))?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

/// One request, after which the server closes the connection.
fn request(stream: TcpStream, path: &str) -> Result<Answer> {
    exchange(stream, format!("GET {path} HTTP/1.1\r\nHost: xlb\r\nConnection: close\r\n\r\n").as_bytes())
}

fn exchange(mut stream: TcpStream, request: &[u8]) -> Result<Answer> {
    // Who refuses a request need not read it to the end; the answer says why.
    let sent = stream.write_all(request);
    let mut answer = Vec::new();
    let received = stream.read_to_end(&mut answer);
    if answer.is_empty() {
        sent.context("sending")?;
        received.context("no whole answer")?;
    }
    let answer = String::from_utf8_lossy(&answer);
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { bail!("not an HTTP answer: {answer:?}") };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if is_chunked { unchunk(body)? } else { body.to_owned() };
    Ok(Answer { status: status.with_context(|| format!("no status in {head:?}"))?, body })
}

fn unchunk(mut rest: &str) -> Result<String> {
    let mut body = String::new();
    loop {
        let (size, chunk) = rest.split_once("\r\n").context("a chunk without its size")?;
        let size = usize::from_str_radix(size.trim(), 16).context("a chunk's size")?;
        if size == 0 {
            return Ok(body);
        }
        body += chunk.get(..size).context("a chunk cut short")?;
        rest = chunk.get(size + 2..).context("a chunk without its end")?;
    }
}

/// The address and the path of a URL.
pub(crate) fn parse(url: &str) -> Result<(SocketAddr, &str)> {
    let rest = url.strip_prefix("http://").with_context(|| format!("{url}: not http://"))?;
    let (host, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let address = host.parse::<SocketAddr>().or_else(|_| {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        bare.parse::<IpAddr>().map(|address| SocketAddr::new(address, 80))
    });
    Ok((address.with_context(|| format!("{url}: the host must be an address"))?, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_an_address_with_or_without_port_and_path() {
        let parsed = |url| parse(url).map(|(address, path)| format!("{address} {path}")).unwrap();
        assert_eq!(parsed("http://10.0.0.1"), "10.0.0.1:80 /");
        assert_eq!(parsed("http://10.0.0.1:8080/a/b"), "10.0.0.1:8080 /a/b");
        assert_eq!(parsed("http://[fd00::1]:8080/a"), "[fd00::1]:8080 /a");
        assert_eq!(parsed("http://fd00::1/"), "[fd00::1]:80 /");
        assert!(parse("http://name/").is_err());
    }

    #[test]
    fn chunks_are_joined() {
        assert_eq!(unchunk("3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n").unwrap(), "abcd");
        assert!(unchunk("9\r\nabc\r\n").is_err());
    }
}
