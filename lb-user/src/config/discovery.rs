//! `[service.dns]`, `[service.file]` and `[service.docker]`: where backends are found.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::DeValue;

use super::report::{Problem, Problems};
use super::section::{At, Fault, Section};
use super::service::{Rules, WEIGHT_DEFAULT, weight};
use super::{Dns, DnsRecord, Docker, File, FileFormat, Rank, Trust, failover, values, zones};
use crate::discovery::Kind;
use crate::failover::Tier;

/// The sections of a service that backends may come from.
pub(super) const KEYS: [&str; 3] = ["dns", "file", "docker"];

const RECORDS: [(&str, DnsRecord); 2] = [("address", DnsRecord::Address), ("SRV", DnsRecord::Srv)];
const DNS_PORT: u16 = 53;
const RESOLVER_EXAMPLE: &str = "10.0.0.53:53";
const INTERVAL_DEFAULT: Duration = Duration::from_secs(60);
const FILE_INTERVAL_DEFAULT: Duration = Duration::from_secs(10);
const INTERVAL_MIN: Duration = Duration::from_secs(1);
const SOCKET_DEFAULT: &str = "/var/run/docker.sock";
/// What every container of a service bears, with the service's name, unless the configuration asks for others.
const LABEL: &str = "xlb.service";
/// More than one source's hosts are never taken.
const MIN_HOSTS_MAX: u32 = 1024;

/// All sources of a service.
pub(super) struct Sources {
    pub(super) dns: Option<Dns>,
    pub(super) file: Option<File>,
    pub(super) docker: Option<Docker>,
    pub(super) ranks: Ranks,
}

/// Where the backends of each source belong, at the place of its zone.
pub(super) type Ranks = BTreeMap<Kind, At<Rank>>;

/// `service` is the service's name, if that was not refused. Yields `None` after reporting what is wrong.
pub(super) fn read(section: &mut Section<'_>, rules: &Rules, service: Option<&str>, problems: &mut Problems) -> Option<Sources> {
    // Each is read whatever becomes of the others.
    let dns = read_one(section, "dns", "[service.dns]", problems, |section, problems| dns(section, rules, problems));
    let file = read_one(section, "file", "[service.file]", problems, |section, problems| file(section, rules, problems));
    let docker =
        read_one(section, "docker", "[service.docker]", problems, |section, problems| docker(section, rules, service, problems));
    let (dns, file, docker) = (dns?, file?, docker?);
    let mut ranks = Ranks::new();
    let dns = dns.map(|(dns, rank)| (dns, ranks.insert(Kind::Dns, rank)).0);
    let file = file.map(|(file, rank)| (file, ranks.insert(Kind::File, rank)).0);
    let docker = docker.map(|(docker, rank)| (docker, ranks.insert(Kind::Docker, rank)).0);
    Some(Sources { dns, file, docker, ranks })
}

