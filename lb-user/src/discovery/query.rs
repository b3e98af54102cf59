//! One question to a name server, and what can go wrong with it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::rdata::SRV;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;

use super::AddressFamily;
use super::answer::Answer;
use super::found::{Found, HOSTS_MAX, Host};
use super::teller::{Failure, FailureKind};
use crate::config::{Dns, DnsRecord};

/// For one server's answer over one protocol.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Once more after a lost datagram.
const ATTEMPTS: usize = 2;
/// For all servers, attempts and protocols, and for all targets of SRV records.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Targets of SRV records whose addresses are asked for at once.
const TARGETS_AT_ONCE: usize = 16;

/// What to ask, and whom.
#[derive(Clone, Debug)]
pub(super) struct Question {
    name: String,
    record: DnsRecord,
    family: AddressFamily,
    /// `None` asks the system's.
    server: Option<SocketAddr>,
    /// Where records say none.
    port: u16,
    weight: u16,
}

impl Question {
    pub(super) fn new(dns: &Dns, family: AddressFamily) -> Self {
        let Dns { name, record, resolver, port, weight, .. } = dns;
        Self { name: name.clone(), record: *record, family, server: *resolver, port: *port, weight: *weight }
    }

    /// Asks, over UDP and, if an answer does not fit, over TCP.
    ///
    /// Each time with a resolver made anew: none of hickory's caches answers instead of the server, and changes of
    /// `/etc/resolv.conf` take effect.
    pub(super) async fn ask(&self) -> Result<Answer, Failure> {
        let late = || Failure::new(FailureKind::TimedOut, format!("no answer within {} s", QUERY_TIMEOUT.as_secs()));
        tokio::time::timeout(QUERY_TIMEOUT, self.ask_without_end()).await.map_err(|_| late())?
    }

    async fn ask_without_end(&self) -> Result<Answer, Failure> {
        let mut name = Name::from_ascii(&self.name).map_err(|error| Failure::new(FailureKind::NoSuchName, error.to_string()))?;
        // Search domains are the system's; a server of the operator's own is asked for the name as it stands.
        if self.server.is_some() {
            name.set_fqdn(true);
        }
        let resolver = self.resolver()?;
        match self.record {
            DnsRecord::Address => {
                let (addresses, ttl_s) = self.addresses(&resolver, name).await?;
                let host = |address| Host { address, port: self.port, weight: self.weight, priority: 0 };
                Ok(answer(addresses.into_iter().map(host).collect(), Vec::new(), ttl_s))
            }
            DnsRecord::Srv => self.services(&resolver, name).await,
        }
    }

    fn record_type(&self) -> RecordType {
        match self.family {
            AddressFamily::V4 => RecordType::A,
            AddressFamily::V6 => RecordType::AAAA,
        }
    }

    /// The addresses of a name, and the shortest TTL on the way there in seconds.
    async fn addresses(&self, resolver: &TokioResolver, name: Name) -> Result<(Vec<IpAddr>, u32), Failure> {
        let lookup = look_up(resolver, name, self.record_type()).await?;
        let addresses: Vec<IpAddr> = lookup.answers().iter().filter_map(|record| address(&record.data)).collect();
        if addresses.is_empty() {
            return Err(no_records(self.record_type()));
        }
        Ok((addresses, shortest(lookup.answers())))
    }

