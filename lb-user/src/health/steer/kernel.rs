//! What the kernel is asked for: where packets go, and to make and remove rules and tables.

use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourState};
use netlink_packet_route::rule::RuleMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;
use tracing::{debug, warn};

use super::{Range, Trouble, messages};
use crate::error::chain;
use crate::nexthop::{NextHopError, Requests, Route, route_in, route_refused};

/// The one way out of a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Exit {
    /// Of the VIP's family. The backend itself, or a tunnel's gateway, which is nowhere.
    pub gateway: IpAddr,
    /// Where a tunnel's gateway is. `None` where the gateway's own network says it.
    pub link: Option<Link>,
    /// What packets are from, unless they say so themselves; `None` leaves it to the kernel.
    pub source: Option<IpAddr>,
}

/// The device for probes into tunnels, and which address on it stands for the backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Link {
    pub ifindex: u32,
    pub mac: [u8; 6],
}

/// Where packets for a VIP would go.
#[derive(PartialEq, Eq)]
pub enum Leads {
    There,
    Here,
    Elsewhere,
}

/// A way to ask, and the right to the tables.
pub struct Kernel {
    requests: Requests,
    /// Held, not listened to: an abstract name is free again with the process that had it, and each network namespace, which
    /// has rules and tables of its own, has names of its own too.
    _claim: UnixListener,
}

impl Kernel {
    pub fn claim(range: Range) -> Result<Self, Trouble> {
        let first_table = range.first_table;
        let name = SocketAddr::from_abstract_name(format!("xlb-steering-{first_table}"));
        let claim = name.and_then(|name| UnixListener::bind_addr(&name)).map_err(|source| match source.kind() {
            std::io::ErrorKind::AddrInUse => Trouble::TablesTaken { first_table },
            _ => Trouble::Unclaimed { first_table, source },
        })?;
        Ok(Self { requests: Requests::open(NETLINK_ROUTE)?, _claim: claim })
    }

    /// Where packets for a VIP with this mark would go, of the exit and of everywhere else.
    ///
    /// # Errors
    /// Into a tunnel they would go from an address that cannot be answered.
    pub async fn leads_to(&mut self, vip: IpAddr, exit: Exit, mark: u32) -> Result<Leads, Trouble> {
        let route = self.route(vip, mark).await?;
        let is_there = match (route, exit.link) {
            (Some(Route::Local), _) => return Ok(Leads::Here),
            (Some(Route::Via { neighbour, .. }), None) => neighbour == exit.gateway,
            (Some(Route::Via { neighbour, ifindex, source, .. }), Some(link))
                if neighbour == exit.gateway && ifindex == link.ifindex =>
            {
                if !source.is_some_and(can_be_answered) {
                    return Err(Trouble::NoSource { vip });
                }
                exit.source.is_none_or(|wanted| source == Some(wanted)) && self.has_neighbour(link, exit.gateway).await?
            }
            _ => false,
        };
        Ok(if is_there { Leads::There } else { Leads::Elsewhere })
    }

    /// `None` where the answer makes no sense.
    async fn route(&mut self, address: IpAddr, mark: u32) -> Result<Option<Route>, Trouble> {
        match self.requests.get("look up a route", messages::question(address, mark)).await {
            Ok(answer) => Ok(answer.and_then(|answer| route_in(address, &answer))),
            Err(NextHopError::Refused { request, source }) => match route_refused(&source) {
                Some(route) => Ok(Some(route)),
                None => Err(NextHopError::Refused { request, source }.into()),
            },
            Err(error) => Err(error.into()),
        }
    }

