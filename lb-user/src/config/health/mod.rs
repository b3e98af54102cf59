//! `[service.health]`

mod database;
mod http;
mod kinds;
mod network;
mod script;
mod trust;

use std::net::IpAddr;
use std::time::Duration;

use super::report::{Problem, Problems};
use super::section::{At, Section};
use super::values;
use crate::desired::{Forward, Protocol};
use crate::health::steer::Way;
use crate::health::{Check, Checks, Degraded, Path, Probe, breaker};
use kinds::{KINDS, Kind};

/// Below this, the probes of a few thousand backends leave no time for anything else.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Twice the granularity of the timers.
const TIMEOUT_MIN: Duration = Duration::from_millis(2);
/// Finer than this nobody looks at a probe.
const DEGRADED_MIN: Duration = Duration::from_micros(100);
const DEGRADED_PERCENT: u16 = 50;
/// More in a row than anyone waits for.
const STREAK_MAX: u32 = 1000;

/// The check of a service without `[service.health]`: a TCP service's backends must accept connections; whether UDP is
/// served cannot be told without knowing what is spoken.
pub(super) fn default(protocol: Protocol) -> Check {
    let probe = match protocol {
        Protocol::Tcp => Probe::Tcp,
        Protocol::Udp => Probe::None,
    };
    Check { probe, ..Check::default() }
}

const VIAS: [(&str, Via); 2] = [("address", Via::Address), ("path", Via::Path)];

/// `via`: which way a probe goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    Address,
    Path,
}

/// What a check needs to know of its service. `None` where that was refused itself.
#[derive(Clone, Copy)]
pub(super) struct Of {
    pub(super) protocol: Protocol,
    pub(super) vip: Option<IpAddr>,
    pub(super) forward: Option<Forward>,
    pub(super) gue_port: Option<u16>,
}

impl Of {
    /// How packets get to the backends with the VIP's address still on them; by NAT they do not.
    fn way(self) -> Option<Option<Way>> {
        Some(match self.forward? {
            Forward::Nat | Forward::Fullnat => None,
            Forward::Dsr => Some(Way::Direct),
            Forward::Ipip => Some(Way::Ipip),
            Forward::Gue => Some(Way::Gue { port: self.gue_port? }),
        })
    }
}

/// The check that the section asks for. `None` after reporting what is wrong with it.
pub(super) fn read(mut section: Section<'_>, of: Of, problems: &mut Problems) -> Option<Check> {
    let protocol = of.protocol;
    let default_kind = if default(protocol).probe == Probe::None { Kind::None } else { Kind::Tcp };
    let kind = section.or("type", default_kind, problems, |value| values::one_of(value, &KINDS));
    let port = port(&mut section, kind.as_ref(), problems);
    let path = path(&mut section, of, problems);
    let probe = probe(&mut section, kind.as_ref(), protocol, problems);

    let fallback = Check::default();
    let interval_given = section.has("interval");
    let interval = section.or("interval", fallback.interval, problems, |value| values::duration(value, INTERVAL_MIN));
    // A short interval shortens the time-out with it, so that `interval = "50ms"` alone is a whole wish.
    let timeout_default = interval.as_ref().map_or(fallback.timeout, |interval| fallback.timeout.min(interval.value));
    let timeout = section.or("timeout", timeout_default, problems, |value| values::duration(value, TIMEOUT_MIN));
    let rise = section.or("rise", fallback.rise, problems, |value| values::integer(value, 1, STREAK_MAX));
    let fall = section.or("fall", fallback.fall, problems, |value| values::integer(value, 1, STREAK_MAX));
    let interval_value = interval.as_ref().map_or(fallback.interval, |interval| interval.value);
    let backoff_max = section.or("backoff_max", None, problems, |value| values::duration(value, interval_value).map(Some));
    let degraded = degraded(&mut section, timeout.as_ref(), problems);
    section.finish(problems);

    let (interval, timeout) = (interval?, timeout?);
    if timeout.value > interval.value {
        problems.push(timeout_beyond_interval(&interval, interval_given, timeout));
        return None;
    }
    Some(Check {
        probe: probe?,
        port: port?,
        interval: interval.value,
        timeout: timeout.value,
        rise: rise?.value,
        fall: fall?.value,
        backoff_max: backoff_max?.value,
        degraded: degraded?,
        path: path?,
    })
}

/// When an answer that passes is too slow. `None` after reporting what is wrong with that.
fn degraded(section: &mut Section<'_>, timeout: Option<&At<Duration>>, problems: &mut Problems) -> Option<Option<Degraded>> {
    let timeout_given = section.has("timeout");
    let above = section.or("degraded_above", None, problems, |value| values::duration(value, DEGRADED_MIN).map(Some));
    let weight =
        section.or("degraded_weight", None, problems, |value| values::percent(value, 1, "`degraded_weight = \"50%\"`").map(Some));
    let (above, weight) = (above?, weight?);
    let Some(limit) = above.value else {
        if weight.value.is_some() {
            let problem = Problem::new("`degraded_weight` without `degraded_above`", weight.span, "no backend is ever degraded");
            problems.push(problem.help("say how slow is too slow: `degraded_above = \"200ms\"`; or remove `degraded_weight`"));
            return None;
        }
        return Some(None);
    };
    if let Some(timeout) = timeout
        && limit >= timeout.value
    {
        let shown = humantime::format_duration(timeout.value);
        problems.push(
            Problem::new("`degraded_above` is not below the check's timeout", above.span, "no probe that passes takes so long")
                .and(
                    timeout.span.clone(),
                    if timeout_given { "the timeout" } else { "the timeout, by default, is 500ms, or the interval if shorter" },
                )
                .help(format!("write less than \"{shown}\", or a longer `timeout`")),
        );
        return None;
    }
    Some(Some(Degraded { above: limit, percent: weight.value.map_or(DEGRADED_PERCENT, u16::from) }))
}

