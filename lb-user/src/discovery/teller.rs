//! What a source's task remembers: the last good set, how it goes, and what was said of it. Tells the control loop of changes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::found::{Found, Place, Usable};
use super::{Backends, Kind, News, Source, What};
use crate::config::Trust;
use crate::desired::ServiceName;

/// The soonest that a source that failed is asked again.
pub(super) const WAIT_MIN: Duration = Duration::from_secs(1);

/// How a source's watching goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub source: Kind,
    /// As [`Source::name`].
    pub name: String,
    /// When the last usable answer came.
    pub answered: Option<Instant>,
    /// Why the last query failed; `None` if it succeeded.
    pub last_error: Option<String>,
    pub n_queries: u64,
    /// Of these, those without a usable answer.
    pub n_failures: u64,
    /// Of these, those with fewer hosts than `min_hosts`.
    pub n_too_few: u64,
    /// In the set that holds.
    pub n_hosts: usize,
    /// Usable, but not wanted while those of a lesser priority are there.
    pub n_standby: usize,
    /// Named by the last answer, but no backends.
    pub n_refused: usize,
    /// The set that holds is an earlier answer's, for want of a newer one.
    pub stale: bool,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) text: String,
}

/// What is logged once, not at each retry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FailureKind {
    /// DNS: there is no such name.
    NoSuchName,
    /// Nobody is named, or nobody who could be a backend.
    NoHosts,
    TooFew,
    /// The source answered with an error.
    Refused,
    TimedOut,
    /// There is no way to ask: no server configured, none reachable, no file.
    Unreachable,
    /// What it says makes no sense. Logged again if another thing makes none.
    Broken,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }

    /// Whether an operator who was told of the other knows of this one.
    fn is_known_by(&self, other: &Self) -> bool {
        self.kind == other.kind && (self.kind != FailureKind::Broken || self.text == other.text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Nobody listens any more.
#[derive(Debug)]
pub(super) struct Gone;

pub(super) struct Teller {
    service: ServiceName,
    source: Kind,
    name: String,
    place: Place,
    trust: Trust,
    /// The last good set, as it was told; `None` before the first, and after it got too old.
    known: Option<Backends>,
    failing: Option<Failure>,
    n_failures_in_row: u32,
    refused: String,
    /// When the set gets too old, should no good answer come; `None` if never, or if it has.
    deadline: Option<Instant>,
    status: Arc<Mutex<Status>>,
    out: mpsc::Sender<News>,
}

impl Teller {
    pub(super) fn new(service: ServiceName, source: &Source, place: Place, out: mpsc::Sender<News>) -> Self {
        let (kind, name, trust) = (source.kind(), source.name(), source.trust());
        let status = Status {
            source: kind,
            name: name.clone(),
            answered: None,
            last_error: None,
            n_queries: 0,
            n_failures: 0,
            n_too_few: 0,
            n_hosts: 0,
            n_standby: 0,
            n_refused: 0,
            stale: false,
        };
        Self {
            service,
            source: kind,
            name,
            place,
            trust,
            known: None,
            failing: None,
            n_failures_in_row: 0,
            refused: String::new(),
            // A daemon that took over from another has the set that this one told: that gets old too.
            deadline: trust.stale.map(|stale| Instant::now() + stale),
            status: Arc::new(Mutex::new(status)),
            out,
        }
    }

    pub(super) fn status(&self) -> Arc<Mutex<Status>> {
        Arc::clone(&self.status)
    }

    pub(super) fn place(&self) -> Place {
        self.place
    }

    /// Whether the last query failed.
    pub(super) fn is_failing(&self) -> bool {
        self.failing.is_some()
    }

    /// Takes in what a query brought, and tells what it changes. Without a good answer what is known stays, until it is too old.
    ///
    /// # Errors
    /// If the listener is gone.
    pub(super) async fn take(&mut self, answer: Result<Found, Failure>) -> Result<(), Gone> {
        let news = match answer.and_then(|found| self.trusted(&found)) {
            Ok(usable) => self.succeed(usable),
            Err(failure) => self.fail(failure),
        };
        for what in news {
            let news = News { service: self.service.clone(), source: self.source, what };
            self.out.send(news).await.map_err(|_| Gone)?;
        }
        if self.out.is_closed() { Err(Gone) } else { Ok(()) }
    }

    /// How long to wait after a failure, the longer the more there were in a row, up to `interval`; and not past the moment when
    /// what is known gets too old.
    pub(super) fn wait_after_failure(&self, interval: Duration) -> Duration {
        let wait = wait_after_failure(self.n_failures_in_row, interval);
        self.deadline.map_or(wait, |deadline| wait.min(deadline.saturating_duration_since(Instant::now())))
    }

    /// What of an answer can be used, if that is enough.
    fn trusted(&mut self, found: &Found) -> Result<Usable, Failure> {
        let usable = found.usable(self.place);
        if !usable.refused.is_empty() && usable.refused != self.refused {
            let (service, source, name) = (&self.service, self.source.label(), &self.name);
            tracing::warn!(%service, source, name, "hosts refused: {}", usable.refused);
        }
        self.refused.clone_from(&usable.refused);
        let (n_hosts, min_hosts) = (usable.backends.len(), self.trust.min_hosts);
        let is_too_few = n_hosts < min_hosts;
        self.show(|status| {
            status.n_refused = usable.n_refused;
            status.n_too_few += u64::from(is_too_few);
        });
        match n_hosts {
            // Who names only what cannot be does not say that there is nobody.
            0 if is_too_few || usable.n_refused > 0 => {
                let colon = if usable.refused.is_empty() { "" } else { ": " };
                Err(Failure::new(FailureKind::NoHosts, format!("no usable host{colon}{}", usable.refused)))
            }
            _ if is_too_few => Err(Failure::new(FailureKind::TooFew, format!("{n_hosts} usable, but min_hosts = {min_hosts}"))),
            _ => Ok(usable),
        }
    }

    /// Takes a good set, and yields what is new about it.
    fn succeed(&mut self, usable: Usable) -> Vec<What> {
        let mut news = Vec::new();
        if self.failing.take().is_some() {
            tracing::info!(service = %self.service, source = self.source.label(), name = self.name, "discovery works again");
            news.push(What::Recovered);
        }
        self.n_failures_in_row = 0;
        let now = Instant::now();
        self.deadline = self.trust.stale.map(|stale| now + stale);
        self.show(|status| {
            status.n_queries += 1;
            status.answered = Some(now);
            status.last_error = None;
            status.n_hosts = usable.backends.len();
            status.n_standby = usable.n_standby;
            status.stale = false;
        });
        if self.known.as_ref() != Some(&usable.backends) {
            self.known = Some(usable.backends.clone());
            news.push(What::Backends(usable.backends));
        }
        news
    }

    /// Keeps what is known, and says so once for each kind of failure. With the empty set when what is known is too old.
    fn fail(&mut self, failure: Failure) -> Vec<What> {
        let n_kept = self.known.as_ref().map_or(0, Backends::len);
        let (service, source, name) = (&self.service, self.source.label(), &self.name);
        let is_too_old = self.deadline.is_some_and(|deadline| deadline <= Instant::now());
        let is_stale = n_kept > 0 && !is_too_old;
        let mut news = Vec::new();
        if !self.failing.as_ref().is_some_and(|earlier| failure.is_known_by(earlier)) {
            tracing::warn!(%service, source, name, cause = %failure, n_kept, "discovery failed; what is known stays");
            news.push(What::Failing { is_stale, cause: failure.to_string() });
        }
        if is_too_old {
            tracing::warn!(%service, source, name, n_left = n_kept, "no good answer for as long as stale says: its backends leave");
        }
        self.n_failures_in_row = self.n_failures_in_row.saturating_add(1);
        self.show(|status| {
            status.n_queries += 1;
            status.n_failures += 1;
            status.last_error = Some(failure.to_string());
            status.stale = is_stale;
            if is_too_old {
                (status.n_hosts, status.n_standby) = (0, 0);
            }
        });
        self.failing = Some(failure);
        if is_too_old {
            (self.deadline, self.known) = (None, None);
            news.push(What::Backends(Backends::new()));
        }
        news
    }

    fn show(&self, change: impl FnOnce(&mut Status)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// How long to wait after the `n_failures`-th failure in a row: soon at first, then ever longer, up to the interval.
fn wait_after_failure(n_failures: u32, interval: Duration) -> Duration {
    let doubled = 1u32.checked_shl(n_failures.saturating_sub(1)).unwrap_or(u32::MAX);
    WAIT_MIN.saturating_mul(doubled).min(interval).max(WAIT_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_retried_soon_and_then_ever_later() {
        let waits =
            |interval_s| (1..8).map(|n| wait_after_failure(n, Duration::from_secs(interval_s)).as_secs()).collect::<Vec<_>>();
        assert_eq!(waits(60), [1, 2, 4, 8, 16, 32, 60]);
        assert_eq!(waits(3), [1, 2, 3, 3, 3, 3, 3]);
        assert_eq!(wait_after_failure(u32::MAX, Duration::from_secs(60)), Duration::from_secs(60));
    }
}
