//! Which tiers of a service take new flows.

use std::collections::BTreeSet;

use super::{Failback, Minimum, Rules, Tier};

/// What of a backend has a part in the choice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    pub tier: Tier,
    pub health: Health,
    /// It has a weight, and nobody has taken it out.
    pub is_wanted: bool,
    /// It would serve if it were healthy.
    pub is_reachable: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    Serves,
    /// Not known yet, which does not last.
    Undecided,
    Out,
}

/// Who takes new flows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Choice {
    /// The tier that others help; the last that there was, while there is none.
    pub first: Option<Tier>,
    pub tiers: BTreeSet<Tier>,
    /// So few are healthy that all are taken for it.
    pub panics: bool,
    /// How many of each tier are healthy, in words.
    pub cause: String,
}

impl Choice {
    /// The priority that flows stay with until an operator brings them back, or it dies.
    pub fn held(&self, rules: &Rules, members: &[Member], before: Option<u8>) -> Option<u8> {
        if rules.failback == Failback::Auto {
            return None;
        }
        let lowest = members.iter().map(|member| member.tier).min();
        match self.first {
            Some(Tier::Priority(_)) if self.panics || members.is_empty() => before,
            Some(first @ Tier::Priority(priority)) if count(members, first, Health::Serves) > 0 => {
                (Some(first) > lowest).then_some(priority)
            }
            _ => before,
        }
    }
}

/// Chooses, with what was chosen `before`, and the priority that flows are `held` at.
///
/// The first tier with a healthy backend takes new flows, and if it is below its minimum, the next one too. A tier of which nothing
/// is known yet is waited for, unless another serves already: at a start, the one whose checks are the quickest would win.
pub fn choose(rules: &Rules, members: &[Member], before: &Choice, held: Option<u8>) -> Choice {
    let held = held.filter(|_| rules.failback == Failback::Manual).map(Tier::Priority);
    let tiers: BTreeSet<Tier> = members.iter().map(|member| member.tier).collect();
    let cause = in_words(&tiers, members);
    if panics(rules, members) {
        let wanted = members.iter().filter(|member| member.is_wanted && member.tier != Tier::Sorry);
        let tiers: BTreeSet<Tier> = wanted.map(|member| member.tier).collect();
        let first = before.first.or(tiers.first().copied());
        return Choice { first, tiers, panics: true, cause };
    }
    let held = held.filter(|held| tiers.contains(held));
    let order: Vec<Tier> = held.into_iter().chain(tiers.iter().copied().filter(|tier| Some(*tier) != held)).collect();
    let takes = |tier: &Tier| {
        let is_waited_for = count(members, *tier, Health::Undecided) > 0 && before.first.is_none_or(|first| first == *tier);
        count(members, *tier, Health::Serves) > 0 || is_waited_for
    };
    let Some(index) = order.iter().position(takes) else {
        // Nobody can take any: as little as possible changes.
        let kept: BTreeSet<Tier> = before.tiers.intersection(&tiers).copied().collect();
        let tiers = if kept.is_empty() { order.first().copied().into_iter().collect() } else { kept };
        return Choice { first: before.first, tiers, panics: false, cause };
    };
    let mut chosen = BTreeSet::from([order[index]]);
    let mut last = order[index];
    for &next in order[index + 1..].iter().filter(|tier| **tier != Tier::Sorry && count(members, **tier, Health::Serves) > 0) {
        // One that is not known yet may make help needless, but does not send those away who help.
        let n_undecided = if before.tiers.contains(&next) { 0 } else { count(members, last, Health::Undecided) };
        let n = count(members, last, Health::Serves) + n_undecided;
        if is_enough(rules.minimum, n, members.iter().filter(|member| member.tier == last).count()) {
            break;
        }
        chosen.insert(next);
        last = next;
    }
    Choice { first: Some(order[index]), tiers: chosen, panics: false, cause }
}

/// Backends of a tier that would take flows, and whose health is this.
fn count(members: &[Member], tier: Tier, health: Health) -> usize {
    members.iter().filter(|member| member.tier == tier && member.health == health && member.is_wanted).count()
}

/// Whether `n` healthy ones of `n_all` need no help.
fn is_enough(minimum: Option<Minimum>, n: usize, n_all: usize) -> bool {
    match minimum {
        None => true,
        Some(Minimum::Count(minimum)) => n >= usize::from(minimum),
        Some(Minimum::Percent(percent)) => n * 100 >= usize::from(percent) * n_all,
    }
}

/// Whether too few are healthy to believe it. Who was taken out by hand is not counted, nor is it ill to be unknown.
fn panics(rules: &Rules, members: &[Member]) -> bool {
    let wanted = || members.iter().filter(|member| member.is_wanted && member.tier != Tier::Sorry);
    let n_well = wanted().filter(|member| member.health != Health::Out).count();
    let is_any_reachable = wanted().any(|member| member.is_reachable);
    is_any_reachable && n_well * 100 < usize::from(rules.panic_percent) * wanted().count()
}

fn in_words(tiers: &BTreeSet<Tier>, members: &[Member]) -> String {
    let of = |tier: &Tier| {
        let n_all = members.iter().filter(|member| member.tier == *tier).count();
        format!("{tier}: {} of {n_all} healthy", count(members, *tier, Health::Serves))
    };
    let priorities: Vec<String> = tiers.iter().filter(|tier| **tier != Tier::Sorry).map(of).collect();
    priorities.join(", ")
}
