//! The control loop's state: takes in findings, keeps the maps equal to what should hold. The one writer of the maps.

mod attendance;
mod explain;
mod flows;
mod record;
mod room;
mod runtime;
mod sessions;
mod watched;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use lb_common::BackendId;
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::assemble::{BackendKey, Findings, Refused, addresses, assemble, behind_gateways, refused, sources, written};
use super::followers::Followers;
use super::ledger::Ledger;
use super::{host, report};
use crate::compile::{self, CompileError, Layout, Region};
use crate::config::{self, Config};
use crate::desired::{Backend, Desired, Forward, Service, ServiceName};
use crate::discovery::{self, What};
use crate::failover::{Place, Standing, Standings, Turn};
use crate::health::{self, Condition, State};
use crate::journal::{Causes, Change, Journal, Reader};
use crate::maps::{KernelMaps, MapError, Seen};
use crate::nexthop::{Changes, RedirectMode, Unresolved, Way};
use crate::runtime::unix_ms;
use crate::status::{BackendView, FailoverStatus, Interface, LeavingView, ServiceView, Snapshot, ZonesStatus};
use crate::tables::{Plan, RegionSlots, Tables, Write, diff, diff_in_doubt};
pub(crate) use explain::interface_name;
use watched::Watched;

/// How long ids and regions rest: far longer than any packet is in the program's hands.
pub const REST: Duration = Duration::from_secs(1);

/// How often slots that are not at rest are looked at: the packet path's clock goes no finer.
const SETTLE: Duration = Duration::from_secs(1);

/// When slots are looked at again whose backend may never have got a packet.
const PROVE: Duration = Duration::from_millis(20);

/// Far longer than a packet is in the program's hands: those that read the slots before have been counted then.
const IN_HAND: Duration = Duration::from_millis(1);

/// How often, at most, the flow table is gone through: a million entries take about a millisecond.
const SWEEP: Duration = Duration::from_secs(5);

