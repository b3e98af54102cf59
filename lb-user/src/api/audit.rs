//! The audit log: a line of JSON for every change that was asked for, done or not. Lines are only ever added.
//!
//! A thread writes them, so that no request waits for the disk. It opens the file anew for each line, and so needs nothing when
//! the file is moved away by logrotate.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use tracing::{error, info};

/// Lines that may wait for the disk.
const N_WAITING: usize = 1024;
/// Lines about strangers, at most, in each second: nobody who may not change anything may fill the disk.
const STRANGERS_EACH_SECOND: u64 = 10;

/// What came of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    Done,
    Refused,
    Failed,
}

/// One line.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    /// RFC 3339, UTC.
    pub at: String,
    /// As admitted; without, it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    pub from: String,
    pub request: String,
    /// The change, as it was understood.
    #[serde(skip_serializing_if = "Value::is_null")]
    pub what: Value,
    pub verdict: Verdict,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Requests of strangers since the last line about one that are in no line of their own.
    #[serde(skip_serializing_if = "is_zero")]
    pub unlisted: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes it so")]
fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// How many changes were asked for, by what came of them.
#[derive(Debug, Default)]
pub struct Counts {
    pub done: AtomicU64,
    pub refused: AtomicU64,
    pub failed: AtomicU64,
    /// Lines that are not in the audit log though they should be.
    pub lost: AtomicU64,
}

#[derive(Clone, Debug)]
pub struct Audit {
    lines: Option<SyncSender<Entry>>,
    strangers: Arc<Mutex<Strangers>>,
    pub counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Strangers {
    second: u64,
    n_listed: u64,
    n_unlisted: u64,
}

impl Audit {
    /// Writes to a file from now on, or to none.
    ///
    /// # Errors
    /// The file cannot be written to.
    pub fn start(path: Option<PathBuf>) -> Result<Self> {
        let counts = Arc::new(Counts::default());
        let lines = match path {
            None => None,
            Some(path) => {
                add(&path, b"").with_context(|| format!("api.audit_file = {path:?} cannot be written"))?;
                let (to_lines, lines) = sync_channel(N_WAITING);
                let counts = counts.clone();
                thread::Builder::new().name("audit".into()).spawn(move || write_all(&path, &lines, &counts))?;
                Some(to_lines)
            }
        };
        Ok(Self { lines, strangers: Arc::default(), counts })
    }

    pub fn note(&self, mut entry: Entry) {
        let count = match entry.verdict {
            Verdict::Done => &self.counts.done,
            Verdict::Refused => &self.counts.refused,
            Verdict::Failed => &self.counts.failed,
        };
        count.fetch_add(1, Ordering::Relaxed);
        let Some(lines) = &self.lines else { return };
        if entry.by.is_none() {
            let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            match self.strangers.lock().map(|mut strangers| strangers.list(since_1970)) {
                Ok(Some(n_unlisted)) => entry.unlisted = n_unlisted,
                _ => return,
            }
        }
        if lines.try_send(entry).is_err() && self.counts.lost.fetch_add(1, Ordering::Relaxed) == 0 {
            error!("the audit log does not keep up with the changes: lines are lost (xlb_audit_lines_lost_total)");
        }
    }
}

impl Strangers {
    /// Whether one more gets a line of its own, and how many did not since the last that did.
    fn list(&mut self, since_1970: Duration) -> Option<u64> {
        if self.second != since_1970.as_secs() {
            (self.second, self.n_listed) = (since_1970.as_secs(), 0);
        }
        if self.n_listed >= STRANGERS_EACH_SECOND {
            self.n_unlisted += 1;
            return None;
        }
        self.n_listed += 1;
        Some(std::mem::take(&mut self.n_unlisted))
    }
}

fn write_all(path: &Path, lines: &Receiver<Entry>, counts: &Counts) {
    let mut is_failing = false;
    for entry in lines {
        let written = serde_json::to_vec(&entry).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            // What a full disk left of an earlier line must not spoil this one too.
            if is_failing && is_torn(path) {
                line.insert(0, b'\n');
            }
            add(path, &line)
        });
        match written {
            Ok(()) if std::mem::take(&mut is_failing) => info!(path = %path.display(), "the audit log can be written again"),
            Ok(()) => {}
            Err(error) => {
                counts.lost.fetch_add(1, Ordering::Relaxed);
                if !std::mem::replace(&mut is_failing, true) {
                    error!(%error, path = %path.display(), "the audit log cannot be written; the changes are in this log only");
                }
            }
        }
    }
}

/// Whether the file ends within a line.
fn is_torn(path: &Path) -> bool {
    let last = || -> io::Result<Option<u8>> {
        let mut file = fs::File::open(path)?;
        if file.seek(SeekFrom::End(0))? == 0 {
            return Ok(None);
        }
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(Some(last[0]))
    };
    last().is_ok_and(|last| last.is_some_and(|last| last != b'\n'))
}

/// One write, so that lines stay whole whoever else adds some.
fn add(path: &Path, line: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)?.write_all(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_get_so_many_lines_in_a_second_and_the_rest_are_counted() {
        let mut strangers = Strangers::default();
        let listed: Vec<_> = (0..25).map(|_| strangers.list(Duration::from_millis(5_200))).collect();
        assert_eq!(listed.iter().filter(|listed| **listed == Some(0)).count(), 10);
        assert_eq!(listed.iter().filter(|listed| listed.is_none()).count(), 15);
        assert_eq!(strangers.list(Duration::from_secs(6)), Some(15));
        assert_eq!(strangers.list(Duration::from_secs(6)), Some(0));
    }
}
