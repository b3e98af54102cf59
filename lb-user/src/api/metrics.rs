//! `GET /metrics`: OpenMetrics text. Counters of the packet path are read at each scrape; nothing is kept twice.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use lb_common::handshake::Handshakes;
use lb_common::verdict::Verdict;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::audit::Counts;
use super::{Source, Unavailable};
use crate::daemon::Sums;
use crate::failover::Tier;
use crate::health;
use crate::maps::{Census, Traced};
use crate::runtime::Admin;
use crate::status::{
    AdmissionStatus, BackendStatus, FailoverStatus, HANDSHAKE_UNIT_S, HandshakesStatus, PoolStatus, ServiceStatus, SourceStatus,
    Status, ZoneStatus,
};

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub async fn answer(State(source): State<Source>) -> Result<Response, Unavailable> {
    let snapshot = source.snapshot().await?;
    let status = Status::read(&snapshot, &source.counters).map_err(|error| Unavailable::Counters(crate::error::chain(&error)))?;
    let mut registry = Registry::with_prefix("xlb");
    let changes = source.audit.counts.clone();
    let traced = source.counters.traced();
    registry.register_collector(Box::new(Page { status, sums: snapshot.sums, started: source.started, changes, traced }));
    let mut page = String::new();
    Ok(match text::encode(&mut page, &registry) {
        Ok(()) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], page).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    })
}

/// All metrics at one moment.
#[derive(Debug)]
struct Page {
    status: Status,
    sums: Sums,
    changes: Arc<Counts>,
    traced: Traced,
    /// In seconds since 1970.
    started: f64,
}

type Labels = Vec<(&'static str, String)>;

impl Collector for Page {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let out = &mut encoder;
        self.encode_daemon(out)?;
        self.encode_runtime(out)?;
        self.encode_packets(out)?;
        self.encode_flows(out)?;
        self.encode_fullnat(out)?;
        self.encode_admission(out)?;
        self.encode_services(out)?;
        self.encode_backends(out)?;
        self.encode_discovery(out)
    }
}

impl Page {
    fn encode_daemon(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (status, sums) = (&self.status, &self.sums);
        gauge(out, "build", "Always 1; the version is a label.", [(vec![("version", status.version.into())], 1.0)])?;
        let help = "When the daemon started, in seconds since 1970.";
        single(out, "start_time_seconds", help, ConstGauge::new(self.started))?;
        single(out, "ready", "1 once packets are steered by complete tables.", ConstGauge::new(f64::from(status.ready)))?;
        let interfaces = status
            .interfaces
            .iter()
            .map(|interface| (vec![("interface", interface.name.clone()), ("mode", interface.mode.into())], 1.0));
        gauge(out, "interface_attached", "1 for each interface that the program runs on.", interfaces)?;
        let reloads = [("accepted", sums.n_reloads), ("refused", sums.n_reloads_refused)];
        let reloads = reloads.map(|(result, n)| (vec![("result", result.to_owned())], n));
        counter(out, "reloads", "Reloads of the configuration.", reloads)?;
        let refused = sums.last_reload_refused.is_some();
        let help = "1 if the last reload was refused: what runs is not what the file says.";
        single(out, "reload_refused", help, ConstGauge::new(f64::from(refused)))?;
        single(out, "map_changes", "Times that the maps were changed.", ConstCounter::new(sums.n_changes))?;
        single(out, "map_writes", "Writes to the maps, a run of slots being one.", ConstCounter::new(sums.n_writes))?;
        let help = "Times that the maps could not be brought to what should hold.";
        single(out, "map_failures", help, ConstCounter::new(sums.n_failures))?;
        let help = "1 while the maps are not what should hold.";
        single(out, "map_failing", help, ConstGauge::new(f64::from(sums.failing.is_some())))?;
        let help = "Time from what made a change necessary to its last write, summed.";
        single(out, "map_change_seconds", help, ConstCounter::new(sums.change_time.as_secs_f64()))?;
        let help = "The longest time from what made a change necessary to its last write.";
        single(out, "map_change_seconds_max", help, ConstGauge::new(sums.change_time_max.as_secs_f64()))
    }

