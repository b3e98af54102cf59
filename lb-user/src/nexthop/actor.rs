//! The only part that does I/O: feeds the table from netlink, asks what it wants to know, and sends what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use netlink_packet_core::NLM_F_CREATE;
use netlink_packet_generic::GenlMessage;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use rustix::io::Errno;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep_until;
use tracing::{debug, warn};

use super::neighbours::{self, Key, Neighbour};
use super::netdev::{self, Device, Netdev};
use super::routes::{self, Route};
use super::socket::{Events, Received, Requests, Unread};
use super::table::Table;
use super::{Answer, Changes, NextHopError, RedirectMode, Wishes, links};

/// link, neighbour, IPv4 address, route and rule, IPv6 address, route and rule, nexthop objects.
const GROUPS: [u32; 9] = [1, 3, 5, 7, 8, 9, 11, 19, 32];
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;

/// How long what changes together is gathered.
const SETTLE: Duration = Duration::from_millis(2);
/// How many requests are made before events are looked at again: well under a millisecond's.
const N_REQUESTS_A_TURN: usize = 32;
/// For what the kernel does not announce: an ICMP redirect, say.
const RESYNC_INTERVAL: Duration = Duration::from_secs(60);
/// Before 6.3 neither is a program that comes to or leaves a veth's other end, and in the latter case frames vanish.
const RESYNC_INTERVAL_WITHOUT_FEATURES: Duration = Duration::from_secs(5);
const RETRY_INTERVAL: Duration = Duration::from_secs(1);
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

pub struct Actor {
    table: Table,
    routing: Requests,
    generic: Requests,
    events: Events,
    /// Where the kernel tells XDP features, and their changes.
    netdev: Option<(Netdev, Events)>,
    wanted: watch::Receiver<Arc<Wishes>>,
    mode: watch::Receiver<RedirectMode>,
    changes: mpsc::Sender<Changes>,
    answers: Arc<RwLock<BTreeMap<IpAddr, Answer>>>,
    /// Whose routes are to be asked for.
    to_ask: BTreeSet<IpAddr>,
    /// Since when something waits to be sent.
    touched_at: Option<Instant>,
    resync_at: Instant,
    warned_at: Option<Instant>,
}

impl Actor {
    /// Opens its sockets, in the calling thread's network namespace, and reads the links.
    pub async fn open(
        mut mode: watch::Receiver<RedirectMode>,
        wanted: watch::Receiver<Arc<Wishes>>,
        changes: mpsc::Sender<Changes>,
        answers: Arc<RwLock<BTreeMap<IpAddr, Answer>>>,
    ) -> Result<Self, NextHopError> {
        let first_mode = *mode.borrow_and_update();
        let mut generic = Requests::open(NETLINK_GENERIC)?;
        let netdev = match Netdev::find(&mut generic).await? {
            Some(netdev) => Some((netdev, Events::open(NETLINK_GENERIC, netdev.group.as_slice())?)),
            None => None,
        };
        let mut actor = Self {
            table: Table::new(first_mode),
            routing: Requests::open(NETLINK_ROUTE)?,
            generic,
            events: Events::open(NETLINK_ROUTE, &GROUPS)?,
            netdev,
            wanted,
            mode,
            changes,
            answers,
            to_ask: BTreeSet::new(),
            touched_at: None,
            resync_at: Instant::now() + RESYNC_INTERVAL_WITHOUT_FEATURES,
            warned_at: None,
        };
        actor.read_links().await?;
        Ok(actor)
    }

    /// Runs until the resolver or the receiver of changes is dropped.
    pub async fn run(mut self) {
        loop {
            if self.touched_at.is_none() && self.table.is_touched() {
                self.touched_at = Some(Instant::now());
            }
            let send_at = self.touched_at.map(|at| at + SETTLE);
            let probe_at = self.table.next_probe();
            // What is due goes first: a flood of events must not hold back what the earlier ones said.
            tokio::select! {
                biased;
                changed = self.wanted.changed() => match changed {
                    Ok(()) => self.apply_wanted(),
                    Err(_) => return,
                },
                changed = self.mode.changed() => match changed {
                    Ok(()) => self.table.set_mode(*self.mode.borrow_and_update()),
                    Err(_) => return,
                },
                () = self.changes.closed() => return,
                permit = due(send_at, self.changes.clone().reserve_owned()) => match permit {
                    Ok(permit) => {
                        self.touched_at = None;
                        let changes = self.table.take_changes();
                        if !changes.is_empty() {
                            remember(&self.answers, &changes);
                            permit.send(changes);
                        }
                    }
                    Err(_) => return,
                },
                received = self.events.receive() => self.take_events(received).await,
                received = receive(&mut self.netdev) => self.take_netdev_events(received),
                () = due(Some(self.resync_at), std::future::ready(())) => self.resync().await,
                () = std::future::ready(()), if !self.to_ask.is_empty() => self.ask_for_routes().await,
                () = due(probe_at, std::future::ready(())) => self.probe().await,
            }
        }
    }

