//! A balancer and its clients, and what must hold between them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use lb_common::MacAddr;
use lb_common::flow::Tick;
use lb_user::desired::{Algorithm, Backend, Desired, Forward, Hashing, NextHop, Protocol, Service};
use xlb_tests::path::fixture::OURS;
use xlb_tests::path::packets::{Content, Flags, frame, tcp, udp};

use crate::balancer::{Balancer, Mac};
use crate::daemon::Daemon;
use crate::steps::{IDLE, Setting, Step};

const PORTS: [(Protocol, u16); 2] = [(Protocol::Tcp, 80), (Protocol::Udp, 53)];

#[derive(Clone, Copy)]
struct HostState {
    weight: u16,
    is_wanted: bool,
    alive: bool,
    /// A check has said so.
    is_known: bool,
    /// The way to it has been found.
    is_reached: bool,
}

impl HostState {
    fn new(weight: u16) -> Self {
        Self { weight, is_wanted: true, alive: true, is_known: true, is_reached: true }
    }

    fn can_serve(&self) -> bool {
        self.alive && self.is_known && self.is_reached
    }
}

/// A client's flow, as far as its client knows.
struct Flow {
    protocol: Protocol,
    client: SocketAddr,
    /// Where its packets went so far.
    backend: Mac,
    last: Tick,
    /// Its backend has been down meanwhile: it may go elsewhere, and then stays there.
    is_excused: bool,
    /// Nothing but its SYN was sent.
    is_opening: bool,
}

pub struct World<'b, B> {
    setting: Setting,
    hosts: BTreeMap<u8, HostState>,
    balancer: &'b mut B,
    daemon: Daemon,
    /// Whose SYNs the next change meets on its way.
    meanwhile: Vec<u8>,
    flows: Vec<Flow>,
    next_port: u16,
    pub n_flows: u64,
    pub n_packets: u64,
    pub n_changes: u64,
}

fn mac(host: u8) -> Mac {
    [2, 0, 0, 0, 9, host + 1]
}

impl<'b, B: Balancer> World<'b, B> {
    /// `balancer` has no tables and no flows.
    pub fn new(setting: &Setting, balancer: &'b mut B) -> Self {
        let hosts = (0..).zip(&setting.weights).map(|(n, &weight)| (n, HostState::new(weight)));
        let mut world = Self {
            setting: setting.clone(),
            hosts: hosts.collect(),
            balancer,
            daemon: Daemon::default(),
            meanwhile: Vec::new(),
            flows: Vec::new(),
            next_port: 1024,
            n_flows: 0,
            n_packets: 0,
            n_changes: 0,
        };
        world.reconcile().expect("a few backends fit");
        world
    }

    /// # Errors
    /// What does not hold any more.
    pub fn take(&mut self, step: &Step) -> Result<(), String> {
        match *step {
            Step::Add(host, weight) => {
                let there = self.hosts.get(&host).filter(|state| state.is_wanted);
                // What has come lately has not been checked: it is alive, and nobody knows, nor the way to it.
                let come = HostState { is_known: false, is_reached: false, ..HostState::new(weight) };
                let state = there.map_or(come, |&state| HostState { weight, ..state });
                self.hosts.insert(host, state);
            }
            Step::Remove(host) => self.change(host, |state| state.is_wanted = false),
            Step::Weight(host, weight) => self.change(host, |state| state.weight = weight),
            Step::Down(host) => self.go_down(host),
            Step::Up(host) => self.change(host, |state| (state.alive, state.is_known) = (true, true)),
            Step::Reach(host) => self.change(host, |state| state.is_reached = true),
            Step::Algorithm(algorithm, max_load) if self.setting.algorithm != Algorithm::IpHash => {
                (self.setting.algorithm, self.setting.max_load) = (algorithm, max_load);
            }
            Step::Algorithm(..) => return Ok(()),
            Step::Restart => self.daemon.restart(&self.desired(), self.balancer.now()),
            Step::Wait(ticks) => self.wait(ticks),
            Step::Open { client, is_acknowledged } => return self.open(client, is_acknowledged),
            Step::Ask { client } => return self.ask(client),
            Step::OpenMeanwhile { client } => {
                self.meanwhile.push(client);
                return Ok(());
            }
            Step::Send(nth) => return self.send(nth, false),
            Step::Close(nth) => return self.send(nth, true),
            Step::Resend(nth) => return self.resend(nth),
        }
        self.n_changes += 1;
        self.reconcile()
    }

