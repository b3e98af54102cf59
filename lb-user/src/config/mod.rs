//! The configuration: one TOML file, read whole, and refused with every problem in it shown at once.
//!
//! The file is parsed into a table in which each value knows its place, and read from there by hand rather than
//! through `serde`: serde stops at the first error and forgets where a value stood as soon as it is typed, and most of
//! what can be wrong here is a relation between two values (a VIP taken twice, a time-out longer than its interval).
//!
//! ```text
//! text -> toml's spanned tables -> section (keys) -> values (types) -> service (one) -> conflicts (between) -> Config
//! ```

mod admission;
mod conflicts;
mod discovery;
mod failover;
mod fullnat;
mod global;
mod health;
mod quic;
mod report;
mod section;
mod service;
mod suggest;
mod values;
mod zones;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use lb_common::limits;
use toml::de::DeTable;

use crate::admission::{Admission, Rules};
use crate::desired::{Algorithm, Forward, Hashing, OnDown, Protocol, ServiceName, Watchdog};
use crate::discovery::{Kind, Source};
use crate::failover::{Rules as FailoverRules, Tier, Zone, ZoneRules};
use crate::health::{Checks, steer};
use crate::pool::Pool;
use crate::server_ids::ServerIds;
use report::{Problem, Problems};
use section::Section;

pub use report::{ConfigError, Refused};
pub(crate) use values::unusable;
pub(crate) use zones::named as zone;

/// All that the operator asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Config {
    pub xdp: Xdp,
    pub api: Api,
    pub limits: Limits,
    pub steering: steer::Range,
    pub node: Node,
    pub admission: Arc<Admission>,
    pub watchdog: Option<Watchdog>,
    /// `[fullnat]`
    pub pool: Arc<Pool>,
    /// In the order of the file; names are unique.
    pub services: Vec<Service>,
}

/// `[xdp]`: where packets are taken up, and what stands in the kernel for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Xdp {
    /// At least one, each once; whether they exist is for the daemon to find out.
    pub interfaces: Vec<String>,
    pub mode: Mode,
    /// An absolute path to a directory on a BPF file system.
    pub pin: PathBuf,
    pub on_exit: OnExit,
    /// Where the secret stands that keys the packet path's hashes; all nodes of a cluster need the same.
    pub secret_file: Option<PathBuf>,
}

/// How the XDP program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    /// Native where the driver can, generic otherwise.
    #[default]
    Auto,
    Native,
    Generic,
}

/// What becomes of the XDP program when the daemon ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnExit {
    #[default]
    Detach,
    /// It goes on forwarding by the tables as they stand.
    Keep,
}

/// `[api]`: metrics, status and health of the daemon itself, and changes at runtime.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Api {
    pub listen: SocketAddr,
    /// Where changes are taken from whom the machine knows.
    pub socket: PathBuf,
    /// A group that may make changes too, besides root and the daemon's own user.
    pub socket_gid: Option<u32>,
    /// `None` speaks plain HTTP.
    pub tls: Option<ApiTls>,
    /// Where the token stands that changes over TCP take; without, there are none.
    pub token_file: Option<PathBuf>,
    /// What was set at runtime is kept here.
    pub state_file: PathBuf,
    /// Every change, and every one refused, is noted here.
    pub audit_file: Option<PathBuf>,
}

/// `tls_certificate` and `tls_key`: who the daemon is on `listen`. Absolute paths to PEM files.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ApiTls {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Api {
    /// What holds where the file says nothing. Daemons with pin directories of their own have sockets and state of their own.
    pub fn of(pin: &Path) -> Self {
        let instance = instance(pin);
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9400)),
            socket: PathBuf::from(format!("/run/xlb/{instance}.sock")),
            socket_gid: None,
            tls: None,
            token_file: None,
            state_file: PathBuf::from(format!("/var/lib/xlb/{instance}.json")),
            audit_file: None,
        }
    }
}

/// What a daemon's own files are called, by its pin directory: `xlb` for /sys/fs/bpf/xlb. Never the same for two directories.
fn instance(pin: &Path) -> String {
    let path = pin.strip_prefix("/sys/fs/bpf").ok().filter(|rest| !rest.as_os_str().is_empty()).unwrap_or(pin);
    // As systemd names units after paths.
    path.to_string_lossy().replace('\\', "\\x5c").replace('-', "\\x2d").replace('/', "-")
}

/// `[node]`: this machine among others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Node {
    pub zone: Option<Zone>,
}