/// How long after a failed write it is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// Why the maps were not brought to what should hold.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error(transparent)]
    Compile(#[from] CompileError),
    #[error("writing to the maps")]
    Map(#[from] MapError),
}

pub struct Control {
    config: Config,
    /// What the file said that this configuration is.
    config_text: Arc<str>,
    findings: Watched,
    followers: Followers,
    maps: KernelMaps,
    desired: Desired,
    standings: Standings,
    /// Failover has set something, which is to be kept as what somebody sets at runtime.
    has_held: bool,
    layout: Layout,
    /// What the maps hold, if nothing is in doubt.
    tables: Tables,
    /// What else single elements may be as in, after writes that failed.
    doubted: Vec<Tables>,
    /// Which interfaces take redirected frames, as long as it is not written.
    unwritten_links: Option<BTreeMap<u32, bool>>,
    retry_at: Option<Instant>,
    retiring: Option<Retiring>,
    /// When to look again at slots that are not at rest and backends that leave.
    settle_at: Option<Instant>,
    /// When slots were written whose backend may never have got a packet.
    unproven_since: Option<Instant>,
    counted: runtime::Counted,
    ledger: Ledger,
    journal: Journal,
    /// What has been taken in and is not in the tables yet.
    causes: Causes,
    interfaces: Vec<Interface>,
    /// Interfaces that the program should run on and does not, with the reason.
    lost: BTreeMap<String, String>,
    host: host::Watch,
    /// Backends that DSR cannot reach, as it was said.
    behind_gateways: BTreeMap<BackendKey, IpAddr>,
    refused: RefusedHosts,
    held_back: room::HeldBack,
    flows: flows::Flows,
    sessions: sessions::Counted,
    /// When the packet path is to be told next that somebody is there.
    attend_at: Instant,
    /// Checks and watches are as the configuration wants them.
    is_followed: bool,
    /// Whether the tables were written at least once.
    is_settled: bool,
}

/// What to clear once packets on their way have passed.
struct Retiring {
    due: Instant,
    writes: Vec<Write>,
    names: Names,
}

/// What was discovered and cannot be a backend, as it was said.
#[derive(Default)]
struct RefusedHosts {
    hosts: Refused,
    /// Neither the configuration nor what was discovered has changed since.
    is_known: bool,
}

impl RefusedHosts {
    fn look(&mut self, config: &Config, findings: &Findings) {
        if !self.is_known {
            let now = refused(config, findings);
            report::refused(&now, &self.hosts);
            *self = Self { hosts: now, is_known: true };
        }
    }

    fn count(&self, service: &ServiceName, source: discovery::Kind) -> usize {
        self.hosts.get(&(service.clone(), source)).map_or(0, BTreeMap::len)
    }
}

/// What a daemon starts its control loop from.
pub struct Start {
    pub config: Config,
    pub config_text: Arc<str>,
    pub findings: Findings,
    pub followers: Followers,
    pub maps: KernelMaps,
    pub layout: Layout,
    pub tables: Tables,
    pub ledger: Ledger,
}

impl Control {
    pub fn new(start: Start) -> Self {
        let Start { config, config_text, findings, followers, maps, layout, tables, ledger } = start;
        let held_back = room::HeldBack::new(findings.discovered.clone());
        let (mut journal, mut causes) = (Journal::default(), Causes::default());
        journal.note(Change::Started { version: env!("CARGO_PKG_VERSION") });
        causes.add_for_all("xlb started");
        Self {
            config,
            config_text,
            findings: Watched::new(findings),
            followers,
            maps,
            desired: Desired::default(),
            standings: Standings::default(),
            has_held: false,
            layout,
            tables,
            doubted: Vec::new(),
            unwritten_links: None,
            retry_at: None,
            retiring: None,
            settle_at: None,
            unproven_since: None,
            counted: runtime::Counted::new(),
            sessions: sessions::Counted::default(),
            ledger,
            journal,
            causes,
            interfaces: Vec::new(),
            lost: BTreeMap::new(),
            host: host::Watch::default(),
            behind_gateways: BTreeMap::new(),
            refused: RefusedHosts::default(),
            held_back,
            flows: flows::Flows::default(),
            attend_at: Instant::now(),
            is_followed: false,
            is_settled: false,
        }
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What happened, for who tells of it.
    pub fn journal(&self) -> Reader {
        self.journal.reader()
    }

    /// Has the journal tell what was noted since the last time.
    pub fn publish(&mut self) {
        self.journal.publish();
    }

    /// Takes in what a checker says. Yields when that was observed, if it is a reason to change the maps.
    pub fn note_health(&mut self, news: health::News) -> Option<Instant> {
        let key = news.key();
        if !self.followers.checks(&key) {
            debug!(service = %key.0, backend = %key.1, "a late word on a backend that is no more");
            return None;
        }
        let (service, backend) = key.clone();
        let transition = match news {
            health::News::Transition(transition) => transition,
            health::News::Suspected { cause, .. } => {
                self.journal.note(Change::Suspected { service, backend, cause });
                return None;
            }
            health::News::Flapping { is_flapping, .. } => {
                self.journal.note(Change::Flapping { service, backend, flapping: is_flapping });
                return None;
            }
        };
        report::transition(&transition);
        record::transition(&transition, self.findings.condition(&key), &mut self.journal, &mut self.causes);
        if transition.from != transition.to {
            self.ledger.note_transition(&transition.service, transition.to);
        }
        self.findings.note_health(key, Condition { state: transition.to, parts: transition.parts });
        Some(transition.observed)
    }

    pub fn note_discovery(&mut self, news: discovery::News) {
        if !self.followers.watches(&news.service, news.source) {
            return;
        }
        record::discovered(&news, &mut self.journal, &mut self.causes);
        let discovery::News { service, source, what: What::Backends(backends) } = news else { return };
        let findings = self.findings.change();
        self.held_back.release(&service, &mut findings.discovered);
        let by_source = findings.discovered.entry(service.clone()).or_default();
        report::discovered(&service, source, &backends, by_source.get(&source));
        by_source.insert(source, backends);
        self.refused.is_known = false;
    }

    pub fn note_next_hops(&mut self, mut changes: Changes) {
        record::next_hops(&changes, &mut self.causes);
        self.unwritten_links = changes.redirects.take().or(self.unwritten_links.take());
        report::next_hops(&changes, &self.findings);
        self.findings.change().note_next_hops(changes);
    }

    /// Has the packet path look for packets to trace, or not even that.
    pub fn set_tracing(&mut self, is_on: bool) {
        self.maps.set_tracing(is_on);
    }

    /// Interfaces that the program now runs on, and what that means for its redirects.
    pub fn set_interfaces(&mut self, interfaces: Vec<Interface>, mode: RedirectMode) {
        self.followers.set_redirect_mode(mode);
        self.findings.change().ingress = interfaces.iter().map(|interface| interface.ifindex).collect();
        record::interfaces(&self.interfaces, &interfaces, &mut self.journal, &mut self.causes);
        self.interfaces = interfaces;
    }

    /// Interfaces that the program should run on and does not, with the reason.
    pub fn note_lost(&mut self, lost: BTreeMap<String, String>) {
        self.lost = lost;
    }

    /// A reload is over; if it was refused, for this reason.
    pub fn note_reload(&mut self, refused: Option<String>) {
        let sums = &mut self.ledger.sums;
        if refused.is_none() {
            sums.n_reloads += 1
        } else {
            sums.n_reloads_refused += 1
        }
        sums.last_reload_refused = refused.map(Into::into);
        let cause = sums.last_reload_refused.clone();
        self.journal.note_first(Change::Reload { accepted: cause.is_none(), cause });
    }

    /// Another configuration, if the maps can hold it. Yields what was set at runtime and no longer means anything, in words.
    ///
    /// # Errors
    /// If they cannot, or the kernel refuses: the earlier one holds then, and what was written of this one is undone by the next
    /// [`reconcile`](Self::reconcile).
    pub fn reload(&mut self, config: Config, text: Arc<str>) -> Result<Vec<String>, ControlError> {
        let (before, forgotten) = self.exchange(config, text);
        self.causes.add_for_all("reload");
        self.standings.allow_parts();
        self.refused.is_known = false;
        let fits = compile::compile(&assemble(&self.config, &self.findings), &self.layout, &self.tables, &self.seen());
        let done = fits.map_err(ControlError::from).and_then(|_| self.reconcile(None));
        match done {
            Ok(()) => {
                record::overrides(&before.overrides, &self.findings.overrides, &mut self.journal, &mut self.causes);
                Ok(forgotten)
            }
            Err(error) => {
                self.give_back(before);
                Err(error)
            }
        }
    }

    fn seen(&self) -> Seen<'_> {
        Seen { maps: &self.maps, counters: self.ledger.counters() }
    }

    /// Brings checks, watches, next hops and maps to what should hold now. `since` is when the reason for it was observed.
    ///
    /// # Errors
    /// If the maps cannot hold it or the kernel refuses; the next call tries again, and [`next_due`](Self::next_due) says when.
    pub fn reconcile(&mut self, since: Option<Instant>) -> Result<(), ControlError> {
        let done = self.write_links().and_then(|()| self.try_reconcile(since));
        if self.ledger.note_outcome(done.as_ref().err()) {
            self.journal.note(Change::Tables { failing: self.ledger.sums.failing.clone() });
        }
        // Whatever the reason: what is due waits for it, or the loop would do nothing but fail.
        let is_half_done = done.is_err() || !self.doubted.is_empty() || self.unwritten_links.is_some();
        self.retry_at = is_half_done.then(|| Instant::now() + RETRY);
        done
    }

    fn write_links(&mut self) -> Result<(), ControlError> {
        if let Some(links) = &self.unwritten_links {
            self.maps.set_links(links)?;
            self.unwritten_links = None;
        }
        Ok(())
    }

    fn try_reconcile(&mut self, since: Option<Instant>) -> Result<(), ControlError> {
        if self.try_amend(since)? {
            return Ok(());
        }
        self.held_back.release_due(&mut self.findings.change().discovered, Instant::now());
        let mut desired = assemble(&self.config, &self.findings);
        self.settle(&mut desired);
        self.refused.look(&self.config, &self.findings);
        let behind_gateways = behind_gateways(&desired, &self.findings);
        report::behind_gateways(&behind_gateways, &self.behind_gateways);
        self.behind_gateways = behind_gateways;
        let is_time = self.settle_at.is_some_and(|due| due <= Instant::now());
        if is_time {
            self.count_flows();
        }
        let is_other = desired != self.desired || !self.is_followed;
        if is_other || is_time || !self.is_settled || !self.doubted.is_empty() {
            let done = self.bring_about(&desired, since);
            if let Err(ControlError::Compile(error)) = &done
                && self.held_back.hold(error, &mut self.findings.change().discovered, Instant::now())
            {
                self.refused.is_known = false;
                return self.try_reconcile(since);
            }
            if let Err(ControlError::Compile(error)) = &done
                && self.standings.end_parts()
            {
                // A fraction of a weight takes a larger region, and going without is better than not to serve.
                warn!(%error, "backends get all of their weight, also those that start slowly or whose agents want less for them, and in zones that help out");
                return self.try_reconcile(since);
            }
            done?;
            // Most changes are of health, and leave all as they were.
            if !desired.has_backends_of(&self.desired) || !self.is_followed {
                let findings = self.findings.change();
                findings.retain(&desired);
                findings.forget_sources(&self.config);
                self.followers.follow(&self.config, &desired, addresses(&desired));
                self.is_followed = true;
            }
            self.host.look(&desired, &self.interfaces);
            self.desired = desired;
            self.is_settled = true;
        }
        self.held_back.note_done(&self.config, &self.findings.discovered);
        self.note_done();
        Ok(())
    }

    /// Brings about what only concerns single services, without looking at the others: what health has changed, slow starts that go on,
    /// and slots that may have come to rest. False if there is more to it.
    ///
    /// # Errors
    /// The kernel refuses.
    fn try_amend(&mut self, since: Option<Instant>) -> Result<bool, ControlError> {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let is_whole = self.is_followed && self.is_settled && self.doubted.is_empty() && self.unwritten_links.is_none();
        if !is_whole || is_due(self.held_back.next_due()) {
            return Ok(false);
        }
        let Some(of_health) = self.findings.only_health() else { return Ok(false) };
        let is_time = is_due(self.settle_at);
        // Ids of those who left are freed where all is looked at.
        if is_time && self.layout.is_anyone_leaving() {
            return Ok(false);
        }
        let names = of_health.iter().map(|(name, _)| name).chain(self.standings.due(now)).cloned().collect();
        let Some(services) = self.settle_some(&names, now) else { return Ok(false) };
        let mut amended = services.clone();
        if is_time {
            self.count_flows();
            amended.extend(self.restless().filter(|(name, _)| !services.contains_key(name)));
        }
        self.wait_for_packets();
        let Some(change) = compile::amend(&self.desired, &amended, &self.layout, &self.tables, &self.seen()) else {
            return Ok(false);
        };
        let plan = diff(&change.before, &change.after);
        if let Err(error) = self.carry_out(&plan, &change.names) {
            let mut tables = self.tables.clone();
            tables.amend(change.after);
            self.doubted.push(tables);
            return Err(error);
        }
        self.tables.amend(change.after);
        for (name, service) in services {
            let Some(before) = self.desired.services.get(&name) else { continue };
            let of = |service| (&self.desired, service);
            record::service_state(&name, of(before), of(&service), &mut self.journal, &self.causes);
            self.desired.services.insert(name, service);
        }
        self.note_carried_out(&plan, &change.names, now, since);
        self.note_done();
        Ok(true)
    }

    /// The tables have all that was taken in.
    fn note_done(&mut self) {
        self.findings.note_done();
        self.causes.clear();
    }

    /// These services as they are to be now; `None` if there is no such one.
    fn settle_some(&mut self, names: &BTreeSet<ServiceName>, now: Instant) -> Option<BTreeMap<ServiceName, Service>> {
        let mut services = BTreeMap::new();
        for name in names {
            let rules = self.config.services.iter().find(|service| service.name == *name)?;
            let (service, turn) = self.standings.settle_one(&self.config, rules, &self.desired, &self.findings, now)?;
            services.insert(name.clone(), service);
            if let Some(turn) = turn {
                self.note_turn(&turn);
            }
        }
        Some(services)
    }

    /// Services of which something is to be looked at from time to time, as they are.
    fn restless(&self) -> impl Iterator<Item = (ServiceName, Service)> {
        let record = |name: &ServiceName| self.tables.services.get(&self.layout.find_service(name)?);
        let is_restless = move |name: &ServiceName| record(name).is_some_and(|service| self.tables.is_restless(service));
        let services = self.desired.services.iter().filter(move |(name, _)| is_restless(name));
        services.map(|(name, service)| (name.clone(), service.clone()))
    }

    /// Decides who of each service takes new flows.
    fn settle(&mut self, desired: &mut Desired) {
        for turn in self.standings.settle(&self.config, desired, &self.findings, Instant::now()) {
            self.note_turn(&turn);
        }
    }

    fn note_turn(&mut self, turn: &Turn) {
        report::failover(turn, self.findings.overrides.held(&turn.service));
        if self.standings.ruled(&turn.service).is_some() {
            record::turn(turn, &mut self.journal, &mut self.causes);
        }
        if turn.held != self.findings.overrides.held(&turn.service) {
            self.findings.change().overrides.hold(&turn.service, turn.held, unix_ms());
            self.has_held = true;
        }
    }

    /// Whether failover has set something since this was asked.
    pub fn take_held(&mut self) -> bool {
        std::mem::take(&mut self.has_held)
    }

    fn bring_about(&mut self, desired: &Desired, since: Option<Instant>) -> Result<(), ControlError> {
        let started = Instant::now();
        self.wait_for_packets();
        let (tables, layout) = compile::compile(desired, &self.layout, &self.tables, &self.seen())?;
        let befores: Vec<&Tables> = std::iter::once(&self.tables).chain(&self.doubted).collect();
        let plan = diff_in_doubt(&befores, &tables);
        let concerned = plan.backends();
        let mut names: Names = compile::names(&self.layout, &concerned);
        names.extend(compile::names(&layout, &concerned));
        // An outgrown region rests too, and leaves no record to be cleared. What a failed round has put to rest waits for this one.
        let rests_more = layout.n_resting() > if self.doubted.is_empty() { self.layout.n_resting() } else { 0 };
        self.layout = layout;
        self.ledger.sums.follow(desired.services.keys());
        // Before the packet path asks for it.
        desired.watchdog.into_iter().for_each(|watchdog| self.attend_for(watchdog));
        if let Err(error) = self.carry_out(&plan, &names) {
            // Each element is now as before or as it was to be. The next round writes what differs from either.
            if !self.doubted.contains(&tables) {
                self.doubted.push(tables);
            }
            return Err(error);
        }
        self.tables = tables;
        self.doubted.clear();
        if self.is_settled {
            let standings = &self.standings;
            let weight = |name: &ServiceName, endpoint| standings.own_weight(desired, name, endpoint);
            record::desired(&self.desired, desired, weight, &mut self.journal, &self.causes);
        }
        self.note_carried_out(&plan, &names, started, since);
        if rests_more || !plan.retire.is_empty() {
            self.retire(plan.retire, &names);
        }
        Ok(())
    }

    /// Waits until those that were in the program's hands when slots were written have been counted, if it matters who was.
    fn wait_for_packets(&self) {
        if let Some(since) = self.unproven_since {
            std::thread::sleep(IN_HAND.saturating_sub(since.elapsed()));
        }
    }

    fn carry_out(&mut self, plan: &Plan, names: &Names) -> Result<(), ControlError> {
        self.ledger.note_plan(plan, &self.tables, names);
        Ok(plan.writes.iter().try_for_each(|write| self.maps.write(write))?)
    }

    /// The tables are in the maps: when to look again, and what to say of it.
    fn note_carried_out(&mut self, plan: &Plan, names: &Names, started: Instant, since: Option<Instant>) {
        let is_restless =
            self.layout.is_anyone_leaving() || self.tables.services.values().any(|service| self.tables.is_restless(service));
        let is_unproven = self.tables.regions.values().any(RegionSlots::is_any_unproven);
        self.unproven_since = is_unproven.then(Instant::now);
        let settle = if is_unproven { PROVE } else { SETTLE };
        let is_counted = !self.counted.sweep.census.is_empty() || self.counted.is_behind();
        self.settle_at = (is_restless || is_counted).then(|| Instant::now() + settle);
        for (service, n_slots) in self.ledger.note_done(plan, names) {
            let cause = self.causes.of(&service);
            self.journal.note(Change::SlotsMoved { service, n_slots, cause });
        }
        let n_writes = plan.writes.len();
        if n_writes > 0 {
            self.ledger.note_change(since.unwrap_or(started).elapsed());
            report::change(&plan.moves, names, n_writes, started.elapsed(), since, &self.causes);
        }
    }

    fn retire(&mut self, retire: Vec<Write>, names: &Names) {
        let retiring =
            self.retiring.get_or_insert_with(|| Retiring { due: Instant::now(), writes: Vec::new(), names: Names::new() });
        retiring.due = Instant::now() + REST;
        for write in &retire {
            if let Write::Backend(id, _) = write
                && let Some(name) = names.get(id)
            {
                retiring.names.insert(*id, name.clone());
            }
        }
        retiring.writes.extend(retire);
    }

    /// When something is to be tried again, or waits to be cleared.
    pub fn next_due(&self) -> Option<Instant> {
        let retiring = self.retiring.as_ref().map(|retiring| retiring.due);
        self.retry_at
            .or([retiring, self.settle_at, self.standings.next_step(), self.held_back.next_due()].into_iter().flatten().min())
    }

    /// Clears what no packet can reach any more. While it is in doubt what they can reach, nothing.
    pub fn finish_retirement(&mut self) {
        let is_due = self.retry_at.is_none();
        let now = Instant::now();
        let Some(retiring) = self.retiring.take_if(|retiring| is_due && retiring.due <= now) else { return };
        for write in &retiring.writes {
            if self.is_in_use_again(write) {
                continue;
            }
            self.ledger.note_left(write, &retiring.names);
            if let Err(error) = self.maps.write(write) {
                error!(error = crate::error::chain(&error), "clearing a record");
            }
        }
        // Before their ids are given to others.
        self.maps.forget_sessions_of_nobody();
        self.layout.recycle();
    }

    fn is_in_use_again(&self, write: &Write) -> bool {
        match write {
            Write::Backend(id, _) => self.tables.backends.contains_key(id),
            Write::Service(id, _) => self.tables.services.contains_key(id),
            Write::Admission(scope, _) => self.tables.admission.contains_key(scope),
            _ => true,
        }
    }

    /// How things stand.
    pub fn snapshot(&self) -> Snapshot {
        let configured: BTreeMap<&ServiceName, &config::Service> =
            self.config.services.iter().map(|service| (&service.name, service)).collect();
        let view = |(name, service)| self.view(name, service, configured.get(name).copied());
        let services: Vec<ServiceView> = self.desired.services.iter().map(view).collect();
        let waits_for = if self.is_settled {
            services.iter().find_map(|service| self.waits_for(service))
        } else {
            Some("the tables".to_owned())
        };
        Snapshot {
            interfaces: self.interfaces.clone(),
            interfaces_lost: self.lost.clone(),
            services,
            sums: self.ledger.sums.clone(),
            waits_for,
            flows: self.counted.sweep.census,
            overrides: self.findings.overrides.clone(),
            state_trouble: None,
            admission: self.desired.admission.clone(),
            prefix_table_fill: self.tables.prefixes.lines.len() as f64 / f64::from(self.layout.n_prefix_lines()),
            refused_bases: self.ledger.refused_bases().clone(),
            pool: self.sessions.status(&self.config.pool, &self.maps.sessions),
        }
    }

    /// What of a service has not been heard of yet.
    fn waits_for(&self, service: &ServiceView) -> Option<String> {
        let name = &service.name;
        if let Some(source) = service.discovery.iter().find(|source| source.n_queries == 0) {
            return Some(format!("{name}: the first answer of {}", source.source));
        }
        service.backends.iter().find_map(|backend| match backend.check.state {
            State::Unknown => Some(format!("{name} {}: the end of its first check", backend.endpoint)),
            _ if self.is_pending(backend) => Some(format!("{name} {}: its neighbour's address", backend.endpoint)),
            _ => None,
        })
    }

    /// Whether a healthy backend only waits for its next hop.
    fn is_pending(&self, backend: &BackendView) -> bool {
        let answer = self.findings.answers.get(&backend.endpoint.ip());
        let is_pending = matches!(answer, None | Some(Err(Unresolved::NeighbourPending { .. })));
        backend.check.state.serves() && !backend.serves && backend.weight > 0 && is_pending
    }

    fn view(&self, name: &ServiceName, service: &Service, configured: Option<&config::Service>) -> ServiceView {
        let mut sources = configured.map(|service| sources(service, &self.findings)).unwrap_or_default();
        let mut written = configured.map(|service| written(service, &self.findings)).unwrap_or_default();
        let id = self.layout.find_service(name);
        let record = id.and_then(|id| self.tables.services.get(&id));
        let region = record.and_then(|record| self.tables.regions.get(&Region::of(record).first_line));
        ServiceView {
            id,
            name: name.clone(),
            vip: service.vip,
            port: service.port,
            protocol: service.protocol,
            algorithm: service.algorithm,
            forward: service.forward,
            counts_handshakes: service.counts_handshakes(),
            discovery: self.followers.discovery(name).into_iter().map(|status| self.with_refused(name, status)).collect(),
            backends: service
                .backends
                .iter()
                .map(|(&endpoint, backend)| BackendView {
                    sources: sources.remove(&endpoint).unwrap_or_default(),
                    zone: written.remove(&endpoint).and_then(|backend| backend.zone),
                    drain: self.drain(
                        name,
                        endpoint,
                        self.layout.find_backend(name, endpoint),
                        region.map(|region| &*region.slots),
                    ),
                    ..self.view_backend(name, service, endpoint, backend)
                })
                .collect(),
            slots: region.map(|region| region.slots.clone()),
            n_slots_restless: region.map_or(0, |region| region.restless.len()),
            leaving: self
                .layout
                .leaving(name)
                .into_iter()
                .map(|(endpoint, id, _)| LeavingView { id, endpoint, base: self.ledger.base(id) })
                .collect(),
            drop_base: id.map(|id| self.ledger.drop_base(id)).unwrap_or_default(),
            maintenance: self.findings.overrides.service(name).and_then(|set| set.maintenance.clone()),
            failover: self.standings.ruled(name).map(|standing| self.view_failover(name, standing)),
        }
    }

    fn view_failover(&self, name: &ServiceName, standing: &Standing) -> FailoverStatus {
        let first = standing.backends.values().map(|place| place.tier).min();
        let tiers = &standing.choice.tiers;
        FailoverStatus {
            serving: tiers.iter().copied().collect(),
            panic: standing.choice.panics,
            held: self.findings.overrides.service(name).and_then(|set| set.held.clone()),
            cause: standing.choice.cause.clone(),
            failed_over: !standing.choice.panics && tiers.iter().any(|tier| Some(*tier) != first),
            zones: standing.division.as_ref().map(ZonesStatus::new),
        }
    }

    /// A source's status, with what was refused of it here.
    fn with_refused(&self, service: &ServiceName, mut status: discovery::Status) -> discovery::Status {
        let n_refused = self.refused.count(service, status.source);
        status.n_refused += n_refused;
        status.n_hosts = status.n_hosts.saturating_sub(n_refused);
        self.held_back.tell(service, &mut status);
        status
    }

    fn view_backend(&self, name: &ServiceName, service: &Service, endpoint: SocketAddr, backend: &Backend) -> BackendView {
        let id = self.layout.find_backend(name, endpoint);
        let serves = compile::serves(&self.desired, service, backend);
        let place = self.standings.place(name, endpoint).cloned();
        let place = place.unwrap_or(Place { weight: backend.weight, ..Place::default() });
        let unreachable = match self.findings.answers.get(&endpoint.ip()) {
            Some(Err(reason)) if backend.next_hop.is_none() => Some(reason.to_string()),
            Some(Ok(Way { gateway: Some(gateway), .. })) if service.forward == Forward::Dsr => Some(report::behind(*gateway)),
            Some(Ok(way)) if backend.alive && way.hop.address.is_none() && service.forward.overhead(endpoint.ip()).is_some() => {
                Some(format!(
                    "this host has no address of its family (on interface {}) for the tunnel to come from",
                    way.hop.ifindex
                ))
            }
            Some(Ok(way)) if backend.alive && backend.weight > 0 && !serves => Some(format!(
                "its interface (index {}) takes no redirected frames, and {} needs that; use nat, or attach xdp there",
                way.hop.ifindex,
                if service.forward == Forward::Dsr { "dsr" } else { "a tunnel" }
            )),
            _ => None,
        };
        BackendView {
            id,
            endpoint,
            weight: place.weight,
            check: self.followers.check(&(name.clone(), endpoint)).unwrap_or_default(),
            serves,
            unreachable,
            sources: Vec::new(),
            zone: None,
            server_id: service.server_ids.as_ref().and_then(|ids| ids.of(endpoint)),
            base: id.map(|id| self.ledger.base(id)).unwrap_or_default(),
            flows: self.n_flows(id),
            set: self.findings.overrides.backend(name, endpoint).cloned().unwrap_or_default(),
            drain: None,
            place,
        }
    }

    /// What it does, in a few words.
    pub fn in_words(&self) -> String {
        let interfaces: Vec<&str> = self.interfaces.iter().map(|interface| interface.name.as_str()).collect();
        let n_services = self.desired.services.len();
        format!("{n_services} service{} on {}", if n_services == 1 { "" } else { "s" }, interfaces.join(", "))
    }

    /// A last word before the program is left to itself or taken off.
    pub fn log_end(&self) {
        let n_services = self.desired.services.len();
        info!(n_services, "ending");
        for (name, service) in self.desired.services.iter().filter(|(_, service)| service.backends.is_empty()) {
            warn!(service = %name, vip = %service.vip, "had no backend");
        }
    }
}

/// Backends by id.
pub type Names = BTreeMap<BackendId, BackendKey>;