    fn encode_runtime(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (runtime, counts) = (&self.status.runtime, &self.changes);
        let help = "What was set at runtime and holds over the configuration: weights, drains and the like.";
        single(out, "runtime_settings", help, ConstGauge::new(runtime.settings as f64))?;
        let help = "1 if what was set at runtime would survive a restart.";
        single(out, "runtime_kept", help, ConstGauge::new(f64::from(runtime.trouble.is_none())))?;
        let by_result = [("done", &counts.done), ("refused", &counts.refused), ("failed", &counts.failed)];
        let by_result = by_result.map(|(result, n)| (vec![("result", result.to_owned())], n.load(Relaxed)));
        counter(out, "runtime_changes", "Changes asked for over the API.", by_result)?;
        let help = "Lines that the audit log lacks, because it could not be written or did not keep up.";
        single(out, "audit_lines_lost", help, ConstCounter::new(counts.lost.load(Relaxed)))?;
        let Traced { n_written, n_lost, n_limited } = self.traced;
        let by_result = [("written", n_written), ("lost", n_lost), ("limited", n_limited)];
        let by_result = by_result.map(|(result, n)| (vec![("result", result.to_owned())], n));
        counter(out, "traced_packets", "Packets that a trace was to tell.", by_result)
    }

    fn encode_packets(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let by_verdict = Verdict::ALL.iter().map(|verdict| {
            let n = self.status.verdicts.get(verdict.label()).copied().unwrap_or_default();
            (vec![("class", verdict.class().label().to_owned()), ("verdict", verdict.label().to_owned())], n)
        });
        counter(out, "packets", "Packets by what they ended in, each in exactly one verdict.", by_verdict)?;
        let received = ConstCounter::new(self.status.packets.received);
        single(out, "packets_received", "Packets that entered the program: the sum over all verdicts.", received)
    }

    fn encode_flows(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let flows = &self.status.flows;
        let Census { capacity, opening, guessed, established, closing } = flows.census;
        single(out, "flow_table_capacity", "Flows that the flow table has room for.", ConstGauge::new(capacity as f64))?;
        let by_state = [("opening", opening), ("guessed", guessed), ("established", established), ("closing", closing)];
        let by_state = by_state.map(|(state, n)| (vec![("state", state.to_owned())], n as f64));
        gauge(out, "flow_table_entries", "Flows on record, as of some seconds ago.", by_state)?;
        single(out, "flows_recorded", "Flows recorded, in slots that were not at rest.", ConstCounter::new(flows.recorded))?;
        let evicted = [("live", flows.evicted), ("unconfirmed", flows.evicted_unconfirmed)];
        let evicted = evicted.map(|(kind, n)| (vec![("kind", kind.to_owned())], n));
        counter(out, "flows_evicted", "Flows given up for others before they had ended.", evicted)
    }

    fn encode_fullnat(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |count: fn(&PoolStatus) -> u32| {
            self.status.fullnat.iter().map(move |pool| (vec![("address", pool.address.to_string())], f64::from(count(pool))))
        };
        let help = "Ports of an address of [fullnat], each for one session.";
        gauge(out, "fullnat_ports", help, of(|pool| pool.ports))?;
        let help = "Ports of an address of [fullnat] that are taken, as of some seconds ago.";
        gauge(out, "fullnat_sessions", help, of(|pool| pool.sessions))
    }

