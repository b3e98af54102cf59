//! How slots that moved come to rest again, so that no flow leaves a backend that is alive.
//!
//! | a slot is | until | a flow without a record belongs to |
//! |---|---|---|
//! | at rest | it moves | `current`, which is `settled` |
//! | learning | a flow that was silent when it moved would be dead by now | `settled` |
//! | tracked | no flow elsewhere than on `current` has been seen for as long as a silent flow is alive | `current` |
//!
//! A slot that moves again before it is at rest only changes its `current`: flows without a record are still those from
//! before the first move.
//!
//! Of a service that has every flow on record no slot rests: those that would are tracked, and once it has been so for `idle` they
//! may change hands at any time. When it is no longer such a service, any of
//! its flows may be anywhere, as if all slots had just moved.
//!
//! One whose owner never got a packet has no flows to be learnt. That can only be told once new flows go elsewhere, so it
//! leaves rest too, and is back there at the next look.

use std::collections::BTreeMap;
use std::sync::Arc;

use lb_common::flow::Tick;
use lb_common::limits::SLOTS_PER_LINE;
use lb_common::{BackendId, Slot};

use super::Region;
use crate::tables::{RegionSlots, Restless};

/// What the packet path has seen, and when.
pub trait Sightings {
    fn now(&self) -> Tick;
    /// When a flow of one of a line of slots was last seen elsewhere than on its slot's current backend.
    fn elsewhere(&self, line: u32) -> Tick;
    /// When a flow on record was last sent to a backend.
    fn flow(&self, backend: BackendId) -> Tick;
    /// Whether a backend ever got a packet. What was written before has to be in force for all packets when this is asked.
    fn is_used(&self, backend: BackendId) -> bool;
}

/// The time, and that no flow was ever seen: for what only asks whether a configuration fits.
#[derive(Clone, Copy, Debug)]
pub struct Quiet(pub Tick);

impl Sightings for Quiet {
    fn now(&self) -> Tick {
        self.0
    }

    fn elsewhere(&self, _: u32) -> Tick {
        0
    }

    fn flow(&self, _: BackendId) -> Tick {
        0
    }

    fn is_used(&self, _: BackendId) -> bool {
        true
    }
}

/// Whether something that happened at `then` is longer ago than a silent flow is taken for alive. A time that seems to be in
/// the future is now: the packet path's clock and this one's are read one after the other.
pub fn is_over(then: Tick, now: Tick, idle: Tick) -> bool {
    let age = now.wrapping_sub(then);
    age > idle && age < Tick::MAX / 2
}

/// The slots of a region whose owners now are `owners`, given what they were before.
///
/// `previous` is the service's region so far, this one or the smaller one that it outgrew; each slot of that became several.
pub fn slots(
    owners: impl ExactSizeIterator<Item = BackendId>,
    region: Region,
    is_stateful: bool,
    previous: Option<(&RegionSlots, Region)>,
    idle: Tick,
    sightings: &impl Sightings,
) -> (Arc<[Slot]>, Arc<[Restless]>) {
    let quiet = |owner| if is_stateful { Slot::new(owner, BackendId::NONE) } else { Slot::at_rest(owner) };
    let Some((before, region_before)) = previous else {
        return (owners.map(quiet).collect(), Arc::default());
    };
    let was_stateful = before.records_since.is_some();
    let any_may_be_elsewhere = was_stateful && !is_stateful;
    let growth = region.bits.saturating_sub(region_before.bits);
    let now = sightings.now();
    let is_learning = before.is_learning(now, idle);
    let mut used = BTreeMap::new();
    let mut is_used = |id: BackendId| *used.entry(id).or_insert_with(|| sightings.is_used(id));
    let mut restless = Vec::new();
    let mut earlier = before.restless.iter().peekable();
    let slots = owners.enumerate().map(|(number, current)| {
        let number_before = number as u32 >> growth;
        while earlier.next_if(|earlier| earlier.number < number_before).is_some() {}
        // One whose settled backend never got a packet, not even since new flows go elsewhere, is at rest on its second.
        let earlier = earlier.peek().filter(|earlier| earlier.number == number_before);
        let earlier = earlier.filter(|earlier| !earlier.is_unproven || is_used(earlier.settled));
        let before = before.slots.get(number_before as usize).copied().unwrap_or_default().current();
        let standing = match earlier {
            Some(earlier) => {
                let line = region_before.first_line + number_before / SLOTS_PER_LINE;
                let has_moved = current != before || any_may_be_elsewhere;
                let standing = stand(**earlier, has_moved, sightings.elsewhere(line), idle, now);
                // Of what was seen by the lines that it had, those that it has now know nothing.
                standing
                    .map(|standing| Restless { moved: if region == region_before { standing.moved } else { now }, ..standing })
            }
            None if before.is_none() => None,
            // Who is not on record has ended.
            None if was_stateful && is_stateful && !is_learning && !current.is_none() => None,
            None if any_may_be_elsewhere => {
                Some(Restless { number: 0, settled: before, left_rest: now, moved: now, is_unproven: false })
            }
            None if before == current => None,
            None => Some(Restless {
                number: 0,
                settled: before,
                left_rest: now,
                moved: now,
                is_unproven: !was_stateful && !is_used(before),
            }),
        };
        let Some(standing) = standing else { return quiet(current) };
        restless.push(Restless { number: number as u32, ..standing });
        encode(current, &standing, idle, now)
    });
    (slots.collect(), restless.into())
}

