//! Which of a service's backends take new flows, and with which weight: priorities, failback, a minimum, panic, the sorry backend,
//! slow start, zones, and what health makes of a weight.
//!
//! One pure step between [`assemble`](crate::daemon::assemble), which says what each backend could do, and
//! [`compile`]: who is not to have new flows gets no weight there, and keeps the flows that it has. What was decided
//! before is a [`Standing`], and time is passed in.

mod choice;
mod spread;
mod warmth;
mod zones;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use serde::{Serialize, Serializer};
use tokio::time::Instant;

pub use choice::Choice;
pub use zones::{Division, Rules as ZoneRules, Shift, Spread, Zone};

use crate::compile;
use crate::config::{self, Config};
use crate::daemon::{Findings, refresh, written};
use crate::desired::{Backend, Desired, Service, ServiceName};
use crate::health::{Condition, Parts, State};
use crate::runtime::Admin;
use choice::{Health, Member};
use warmth::{FULL, Warmth};

/// Which backends come before which.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tier {
    /// The lesser number first.
    Priority(u8),
    /// The last resort, after all others.
    Sorry,
}

impl Default for Tier {
    fn default() -> Self {
        Self::Priority(0)
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Priority(priority) => write!(f, "priority {priority}"),
            Self::Sorry => f.write_str("sorry"),
        }
    }
}

/// A number, or `"sorry"`.
impl Serialize for Tier {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Priority(priority) => serializer.serialize_u8(*priority),
            Self::Sorry => serializer.serialize_str("sorry"),
        }
    }
}

/// What brings flows back to a tier that is healthy again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Failback {
    /// Its health.
    #[default]
    Auto,
    /// An operator, or the end of the tier that took over.
    Manual,
}

/// How many of a tier's backends must be healthy for it to do without the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Minimum {
    Count(u16),
    /// Of all backends of the tier.
    Percent(u8),
}

/// What an operator wants of a service in this respect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    pub failback: Failback,
    pub minimum: Option<Minimum>,
    /// With fewer healthy backends, in percent of all, all are taken for healthy; 0 is never.
    pub panic_percent: u8,
    /// How long a backend that comes up takes to its full weight.
    pub slow_start: Option<Duration>,
}

/// What was decided about a service, which the next decision follows from.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    pub choice: Choice,
    pub backends: BTreeMap<SocketAddr, Place>,
    /// What each zone takes, of a service that goes by zones.
    pub division: Option<Division>,
    warmth: Warmth,
    /// Something has been heard of all backends at some time, or an earlier daemon had.
    is_known: bool,
    /// Backends that an earlier daemon's program did not serve: out, until something is heard of them.
    presumed_out: BTreeSet<SocketAddr>,
    /// There is more to decide than what health says of weights.
    is_ruled: bool,
    /// There is no room for parts of weights.
    is_coarse: bool,
}

/// What was decided about a backend.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Place {
    pub tier: Tier,
    pub zone: Option<Zone>,
    /// Its own, whatever of it is in force.
    pub weight: u16,
    /// Its tier takes no new flows at present, or its zone does not though it could.
    pub is_standby: bool,
    /// How much of its weight is in force, if it starts slowly: 1 to 9.
    pub tenths: Option<u8>,
    /// How much of its weight is in force for all reasons together, in [`Parts::STEPS`], if that is not all of it.
    pub steps: Option<u16>,
}

impl Place {
    /// Whether its zone matters: its tier takes new flows, and it is no last resort.
    fn is_in_zones(&self) -> bool {
        !self.is_standby && self.tier != Tier::Sorry
    }

    fn steps_in_force(&self) -> u16 {
        self.steps.unwrap_or(Parts::STEPS)
    }
}

/// A service decides otherwise than before.
#[derive(Debug)]
pub struct Turn {
    pub service: ServiceName,
    pub before: Choice,
    pub now: Choice,
    /// The priority that flows stay with until somebody brings them back.
    pub held: Option<u8>,
    /// Zones take other shares.
    pub shift: Option<Shift>,
}

/// All services' standings, but of those where there is nothing to decide.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    services: BTreeMap<ServiceName, Standing>,
    /// When a backend of a service is to get more, where any starts slowly.
    steps: BTreeMap<ServiceName, Instant>,
    /// There is no room for parts of weights.
    is_coarse: bool,
}