/// A source and where its backends belong. `Some(None)` without such a section, `None` if it was refused.
fn read_one<T>(
    parent: &mut Section<'_>,
    key: &'static str,
    place: &'static str,
    problems: &mut Problems,
    read: impl FnOnce(Section<'_>, &mut Problems) -> Option<T>,
) -> Option<Option<(T, At<Rank>)>> {
    let is_given = parent.has(key);
    match parent.table(key, place, problems) {
        Some(mut section) => {
            let priority = failover::priority(&mut section, problems);
            let zone = zones::zone(&mut section, problems);
            let source = read(section, problems)?;
            let At { value: zone, span } = zone?;
            Some(Some((source, At { value: Rank { tier: Tier::Priority(priority?), zone }, span })))
        }
        None if is_given => None,
        None => Some(None),
    }
}

fn dns(mut section: Section<'_>, rules: &Rules, problems: &mut Problems) -> Option<Dns> {
    let help = "the name whose addresses are the backends: `name = \"api.internal\"`";
    let name = section.required("name", help, problems, values::dns_name);
    let record = section.or("type", DnsRecord::default(), problems, |value| values::one_of(value, &RECORDS));
    let is_srv = record.as_ref().is_some_and(|record| record.value == DnsRecord::Srv);
    let (port, weight) = if is_srv {
        refuse_what_records_say(&mut section, problems);
        (Some(0), Some(WEIGHT_DEFAULT))
    } else {
        (rules.port(&mut section, problems), weight(&mut section, problems))
    };
    let resolver = section.or("resolver", None, problems, |value| resolver(value).map(Some));
    let interval = interval(&mut section, INTERVAL_DEFAULT, problems);
    // A name without addresses is far more often a mistake than a service that nobody serves.
    let trust = trust(&mut section, 1, problems);
    section.finish(problems);
    let (name, record, resolver) = (name?.value, record?.value, resolver?.value);
    Some(Dns { name, record, port: port?, resolver, interval: interval?, weight: weight?, trust: trust? })
}

fn refuse_what_records_say(section: &mut Section<'_>, problems: &mut Problems) {
    for key in ["port", "weight"] {
        if let Some(span) = section.dismiss(key) {
            let title = format!("`{key}` beside `type = \"SRV\"`");
            let problem = Problem::new(title, span, "each SRV record says its own");
            problems.push(problem.help(format!("remove `{key}`, or use `type = \"address\"`")));
        }
    }
}

fn file(mut section: Section<'_>, rules: &Rules, problems: &mut Problems) -> Option<File> {
    let help = "the file that names the backends: `path = \"/etc/xlb/backends.json\"`";
    let path = section.required("path", help, problems, file_path);
    let port = rules.port(&mut section, problems);
    let weight = weight(&mut section, problems);
    let interval = interval(&mut section, FILE_INTERVAL_DEFAULT, problems);
    let trust = trust(&mut section, 0, problems);
    section.finish(problems);
    let (path, format) = path?.value;
    Some(File { path, format, port: port?, weight: weight?, interval: interval?, trust: trust? })
}

fn docker(mut section: Section<'_>, rules: &Rules, service: Option<&str>, problems: &mut Problems) -> Option<Docker> {
    let socket = section.or("socket", PathBuf::from(SOCKET_DEFAULT), problems, socket);
    let own = service.map(|name| format!("{LABEL}={name}")).into_iter().collect();
    let labels = section.or("labels", own, problems, labels);
    let network = section.or("network", None, problems, |value| network(value).map(Some));
    let port = rules.port(&mut section, problems);
    let weight = weight(&mut section, problems);
    let interval = interval(&mut section, INTERVAL_DEFAULT, problems);
    let trust = trust(&mut section, 0, problems);
    section.finish(problems);
    let (socket, labels, network) = (socket?.value, labels?.value, network?.value);
    Some(Docker { socket, labels, network, port: port?, weight: weight?, interval: interval?, trust: trust? })
}

fn interval(section: &mut Section<'_>, default: Duration, problems: &mut Problems) -> Option<Duration> {
    let interval = section.or("interval", default, problems, |value| values::duration(value, INTERVAL_MIN))?;
    Some(interval.value)
}

fn trust(section: &mut Section<'_>, min_hosts: u32, problems: &mut Problems) -> Option<Trust> {
    let stale = section.or("stale", None, problems, |value| values::duration(value, INTERVAL_MIN).map(Some));
    let min_hosts = section.or("min_hosts", min_hosts, problems, |value| values::integer(value, min_hosts, MIN_HOSTS_MAX));
    let min_hosts = usize::try_from(min_hosts?.value).unwrap_or(usize::MAX);
    Some(Trust { stale: stale?.value, min_hosts })
}

fn resolver(value: &DeValue<'_>) -> Result<SocketAddr, Fault> {
    let address = values::socket_address(value, Some(DNS_PORT), RESOLVER_EXAMPLE)?;
    if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
        return Err(Fault::new("no server can be asked here", format!("write it as \"{RESOLVER_EXAMPLE}\"")));
    }
    Ok(address)
}

fn file_path(value: &DeValue<'_>) -> Result<(PathBuf, FileFormat), Fault> {
    let path = values::absolute_path(value)?;
    let format = match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => FileFormat::Json,
        Some("toml") => FileFormat::Toml,
        _ => return Err(Fault::new("expected a name that ends in .json or .toml", "the ending says how the file is read")),
    };
    Ok((path, format))
}

/// As Docker's own tools name it, or its path.
fn socket(value: &DeValue<'_>) -> Result<PathBuf, Fault> {
    let text = values::string(value, "the path of a socket")?;
    let path = Path::new(text.strip_prefix("unix://").unwrap_or(text));
    if path.is_absolute() {
        return Ok(path.to_owned());
    }
    let help = format!("only a Unix socket can be asked: write \"unix://{SOCKET_DEFAULT}\"");
    Err(Fault::new("expected an absolute path", help))
}

fn labels(value: &DeValue<'_>) -> Result<Vec<String>, Fault> {
    const HELP: &str = "write `labels = [\"com.example.role=web\"]`: a container must have all of them";
    let elements = value.as_array().ok_or_else(|| Fault::new("expected a list of labels", HELP))?;
    let label = |element: &DeValue<'_>| {
        let label = values::string(element, "a label")?;
        if label.is_empty() || label.starts_with('=') {
            return Err(Fault::new("a label has a key", HELP));
        }
        Ok(label.to_owned())
    };
    let labels: Vec<String> = elements.iter().map(|element| label(element.get_ref())).collect::<Result<_, _>>()?;
    if labels.is_empty() {
        return Err(Fault::new("without a label every container would be a backend", HELP));
    }
    Ok(labels)
}

fn network(value: &DeValue<'_>) -> Result<String, Fault> {
    let name = values::string(value, "the name of a Docker network")?;
    if name.is_empty() {
        return Err(Fault::new("an empty name", "`docker network ls` lists the networks"));
    }
    Ok(name.to_owned())
}
