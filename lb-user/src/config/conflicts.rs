//! What is wrong between parts that are right by themselves: the same thing claimed twice, and too much of everything.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use lb_common::limits;

use super::report::{Problem, Problems};
use super::service::ServiceDraft;
use crate::desired::{Forward, Protocol};

pub(super) fn report(services: &[ServiceDraft], problems: &mut Problems) {
    too_many(services, problems);
    names(services, problems);
    vips(services, problems);
    services.iter().for_each(|service| backends(service, problems));
    nat_replies(services, problems);
}

/// Remembers who claimed what first.
struct Claims<K>(HashMap<K, Range<usize>>);

impl<K: Eq + Hash> Claims<K> {
    fn new() -> Self {
        Self(HashMap::new())
    }

    /// Claims `key`, or yields where it was claimed before.
    fn claim(&mut self, key: K, span: &Range<usize>) -> Option<Range<usize>> {
        match self.0.entry(key) {
            std::collections::hash_map::Entry::Occupied(first) => Some(first.get().clone()),
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(span.clone());
                None
            }
        }
    }
}

fn names(services: &[ServiceDraft], problems: &mut Problems) {
    let mut claims = Claims::new();
    for name in services.iter().filter_map(|service| service.name.as_ref()) {
        if let Some(first) = claims.claim(&name.value, &name.span) {
            problems.push(
                Problem::new(format!("two services are named \"{}\"", name.value), name.span.clone(), "again here")
                    .and(first, "first here")
                    .help("metrics and logs tell services apart by name: rename one of them"),
            );
        }
    }
}

fn vips(services: &[ServiceDraft], problems: &mut Problems) {
    let mut claims = Claims::new();
    for listens in services.iter().filter_map(|service| service.listens.as_ref()) {
        if let Some(first) = claims.claim(listens.value, &listens.span) {
            let super::service::Listens { vip, port, protocol } = listens.value;
            let port = if port == 0 { "every port".to_owned() } else { format!("port {port}") };
            problems.push(
                Problem::new(format!("two services take {protocol} to {vip}, {port}"), listens.span.clone(), "again here")
                    .and(first, "first here")
                    .help("a packet belongs to one service: merge their backends, or change a VIP, port or protocol"),
            );
        }
    }
}

fn backends(service: &ServiceDraft, problems: &mut Problems) {
    let mut claims = Claims::new();
    for backend in service.backends.iter().flatten() {
        if let Some(first) = claims.claim(backend.value.endpoint, &backend.span) {
            problems.push(
                Problem::new(format!("backend {} is named twice", backend.value.endpoint), backend.span.clone(), "again here")
                    .and(first, "first here")
                    .help("to give it more traffic, raise its `weight`"),
            );
        }
    }
}

/// A reply bears the backend's address, port and protocol, and these alone say which service's VIP it must leave under.
/// Port 0 is every port, and overlaps with each.
fn nat_replies(services: &[ServiceDraft], problems: &mut Problems) {
    let mut exact: Claims<(SocketAddr, Protocol)> = Claims::new();
    let mut any_of_host: Claims<(IpAddr, Protocol)> = Claims::new();
    let mut every_port: Claims<(IpAddr, Protocol)> = Claims::new();
    for service in services.iter().filter(|service| service.forward == Some(Forward::Nat)) {
        let Some(protocol) = service.listens.as_ref().map(|listens| listens.value.protocol) else { continue };
        // A backend twice in one service is that service's fault, reported there; the first stands for both.
        let mut own = Claims::new();
        for backend in service.backends.iter().flatten() {
            let endpoint = backend.value.endpoint;
            if own.claim(endpoint, &backend.span).is_some() {
                continue;
            }
            let host = (endpoint.ip(), protocol);
            let overlap = if endpoint.port() == 0 {
                every_port.claim(host, &backend.span);
                any_of_host.0.get(&host).cloned()
            } else {
                exact.claim((endpoint, protocol), &backend.span).or_else(|| every_port.0.get(&host).cloned())
            };
            any_of_host.claim(host, &backend.span);
            if let Some(first) = overlap {
                let shown = match endpoint.port() {
                    0 => format!("{}, every port", endpoint.ip()),
                    _ => endpoint.to_string(),
                };
                problems.push(
                    Problem::new(
                        format!("two nat services have the backend {shown} ({protocol})"),
                        backend.span.clone(),
                        "again here",
                    )
                    .and(first, "first here")
                    .help(
                        "its replies could not be told apart: let it serve each on a port of its own, \
                         or use `forward = \"dsr\"` for one of the services",
                    ),
                );
            }
        }
    }
}

fn too_many(services: &[ServiceDraft], problems: &mut Problems) {
    let past = |limit: u32| limit.try_into().unwrap_or(usize::MAX);
    if let Some(first_beyond) = services.get(past(limits::SERVICES)) {
        let span = first_beyond.name.as_ref().map_or(0..0, |name| name.span.clone());
        let title = format!("{} services, but xlb holds at most {}", services.len(), limits::SERVICES);
        problems.push(Problem::new(title, span, "the first beyond").help("spread them over several daemons"));
    }
    let mut backends = services.iter().flat_map(|service| service.backends.iter());
    let n_backends = backends.clone().count();
    if let Some(first_beyond) = backends.nth(past(limits::BACKENDS)) {
        let span = first_beyond.as_ref().map_or(0..0, |backend| backend.span.clone());
        let title = format!("{n_backends} backends, but xlb holds at most {}", limits::BACKENDS);
        problems.push(Problem::new(title, span, "the first beyond").help("spread them over several daemons"));
    }
}
