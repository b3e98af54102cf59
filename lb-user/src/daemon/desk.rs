//! Where changes at runtime are taken in: each is decided, kept in the state file, put in force, and answered, in this order.
//! So what was answered survives a `kill -9`, and what could not be kept was not made.
//!
//! The file is written beside the control loop: a disk that does not answer holds up changes, and nothing else. What changes by
//! itself (a deadline that has come, a backend that is gone for good) does not wait for it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{error, info, warn};

use super::assemble::BackendKey;
use super::control::Control;
use super::preview::Running;
use crate::config::Config;
use crate::error::chain;
use crate::runtime::state::{self, StateError};
use crate::runtime::{Change, Clocks, Deadlines, Mark, Overrides, Refusal, unix_ms};

/// What was set of a backend that only DNS could name is forgotten when DNS has not named it for this long.
const GONE_AFTER: Duration = Duration::from_secs(60 * 60);
/// How long after a failure the state file is written again.
const RETRY: Duration = Duration::from_secs(10);
/// How long an ending daemon waits for the disk.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// What the API asks of the control loop.
#[derive(Debug)]
pub enum Order {
    Change {
        change: Change,
        by: String,
        answer: oneshot::Sender<Answer>,
    },
    /// What is different now is told as [`super::preview`] does.
    Reload {
        by: String,
        answer: oneshot::Sender<Answer>,
    },
    Running {
        answer: oneshot::Sender<Running>,
    },
    /// Has the packet path look for packets to trace, or not even that.
    Trace {
        is_on: bool,
        answer: oneshot::Sender<()>,
    },
}

/// What is different now, a line each; or why nothing is.
pub type Answer = Result<Vec<String>, Trouble>;

#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error("not done, everything stays as it is: {0}")]
    DoesNotFit(String),
    #[error(transparent)]
    NotKept(#[from] StateError),
    #[error("not reloaded, everything stays as it is: {0}")]
    NotReloaded(String),
}

/// What the loop has to do something about.
pub enum Event {
    Order(Order),
    Written(Result<(), StateError>),
    /// Some time has come.
    Due,
}

pub struct Desk {
    path: PathBuf,
    orders: mpsc::Receiver<Order>,
    saving: Option<Saving>,
    /// The file does not say what holds.
    is_stale: bool,
    retry_at: Option<Instant>,
    trouble: Option<String>,
    deadlines: Deadlines,
    /// Since when backends are not there of which something is set.
    absent: BTreeMap<BackendKey, Instant>,
}

/// What is being written.
struct Saving {
    written: JoinHandle<Result<(), StateError>>,
    overrides: Overrides,
    deadlines: Deadlines,
    /// What is to be put in force once it is.
    pending: Option<Pending>,
}

struct Pending {
    change: Change,
    mark: Mark,
    answer: oneshot::Sender<Answer>,
}

/// What a daemon starts from.
pub struct Remembered {
    pub overrides: Overrides,
    pub deadlines: Deadlines,
    /// In words, what the configuration has no place for any more.
    pub forgotten: Vec<String>,
    pub trouble: Option<String>,
}

/// What was set at runtime in an earlier daemon's time. A file that is broken is put aside, whole, and the configuration holds.
pub fn remember(config: &Config) -> Remembered {
    let path = &config.api.state_file;
    match state::load(path) {
        Ok((overrides, deadlines)) => {
            let (overrides, forgotten) = overrides.under(config);
            if !overrides.is_empty() {
                info!(state_file = %path.display(), n_settings = overrides.len(), "what was set at runtime still holds");
            }
            Remembered { overrides, deadlines, forgotten, trouble: None }
        }
        Err(error) => {
            let mut trouble = format!("{}; the configuration alone holds", chain(&error));
            if let StateError::Broken { .. } = error {
                trouble.push_str(&match state::put_aside(path) {
                    Ok(aside) => format!(", and the file is {} now", aside.display()),
                    Err(error) => format!(", and the file cannot be put aside: {error}"),
                });
            }
            error!("{trouble}");
            let nothing = Overrides::default();
            Remembered { overrides: nothing, deadlines: Deadlines::default(), forgotten: Vec::new(), trouble: Some(trouble) }
        }
    }
}

