//! `[[service]]` and what stands under it, each service by itself.

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use super::report::{Problem, Problems};
use super::section::{At, Fault, Section};
use super::{Backend, Service, admission, discovery, failover, health, quic, values, zones};
use crate::admission::Rules as AdmissionRules;
use crate::desired::{Algorithm, Forward, Hashing, OnDown, Protocol};
use crate::failover::{Rules as FailoverRules, Tier};
use crate::health::{Check, Checks, Mode, Probe};
use crate::server_ids::{ServerId, ServerIds};

const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
const ALGORITHMS: [(&str, Algorithm); 7] = [
    ("maglev", Algorithm::Maglev),
    ("ip-hash", Algorithm::IpHash),
    ("round-robin", Algorithm::RoundRobin),
    ("weighted-round-robin", Algorithm::WeightedRoundRobin),
    ("random", Algorithm::Random),
    ("least-connections", Algorithm::LeastConnections),
    ("least-response-time", Algorithm::LeastResponseTime),
];
const ON_DOWN: [(&str, OnDown); 2] = [("remap", OnDown::Remap), ("keep", OnDown::Keep)];
const FORWARDS: [(&str, Forward); 5] =
    [("dsr", Forward::Dsr), ("nat", Forward::Nat), ("fullnat", Forward::Fullnat), ("ipip", Forward::Ipip), ("gue", Forward::Gue)];
const MODES: [(&str, Mode); 2] = [("all", Mode::All), ("any", Mode::Any)];

/// Of `max_load`, in hundredths: less than the average cannot be had, and far more is no bound.
const LOAD_MIN: u16 = 100;
const LOAD_MAX: u16 = 10_000;

/// Of `mss`: what everybody takes who does not say otherwise (RFC 9293 section 3.7.1), and what an IPv4 packet has room for.
const MSS_MIN: u32 = 536;
const MSS_MAX: u32 = 65_495;

/// IANA's port for GUE.
const GUE_PORT: u16 = 6080;
pub(super) const WEIGHT_DEFAULT: u16 = 1;
const IDLE_TCP: Duration = Duration::from_secs(15 * 60);
const IDLE_UDP: Duration = Duration::from_secs(10);
/// Less than this the packet path's clock cannot tell apart.
const IDLE_MIN: Duration = Duration::from_secs(2);
const IDLE_MAX: Duration = Duration::from_secs(60 * 60);
const _: () = assert!(IDLE_MAX.as_secs() < lb_common::flow::IDLE_MAX as u64);

/// A service as far as it could be read: what is `None` has been reported, and the rest is still checked.
pub(super) struct ServiceDraft {
    pub(super) name: Option<At<String>>,
    pub(super) listens: Option<At<Listens>>,
    pub(super) forward: Option<Forward>,
    gue_port: Option<u16>,
    mss: Option<Option<u16>>,
    toa: Option<bool>,
    algorithm: Option<Algorithm>,
    hashing: Option<Hashing>,
    idle: Option<Duration>,
    on_down: Option<OnDown>,
    is_tracked: Option<bool>,
    failover: Option<FailoverRules>,
    /// `Some(None)` without such rules.
    pub(super) zones: Option<Option<zones::Draft>>,
    health: Option<Checks>,
    pub(super) admission: Option<AdmissionRules>,
    pub(super) backends: Vec<Option<At<Backend>>>,
    /// `Some(None)` without such IDs.
    server_ids: Option<Option<Arc<ServerIds>>>,
    sources: Option<discovery::Sources>,
}

/// What a service takes; at the VIP's place in the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Listens {
    pub(super) vip: IpAddr,
    pub(super) port: u16,
    pub(super) protocol: Protocol,
}