/// What stands in the service besides its checks and is about their results.
pub(super) fn trust(
    section: &mut Section<'_>,
    checks: Checks,
    protocol: Option<Protocol>,
    problems: &mut Problems,
) -> Option<Checks> {
    let read = match section.has("breaker") {
        true => section
            .table("breaker", "[service.breaker]", problems)
            .and_then(|section| trust::breaker(section, problems))
            .map(Some),
        false => Some(None),
    };
    let flapping = match section.has("flapping") {
        true => section.table("flapping", "[service.flapping]", problems).and_then(|section| trust::flapping(section, problems)),
        false => Some(checks.flapping),
    };
    let passive_span = section.span_of("passive");
    let passive = match section.has("passive") {
        true => section
            .table("passive", "[service.passive]", problems)
            .and_then(|section| trust::passive(section, problems))
            .map(Some),
        false => Some(None),
    };
    if let Some(span) = passive_span
        && protocol == Some(Protocol::Udp)
    {
        let problem = Problem::new("passive detection of a udp service", span, "UDP has no handshakes");
        problems.push(problem.help("remove `[service.passive]`, or check the backends by `[service.health]`"));
        return None;
    }
    let (read, flapping, passive) = (read?, flapping?, passive?);
    let ejected_max_percent = read.map_or(Checks::EJECTED_MAX_PERCENT, |(_, max)| max);
    // Where nobody asks, flows are all that is known, and a suspicion can only be acted on.
    let by_flows = passive.filter(|_| !checks.is_active()).map(|passive| breaker::Rules {
        errors_percent: passive.unanswered_percent,
        window: passive.window,
        requests_min: passive.handshakes_min,
        ..breaker::Rules::default()
    });
    Some(Checks { breaker: read.map(|(rules, _)| rules).or(by_flows), passive, flapping, ejected_max_percent, ..checks })
}

/// The port to probe, where the type has one.
fn port(section: &mut Section<'_>, kind: Option<&At<Kind>>, problems: &mut Problems) -> Option<Option<u16>> {
    if kind.is_some_and(|kind| kind.value == Kind::Icmp) {
        return Some(None);
    }
    // It listens beside the service, not on its port.
    if kind.is_some_and(|kind| kind.value == Kind::Agent) && !section.has("port") {
        section.missing("port", "name the port that the agent listens on: `port = 9777`", problems);
    }
    section.or("port", None, problems, |value| values::number_u16(value, 1).map(Some)).map(|port| port.value)
}

/// The VIP's path, where the check goes along it. `None` after reporting that it cannot.
fn path(section: &mut Section<'_>, of: Of, problems: &mut Problems) -> Option<Option<Path>> {
    let via = section.or("via", Via::Address, problems, |value| values::one_of(value, &VIAS))?;
    if via.value == Via::Address {
        return Some(None);
    }
    let Some(way) = of.way()? else {
        let label = "nat sends packets to the backend's own address";
        let problem = Problem::new("a check by a path that nat does not have", via.span, label);
        problems.push(problem.help("remove `via`: the check goes there too"));
        return None;
    };
    Some(Some(Path { vip: of.vip?, way }))
}

fn timeout_beyond_interval(interval: &At<Duration>, given: bool, timeout: At<Duration>) -> Problem {
    let (shown_timeout, shown_interval) = (humantime::format_duration(timeout.value), humantime::format_duration(interval.value));
    Problem::new(
        format!("a health check's timeout of {shown_timeout} is longer than its interval of {shown_interval}"),
        timeout.span,
        "longer than the interval",
    )
    .and(interval.span.clone(), if given { "the interval" } else { "the interval, by default, is 1s" })
    .help(format!("a probe must end before the next begins: write a timeout of at most \"{shown_interval}\""))
}

/// The part of the check that its type decides.
fn probe(section: &mut Section<'_>, kind: Option<&At<Kind>>, protocol: Protocol, problems: &mut Problems) -> Option<Probe> {
    let probe = match kind.map(|kind| kind.value) {
        None => None,
        Some(Kind::None) => Some(Probe::None),
        Some(Kind::Tcp) => Some(Probe::Tcp),
        Some(Kind::Http) => http::read(section, false, problems).map(Probe::Http),
        Some(Kind::Https) => http::read(section, true, problems).map(Probe::Http),
        Some(Kind::Grpc) => http::grpc(section, problems).map(Probe::Grpc),
        Some(Kind::Redis) => database::redis(section, problems).map(Probe::Redis),
        Some(Kind::Postgres) => database::postgres(section, problems).map(Probe::Postgres),
        Some(Kind::Script) => script::read(section, problems).map(Probe::Script),
        Some(Kind::Agent) => Some(Probe::Agent),
        Some(Kind::Udp) => network::udp(section, problems).map(Probe::Udp),
        Some(Kind::Dns) => network::dns(section, protocol, problems).map(Probe::Dns),
        Some(Kind::Icmp) => Some(Probe::Icmp),
    };
    kinds::refuse_foreign(section, kind, problems);
    probe
}