impl Standings {
    pub fn of(&self, service: &ServiceName) -> Option<&Standing> {
        self.services.get(service)
    }

    /// What was decided about a backend, where there was anything to decide.
    pub fn place(&self, service: &ServiceName, endpoint: SocketAddr) -> Option<&Place> {
        self.of(service)?.backends.get(&endpoint)
    }

    /// A backend's own weight, whatever of it is in force in what was [settled](Self::settle).
    pub fn own_weight(&self, settled: &Desired, service: &ServiceName, endpoint: SocketAddr) -> u16 {
        let assembled = || Some(settled.services.get(service)?.backends.get(&endpoint)?.weight);
        self.place(service, endpoint).map(|place| place.weight).or_else(assembled).unwrap_or_default()
    }

    /// When a backend that starts slowly is to get more.
    pub fn next_step(&self) -> Option<Instant> {
        self.steps.values().min().copied()
    }

    /// Services of which a backend is to get more by now.
    pub fn due(&self, now: Instant) -> impl Iterator<Item = &ServiceName> {
        self.steps.iter().filter(move |&(_, &at)| at <= now).map(|(name, _)| name)
    }

    /// The standing of a service with rules of its own.
    pub fn ruled(&self, service: &ServiceName) -> Option<&Standing> {
        self.of(service).filter(|standing| standing.is_ruled)
    }

    /// Gives all backends all of their weight, until parts are allowed again. Whether that changes anything.
    pub fn end_parts(&mut self) -> bool {
        let is_split = |standing: &Standing| standing.division.as_ref().is_some_and(Division::is_split);
        let is_partial =
            |standing: &Standing| is_split(standing) || standing.backends.values().any(|place| place.steps.is_some());
        let changes = self.services.values().any(is_partial);
        self.services.values_mut().for_each(|standing| standing.warmth.end());
        let changes = changes && !self.is_coarse;
        self.is_coarse |= changes;
        changes
    }

    /// There may be room for parts of weights: the configuration is another.
    pub fn allow_parts(&mut self) {
        self.is_coarse = false;
    }

    /// Decides who takes new flows, and leaves the others of `desired` without weight. Yields what was decided otherwise than before.
    pub fn settle(&mut self, config: &Config, desired: &mut Desired, findings: &Findings, now: Instant) -> Vec<Turn> {
        self.services.retain(|name, _| desired.services.contains_key(name));
        self.steps.retain(|name, _| desired.services.contains_key(name));
        let mut turns = Vec::new();
        // Most backends are but up or down, and are not asked about one by one.
        let of_note = findings.health.iter().filter(|(_, condition)| !condition.is_plain()).map(|(key, _)| key);
        let is_there = |(name, endpoint): &&(ServiceName, SocketAddr)| {
            desired.services.get(name).is_some_and(|service| service.backends.contains_key(endpoint))
        };
        let of_note: BTreeSet<&ServiceName> = of_note.filter(is_there).map(|(name, _)| name).collect();
        for rules in &config.services {
            let name = &rules.name;
            if !has_say(rules) && !of_note.contains(name) {
                self.forget(name);
                continue;
            }
            let Some(mut service) = desired.services.get(name).cloned() else { continue };
            turns.extend(self.decide(config, rules, &mut service, desired, findings, now));
            desired.services.insert(name.clone(), service);
        }
        turns
    }

    /// The same for one service of `settled`, where nothing has changed since but what checks say, and the time.
    pub fn settle_one(
        &mut self,
        config: &Config,
        rules: &config::Service,
        settled: &Desired,
        findings: &Findings,
        now: Instant,
    ) -> Option<(Service, Option<Turn>)> {
        let name = &rules.name;
        let mut service = settled.services.get(name)?.clone();
        let mut is_of_note = has_say(rules);
        for (&endpoint, backend) in &mut service.backends {
            // What it was before anything was decided.
            if let Some(place) = self.place(name, endpoint) {
                backend.weight = place.weight;
            }
            refresh(findings, name, endpoint, backend);
            is_of_note |= !findings.condition(&(name.clone(), endpoint)).is_plain();
        }
        if !is_of_note {
            self.forget(name);
            return Some((service, None));
        }
        let turn = self.decide(config, rules, &mut service, settled, findings, now);
        Some((service, turn))
    }

