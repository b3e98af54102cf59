//! The two networks that a load balancer of layer 4 stands in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Result, bail};

use crate::{Netns, World};

/// The most backends that the address plan has room for.
const BACKENDS_MAX: u8 = 100;

/// One namespace with its address in the network.
#[derive(Clone, Debug)]
pub struct Host {
    pub netns: Netns,
    /// The interface that bears the addresses.
    pub interface: String,
    pub v4: Ipv4Addr,
    pub v6: Ipv6Addr,
}

/// A client, a load balancer and backends, up and routed. The load balancer's own interfaces are free of programs;
/// every veth whose peer XDP may send to has the pass program.
#[derive(Debug)]
pub struct Network {
    pub client: Host,
    /// Only in [`Network::dsr`].
    pub router: Option<Host>,
    /// Its `interface` is where the clients' packets arrive.
    pub lb: Host,
    pub backends: Vec<Host>,
    /// Last, so that it outlives what refers to it.
    pub world: World,
}

impl Network {
    /// Direct server return: load balancer and backends share a segment, the client is behind a router.
    ///
    /// ```text
    ///  client ---- router --+-- lb         10.1.0.0/24, fd01::/64 between client and router
    ///              (bridge) +-- backend0   10.2.0.0/24, fd02::/64 the segment:
    ///                       +-- backend1   router .1, lb .2, backend i .10+i (::1, ::2, ::10+i, in decimal)
    /// ```
    ///
    /// The router sends the VIPs to the load balancer's `eth0`. Each backend has them on `lo`, answers ARP only for its
    /// own address, and answers clients through the router.
    ///
    /// # Errors
    /// Not root, tools or the BPF object are missing, or more than 100 backends.
    pub fn dsr(n_backends: u8, vips: &[IpAddr]) -> Result<Self> {
        Self::segment(n_backends, vips, true)
    }

    /// The same, and no program is on the backends' `eth0` yet.
    ///
    /// # Errors
    /// As [`dsr`](Self::dsr).
    pub fn tunnels(n_backends: u8, vips: &[IpAddr]) -> Result<Self> {
        Self::segment(n_backends, vips, false)
    }

    fn segment(n_backends: u8, vips: &[IpAddr], backends_pass: bool) -> Result<Self> {
        check_size(n_backends)?;
        let mut world = World::new()?;
        let (client, router, lb) = (world.namespace("client")?, world.namespace("router")?, world.namespace("lb")?);
        let backends = world.namespaces(&backend_roles(n_backends))?;

        world.veth((&client, "eth0"), (&router, "client"))?;
        configure(&client, "eth0", v4([10, 1, 0, 2]), v6(1, 0, 2), Some((v4([10, 1, 0, 1]), v6(1, 0, 1))), &[])?;
        router.ip(&[
            "addr add 10.1.0.1/24 dev client",
            "addr add fd01::1/64 dev client nodad",
            "link add br0 type bridge forward_delay 0 mcast_snooping 0",
            "link set br0 up",
            "addr add 10.2.0.1/24 dev br0",
            "addr add fd02::1/64 dev br0 nodad",
        ])?;
        forward(&router)?;
        let gateway = Some((v4([10, 2, 0, 1]), v6(2, 0, 1)));

        world.veth((&lb, "eth0"), (&router, "lb"))?;
        configure(&lb, "eth0", v4([10, 2, 0, 2]), v6(2, 0, 2), gateway, &[])?;
        forward(&lb)?;
        let mut hosts = Vec::new();
        for (i, netns) in (0..).zip(&backends) {
            world.veth((netns, "eth0"), (&router, &format!("backend{i}")))?;
            let host = host(netns, "eth0", v4([10, 2, 0, 10 + i]), v6(2, 0, 10 + u16::from(i)));
            // Or every backend would claim the VIP on the segment, against the load balancer.
            netns.sysctl(&[("ipv4/conf/all/arp_ignore", "1"), ("ipv4/conf/all/arp_announce", "2")])?;
            configure(netns, "eth0", host.v4, host.v6, gateway, vips)?;
            if backends_pass {
                world.pass_all(netns, "eth0")?;
            }
            hosts.push(host);
        }
        let ports = ["lb".into()].into_iter().chain((0..n_backends).map(|i| format!("backend{i}")));
        let mut lines: Vec<String> = ports.map(|port| format!("link set {port} master br0")).collect();
        lines.extend(vips.iter().map(|vip| match vip {
            IpAddr::V4(_) => format!("route add {vip} via 10.2.0.2"),
            IpAddr::V6(_) => format!("route add {vip} via fd02::2"),
        }));
        router.ip(&lines)?;
        // The peer of the load balancer's interface, for XDP_TX; and the client, which a test may send to by XDP.
        world.pass_all(&router, "lb")?;
        world.pass_all(&client, "eth0")?;

        Ok(Self {
            client: host(&client, "eth0", v4([10, 1, 0, 2]), v6(1, 0, 2)),
            router: Some(host(&router, "br0", v4([10, 2, 0, 1]), v6(2, 0, 1))),
            lb: host(&lb, "eth0", v4([10, 2, 0, 2]), v6(2, 0, 2)),
            backends: hosts,
            world,
        })
    }