impl Desk {
    pub fn new(path: PathBuf, orders: mpsc::Receiver<Order>, deadlines: Deadlines, trouble: Option<String>) -> Self {
        Self { path, orders, saving: None, is_stale: false, retry_at: None, trouble, deadlines, absent: BTreeMap::new() }
    }

    /// Why what was set at runtime would not survive a restart, if so.
    pub fn trouble(&self) -> Option<&String> {
        self.trouble.as_ref()
    }

    /// Waits for the next event. Nothing is lost if it is not waited for to the end.
    pub async fn next(&mut self) -> Event {
        let due = self.next_due();
        let is_saving = self.saving.is_some();
        tokio::select! {
            written = written(&mut self.saving) => Event::Written(written),
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => Event::Due,
            // One change after the other.
            Some(order) = self.orders.recv(), if !is_saving => Event::Order(order),
        }
    }

    fn next_due(&self) -> Option<Instant> {
        let until = |at_ms: u64| Instant::now() + Duration::from_millis(at_ms.saturating_sub(Clocks::read().boot_ms));
        let deadlines = self.deadlines.next().map(until).into_iter();
        let gone = self.absent.values().map(|since| *since + GONE_AFTER);
        let retry = self.retry_at.filter(|_| self.is_stale && self.saving.is_none());
        deadlines.chain(gone).chain(retry).min()
    }

    /// Decides on a change, and has it written down.
    pub fn take(&mut self, change: Change, by: String, answer: oneshot::Sender<Answer>, control: &mut Control) {
        let mark = Mark { by, at_ms: unix_ms() };
        let decided = control.overrides().after(&change, control.known(), &mark).map_err(Trouble::from);
        let decided = decided.and_then(|outcome| match control.fits(&outcome.overrides) {
            Ok(()) => Ok(outcome),
            Err(error) => Err(Trouble::DoesNotFit(chain(&error))),
        });
        // Who asked may have gone.
        let _ = match decided {
            Ok(outcome) if outcome.lines.is_empty() => answer.send(Ok(Vec::new())),
            Ok(outcome) => return self.save(outcome.overrides, Some(Pending { change, mark, answer })),
            Err(trouble) => {
                info!(by = mark.by, "refused: {trouble}");
                answer.send(Err(trouble))
            }
        };
    }

    /// Goes on once the file is written, or could not be.
    pub fn note_written(&mut self, written: Result<(), StateError>, control: &mut Control) {
        let Some(Saving { overrides, deadlines, pending, .. }) = self.saving.take() else { return };
        let is_written = written.is_ok();
        self.note_state_of_file(&written);
        if let Some(Pending { change, mark, answer }) = pending {
            let done = written.map_err(Trouble::from).and_then(|()| carry_out(control, &change, &mark));
            if done.is_ok() {
                // What the wall clock said when it was asked for, and not what it says after the disk has answered.
                self.deadlines = Deadlines::of(control.overrides(), &deadlines, Clocks::read());
            }
            // Who asked may have gone: it is done all the same.
            let _ = answer.send(done);
        }
        // It may have come otherwise since, or have been refused in the end. After a failure only another try tells whether what
        // holds is on the disk.
        self.is_stale |= !is_written || overrides != *control.overrides();
        self.write_if_stale(control);
    }

    fn note_state_of_file(&mut self, written: &Result<(), StateError>) {
        match written {
            Ok(()) => {
                if self.retry_at.take().is_some() {
                    info!(state_file = %self.path.display(), "what is set at runtime is kept again");
                }
                self.trouble = None;
            }
            Err(error) => {
                let trouble = chain(error);
                // Said once, not at each try.
                if self.retry_at.is_none() || self.trouble.as_ref() != Some(&trouble) {
                    error!(error = trouble, "what was set at runtime cannot be kept");
                }
                (self.trouble, self.retry_at) = (Some(trouble), Some(Instant::now() + RETRY));
            }
        }
    }

