//! One probe of one backend: what is asked, and a verdict before the time is up.

mod agent;
mod dns;
mod file;
mod grpc;
mod http;
mod icmp;
mod postgres;
mod redis;
mod role;
mod script;
mod target;
mod tcp;
mod time;
mod tls;
mod udp;

#[cfg(test)]
mod tests;

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream};

use super::steer::Lease;
use super::{Advice, Probe};
use crate::desired::ServiceName;
use crate::error::chain;
pub use dns::{Dns, DnsAnswer};
pub use grpc::Grpc;
pub use http::Http;
pub use postgres::{Login, Postgres};
pub use redis::Redis;
pub use role::Role;
pub use script::Script;
use target::Target;
use time::Time;
#[cfg(test)]
pub(super) use time::deadline;
pub use tls::{Tls, Trust};
pub use udp::Udp;

/// How a probe ended, with what it found in a few words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    Passed(String),
    /// It passed, and said what is to become of its weight.
    Advised(Advice, String),
    Failed(String),
    /// This machine could not even ask: the result says nothing about the backend, and must not count against it.
    /// Otherwise a daemon that runs out of file descriptors would take all backends down.
    Unasked(String),
    /// It failed, but nobody looked in time: this process was not running. It says nothing about the backend either.
    Late(String),
}

impl Outcome {
    /// What was found.
    pub fn text(&self) -> &str {
        match self {
            Self::Passed(text) | Self::Advised(_, text) | Self::Failed(text) | Self::Unasked(text) | Self::Late(text) => text,
        }
    }
}

/// What a probe that passed found; or else why it did not pass, so that each step of a probe can end it with `?`.
type Found = Result<String, Setback>;

/// Why a probe did not pass; the [`Outcome`] of the same name says more.
#[derive(Debug)]
enum Setback {
    Failed(String),
    Unasked(String),
}

impl From<Setback> for Outcome {
    fn from(setback: Setback) -> Self {
        match setback {
            Setback::Failed(text) => Self::Failed(text),
            Setback::Unasked(text) => Self::Unasked(text),
        }
    }
}

/// Asks `target`, a backend of `service`, once. The verdict stands within `timeout`, whatever the other side does.
pub async fn run(probe: &Probe, service: &ServiceName, target: SocketAddr, timeout: Duration) -> Outcome {
    ask(probe, service, target.into(), &Time::from_now(timeout)).await.unwrap_or_else(Outcome::from)
}

/// The same, of a VIP and a port, as the backend that the lease is for has them.
pub async fn run_steered(probe: &Probe, service: &ServiceName, vip: SocketAddr, lease: &Lease, timeout: Duration) -> Outcome {
    const PHASE: &str = "path";
    let time = Time::from_now(timeout);
    let steered = async {
        let mark = time.keep(PHASE, lease.aim(vip.ip())).await?.map_err(|trouble| {
            let text = format!("{PHASE}: {}", chain(&trouble));
            if trouble.is_the_backends() { Setback::Failed(text) } else { Setback::Unasked(text) }
        })?;
        ask(probe, service, Target::steered(vip, mark), &time).await
    };
    steered.await.unwrap_or_else(Outcome::from)
}

async fn ask(probe: &Probe, service: &ServiceName, target: Target, time: &Time) -> Result<Outcome, Setback> {
    let found = match probe {
        Probe::None => Ok("not checked".to_owned()),
        Probe::Tcp => tcp::ask(target, time).await,
        // Boxed where there is much to remember between two steps: thousands of checkers mostly wait, and have this in them.
        Probe::Http(http) => Box::pin(http.ask(target, time)).await,
        Probe::Redis(redis) => Box::pin(redis.ask(target, time)).await,
        Probe::Postgres(postgres) => Box::pin(postgres.ask(target, time)).await,
        Probe::Grpc(grpc) => Box::pin(grpc.ask(target, time)).await,
        Probe::Script(script) => Box::pin(script.ask(service, target, time)).await,
        Probe::Agent => {
            return agent::ask(target, time).await.map(|(advice, text)| Outcome::Advised(advice, text));
        }
        Probe::Udp(udp) => udp.ask(target, time).await,
        Probe::Dns(dns) => dns.ask(target, time).await,
        Probe::Icmp => icmp::ask(target, time).await,
    };
    found.map(Outcome::Passed)
}

/// A connection to `target`, which ends with RST instead of FIN when it is dropped.
///
/// Whoever closes first keeps the connection in TIME_WAIT for a minute. A probe always does: at a probe a second, 5,000
/// backends would hold 300,000 such, above the kernel's usual bound (`tcp_max_tw_buckets`, 262,144). A probe has nothing
/// in flight that RST could lose. HAProxy's checks close the same way.
async fn connect(target: Target, time: &Time) -> Result<TcpStream, Setback> {
    let stream = connect_gently(target, time).await?;
    // Without it the close is merely the usual one.
    let _ = stream.set_zero_linger();
    Ok(stream)
}

/// One that ends with FIN, for servers that take RST for a fault of theirs.
async fn connect_gently(target: Target, time: &Time) -> Result<TcpStream, Setback> {
    const PHASE: &str = "connect";
    let connecting = async {
        let socket = if target.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        target.prepare(&socket)?;
        socket.connect(target.address).await
    };
    time.keep(PHASE, connecting).await?.map_err(|error| setback(PHASE, &error))
}

/// What `exchange` yields, while the connection that it needs is driven: in place rather than in a task of its own, so that
/// both end with the probe.
async fn driven<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    {
        let connection = pin!(connection);
        tokio::select! {
            biased;
            found = &mut exchange => return found,
            // It ends first when it breaks, or has nothing more to come.
            _ = connection => {}
        }
    }
    // Gone by now, it has told the exchange that nothing more will come.
    exchange.await
}

/// What a failed system call means. `phase` is what the probe was at, as its result begins.
fn setback(phase: &str, error: &io::Error) -> Setback {
    if is_local(error) {
        return Setback::Unasked(format!("{phase}: {error}"));
    }
    Setback::Failed(match error.kind() {
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

/// Whether `wanted` stands anywhere in `bytes`.
fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// The beginning of what a backend said, fit for logs whatever it is.
fn excerpt(bytes: &[u8]) -> String {
    const SHOWN_BYTES: usize = 60;
    let shown = &bytes[..bytes.len().min(SHOWN_BYTES)];
    let more = if shown.len() < bytes.len() { "..." } else { "" };
    format!("\"{}{more}\"", shown.escape_ascii())
}