impl ServiceDraft {
    pub(super) fn read(mut section: Section<'_>, problems: &mut Problems) -> Self {
        let help = "give the service a name for logs and metrics: `name = \"web\"`";
        let name = section.required("name", help, problems, values::service_name);
        let help = "the address that clients connect to: `vip = \"192.0.2.1\"`";
        let vip = section.required("vip", help, problems, values::host_address);
        let help = "the port that clients connect to: `port = 80`, or `port = 0` for every port";
        let port = section.required("port", help, problems, |value| values::number_u16(value, 0));
        let protocol = section.or("protocol", Protocol::Tcp, problems, |value| values::one_of(value, &PROTOCOLS));
        let algorithm = section.or("algorithm", Algorithm::default(), problems, |value| values::one_of(value, &ALGORITHMS));
        let family = vip.as_ref().map(|vip| vip.value.is_ipv4());
        let hashing = hashing(&mut section, algorithm.as_ref().map(|algorithm| algorithm.value), family, problems);
        let forward = section.or("forward", Forward::default(), problems, |value| values::one_of(value, &FORWARDS));
        let gue_port = gue_port(&mut section, forward.as_ref().map(|forward| forward.value), problems);
        let mss = mss(&mut section, protocol.as_ref().map(|protocol| protocol.value), problems);
        let toa = toa(&mut section, protocol.as_ref().zip(forward.as_ref()).map(|(a, b)| (a.value, b.value)), problems);
        let idle_default = protocol.as_ref().map_or(IDLE_TCP, |protocol| idle_default(protocol.value));
        let idle = section.or("idle", idle_default, problems, idle);
        let on_down = section.or("on_down", OnDown::default(), problems, |value| values::one_of(value, &ON_DOWN));
        let is_tracked = section.or("track", false, problems, values::truth);

        let port_value = port.as_ref().map(|port| port.value);
        let protocol_value = protocol.as_ref().map(|protocol| protocol.value);
        let of = health::Of {
            // With the protocol refused, the checks can still be read.
            protocol: protocol_value.unwrap_or(Protocol::Tcp),
            vip: vip.as_ref().map(|vip| vip.value),
            forward: forward.as_ref().map(|forward| forward.value),
            gue_port,
        };
        let health = checks(&mut section, port_value, protocol_value, of, problems);
        // Even if the checks were refused, what is wrong with the rest is told.
        let has_checks = health.is_some();
        let health = health.unwrap_or_else(|| Checks::new(Mode::default(), Vec::new()));
        let health = health::trust(&mut section, health, protocol_value, problems).filter(|_| has_checks);

        let admission = match section.table("admission", admission::OF_SERVICE, problems) {
            Some(section) => admission::rules(section, admission::OF_SERVICE, problems),
            None => Some(AdmissionRules::default()),
        };

        let rules = Rules { vip: vip.clone(), port, forward: forward.as_ref().map(|forward| forward.value) };
        let sections = section.tables("backend", "[[service.backend]]", problems);
        let (mut backends, ids): (Vec<_>, Vec<_>) =
            sections.into_iter().map(|section| rules.backend_with_id(section, problems)).unzip();
        let own_name = name.as_ref().map(|name| name.value.as_str());
        let sources = discovery::read(&mut section, &rules, own_name, problems);
        let has_source = discovery::KEYS.iter().any(|key| section.has(key));
        let of = quic::Of { protocol: protocol_value, backends: &backends, ids: &ids, has_source };
        let server_ids = quic::read(&mut section, &of, problems);
        let ranks = sources.as_ref().map(|sources| &sources.ranks);
        let failover = failover::read(&mut section, &backends, ranks, problems);
        let of = zones::Of { algorithm: algorithm.as_ref().map(|algorithm| algorithm.value), backends: &backends, ranks };
        let zones = zones::read(&mut section, &of, problems);
        let has_sorry = section.has("sorry");
        let sorry = section.table("sorry", "[service.sorry]", problems);
        if has_sorry {
            // Alone it takes all, whatever its weight; one that is less than the others' would ask for a larger table.
            let weight = backends.iter().flatten().map(|backend| backend.value.weight).max().unwrap_or(WEIGHT_DEFAULT).max(1);
            backends.push(sorry.and_then(|section| rules.sorry(section, weight, problems)));
        }
        if !section.has("backend") && !has_source {
            problems.push(Problem::new("a service without backends", section.span.clone(), "nobody serves this").help(
                "add `[[service.backend]]` with `address = \"...\"`, `[service.dns]` with `name = \"...\"`, \
                     `[service.file]` with `path = \"...\"`, or `[service.docker]`",
            ));
        }
        section.finish(problems);

        let listens = vip
            .zip(rules.port.zip(protocol_value))
            .map(|(vip, (port, protocol))| At { value: Listens { vip: vip.value, port: port.value, protocol }, span: vip.span });
        Self {
            name,
            listens,
            forward: rules.forward,
            gue_port,
            mss,
            toa,
            algorithm: algorithm.map(|algorithm| algorithm.value),
            hashing,
            idle: idle.map(|idle| idle.value),
            on_down: on_down.map(|on_down| on_down.value),
            is_tracked: is_tracked.map(|is_tracked| is_tracked.value),
            failover,
            zones,
            health,
            admission,
            backends,
            server_ids,
            sources,
        }
    }