    /// Address translation: the load balancer is the router between the client and every backend.
    ///
    /// ```text
    ///  client ---- lb ---- backend0        10.1.0.0/24, fd01::/64 between client and lb's "client"
    ///                 ---- backend1        10.2.i.0/24, fd02:i::/64 between lb's "backend<i>" and backend i
    /// ```
    ///
    /// The load balancer's side is .1, the other .2. Forward and reply packets cross interfaces; the default route of
    /// everyone is the load balancer, so the VIPs need no route.
    ///
    /// # Errors
    /// As [`Network::dsr`].
    pub fn nat(n_backends: u8) -> Result<Self> {
        check_size(n_backends)?;
        let mut world = World::new()?;
        let (client, lb) = (world.namespace("client")?, world.namespace("lb")?);
        let backends = world.namespaces(&backend_roles(n_backends))?;

        forward(&lb)?;
        world.veth((&client, "eth0"), (&lb, "client"))?;
        configure(&client, "eth0", v4([10, 1, 0, 2]), v6(1, 0, 2), Some((v4([10, 1, 0, 1]), v6(1, 0, 1))), &[])?;
        configure(&lb, "client", v4([10, 1, 0, 1]), v6(1, 0, 1), None, &[])?;
        world.pass_all(&client, "eth0")?;
        let mut hosts = Vec::new();
        for (i, netns) in (0..).zip(&backends) {
            let port = format!("backend{i}");
            world.veth((netns, "eth0"), (&lb, &port))?;
            let gateway = (v4([10, 2, i, 1]), v6(2, i.into(), 1));
            let host = host(netns, "eth0", v4([10, 2, i, 2]), v6(2, i.into(), 2));
            configure(&lb, &port, gateway.0, gateway.1, None, &[])?;
            configure(netns, "eth0", host.v4, host.v6, Some(gateway), &[])?;
            world.pass_all(netns, "eth0")?;
            hosts.push(host);
        }
        Ok(Self {
            client: host(&client, "eth0", v4([10, 1, 0, 2]), v6(1, 0, 2)),
            router: None,
            lb: host(&lb, "client", v4([10, 1, 0, 1]), v6(1, 0, 1)),
            backends: hosts,
            world,
        })
    }

    /// The load balancer's interfaces that VIP traffic or replies arrive at: what `xdp.interfaces` should list.
    pub fn lb_interfaces(&self) -> Vec<String> {
        match self.router {
            Some(_) => vec!["eth0".into()],
            None => ["client".into()].into_iter().chain((0..self.backends.len()).map(|i| format!("backend{i}"))).collect(),
        }
    }
}

fn check_size(n_backends: u8) -> Result<()> {
    if n_backends > BACKENDS_MAX {
        bail!("{n_backends} backends, but the address plan has room for {BACKENDS_MAX}");
    }
    Ok(())
}

fn backend_roles(n_backends: u8) -> Vec<String> {
    (0..n_backends).map(|i| format!("backend{i}")).collect()
}

fn host(netns: &Netns, interface: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Host {
    Host { netns: netns.clone(), interface: interface.into(), v4, v6 }
}

fn v4(octets: [u8; 4]) -> Ipv4Addr {
    octets.into()
}

/// `fd0<net>:<subnet>::<host>`; the host's digits read as in the IPv4 address.
fn v6(net: u16, subnet: u16, host: u16) -> Ipv6Addr {
    let host = ((host / 100) << 8) | ((host / 10 % 10) << 4) | (host % 10);
    Ipv6Addr::new(0xfd00 | net, subnet, 0, 0, 0, 0, 0, host)
}

/// Gives an interface its addresses, the namespace its gateway, and the loopback the VIPs.
fn configure(
    netns: &Netns,
    interface: &str,
    v4: Ipv4Addr,
    v6: Ipv6Addr,
    gateway: Option<(Ipv4Addr, Ipv6Addr)>,
    vips: &[IpAddr],
) -> Result<()> {
    let mut lines = vec![format!("addr add {v4}/24 dev {interface}"), format!("addr add {v6}/64 dev {interface} nodad")];
    if let Some((v4, v6)) = gateway {
        lines.extend([format!("route add default via {v4}"), format!("route add ::/0 via {v6}")]);
    }
    lines.extend(vips.iter().map(|vip| match vip {
        IpAddr::V4(_) => format!("addr add {vip}/32 dev lo"),
        IpAddr::V6(_) => format!("addr add {vip}/128 dev lo nodad"),
    }));
    netns.ip(&lines)
}

fn forward(netns: &Netns) -> Result<()> {
    netns.sysctl(&[
        ("ipv4/ip_forward", "1"),
        ("ipv4/conf/all/send_redirects", "0"),
        ("ipv4/conf/default/send_redirects", "0"),
        ("ipv6/conf/all/forwarding", "1"),
    ])
}
