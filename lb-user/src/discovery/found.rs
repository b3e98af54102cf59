//! What a source has found, and which of it can be backends. Pure.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use super::{AddressFamily, Backends};
use crate::config::{self, unusable};

/// Hosts taken from one answer. A source with more is mistaken or lies; the limit keeps either from filling the maps.
pub(super) const HOSTS_MAX: usize = 1024;

/// What a service can have for a backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    family: AddressFamily,
    /// The service's; 0 is every port.
    port: u16,
    /// Packets reach the backend on whatever port it names.
    rewrites_port: bool,
}

impl Place {
    pub fn of(service: &config::Service) -> Self {
        let rewrites_port = service.forward.translates() && service.port != 0;
        Self { family: AddressFamily::of(service.vip), port: service.port, rewrites_port }
    }

    pub(super) fn family(self) -> AddressFamily {
        self.family
    }

    /// Where packets reach a host, or why they cannot.
    fn endpoint(self, host: &Host) -> Result<SocketAddr, String> {
        if let Some(reason) = unusable(host.address) {
            return Err(reason.to_owned());
        }
        if AddressFamily::of(host.address) != self.family {
            return Err("it is not of the VIP's family".to_owned());
        }
        let port = match host.port {
            0 if self.port != 0 => return Err("port 0 is no port".to_owned()),
            port if self.rewrites_port => port,
            port if port == self.port || self.port == 0 => self.port,
            port => return Err(format!("port {port}, but this service's backends serve on its own port {}", self.port)),
        };
        Ok(SocketAddr::new(host.address, port))
    }
}

/// One host as a source names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Host {
    pub(super) address: IpAddr,
    pub(super) port: u16,
    pub(super) weight: u16,
    /// The lesser comes first; 0 where a source has no such thing.
    pub(super) priority: u16,
}

/// All that a source said.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Found {
    /// In any order.
    pub(super) hosts: Vec<Host>,
    /// What it named that could not be read as a host, each with the reason.
    pub(super) unread: Vec<String>,
}

/// What of it can be used.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Usable {
    /// Those of the least priority that anybody usable has.
    pub(super) backends: Backends,
    /// Usable, but of a greater priority.
    pub(super) n_standby: usize,
    pub(super) n_refused: usize,
    /// What was refused and why; empty if nothing was. The same for the same hosts in any order.
    pub(super) refused: String,
}

