//! One probe of one backend: a connection, what is asked over it, and a verdict before the time is up.

mod http;
mod tcp;

#[cfg(test)]
mod tests;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::{Probe, TICK};

/// How a probe ended, with what it found in a few words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Passed(String),
    Failed(String),
    /// This machine could not even ask: the result says nothing about the backend, and must not count against it.
    /// Otherwise a daemon that runs out of file descriptors would take all backends down.
    Unasked(String),
}

impl Outcome {
    /// What was found.
    pub fn text(&self) -> &str {
        match self {
            Self::Passed(text) | Self::Failed(text) | Self::Unasked(text) => text,
        }
    }
}

/// When a probe that starts now must have ended: early by what a timer may be late, so that `timeout` is kept.
pub(super) fn deadline(timeout: Duration) -> Instant {
    Instant::now() + timeout.saturating_sub(TICK).max(TICK)
}

/// Asks `target` once. The verdict stands within `timeout`, whatever the other side does.
pub async fn run(probe: &Probe, target: SocketAddr, timeout: Duration) -> Outcome {
    let late = |phase: Phase| Outcome::Failed(format!("{phase}: timed out after {}", humantime::format_duration(timeout)));
    if *probe == Probe::None {
        return Outcome::Passed("not checked".to_owned());
    }
    let deadline = deadline(timeout);
    let stream = match timeout_at(deadline, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return failed_connect(&error),
        Err(_) => return late(Phase::Connect),
    };
    reset_on_close(&stream);
    match probe {
        Probe::None | Probe::Tcp => tcp::verdict(stream),
        Probe::Http { path, host, expect } => {
            let exchange = http::get(stream, target, path, host.as_deref(), expect);
            timeout_at(deadline, exchange).await.unwrap_or_else(|_| late(Phase::Http))
        }
    }
}

/// What a probe was at, as its result begins.
#[derive(Clone, Copy, Debug)]
enum Phase {
    Connect,
    Http,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "connect",
            Self::Http => "http",
        })
    }
}

/// Ends the connection with RST instead of FIN when it is dropped.
///
/// Whoever closes first keeps the connection in TIME_WAIT for a minute. A probe always does: at a probe a second, 5,000
/// backends would hold 300,000 such, above the kernel's usual bound (`tcp_max_tw_buckets`, 262,144). A probe has nothing
/// in flight that RST could lose. HAProxy's checks close the same way.
fn reset_on_close(stream: &TcpStream) {
    // Without it the close is merely the usual one.
    let _ = stream.set_zero_linger();
}

fn failed_connect(error: &io::Error) -> Outcome {
    let phase = Phase::Connect;
    if is_local(error) {
        return Outcome::Unasked(format!("{phase}: {error}"));
    }
    Outcome::Failed(match error.kind() {
        io::ErrorKind::ConnectionRefused => format!("{phase}: refused"),
        io::ErrorKind::ConnectionReset => format!("{phase}: reset"),
        io::ErrorKind::HostUnreachable => format!("{phase}: host unreachable"),
        io::ErrorKind::NetworkUnreachable => format!("{phase}: network unreachable"),
        io::ErrorKind::TimedOut => format!("{phase}: timed out"),
        _ => format!("{phase}: {error}"),
    })
}

/// Whether this machine lacks something: descriptors, memory, or a free port.
fn is_local(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let local = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| local.contains(&Errno::from_raw_os_error(code)))
}
