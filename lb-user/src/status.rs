//! What is going on: the control loop's view of services and backends, joined with what the packet path counts.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use lb_common::admission::{RULE_SLOTS, Rule, Suspect};
use lb_common::counters::{BackendCounters, FlowEvents, Totals};
use lb_common::handshake::{Handshakes, RANGES};
use lb_common::meter::{self, Meter};
use lb_common::verdict::{Class, Verdict};
use lb_common::{BackendId, Slot};
use serde::Serialize;

use crate::admission::{Admission, Rules};
use crate::daemon::Sums;
use crate::desired::{Algorithm, Forward, Protocol, ServiceName};
use crate::failover::{Division, Place, Tier, Zone};
use crate::maps::{Census, Counters, MapError};
use crate::runtime::{BackendOverrides, Mark, Overrides, Setting};
use crate::server_ids::ServerId;
use crate::{discovery, health};

/// The control loop's view at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub interfaces: Vec<Interface>,
    /// Those that the program should run on and does not, with the reason.
    pub interfaces_lost: BTreeMap<String, String>,
    pub services: Vec<ServiceView>,
    pub sums: Sums,
    /// What is still missing until the maps hold what should hold, and every backend has been heard of.
    pub waits_for: Option<String>,
    /// Who was in the flow table lately.
    pub flows: Census,
    pub overrides: Overrides,
    /// Why what was set at runtime would not survive a restart.
    pub state_trouble: Option<String>,
    pub admission: Arc<Admission>,
    /// The part of the table of prefixes that is in use, from 0 to 1.
    pub prefix_table_fill: f64,
    /// What a service's refusals stood at when it got its id.
    pub refused_bases: BTreeMap<u16, [u64; RULE_SLOTS]>,
    pub pool: Vec<PoolStatus>,
}

impl Snapshot {
    /// The maps hold what should hold, and every backend has been heard of.
    pub fn is_ready(&self) -> bool {
        self.waits_for.is_none()
    }
}

/// An interface that the program runs on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Interface {
    pub name: String,
    pub ifindex: u32,
    pub mode: &'static str,
}

#[derive(Clone, Debug)]
pub struct ServiceView {
    pub id: Option<u16>,
    pub name: ServiceName,
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub algorithm: Algorithm,
    pub forward: Forward,
    pub counts_handshakes: bool,
    /// Each source of its backends.
    pub discovery: Vec<discovery::Status>,
    pub backends: Vec<BackendView>,
    pub slots: Option<Arc<[Slot]>>,
    pub n_slots_restless: usize,
    /// Backends that nobody wants any more, and that may still have flows.
    pub leaving: Vec<LeavingView>,
    /// What its drops stood at when it got its id.
    pub drop_base: u64,
    pub maintenance: Option<Mark>,
    pub failover: Option<FailoverStatus>,
}

/// A backend that has left its service.
#[derive(Clone, Debug)]
pub struct LeavingView {
    pub id: BackendId,
    pub endpoint: SocketAddr,
    /// What its counters stood at when it got its id.
    pub base: BackendCounters,
}

#[derive(Clone, Debug)]
pub struct BackendView {
    pub id: Option<BackendId>,
    pub endpoint: SocketAddr,
    pub weight: u16,
    pub check: health::Status,
    /// New flows may go there.
    pub serves: bool,
    /// Why they may not, if that is not its health or its weight.
    pub unreachable: Option<String>,
    /// Who names it: `fixed` and kinds of sources.
    pub sources: Vec<&'static str>,
    pub zone: Option<Zone>,
    pub server_id: Option<ServerId>,
    /// What its counters stood at when it got its id.
    pub base: BackendCounters,
    /// Flows that may be alive and are on record, as of some seconds ago.
    pub flows: u64,
    /// What was set of it at runtime.
    pub set: BackendOverrides,
    pub drain: Option<Drain>,
    pub place: Place,
}

/// Who takes new flows while others cannot, of a service with priorities, a sorry backend, panic, slow start or zones.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FailoverStatus {
    /// The priorities that new flows go to, or `sorry`.
    pub serving: Vec<Tier>,
    /// So few backends are healthy that all are taken for it.
    pub panic: bool,
    /// The priority that took over, and that flows stay with until failback.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held: Option<Setting<u8>>,
    /// How many of each priority are healthy.
    pub cause: String,
    /// New flows go elsewhere than to the first priority alone.
    pub failed_over: bool,
    /// How new flows are divided, where that goes by zones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zones: Option<ZonesStatus>,
}