    /// The hosts that SRV records name (RFC 2782).
    ///
    /// A target that certainly has no address is left out; one whose address could not be asked for makes the whole query fail,
    /// because half an answer would look as if the other backends had left.
    async fn services(&self, resolver: &TokioResolver, name: Name) -> Result<Answer, Failure> {
        let lookup = look_up(resolver, name, RecordType::SRV).await?;
        let mut records: Vec<&SRV> = lookup.answers().iter().filter_map(|record| service(&record.data)).collect();
        // "." says that decidedly nobody offers the service.
        records.retain(|record| !record.target.is_root());
        if records.is_empty() {
            return Err(no_records(RecordType::SRV));
        }
        // In an order of their own, so that of too many the same ones are asked for each time.
        records.sort_by(|a, b| (a.priority, &a.target, a.port).cmp(&(b.priority, &b.target, b.port)));
        let mut unread = Vec::new();
        if records.len() > HOSTS_MAX {
            unread.push(format!("{} records beyond the first {HOSTS_MAX}", records.len() - HOSTS_MAX));
            records.truncate(HOSTS_MAX);
        }
        let mut targets: Vec<Name> = records.iter().map(|record| record.target.clone()).collect();
        targets.sort();
        targets.dedup();
        // Servers may send the addresses along.
        let sent_along = |target: &Name| -> Option<(Vec<IpAddr>, u32)> {
            let records = lookup.additionals().iter().filter(|record| &record.name == target);
            let found: Vec<_> = records.filter_map(|record| Some((address(&record.data)?, record.ttl))).collect();
            let found: Vec<_> = found.into_iter().filter(|(ip, _)| AddressFamily::of(*ip) == self.family).collect();
            let ttl_s = found.iter().map(|(_, ttl_s)| *ttl_s).min()?;
            Some((found.into_iter().map(|(ip, _)| ip).collect(), ttl_s))
        };
        let resolve = async |target: Name| {
            let addresses = match sent_along(&target) {
                Some(addresses) => Ok(addresses),
                None => self.addresses(resolver, target.clone()).await,
            };
            match addresses {
                Ok(addresses) => Ok((target, Some(addresses))),
                Err(failure) if matches!(failure.kind, FailureKind::NoSuchName | FailureKind::NoHosts) => Ok((target, None)),
                Err(failure) => Err(Failure::new(failure.kind, format!("target {target}: {failure}"))),
            }
        };
        let resolved: BTreeMap<Name, Option<(Vec<IpAddr>, u32)>> =
            stream::iter(targets).map(resolve).buffer_unordered(TARGETS_AT_ONCE).try_collect().await?;
        let mut ttl_s = shortest(lookup.answers());
        let mut hosts = Vec::new();
        for record in records {
            match resolved.get(&record.target) {
                Some(Some((addresses, target_ttl_s))) => {
                    ttl_s = ttl_s.min(*target_ttl_s);
                    // RFC 2782 has 0 for "little", not for "nothing".
                    let (port, weight, priority) = (record.port, record.weight.max(1), record.priority);
                    hosts.extend(addresses.iter().map(|&address| Host { address, port, weight, priority }));
                }
                _ => unread.push(format!("target {} (it has no address of the VIP's family)", record.target)),
            }
        }
        Ok(answer(hosts, unread, ttl_s))
    }

    fn resolver(&self) -> Result<TokioResolver, Failure> {
        let unreachable = |error: NetError| Failure::new(FailureKind::Unreachable, error.to_string());
        let provider = TokioRuntimeProvider::default();
        let mut builder = match self.server {
            Some(server) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()];
                let connections = connections.map(|connection| at_port(connection, server.port())).to_vec();
                let server = NameServerConfig::new(server.ip(), true, connections);
                TokioResolver::builder_with_config(ResolverConfig::from_parts(None, Vec::new(), vec![server]), provider)
            }
            None => {
                let (config, options) = read_system_conf().map_err(unreachable)?;
                TokioResolver::builder_with_config(config, provider).with_options(options)
            }
        };
        let options = builder.options_mut();
        options.timeout = ATTEMPT_TIMEOUT;
        options.attempts = ATTEMPTS;
        options.cache_size = 0;
        options.preserve_intermediates = true;
        // Backends come from DNS, not from a file that resolves the name for this machine only.
        options.use_hosts_file = ResolveHosts::Never;
        builder.build().map_err(unreachable)
    }
}

fn answer(hosts: Vec<Host>, unread: Vec<String>, ttl_s: u32) -> Answer {
    Answer { found: Found { hosts, unread }, ttl: Duration::from_secs(ttl_s.into()) }
}

/// Half an answer is an error: it would look as if the other backends had left.
async fn look_up(resolver: &TokioResolver, name: Name, record: RecordType) -> Result<Lookup, Failure> {
    let lookup = resolver.lookup(name, record).await.map_err(|error| described(&error, record))?;
    if lookup.message().truncation {
        return Err(Failure::new(FailureKind::Refused, "the answer is truncated, over TCP too"));
    }
    Ok(lookup)
}

/// In seconds. Aliases on the way have TTLs too.
fn shortest(records: &[Record]) -> u32 {
    records.iter().map(|record| record.ttl).min().unwrap_or(0)
}

fn address(data: &RData) -> Option<IpAddr> {
    match data {
        RData::A(a) => Some(IpAddr::V4(a.0)),
        RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
        _ => None,
    }
}

fn service(data: &RData) -> Option<&SRV> {
    match data {
        RData::SRV(srv) => Some(srv),
        _ => None,
    }
}

fn at_port(mut connection: ConnectionConfig, port: u16) -> ConnectionConfig {
    connection.port = port;
    connection
}

fn no_records(record: RecordType) -> Failure {
    let what = if record == RecordType::SRV { "SRV record" } else { "address of the VIP's family" };
    Failure::new(FailureKind::NoHosts, format!("the name has no {what}"))
}

fn described(error: &NetError, record: RecordType) -> Failure {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Failure::new(FailureKind::NoSuchName, "the name does not exist"),
            ResponseCode::NoError => no_records(record),
            code => Failure::new(FailureKind::Refused, format!("the name server answered: {code}")),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => {
            Failure::new(FailureKind::Refused, format!("the name server answered: {code}"))
        }
        NetError::Timeout => Failure::new(FailureKind::TimedOut, "the name server does not answer"),
        error => Failure::new(FailureKind::Unreachable, error.to_string()),
    }
}
