//! Clients and backends of full NAT, and what must hold between them.
//!
//! It knows the table of `docs/fullnat.md` and who was seen with which port, and nothing of how ports are found.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::flow::Tick;
use lb_common::{MacAddr, Verdict};
use lb_user::desired::{Algorithm, Backend, Desired, Forward, Hashing, NextHop, Protocol, Service};
use xlb_tests::path::fixture::{GATEWAY, OURS};
use xlb_tests::path::judge;
use xlb_tests::path::packets::{Content, Flags, Frame, frame, tcp, udp};

use super::steps::{Does, Setting, Step};
use crate::balancer::{Balancer, Mac};
use crate::daemon::Daemon;

/// Where clients go, and the port of backends, which is the client's choice where both are 0.
pub struct Listener {
    vip: &'static str,
    port: u16,
    protocol: Protocol,
    backend_port: u16,
}

pub const SERVICES: [Listener; 6] = [
    Listener { vip: "10.200.1.1", port: 80, protocol: Protocol::Tcp, backend_port: 8080 },
    Listener { vip: "10.200.1.2", port: 8000, protocol: Protocol::Tcp, backend_port: 8080 },
    Listener { vip: "10.200.1.1", port: 53, protocol: Protocol::Udp, backend_port: 5353 },
    Listener { vip: "10.200.1.3", port: 0, protocol: Protocol::Tcp, backend_port: 0 },
    Listener { vip: "fd00::1", port: 80, protocol: Protocol::Tcp, backend_port: 8080 },
    Listener { vip: "fd00::1", port: 53, protocol: Protocol::Udp, backend_port: 5353 },
];

/// What flows to a service on every port are for.
const CHOSEN: [u16; 2] = [7001, 8080];

/// Ports that a flow may have.
const N_MAY_HAVE: usize = 24;

// As `docs/fullnat.md` has it, in ticks of 1.07 s.
const CLOSED: Tick = 2;
const UNANSWERED: Tick = 16;
const HALF_CLOSED: Tick = 60;

/// Changes of backends go on for so many waits.
const WAITS: u8 = 3;

#[derive(Clone, Copy)]
struct HostState {
    weight: u16,
    is_wanted: bool,
    alive: bool,
    /// How often it has left or come: with each time it may have become another one to the balancer.
    n_moves: u32,
}

/// A client's flow, whether or not it is alive.
struct Flow {
    service: usize,
    client: SocketAddr,
    vip: SocketAddr,
    /// Where its last packet went, if anywhere.
    host: Option<u8>,
    /// When that was.
    last: Tick,
    /// Its backend has been down meanwhile, or it has ended: it may go elsewhere.
    is_excused: bool,
}

/// A port that stands for a flow towards a host.
#[derive(Clone)]
struct Session {
    flow: usize,
    host: u8,
    source: SocketAddr,
    seen: Seen,
    until: Tick,
    n_moves: u32,
    /// It may be either of two: what is said here is the most that may be.
    is_vague: bool,
}

#[derive(Clone, Copy, Default)]
struct Seen {
    answer: bool,
    client_end: bool,
    backend_end: bool,
    reset: bool,
}

impl Seen {
    fn note(&mut self, does: Does, is_client: bool) {
        match does {
            Does::Opens if is_client => *self = Self::default(),
            Does::Opens | Does::GoesOn => {}
            Does::Ends if is_client => self.client_end = true,
            Does::Ends => self.backend_end = true,
            Does::Resets => self.reset = true,
        }
        self.answer |= !is_client;
    }

    fn kept(self, idle: Tick) -> Tick {
        match self {
            Self { reset: true, .. } | Self { client_end: true, backend_end: true, .. } => idle.min(CLOSED),
            Self { answer: false, .. } => idle.min(UNANSWERED),
            Self { client_end: false, backend_end: false, .. } => idle,
            _ => idle.min(HALF_CLOSED),
        }
    }
}

/// How often what a test is about has come up.
#[derive(Clone, Copy, Default, Debug)]
pub struct Tally {
    pub flows: u64,
    pub packets: u64,
    pub answers: u64,
    /// Packets that are nobody's.
    pub strangers: u64,
    pub refused: u64,
    /// Ports that one flow had after another.
    pub taken_over: u64,
    pub changes: u64,
}

