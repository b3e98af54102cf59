//! One question to a name server, and what can go wrong with it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::read_system_conf;

use super::AddressFamily;
use super::answer::Answer;

/// For one server's answer over one protocol.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(2);
/// Once more after a lost datagram.
const ATTEMPTS: usize = 2;
/// For all servers, attempts and protocols.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);

/// What to ask, and whom.
#[derive(Clone, Debug)]
pub(super) struct Question {
    pub(super) name: String,
    pub(super) family: AddressFamily,
    /// `None` asks the system's.
    pub(super) server: Option<SocketAddr>,
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Failure {
    pub(super) kind: FailureKind,
    pub(super) text: String,
}

/// What is logged once, not at each retry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum FailureKind {
    NoSuchName,
    NoAddresses,
    /// The server answered with another error.
    Refused,
    TimedOut,
    /// There is no way to ask: no server configured, none reachable.
    Unreachable,
}

impl Failure {
    pub(super) fn new(kind: FailureKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Question {
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
        let record_type = match self.family {
            AddressFamily::V4 => RecordType::A,
            AddressFamily::V6 => RecordType::AAAA,
        };
        let lookup = self.resolver()?.lookup(name, record_type).await.map_err(|error| described(&error))?;
        // Half an answer would look as if the other backends had left.
        if lookup.message().truncation {
            return Err(Failure::new(FailureKind::Refused, "the answer is truncated, over TCP too"));
        }
        let records = lookup.answers();
        let address = |data: &RData| match data {
            RData::A(a) => Some(IpAddr::V4(a.0)),
            RData::AAAA(aaaa) => Some(IpAddr::V6(aaaa.0)),
            _ => None,
        };
        let addresses: Vec<IpAddr> = records.iter().filter_map(|record| address(&record.data)).collect();
        if addresses.is_empty() {
            return Err(Failure::new(FailureKind::NoAddresses, "the name has no address of the VIP's family"));
        }
        // Aliases on the way have TTLs too.
        let ttl = records.iter().map(|record| record.ttl).min().unwrap_or(0);
        Ok(Answer { addresses, ttl: Duration::from_secs(ttl.into()) })
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

fn at_port(mut connection: ConnectionConfig, port: u16) -> ConnectionConfig {
    connection.port = port;
    connection
}

fn described(error: &NetError) -> Failure {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(none)) => match none.response_code {
            ResponseCode::NXDomain => Failure::new(FailureKind::NoSuchName, "the name does not exist"),
            ResponseCode::NoError => Failure::new(FailureKind::NoAddresses, "the name has no address of the VIP's family"),
            code => Failure::new(FailureKind::Refused, format!("the name server answered: {code}")),
        },
        NetError::Dns(DnsError::ResponseCode(code)) => {
            Failure::new(FailureKind::Refused, format!("the name server answered: {code}"))
        }
        NetError::Timeout => Failure::new(FailureKind::TimedOut, "the name server does not answer"),
        error => Failure::new(FailureKind::Unreachable, error.to_string()),
    }
}
