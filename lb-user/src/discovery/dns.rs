//! Watches one name, and tells the addresses behind it.
//!
//! The rule that matters: no failure takes a backend away. A server that is gone, an error, a name without addresses or
//! one that vanished leave the last good set as it is, because a DNS outage must not become an outage of the service; the
//! set is marked stale, counted and logged. Addresses leave only when an answer with others comes.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::AddressFamily;
use super::answer::{Answer, wait_after_failure};
use super::query::{Failure, FailureKind, Question};
use crate::config::Dns;
use crate::desired::ServiceName;

#[cfg(test)]
mod tests;

/// All backends that a service's name has, present now. What is not in it has left.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Discovered {
    pub service: ServiceName,
    pub backends: BTreeSet<SocketAddr>,
}

/// A name's task. Dropping it ends the task; nothing more is sent then.
#[derive(Debug)]
pub struct Watcher {
    task: AbortHandle,
    status: Arc<Mutex<Status>>,
}

/// How a name's watching goes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Status {
    /// When the last usable answer came.
    pub last_success: Option<SystemTime>,
    /// Why the last query failed; `None` if it succeeded.
    pub last_error: Option<String>,
    pub n_queries: u64,
    /// Of these, those without a usable answer.
    pub n_errors: u64,
    /// In the set that holds.
    pub n_addresses: usize,
    /// The set that holds is older than its TTL, for want of a usable answer.
    pub stale: bool,
}

impl Watcher {
    /// A snapshot.
    pub fn status(&self) -> Status {
        // Whoever held it only replaced whole values: they are sound even if it panicked.
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts watching. The whole set is sent at the first usable answer, and whenever it changes.
///
/// The task ends when the receiver is gone.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn(service: ServiceName, dns: Dns, family: AddressFamily, out: mpsc::Sender<Discovered>) -> Watcher {
    let status = Arc::new(Mutex::new(Status::default()));
    let question = Question { name: dns.name.clone(), family, server: dns.resolver };
    let watch = Watch { service, dns, known: Known::default(), status: Arc::clone(&status), out };
    let task = tokio::spawn(async move { watch.keep_asking(|| question.ask()).await });
    Watcher { task: task.abort_handle(), status }
}

/// What is remembered from answer to answer.
#[derive(Default)]
struct Known {
    /// The last good set; `None` before the first.
    addresses: Option<BTreeSet<IpAddr>>,
    failing: Option<FailureKind>,
    n_failures_in_row: u32,
    left_out: String,
}

struct Watch {
    service: ServiceName,
    dns: Dns,
    known: Known,
    status: Arc<Mutex<Status>>,
    out: mpsc::Sender<Discovered>,
}

impl Watch {
    async fn keep_asking<Q>(mut self, mut ask: impl FnMut() -> Q)
    where
        Q: Future<Output = Result<Answer, Failure>>,
    {
        loop {
            let (changed, wait) = match ask().await.and_then(|answer| self.usable(&answer).map(|set| (set, answer))) {
                Ok((addresses, answer)) => (self.succeed(addresses), answer.wait(self.dns.interval)),
                Err(failure) => (None, self.fail(&failure)),
            };
            let sent = async {
                match changed {
                    Some(discovered) => self.out.send(discovered).await.is_ok(),
                    None => !self.out.is_closed(),
                }
            };
            if !sent.await {
                return;
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// The usable addresses of an answer. One with none of them is as good as none.
    fn usable(&mut self, answer: &Answer) -> Result<BTreeSet<IpAddr>, Failure> {
        let usable = answer.usable();
        if !usable.left_out.is_empty() && usable.left_out != self.known.left_out {
            tracing::warn!(service = %self.service, name = self.dns.name, "DNS addresses left out: {}", usable.left_out);
        }
        self.known.left_out = usable.left_out;
        if usable.addresses.is_empty() {
            return Err(Failure::new(FailureKind::NoAddresses, format!("no usable address: {}", self.known.left_out)));
        }
        Ok(usable.addresses)
    }

    /// Takes a good set, and yields it if it is another one.
    fn succeed(&mut self, addresses: BTreeSet<IpAddr>) -> Option<Discovered> {
        if self.known.failing.take().is_some() {
            tracing::info!(service = %self.service, name = self.dns.name, "DNS answers again");
        }
        self.known.n_failures_in_row = 0;
        self.show(|status| {
            status.last_success = Some(SystemTime::now());
            status.last_error = None;
            status.n_addresses = addresses.len();
            status.stale = false;
        });
        if self.known.addresses.as_ref() == Some(&addresses) {
            return None;
        }
        let backends = addresses.iter().map(|ip| SocketAddr::new(*ip, self.dns.port)).collect();
        self.known.addresses = Some(addresses);
        Some(Discovered { service: self.service.clone(), backends })
    }

    /// Keeps what is known, says so once for each kind of failure, and yields how long to wait.
    fn fail(&mut self, failure: &Failure) -> Duration {
        let n_kept = self.known.addresses.as_ref().map_or(0, BTreeSet::len);
        if self.known.failing.replace(failure.kind) != Some(failure.kind) {
            tracing::warn!(
                service = %self.service, name = self.dns.name, cause = %failure, n_kept,
                "DNS query failed; the last good addresses stay",
            );
        }
        self.known.n_failures_in_row = self.known.n_failures_in_row.saturating_add(1);
        self.show(|status| {
            status.last_error = Some(failure.to_string());
            status.n_errors += 1;
            status.stale = n_kept > 0;
        });
        wait_after_failure(self.known.n_failures_in_row, self.dns.interval)
    }

    fn show(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        status.n_queries += 1;
        change(&mut status);
    }
}