impl Tally {
    pub fn add(&mut self, other: Self) {
        self.flows += other.flows;
        self.packets += other.packets;
        self.answers += other.answers;
        self.strangers += other.strangers;
        self.refused += other.refused;
        self.taken_over += other.taken_over;
        self.changes += other.changes;
    }
}

pub struct World<'b, B> {
    setting: Setting,
    balancer: &'b mut B,
    daemon: Daemon,
    hosts: BTreeMap<u8, HostState>,
    flows: Vec<Flow>,
    /// By their ends.
    flows_by: BTreeMap<(SocketAddr, SocketAddr, bool), usize>,
    sessions: Vec<Session>,
    /// The last of each flow towards each host.
    last_session: BTreeMap<(usize, u8), usize>,
    /// Who had each port last.
    owners: BTreeMap<SocketAddr, usize>,
    /// What stands for each client.
    stands_for: BTreeMap<IpAddr, IpAddr>,
    /// Waits at which changes may go on.
    n_unsettled: u8,
    pub tally: Tally,
}

fn mac(host: u8) -> Mac {
    [2, 0, 0, 0, 9, host + 1]
}

fn host_address(host: u8, is_v4: bool) -> IpAddr {
    if is_v4 { [10, 0, 1, host + 1].into() } else { [0xfd01, 0, 0, 0, 0, 0, 0, u16::from(host) + 1].into() }
}

/// The first is the one that the fixture has a route to; to all others, the host has.
fn client_address(client: u8, is_v4: bool) -> IpAddr {
    let host = if client == 0 { 100 } else { 20 + client };
    let text = if is_v4 { format!("10.9.0.{host}") } else { format!("fd09::{host}") };
    text.parse().expect("an address")
}

fn vip(service: usize, client_port: u16) -> SocketAddr {
    let Listener { vip, port, .. } = &SERVICES[service];
    let port = if *port == 0 { CHOSEN[usize::from(client_port) % CHOSEN.len()] } else { *port };
    SocketAddr::new(vip.parse().expect("an address"), port)
}

fn content(is_tcp: bool, does: Does, is_client: bool) -> Content {
    match does {
        _ if !is_tcp => udp(),
        Does::Opens if is_client => tcp(Flags::Syn),
        Does::Opens => tcp(Flags::SynAck),
        Does::GoesOn => tcp(Flags::Ack),
        Does::Ends => tcp(Flags::Fin),
        Does::Resets => tcp(Flags::Rst),
    }
}

/// Whether a frame is another one, whatever their checksums, and its own are right. Zero has two of them.
fn expect(left: &[u8], expected: &Frame) -> Result<(), String> {
    let checksums = |frame: &Frame| {
        let transport = frame.l4() + if matches!(frame.content, Content::Tcp { .. }) { 16 } else { 6 };
        [frame.source.is_ipv4().then_some(frame.l3() + 10), Some(transport)]
    };
    let bytes = expected.bytes();
    if left == bytes {
        return Ok(());
    }
    let mut both = [left.to_vec(), bytes];
    for frame in &mut both {
        for at in checksums(expected).into_iter().flatten() {
            frame.get_mut(at..at + 2).ok_or("it is cut")?.fill(0);
        }
    }
    let hold = judge::see(left).is_some_and(|seen| seen.checksums.hold());
    if both[0] == both[1] && hold { Ok(()) } else { Err(format!("left as\n  {left:02x?}, not as\n  {:02x?}", expected.bytes())) }
}

impl<'b, B: Balancer> World<'b, B> {
    /// `balancer` has no tables, and the setting's pool, none of whose ports is taken.
    pub fn new(setting: &Setting, balancer: &'b mut B) -> Self {
        let state = HostState { weight: 1, is_wanted: true, alive: true, n_moves: 0 };
        let mut world = Self {
            setting: setting.clone(),
            balancer,
            daemon: Daemon::default(),
            hosts: (0..setting.n_hosts).map(|host| (host, state)).collect(),
            flows: Vec::new(),
            flows_by: BTreeMap::new(),
            sessions: Vec::new(),
            last_session: BTreeMap::new(),
            owners: BTreeMap::new(),
            stands_for: BTreeMap::new(),
            n_unsettled: 0,
            tally: Tally::default(),
        };
        world.reconcile().expect("a few backends fit");
        world
    }

