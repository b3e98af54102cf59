//! What has happened, in order: written by the control loop when it is told of something or decides something, read by whoever
//! tells others.
//!
//! Nothing is lost between two readings, unless more happens in between than is kept; and nobody who reads can hold up the loop.

mod causes;
mod change;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

pub use causes::Causes;
pub use change::Change;
#[cfg(test)]
pub use change::samples;

use crate::runtime::{UnixMs, unix_ms};

/// Events that wait for a reader who comes once a second. A thousand services that come up at once are as many, and 20,000 backends.
const N_KEPT: usize = 4096;

/// A change, and when it happened.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Event {
    pub at_ms: UnixMs,
    #[serde(flatten)]
    pub change: Change,
}

impl Event {
    /// A change of this moment.
    pub fn now(change: Change) -> Self {
        Self { at_ms: unix_ms(), change }
    }
}

/// What the loop writes into. What it notes in one turn is there for readers when the turn is over, all at once.
#[derive(Debug, Default)]
pub struct Journal {
    turn: Vec<Event>,
    pages: Arc<Mutex<Pages>>,
}

/// What readers have of it.
#[derive(Clone, Debug)]
pub struct Reader {
    pages: Arc<Mutex<Pages>>,
    /// Of all that were ever written.
    n_read: u64,
}

#[derive(Debug, Default)]
struct Pages {
    /// The last ones.
    events: VecDeque<Event>,
    /// Of all times.
    n_written: u64,
}

impl Journal {
    /// Something has happened.
    pub fn note(&mut self, change: Change) {
        self.turn.push(Event::now(change));
    }

    /// Something has happened that all else of this turn comes from.
    pub fn note_first(&mut self, change: Change) {
        self.turn.insert(0, Event::now(change));
    }

    /// The turn is over.
    pub fn publish(&mut self) {
        if self.turn.is_empty() {
            return;
        }
        let mut pages = lock(&self.pages);
        pages.n_written += self.turn.len() as u64;
        pages.events.extend(self.turn.drain(..));
        let n_old = pages.events.len().saturating_sub(N_KEPT);
        pages.events.drain(..n_old);
    }

    /// For somebody who reads from the beginning.
    pub fn reader(&self) -> Reader {
        Reader { pages: self.pages.clone(), n_read: 0 }
    }
}

impl Reader {
    /// What has been written since the last time. If that is more than is kept, the number of those that are missing comes first.
    pub fn read(&mut self) -> Vec<Event> {
        let pages = lock(&self.pages);
        let n_new = pages.n_written - self.n_read;
        self.n_read = pages.n_written;
        let n_there = n_new.min(pages.events.len() as u64) as usize;
        let missing = Some(n_new - n_there as u64).filter(|n_events| *n_events > 0);
        let missing = missing.map(|n_events| Event::now(Change::Missing { n_events }));
        missing.into_iter().chain(pages.events.range(pages.events.len() - n_there..).cloned()).collect()
    }
}

/// Whoever held it only moved whole events: they are sound even if it panicked.
fn lock(pages: &Mutex<Pages>) -> MutexGuard<'_, Pages> {
    pages.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes(events: &[Event]) -> Vec<&Change> {
        events.iter().map(|event| &event.change).collect()
    }

    fn ready(ready: bool) -> Change {
        Change::Ready { ready, waits_for: None }
    }

    #[test]
    fn each_reader_gets_everything_once_and_in_order() {
        let mut journal = Journal::default();
        let (mut early, mut late) = (journal.reader(), journal.reader());
        journal.note(ready(true));
        assert!(early.read().is_empty(), "the turn is not over");
        journal.publish();
        assert_eq!(changes(&early.read()), [&ready(true)]);
        journal.note(ready(false));
        journal.note_first(Change::Reload { accepted: true, cause: None });
        journal.publish();
        let reload = Change::Reload { accepted: true, cause: None };
        assert_eq!(changes(&early.read()), [&reload, &ready(false)]);
        assert!(early.read().is_empty());
        assert_eq!(changes(&late.read()), [&ready(true), &reload, &ready(false)]);
    }

    #[test]
    fn a_reader_who_comes_too_seldom_is_told_how_much_is_missing() {
        let mut journal = Journal::default();
        let mut reader = journal.reader();
        for _ in 0..N_KEPT + 7 {
            journal.note(ready(true));
            journal.publish();
        }
        let events = reader.read();
        assert_eq!(events.len(), N_KEPT + 1);
        assert_eq!(events[0].change, Change::Missing { n_events: 7 });
        assert!(reader.read().is_empty());
    }
}