    /// The service, if nothing of it was refused.
    pub(super) fn complete(self) -> Option<Service> {
        let listens = self.listens?.value;
        let discovery::Sources { dns, file, docker, ranks } = self.sources?;
        Some(Service {
            name: self.name?.value.into(),
            vip: listens.vip,
            port: listens.port,
            protocol: listens.protocol,
            algorithm: self.algorithm?,
            hashing: self.hashing?,
            forward: self.forward?,
            gue_port: self.gue_port?,
            mss: self.mss?,
            toa: self.toa?,
            idle: self.idle?,
            on_down: self.on_down?,
            // Flows that are not on record show nothing.
            is_tracked: self.is_tracked? || self.health.as_ref().is_some_and(|health| health.passive.is_some()),
            failover: self.failover?,
            zones: self.zones?.map(|draft| draft.rules),
            health: self.health?,
            server_ids: self.server_ids?,
            backends: self.backends.into_iter().map(|backend| backend.map(|at| at.value)).collect::<Option<_>>()?,
            dns,
            file,
            docker,
            ranks: ranks.into_iter().map(|(kind, at)| (kind, at.value)).collect(),
        })
    }
}

/// What only algorithms have that go by a hash. `is_v4` is the VIP's family, if it has one.
fn hashing(
    section: &mut Section<'_>,
    algorithm: Option<Algorithm>,
    is_v4: Option<bool>,
    problems: &mut Problems,
) -> Option<Hashing> {
    let len_max = if is_v4 == Some(true) { 32 } else { 128 };
    let prefix = section.or("client_prefix", None, problems, |value| values::integer(value, 1, len_max).map(Some));
    let max_load = section.or("max_load", None, problems, |value| values::hundredths(value, LOAD_MIN, LOAD_MAX).map(Some));
    let (prefix, max_load) = (prefix?, max_load?);
    if prefix.value.is_some() && algorithm.is_some_and(|algorithm| algorithm != Algorithm::IpHash) {
        let help = "remove `client_prefix`, or use `algorithm = \"ip-hash\"`";
        problems.push(Problem::new("part of an address that nothing goes by", prefix.span, "only ip-hash has it").help(help));
        return None;
    }
    if max_load.value.is_some() && algorithm.is_some_and(|algorithm| !algorithm.is_hash()) {
        let help = "remove `max_load`, or use `algorithm = \"maglev\"` or \"ip-hash\"";
        problems.push(
            Problem::new("a bound for a hash that is not used", max_load.span, "only maglev and ip-hash have it").help(help),
        );
        return None;
    }
    let client_prefix = prefix.value.map(|len| u8::try_from(len).unwrap_or(u8::MAX));
    Some(Hashing { client_prefix, max_load: max_load.value })
}

fn gue_port(section: &mut Section<'_>, forward: Option<Forward>, problems: &mut Problems) -> Option<u16> {
    let given = section.or("gue_port", None, problems, |value| values::number_u16(value, 1).map(Some))?;
    if given.value.is_some() && forward.is_some_and(|forward| forward != Forward::Gue) {
        let help = "remove `gue_port`, or use `forward = \"gue\"`";
        problems.push(Problem::new("a port for datagrams that nobody sends", given.span, "only gue has it").help(help));
        return None;
    }
    Some(given.value.unwrap_or(GUE_PORT))
}

/// `Some(None)` if segments are left as they are.
fn mss(section: &mut Section<'_>, protocol: Option<Protocol>, problems: &mut Problems) -> Option<Option<u16>> {
    let given =
        section.or("mss", None, problems, |value| values::integer(value, MSS_MIN, MSS_MAX).map(|mss| Some(mss as u16)))?;
    if given.value.is_some() && protocol == Some(Protocol::Udp) {
        let help = "remove `mss`, or use `protocol = \"tcp\"`";
        problems.push(Problem::new("a segment size where there are no segments", given.span, "only tcp has it").help(help));
        return None;
    }
    Some(given.value)
}