    /// # Errors
    /// What does not hold any more.
    pub fn take(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Add(host) => {
                let state = self.hosts.entry(host).or_insert(HostState { weight: 1, is_wanted: false, alive: true, n_moves: 0 });
                if !state.is_wanted {
                    *state = HostState { weight: 1, is_wanted: true, n_moves: state.n_moves + 1, ..*state };
                }
            }
            Step::Remove(host) => self.change(host, |state| (state.is_wanted, state.n_moves) = (false, state.n_moves + 1)),
            Step::Weight(host, weight) => self.change(host, |state| state.weight = weight),
            Step::Down(host) => {
                self.change(host, |state| state.alive = false);
                self.flows.iter_mut().filter(|flow| flow.host == Some(host)).for_each(|flow| flow.is_excused = true);
            }
            Step::Up(host) => self.change(host, |state| state.alive = true),
            Step::Restart => self.daemon.restart(&self.desired(), self.balancer.now()),
            Step::Wait(ticks) => {
                self.balancer.wait(ticks);
                if self.n_unsettled == 0 {
                    return Ok(());
                }
                self.n_unsettled -= 1;
                return self.reconcile();
            }
            Step::Open { service, client, port, is_answered } => {
                return self.open(service, client, 1024 + u16::from(port), is_answered);
            }
            Step::Flood { service, client, first_port, n, is_answered } => {
                let ports = (0..u16::from(n)).map(|n| 2000 + u16::from(first_port) + n);
                return ports.into_iter().try_for_each(|port| self.open(service, client, port, is_answered));
            }
            Step::Send { nth, does, is_tagged } => return self.nth(nth).map_or(Ok(()), |flow| self.send(flow, does, is_tagged)),
            Step::Answer { nth, does, is_tagged } => {
                return self.nth(nth).map_or(Ok(()), |flow| self.answer(flow, does, is_tagged));
            }
            Step::Stray { nth, host, port, is_tcp } => {
                let Some(source) = self.nth(nth).and_then(|flow| self.source(flow)) else { return Ok(()) };
                let from = SocketAddr::new(host_address(host, source.is_ipv4()), port);
                return self.backend_sends(host, from, source, is_tcp, Does::GoesOn, false);
            }
            Step::Stranger { host, port, is_tcp, number, to } => {
                let addresses = &self.setting.pool.addresses;
                // Beyond them, one that is not in the pool.
                let to = SocketAddr::new(addresses.get(number).copied().unwrap_or(IpAddr::from([10, 0, 3, 202])), to);
                let from = SocketAddr::new(host_address(host, to.is_ipv4()), port);
                return self.backend_sends(host, from, to, is_tcp, Does::GoesOn, false);
            }
        }
        self.tally.changes += 1;
        self.n_unsettled = WAITS;
        self.reconcile()
    }

    fn change(&mut self, host: u8, change: impl FnOnce(&mut HostState)) {
        if let Some(state) = self.hosts.get_mut(&host).filter(|state| state.is_wanted) {
            change(state);
        }
    }

    fn nth(&self, nth: u16) -> Option<usize> {
        usize::from(nth).checked_rem(self.flows.len())
    }

    fn reconcile(&mut self) -> Result<(), String> {
        let planned = self.daemon.plan(&self.desired(), self.balancer)?;
        self.daemon.carry_out(planned, self.balancer);
        Ok(())
    }

    fn desired(&self) -> Desired {
        let ingress = self.balancer.ingress();
        let services = self.setting.services.iter().map(|&n| {
            let listener = &SERVICES[n];
            let vip = vip(n, 0).ip();
            let backends = self.hosts.iter().filter(|(_, state)| state.is_wanted).map(|(&host, state)| {
                let next_hop = NextHop {
                    ifindex: ingress,
                    source: MacAddr::new(OURS),
                    destination: MacAddr::new(mac(host)),
                    takes_redirects: true,
                    ..NextHop::NOWHERE
                };
                let endpoint = SocketAddr::new(host_address(host, vip.is_ipv4()), listener.backend_port);
                (endpoint, Backend { weight: state.weight, alive: state.alive, is_undecided: false, next_hop: Some(next_hop) })
            });
            let service = Service {
                vip,
                port: listener.port,
                protocol: listener.protocol,
                algorithm: Algorithm::Maglev,
                hashing: Hashing::default(),
                forward: Forward::Fullnat,
                gue_port: 6080,
                mss: None,
                toa: false,
                idle: self.idle(n),
                on_down: self.setting.on_down,
                is_tracked: false,
                server_ids: None,
                backends: backends.collect(),
            };
            (format!("service-{n}").into(), service)
        });
        let pool = self.setting.pool.clone().into();
        Desired { services: services.collect(), ingress: BTreeSet::from([ingress]), pool, ..Desired::default() }
    }

    fn idle(&self, service: usize) -> Tick {
        self.setting.idle[usize::from(SERVICES[service].protocol == Protocol::Udp)]
    }

    /// Whether it must be taken for alive, however far a clock has gone that goes by itself.
    fn is_alive(&self, session: &Session) -> bool {
        !session.is_vague && self.balancer.now() + B::SLACK < session.until
    }

    fn may_be_alive(&self, session: &Session) -> bool {
        self.balancer.now() < session.until + B::SLACK
    }

    /// What stands for a flow towards its backend, if anything ever did.
    fn source(&self, flow: usize) -> Option<SocketAddr> {
        self.last_session.get(&(flow, self.flows[flow].host?)).map(|&session| self.sessions[session].source)
    }

    fn open(&mut self, service: usize, client: u8, port: u16, is_answered: bool) -> Result<(), String> {
        let service = self.setting.services[service];
        let vip = vip(service, port);
        let client = SocketAddr::new(client_address(client, vip.is_ipv4()), port);
        let is_tcp = SERVICES[service].protocol == Protocol::Tcp;
        let next = self.flows.len();
        let flow = *self.flows_by.entry((client, vip, is_tcp)).or_insert(next);
        if flow == next {
            self.tally.flows += 1;
            self.flows.push(Flow { service, client, vip, host: None, last: 0, is_excused: true });
        }
        self.send(flow, Does::Opens, false)?;
        if is_answered { self.answer(flow, Does::Opens, false) } else { Ok(()) }
    }

    /// A client's packet.
    fn send(&mut self, flow: usize, does: Does, is_tagged: bool) -> Result<(), String> {
        let &Flow { service, client, vip, host: before, last, is_excused } = &self.flows[flow];
        let (now, idle) = (self.balancer.now(), self.idle(service));
        let is_tcp = SERVICES[service].protocol == Protocol::Tcp;
        let packet = frame(&client.to_string(), &vip.to_string(), content(is_tcp, does, true));
        let packet = packet.vlans(if is_tagged { &[7] } else { &[] });
        let outcome = self.balancer.run(&packet.bytes());
        self.tally.packets += 1;
        let begins = is_tcp && matches!(does, Does::Opens);
        let must_stay = !is_excused && !begins && now - last + B::SLACK < idle;
        let what = format!("{client} to {vip}, {does:?}, of {before:?}");
        let host = match outcome.verdict {
            Verdict::Tx => (outcome.frame[5]) - 1,
            Verdict::NoSourcePort => {
                // One that was to begin anew has gone from where it was.
                self.flows[flow].is_excused |= begins;
                return self.refused(flow, must_stay).map_err(|error| format!("{what}: {error}"));
            }
            Verdict::NoBackend if !must_stay && !self.can_anyone_serve() => return Ok(()),
            verdict => return Err(format!("{what}: {verdict:?}")),
        };
        let seen = judge::see(&outcome.frame).ok_or_else(|| format!("{what}: no packet left"))?;
        let port = if SERVICES[service].backend_port == 0 { vip.port() } else { SERVICES[service].backend_port };
        let backend = SocketAddr::new(host_address(host, vip.is_ipv4()), port);
        let left = packet.macs(OURS, mac(host)).from(&seen.source.to_string()).to(&backend.to_string()).ttl(63);
        expect(&outcome.frame, &left).map_err(|error| format!("{what}: {error}"))?;
        if must_stay && before != Some(host) {
            return Err(format!("{what}: went to {host}"));
        }
        self.has_source(flow, host, seen.source, does).map_err(|error| format!("{what}: {error}"))?;
        let state = self.hosts.get(&host).ok_or_else(|| format!("{what}: to nobody"))?;
        let is_new = begins || before.is_none() || now - last + B::SLACK >= idle;
        let flow = &mut self.flows[flow];
        // A datagram may go where older ones went, who may be kept on one that is down.
        flow.is_excused = !state.alive || (is_excused && !is_new) || matches!(does, Does::Resets if is_tcp);
        (flow.host, flow.last) = (Some(host), now);
        Ok(())
    }

    fn can_anyone_serve(&self) -> bool {
        self.hosts.values().any(|state| state.is_wanted && state.alive && state.weight > 0)
    }

    /// A packet of a flow left from there.
    fn has_source(&mut self, flow: usize, host: u8, source: SocketAddr, does: Does) -> Result<(), String> {
        let pool = &self.setting.pool;
        if !pool.addresses.contains(&source.ip()) || !pool.ports.contains(&source.port()) {
            return Err(format!("{source} is not of the pool"));
        }
        let client = self.flows[flow].client.ip();
        let stands = *self.stands_for.entry(client).or_insert(source.ip());
        if stands != source.ip() {
            return Err(format!("{source} stands for a client that {stands} stood for"));
        }
        let n_moves = self.hosts.get(&host).map_or(0, |state| state.n_moves);
        let fresh = Session { flow, host, source, seen: Seen::default(), until: 0, n_moves, is_vague: false };
        let known = self.last_session.get(&(flow, host)).copied();
        let known = known.filter(|&known| self.owners.get(&self.sessions[known].source) == Some(&known));
        let index = match known {
            Some(known) if self.sessions[known].source == source => {
                // It may be another's by chance who is the same again.
                let session = &self.sessions[known];
                let is_same = self.is_alive(session) || session.n_moves == n_moves;
                let session = &mut self.sessions[known];
                session.is_vague |= !is_same;
                session.n_moves = n_moves;
                known
            }
            Some(known) if self.is_alive(&self.sessions[known]) || self.sessions[known].n_moves == n_moves => {
                return Err(format!("{source}, though {} was its own, and nobody took it", self.sessions[known].source));
            }
            _ => {
                if let Some(owner) = self.owners.get(&source).map(|&owner| &self.sessions[owner]) {
                    if self.is_alive(owner) {
                        return Err(format!(
                            "{source}, which is that of {} until {}",
                            self.flows[owner.flow].client, owner.until
                        ));
                    }
                    self.tally.taken_over += 1;
                }
                self.sessions.push(fresh);
                self.sessions.len() - 1
            }
        };
        self.owners.insert(source, index);
        self.last_session.insert((flow, host), index);
        self.note(index, does, true);
        Ok(())
    }

    fn note(&mut self, session: usize, does: Does, is_client: bool) {
        let service = self.flows[self.sessions[session].flow].service;
        let (now, idle) = (self.balancer.now(), self.idle(service));
        let session = &mut self.sessions[session];
        let host = self.hosts.get(&session.host);
        let is_there = host.is_some_and(|host| host.is_wanted && host.n_moves == session.n_moves);
        // What was silent for too long keeps nobody who is leaving.
        session.is_vague |= !is_there && session.until > 0 && session.until <= now + B::SLACK;
        if SERVICES[service].protocol == Protocol::Tcp {
            session.seen.note(does, is_client);
            session.is_vague &= !(is_there && is_client && matches!(does, Does::Opens));
        } else {
            session.seen.note(Does::GoesOn, is_client);
        }
        session.until = now + if session.is_vague { idle } else { session.seen.kept(idle) };
    }

    /// A packet of a flow found no port.
    fn refused(&mut self, flow: usize, must_stay: bool) -> Result<(), String> {
        self.tally.refused += 1;
        let Flow { client, host, .. } = self.flows[flow];
        let own = host.and_then(|host| self.last_session.get(&(flow, host))).map(|&session| &self.sessions[session]);
        if must_stay && own.is_some_and(|session| self.is_alive(session)) {
            return Err("it has a port, and was refused".into());
        }
        let stands = self.stands_for.get(&client.ip()).copied();
        let addresses = self.setting.pool.addresses.iter().filter(|address| address.is_ipv4() == client.is_ipv4());
        let mut addresses = addresses.filter(|&&address| stands.is_none_or(|stands| stands == address));
        let n_taken = |address: IpAddr| {
            let owned = self.owners.iter().filter(|(source, _)| source.ip() == address);
            owned.filter(|&(_, &session)| self.may_be_alive(&self.sessions[session])).count()
        };
        if addresses.any(|&address| n_taken(address) >= N_MAY_HAVE) {
            Ok(())
        } else {
            Err(format!("refused, and {stands:?} has free ports"))
        }
    }

    /// A packet of a flow's backend.
    fn answer(&mut self, flow: usize, does: Does, is_tagged: bool) -> Result<(), String> {
        let (Some(host), Some(source)) = (self.flows[flow].host, self.source(flow)) else { return Ok(()) };
        let Flow { service, vip, .. } = self.flows[flow];
        let port = if SERVICES[service].backend_port == 0 { vip.port() } else { SERVICES[service].backend_port };
        let from = SocketAddr::new(host_address(host, source.is_ipv4()), port);
        self.backend_sends(host, from, source, SERVICES[service].protocol == Protocol::Tcp, does, is_tagged)
    }

    fn backend_sends(
        &mut self,
        host: u8,
        from: SocketAddr,
        to: SocketAddr,
        is_tcp: bool,
        does: Does,
        is_tagged: bool,
    ) -> Result<(), String> {
        let packet = frame(&from.to_string(), &to.to_string(), content(is_tcp, does, false));
        let packet = packet.macs(mac(host), OURS).vlans(if is_tagged { &[7] } else { &[] });
        let owner = self.owners.get(&to).copied().filter(|&owner| {
            let session = &self.sessions[owner];
            let flow = &self.flows[session.flow];
            let Listener { backend_port, protocol, .. } = SERVICES[flow.service];
            let port = if backend_port == 0 { flow.vip.port() } else { backend_port };
            session.host == host && port == from.port() && (protocol == Protocol::Tcp) == is_tcp
        });
        let outcome = self.balancer.run(&packet.bytes());
        self.tally.packets += 1;
        let what = format!("{from} to {to}, {does:?}");
        match (outcome.verdict, owner) {
            (Verdict::Reply | Verdict::ReplyRouted, Some(owner)) => {
                let flow = &self.flows[self.sessions[owner].flow];
                let (vip, client) = (flow.vip.to_string(), flow.client.to_string());
                let restored = packet.from(&vip).to(&client);
                // What the host routes, it counts the hop of.
                let is_routed = outcome.verdict == Verdict::ReplyRouted;
                let restored = if is_routed { restored } else { restored.macs(OURS, GATEWAY).ttl(63) };
                expect(&outcome.frame, &restored).map_err(|error| format!("{what}: {error}"))?;
                self.tally.answers += 1;
                self.note(owner, does, false);
                Ok(())
            }
            (Verdict::NotService, owner) => {
                if let Some(session) = owner.map(|owner| &self.sessions[owner]).filter(|session| self.is_alive(session)) {
                    return Err(format!("{what}: {} does not get its reply", self.flows[session.flow].client));
                }
                self.tally.strangers += 1;
                if outcome.frame == packet.bytes() { Ok(()) } else { Err(format!("{what}: it was changed")) }
            }
            (verdict, owner) => {
                let seen = judge::see(&outcome.frame).map(|seen| (seen.source, seen.destination));
                Err(format!("{what}: {verdict:?}, as {seen:?}, and is of {:?}", owner.map(|owner| self.sessions[owner].flow)))
            }
        }
    }
}
