//! A trail, told by names: what `GET /api/v1/explain` answers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use lb_common::admission::Rule;
use lb_common::flow::{Entry, State as FlowState, TICK_SHIFT, Tick};
use lb_common::quic::Reading;
use lb_common::records::{self, choice, forward, service_flags};
use lb_common::verdict::Verdict;
use lb_common::{Addr, BackendId, Be16};
use serde::Serialize;

use super::question::{ConnectionId, IcmpError, Question, Senseless};
use super::witness::{FlowSeen, NamedSeen, ReplySeen, SessionSeen, SlotSeen, Trail};
use crate::desired::{Algorithm, Forward, Protocol, ServiceName};
use crate::health;
use crate::server_ids::ServerId;

/// What the control loop calls the things that the packet path knows by number.
pub trait Names {
    fn service(&self, id: u16) -> Option<ServiceName>;
    /// A backend of a service, or one that has left it.
    fn backend(&self, id: BackendId) -> Option<BackendFound>;
    fn interface(&self, ifindex: u32) -> Option<String>;
    /// The services of a VIP; none if it is not one.
    fn services_at(&self, vip: IpAddr) -> Vec<ServiceAt>;
}

/// What the packet path does with a packet, and why. What it does not get to is `None`.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    pub packet: Asked,
    pub service: Option<ServiceFound>,
    /// If no service takes the packet, those that its destination has.
    pub services_at_vip: Vec<ServiceAt>,
    /// The rule of admission that refuses the packet.
    pub refused: Option<RefusedBy>,
    /// What its QUIC connection ID says.
    pub named: Option<NamedFound>,
    pub slot: Option<SlotFound>,
    pub flow: Option<FlowFound>,
    pub backend: Option<Chosen>,
    pub way: Option<Way>,
    /// By full NAT, what stands for the client.
    pub session: Option<SessionFound>,
    pub reply: Option<ReplyFound>,
    /// Of a later fragment.
    pub fragment: Option<FragmentFound>,
    pub verdict: &'static str,
    /// `forwarded`, `passed` or `dropped`.
    pub class: &'static str,
    /// The verdict in a sentence.
    pub meaning: &'static str,
}

#[derive(Clone, Debug, Serialize)]
pub struct Asked {
    pub client: SocketAddr,
    pub vip: SocketAddr,
    pub protocol: Protocol,
    pub syn: bool,
    pub interface: String,
    pub ttl: u8,
    /// Of the IP packet, in bytes.
    pub length: u16,
    /// The outermost tag first.
    pub vlans: Vec<u16>,
    /// It is a later fragment of the packet with this identification.
    pub fragment: Option<u32>,
    /// It is an ICMP error about a packet from `vip` to `client`.
    pub error: Option<IcmpError>,
    /// Of QUIC.
    pub connection_id: Option<ConnectionId>,
}

/// The server that a connection ID names.
#[derive(Clone, Debug, Serialize)]
pub struct NamedFound {
    /// In hexadecimal digits.
    pub server_id: String,
    /// Who has it; `None` if nobody has.
    pub backend: Option<BackendFound>,
}

/// What is on record of a packet's fragments.
#[derive(Clone, Debug, Serialize)]
pub struct FragmentFound {
    /// Whom the first one went to, or came from.
    pub on_record: Option<BackendFound>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ServiceFound {
    pub id: u16,
    pub name: Option<ServiceName>,
    pub vip: IpAddr,
    /// 0 takes every port.
    pub port: u16,
    pub protocol: Protocol,
    pub algorithm: Algorithm,
}

/// A service of a VIP.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ServiceAt {
    pub name: ServiceName,
    /// 0 takes every port.
    pub port: u16,
    pub protocol: Protocol,
}

