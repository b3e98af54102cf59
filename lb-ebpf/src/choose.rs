//! Chooses the backend of a new flow, where not its slot alone decides: by turns, by chance, or by load.
//!
//! Turns stand in a service's first slots, as their current backends: whoever owns more of them has more turns. So weights, and who
//! is out, are known to user space alone.
//!
//! The least busy is looked for among a few turns in a row, from a random one on. That finds the least busy of all in a small service;
//! in a large one it does almost as well, for the worst are avoided (Mitzenmacher, "The Power of Two Choices in Randomized Load
//! Balancing", 2001), and reads a few records instead of all.
//!
//! Maglev with bounded loads (Mirrokni, Thorup, Zadimoghaddam, "Consistent Hashing with Bounded Loads", 2018): a backend that has its
//! share of flows passes the next one on, along a sequence of slots that follows from the flow's hash.

use lb_common::branchless::{either, less};
use lb_common::load::n_active;
use lb_common::records::{BOUND_SHIFT, Service, choice};
use lb_common::{BackendId, limits};

use crate::env::Env;

/// A new flow that needs a backend. Words only.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    pub service: u16,
    /// Where the flow's hash leads.
    pub slot_index: u32,
    /// Its record's tag.
    pub tag: u32,
}

/// More flows than these cannot be on record; the verifier and the arithmetic below are told so.
const N_FLOWS_MASK: u64 = 2 * limits::FLOWS_MAX as u64 - 1;

/// The backend of a new flow; [`BackendId::NONE`] if nobody may have it. A turn is taken.
#[inline(always)]
pub fn answer(env: &impl Env, flow: NewFlow) -> BackendId {
    let service = env.service(flow.service);
    let choice = service.choice;
    let chosen = match choice {
        choice::ROUND_ROBIN | choice::WEIGHTED_ROUND_ROBIN => turn(env, service, env.take_turn(flow.service)),
        choice::RANDOM => turn(env, service, env.random()),
        choice::BOUNDED => within_bounds(env, service, flow),
        choice::LEAST_RESPONSE_TIME => least_busy::<true>(env, service),
        _ => least_busy::<false>(env, service),
    };
    // As while turns are written anew, or if the one who has this turn has just left.
    let is_chosen = env.backend(chosen).service == flow.service;
    if is_chosen { chosen } else { owner(env, flow.slot_index) }
}

#[inline(always)]
fn owner(env: &impl Env, slot_index: u32) -> BackendId {
    env.slot(slot_index).unwrap_or_default().current()
}

/// Who has a turn, counted over and over.
#[inline(always)]
fn turn(env: &impl Env, service: &Service, number: u32) -> BackendId {
    let number = number.checked_rem(service.n_turns).unwrap_or_default();
    owner(env, service.region.first().wrapping_add(number))
}

/// Of some turns in a row the one whose backend is least busy for its weight; of those that are equally so, the first.
#[inline(always)]
fn least_busy<const BY_TIME: bool>(env: &impl Env, service: &Service) -> BackendId {
    let (first, n_turns, now) = (service.region.first(), service.n_turns, env.now_by_call());
    let mut number = env.random().checked_rem(n_turns).unwrap_or_default();
    let mut least = Busy::MOST;
    let mut looked_at = 0;
    while looked_at < limits::CHOICES && looked_at < n_turns {
        let Some(slot) = env.slot(first.wrapping_add(number)) else { break };
        let id = slot.current();
        let (load, weight) = (env.load(id), u64::from(env.backend(id).weight));
        let n_flows = load.n_active() & N_FLOWS_MASK;
        let amount = if BY_TIME { load.response.busy(n_flows, weight, now) } else { n_flows };
        least = least.or(Busy { id, amount, weight });
        number = either(less((number + 1).into(), n_turns.into()), (number + 1).into(), 0) as u32;
        looked_at += 1;
    }
    least.id
}

/// The first of some slots in a sequence of the flow's own whose backend has less than its share of flows, or the least busy.
#[inline(always)]
fn within_bounds(env: &impl Env, service: &Service, flow: NewFlow) -> BackendId {
    let total = (n_active(env.active(flow.service)) & N_FLOWS_MASK) + 1;
    let (first, mask) = (service.region.first(), service.region.mask());
    let mut number = flow.slot_index.wrapping_sub(first);
    let mut least = Busy::MOST;
    let mut looked_at = 0;
    while looked_at < limits::CHOICES {
        let Some(slot) = env.slot(first.wrapping_add(number & mask)) else { break };
        let id = slot.current();
        let weight = u64::from(env.backend(id).weight);
        let amount = (env.load(id).n_active() & N_FLOWS_MASK) + 1;
        let share = (weight * u64::from(service.bound) * total + (1 << BOUND_SHIFT) - 1) >> BOUND_SHIFT;
        if amount <= share {
            return id;
        }
        least = least.or(Busy { id, amount, weight });
        // Any odd step leads through all slots.
        number = number.wrapping_add(flow.tag | 1);
        looked_at += 1;
    }
    least.id
}

/// How busy a backend is.
#[derive(Clone, Copy)]
struct Busy {
    id: BackendId,
    /// At most 2^47: it can be multiplied by a weight.
    amount: u64,
    weight: u64,
}

impl Busy {
    /// Nobody, and busier than anybody.
    const MOST: Self = Self { id: BackendId::NONE, amount: 1 << 47, weight: 0 };

    /// The other, if that is less busy for its weight. Neither is divided, and there is no branch, for the verifier's sake: one in
    /// eight rounds makes 256 ways.
    #[inline(always)]
    fn or(self, other: Self) -> Self {
        let is_other = less(other.amount * self.weight, self.amount * other.weight);
        let chosen = |ours: u64, theirs: u64| either(is_other, theirs, ours);
        Self {
            id: BackendId(chosen(self.id.0.into(), other.id.0.into()) as u16),
            amount: chosen(self.amount, other.amount),
            weight: chosen(self.weight, other.weight),
        }
    }
}
