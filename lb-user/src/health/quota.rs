//! How many of a service's backends may be out at a time though their checks pass: ejected, or held for flapping.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// What the backends of one service share.
#[derive(Debug, Default)]
pub struct Quota(Mutex<Shared>);

#[derive(Clone, Debug, Default)]
struct Shared {
    max_percent: u8,
    n_seats: u64,
    members: BTreeMap<SocketAddr, Member>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Member {
    /// The seat's number.
    seat: u64,
    /// New flows may go to it.
    serves: bool,
    is_out: bool,
}

impl Shared {
    fn n_out(&self) -> usize {
        self.members.values().filter(|member| member.is_out).count()
    }

    fn fits(&self, n_out: usize) -> bool {
        n_out * 100 <= usize::from(self.max_percent) * self.members.len()
    }

    /// Whether a backend may be out: within the share, and not if it leaves nobody.
    fn ask(&mut self, who: SocketAddr) -> bool {
        if self.members.get(&who).is_some_and(|member| member.is_out) {
            return self.keeps(who);
        }
        let is_other_serving = self.members.iter().any(|(other, member)| *other != who && member.serves);
        let is_granted = is_other_serving && self.fits(self.n_out() + 1);
        if let Some(member) = self.members.get_mut(&who) {
            member.is_out = is_granted;
        }
        is_granted
    }

    /// Whether one that is out may stay so: others may have left.
    fn keeps(&mut self, who: SocketAddr) -> bool {
        let is_kept = self.fits(self.n_out());
        if let Some(member) = self.members.get_mut(&who) {
            member.is_out &= is_kept;
        }
        is_kept
    }
}

impl Quota {
    fn with<T>(&self, act: impl FnOnce(&mut Shared) -> T) -> T {
        // Whoever held it has changed single values: they are sound even if it panicked.
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_max(&self, percent: u8) {
        self.with(|shared| shared.max_percent = percent);
    }
}

/// A backend's part in its service's quota. Dropping it gives it up.
#[derive(Debug)]
pub struct Seat {
    quota: Arc<Quota>,
    who: SocketAddr,
    number: u64,
}

impl Seat {
    /// The same backend's earlier seat, which may still be about to be dropped, counts no more.
    pub fn new(quota: Arc<Quota>, who: SocketAddr) -> Self {
        let number = quota.with(|shared| {
            shared.n_seats += 1;
            shared.members.insert(who, Member { seat: shared.n_seats, ..Member::default() });
            shared.n_seats
        });
        Self { quota, who, number }
    }

    /// Whether the backend may be out, or stay so.
    pub fn ask(&self) -> bool {
        self.quota.with(|shared| shared.ask(self.who))
    }

    pub fn give_back(&self) {
        self.note(|member| member.is_out = false);
    }

    pub fn note_serving(&self, serves: bool) {
        self.note(|member| member.serves = serves);
    }

    fn note(&self, change: impl FnOnce(&mut Member)) {
        self.quota.with(|shared| shared.members.get_mut(&self.who).filter(|member| member.seat == self.number).map(change));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.quota.with(|shared| {
            if shared.members.get(&self.who).is_some_and(|member| member.seat == self.number) {
                shared.members.remove(&self.who);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seats(quota: &Arc<Quota>, n: u16) -> Vec<Seat> {
        let seats: Vec<Seat> = (1..=n).map(|n| Seat::new(Arc::clone(quota), SocketAddr::from(([10, 0, 0, 1], n)))).collect();
        seats.iter().for_each(|seat| seat.note_serving(true));
        seats
    }

    #[test]
    fn the_last_that_serves_stays() {
        let quota = Arc::new(Quota::default());
        quota.set_max(100);
        let seats = seats(&quota, 3);
        assert!(seats[0].ask() && seats[0].ask());
        seats[0].note_serving(false);
        seats[1].note_serving(false);
        assert!(!seats[2].ask(), "nobody else serves");
        seats[1].note_serving(true);
        assert!(seats[2].ask());
    }

    #[test]
    fn who_leaves_lessens_what_the_others_may() {
        let quota = Arc::new(Quota::default());
        quota.set_max(50);
        let mut seats = seats(&quota, 4);
        assert!(seats[0].ask() && seats[1].ask() && !seats[2].ask());
        drop(seats.pop());
        assert!(!seats[0].ask() && seats[1].ask(), "one of three is left of two");
        seats[1].give_back();
        assert!(seats[2].ask());
    }

    proptest! {
        #[test]
        fn never_more_than_the_share_are_granted(max in 0u8..=100, n in 1u16..9, asks in prop::collection::vec((0usize..9, any::<bool>()), 0..60)) {
            let quota = Arc::new(Quota::default());
            quota.set_max(max);
            let seats = seats(&quota, n);
            let mut out = vec![false; seats.len()];
            for (index, gives_back) in asks {
                let index = index % seats.len();
                if gives_back {
                    seats[index].give_back();
                    out[index] = false;
                } else {
                    let others = out.iter().enumerate().filter(|(other, is_out)| *other != index && **is_out).count();
                    out[index] = seats[index].ask();
                    seats[index].note_serving(!out[index]);
                    // Refused only where it must be.
                    prop_assert_eq!(out[index], (others + 1) * 100 <= usize::from(max) * seats.len() && others + 1 < seats.len());
                }
                if gives_back {
                    seats[index].note_serving(true);
                }
                let n_out = out.iter().filter(|is_out| **is_out).count();
                prop_assert!(n_out * 100 <= usize::from(max) * seats.len() && n_out < seats.len().max(2));
            }
        }
    }
}