/// A rule of admission that a packet did not pass.
#[derive(Clone, Debug, Serialize)]
pub struct RefusedBy {
    /// The service whose rule it is; `None` for one of all VIPs.
    pub service: Option<ServiceName>,
    pub rule: &'static str,
    /// The rule in words.
    pub why: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct SlotFound {
    /// Among the service's slots.
    pub number: u32,
    /// How many slots the service has.
    pub of: u32,
    /// What the number follows from.
    pub hashed_by: &'static str,
    pub at_rest: bool,
    /// Every flow of the service is on record; the slot counts only for one that is not.
    pub all_recorded: bool,
    /// Where new flows go.
    pub current: Option<BackendFound>,
    /// Where flows without a record belong, while the slot is learning.
    pub settled: Option<BackendFound>,
}

/// What the flow table says. It is asked only where the slot is not at rest.
#[derive(Clone, Debug, Serialize)]
pub struct FlowFound {
    pub on_record: Option<OnRecord>,
    /// The state that the packet would put on record; `None` if nothing would change.
    pub would_record: Option<&'static str>,
}

#[derive(Clone, Debug, Serialize)]
pub struct OnRecord {
    pub backend: Option<BackendFound>,
    pub state: &'static str,
    /// Seconds since its last packet, to about one.
    pub silent_s: f64,
}

/// A backend, as far as it is known.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BackendFound {
    pub id: u16,
    pub address: IpAddr,
    pub port: u16,
    pub service: Option<ServiceName>,
    /// `None` if it is no backend of its service any more.
    pub state: Option<health::State>,
    /// `drain` or `disable`, if somebody has set it so.
    pub admin: Option<&'static str>,
    pub weight: u16,
    /// New flows go there.
    pub serving: bool,
    /// What the last health check found.
    pub check: String,
    /// Why no packet can be sent there.
    pub unreachable: Option<String>,
}

/// The packet's backend.
#[derive(Clone, Debug, Serialize)]
pub struct Chosen {
    /// `None` if there is none.
    pub chosen: Option<BackendFound>,
    pub reason: Reason,
    /// The reason in words.
    pub why: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    AtRest,
    NewConnection,
    Chosen,
    OnRecord,
    ConnectionId,
    Settled,
    Current,
    Fragment,
    Nobody,
}

/// How the packet leaves, or would.
#[derive(Clone, Debug, Serialize)]
pub struct Way {
    pub forward: Forward,
    /// Where it leaves; `None` while no next hop is known.
    pub interface: Option<String>,
    pub ifindex: u32,
    /// The next hop's link-layer address.
    pub to: Option<String>,
    pub from: Option<String>,
    /// What NAT makes of the destination.
    pub destination: Option<SocketAddr>,
    pub tunnel: Option<Tunnel>,
    /// The host's routing sends it, for the interface takes no redirected frames.
    pub by_host: bool,
}

#[derive(Clone, Debug, Serialize)]
pub struct Tunnel {
    pub source: IpAddr,
    pub destination: IpAddr,
    /// Of GUE.
    pub port: Option<u16>,
    /// Length of the largest packet that fits in, in bytes.
    pub length_max: u16,
}

/// What stands for a client towards its backend.
#[derive(Clone, Debug, Serialize)]
pub struct SessionFound {
    /// An address of the pool, and a port.
    pub source: SocketAddr,
    /// The flow has it; otherwise it would get it, if nobody takes it before.
    pub on_record: bool,
}

/// Whose reply the packet is.
#[derive(Clone, Debug, Serialize)]
pub struct ReplyFound {
    pub backend: Option<BackendFound>,
    pub service: Option<ServiceName>,
    /// What the source becomes.
    pub source: SocketAddr,
    /// Whom it goes to, by a way that only the kernel's routing table knows.
    pub client: IpAddr,
}

impl Explanation {
    /// # Errors
    /// The question makes no sense.
    pub fn new(question: &Question, interface: &str, trail: &Trail, names: &impl Names) -> Result<Self, Senseless> {
        let teller = Teller { trail, names };
        let Question { client, vip, protocol, syn, ttl, .. } = *question;
        let length = question.length()?;
        Ok(Self {
            packet: Asked {
                client,
                vip,
                protocol,
                syn,
                interface: interface.to_owned(),
                ttl,
                length,
                vlans: question.vlans.clone(),
                fragment: question.fragment,
                error: question.error,
                connection_id: question.connection_id.clone(),
            },
            service: trail.service.map(|(id, record)| teller.service(id, &record)),
            services_at_vip: if trail.service.is_none() { names.services_at(vip.ip()) } else { Vec::new() },
            refused: trail.refused.map(|(scope, rule)| teller.refused(scope, rule)),
            named: trail.named.map(|seen| teller.named(seen)),
            slot: trail.slot.map(|seen| teller.slot(seen)),
            flow: trail.flow.map(|seen| teller.flow(seen)),
            backend: trail.backend.map(|(id, _)| teller.chosen(id, syn, question.error.is_some())),
            way: trail.backend.and_then(|(_, record)| teller.way(&record, vip)),
            session: trail.session.map(|SessionSeen { address, port, is_new }| SessionFound {
                source: SocketAddr::new(address.into(), port.get()),
                on_record: !is_new,
            }),
            reply: trail.reply.map(|seen| teller.reply(seen, client.port())),
            fragment: trail.fragment.map(|id| FragmentFound { on_record: teller.backend(id) }),
            verdict: trail.verdict.label(),
            class: trail.verdict.class().label(),
            meaning: trail.verdict.explanation().trim(),
        })
    }
}