    fn encode_admission(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let by_rule = |admission: &AdmissionStatus| admission.refused.clone().into_iter();
        let all_vips = &self.status.admission;
        let refused = by_rule(all_vips).map(|(rule, n)| (vec![("rule", rule.to_owned())], n));
        counter(out, "admission_refused", "Packets to any VIP dropped for a rule of [admission].", refused)?;
        let prefixes = |admission: &AdmissionStatus| [("deny", admission.deny), ("allow", admission.allow.unwrap_or_default())];
        let of_all = prefixes(all_vips).map(|(list, n)| (vec![("list", list.to_owned())], n as f64));
        gauge(out, "admission_prefixes", "Prefixes on the lists for all VIPs.", of_all)?;
        let help = "The part of the table of prefixes that is in use, from 0 to 1.";
        single(out, "prefix_table_fill", help, ConstGauge::new(self.status.prefix_table_fill))?;
        let ruled = || {
            let services = self.status.services.iter();
            services.filter_map(|service| Some((service, service.admission.as_ref()?)))
        };
        let labels = |service: &ServiceStatus, key: &'static str, value: &str| {
            [service_labels(service), vec![(key, value.to_owned())]].concat()
        };
        let refused =
            ruled().flat_map(|(service, admission)| by_rule(admission).map(move |(rule, n)| (labels(service, "rule", rule), n)));
        counter(out, "service_refused", "Packets dropped for a rule of the service's own.", refused)?;
        let prefixes = ruled()
            .flat_map(|(service, admission)| prefixes(admission).map(move |(list, n)| (labels(service, "list", list), n as f64)));
        gauge(out, "service_admission_prefixes", "Prefixes on the service's own lists.", prefixes)
    }

    fn encode_services(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let of = |count: fn(&ServiceStatus) -> u64| {
            self.status.services.iter().map(move |service| (service_labels(service), count(service)))
        };
        counter(out, "service_packets", "Packets sent to the service's backends.", of(|service| service.packets))?;
        counter(out, "service_bytes", "Bytes sent to the service's backends.", of(|service| service.bytes))?;
        counter(out, "service_connections", "TCP connections opened to the service.", of(|service| service.connections))?;
        counter(out, "service_dropped", "Packets dropped for want of a backend.", of(|service| service.dropped))?;
        let serving =
            self.status.services.iter().map(|service| {
                (service_labels(service), service.backends.iter().filter(|backend| backend.serving).count() as f64)
            });
        gauge(out, "service_backends_serving", "Backends that new flows go to.", serving)?;
        let of = |count: fn(&ServiceStatus) -> usize| {
            self.status.services.iter().map(move |service| (service_labels(service), count(service) as f64))
        };
        let help = "Slots that moved, where flows are tracked until none would change its backend.";
        gauge(out, "service_slots_not_at_rest", help, of(|service| service.slots_not_at_rest))?;
        let help = "Backends that left the service and keep their flows.";
        gauge(out, "service_backends_leaving", help, of(|service| service.leaving.len()))?;
        let help = "1 while nobody takes new flows, as set at runtime.";
        gauge(out, "service_maintenance", help, of(|service| usize::from(service.maintenance.is_some())))?;
        let failover = |holds: fn(&FailoverStatus) -> bool| {
            let holds = move |service: &ServiceStatus| f64::from(service.failover.as_ref().is_some_and(holds));
            self.status.services.iter().map(move |service| (service_labels(service), holds(service)))
        };
        let help = "1 while new flows go elsewhere than to the first priority alone.";
        gauge(out, "service_failed_over", help, failover(|failover| failover.failed_over))?;
        let help = "1 while so few backends are healthy that all are taken for it.";
        gauge(out, "service_panic", help, failover(|failover| failover.panic))?;
        let help = "1 while new flows go to the sorry backend.";
        gauge(out, "service_sorry", help, failover(|failover| failover.serving.contains(&Tier::Sorry)))?;
        self.encode_zones(out)?;
        let moved = self.sums.services.iter().map(|(name, sums)| (vec![("service", name.to_string())], sums.n_slots_moved));
        counter(out, "service_slots_moved", "Slots that got another owner, their first one included.", moved)?;
        let transitions = self.sums.services.iter().flat_map(|(name, sums)| {
            let transition =
                move |(state, &n): (&health::State, &u64)| (vec![("service", name.to_string()), ("to", state.to_string())], n);
            sums.n_transitions.iter().map(transition)
        });
        counter(out, "health_transitions", "Backends that changed their state, by the new one.", transitions)
    }

    /// Only of services that go by zones.
    fn encode_zones(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = || {
            let services = self.status.services.iter();
            let zones = services.filter_map(|service| Some((service, service.failover.as_ref()?.zones.as_ref()?)));
            zones.flat_map(|(service, zones)| {
                let labels = |zone: &ZoneStatus| {
                    [service_labels(service), vec![("zone", zone.zone.clone().unwrap_or_default().to_string())]].concat()
                };
                zones.shares.iter().map(move |zone| (labels(zone), zone))
            })
        };
        let of = |value: fn(&ZoneStatus) -> f64| all().map(move |(labels, zone)| (labels, value(zone)));
        gauge(out, "service_zone_share", "The part of new flows that goes to the zone, from 0 to 1.", of(|zone| zone.share))?;
        let help = "How much more that is than while all backends are well.";
        gauge(out, "service_zone_spillover", help, of(|zone| (zone.share - zone.usual).max(0.0)))?;
        let help = "How much of the zone is healthy, by weight, from 0 to 1.";
        let healthy = all().filter_map(|(labels, zone)| Some((labels, zone.healthy?)));
        gauge(out, "service_zone_healthy", help, healthy)
    }

    fn encode_backends(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = || {
            let services = self.status.services.iter();
            services.flat_map(|service| service.backends.iter().map(move |backend| (backend_labels(service, backend), backend)))
        };
        let of = |count: fn(&BackendStatus) -> u64| all().map(move |(labels, backend)| (labels, count(backend)));
        counter(out, "backend_packets", "Packets sent to the backend.", of(|backend| backend.packets))?;
        counter(out, "backend_bytes", "Bytes sent to the backend.", of(|backend| backend.bytes))?;
        counter(out, "backend_connections", "TCP connections opened to the backend.", of(|backend| backend.connections))?;
        let of = |value: fn(&BackendStatus) -> f64| all().map(move |(labels, backend)| (labels, value(backend)));
        gauge(out, "backend_up", "1 if the backend passes its checks.", of(|backend| f64::from(backend.state.passes())))?;
        gauge(out, "backend_serving", "1 if new flows go to the backend.", of(|backend| f64::from(backend.serving)))?;
        let reachable = of(|backend| f64::from(backend.unreachable.is_none()));
        gauge(
            out,
            "backend_reachable",
            "0 if there is no way to the backend, such as a next hop that does not answer.",
            reachable,
        )?;
        gauge(out, "backend_weight", "The backend's weight.", of(|backend| f64::from(backend.weight)))?;
        gauge(out, "backend_share", "The backend's share of its service's slots, from 0 to 1.", of(|backend| backend.share))?;
        let set = |admin: fn(Admin) -> bool| move |backend: &BackendStatus| f64::from(backend.set.admin().is_some_and(admin));
        let draining = set(|admin| matches!(admin, Admin::Drain { .. }));
        let draining = all().map(|(labels, backend)| (labels, draining(backend)));
        gauge(out, "backend_draining", "1 while the backend drains, as set at runtime.", draining)?;
        let disabled = set(|admin| admin == Admin::Disable);
        let disabled = all().map(|(labels, backend)| (labels, disabled(backend)));
        gauge(out, "backend_disabled", "1 while the backend is disabled, as set at runtime.", disabled)?;
        let help = "1 while new flows go to other priorities or zones than the backend's.";
        let standby = all().map(|(labels, backend)| (labels, f64::from(backend.standby)));
        gauge(out, "backend_standby", help, standby)?;
        let help = "1 while the backend, having come up, does not have all of its weight.";
        let slow = all().map(|(labels, backend)| (labels, f64::from(backend.slow_start.is_some())));
        gauge(out, "backend_slow_start", help, slow)?;
        let help = "How much of its weight is in force, for its health and slow start: 1 is all of it.";
        gauge(out, "backend_weight_part", help, of(|backend| backend.weight_part.unwrap_or(1.0)))?;
        let of_state = |wanted: health::State| all().map(move |(labels, backend)| (labels, f64::from(backend.state == wanted)));
        let help = "1 while the backend's agent wants it to have no new flows, but to keep those that it has.";
        gauge(out, "backend_agent_drain", help, of_state(health::State::Drain))?;
        let help = "1 while the backend's agent says that it is being worked on.";
        gauge(out, "backend_agent_maint", help, of_state(health::State::Maint))?;
        let help = "1 while the backend's answers come slowly, and it has a part of its weight.";
        gauge(out, "backend_degraded", help, of_state(health::State::Degraded))?;
        let help = "1 while the backend is ejected by its circuit breaker.";
        gauge(out, "backend_ejected", help, of_state(health::State::Ejected))?;
        let help = "1 while the backend comes and goes too often.";
        gauge(out, "backend_flapping", help, of(|backend| f64::from(backend.flapping)))?;
        let help = "Times that the backend's flows raised suspicion, upon which it was probed at once.";
        counter(out, "backend_suspicions", help, all().map(|(labels, backend)| (labels, backend.suspicions)))?;
        let help = "From probe to probe, while that is longer than the check's interval; else 0.";
        gauge(out, "backend_backoff_seconds", help, of(|backend| backend.backoff_s.unwrap_or_default()))?;
        let help = "Flows of the backend on record that may be alive; only where slots moved are flows on record.";
        gauge(out, "backend_flows", help, of(|backend| backend.flows as f64))?;
        self.encode_handshakes(out)?;
        let checks = all().filter_map(|(labels, backend)| Some((labels, backend.check_ms? / 1e3)));
        gauge(out, "backend_check_seconds", "How long the last health check took.", checks)
    }

    fn encode_handshakes(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = || {
            let services = self.status.services.iter();
            services.flat_map(|service| {
                service.backends.iter().filter_map(|backend| Some((backend_labels(service, backend), backend.handshakes?)))
            })
        };
        let of = |count: fn(&HandshakesStatus) -> u64| all().map(move |(labels, handshakes)| (labels, count(&handshakes)));
        counter(out, "backend_handshakes_opened", "TCP connections begun, by a first SYN.", of(|counted| counted.opened))?;
        let help = "TCP connections whose client went on after its SYN.";
        counter(out, "backend_handshakes_answered", help, of(|counted| counted.answered))?;
        let help = "SYNs that clients sent once more, for want of an answer.";
        counter(out, "backend_handshakes_repeated", help, of(|counted| counted.repeated))?;
        let help = "Connections that the backend refused by a RST, where its replies come this way.";
        counter(out, "backend_handshakes_refused", help, of(|counted| counted.refused))?;
        let help = "Time from a client's first SYN to its next packet.";
        let mut encoder = out.encode_descriptor("backend_handshake_seconds", help, None, MetricType::Histogram)?;
        all().try_for_each(|(labels, handshakes)| {
            let end = |range| Handshakes::end(range).map_or(f64::MAX, |end| end as f64 * HANDSHAKE_UNIT_S);
            let ranges: Vec<(f64, u64)> =
                handshakes.durations.iter().enumerate().map(|(range, &n)| (end(range), n.into())).collect();
            let n_timed = ranges.iter().map(|(_, n)| n).sum();
            encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(handshakes.time_s, n_timed, &ranges, None)
        })
    }

    fn encode_discovery(&self, out: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all = || {
            let services = self.status.services.iter();
            services.flat_map(|service| service.discovery.iter().map(move |source| (source_labels(service, source), source)))
        };
        let of = |count: fn(&SourceStatus) -> u64| all().map(move |(labels, source)| (labels, count(source)));
        counter(out, "discovery_queries", "Times that a source of backends was asked.", of(|source| source.queries))?;
        counter(out, "discovery_failures", "Times without a usable answer.", of(|source| source.failures))?;
        let help = "Answers not taken, for they had fewer usable hosts than min_hosts.";
        counter(out, "discovery_too_few", help, of(|source| source.too_few))?;
        let of = |value: fn(&SourceStatus) -> usize| all().map(move |(labels, source)| (labels, value(source) as f64));
        gauge(out, "discovery_hosts", "Hosts in the answer that holds.", of(|source| source.hosts))?;
        let help = "Hosts that are not wanted while those of a lesser priority are there.";
        gauge(out, "discovery_standby_hosts", help, of(|source| source.standby))?;
        gauge(out, "discovery_refused_hosts", "Hosts of the last answer that cannot be backends.", of(|source| source.refused))?;
        let stale = all().map(|(labels, source)| (labels, f64::from(source.stale)));
        gauge(out, "discovery_stale", "1 while the answer that holds is an earlier one.", stale)?;
        let ages = all().filter_map(|(labels, source)| Some((labels, source.age_s?)));
        gauge(out, "discovery_answer_age_seconds", "Time since the last good answer.", ages)
    }
}

