//! When to ask for which neighbour again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use super::neighbours::Key;

/// How long to wait after each attempt; the last for all that follow. The kernel itself repeats its question each
/// second and gives up after three: the short waits are for what it did not announce.
const WAITS: [Duration; 6] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];

/// How long to wait after an attempt, of which `n_before` went before.
pub fn wait(n_before: usize) -> Duration {
    WAITS.get(n_before).or(WAITS.last()).copied().unwrap_or_default()
}

/// Neighbours in the order in which they are due.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Queue(BTreeSet<(Instant, Key)>);

impl Queue {
    /// Moves a neighbour from where `due` says it stands.
    pub fn set(&mut self, key: Key, due: &mut Option<Instant>, to: Option<Instant>) {
        if let Some(at) = *due {
            self.0.remove(&(at, key));
        }
        if let Some(at) = to {
            self.0.insert((at, key));
        }
        *due = to;
    }

    pub fn next(&self) -> Option<Instant> {
        self.0.first().map(|(at, _)| *at)
    }

    pub fn first_due(&self, now: Instant) -> Option<Key> {
        self.0.first().filter(|(at, _)| *at <= now).map(|(_, key)| *key)
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_ten_seconds_and_stay_there() {
        let waits: Vec<_> = (0..20).map(wait).collect();
        assert!(waits.is_sorted());
        assert_eq!(waits[0], Duration::from_millis(50));
        assert_eq!(waits[19], Duration::from_secs(10));
    }

    #[test]
    fn a_moved_neighbour_stands_in_the_queue_once() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let key = Key { ifindex: 1, address: [10, 0, 0, 1].into() };
        let (mut queue, mut due) = (Queue::default(), None);
        queue.set(key, &mut due, Some(now));
        queue.set(key, &mut due, Some(later));
        assert_eq!((queue.len(), queue.next(), queue.first_due(now)), (1, Some(later), None));
        assert_eq!(queue.first_due(later), Some(key));
        queue.set(key, &mut due, None);
        assert_eq!((queue.len(), due), (0, None));
    }
}
