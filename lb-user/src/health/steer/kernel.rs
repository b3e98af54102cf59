//! What the kernel is asked for: where packets go, and to make and remove rules and tables.

use std::net::IpAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use rustix::io::Errno;
use tracing::{debug, warn};

use super::{Range, Trouble, messages};
use crate::error::chain;
use crate::nexthop::{NextHopError, Requests, Route, route_in, route_refused};

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

    pub async fn leads_to(&mut self, vip: IpAddr, backend: IpAddr, mark: u32) -> Result<Leads, Trouble> {
        let answer = self.requests.get("look up a route", messages::question(vip, mark)).await;
        let route = match answer {
            Ok(answer) => answer.and_then(|answer| route_in(vip, &answer)),
            Err(NextHopError::Refused { request, source }) => match route_refused(&source) {
                Some(route) => Some(route),
                None => return Err(NextHopError::Refused { request, source }.into()),
            },
            Err(error) => return Err(error.into()),
        };
        Ok(match route {
            Some(Route::Via { neighbour, .. }) if neighbour == backend => Leads::There,
            Some(Route::Local) => Leads::Here,
            _ => Leads::Elsewhere,
        })
    }

    /// The rule first: a daemon that is killed here leaves nothing that the next one would not find by its rule.
    pub async fn make(&mut self, backend: IpAddr, table: u32, priority: u32) -> Result<(), Trouble> {
        let is_v4 = backend.is_ipv4();
        let rule = RouteNetlinkMessage::NewRule(messages::rule(is_v4, table, priority));
        match self.requests.act("add a rule", NLM_F_CREATE | NLM_F_EXCL, rule).await {
            Err(NextHopError::Refused { source, .. }) if Errno::from_io_error(&source) == Some(Errno::EXIST) => {}
            done => done?,
        }
        let route = RouteNetlinkMessage::NewRoute(messages::no_way(is_v4, table));
        self.requests.act("add a route", NLM_F_CREATE | NLM_F_REPLACE, route).await?;
        let route = RouteNetlinkMessage::NewRoute(messages::way(table, backend));
        match self.requests.act("add a route", NLM_F_CREATE | NLM_F_REPLACE, route).await {
            // IPv4 and IPv6 say each in its own way that the gateway is not beside us; and so they do when its interface is down.
            Err(NextHopError::Refused { source, .. })
                if [Errno::NETUNREACH, Errno::HOSTUNREACH, Errno::INVAL, Errno::NETDOWN]
                    .map(Some)
                    .contains(&Errno::from_io_error(&source)) =>
            {
                Err(Trouble::NotOnLink { backend })
            }
            done => Ok(done?),
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
