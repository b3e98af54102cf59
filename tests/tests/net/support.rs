//! What the scenarios have in common.

#![allow(clippy::expect_used, reason = "a test's support stops the test")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Daemon, Host, Netns, Network, http, until};

pub const VIP: &str = "10.200.1.1";
pub const VIP_V6: &str = "fd00:200::1:1";
/// For what must come about, on a machine with other things to do.
pub const LIMIT: Duration = Duration::from_secs(10);

pub fn vip() -> IpAddr {
    VIP.parse().expect("an address")
}

pub fn vip_v6() -> IpAddr {
    VIP_V6.parse().expect("an address")
}

pub fn both_vips() -> [IpAddr; 2] {
    [vip(), vip_v6()]
}

/// The TOML of one service.
pub struct Service<'a> {
    name: &'a str,
    head: String,
    health: String,
    backends: String,
}

impl<'a> Service<'a> {
    /// A TCP service at `vip:port`, checked by HTTP: often enough for a test not to wait, and with so much patience that nobody is
    /// taken for dead where the machine is busy.
    pub fn new(name: &'a str, vip: IpAddr, port: u16) -> Self {
        let head = format!("[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\n");
        let health =
            "type = \"http\"\npath = \"/health\"\ninterval = \"200ms\"\ntimeout = \"200ms\"\nrise = 2\nfall = 5\n".into();
        Self { name, head, health, backends: String::new() }
    }

    pub fn with(mut self, key: &str, value: &str) -> Self {
        writeln!(self.head, "{key} = \"{value}\"").expect("writing to memory");
        self
    }

    /// Checked in another way.
    pub fn health(mut self, toml: &str) -> Self {
        self.health = format!("{toml}\n");
        self
    }

    pub fn backend(mut self, address: impl Into<IpAddr>, more: &str) -> Self {
        let address = address.into();
        writeln!(self.backends, "[[service.backend]]\naddress = \"{address}\"\n{more}").expect("writing to memory");
        self
    }

    /// All of these hosts, by the VIP's family.
    pub fn backends(self, hosts: &[Host], is_v4: bool) -> Self {
        hosts.iter().fold(self, |service, host| {
            let address: IpAddr = if is_v4 { host.v4.into() } else { host.v6.into() };
            service.backend(address, "")
        })
    }

    pub fn dns(self, toml: &str) -> Self {
        self.source("dns", toml)
    }

    /// Backends by `dns`, `file` or `docker`.
    pub fn source(mut self, kind: &str, toml: &str) -> Self {
        writeln!(self.backends, "[service.{kind}]\n{toml}").expect("writing to memory");
        self
    }

    pub fn toml(&self) -> String {
        assert!(!self.name.is_empty());
        format!("{}[service.health]\n{}{}\n", self.head, self.health, self.backends)
    }
}

/// `web`, by TCP on port 80 of both VIPs, and `dns` by UDP on port 80 of both.
pub fn tcp_and_udp_on_both_families(network: &Network, forward: &str) -> String {
    let service = |name, vip: IpAddr, protocol| {
        Service::new(name, vip, 80)
            .with("protocol", protocol)
            .with("forward", forward)
            .backends(&network.backends, vip.is_ipv4())
            .toml()
    };
    [
        service("web", vip(), "tcp"),
        service("web6", vip_v6(), "tcp"),
        service("echo", vip(), "udp"),
        service("echo6", vip_v6(), "udp"),
    ]
    .concat()
}

/// How often each name answered.
pub fn tally(names: Vec<String>) -> BTreeMap<String, usize> {
    names.into_iter().fold(BTreeMap::new(), |mut tally, name| {
        *tally.entry(name).or_default() += 1;
        tally
    })
}

pub fn url(address: IpAddr, port: u16) -> String {
    format!("http://{}/", SocketAddr::new(address, port))
}

/// One service of `GET /lb/status`.
pub fn service(status: &Value, name: &str) -> Result<Value> {
    let services = status["services"].as_array().context("no services")?;
    services.iter().find(|service| service["name"] == name).cloned().with_context(|| format!("no service {name} in {status:#}"))
}

/// Backends of a service that new flows go to.
pub fn n_serving(daemon: &Daemon, name: &str) -> Result<usize> {
    let service = service(&daemon.status()?, name)?;
    let backends = service["backends"].as_array().context("no backends")?;
    Ok(backends.iter().filter(|backend| backend["serving"] == true).count())
}

pub fn wait_serving(daemon: &Daemon, name: &str, n: usize) -> Result<()> {
    until(LIMIT, &format!("{n} backends of {name} to serve"), || Ok((n_serving(daemon, name)? == n).then_some(())))
        .with_context(|| daemon.log())
}

/// As [`wait_serving`], and with every slot at rest.
///
/// Backends rarely come up in the same moment, and then slots move. Until it is certain that who had them first got no packet, a
/// datagram of a flow that nobody knows goes there: sent at once, a test's first one would have all others of those slots follow
/// it for as long as `idle`.
pub fn wait_at_rest(daemon: &Daemon, name: &str, n: usize) -> Result<()> {
    wait_serving(daemon, name, n)?;
    let at_rest = || Ok((service(&daemon.status()?, name)?["slots_not_at_rest"] == 0).then_some(()));
    until(LIMIT, &format!("all slots of {name} to rest"), at_rest).with_context(|| daemon.log())
}

/// What somebody wants to know of an exchange that went wrong.
pub fn story(daemon: &Daemon) -> String {
    let status = daemon.status().map_or_else(|error| format!("{error:#}"), |status| format!("{:#}", status["services"]));
    format!("{status}\n{}", daemon.log())
}

/// received = forwarded + passed + dropped, and the verdicts' sum is the same.
pub fn counters_sum(status: &Value) -> Result<()> {
    let count = |key: &str| status["packets"][key].as_u64().with_context(|| format!("no count {key}"));
    let sum = count("forwarded")? + count("passed")? + count("dropped")?;
    ensure!(count("received")? == sum, "{:#}", status["packets"]);
    let verdicts: u64 = status["verdicts"].as_object().context("no verdicts")?.values().filter_map(Value::as_u64).sum();
    ensure!(verdicts == sum, "{:#}", status["verdicts"]);
    Ok(())
}

pub fn verdict(daemon: &Daemon, label: &str) -> Result<u64> {
    daemon.status()?["verdicts"][label].as_u64().with_context(|| format!("no verdict {label}"))
}

/// Asks until there is an answer with status 200.
pub fn wait_answer(netns: &Netns, url: &str) -> Result<http::Answer> {
    until(LIMIT, &format!("an answer from {url}"), || Ok(http::get(netns, url).ok().filter(|answer| answer.status == 200)))
}
