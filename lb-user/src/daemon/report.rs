//! What changed, in words for the log.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use lb_common::BackendId;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::assemble::{BackendKey, Findings, Refused};
use super::control::Names;
use crate::desired::ServiceName;
use crate::discovery::{Backends, Kind};
use crate::failover::{Shift, Turn, in_words};
use crate::health::{Parts, State, Transition};
use crate::journal::Causes;
use crate::nexthop::{Changes, Unresolved};

/// A backend serves, or no longer does, or with another part of its weight.
pub fn transition(transition: &Transition) {
    let Transition { service, backend, from, to, parts, cause, .. } = transition;
    match to {
        _ if from == to => info!(%service, %backend, cause, "backend serves with {}", parts.in_words()),
        State::Up => {
            let serves_with = (*parts != Parts::default()).then(|| parts.in_words());
            info!(%service, %backend, from = %from, cause, serves_with, "backend is up");
        }
        _ => warn!(%service, %backend, from = %from, cause, "backend is {to}"),
    }
}

/// A service's new flows go to others than before, or backends are taken for healthy that are not.
pub fn failover(turn: &Turn, held_before: Option<u8>) {
    let Turn { service, before, now, held, shift } = turn;
    let (from, to, cause) = (in_words(&before.tiers), in_words(&now.tiers), &now.cause);
    match (before.panics, now.panics) {
        (false, true) => warn!(%service, cause, "panic: too few backends are healthy, all are taken for it"),
        (true, false) => info!(%service, cause, to, "no longer in panic"),
        _ if before.tiers.is_empty() => debug!(%service, cause, to, "failover begins"),
        _ if before.tiers != now.tiers => warn!(%service, cause, from, to, "new flows go to others"),
        _ => {}
    }
    match held {
        Some(priority) if *held != held_before => info!(%service, priority, "flows stay there until xlb failback"),
        _ => {}
    }
    if let Some(Shift { before, now }) = shift {
        let (from, to, cause, spilled) = (before.in_words(), now.in_words(), now.cause(), now.spilled());
        match spilled {
            _ if !now.is_any() => warn!(%service, cause, from, "no zone can take new flows"),
            0 if before.spilled() > 0 => info!(%service, cause, from, to, "new flows no longer spill over to other zones"),
            0 => info!(%service, cause, from, to, "zones take other shares of new flows"),
            _ => warn!(%service, cause, from, to, "{spilled}% of new flows spill over to other zones"),
        }
    }
}

/// A source gave another set of backends.
pub fn discovered(service: &ServiceName, source: Kind, now: &Backends, before: Option<&Backends>) {
    let none = Backends::new();
    let before = before.unwrap_or(&none);
    let list = |backends: Vec<String>| shortened(&backends);
    let missing = |these: &Backends, those: &Backends| {
        list(these.keys().filter(|endpoint| !those.contains_key(endpoint)).map(ToString::to_string).collect())
    };
    let (appeared, left) = (missing(now, before), missing(before, now));
    let changed = now.iter().filter_map(|(endpoint, weight)| {
        let earlier = before.get(endpoint).filter(|earlier| *earlier != weight)?;
        Some(format!("{endpoint}: {earlier} -> {weight}"))
    });
    let weights = list(changed.collect());
    let source = source.label();
    info!(%service, source, n_backends = now.len(), appeared, left, weights, "discovery gave another set of backends");
}

/// Discovered endpoints that cannot be backends, but those of which it was said before.
pub fn refused(now: &Refused, said: &Refused) {
    for ((service, source), endpoints) in now.iter().filter(|(key, endpoints)| said.get(key) != Some(endpoints)) {
        let list: Vec<String> = endpoints.iter().map(|(endpoint, reason)| format!("{endpoint} ({reason})")).collect();
        warn!(%service, source = source.label(), "hosts refused: {}", shortened(&list));
    }
}

