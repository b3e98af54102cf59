//! The two networks that the demo plays in, each with its daemon and five backends.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use xlb_tests::{Backend, Daemon, Dnsmasq, Host, Netns, Network, until};

pub const N_BACKENDS: u8 = 5;
pub const PORT: u16 = 80;
pub const WEB: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 1));
pub const WEB_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd00, 0x200, 0, 0, 0, 0, 1, 1));
/// Of the service that chooses by the client's address.
pub const STICKY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 2));
/// Of the service whose backends come from DNS.
pub const API: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 200, 1, 3));

/// The name that `api` asks DNS for.
pub const DNS_NAME: &str = "api.internal";
/// How long its answers are good.
pub const DNS_TTL: Duration = Duration::from_secs(1);
/// Backends that DNS knows of at first.
pub const N_IN_DNS: usize = 3;

/// Every service is checked like this; what follows for the time until a dead backend is noticed is [`DETECTION`].
pub const CHECK_INTERVAL: Duration = Duration::from_millis(75);
const CHECK_TIMEOUT: Duration = Duration::from_millis(75);
const CHECK_FALL: u32 = 3;

/// The configured detection time: at most an interval until each probe that fails, and the time-out of the last.
pub const DETECTION: Duration =
    Duration::from_millis(CHECK_FALL as u64 * CHECK_INTERVAL.as_millis() as u64 + CHECK_TIMEOUT.as_millis() as u64);

/// For what must come about, on a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(15);

/// A network with everything that runs in it. Dropping it ends all of that.
pub struct Stage {
    /// How its services forward: `dsr` or `nat`.
    pub name: &'static str,
    pub daemon: Daemon,
    pub backends: Vec<Backend>,
    pub dns: Option<Dnsmasq>,
    /// What the backends have on their loopback.
    vips: Vec<IpAddr>,
    /// Last: everything else lives in it.
    pub network: Network,
}

impl Stage {
    /// Direct server return; `sticky` and `api` are here, and the DNS server, on the client's side.
    ///
    /// # Errors
    /// Something does not start.
    pub fn dsr() -> Result<Self> {
        let vips = vec![WEB, WEB_V6, STICKY, API];
        let network = Network::dsr(N_BACKENDS, &vips)?;
        let client = &network.client;
        let dns = Dnsmasq::start(&client.netns, client.v4.into(), DNS_TTL.as_secs() as u32, &dns_records(&network, N_IN_DNS))?;
        let mut services = common_services(&network, "dsr");
        services += &(service("sticky", STICKY, "tcp", "dsr", "ip-hash") + &fixed(&network, true));
        services += &service("api", API, "tcp", "dsr", "maglev");
        writeln!(services, "[service.dns]\nname = \"{DNS_NAME}\"\nport = {PORT}\nresolver = \"{}\"", dns.address())?;
        Self::start("dsr", network, vips, Some(dns), &services)
    }

    /// Address translation.
    ///
    /// # Errors
    /// Something does not start.
    pub fn nat() -> Result<Self> {
        let network = Network::nat(N_BACKENDS)?;
        let services = common_services(&network, "nat");
        Self::start("nat", network, Vec::new(), None, &services)
    }

    fn start(name: &'static str, network: Network, vips: Vec<IpAddr>, dns: Option<Dnsmasq>, services: &str) -> Result<Self> {
        let backends = Backend::start_all(&network, PORT, &vips)?;
        let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
        let stage = Self { name, daemon, backends, dns, vips, network };
        for service in ["web", "web6", "echo", "echo6"] {
            stage.wait_serving(service, usize::from(N_BACKENDS))?;
        }
        Ok(stage)
    }

    pub fn client(&self) -> &Netns {
        &self.network.client.netns
    }

    /// Starts a backend that was killed.
    ///
    /// # Errors
    /// Its port is taken.
    pub fn restart_backend(&mut self, i: usize) -> Result<()> {
        self.backends[i] = Backend::start_nth(&self.network, i, PORT, &self.vips)?;
        Ok(())
    }

    /// One service of `GET /lb/status`.
    ///
    /// # Errors
    /// The daemon does not answer, or has no such service.
    pub fn service(&self, name: &str) -> Result<Value> {
        let status = self.daemon.status()?;
        let services = status["services"].as_array().context("no services")?;
        services.iter().find(|service| service["name"] == name).cloned().with_context(|| format!("no service {name}"))
    }

    /// Returns once exactly `n` backends of a service get new flows.
    ///
    /// # Errors
    /// That does not come about.
    pub fn wait_serving(&self, name: &str, n: usize) -> Result<()> {
        until(LIMIT, &format!("{n} backends of {name} ({}) to serve", self.name), || {
            let service = self.service(name)?;
            let backends = service["backends"].as_array().context("no backends")?;
            Ok((backends.iter().filter(|backend| backend["serving"] == true).count() == n).then_some(()))
        })
    }

    /// Ends the daemon as an operator does.
    ///
    /// # Errors
    /// It does not end well.
    pub fn end(self) -> Result<()> {
        self.daemon.stop()
    }
}

/// What DNS says when it knows the first `n` backends.
pub fn dns_records(network: &Network, n: usize) -> Vec<(&'static str, IpAddr)> {
    network.backends[..n].iter().map(|host| (DNS_NAME, host.v4.into())).collect()
}

pub fn url(address: IpAddr) -> String {
    format!("http://{}/", SocketAddr::new(address, PORT))
}

/// How often each backend of ours answered, by its number.
pub fn tally<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<Vec<usize>> {
    let mut counts = vec![0; usize::from(N_BACKENDS)];
    for name in names {
        counts[number(name)?] += 1;
    }
    Ok(counts)
}

/// The number in a backend's name.
pub fn number(name: &str) -> Result<usize> {
    let number = name.strip_prefix("backend").and_then(|number| number.parse().ok());
    number.filter(|&number| number < usize::from(N_BACKENDS)).with_context(|| format!("{name:?} is not a backend of ours"))
}

/// `web` by TCP and `echo` by UDP, over both families.
fn common_services(network: &Network, forward: &str) -> String {
    let all = [("web", WEB, "tcp"), ("web6", WEB_V6, "tcp"), ("echo", WEB, "udp"), ("echo6", WEB_V6, "udp")];
    all.iter()
        .map(|(name, vip, protocol)| service(name, *vip, protocol, forward, "maglev") + &fixed(network, vip.is_ipv4()))
        .collect()
}

/// A service's TOML but for its backends.
fn service(name: &str, vip: IpAddr, protocol: &str, forward: &str, algorithm: &str) -> String {
    format!(
        r#"[[service]]
name = "{name}"
vip = "{vip}"
port = {PORT}
protocol = "{protocol}"
algorithm = "{algorithm}"
forward = "{forward}"

[service.health]
type = "http"
path = "/health"
interval = "{interval}ms"
timeout = "{timeout}ms"
rise = 2
fall = {CHECK_FALL}

"#,
        interval = CHECK_INTERVAL.as_millis(),
        timeout = CHECK_TIMEOUT.as_millis(),
    )
}

/// All of the network's backends.
fn fixed(network: &Network, is_v4: bool) -> String {
    let address = |host: &Host| -> IpAddr { if is_v4 { host.v4.into() } else { host.v6.into() } };
    network.backends.iter().map(|host| format!("[[service.backend]]\naddress = \"{}\"\n\n", address(host))).collect()
}
