//! Single UDP questions.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Netns;

/// Of a machine that has other things to do.
const LIMIT: Duration = Duration::from_secs(3);

/// Sends one datagram from a new port and yields the answer. The socket is connected, so an answer from another address
/// than the one asked does not count.
///
/// # Errors
/// No answer within three seconds, or port unreachable.
pub fn ask(netns: &Netns, to: SocketAddr, question: &[u8]) -> Result<Vec<u8>> {
    netns.enter(|| exchange(&connect(to, 0)?, question)).with_context(|| format!("UDP {to}"))
}

/// The names of the backends (ours put them before the echo) that answered `n` flows, each from a new port.
///
/// # Errors
/// As [`ask`], for the first flow that fails.
pub fn names(netns: &Netns, to: SocketAddr, n: usize) -> Result<Vec<String>> {
    netns.enter(|| (0..n).map(|_| name(&connect(to, 0)?)).collect()).with_context(|| format!("UDP {to}"))
}

/// A socket in the calling thread's namespace, from `source_port` unless 0, connected to `to`.
///
/// # Errors
/// The port is taken, or there is no route.
pub fn connect(to: SocketAddr, source_port: u16) -> Result<UdpSocket> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], source_port).into() } else { ([0u16; 8], source_port).into() };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(LIMIT))?;
    Ok(socket)
}

/// The name of the backend that answers on this socket.
///
/// # Errors
/// No answer within three seconds, or not one of our backends'.
pub fn name(socket: &UdpSocket) -> Result<String> {
    let answer = String::from_utf8(exchange(socket, b"?")?)?;
    Ok(answer.split_once(' ').with_context(|| format!("not our backend's answer: {answer:?}"))?.0.to_owned())
}

fn exchange(socket: &UdpSocket, question: &[u8]) -> Result<Vec<u8>> {
    socket.send(question)?;
    let mut answer = vec![0; 65536];
    let n = socket.recv(&mut answer).context("no answer")?;
    answer.truncate(n);
    Ok(answer)
}