struct Teller<'t, N> {
    trail: &'t Trail,
    names: &'t N,
}

impl<N: Names> Teller<'_, N> {
    fn service(&self, id: u16, record: &records::Service) -> ServiceFound {
        ServiceFound {
            id,
            name: self.names.service(id),
            vip: record.vip.into(),
            port: record.listens.port.get(),
            protocol: if record.listens.protocol == Protocol::Udp.number() { Protocol::Udp } else { Protocol::Tcp },
            algorithm: algorithm(record),
        }
    }

    fn refused(&self, scope: u16, rule: Rule) -> RefusedBy {
        let service = (scope != 0).then(|| self.names.service(scope)).flatten();
        let section = if scope == 0 { "[admission]" } else { "the service's own [admission]" };
        RefusedBy { service, rule: rule.label(), why: format!("by {section}: {}", rule.explanation().trim()) }
    }

    fn named(&self, NamedSeen { key, owner }: NamedSeen) -> NamedFound {
        let flags = self.trail.service.map_or(0, |(_, record)| record.flags);
        let server_id = ServerId::of_number(key.server_id, Reading::of(flags).server_id_len()).to_string();
        NamedFound { server_id, backend: self.backend(owner) }
    }

    fn slot(&self, SlotSeen { index, slot }: SlotSeen) -> SlotFound {
        let service = self.trail.service.map(|(_, record)| record).unwrap_or_default();
        SlotFound {
            number: index.wrapping_sub(service.region.first()),
            of: 1u32.checked_shl(service.region.bits()).unwrap_or(u32::MAX),
            hashed_by: match algorithm(&service) {
                Algorithm::IpHash if service.client_mask != all_bits(&service) => "the client's network alone",
                Algorithm::IpHash => "the client's address alone",
                _ => "the client's address and both ports",
            },
            at_rest: slot.is_at_rest(),
            all_recorded: service.choice != choice::SLOT,
            current: self.backend(slot.current()),
            settled: self.backend(slot.settled()),
        }
    }

    fn flow(&self, FlowSeen { entry, recorded }: FlowSeen) -> FlowFound {
        let on_record = entry.map(|entry| OnRecord {
            backend: self.backend(entry.backend()),
            state: state(entry),
            silent_s: seconds(entry.age(self.trail.now)),
        });
        FlowFound { on_record, would_record: recorded.map(state) }
    }

    fn chosen(&self, id: BackendId, is_syn: bool, is_quoted: bool) -> Chosen {
        let slot = self.trail.slot.map(|seen| seen.slot).unwrap_or_default();
        let entry = self.trail.flow.and_then(|flow| flow.entry);
        let is_repeated = entry.is_some_and(|entry| entry.state() == FlowState::Opening);
        let refused = entry.filter(|entry| entry.backend() != id).and_then(|entry| self.backend(entry.backend()));
        let service = self.trail.service.map(|(_, record)| record).unwrap_or_default();
        let is_opening = is_syn || (service.listens.protocol == Protocol::Udp.number() && !is_quoted);
        let algorithm = algorithm(&service);
        let reason = match entry {
            _ if id.is_none() => Reason::Nobody,
            _ if self.trail.slot.is_none() => Reason::Fragment,
            _ if self.trail.named.is_some_and(|named| named.owner == id) => Reason::ConnectionId,
            None if is_opening && service.choice != choice::SLOT => Reason::Chosen,
            _ if slot.is_at_rest() => Reason::AtRest,
            _ if is_syn && !is_repeated && service.choice != choice::SLOT => Reason::Chosen,
            _ if is_syn && !is_repeated => Reason::NewConnection,
            Some(entry) if entry.backend() == id => Reason::OnRecord,
            _ if slot.settled() == id => Reason::Settled,
            _ => Reason::Current,
        };
        let why = match (reason, refused) {
            (Reason::NewConnection, _) => "a SYN opens a connection, which goes to the slot's current backend".to_owned(),
            (Reason::Chosen, _) => chosen_by(algorithm).to_owned(),
            (Reason::AtRest, _) => "the slot is at rest: all its flows are there".to_owned(),
            (Reason::Nobody, _) => "no backend of the service may take it; xlb status has the check of each".to_owned(),
            (Reason::Fragment, _) => "the first fragment of its packet went there".to_owned(),
            (Reason::ConnectionId, _) => "its QUIC connection ID names it".to_owned(),
            (Reason::OnRecord, _) => "the flow is on record there".to_owned(),
            (Reason::Settled, None) => "not on record: it is from before the slot moved, and belongs there".to_owned(),
            (Reason::Settled, Some(gone)) => {
                format!("{} may not keep it; it goes where it was before the slot moved", endpoint(&gone))
            }
            (Reason::Current, Some(gone)) => format!("{} may not keep it; the slot's current backend takes it", endpoint(&gone)),
            (Reason::Current, None) if slot.settled().is_none() => {
                "not on record, and nobody else can have it: the slot's current backend".to_owned()
            }
            (Reason::Current, None) => "not on record, and the settled backend may keep none: the slot's current one".to_owned(),
        };
        Chosen { chosen: self.backend(id), reason, why }
    }

    fn way(&self, record: &records::Backend, vip: SocketAddr) -> Option<Way> {
        let forward = match record.forward {
            forward::DSR => Forward::Dsr,
            forward::NAT => Forward::Nat,
            forward::FULLNAT => Forward::Fullnat,
            forward::IPIP => Forward::Ipip,
            forward::GUE => Forward::Gue,
            _ => return None,
        };
        let is_known = record.ifindex != 0;
        let by_host = self.trail.verdict == Verdict::Routed;
        let mac = |address: lb_common::MacAddr| (is_known && !by_host).then(|| address.to_string());
        let port = |port: Be16| if port.raw() == 0 { vip.port() } else { port.get() };
        Some(Way {
            forward,
            interface: if is_known { self.names.interface(record.ifindex) } else { None },
            ifindex: record.ifindex,
            to: mac(record.link.destination()),
            from: mac(record.link.source()),
            destination: forward.translates().then(|| SocketAddr::new(record.address.into(), port(record.port))),
            tunnel: matches!(forward, Forward::Ipip | Forward::Gue).then(|| Tunnel {
                source: record.source.into(),
                destination: record.address.into(),
                port: (forward == Forward::Gue).then(|| record.port.get()),
                length_max: record.len_max,
            }),
            by_host,
        })
    }

    fn reply(&self, ReplySeen { backend: (id, _), service: (service_id, service), client }: ReplySeen, port: u16) -> ReplyFound {
        let port = if service.listens.port.raw() == 0 { port } else { service.listens.port.get() };
        ReplyFound {
            backend: self.backend(id),
            service: self.names.service(service_id),
            source: SocketAddr::new(service.vip.into(), port),
            client: client.into(),
        }
    }

    fn backend(&self, id: BackendId) -> Option<BackendFound> {
        if id.is_none() { None } else { self.names.backend(id) }
    }
}