/// Whether backends are told by a TCP option who their clients are. Only full NAT hides that from them.
fn toa(section: &mut Section<'_>, ways: Option<(Protocol, Forward)>, problems: &mut Problems) -> Option<bool> {
    let given = section.or("toa", false, problems, values::truth)?;
    let fault = match ways {
        Some((Protocol::Udp, _)) if given.value => "only tcp has options",
        Some((_, forward)) if given.value && forward != Forward::Fullnat => "only fullnat hides clients from backends",
        _ => return Some(given.value),
    };
    let help = "remove `toa`, or use `protocol = \"tcp\"` and `forward = \"fullnat\"`";
    problems.push(Problem::new("a TCP option that nobody needs", given.span, fault).help(help));
    None
}

/// What a connection may be silent for before firewalls and NAT on its way forget it (RFC 5382 asks for more than most keep); of
/// UDP, an answer that long in coming is another flow.
fn idle_default(protocol: Protocol) -> Duration {
    match protocol {
        Protocol::Tcp => IDLE_TCP,
        Protocol::Udp => IDLE_UDP,
    }
}

fn idle(value: &DeValue<'_>) -> Result<Duration, Fault> {
    let idle = values::duration(value, IDLE_MIN)?;
    if idle <= IDLE_MAX { Ok(idle) } else { Err(Fault::new("out of bounds", "a silent flow is kept for at most \"1h\"")) }
}

/// The service's checks, or what stands for them.
fn checks(
    section: &mut Section<'_>,
    port: Option<u16>,
    protocol: Option<Protocol>,
    of: health::Of,
    problems: &mut Problems,
) -> Option<Checks> {
    let mode = section.or("health_mode", Mode::default(), problems, |value| values::one_of(value, &MODES));
    let sections = section.one_or_more("health", ["[service.health]", "[[service.health]]"], problems);
    if !section.has("health") {
        let check = needing_no_port(health::default(protocol?), port, section.span.clone(), problems)?;
        return Some(Checks::new(mode?.value, vec![check]));
    }
    let n_sections = sections.len();
    let read = |section: Section<'_>| {
        let span = section.span.clone();
        let check = health::read(section, of, problems)?;
        needing_no_port(check, port, span, problems)
    };
    let mut list: Vec<Check> = sections.into_iter().filter_map(read).collect();
    if list.is_empty() || list.len() < n_sections {
        return None;
    }
    // Of several, one that is switched off neither passes nor fails.
    if list.iter().any(|check| check.probe != Probe::None) {
        list.retain(|check| check.probe != Probe::None);
    }
    Some(Checks::new(mode?.value, list))
}

/// The check, unless it needs a port that nobody has named: a service of every port has none that a probe could fall back
/// on.
fn needing_no_port(check: Check, port: Option<u16>, span: Range<usize>, problems: &mut Problems) -> Option<Check> {
    if port == Some(0) && check.port.is_none() && check.probe.needs_port() {
        problems.push(
            Problem::new("a service of every port has no port to check", span, "this check needs a `port`")
                .help("in `[service.health]`, name the port to probe: `port = 80`; or do without: `type = \"none\"`"),
        );
        return None;
    }
    Some(check)
}

/// What the service demands of each backend.
pub(super) struct Rules {
    vip: Option<At<IpAddr>>,
    port: Option<At<u16>>,
    forward: Option<Forward>,
}

impl Rules {
    fn backend_with_id(
        &self,
        mut section: Section<'_>,
        problems: &mut Problems,
    ) -> (Option<At<Backend>>, Option<Option<At<ServerId>>>) {
        let id = quic::server_id(&mut section, problems);
        (self.backend(section, problems), id)
    }