fn source_labels(service: &ServiceStatus, source: &SourceStatus) -> Labels {
    vec![("service", service.name.to_string()), ("source", source.source.label().to_owned())]
}

fn service_labels(service: &ServiceStatus) -> Labels {
    vec![("service", service.name.to_string())]
}

fn backend_labels(service: &ServiceStatus, backend: &BackendStatus) -> Labels {
    let endpoint = std::net::SocketAddr::new(backend.address, backend.port);
    vec![("service", service.name.to_string()), ("backend", endpoint.to_string())]
}

fn counter(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, u64)>,
) -> fmt::Result {
    let mut encoder = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    values.into_iter().try_for_each(|(labels, value)| ConstCounter::new(value).encode(encoder.encode_family(&labels)?))
}

fn gauge(
    out: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl IntoIterator<Item = (Labels, f64)>,
) -> fmt::Result {
    let mut encoder = out.encode_descriptor(name, help, None, MetricType::Gauge)?;
    values.into_iter().try_for_each(|(labels, value)| ConstGauge::new(value).encode(encoder.encode_family(&labels)?))
}

/// A metric without labels.
fn single(out: &mut DescriptorEncoder<'_>, name: &str, help: &str, value: impl EncodeMetric) -> fmt::Result {
    value.encode(out.encode_descriptor(name, help, None, value.metric_type())?)
}