    fn apply_wanted(&mut self) {
        let wanted = Arc::clone(&self.wanted.borrow_and_update());
        self.to_ask.extend(self.table.want(&wanted));
        self.to_ask.retain(|address| wanted.contains_key(address));
        self.answers.write().unwrap_or_else(PoisonError::into_inner).retain(|address, _| wanted.contains_key(address));
    }

    fn ask_all_again(&mut self) {
        self.to_ask.extend(self.table.all_wanted());
    }

    async fn take_events(&mut self, received: io::Result<Received<RouteNetlinkMessage>>) {
        match received {
            Ok(Received::Events(events)) => {
                for event in events {
                    self.take_event(event).await;
                }
            }
            Ok(Received::Overrun) => {
                warn!("netlink: events were lost, reading everything anew");
                self.resync().await;
            }
            Err(error) => {
                warn!(%error, "netlink: cannot receive events");
                tokio::time::sleep(RETRY_INTERVAL).await;
                self.resync().await;
            }
        }
    }

    async fn take_event(&mut self, event: Result<RouteNetlinkMessage, Unread>) {
        let now = Instant::now();
        match event {
            Ok(message @ (RouteNetlinkMessage::NewNeighbour(_) | RouteNetlinkMessage::DelNeighbour(_))) => {
                if let Some((key, neighbour)) = neighbours::parse(&message) {
                    self.table.set_neighbour(key, neighbour, now);
                }
            }
            Ok(RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route)) => {
                if let Some(range) = routes::concerns(&route) {
                    self.to_ask.extend(self.table.wanted_in(range));
                }
            }
            Ok(message @ RouteNetlinkMessage::NewLink(_)) => self.take_link(&message).await,
            Ok(message @ RouteNetlinkMessage::DelLink(_)) => self.drop_link(&message),
            Ok(RouteNetlinkMessage::NewAddress(address) | RouteNetlinkMessage::DelAddress(address)) => {
                // Routes that prefer a removed address go with it, unannounced; and an interface can only ask for its
                // neighbours once it has an address (IPv6: once that is known to be unique).
                self.ask_all_again();
                self.table.probe_again(address.header.index, now);
            }
            Ok(RouteNetlinkMessage::NewRule(_) | RouteNetlinkMessage::DelRule(_)) => self.ask_all_again(),
            Ok(_) => {}
            // Of nexthop objects, which netlink-packet-route does not know, no more is needed than that one changed.
            Err(Unread { kind: RTM_NEWNEXTHOP | RTM_DELNEXTHOP, .. }) => self.ask_all_again(),
            Err(unread) => self.pass_over(&unread),
        }
    }

    fn pass_over(&mut self, Unread { kind, error }: &Unread) {
        debug!(kind, %error, "netlink: passed over an event that cannot be read, reading everything anew");
        self.resync_soon();
    }

    fn drop_link(&mut self, message: &RouteNetlinkMessage) {
        if links::parse_ifindex(message).is_some_and(|ifindex| self.table.remove_link(ifindex)) {
            self.ask_all_again();
        }
    }

    async fn take_link(&mut self, message: &RouteNetlinkMessage) {
        let Some(mut link) = links::parse(message) else { return };
        let is_new = !self.table.knows_link(link.facts.ifindex);
        match &self.netdev {
            Some((netdev, _)) if is_new => {
                link.facts.xdp_features = netdev.features(&mut self.generic, link.facts.ifindex).await;
            }
            Some(_) => {}
            None => link.facts.peer_has_xdp = links::peer_has_xdp(&mut self.routing, &link).await,
        }
        if self.table.set_link(link.facts, Instant::now()) {
            self.ask_all_again();
        }
    }

    fn take_netdev_events(&mut self, received: io::Result<Received<GenlMessage<Device>>>) {
        match received {
            Ok(Received::Events(events)) => {
                for event in events {
                    match event.map(|message| netdev::parse(&message.payload)) {
                        Ok(Some((ifindex, features))) => self.table.set_features(ifindex, features),
                        Ok(None) => {}
                        Err(unread) => self.pass_over(&unread),
                    }
                }
            }
            Ok(Received::Overrun) => self.resync_at = Instant::now(),
            Err(error) => {
                warn!(%error, "netlink: XDP features of interfaces are not followed any more");
                self.netdev = None;
            }
        }
    }

    /// Reads all links, and what XDP can do on them.
    async fn read_links(&mut self) -> Result<(), NextHopError> {
        let mut present = BTreeSet::new();
        let links = links::all(&mut self.routing).await?;
        for message in &links.messages {
            present.extend(links::parse_ifindex(message));
            self.take_link(message).await;
        }
        let mut n_unread = links.n_unread;
        // One that could not be read is not gone.
        if n_unread == 0 && self.table.retain_links(&present) {
            self.ask_all_again();
        }
        if let Some((netdev, _)) = &self.netdev {
            let devices = netdev.all(&mut self.generic).await?;
            for (ifindex, features) in devices.messages.iter().filter_map(|message| netdev::parse(&message.payload)) {
                self.table.set_features(ifindex, features);
            }
            n_unread += devices.n_unread;
        }
        if n_unread > 0 {
            self.resync_soon();
        }
        Ok(())
    }

    /// Within a while, so that what can never be read does not keep the task busy.
    fn resync_soon(&mut self) {
        self.resync_at = self.resync_at.min(Instant::now() + RETRY_INTERVAL);
    }

    async fn resync(&mut self) {
        let interval = if self.netdev.is_some() { RESYNC_INTERVAL } else { RESYNC_INTERVAL_WITHOUT_FEATURES };
        self.resync_at = Instant::now() + interval;
        if let Err(error) = self.read_links().await {
            warn!(error = &error as &dyn std::error::Error, "next hops: cannot read the interfaces, trying again");
            self.resync_at = Instant::now() + RETRY_INTERVAL;
        }
        self.ask_all_again();
        self.table.probe_all(Instant::now());
    }

    async fn ask_for_routes(&mut self) {
        for _ in 0..N_REQUESTS_A_TURN {
            let Some(address) = self.to_ask.pop_first() else { return };
            if let Some(route) = self.ask_for_route(address).await {
                self.table.set_route(address, route, Instant::now());
            }
        }
    }

    async fn ask_for_route(&mut self, address: IpAddr) -> Option<Route> {
        match self.routing.get("tell a route", routes::question(address)).await {
            Ok(answer) => answer.and_then(|answer| routes::parse(address, &answer)),
            Err(NextHopError::Refused { source, .. }) if routes::parse_refusal(&source).is_some() => {
                routes::parse_refusal(&source)
            }
            Err(error) => {
                debug!(%address, error = &error as &dyn std::error::Error, "next hops: cannot ask for a route");
                self.resync_soon();
                None
            }
        }
    }

    async fn probe(&mut self) {
        for _ in 0..N_REQUESTS_A_TURN {
            let Some(key) = self.table.take_probe(Instant::now()) else { return };
            // Seen first, for "in use" takes an entry that the administrator made permanent out of that state.
            let Some(neighbour) = self.look_up(key).await else { continue };
            self.table.set_neighbour(key, neighbour, Instant::now());
            match neighbour {
                Neighbour::Usable(_) | Neighbour::Incomplete => {}
                Neighbour::Stale(_) | Neighbour::Failed | Neighbour::Unknown => self.use_neighbour(key).await,
            }
        }
    }

    async fn look_up(&mut self, key: Key) -> Option<Neighbour> {
        match self.routing.get("tell of a neighbour", neighbours::question(key)).await {
            Ok(answer) => neighbours::parse(&answer?).map(|(_, neighbour)| neighbour),
            Err(NextHopError::Refused { source, .. }) if Errno::from_io_error(&source) == Some(Errno::NOENT) => {
                Some(Neighbour::Unknown)
            }
            Err(error) => {
                debug!(?key, error = &error as &dyn std::error::Error, "next hops: cannot ask for a neighbour");
                None
            }
        }
    }

    async fn use_neighbour(&mut self, key: Key) {
        let result = self.routing.act("resolve a neighbour", NLM_F_CREATE, neighbours::usage(key)).await;
        let Err(error) = result else { return };
        if self.warned_at.is_some_and(|at| at.elapsed() < WARNING_INTERVAL) {
            return;
        }
        self.warned_at = Some(Instant::now());
        let neighbour = key.address;
        let error = &error as &dyn std::error::Error;
        warn!(
            %neighbour,
            error,
            "next hops: cannot have a neighbour resolved; where it says \"no buffer space\", \
             raise net.ipv4.neigh.default.gc_thresh3 (or ipv6's)"
        );
    }
}

/// Waits for the time, for ever without one, and then for the rest.
async fn due<T>(at: Option<Instant>, then: impl Future<Output = T>) -> T {
    match at {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
    then.await
}

async fn receive(netdev: &mut Option<(Netdev, Events)>) -> io::Result<Received<GenlMessage<Device>>> {
    match netdev {
        Some((_, events)) => events.receive().await,
        None => std::future::pending().await,
    }
}

fn remember(answers: &RwLock<BTreeMap<IpAddr, Answer>>, changes: &Changes) {
    let mut answers = answers.write().unwrap_or_else(PoisonError::into_inner);
    answers.extend(changes.next_hops.iter().map(|(address, answer)| (*address, answer.clone())));
}