    /// Sees to what changed by itself: deadlines, and backends that are gone for good.
    pub fn follow(&mut self, control: &mut Control) {
        self.note_deadlines(control.overrides());
        self.note_absent(control);
        let now = Instant::now();
        let clocks = Clocks::read();
        let expired = self.deadlines.due(clocks.boot_ms);
        let gone: BTreeSet<_> =
            self.absent.iter().filter(|(_, since)| **since + GONE_AFTER <= now).map(|(key, _)| key.clone()).collect();
        if !expired.is_empty() || !gone.is_empty() {
            let overrides = control.overrides().expired(&expired, unix_ms()).without(&gone);
            if let Err(error) = control.set_overrides(overrides) {
                error!(error = chain(&error), "what was set at runtime is not what it should be");
                // Not at once again.
                self.deadlines.put_off(&expired, clocks.boot_ms + RETRY.as_millis() as u64);
                self.absent.iter_mut().filter(|(key, _)| gone.contains(key)).for_each(|(_, since)| *since = now);
                return;
            }
            expired.iter().for_each(|(service, backend)| info!(%service, %backend, "the drain's deadline has come: disabled"));
            for (service, backend) in &gone {
                warn!(%service, %backend, "gone for an hour: what was set of it at runtime is forgotten");
            }
            self.is_stale = true;
            self.note_deadlines(control.overrides());
            self.note_absent(control);
        }
        self.write_if_stale(control);
    }

    /// What a reload has made of what was set at runtime is to be kept.
    pub fn note_reload(&mut self, forgotten: &[String]) {
        forgotten.iter().for_each(|line| warn!("forgotten: {line}"));
        self.is_stale |= !forgotten.is_empty();
    }

    /// Sees that what failover has set outlives this daemon.
    pub fn note_held(&mut self, control: &mut Control) {
        if control.take_held() {
            self.is_stale = true;
            self.write_if_stale(control);
        }
    }

    fn note_deadlines(&mut self, overrides: &Overrides) {
        let clocks = Clocks::read();
        let now = Deadlines::of(overrides, &self.deadlines, clocks);
        // Those of another boot are the wall clock's for the last time: the next daemon knows them by this boot.
        self.is_stale |= !now.is_empty() && !self.deadlines.is_of(clocks.boot_id);
        self.deadlines = now;
    }

    fn note_absent(&mut self, control: &Control) {
        let mut before = std::mem::take(&mut self.absent);
        let keys = control.overrides().absent(control.known()).into_iter();
        self.absent = keys.map(|key| before.remove_entry(&key).unwrap_or_else(|| (key, Instant::now()))).collect();
    }

    fn write_if_stale(&mut self, control: &Control) {
        let may_try = self.retry_at.is_none_or(|at| at <= Instant::now());
        if self.is_stale && self.saving.is_none() && may_try {
            self.is_stale = false;
            self.save(control.overrides().clone(), None);
        }
    }

    fn save(&mut self, overrides: Overrides, pending: Option<Pending>) {
        let deadlines = Deadlines::of(&overrides, &self.deadlines, Clocks::read());
        let (path, content, times) = (self.path.clone(), overrides.clone(), deadlines.clone());
        let written = tokio::task::spawn_blocking(move || state::store(&path, &content, &times));
        self.saving = Some(Saving { written, overrides, deadlines, pending });
    }

    /// Sees that the file says what holds, if the disk does not take too long.
    pub async fn finish(mut self, control: &mut Control) {
        let last = async {
            while self.saving.is_some() || self.is_stale {
                if self.saving.is_none() {
                    self.save(control.overrides().clone(), None);
                    self.is_stale = false;
                }
                let written = written(&mut self.saving).await;
                let is_written = written.is_ok();
                self.note_written(written, control);
                if !is_written {
                    return;
                }
            }
        };
        if tokio::time::timeout(LAST_WRITE, last).await.is_err() {
            error!("what was set at runtime may not have been kept: the disk does not answer");
        }
    }
}

/// What comes of the writing; nothing, for ever, if nothing is being written.
async fn written(saving: &mut Option<Saving>) -> Result<(), StateError> {
    let Some(saving) = saving else { return std::future::pending().await };
    match (&mut saving.written).await {
        Ok(written) => written,
        Err(error) => Err(StateError::Broken { path: PathBuf::new(), reason: error.to_string() }),
    }
}

fn carry_out(control: &mut Control, change: &Change, mark: &Mark) -> Answer {
    // Other things may have changed since it was decided.
    let outcome = control.overrides().after(change, control.known(), mark)?;
    control.set_overrides(outcome.overrides).map_err(|error| Trouble::DoesNotFit(chain(&error)))?;
    outcome.lines.iter().for_each(|line| info!(by = mark.by, "set at runtime: {line}"));
    Ok(outcome.lines)
}