    async fn has_neighbour(&mut self, link: Link, gateway: IpAddr) -> Result<bool, Trouble> {
        match self.requests.get("look up a neighbour", messages::neighbour_question(link, gateway)).await {
            Ok(Some(RouteNetlinkMessage::NewNeighbour(found))) => {
                let mac = NeighbourAttribute::LinkLayerAddress(link.mac.to_vec());
                Ok(found.header.state == NeighbourState::Permanent && found.attributes.contains(&mac))
            }
            Ok(_) => Ok(false),
            Err(NextHopError::Refused { source, .. }) if Errno::from_io_error(&source) == Some(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// This machine's address that packets to a backend are from, by which it can answer.
    pub async fn source_towards(&mut self, backend: IpAddr) -> Result<Option<IpAddr>, Trouble> {
        Ok(match self.route(backend, 0).await? {
            Some(Route::Via { source, .. }) => source,
            _ => None,
        })
    }

    /// Brings the device for probes into tunnels up, as it has to be.
    ///
    /// # Errors
    /// [`Trouble::DeviceLost`] if it is gone.
    pub async fn bring_up(&mut self, ifindex: u32) -> Result<(), Trouble> {
        match self.requests.act("set a device's MTU", 0, RouteNetlinkMessage::SetLink(messages::size(ifindex))).await {
            Err(NextHopError::Refused { source, .. }) if Errno::from_io_error(&source) == Some(Errno::NODEV) => {
                return Err(Trouble::DeviceLost);
            }
            done => done?,
        }
        let quiet = RouteNetlinkMessage::SetLink(messages::without_addresses(ifindex));
        // Refused where there is no IPv6, and so no addresses either.
        if let Err(error) = self.requests.act("keep a device without addresses", 0, quiet).await {
            debug!(error = chain(&error), "steering: the device for probes into tunnels may have addresses");
        }
        Ok(self.requests.act("bring a device up", 0, RouteNetlinkMessage::SetLink(messages::up(ifindex))).await?)
    }

    /// Everything with this mark, of the exit's family, goes by the exit, or nowhere.
    ///
    /// The rule first: a daemon that is killed here leaves nothing that the next one would not find by its rule.
    pub async fn make(&mut self, exit: Exit, table: u32, priority: u32) -> Result<(), Trouble> {
        let is_v4 = exit.gateway.is_ipv4();
        let rule = RouteNetlinkMessage::NewRule(messages::rule(is_v4, table, priority));
        match self.requests.act("add a rule", NLM_F_CREATE | NLM_F_EXCL, rule).await {
            Err(NextHopError::Refused { source, .. }) if Errno::from_io_error(&source) == Some(Errno::EXIST) => {}
            done => done?,
        }
        let route = RouteNetlinkMessage::NewRoute(messages::no_way(is_v4, table));
        self.requests.act("add a route", NLM_F_CREATE | NLM_F_REPLACE, route).await?;
        if let Some(link) = exit.link {
            let neighbour = RouteNetlinkMessage::NewNeighbour(messages::neighbour(link, exit.gateway));
            self.requests.act("add a neighbour", NLM_F_CREATE | NLM_F_REPLACE, neighbour).await?;
        }
        let route = RouteNetlinkMessage::NewRoute(messages::way(table, exit));
        match self.requests.act("add a route", NLM_F_CREATE | NLM_F_REPLACE, route).await {
            // IPv4 and IPv6 say each in its own way that the gateway is not beside us; and so they do when its interface is down.
            Err(NextHopError::Refused { source, .. })
                if exit.link.is_none()
                    && [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::INVAL, Errno::NETDOWN]
                        .map(Some)
                        .contains(&Errno::from_io_error(&source)) =>
            {
                Err(Trouble::NotOnLink { backend: exit.gateway })
            }
            done => Ok(done?),
        }
    }

    /// The gateway's address on the device, if the device is still there.
    pub async fn remove_neighbour(&mut self, link: Link, gateway: IpAddr) {
        let neighbour = RouteNetlinkMessage::DelNeighbour(messages::neighbour(link, gateway));
        if let Err(error) = self.requests.act("remove a neighbour", 0, neighbour).await {
            debug!(error = chain(&error), "steering: a neighbour was gone");
        }
    }

    /// The rule last, for the same reason.
    pub async fn remove(&mut self, is_v4: bool, table: u32, priority: u32) {
        self.empty(is_v4, table).await;
        self.remove_rule(messages::rule(is_v4, table, priority)).await;
    }

    async fn remove_rule(&mut self, rule: RuleMessage) {
        match self.requests.act("remove a rule", 0, RouteNetlinkMessage::DelRule(rule)).await {
            Ok(()) => {}
            Err(NextHopError::Refused { source, .. }) if Errno::from_io_error(&source) == Some(Errno::NOENT) => {}
            Err(error) => warn!(error = chain(&error), "steering: a rule stays; remove it: `ip rule flush protocol 120`"),
        }
    }

    async fn empty(&mut self, is_v4: bool, table: u32) {
        /// There are two, and no more than that can be ours.
        const N_TRIES: usize = 4;
        for _ in 0..N_TRIES {
            let route = RouteNetlinkMessage::DelRoute(messages::any(is_v4, table));
            match self.requests.act("remove a route", 0, route).await {
                Ok(()) => {}
                Err(NextHopError::Refused { source, .. })
                    if [Errno::SRCH, Errno::NOENT].map(Some).contains(&Errno::from_io_error(&source)) =>
                {
                    return;
                }
                Err(error) => {
                    warn!(table, error = chain(&error), "steering: a route stays; `ip route flush table {table}`");
                    return;
                }
            }
        }
    }

    /// Removes what a killed daemon with the same range has left.
    pub async fn sweep(&mut self, range: Range) {
        for is_v4 in [true, false] {
            let rules = match self.requests.dump("list the rules", messages::all_rules(is_v4)).await {
                Ok(rules) => rules.messages,
                Err(error) => {
                    debug!(error = chain(&error), "steering: what an earlier daemon left is not known");
                    continue;
                }
            };
            for message in rules {
                let RouteNetlinkMessage::NewRule(rule) = message else { continue };
                if let Some(table) = messages::own_table(&rule, range) {
                    debug!(table, "steering: removing what an earlier daemon left");
                    self.empty(is_v4, table).await;
                    self.remove_rule(rule).await;
                }
            }
        }
    }
}

/// Where IPv6 has no other, the kernel takes an address that holds on another link only.
fn can_be_answered(source: IpAddr) -> bool {
    match source {
        IpAddr::V4(source) => !source.is_unspecified(),
        IpAddr::V6(source) => !source.is_unspecified() && !source.is_unicast_link_local(),
    }
}
