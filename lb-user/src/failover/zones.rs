//! Which part of new flows each zone takes: the balancer's own zone first, with spill-over, or a share for each.
//!
//! All in whole numbers, and shares in whole percent: nodes that see the same come to the same, a share stays where it is while little
//! changes, and tables stay small. Nothing here remembers anything, so that a share changes only when what a zone can bear does.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A zone's name.
pub type Zone = Arc<str>;

/// Something of each zone; of backends that are in none, by `None`.
pub type Zones<T> = BTreeMap<Option<Zone>, T>;

/// Parts that all new flows are divided into.
pub const WHOLE: u8 = 100;

/// What an operator wants of a service in this respect.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rules {
    pub spread: Spread,
    /// By how much more than its healthy capacity a zone can bear, in hundredths; from 100.
    pub overprovision: u16,
}

/// Who takes what while all are healthy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Spread {
    /// The balancer's own zone, all.
    Local,
    /// Each in proportion to its weight. One without takes what no other can.
    Weights(BTreeMap<Zone, u16>),
}

/// What the backends of a zone can bear together, in steps of their weights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// If all were well.
    pub whole: u64,
    /// If all were well of whom something is known.
    pub known: u64,
    /// As it is.
    pub healthy: u64,
}

impl Capacity {
    fn if_well(self) -> Self {
        Self { known: self.whole, healthy: self.whole, ..self }
    }

    /// How much of `n` it can bear, rounded down.
    fn bears(self, n: u128, overprovision: u16) -> u128 {
        let all = u128::from(self.known) * 100;
        let some = (u128::from(self.healthy) * u128::from(overprovision)).min(all);
        (n * some).checked_div(all).unwrap_or_default()
    }

    /// How much of what is known is healthy, from 0 to 1.
    pub fn healthy_part(self) -> Option<f64> {
        (self.known > 0).then(|| self.healthy.min(self.known) as f64 / self.known as f64)
    }
}

/// What a zone takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Share {
    /// Of all new flows.
    pub percent: u8,
    /// The same while all are well.
    pub usual: u8,
    pub capacity: Capacity,
}

/// How new flows are divided.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Division {
    pub zones: Zones<Share>,
    /// The balancer's own zone, where that comes first.
    pub local: Option<Zone>,
}

/// A service's new flows are divided otherwise than before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shift {
    pub before: Division,
    pub now: Division,
}

impl Division {
    /// Divides by these rules, in a zone.
    pub fn new(rules: &Rules, own: Option<&Zone>, capacities: Zones<Capacity>) -> Self {
        let local = own.filter(|_| rules.spread == Spread::Local).cloned();
        let now = divide(rules, local.as_ref(), &capacities);
        let if_well = capacities.iter().map(|(zone, capacity)| (zone.clone(), capacity.if_well())).collect();
        let usual = divide(rules, local.as_ref(), &if_well);
        let of = |shares: &Zones<u8>, zone: &Option<Zone>| shares.get(zone).copied().unwrap_or_default();
        let share = |(zone, capacity): (Option<Zone>, Capacity)| {
            let share = Share { percent: of(&now, &zone), usual: of(&usual, &zone), capacity };
            (zone, share)
        };
        Self { zones: capacities.into_iter().map(share).collect(), local }
    }

    /// The same zones, each by what it can bear: for want of room in the tables.
    pub fn coarsen(&mut self) {
        let parts: Vec<u128> =
            self.zones.values().map(|share| if share.percent > 0 { share.capacity.healthy.into() } else { 0 }).collect();
        for (share, percent) in self.zones.values_mut().zip(apportion(WHOLE, &parts)) {
            share.percent = percent;
        }
    }

    pub fn of(&self, zone: Option<&Zone>) -> Share {
        self.zones.get(&zone.cloned()).copied().unwrap_or_default()
    }

    /// Whether some zone takes anything.
    pub fn is_any(&self) -> bool {
        self.zones.values().any(|share| share.percent > 0)
    }

    /// Whether several zones do.
    pub fn is_split(&self) -> bool {
        self.zones.values().filter(|share| share.percent > 0).count() > 1
    }

    /// Percent of new flows that go elsewhere than while all are well.
    pub fn spilled(&self) -> u8 {
        let more = |share: &Share| share.percent.saturating_sub(share.usual);
        self.zones.values().map(more).sum()
    }

    pub fn has_shares_of(&self, other: &Self) -> bool {
        let shares =
            |division: &Self| -> Vec<_> { division.zones.iter().map(|(zone, share)| (zone.clone(), share.percent)).collect() };
        shares(self) == shares(other)
    }

    /// What each zone takes, in words.
    pub fn in_words(&self) -> String {
        let taking = self.zones.iter().filter(|(_, share)| share.percent > 0);
        let shares: Vec<String> = taking.map(|(zone, share)| format!("{} {}%", name(zone.as_ref()), share.percent)).collect();
        if shares.is_empty() { "nobody".to_owned() } else { shares.join(", ") }
    }

