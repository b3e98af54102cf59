//! Ids of one kind: given once, kept while they are wanted, and not given to another before they have rested.

use std::collections::{BTreeMap, VecDeque};

/// Who has which id, from `first` to `last`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ids<K> {
    assigned: BTreeMap<K, u16>,
    /// Never assigned so far: from here to `last`.
    fresh: u32,
    last: u16,
    /// Free to be assigned again, the longest free first.
    free: VecDeque<u16>,
    resting: Vec<u16>,
}

impl<K: Ord + Clone> Ids<K> {
    pub fn new(first: u16, last: u16) -> Self {
        Self { assigned: BTreeMap::new(), fresh: u32::from(first), last, free: VecDeque::new(), resting: Vec::new() }
    }

    /// A part of the assigned ones, and no others to give.
    pub fn only(&self, assigned: impl Iterator<Item = (K, u16)>) -> Self {
        let fresh = u32::from(self.last) + 1;
        Self { assigned: assigned.collect(), fresh, last: self.last, free: VecDeque::new(), resting: Vec::new() }
    }

    /// Those from one key on, in order.
    pub fn from(&self, first: K) -> impl Iterator<Item = (&K, u16)> {
        self.assigned.range(first..).map(|(key, &id)| (key, id))
    }

    /// `None` if all ids are taken, or rest.
    pub fn get_or_assign(&mut self, key: &K) -> Option<u16> {
        if let Some(&id) = self.assigned.get(key) {
            return Some(id);
        }
        let id = if let Some(id) = self.free.pop_front() {
            id
        } else if self.fresh <= u32::from(self.last) {
            self.fresh += 1;
            (self.fresh - 1) as u16
        } else {
            return None;
        };
        self.assigned.insert(key.clone(), id);
        Some(id)
    }

    pub fn find(&self, key: &K) -> Option<u16> {
        self.assigned.get(key).copied()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&K, u16)> {
        self.assigned.iter().map(|(key, &id)| (key, id))
    }

    pub fn n_resting(&self) -> usize {
        self.resting.len()
    }

    /// Keys that go leave their ids to rest.
    pub fn retain(&mut self, keep: impl Fn(&K) -> bool) {
        let resting = &mut self.resting;
        self.assigned.retain(|key, id| {
            let kept = keep(key);
            if !kept {
                resting.push(*id);
            }
            kept
        });
    }

    /// One key goes, and leaves its id to rest.
    pub fn release(&mut self, key: &K) {
        self.resting.extend(self.assigned.remove(key));
    }

    /// Ids that rest are free from now on.
    pub fn recycle(&mut self) {
        self.free.extend(self.resting.drain(..));
    }

    /// Takes an id out of the free ones. All below it that were never assigned become free.
    pub fn adopt(&mut self, key: K, id: u16) {
        self.claim(id);
        self.assigned.insert(key, id);
    }

    /// Lets an id that is not assigned rest.
    pub fn rest(&mut self, id: u16) {
        self.claim(id);
        self.resting.push(id);
    }

    fn claim(&mut self, id: u16) {
        while self.fresh <= u32::from(id) {
            self.free.push_back(self.fresh as u16);
            self.fresh += 1;
        }
        self.free.retain(|&free| free != id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_not_given_to_another_before_it_has_rested() {
        let mut ids = Ids::new(1, 2);
        assert_eq!((ids.get_or_assign(&'a'), ids.get_or_assign(&'b')), (Some(1), Some(2)));
        ids.retain(|&key| key == 'b');
        assert_eq!(ids.get_or_assign(&'c'), None);
        ids.recycle();
        assert_eq!((ids.get_or_assign(&'c'), ids.get_or_assign(&'b')), (Some(1), Some(2)));
    }

    #[test]
    fn an_adopted_id_is_nobody_elses() {
        let mut ids = Ids::new(1, 5);
        ids.adopt('x', 3);
        let others: Vec<_> = "abcd".chars().map(|key| ids.get_or_assign(&key)).collect();
        assert_eq!(others, [Some(1), Some(2), Some(4), Some(5)]);
    }
}