    fn backend(&self, mut section: Section<'_>, problems: &mut Problems) -> Option<At<Backend>> {
        let (address, port) = self.address(&mut section, problems);
        let weight = weight(&mut section, problems);
        let priority = failover::priority(&mut section, problems);
        let zone = zones::zone(&mut section, problems);
        section.finish(problems);
        let At { value: endpoint, span } = self.endpoint(address, port, problems)?;
        Some(At { value: Backend { endpoint, weight: weight?, tier: Tier::Priority(priority?), zone: zone?.value }, span })
    }

    /// One that is given neither weight nor priority nor zone: nobody is beside it.
    fn sorry(&self, mut section: Section<'_>, weight: u16, problems: &mut Problems) -> Option<At<Backend>> {
        let (address, port) = self.address(&mut section, problems);
        section.finish(problems);
        let At { value: endpoint, span } = self.endpoint(address, port, problems)?;
        Some(At { value: Backend { endpoint, weight, tier: Tier::Sorry, zone: None }, span })
    }

    fn address(&self, section: &mut Section<'_>, problems: &mut Problems) -> (Option<At<IpAddr>>, Option<u16>) {
        let help = "the address that xlb reaches the backend at: `address = \"10.0.1.1\"`";
        (section.required("address", help, problems, values::host_address), self.port(section, problems))
    }

    /// Where packets to a backend go, if the VIP's packets can.
    fn endpoint(&self, address: Option<At<IpAddr>>, port: Option<u16>, problems: &mut Problems) -> Option<At<SocketAddr>> {
        let address = address?;
        if let Some(vip) = &self.vip
            && let Some(problem) = misplaced(&address, vip, self.forward)
        {
            problems.push(problem);
            return None;
        }
        Some(At { value: SocketAddr::new(address.value, port?), span: address.span })
    }

    /// The port that packets reach a backend on. Only `nat` and `fullnat` rewrite it, and only from one port to one.
    pub(super) fn port(&self, section: &mut Section<'_>, problems: &mut Problems) -> Option<u16> {
        let given = section.or("port", None, problems, |value| values::number_u16(value, 1).map(Some))?;
        let service = self.port.as_ref()?;
        let Some(port) = given.value else { return Some(service.value) };
        let (title, help) = match self.forward? {
            Forward::Nat | Forward::Fullnat if service.value != 0 => return Some(port),
            Forward::Dsr | Forward::Ipip | Forward::Gue if service.value == port => return Some(port),
            Forward::Nat | Forward::Fullnat => (
                "a service of every port cannot have a backend port",
                "packets keep the port they came for: remove `port` here, or give the service one".to_owned(),
            ),
            Forward::Dsr | Forward::Ipip | Forward::Gue => (
                "the backend serves on the service's own port",
                "only nat and fullnat change packets: remove `port` here, or use `forward = \"nat\"`".to_owned(),
            ),
        };
        let label = if service.value == 0 { "the service takes every port" } else { "the service's port" };
        problems.push(Problem::new(title, given.span, format!("not port {port}")).and(service.span.clone(), label).help(help));
        None
    }
}

pub(super) fn weight(section: &mut Section<'_>, problems: &mut Problems) -> Option<u16> {
    section.or("weight", WEIGHT_DEFAULT, problems, |value| values::number_u16(value, 0)).map(|weight| weight.value)
}

/// Why an address cannot be a backend of a VIP, if so.
fn misplaced(address: &At<IpAddr>, vip: &At<IpAddr>, forward: Option<Forward>) -> Option<Problem> {
    let family = |ip: IpAddr| if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let place = |span: &Range<usize>| span.clone();
    if address.value == vip.value {
        let problem = Problem::new("a backend at the VIP itself", place(&address.span), "packets would come back to xlb")
            .and(place(&vip.span), "the VIP");
        return Some(problem.help("name the backend's own address"));
    }
    let is_tunnel = forward.is_some_and(|forward| forward.overhead(address.value).is_some());
    if is_tunnel || address.value.is_ipv4() == vip.value.is_ipv4() {
        return None;
    }
    let (backend_family, vip_family) = (family(address.value), family(vip.value));
    let problem = Problem::new(
        format!("an {backend_family} backend of an {vip_family} service"),
        place(&address.span),
        format!("this is {backend_family}"),
    );
    let help = format!("packets keep their family: name the backend's {vip_family} address, or use `forward = \"ipip\"`");
    Some(problem.and(place(&vip.span), "the VIP's family").help(help))
}