impl Found {
    pub(super) fn usable(&self, place: Place) -> Usable {
        let hosts: BTreeSet<&Host> = self.hosts.iter().collect();
        let mut by_priority: BTreeMap<u16, Backends> = BTreeMap::new();
        let mut reasons: Vec<String> = self.unread.clone();
        reasons.sort();
        for host in hosts {
            match place.endpoint(host) {
                Ok(endpoint) => {
                    // Named twice, as by two names in SRV, a backend has the greater weight: which came first says nothing.
                    match by_priority.entry(host.priority).or_default().entry(endpoint) {
                        Entry::Vacant(free) => drop(free.insert(host.weight)),
                        Entry::Occupied(mut weight) => *weight.get_mut() = host.weight.max(*weight.get()),
                    }
                }
                Err(reason) => reasons.push(format!("{} ({reason})", host.address)),
            }
        }
        let (mut n_refused, mut refused) = (reasons.len(), Vec::new());
        if let Some(first) = reasons.first() {
            refused.push(format!("{} that cannot be backends, such as {first}", reasons.len()));
        }
        let mut backends = by_priority.pop_first().map(|(_, backends)| backends).unwrap_or_default();
        if let Some(first_beyond) = backends.keys().nth(HOSTS_MAX).copied() {
            let n_beyond = backends.split_off(&first_beyond).len();
            n_refused += n_beyond;
            refused.push(format!("{n_beyond} beyond the first {HOSTS_MAX}"));
        }
        let n_standby = by_priority.values().map(BTreeMap::len).sum();
        Usable { backends, n_standby, n_refused, refused: refused.join(", and ") }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    const DSR: Place = Place { family: AddressFamily::V4, port: 80, rewrites_port: false };
    const NAT: Place = Place { rewrites_port: true, ..DSR };
    const EVERY_PORT: Place = Place { port: 0, ..DSR };

    fn host(address: impl Into<IpAddr>, port: u16, weight: u16, priority: u16) -> Host {
        Host { address: address.into(), port, weight, priority }
    }

    /// Hosts at port 80 with weight 1.
    fn found(addresses: &[&str]) -> Found {
        let hosts = addresses.iter().map(|address| host(address.parse::<IpAddr>().unwrap(), 80, 1, 0)).collect();
        Found { hosts, unread: Vec::new() }
    }

    fn named(usable: &Usable) -> Vec<(String, u16)> {
        usable.backends.iter().map(|(endpoint, weight)| (endpoint.to_string(), *weight)).collect()
    }

    #[test]
    fn addresses_that_no_backend_can_have_are_refused() {
        let lies = ["10.0.0.2", "0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.0.1", "10.0.0.2"];
        let usable = found(&lies).usable(DSR);
        assert_eq!(named(&usable), [("10.0.0.1:80".into(), 1), ("10.0.0.2:80".into(), 1)]);
        assert_eq!(usable.refused, "4 that cannot be backends, such as 0.0.0.0 (this is the unspecified address)");
        assert_eq!(usable.n_refused, 4);

        let v6 = Place { family: AddressFamily::V6, ..DSR };
        let usable = found(&["::", "::1", "ff02::1", "fe80::1", "::ffff:10.0.0.1", "10.0.0.1", "2001:db8::1"]).usable(v6);
        assert_eq!(named(&usable), [("[2001:db8::1]:80".into(), 1)]);
        assert_eq!(usable.n_refused, 6);
    }

    #[test]
    fn a_port_is_the_hosts_by_nat_and_the_services_by_dsr() {
        let hosts = [80, 0, 8080].map(|port| host([10, 0, 0, 1], port, 1, 0)).to_vec();
        let found = Found { hosts, unread: Vec::new() };
        let ports = |place| found.usable(place).backends.keys().map(SocketAddr::port).collect::<Vec<_>>();
        assert_eq!(ports(DSR), [80]);
        assert_eq!(ports(NAT), [80, 8080]);
        assert_eq!(ports(EVERY_PORT), [0]);
        let refused = found.usable(DSR).refused;
        assert_eq!(refused, "2 that cannot be backends, such as 10.0.0.1 (port 0 is no port)");
    }

    #[test]
    fn the_least_priority_with_anybody_usable_holds_and_the_others_stand_by() {
        let mut found = Found {
            hosts: vec![
                host([127, 0, 0, 1], 80, 9, 1),
                host([10, 0, 0, 1], 80, 3, 10),
                host([10, 0, 0, 2], 80, 5, 10),
                host([10, 0, 0, 3], 80, 7, 20),
            ],
            unread: Vec::new(),
        };
        let usable = found.usable(DSR);
        assert_eq!(named(&usable), [("10.0.0.1:80".into(), 3), ("10.0.0.2:80".into(), 5)]);
        assert_eq!((usable.n_standby, usable.n_refused), (1, 1));
        found.hosts.retain(|host| host.priority != 10);
        let usable = found.usable(DSR);
        assert_eq!((named(&usable), usable.n_standby), (vec![("10.0.0.3:80".into(), 7)], 0));
    }

    #[test]
    fn what_could_not_be_read_is_refused_too() {
        let found = Found { unread: vec!["container b: x".into(), "container a: y".into()], ..found(&["10.0.0.1"]) };
        let usable = found.usable(DSR);
        assert_eq!((usable.backends.len(), usable.n_refused), (1, 2));
        assert_eq!(usable.refused, "2 that cannot be backends, such as container a: y");
    }

    #[test]
    fn of_too_many_the_first_in_order_are_kept() {
        let hosts = (0..1030u32).rev().map(|n| host(Ipv4Addr::from(0x0a00_0000 + n), 80, 1, 0)).collect();
        let usable = Found { hosts, unread: Vec::new() }.usable(DSR);
        assert_eq!(usable.backends.len(), HOSTS_MAX);
        assert_eq!(usable.backends.last_key_value().unwrap().0.to_string(), "10.0.3.255:80");
        assert_eq!((usable.refused.as_str(), usable.n_refused), ("6 beyond the first 1024", 6));
    }

    proptest! {
        // Few and big.
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn nothing_unusable_and_nothing_beyond_the_limit_passes(
            hosts in prop::collection::vec((any::<IpAddr>(), any::<u16>(), any::<u16>(), 0..3u16), 0..3000),
            seed in any::<u64>(),
        ) {
            let hosts: Vec<Host> = hosts.into_iter().map(|(address, port, weight, priority)| host(address, port, weight, priority)).collect();
            let usable = Found { hosts: hosts.clone(), unread: Vec::new() }.usable(NAT);
            prop_assert!(usable.backends.len() <= HOSTS_MAX);
            let is_right = |endpoint: &SocketAddr| {
                let is_named = hosts.iter().any(|host| (host.address, host.port) == (endpoint.ip(), endpoint.port()));
                is_named && endpoint.is_ipv4() && unusable(endpoint.ip()).is_none() && endpoint.port() != 0
            };
            prop_assert!(usable.backends.keys().all(is_right));
            let mut shuffled = hosts;
            fastrand::Rng::with_seed(seed).shuffle(&mut shuffled);
            prop_assert_eq!(Found { hosts: shuffled, unread: Vec::new() }.usable(NAT), usable);
        }
    }
}