/// How new flows are divided among zones.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ZonesStatus {
    /// The balancer's own zone, where that comes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<Zone>,
    /// What goes to others than while all backends are well, from 0 to 1.
    pub spilled: f64,
    pub shares: Vec<ZoneStatus>,
    /// How much of each zone is healthy.
    pub cause: String,
}

/// One zone; all shares are from 0 to 1.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ZoneStatus {
    /// `None` are backends in no zone.
    pub zone: Option<Zone>,
    /// Of new flows.
    pub share: f64,
    /// The same while all backends are well.
    pub usual: f64,
    /// Of its backends, by weight; none as long as nothing is known of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<f64>,
}

impl ZonesStatus {
    pub fn new(division: &Division) -> Self {
        let part = |percent: u8| f64::from(percent) / 100.0;
        let shares = division.zones.iter().map(|(zone, share)| ZoneStatus {
            zone: zone.clone(),
            share: part(share.percent),
            usual: part(share.usual),
            healthy: share.capacity.healthy_part(),
        });
        Self {
            local: division.local.clone(),
            spilled: part(division.spilled()),
            shares: shares.collect(),
            cause: division.cause(),
        }
    }
}

/// How far a drain has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Drain {
    /// Flows that may be alive and were seen since the drain began; `None` before that was looked at.
    pub flows: Option<u64>,
    /// There may be flows besides that have been silent since, for less than the service's `idle`.
    pub silent_possible: bool,
}

/// What `GET /lb/status` answers.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    pub version: &'static str,
    pub ready: bool,
    /// What is still missing for that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    pub interfaces: Vec<Interface>,
    /// Those that the program should run on and does not, with the reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub interfaces_lost: BTreeMap<String, String>,
    pub services: Vec<ServiceStatus>,
    pub packets: PacketTotals,
    pub flows: FlowsStatus,
    pub runtime: RuntimeStatus,
    /// Who may send to any VIP.
    pub admission: AdmissionStatus,
    /// Sources that were refused most.
    pub suspects: Vec<SuspectStatus>,
    /// The part of the table of prefixes that is in use, from 0 to 1.
    pub prefix_table_fill: f64,
    /// Addresses that stand for clients of services that forward by full NAT.
    pub fullnat: Vec<PoolStatus>,
    /// Packets by verdict. Their sum is `packets.received`.
    pub verdicts: BTreeMap<&'static str, u64>,
}

/// An address of the pool of full NAT.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct PoolStatus {
    pub address: IpAddr,
    /// How many ports it has, each for one session.
    pub ports: u32,
    /// Of these, how many are taken.
    pub sessions: u32,
}

/// received = forwarded + passed + dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct PacketTotals {
    pub received: u64,
    pub forwarded: u64,
    pub passed: u64,
    pub dropped: u64,
}

/// The flow table, which only flows in slots that are not at rest are in.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct FlowsStatus {
    #[serde(flatten)]
    pub census: Census,
    /// Flows recorded since the maps were made.
    pub recorded: u64,
    /// Flows given up for others though they may be alive: the table is too small.
    pub evicted: u64,
    /// Flows given up for others that had shown themselves but once.
    pub evicted_unconfirmed: u64,
}