fn endpoint(backend: &BackendFound) -> SocketAddr {
    SocketAddr::new(backend.address, backend.port)
}

fn algorithm(service: &records::Service) -> Algorithm {
    match service.choice {
        choice::ROUND_ROBIN => Algorithm::RoundRobin,
        choice::WEIGHTED_ROUND_ROBIN => Algorithm::WeightedRoundRobin,
        choice::RANDOM => Algorithm::Random,
        choice::LEAST_CONNECTIONS => Algorithm::LeastConnections,
        choice::LEAST_RESPONSE_TIME => Algorithm::LeastResponseTime,
        _ if service.flags & service_flags::IP_HASH != 0 => Algorithm::IpHash,
        _ => Algorithm::Maglev,
    }
}

/// Why a new flow of a service with all flows on record goes where it does.
fn chosen_by(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Maglev | Algorithm::IpHash => {
            "a new flow: the first on its way through the slots that has less than its share of flows"
        }
        Algorithm::RoundRobin | Algorithm::WeightedRoundRobin => "a new flow: it has the next turn",
        Algorithm::Random => "a new flow: any may have it by chance, and this is one of them",
        Algorithm::LeastConnections => "a new flow: it has the fewest active ones for its weight, of some that chance offers",
        Algorithm::LeastResponseTime => "a new flow: it would answer the soonest for its weight, of some that chance offers",
    }
}

/// The mask of a whole address.
fn all_bits(service: &records::Service) -> Addr {
    let mask = match IpAddr::from(service.vip) {
        IpAddr::V4(_) => Ipv4Addr::BROADCAST.into(),
        IpAddr::V6(_) => IpAddr::V6(u128::MAX.into()),
    };
    mask.into()
}

fn state(entry: Entry) -> &'static str {
    match entry.state() {
        FlowState::Opening => "opening",
        FlowState::Guessed => "guessed",
        FlowState::Established => "established",
        FlowState::Closing => "closing",
    }
}

/// To the hundredth: the packet path's clock goes no finer than a second.
fn seconds(ticks: Tick) -> f64 {
    let seconds = f64::from(ticks) * f64::from(1u32 << TICK_SHIFT) / 1e9;
    (seconds * 100.0).round() / 100.0
}