/// The way to a backend's address was found, or lost.
pub fn next_hops(changes: &Changes, before: &Findings) {
    for (address, answer) in &changes.next_hops {
        match answer {
            Ok(way) if before.last_ways.get(address) != Some(way) => {
                let hop = &way.hop;
                info!(%address, mac = %hop.destination, ifindex = hop.ifindex, redirect = hop.takes_redirects, "next hop found");
            }
            Ok(_) | Err(Unresolved::NeighbourPending { .. }) => {}
            Err(reason) => warn!(%address, %reason, "no next hop"),
        }
    }
}

/// Why DSR cannot reach a backend.
pub fn behind(gateway: IpAddr) -> String {
    format!("not reachable by DSR: behind gateway {gateway}; use nat")
}

/// Backends that DSR cannot reach, but those of which it was said before.
pub fn behind_gateways(now: &BTreeMap<BackendKey, IpAddr>, said: &BTreeMap<BackendKey, IpAddr>) {
    for (key, &gateway) in now.iter().filter(|(key, gateway)| said.get(key) != Some(gateway)) {
        warn!(service = %key.0, backend = %key.1, "{}", behind(gateway));
    }
}

/// The maps were changed: by service, how many slots went from whom to whom.
pub fn change(
    moves: &BTreeMap<(BackendId, BackendId), usize>,
    names: &Names,
    n_writes: usize,
    took: Duration,
    since: Option<Instant>,
    causes: &Causes,
) {
    let took_ms = tenths_of_ms(took);
    let after_ms = since.map(|since| tenths_of_ms(since.elapsed()));
    let mut by_service: BTreeMap<&ServiceName, (usize, Vec<String>)> = BTreeMap::new();
    let name = |id: &BackendId| names.get(id).map_or_else(|| "nobody".to_owned(), |(_, endpoint)| endpoint.to_string());
    for ((from, to), &n_slots) in moves {
        let Some((service, _)) = names.get(to).or_else(|| names.get(from)) else { continue };
        let (sum, list) = by_service.entry(service).or_default();
        *sum += n_slots;
        list.push(format!("{} -> {}: {n_slots}", name(from), name(to)));
    }
    for (service, (n_slots, list)) in &by_service {
        let cause = causes.of(service);
        info!(%service, n_slots, moved = shortened(list), cause, took_ms, after_ms, "slots moved");
    }
    if by_service.is_empty() && since.is_none() {
        // Slots that come to rest, for one: nothing that anybody waits for.
        debug!(n_writes, took_ms, "tables changed");
    } else if by_service.is_empty() {
        info!(n_writes, took_ms, after_ms, "tables changed");
    }
}

/// The first problem of a report, and its place, without the lines that show it.
pub fn in_one_line(report: &str) -> String {
    let mut lines = report.lines().map(str::trim);
    let problem = lines.next().unwrap_or_default();
    let place = lines.next().filter(|line| line.starts_with("-->"));
    let problem = problem.strip_prefix("error: ").unwrap_or(problem);
    place.map_or_else(|| problem.to_owned(), |place| format!("{problem} {place}"))
}

/// Milliseconds to one decimal: what comes after it is noise, and nobody reads it.
fn tenths_of_ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e4).round() / 10.0
}

/// The first few of a list: a line of log is not a table.
fn shortened(list: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut text = list.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    if list.len() > SHOWN {
        text.push_str(&format!(", and {} more", list.len() - SHOWN));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_in_one_line_says_what_and_where() {
        let error = crate::config::parse("xlb.toml", "[xdp]\ninterfaces = 7\n").unwrap_err();
        assert_eq!(in_one_line(&error.to_string()), "invalid `interfaces` in [xdp] --> xlb.toml:2:14");
        assert_eq!(in_one_line("xdp.mode cannot change while running"), "xdp.mode cannot change while running");
    }

    #[test]
    fn times_are_logged_in_milliseconds_with_one_decimal() {
        let cases = [(0, "0.0"), (49, "0.0"), (50, "0.1"), (1_249, "1.2"), (2_500_000, "2500.0")];
        for (micros, expected) in cases {
            assert_eq!(format!("{:?}", tenths_of_ms(Duration::from_micros(micros))), expected, "{micros} us");
        }
    }
}