/// What was set at runtime, as a whole.
#[derive(Clone, Debug, Serialize)]
pub struct RuntimeStatus {
    /// How many single things are set.
    pub settings: usize,
    /// Of these, backends that are not there at present: removed ones, and those that DNS does not name.
    pub absent: BTreeMap<ServiceName, BTreeMap<SocketAddr, BackendOverrides>>,
    /// Why it would not survive a restart.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The rules of one scope, and what they did.
#[derive(Clone, Debug, Serialize)]
pub struct AdmissionStatus {
    /// Prefixes on the deny list.
    pub deny: usize,
    /// Prefixes on the allow list; `None` without one.
    pub allow: Option<usize>,
    /// What may come in a second, by rule, of what is limited.
    pub limits: BTreeMap<&'static str, f64>,
    /// Packets dropped, by rule.
    pub refused: BTreeMap<&'static str, u64>,
}

/// A source that was refused often.
#[derive(Clone, Debug, Serialize)]
pub struct SuspectStatus {
    pub source: IpNet,
    /// The service whose rule it was; `None` for all VIPs.
    pub service: Option<ServiceName>,
    pub rule: &'static str,
    /// At least so many of its packets were dropped for it, and more lately than of others.
    pub packets: u64,
}

/// How many of these are told.
const SUSPECTS_TOLD: usize = 10;

impl SuspectStatus {
    fn new(suspect: &Suspect, services: &[ServiceView]) -> Option<Self> {
        let bits = u128::from(suspect.high) << 64 | u128::from(suspect.low);
        let address: IpAddr =
            if suspect.is_v6() { Ipv6Addr::from_bits(bits).into() } else { Ipv4Addr::from_bits((bits >> 96) as u32).into() };
        let scope = suspect.scope();
        // One of a service that is no more says nothing.
        let service = services.iter().find(|service| service.id == Some(scope)).map(|service| service.name.clone());
        if scope != 0 && service.is_none() {
            return None;
        }
        let source = IpNet::new(address, u8::try_from(suspect.n_bits).ok()?).ok()?;
        Some(Self { source, service, rule: suspect.rule()?.label(), packets: suspect.votes })
    }
}

impl AdmissionStatus {
    fn new(rules: &Rules, counted: &[u64; RULE_SLOTS], base: &[u64; RULE_SLOTS]) -> Self {
        let lists = &rules.lists;
        const METERS: [(Meter, Rule); meter::METERS] = [
            (Meter::SourcePackets, Rule::SourcePackets),
            (Meter::SourceConnections, Rule::SourceConnections),
            (Meter::Packets, Rule::Packets),
            (Meter::Connections, Rule::Connections),
        ];
        let limit = |(meter, rule): (Meter, Rule)| {
            let limit = rules.limits.limits[meter as usize];
            let per_second = 1e9 / f64::from(1u32 << meter::TIME_SHIFT) / f64::from(limit.interval);
            (!limit.is_none()).then(|| (rule.label(), (per_second * 100.0).round() / 100.0))
        };
        let refused = |rule: &Rule| (rule.label(), counted[*rule as usize].wrapping_sub(base[*rule as usize]));
        Self {
            deny: lists.deny.len(),
            allow: lists.allow.is_given().then(|| lists.allow.len()),
            limits: METERS.into_iter().filter_map(limit).collect(),
            refused: Rule::ALL.iter().map(refused).collect(),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct ServiceStatus {
    pub name: ServiceName,
    pub vip: IpAddr,
    pub port: u16,
    pub protocol: Protocol,
    pub algorithm: Algorithm,
    pub forward: Forward,
    /// `up` if some backend serves.
    pub state: &'static str,
    pub packets: u64,
    pub bytes: u64,
    pub connections: u64,
    /// Packets that reached no backend.
    pub dropped: u64,
    /// Slots that moved, where flows are tracked until it is sure that none would change its backend.
    pub slots_not_at_rest: usize,
    /// Backends that left, and keep their flows.
    pub leaving: Vec<SocketAddr>,
    /// Nobody takes new flows, as somebody has set it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<Mark>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failover: Option<FailoverStatus>,
    /// Who may send to it, if it has rules of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub admission: Option<AdmissionStatus>,
    pub backends: Vec<BackendStatus>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub discovery: Vec<SourceStatus>,
}

#[derive(Clone, Debug, Serialize)]
pub struct BackendStatus {
    pub address: IpAddr,
    pub port: u16,
    pub weight: u16,
    /// Who names it: `fixed`, `file`, `docker`, `dns`. The first has given it its weight.
    pub sources: Vec<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<Zone>,
    /// By which QUIC connection IDs name it, in hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_id: Option<String>,
    pub state: health::State,
    /// New flows go there: it is up, has a weight, and can be reached.
    pub serving: bool,
    /// Its share of the service's slots, from 0 to 1.
    pub share: f64,
    pub packets: u64,
    pub bytes: u64,
    pub connections: u64,
    /// How they opened, where all flows are on record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub handshakes: Option<HandshakesStatus>,
    /// What the last health check found.
    pub check: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub check_ms: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unreachable: Option<String>,
    /// Flows on record that may be alive; others may be, where slots are at rest.
    pub flows: u64,
    /// What was set at runtime, over the file.
    #[serde(skip_serializing_if = "BackendOverrides::is_empty")]
    pub set: BackendOverrides,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain: Option<Drain>,
    /// Which backends it comes before and after: a number, or `sorry`.
    pub priority: Tier,
    /// New flows go to others, of a priority that is before its own, or that took over, or of zones that do without its own.
    pub standby: bool,
    /// While it starts slowly: how much of its weight is in force, from 0.1 to 0.9.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start: Option<f64>,
    /// How much of its weight is in force, where that is not all: 0.5 is half of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_part: Option<f64>,
    /// Who wants it so.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub weight_parts: BTreeMap<&'static str, f64>,
    /// Its circuit breaker, unless that is closed and was not open of late.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerStatus>,
    /// It comes and goes too often.
    pub flapping: bool,
    /// How often its flows have raised suspicion, upon which it was probed at once.
    pub suspicions: u64,
    /// From probe to probe, in seconds, while that is longer than the check's interval.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff_s: Option<f64>,
}

#[derive(Clone, Debug, Serialize)]
pub struct BreakerStatus {
    pub phase: health::Phase,
    /// Ejections in a row.
    pub ejections: u32,
}

/// How a backend's TCP connections opened, as far as it can be seen.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct HandshakesStatus {
    /// Connections begun, by a first SYN.
    pub opened: u64,
    /// The client went on.
    pub answered: u64,
    /// SYNs sent once more, for want of an answer.
    pub repeated: u64,
    /// SYNs that the backend answered by a RST; of backends whose replies come this way, otherwise 0.
    pub refused: u64,
    /// From the first SYN to the client's next packet, on average; none if none is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mean_ms: Option<f64>,
    /// How many of those answered took how long, by [ranges](lb_common::handshake::RANGES), not added up.
    pub durations: [u32; RANGES],
    /// All of these times together, in seconds.
    pub time_s: f64,
}

impl From<Handshakes> for HandshakesStatus {
    fn from(counted: Handshakes) -> Self {
        let n_timed: u64 = counted.durations.iter().map(|&n| u64::from(n)).sum();
        let time_s = counted.time as f64 * HANDSHAKE_UNIT_S;
        Self {
            opened: counted.n_opened.into(),
            answered: counted.n_answered(),
            repeated: counted.n_repeated.into(),
            refused: counted.n_refused.into(),
            mean_ms: (n_timed > 0).then(|| time_s * 1e3 / n_timed as f64),
            durations: counted.durations,
            time_s,
        }
    }
}

/// The unit of times of handshakes.
pub const HANDSHAKE_UNIT_S: f64 = 1024e-9;

/// One source of a service's backends.
#[derive(Clone, Debug, Serialize)]
pub struct SourceStatus {
    pub source: discovery::Kind,
    /// A DNS name, a path, or a socket's path.
    pub name: String,
    /// In the answer that holds.
    pub hosts: usize,
    /// Usable, but not wanted while those of a lesser priority are there.
    pub standby: usize,
    /// Named by the last answer, but no backends.
    pub refused: usize,
    pub queries: u64,
    /// Queries without a usable answer.
    pub failures: u64,
    /// Of these, answers with fewer hosts than `min_hosts`.
    pub too_few: u64,
    /// The answer that holds is an earlier one.
    pub stale: bool,
    /// Since the last good answer, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_s: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

impl Status {
    /// The snapshot with the counters as they stand now.
    ///
    /// # Errors
    /// If a counter cannot be read.
    pub fn read(snapshot: &Snapshot, counters: &Counters) -> Result<Self, MapError> {
        let services = snapshot.services.iter().map(|service| {
            let admission = read_admission(snapshot, service, counters);
            Ok(ServiceStatus { admission, ..read_service(service, &snapshot.sums, counters)? })
        });
        let services: Result<_, MapError> = services.collect();
        let all_vips = AdmissionStatus::new(&snapshot.admission.all_vips, &counters.refused(0), &Default::default());
        let totals = counters.totals()?;
        let suspects = counters.suspects();
        let suspects = suspects.iter().filter_map(|suspect| SuspectStatus::new(suspect, &snapshot.services));
        Ok(Self {
            version: env!("CARGO_PKG_VERSION"),
            ready: snapshot.is_ready(),
            waits_for: snapshot.waits_for.clone(),
            interfaces: snapshot.interfaces.clone(),
            interfaces_lost: snapshot.interfaces_lost.clone(),
            services: services?,
            packets: packet_totals(&totals),
            flows: flows_status(snapshot.flows, &counters.flow_events()),
            runtime: runtime_status(snapshot),
            admission: all_vips,
            suspects: suspects.take(SUSPECTS_TOLD).collect(),
            prefix_table_fill: snapshot.prefix_table_fill,
            fullnat: snapshot.pool.clone(),
            verdicts: Verdict::ALL.iter().map(|&verdict| (verdict.label(), totals.of(verdict))).collect(),
        })
    }
}

fn read_admission(snapshot: &Snapshot, service: &ServiceView, counters: &Counters) -> Option<AdmissionStatus> {
    let rules = snapshot.admission.of(&service.name)?;
    let counted = service.id.map(|id| counters.refused(id)).unwrap_or_default();
    let base = service.id.and_then(|id| snapshot.refused_bases.get(&id)).copied().unwrap_or_default();
    Some(AdmissionStatus::new(rules, &counted, &base))
}

fn flows_status(census: Census, events: &FlowEvents) -> FlowsStatus {
    let FlowEvents { recorded, evicted, evicted_unconfirmed, .. } = *events;
    FlowsStatus { census, recorded, evicted, evicted_unconfirmed }
}

fn runtime_status(snapshot: &Snapshot) -> RuntimeStatus {
    let is_there = |name: &ServiceName, endpoint: SocketAddr| {
        let service = snapshot.services.iter().find(|service| service.name == *name);
        service.is_some_and(|service| service.backends.iter().any(|backend| backend.endpoint == endpoint))
    };
    let mut absent: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for (name, endpoint, set) in snapshot.overrides.backends().filter(|(name, endpoint, _)| !is_there(name, *endpoint)) {
        absent.entry(name.clone()).or_default().insert(endpoint, set.clone());
    }
    RuntimeStatus { settings: snapshot.overrides.len(), absent, trouble: snapshot.state_trouble.clone() }
}

/// Totals by class. `received` is their sum, for the counters of one packet are not read at one instant.
fn packet_totals(totals: &Totals) -> PacketTotals {
    let of = |class| Verdict::ALL.iter().filter(|verdict| verdict.class() == class).map(|&verdict| totals.of(verdict)).sum();
    let (forwarded, passed, dropped) = (of(Class::Forwarded), of(Class::Passed), of(Class::Dropped));
    PacketTotals { received: forwarded + passed + dropped, forwarded, passed, dropped }
}

fn read_service(service: &ServiceView, sums: &Sums, counters: &Counters) -> Result<ServiceStatus, MapError> {
    let counted = |backend: &BackendView| match backend.id {
        Some(id) => Ok(counters.backend(id)?.since(&backend.base)),
        None => Ok(BackendCounters::default()),
    };
    let counted: Result<Vec<_>, MapError> = service.backends.iter().map(counted).collect();
    let dropped = service.id.map_or(Ok(0), |id| counters.service_drops(id))?.wrapping_sub(service.drop_base);
    let left = counted_by_left(service, sums, |id| counters.backend(id))?;
    Ok(service_status(service, left, &counted?, dropped))
}

/// What backends have counted that left, and those that have left and keep their flows.
fn counted_by_left(
    service: &ServiceView,
    sums: &Sums,
    counters: impl Fn(BackendId) -> Result<BackendCounters, MapError>,
) -> Result<BackendCounters, MapError> {
    let mut left = sums.services.get(&service.name).map(|sums| sums.left).unwrap_or_default();
    for leaving in &service.leaving {
        left.add(&counters(leaving.id)?.since(&leaving.base));
    }
    Ok(left)
}

/// `counted` is what each of the service's backends has counted, `left` what those who left have.
fn service_status(service: &ServiceView, left: BackendCounters, counted: &[BackendCounters], dropped: u64) -> ServiceStatus {
    let slots = n_slots(service.slots.as_deref().unwrap_or_default());
    let mut total = left;
    let mut backends = Vec::with_capacity(service.backends.len());
    for (backend, &counted) in service.backends.iter().zip(counted) {
        total.add(&counted);
        let owned = backend.id.and_then(|id| slots.get(&id)).copied().unwrap_or_default();
        let handshakes = service.counts_handshakes.then(|| counted.handshakes.into());
        let share = owned as f64 / slots.values().sum::<usize>().max(1) as f64;
        backends.push(BackendStatus { handshakes, ..backend_status(backend, counted, share) });
    }
    ServiceStatus {
        name: service.name.clone(),
        vip: service.vip,
        port: service.port,
        protocol: service.protocol,
        algorithm: service.algorithm,
        forward: service.forward,
        state: if service.backends.iter().any(|backend| backend.serves) { "up" } else { "down" },
        packets: total.packets,
        bytes: total.bytes,
        connections: total.connections,
        dropped,
        slots_not_at_rest: service.n_slots_restless,
        leaving: service.leaving.iter().map(|leaving| leaving.endpoint).collect(),
        maintenance: service.maintenance.clone(),
        failover: service.failover.clone(),
        admission: None,
        backends,
        discovery: service.discovery.iter().map(source_status).collect(),
    }
}

fn source_status(status: &discovery::Status) -> SourceStatus {
    SourceStatus {
        source: status.source,
        name: status.name.clone(),
        hosts: status.n_hosts,
        standby: status.n_standby,
        refused: status.n_refused,
        queries: status.n_queries,
        failures: status.n_failures,
        too_few: status.n_too_few,
        stale: status.stale,
        age_s: status.answered.map(|answered| answered.elapsed().as_secs_f64()),
        last_error: status.last_error.clone(),
    }
}

fn backend_status(backend: &BackendView, counted: BackendCounters, share: f64) -> BackendStatus {
    BackendStatus {
        address: backend.endpoint.ip(),
        port: backend.endpoint.port(),
        weight: backend.weight,
        sources: backend.sources.clone(),
        zone: backend.zone.clone(),
        server_id: backend.server_id.map(|id| id.to_string()),
        state: backend.check.state,
        serving: backend.serves,
        share,
        packets: counted.packets,
        bytes: counted.bytes,
        connections: counted.connections,
        handshakes: None,
        check: backend.check.last_result.clone(),
        check_ms: backend.check.last_latency.map(|latency| latency.as_secs_f64() * 1e3),
        unreachable: backend.unreachable.clone(),
        flows: backend.flows,
        set: backend.set.clone(),
        drain: backend.drain,
        priority: backend.place.tier,
        standby: backend.place.is_standby,
        slow_start: backend.place.tenths.map(|tenths| f64::from(tenths) / 10.0),
        weight_part: backend.place.steps.map(|steps| f64::from(steps) / f64::from(health::Parts::STEPS)),
        weight_parts: backend.check.parts.named(),
        breaker: breaker_status(&backend.check),
        flapping: backend.check.is_flapping,
        suspicions: backend.check.n_suspicions,
        backoff_s: backend.check.backoff.map(|backoff| backoff.as_secs_f64()),
    }
}

fn breaker_status(check: &health::Status) -> Option<BreakerStatus> {
    let is_of_note = check.breaker != health::Phase::Closed || check.n_ejections > 0;
    is_of_note.then_some(BreakerStatus { phase: check.breaker, ejections: check.n_ejections })
}

/// Slots by the backend that new flows in them go to.
fn n_slots(slots: &[Slot]) -> BTreeMap<BackendId, usize> {
    let mut counts = vec![0usize; 1 << 16];
    for slot in slots {
        counts[usize::from(slot.current().0)] += 1;
    }
    let owned = counts.iter().enumerate().filter(|&(_, &count)| count > 0);
    owned.map(|(id, &count)| (BackendId(id as u16), count)).collect()
}

#[cfg(test)]
pub mod samples;
#[cfg(test)]
mod tests;