/// `[limits]`: the sizes of maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Over all services, 4 bytes each; a multiple of [`limits::SLOTS_PER_LINE`].
    pub slots: u32,
    /// That the flow table has room for, 8 bytes each; a power of two.
    pub flows: u32,
    /// Of lists of admission, 40 bytes each; a multiple of 16.
    pub prefixes: u32,
    /// Whose rates are known at a time, 8 bytes each; a power of two.
    pub sources: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            slots: limits::SLOTS_DEFAULT,
            flows: limits::FLOWS_DEFAULT,
            prefixes: limits::PREFIXES_DEFAULT,
            sources: limits::SOURCES_DEFAULT,
        }
    }
}

/// `[[service]]`: one VIP, port and protocol, and where its backends come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Service {
    pub name: ServiceName,
    pub vip: IpAddr,
    /// 0 takes every port.
    pub port: u16,
    pub protocol: Protocol,
    pub algorithm: Algorithm,
    pub hashing: Hashing,
    pub forward: Forward,
    pub gue_port: u16,
    /// The largest TCP segment that either end may be told of, in bytes.
    pub mss: Option<u16>,
    /// Backends are told by a TCP option who their clients are.
    pub toa: bool,
    /// How long a silent flow is taken for alive.
    pub idle: Duration,
    pub on_down: OnDown,
    /// Every flow is on record, though its hash would do.
    pub is_tracked: bool,
    pub failover: FailoverRules,
    /// `None` takes no notice of zones.
    pub zones: Option<ZoneRules>,
    pub health: Checks,
    /// By what QUIC connection IDs name backends, if they do.
    pub server_ids: Option<Arc<ServerIds>>,
    /// Fixed backends, each endpoint once, the sorry one too; may be empty if there is a source.
    pub backends: Vec<Backend>,
    pub dns: Option<Dns>,
    pub file: Option<File>,
    pub docker: Option<Docker>,
    /// Of each source, where its backends belong.
    pub ranks: BTreeMap<Kind, Rank>,
}

/// Where the backends of a source belong.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rank {
    pub tier: Tier,
    pub zone: Option<Zone>,
}

impl Service {
    /// What its backends are discovered by.
    pub fn sources(&self) -> impl Iterator<Item = Source> {
        let file = self.file.clone().map(Source::File);
        let docker = self.docker.clone().map(Source::Docker);
        let dns = self.dns.clone().map(Source::Dns);
        [file, docker, dns].into_iter().flatten()
    }

    /// The priorities that are written down, of backends and of sources.
    pub fn tiers(&self) -> impl Iterator<Item = Tier> {
        self.backends.iter().map(|backend| backend.tier).chain(self.ranks.values().map(|rank| rank.tier))
    }

    /// Whether it has a source of this kind.
    pub fn has_source(&self, kind: Kind) -> bool {
        match kind {
            Kind::File => self.file.is_some(),
            Kind::Docker => self.docker.is_some(),
            Kind::Dns => self.dns.is_some(),
        }
    }
}

/// `[[service.backend]]`, or `[service.sorry]`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Backend {
    /// Of the VIP's family. The port is the service's unless a `nat` backend names its own.
    pub endpoint: SocketAddr,
    /// 0 takes no new flows.
    pub weight: u16,
    pub tier: Tier,
    pub zone: Option<Zone>,
}

/// `[service.dns]`: backends by name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    pub name: String,
    pub record: DnsRecord,
    /// Of every address found, but SRV has its own; decided as for [`Backend::endpoint`].
    pub port: u16,
    /// `None` asks the system's.
    pub resolver: Option<SocketAddr>,
    /// The longest time between two queries; shorter TTLs are honoured.
    pub interval: Duration,
    /// Of every address found, but SRV has its own.
    pub weight: u16,
    pub trust: Trust,
}

/// What a name is asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum DnsRecord {
    /// A or AAAA, by the VIP's family.
    #[default]
    Address,
    /// Names, ports, weights and priorities (RFC 2782).
    Srv,
}

/// `[service.file]`: backends from a file that others write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct File {
    /// Absolute.
    pub path: PathBuf,
    pub format: FileFormat,
    /// Where the file says none.
    pub port: u16,
    /// Where the file says none.
    pub weight: u16,
    /// The longest time between two looks; changes are noticed at once where the kernel tells of them.
    pub interval: Duration,
    pub trust: Trust,
}

/// By the ending of its name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FileFormat {
    /// As Prometheus' `file_sd_configs` reads it.
    Json,
    Toml,
}

/// `[service.docker]`: running containers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Docker {
    pub socket: PathBuf,
    /// `KEY` or `KEY=VALUE`; a container must have all.
    pub labels: Vec<String>,
    /// Whose addresses count; `None` where a container has but one network.
    pub network: Option<String>,
    /// Where a container's label says none.
    pub port: u16,
    /// Where a container's label says none.
    pub weight: u16,
    /// The longest time between two lists; events bring one at once.
    pub interval: Duration,
    pub trust: Trust,
}

/// Which answers of a source are taken, and for how long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trust {
    /// How long the last good answer holds while there is no other; `None` for ever.
    pub stale: Option<Duration>,
    /// An answer with fewer usable hosts is not taken.
    pub min_hosts: usize,
}