    fn decide(
        &mut self,
        config: &Config,
        rules: &config::Service,
        service: &mut Service,
        desired: &Desired,
        findings: &Findings,
        now: Instant,
    ) -> Option<Turn> {
        let name = &rules.name;
        let mut standing = self.services.remove(name).unwrap_or_else(|| begin(rules, service, findings));
        (standing.is_ruled, standing.is_coarse) = (has_say(rules), self.is_coarse);
        let asked = Asked { rules, own_zone: config.node.zone.as_ref(), held: findings.overrides.held(name) };
        let turn = standing.settle(asked, service, desired, findings, now);
        match rules.failover.slow_start.and_then(|slow_start| standing.warmth.next_step(slow_start, now)) {
            Some(at) => drop(self.steps.insert(name.clone(), at)),
            None => drop(self.steps.remove(name)),
        }
        self.services.insert(name.clone(), standing);
        turn
    }

    /// There is nothing to decide about a service.
    fn forget(&mut self, name: &ServiceName) {
        self.services.remove(name);
        self.steps.remove(name);
    }
}

/// Whether there is anything to decide.
pub fn has_say(service: &config::Service) -> bool {
    service.failover != Rules::default() || service.zones.is_some() || service.tiers().any(|tier| tier != Tier::default())
}

/// What an earlier daemon had decided, as far as that can be told from whom its program served.
fn begin(rules: &config::Service, service: &Service, findings: &Findings) -> Standing {
    let is_adopted = |endpoint: &SocketAddr| findings.adopted_alive.contains(&(rules.name.clone(), *endpoint));
    let written = written(rules, findings);
    let tier = |endpoint: &SocketAddr| written.get(endpoint).map(|backend| backend.tier).unwrap_or_default();
    let (adopted, others): (Vec<SocketAddr>, Vec<SocketAddr>) = service.backends.keys().copied().partition(is_adopted);
    let first = adopted.iter().map(tier).min();
    let choice = Choice { first, tiers: first.into_iter().collect(), ..Choice::default() };
    let presumed_out = if adopted.is_empty() { BTreeSet::new() } else { others.into_iter().collect() };
    Standing { choice, is_known: !adopted.is_empty(), presumed_out, ..Standing::default() }
}

/// What is asked for of a service.
#[derive(Clone, Copy)]
struct Asked<'c> {
    rules: &'c config::Service,
    own_zone: Option<&'c Zone>,
    /// The priority that flows stay with until somebody brings them back.
    held: Option<u8>,
}

impl Standing {
    fn settle(
        &mut self,
        asked: Asked<'_>,
        service: &mut Service,
        desired: &Desired,
        findings: &Findings,
        now: Instant,
    ) -> Option<Turn> {
        let Asked { rules, held, .. } = asked;
        let name = &rules.name;
        let written = written(rules, findings);
        let written = |endpoint: &SocketAddr| written.get(endpoint);
        let condition = |endpoint: SocketAddr| findings.condition(&(name.clone(), endpoint));
        let members: BTreeMap<SocketAddr, Member> = service
            .backends
            .iter()
            .map(|(&endpoint, backend)| {
                let set = findings.overrides.backend(name, endpoint);
                let is_disabled = set.and_then(|set| set.admin()) == Some(Admin::Disable);
                let is_out = is_disabled || condition(endpoint).state.is_meant();
                let is_distrusted = condition(endpoint).state.is_distrusted();
                let tier = written(&endpoint).map(|backend| backend.tier).unwrap_or_default();
                (endpoint, member(tier, backend, is_out, is_distrusted, desired, service))
            })
            .collect();
        let all: Vec<Member> = members.values().copied().collect();
        let choice = choice::choose(&rules.failover, &all, &self.choice, held);
        let held_now = choice.held(&rules.failover, &all, held);
        let seen = service.backends.iter().map(|(&endpoint, backend)| {
            (endpoint, backend.alive && !condition(endpoint).state.is_distrusted(), backend.is_undecided)
        });
        self.warmth.observe(seen, rules.failover.slow_start, now);
        self.backends.clear();
        for (&endpoint, backend) in &mut service.backends {
            let member = members[&endpoint];
            let tenths = rules.failover.slow_start.map_or(FULL, |slow_start| self.warmth.tenths(endpoint, slow_start, now));
            let is_standby = !choice.tiers.contains(&member.tier);
            let Condition { state, parts } = condition(endpoint);
            let tenths = Some(tenths).filter(|&tenths| tenths < FULL && !is_standby && backend.weight > 0);
            let steps = self.steps(parts, tenths);
            let zone = written(&endpoint).and_then(|backend| backend.zone.clone());
            self.backends.insert(endpoint, Place { tier: member.tier, zone, weight: backend.weight, is_standby, tenths, steps });
            if choice.panics && member.is_wanted && member.tier != Tier::Sorry {
                (backend.alive, backend.is_undecided) = (true, false);
            }
            let is_distrusted = state.is_distrusted() && !choice.panics;
            if is_standby || state == State::Drain || is_distrusted {
                backend.weight = 0;
            }
        }
        let own_weight = |endpoint: &SocketAddr| written(endpoint).map_or(0, |backend| backend.weight);
        let shift = self.divide(asked, service, &members, own_weight, choice.panics);
        if self.division.as_ref().is_some_and(Division::is_split) {
            self.weigh_by_zone(service);
        } else {
            self.weigh(service);
        }
        let before = std::mem::replace(&mut self.choice, choice.clone());
        let is_other = (&before.tiers, before.panics) != (&choice.tiers, choice.panics) || held_now != held;
        (is_other || shift.is_some()).then(|| Turn { service: name.clone(), before, now: choice, held: held_now, shift })
    }