    fn change(&mut self, host: u8, change: impl FnOnce(&mut HostState)) {
        if let Some(state) = self.hosts.get_mut(&host).filter(|state| state.is_wanted) {
            change(state);
        }
    }

    fn go_down(&mut self, host: u8) {
        // One that has left is not checked any more: it is as alive as it was.
        let Some(state) = self.hosts.get_mut(&host).filter(|state| state.is_wanted) else { return };
        (state.alive, state.is_known) = (false, true);
        self.flows.iter_mut().filter(|flow| flow.backend == mac(host)).for_each(|flow| flow.is_excused = true);
    }

    fn wait(&mut self, ticks: Tick) {
        self.balancer.wait(ticks);
        let now = self.balancer.now();
        self.flows.retain(|flow| may_be_alive::<B>(flow, now));
    }

    fn reconcile(&mut self) -> Result<(), String> {
        let planned = self.daemon.plan(&self.desired(), self.balancer)?;
        for client in std::mem::take(&mut self.meanwhile) {
            self.open_meanwhile(client);
        }
        self.daemon.carry_out(planned, self.balancer);
        Ok(())
    }

    fn desired(&self) -> Desired {
        let services = PORTS.map(|(protocol, port)| {
            let wanted = self.hosts.iter().filter(|(_, state)| state.is_wanted);
            let backends = wanted.map(|(&host, state)| (SocketAddr::new(self.address(host), port), self.backend(host, state)));
            let service = Service {
                vip: self.vip(),
                port,
                protocol,
                algorithm: self.setting.algorithm,
                hashing: Hashing { max_load: self.setting.max_load, ..Hashing::default() },
                forward: Forward::Dsr,
                gue_port: 6080,
                mss: None,
                toa: false,
                idle: idle(protocol),
                on_down: self.setting.on_down,
                is_tracked: self.setting.is_tracked,
                server_ids: None,
                backends: backends.collect(),
            };
            (protocol.to_string().into(), service)
        });
        Desired { services: services.into(), ingress: BTreeSet::from([self.balancer.ingress()]), ..Desired::default() }
    }

    fn vip(&self) -> IpAddr {
        if self.setting.is_v4 { IpAddr::from([10, 200, 1, 1]) } else { "fd00::1".parse().expect("an address") }
    }

    fn address(&self, host: u8) -> IpAddr {
        if self.setting.is_v4 { [10, 0, 1, host + 1].into() } else { [0xfd01, 0, 0, 0, 0, 0, 0, u16::from(host) + 1].into() }
    }

    fn client(&mut self, client: u8) -> SocketAddr {
        self.next_port += 1;
        let address: IpAddr =
            if self.setting.is_v4 { [10, 9, 1, client].into() } else { [0xfd09, 0, 0, 0, 0, 0, 1, u16::from(client)].into() };
        SocketAddr::new(address, self.next_port)
    }

    fn open(&mut self, client: u8, is_acknowledged: bool) -> Result<(), String> {
        let client = self.client(client);
        let Some(backend) = self.packet(Protocol::Tcp, client, tcp(Flags::Syn)) else { return Ok(()) };
        self.begin(Flow {
            protocol: Protocol::Tcp,
            client,
            backend,
            last: self.balancer.now(),
            is_excused: false,
            is_opening: true,
        })?;
        if is_acknowledged {
            let newest = self.flows.len() - 1;
            return self.go_on(newest, tcp(Flags::Ack));
        }
        Ok(())
    }

    /// A connection that begins by what held before the change that is on its way.
    fn open_meanwhile(&mut self, client: u8) {
        let client = self.client(client);
        if let Some(backend) = self.packet(Protocol::Tcp, client, tcp(Flags::Syn)) {
            // It may have gone to one that the change takes out of service.
            let is_excused =
                !self.hosts.iter().any(|(&host, state)| mac(host) == backend && (state.can_serve() || !state.is_wanted));
            let flow = Flow { protocol: Protocol::Tcp, client, backend, last: self.balancer.now(), is_excused, is_opening: true };
            self.n_flows += 1;
            self.flows.push(flow);
        }
    }

    fn ask(&mut self, client: u8) -> Result<(), String> {
        let client = self.client(client);
        let Some(backend) = self.packet(Protocol::Udp, client, udp()) else { return Ok(()) };
        // Nobody knows that it is new: in a slot that moves it goes where older flows of the slot are, who may be kept on one that
        // is down.
        let is_excused = !self.hosts.iter().any(|(&host, state)| mac(host) == backend && state.alive);
        let flow = Flow { protocol: Protocol::Udp, client, backend, last: self.balancer.now(), is_excused, is_opening: false };
        self.n_flows += 1;
        self.flows.push(flow);
        Ok(())
    }