/// The configuration in a file.
///
/// # Errors
/// The file cannot be read, is not UTF-8, or [`parse`] refuses it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    load_with_text(path).map(|(config, _)| config)
}

/// The same, and what stands in the file.
///
/// # Errors
/// As [`load`].
pub fn load_with_text(path: &Path) -> Result<(Config, String), ConfigError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable { file: file.clone(), source })?;
    let mut config = parse(&file, &text)?;
    config.read_lists()?;
    Ok((config, text))
}

impl Config {
    /// Reads the files that lists of admission name.
    ///
    /// # Errors
    /// One cannot be read, or is wrong; the lists are as they were.
    pub fn read_lists(&mut self) -> Result<(), ConfigError> {
        Ok(Arc::make_mut(&mut self.admission).read_files()?)
    }
}

/// The configuration in `text`; `file_name` is only shown in errors. Nothing else is read: what [`Config::read_lists`] would add is not
/// there.
///
/// # Errors
/// All that is wrong with it. Where the TOML itself is broken, only that is told: values beyond a syntax error
/// are guesses.
pub fn parse(file_name: &str, text: &str) -> Result<Config, ConfigError> {
    let (document, syntax_errors) = DeTable::parse_recoverable(text);
    let mut problems = Problems::default();
    for error in syntax_errors {
        let span = error.span().unwrap_or(0..0);
        let help = "a line is `[section]`, `[[section]]`, `key = value` or `# comment`, and text stands in double quotes";
        problems.push(Problem::new(format!("not valid TOML: {}", error.message()), span, "").help(help));
    }
    let config = if problems.is_empty() { read(document.get_ref(), &mut problems) } else { None };
    match config {
        Some(config) if problems.is_empty() => Ok(config),
        _ => Err(ConfigError::refused(file_name, text, problems)),
    }
}

fn read(document: &DeTable<'_>, problems: &mut Problems) -> Option<Config> {
    let mut top = Section::document(document);
    let xdp = match top.table("xdp", "[xdp]", problems) {
        Some(section) => global::xdp(section, problems),
        None => {
            if !top.has("xdp") {
                top.missing("xdp", "add `[xdp]` with `interfaces = [\"eth0\"]`: where the traffic of VIPs arrives", problems);
            }
            None
        }
    };
    let api_default = Api::of(xdp.as_ref().map_or(Path::new(global::PIN_DEFAULT), |xdp| &xdp.pin));
    let api = match top.table("api", "[api]", problems) {
        Some(section) => global::api(section, api_default, problems),
        None => Some(api_default),
    };
    let limits =
        top.table("limits", "[limits]", problems).map_or(Some(Limits::default()), |section| global::limits(section, problems));
    let steering = top
        .table("steering", "[steering]", problems)
        .map_or(Some(steer::Range::default()), |section| global::steering(section, problems));
    let watchdog = match top.table("watchdog", "[watchdog]", problems) {
        Some(section) => global::watchdog(section, problems),
        None => Some(None),
    };
    let node = top.table("node", "[node]", problems).map_or(Some(Node::default()), |section| zones::node(section, problems));
    let all_vips = match top.table("admission", admission::ALL_VIPS, problems) {
        Some(section) => admission::rules(section, admission::ALL_VIPS, problems),
        None => Some(Rules::default()),
    };
    let pool = match top.table("fullnat", "[fullnat]", problems) {
        Some(section) => fullnat::Draft::read(section, problems),
        None if top.has("fullnat") => return None,
        None => fullnat::Draft::default(),
    };
    let drafts: Vec<_> = top
        .tables("service", "[[service]]", problems)
        .into_iter()
        .map(|section| service::ServiceDraft::read(section, problems))
        .collect();
    top.finish(problems);

    conflicts::report(&drafts, problems);
    pool.check(&drafts, problems);
    for zones in drafts.iter().filter_map(|draft| draft.zones.as_ref()?.as_ref()) {
        zones::check_node(zones, node.as_ref(), problems);
    }
    let ruled = |draft: &service::ServiceDraft| {
        let rules = draft.admission.clone().filter(|rules| !rules.is_empty())?;
        Some((draft.name.as_ref()?.value.as_str().into(), rules))
    };
    let admission = Admission { all_vips: all_vips?, services: drafts.iter().filter_map(ruled).collect() };
    let services = drafts.into_iter().map(service::ServiceDraft::complete).collect::<Option<_>>()?;
    let (xdp, api, limits, steering, node, watchdog) = (xdp?, api?, limits?, steering?, node?, watchdog?);
    let pool = pool.complete()?.into();
    Some(Config { xdp, api, limits, steering, node, admission: admission.into(), watchdog, pool, services })
}
