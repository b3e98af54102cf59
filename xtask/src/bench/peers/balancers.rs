//! Who balances: xlb, what others use instead, and nobody.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::NamedTempFile;
use xlb_tests::{Daemon, Netns, Network, Process, http, until};

pub const VIP: Ipv4Addr = Ipv4Addr::new(10, 200, 1, 1);
pub const PORT: u16 = 80;
pub const DIRECT_PORT: u16 = 8080;

const START_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// The client asks one server, through the same router.
    Routed,
    /// The same in the network of [`Self::XlbDsr`], which is another.
    RoutedDirect,
    XlbDsr,
    XlbNat,
    Nftables,
    Haproxy,
    NginxStream,
}

/// A balancer in a network's `lb`. Dropping it ends it, and leaves the namespace as it was.
pub struct Running {
    to: SocketAddr,
    _parts: Parts,
}

/// What ends with it.
#[expect(dead_code, reason = "held to be dropped")]
enum Parts {
    None,
    Xlb(Box<Daemon>),
    Rules(Rules),
    Proxy(Process, NamedTempFile, Vip),
}

impl Kind {
    pub const ALL: [Self; 7] =
        [Self::Routed, Self::XlbNat, Self::Nftables, Self::Haproxy, Self::NginxStream, Self::RoutedDirect, Self::XlbDsr];

    pub fn name(self) -> &'static str {
        match self {
            Self::Routed => "no balancer, one server",
            Self::RoutedDirect => "no balancer, dsr's network",
            Self::XlbDsr => "xlb, dsr's network",
            Self::XlbNat => "xlb, nat",
            Self::Nftables => "nftables, dnat",
            Self::Haproxy => "HAProxy, TCP",
            Self::NginxStream => "nginx, stream",
        }
    }

    /// Whether servers answer clients around it.
    pub fn is_direct(self) -> bool {
        matches!(self, Self::RoutedDirect | Self::XlbDsr)
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// It does not start, or does not answer in ten seconds.
    pub fn start(self, network: &Network) -> Result<Running> {
        let lb = &network.lb.netns;
        let servers: Vec<String> = network.backends.iter().map(|host| format!("{}:{PORT}", host.v4)).collect();
        let parts = match self {
            Self::Routed | Self::RoutedDirect => Parts::None,
            Self::XlbDsr => Parts::Xlb(xlb(network, "dsr")?.into()),
            Self::XlbNat => Parts::Xlb(xlb(network, "nat")?.into()),
            Self::Nftables => Parts::Rules(Rules::new(lb, network)?),
            Self::Haproxy => {
                let servers: String =
                    servers.iter().enumerate().map(|(n, server)| format!("    server s{n} {server}\n")).collect();
                let config = format!(
                    "global\n    maxconn 4000\ndefaults\n    mode tcp\n    timeout connect 5s\n    timeout client 1m\n    timeout server 1m\n\
                     listen web\n    bind {VIP}:{PORT}\n    balance roundrobin\n{servers}"
                );
                proxy(lb, "haproxy", &["-db", "-f"], &config)?
            }
            Self::NginxStream => {
                let servers: String = servers.iter().map(|server| format!("server {server}; ")).collect();
                let config = format!(
                    "load_module /usr/lib/nginx/modules/ngx_stream_module.so; daemon off; worker_processes auto; pid /dev/null;\n\
                     error_log stderr warn; events {{ worker_connections 8192; }}\n\
                     stream {{ upstream web {{ {servers} }} server {{ listen {VIP}:{PORT} reuseport backlog=4096; proxy_pass web; }} }}\n"
                );
                proxy(lb, "nginx", &["-e", "stderr", "-c"], &config)?
            }
        };
        let to = match self {
            Self::Routed | Self::RoutedDirect => SocketAddr::new(network.backends[0].v4.into(), DIRECT_PORT),
            _ => (VIP, PORT).into(),
        };
        let url = format!("http://{to}/");
        until(START_LIMIT, "the first answer", || Ok(http::get(&network.client.netns, &url).ok().map(drop)))
            .with_context(|| parts.log())?;
        Ok(Running { to, _parts: parts })
    }
}

impl Parts {
    fn log(&self) -> String {
        match self {
            Self::None | Self::Rules(_) => String::new(),
            Self::Xlb(daemon) => daemon.log(),
            Self::Proxy(process, ..) => process.log(),
        }
    }
}

impl Running {
    /// Where clients ask.
    pub fn address(&self) -> SocketAddr {
        self.to
    }
}

fn xlb(network: &Network, forward: &str) -> Result<Daemon> {
    let backends: String =
        network.backends.iter().map(|host| format!("[[service.backend]]\naddress = \"{}\"\n", host.v4)).collect();
    let service = format!("[[service]]\nname = \"web\"\nvip = \"{VIP}\"\nport = {PORT}\nforward = \"{forward}\"\n{backends}");
    Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(service).start()
}

fn proxy(lb: &Netns, program: &str, arguments: &[&str], config: &str) -> Result<Parts> {
    let vip = Vip::new(lb)?;
    let mut file = NamedTempFile::new()?;
    file.write_all(config.as_bytes())?;
    let process = Process::start(program, lb.command(program).args(arguments).arg(file.path()))?;
    Ok(Parts::Proxy(process, file, vip))
}

/// The VIP on the balancer's own lo, where a proxy listens.
struct Vip(Netns);

impl Vip {
    fn new(lb: &Netns) -> Result<Self> {
        lb.run(&format!("ip address add {VIP}/32 dev lo"))?;
        Ok(Self(lb.clone()))
    }
}

impl Drop for Vip {
    fn drop(&mut self) {
        let _ = self.0.run(&format!("ip address del {VIP}/32 dev lo"));
    }
}

/// Translation by netfilter, a server for each connection in turn.
struct Rules(Netns);

impl Rules {
    fn new(lb: &Netns, network: &Network) -> Result<Self> {
        let servers: Vec<String> = network.backends.iter().enumerate().map(|(n, host)| format!("{n} : {}", host.v4)).collect();
        let rules = format!(
            "table ip peers {{ chain in {{ type nat hook prerouting priority -100; \
             ip daddr {VIP} tcp dport {PORT} dnat to numgen inc mod {} map {{ {} }}; }}\n}}\n",
            servers.len(),
            servers.join(", ")
        );
        let rules_of = Self(lb.clone());
        let mut file = NamedTempFile::new()?;
        file.write_all(rules.as_bytes())?;
        rules_of.0.run(&format!("nft -f {}", file.path().display()))?;
        Ok(rules_of)
    }
}

impl Drop for Rules {
    fn drop(&mut self) {
        let _ = self.0.run("nft delete table ip peers");
    }
}