    /// How much of a backend's weight is in force, if not all of it.
    fn steps(&self, parts: Parts, tenths: Option<u8>) -> Option<u16> {
        if self.is_coarse {
            return None;
        }
        let steps = u32::from(parts.steps()) * u32::from(tenths.unwrap_or(FULL)) / u32::from(FULL);
        let steps = u16::try_from(steps).unwrap_or(u16::MAX).max(1);
        (steps != Parts::STEPS).then_some(steps)
    }

    /// Gives weights the parts that are in force. While there is one, all weights are scaled, or parts of a weight of 1 could not be
    /// told apart; else they are as they were written.
    fn weigh(&self, service: &mut Service) {
        let steps = |endpoint: &SocketAddr| self.backends.get(endpoint).map_or(Parts::STEPS, Place::steps_in_force);
        let weighed = |(endpoint, backend): (&SocketAddr, &Backend)| u32::from(backend.weight) * u32::from(steps(endpoint));
        if self.backends.values().all(|place| place.steps.is_none()) {
            return;
        }
        let weights: Vec<u32> = service.backends.iter().map(weighed).collect();
        // No greater than they must be: where all have the same part, the weights are those that were written, or less.
        let divisor = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let greatest = weights.iter().copied().max().unwrap_or_default() / divisor;
        for (backend, weight) in service.backends.values_mut().zip(weights).filter(|(backend, _)| backend.weight > 0) {
            let weight = u64::from(weight / divisor);
            let fitting = if greatest > u16::MAX.into() { weight * u64::from(u16::MAX) / u64::from(greatest) } else { weight };
            backend.weight = u16::try_from(fitting).unwrap_or(u16::MAX).max(1);
        }
    }
}

fn greatest_common_divisor(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

fn member(tier: Tier, backend: &Backend, is_out: bool, is_distrusted: bool, desired: &Desired, service: &Service) -> Member {
    let is_wanted = backend.weight > 0 && !is_out;
    let if_alive = Backend { weight: 1, alive: true, ..backend.clone() };
    let is_reachable = compile::serves(desired, service, &if_alive);
    let health = match () {
        () if backend.alive && is_reachable && !is_distrusted => Health::Serves,
        () if backend.is_undecided => Health::Undecided,
        () => Health::Out,
    };
    Member { tier, health, is_wanted, is_reachable }
}

/// The tiers in a set, in words.
pub fn in_words(tiers: &BTreeSet<Tier>) -> String {
    let tiers: Vec<String> = tiers.iter().map(ToString::to_string).collect();
    if tiers.is_empty() { "nobody".to_owned() } else { tiers.join(" and ") }
}

#[cfg(test)]
mod tests;