    /// How much of each zone's capacity is healthy, in words.
    pub fn cause(&self) -> String {
        let of = |(zone, share): (&Option<Zone>, &Share)| {
            let local = if zone.is_some() && *zone == self.local { " (local)" } else { "" };
            match share.capacity.healthy_part() {
                Some(part) => format!("{}{local}: {:.0}% healthy", name(zone.as_ref()), part * 100.0),
                None => format!("{}{local}: not known yet", name(zone.as_ref())),
            }
        };
        let zones: Vec<String> = self.zones.iter().map(of).collect();
        zones.join(", ")
    }
}

/// A zone, in words.
pub fn name(zone: Option<&Zone>) -> String {
    zone.map_or_else(|| "no zone".to_owned(), |zone| format!("zone {zone}"))
}

/// The share of each zone in percent. They add up to [`WHOLE`], or to nothing where nobody can bear anything.
fn divide(rules: &Rules, local: Option<&Zone>, capacities: &Zones<Capacity>) -> Zones<u8> {
    let healthy = |capacity: &Capacity| u128::from(capacity.healthy);
    let shares =
        |parts: Vec<u128>, total: u8| -> Zones<u8> { capacities.keys().cloned().zip(apportion(total, &parts)).collect() };
    if let Spread::Weights(weights) = &rules.spread {
        // Far finer than percent.
        const FINE: u128 = 1 << 32;
        let weight = |zone: &Option<Zone>| zone.as_ref().and_then(|zone| weights.get(zone)).copied().unwrap_or_default();
        let part =
            |(zone, capacity): (&Option<Zone>, &Capacity)| capacity.bears(FINE * u128::from(weight(zone)), rules.overprovision);
        let parts: Vec<u128> = capacities.iter().map(part).collect();
        // Those without a weight are the last resort.
        let parts = if parts.iter().all(|&part| part == 0) { capacities.values().map(healthy).collect() } else { parts };
        return shares(parts, WHOLE);
    }
    let local = local.cloned();
    let is_local = |zone: &Option<Zone>| local.is_some() && *zone == local;
    let own = capacities.iter().find(|(zone, _)| is_local(zone)).map(|(_, capacity)| *capacity).unwrap_or_default();
    let others: Vec<u128> =
        capacities.iter().map(|(zone, capacity)| if is_local(zone) { 0 } else { healthy(capacity) }).collect();
    let is_alone = others.iter().all(|&part| part == 0);
    let stays = match own.healthy {
        0 => 0,
        _ if is_alone => WHOLE,
        // To the nearest percent.
        _ => u8::try_from(own.bears(2 * u128::from(WHOLE), rules.overprovision).div_ceil(2)).unwrap_or(WHOLE),
    };
    let mut shares = shares(others, WHOLE - stays);
    if let Some(share) = shares.get_mut(&local).filter(|_| local.is_some()) {
        *share = stays;
    }
    shares
}

/// `total` in whole numbers that stand to each other as `parts` do, as far as they can (Hamilton's method: each its quota rounded down,
/// and what is left to those with the greatest remainders, the first of equals first).
fn apportion(total: u8, parts: &[u128]) -> Vec<u8> {
    let sum: u128 = parts.iter().sum();
    if sum == 0 {
        return vec![0; parts.len()];
    }
    let quota = |part: &u128| u128::from(total) * part;
    let mut shares: Vec<u8> = parts.iter().map(|part| u8::try_from(quota(part) / sum).unwrap_or(total)).collect();
    let left = usize::from(total - shares.iter().sum::<u8>());
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|&index| Reverse(quota(&parts[index]) % sum));
    for &index in order.iter().take(left) {
        shares[index] += 1;
    }
    shares
}

/// The least weights that stand to each other as these parts, each to within half a percent: small ones make short rounds of turns.
/// Where some part is a great many times another, the least ones are rounded more coarsely.
pub fn weights(parts: &[u128]) -> Vec<u16> {
    /// With so many for the least, rounding is never more than half a percent.
    const STEPS_MAX: u128 = 100;
    const GREATEST: u128 = u16::MAX as u128;
    let positive = || parts.iter().copied().filter(|&part| part > 0);
    let (Some(least), Some(greatest)) = (positive().min(), positive().max()) else { return vec![0; parts.len()] };
    let rounded = |part: u128, n: u128, whole: u128| (part * n * 2 + whole) / (whole * 2);
    let fits = |n: &u128| {
        let is_near = |part: u128| (rounded(part, *n, least) * least).abs_diff(part * n) * 200 <= part * n;
        greatest * n <= GREATEST * least && positive().all(is_near)
    };
    let (n, whole) = (1..=STEPS_MAX).find(fits).map_or((GREATEST, greatest), |n| (n, least));
    let weight = |&part: &u128| if part == 0 { 0 } else { u16::try_from(rounded(part, n, whole)).unwrap_or(u16::MAX).max(1) };
    parts.iter().map(weight).collect()
}

#[cfg(test)]
mod tests;