/// How a slot that was not at rest stands now; `None` if it is at rest.
fn stand(earlier: Restless, has_moved: bool, elsewhere: Tick, idle: Tick, now: Tick) -> Option<Restless> {
    let moved = if has_moved { now } else { earlier.moved };
    let is_quiet = is_over(moved, now, idle) && is_over(elsewhere, now, idle);
    let is_at_rest = is_over(earlier.left_rest, now, idle) && is_quiet;
    (!is_at_rest).then_some(Restless { moved, is_unproven: false, ..earlier })
}

/// What the packet path is told: learning is `settled` beside another `current`.
fn encode(current: BackendId, standing: &Restless, idle: Tick, now: Tick) -> Slot {
    let is_learning = !is_over(standing.left_rest, now, idle);
    // A slot that is nobody's goes on learning until it rests: the two zeros of a tracked one would say that it does.
    if (is_learning || current.is_none()) && standing.settled != current {
        Slot::new(current, standing.settled)
    } else {
        Slot::new(current, BackendId::NONE)
    }
}

/// The slots of a running program that are not at rest. How long is not known: they learn anew.
pub fn adopted(slots: &[Slot], now: Tick) -> Arc<[Restless]> {
    let restless = (0..).zip(slots).filter(|(_, slot)| !slot.is_at_rest());
    let standing = |(number, slot): (u32, &Slot)| {
        // One that is tracked, or has moved back to its settled backend, sends flows without a record to the current one.
        let settled = if slot.settled().is_none() { slot.current() } else { slot.settled() };
        Restless { number, settled, left_rest: now, moved: now, is_unproven: false }
    };
    restless.map(standing).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Tick = 100;
    const REGION: Region = Region { first_line: 0, bits: 0 };
    const A: BackendId = BackendId(1);
    const B: BackendId = BackendId(2);
    const C: BackendId = BackendId(3);
    const NONE: BackendId = BackendId::NONE;
    const UNUSED: BackendId = BackendId(9);

    struct Seen {
        now: Tick,
        elsewhere: Tick,
    }

    impl Sightings for Seen {
        fn now(&self) -> Tick {
            self.now
        }

        fn elsewhere(&self, _: u32) -> Tick {
            self.elsewhere
        }

        fn flow(&self, _: BackendId) -> Tick {
            0
        }

        fn is_used(&self, backend: BackendId) -> bool {
            backend != UNUSED
        }
    }

    /// One slot's history: the time, its owner, when a flow was seen elsewhere, and the slot that this makes.
    fn check(history: &[(Tick, BackendId, Tick, Slot)]) {
        let mut region: Option<RegionSlots> = None;
        for &(now, owner, elsewhere, expected) in history {
            let previous = region.as_ref().map(|region| (region, REGION));
            let (slots, restless) = slots([owner].into_iter(), REGION, false, previous, IDLE, &Seen { now, elsewhere });
            assert_eq!(slots[0], expected, "at {now}");
            assert_eq!(restless.is_empty(), slots[0].is_at_rest(), "at {now}");
            region = Some(RegionSlots { slots, restless, ..RegionSlots::empty(0) });
        }
    }

    #[test]
    fn a_slot_that_moves_learns_then_tracks_then_rests() {
        check(&[
            (1000, A, 0, Slot::at_rest(A)),
            (1500, A, 0, Slot::at_rest(A)),
            (2000, B, 0, Slot::new(B, A)),
            (2100, B, 2100, Slot::new(B, A)),
            (2101, B, 2100, Slot::new(B, NONE)),
            (2199, B, 2150, Slot::new(B, NONE)),
            (2250, B, 2150, Slot::new(B, NONE)),
            (2251, B, 2150, Slot::at_rest(B)),
        ]);
    }

    #[test]
    fn a_slot_that_moves_again_still_sends_unknown_flows_where_they_were() {
        check(&[
            (0, A, 0, Slot::at_rest(A)),
            (500, B, 0, Slot::new(B, A)),
            (550, C, 0, Slot::new(C, A)),
            (560, A, 0, Slot::new(A, NONE)),
            (570, C, 0, Slot::new(C, A)),
            (601, C, 0, Slot::new(C, NONE)),
            // The last move may have left flows on others than C, silent since then.
            (670, C, 0, Slot::new(C, NONE)),
            (671, C, 0, Slot::at_rest(C)),
        ]);
    }

    #[test]
    fn a_slot_whose_owner_never_got_a_packet_is_at_rest_on_the_next_at_the_second_look() {
        check(&[
            (0, UNUSED, 0, Slot::at_rest(UNUSED)),
            (5, A, 0, Slot::new(A, UNUSED)),
            (5, A, 0, Slot::at_rest(A)),
            (6, B, 0, Slot::new(B, A)),
        ]);
        check(&[(0, UNUSED, 0, Slot::at_rest(UNUSED)), (5, A, 0, Slot::new(A, UNUSED)), (5, B, 0, Slot::new(B, A))]);
    }

    #[test]
    fn a_slot_of_nobody_is_its_first_owners_again() {
        check(&[
            (0, NONE, 0, Slot::at_rest(NONE)),
            (10, A, 0, Slot::at_rest(A)),
            (500, NONE, 0, Slot::new(NONE, A)),
            // Flows that A still has are elsewhere than on nobody.
            (650, NONE, 640, Slot::new(NONE, A)),
            (660, A, 640, Slot::new(A, NONE)),
            (761, A, 640, Slot::at_rest(A)),
            (900, NONE, 0, Slot::new(NONE, A)),
            (1001, NONE, 0, Slot::at_rest(NONE)),
        ]);
    }

    #[test]
    fn slots_of_a_region_that_grows_inherit_where_their_flows_are() {
        let owners = [A, B].into_iter();
        let small = Region { first_line: 0, bits: 1 };
        let (slots_before, _) = slots(owners, small, false, None, IDLE, &Quiet(0));
        let before = RegionSlots { slots: slots_before, ..RegionSlots::empty(1) };
        let grown = Region { first_line: 1, bits: 2 };
        let seen = Seen { now: 500, elsewhere: 0 };
        let (after, restless) = slots([A, C, B, A].into_iter(), grown, false, Some((&before, small)), IDLE, &seen);
        assert_eq!(after[..], [Slot::at_rest(A), Slot::new(C, A), Slot::at_rest(B), Slot::new(A, B)]);
        assert_eq!(restless.iter().map(|slot| (slot.number, slot.settled)).collect::<Vec<_>>(), [(1, A), (3, B)]);
    }

    #[test]
    fn in_a_region_that_grows_silence_begins_anew() {
        let (small, grown) = (Region { first_line: 0, bits: 0 }, Region { first_line: 1, bits: 1 });
        let empty = |slots, restless, bits| RegionSlots { slots, restless, ..RegionSlots::empty(bits) };
        let seen = |now, elsewhere| Seen { now, elsewhere };
        let (before, restless) = slots([A].into_iter(), small, false, None, IDLE, &seen(0, 0));
        let before = empty(before, restless, 0);
        let (moved, restless) = slots([B].into_iter(), small, false, Some((&before, small)), IDLE, &seen(500, 0));
        let moved = empty(moved, restless, 0);
        // A flow of A's was seen by the old lines just before, and by the new ones never.
        let (after, restless) = slots([B, B].into_iter(), grown, false, Some((&moved, small)), IDLE, &seen(601, 601));
        let after = empty(after, restless, 1);
        assert_eq!(after.slots[..], [Slot::new(B, NONE); 2]);
        let at = |now| slots([B, B].into_iter(), grown, false, Some((&after, grown)), IDLE, &seen(now, 0)).0;
        assert_eq!(at(701)[..], [Slot::new(B, NONE); 2]);
        assert_eq!(at(702)[..], [Slot::at_rest(B); 2]);
    }

    #[test]
    fn what_was_learning_when_not_all_flows_were_to_be_on_record_any_more_is_watched_for_as_long_as_what_rested() {
        // Adopted at 0 as a service that has all its flows on record, which is so no longer from 90 on.
        let adopted_slots = [Slot::new(A, NONE)];
        let mut region = RegionSlots {
            records_since: Some(0),
            restless: adopted(&adopted_slots, 0),
            slots: adopted_slots.into(),
            ..RegionSlots::empty(0)
        };
        for (now, expected) in
            [(90, Slot::new(A, NONE)), (101, Slot::new(A, NONE)), (190, Slot::new(A, NONE)), (191, Slot::at_rest(A))]
        {
            // A flow that went elsewhere by its turn is nowhere noted.
            let seen = Seen { now, elsewhere: 0 };
            let (slots, restless) = slots([A].into_iter(), REGION, false, Some((&region, REGION)), IDLE, &seen);
            assert_eq!(slots[0], expected, "at {now}");
            region = RegionSlots { slots, restless, ..RegionSlots::empty(0) };
        }
    }

    #[test]
    fn what_a_running_program_was_learning_it_goes_on_learning() {
        let slots = [Slot::at_rest(A), Slot::new(B, A), Slot::new(C, NONE), Slot::new(NONE, B)];
        let restless = adopted(&slots, 7);
        let standing: Vec<_> = restless.iter().map(|slot| (slot.number, slot.settled, slot.left_rest)).collect();
        assert_eq!(standing, [(1, A, 7), (2, C, 7), (3, B, 7)]);
    }
}