    /// A new connection, which must go to a backend that takes new ones.
    fn begin(&mut self, flow: Flow) -> Result<(), String> {
        let takes = |(&host, state): (&u8, &HostState)| {
            mac(host) == flow.backend && state.is_wanted && state.can_serve() && state.weight > 0
        };
        if !self.hosts.iter().any(takes) {
            return Err(format!("a new connection went to {:?}, which takes none", flow.backend));
        }
        self.n_flows += 1;
        self.flows.push(flow);
        Ok(())
    }

    fn send(&mut self, nth: u16, is_last: bool) -> Result<(), String> {
        if self.flows.is_empty() {
            return Ok(());
        }
        let index = usize::from(nth) % self.flows.len();
        let content = match self.flows[index].protocol {
            Protocol::Tcp if is_last => tcp(Flags::Fin),
            Protocol::Tcp => tcp(Flags::Ack),
            Protocol::Udp => udp(),
        };
        self.go_on(index, content)
    }

    fn resend(&mut self, nth: u16) -> Result<(), String> {
        let opening: Vec<usize> = (0..self.flows.len()).filter(|&n| self.flows[n].is_opening).collect();
        if opening.is_empty() {
            return Ok(());
        }
        let index = opening[usize::from(nth) % opening.len()];
        // In a slot at rest nobody remembers a SYN: it may begin elsewhere if the slot has moved since.
        let flow = &self.flows[index];
        let (client, protocol) = (flow.client, flow.protocol);
        match self.packet(protocol, client, tcp(Flags::Syn)) {
            Some(backend) => {
                self.flows[index].backend = backend;
                self.flows[index].last = self.balancer.now();
            }
            None => drop(self.flows.remove(index)),
        }
        Ok(())
    }

    fn go_on(&mut self, index: usize, content: Content) -> Result<(), String> {
        let now = self.balancer.now();
        // A clock that goes by itself may have let it die.
        if !may_be_alive::<B>(&self.flows[index], now) {
            self.flows.remove(index);
            return Ok(());
        }
        let (protocol, client) = (self.flows[index].protocol, self.flows[index].client);
        let went_to = self.packet(protocol, client, content);
        let flow = &mut self.flows[index];
        match went_to {
            Some(backend) if backend == flow.backend => {}
            // Once it has gone elsewhere, it is a flow of that backend's, which answers with a reset.
            _ if flow.is_excused => {
                self.flows.remove(index);
                return Ok(());
            }
            other => return Err(format!("{protocol} flow of {client} went from {:?} to {other:?}", flow.backend)),
        }
        flow.last = now;
        flow.is_opening = false;
        Ok(())
    }

    /// Where a packet went, if anywhere.
    fn packet(&mut self, protocol: Protocol, client: SocketAddr, content: Content) -> Option<Mac> {
        let (_, port) = PORTS[usize::from(protocol == Protocol::Udp)];
        let vip = SocketAddr::new(self.vip(), port);
        let frame = frame(&client.to_string(), &vip.to_string(), content).bytes();
        self.n_packets += 1;
        let sent_to = self.balancer.send(&frame);
        if self.setting.forgets {
            self.balancer.forget_flows();
        }
        sent_to
    }

    fn backend(&self, host: u8, state: &HostState) -> Backend {
        let (source, destination) = (MacAddr::new(OURS), MacAddr::new(mac(host)));
        let hop = NextHop { ifindex: self.balancer.ingress(), source, destination, takes_redirects: true, ..NextHop::NOWHERE };
        let next_hop = state.is_reached.then_some(hop);
        let is_undecided = !state.is_known || (state.alive && !state.is_reached);
        Backend { weight: state.weight, alive: state.alive && state.is_known, is_undecided, next_hop }
    }
}

fn idle(protocol: Protocol) -> Tick {
    IDLE[usize::from(protocol == Protocol::Udp)]
}

/// Whether the packet path must take a flow for alive, however far its clock has gone meanwhile.
fn may_be_alive<B: Balancer>(flow: &Flow, now: Tick) -> bool {
    now.wrapping_sub(flow.last) <= idle(flow.protocol) - B::SLACK
}
