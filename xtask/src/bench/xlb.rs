//! Loading the real program, and filling its maps the way the daemon does.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use lb_common::decap::Ends;
use lb_common::features;
use lb_common::hash::HashKeys;
use lb_common::{Be16, MacAddr};
use lb_user::admission::{Admission, List, Lists, Rules, prefix};
use lb_user::compile::{Layout, Quiet, compile};
use lb_user::decap;
use lb_user::desired::{Algorithm, Backend, Desired, Forward, Hashing, NextHop, OnDown, Protocol, Service};
use lb_user::maps::{self, Sizes};
use lb_user::pool::Pool;
use lb_user::server_ids::ServerIds;
use lb_user::tables::{Tables, diff};

use super::measure::Loaded;
use super::packets::{CLIENT_V4, PORT, VIP_V4, VIP_V6};

/// As many as the tables of the usual design have beside it.
const N_BACKENDS: u16 = 100;
/// Ports of the VIPs for services other than DSR by Maglev, which is on [`PORT`].
pub const PORT_IP_HASH: u16 = 81;
pub const PORT_ROUND_ROBIN: u16 = 86;
pub const PORT_LEAST_CONNECTIONS: u16 = 87;
pub const PORT_WEIGHTED_ROUND_ROBIN: u16 = 88;
pub const PORT_RANDOM: u16 = 89;
pub const PORT_LEAST_RESPONSE_TIME: u16 = 92;
pub const PORT_BOUNDED: u16 = 93;
pub const PORT_TRACKED: u16 = 94;
pub const PORT_CLAMPED: u16 = 95;
pub const PORT_FULLNAT: u16 = 96;
pub const PORT_TOA: u16 = 97;
pub const PORT_NAT: u16 = 82;
pub const PORT_IPIP: u16 = 83;
pub const PORT_GUE: u16 = 84;
/// Of QUIC: who is named owns every slot, or hardly any.
pub const PORT_QUIC: u16 = 90;
pub const PORT_QUIC_MOVED: u16 = 91;
/// A backend of these.
pub const SERVER: [u8; 4] = [10, 2, 0, 1];
pub const GUE_PORT: u16 = 6080;
const NAT_BACKEND_PORT: u16 = 8080;

/// BPF_PROG_TEST_RUN's packets come in on the loopback interface of their network namespace.
const INGRESS: u32 = 1;
const GATEWAY: MacAddr = MacAddr::new([2, 0, 0, 0, 0, 1]);

/// What is configured besides: some options cost every packet something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Options {
    /// Nothing.
    Off,
    /// Services that forward by NAT: what is addressed to no service may be a reply.
    Nat,
    /// Nothing, and every slot has moved lately.
    Moved,
    /// Services that forward by full NAT.
    Fullnat,
    /// A long list of who may not send to any VIP.
    Guarded,
}

/// Prefixes that are denied, none of which a client is in.
const N_DENIED: u32 = 100_000;
/// Ports enough for a session of each flow.
const POOL: std::ops::RangeInclusive<u16> = 10_240..=65_535;

/// The program, with a service for each kind of packet and a hundred backends each.
///
/// # Errors
/// The kernel refuses the program or its maps.
pub fn load(object: &Path, options: Options) -> Result<Loaded> {
    let object = std::fs::read(object).with_context(|| object.display().to_string())?;
    // The counters must live until the program is loaded.
    let mut desired = desired(options);
    let sizes = Sizes { pool: desired.pool.record(), n_prefixes: 2 * N_DENIED.next_multiple_of(16), ..Sizes::default() };
    let maps::Loaded { ebpf, mut maps, counters: _counters, tracer: _tracer, .. } =
        maps::load(&object, sizes, features::ALL, None)?;
    maps.set_hash_keys(HashKeys::from_bytes([7; 32]));
    if options == Options::Moved {
        take_half(&mut desired, 0);
    }
    let (mut tables, layout) =
        compile(&desired, &Layout::new(maps.n_slots()).with_prefixes(sizes.n_prefixes), &Tables::default(), &Quiet(0))?;
    if options == Options::Moved {
        take_half(&mut desired, 1);
        (tables, _) = compile(&desired, &layout, &tables, &Quiet(1))?;
    }
    for write in &diff(&Tables::default(), &tables).writes {
        maps.write(write)?;
    }
    maps.set_links(&[(INGRESS, true)].into())?;
    Loaded::take(ebpf, "xlb")
}

/// The backend's end of tunnels, for packets to [`SERVER`].
///
/// # Errors
/// As [`load`].
pub fn load_decap(object: &Path) -> Result<decap::Program> {
    let object = std::fs::read(object).with_context(|| object.display().to_string())?;
    let mut program = decap::Program::load(&object)?;
    let mut ends = Ends { gue_port: Be16::new(GUE_PORT), ..Ends::default() };
    ends.ours[0] = IpAddr::from(SERVER).into();
    program.set(&ends)?;
    Ok(program)
}

/// Leaves a weight to every second backend: with the other half, every slot is another's.
fn take_half(desired: &mut Desired, half: usize) {
    for service in desired.services.values_mut() {
        for (n, backend) in service.backends.values_mut().enumerate() {
            backend.weight = u16::from(n % 2 == half);
        }
    }
}

/// The sender of [`reply_v4`](super::packets::reply_v4).
pub fn nat_backend() -> ([u8; 4], u16) {
    ([10, 3, 0, 1], NAT_BACKEND_PORT)
}

fn desired(options: Options) -> Desired {
    use Algorithm::{IpHash, LeastConnections, LeastResponseTime, Maglev, Random, RoundRobin, WeightedRoundRobin};
    use Forward::{Dsr, Fullnat, Gue, Ipip, Nat};
    use Protocol::{Tcp, Udp};
    let (v4, v6) = (IpAddr::from(VIP_V4), IpAddr::from(VIP_V6));
    let services = [
        ("dsr", service(v4, PORT, Tcp, Maglev, Dsr)),
        ("dsr-udp", service(v4, PORT, Udp, Maglev, Dsr)),
        ("dsr-v6", service(v6, PORT, Tcp, Maglev, Dsr)),
        ("ip-hash", service(v4, PORT_IP_HASH, Tcp, IpHash, Dsr)),
        ("round-robin", service(v4, PORT_ROUND_ROBIN, Tcp, RoundRobin, Dsr)),
        ("least-connections", service(v4, PORT_LEAST_CONNECTIONS, Tcp, LeastConnections, Dsr)),
        ("weighted-round-robin", service(v4, PORT_WEIGHTED_ROUND_ROBIN, Tcp, WeightedRoundRobin, Dsr)),
        ("random", service(v4, PORT_RANDOM, Tcp, Random, Dsr)),
        ("least-response-time", service(v4, PORT_LEAST_RESPONSE_TIME, Tcp, LeastResponseTime, Dsr)),
        (
            "bounded",
            Service {
                hashing: Hashing { max_load: Some(125), ..Hashing::default() },
                ..service(v4, PORT_BOUNDED, Tcp, Maglev, Dsr)
            },
        ),
        ("tracked", Service { is_tracked: true, ..service(v4, PORT_TRACKED, Tcp, Maglev, Dsr) }),
        ("clamped", Service { mss: Some(1360), ..service(v4, PORT_CLAMPED, Tcp, Maglev, Dsr) }),
        ("fullnat", service(v4, PORT_FULLNAT, Tcp, Maglev, Fullnat)),
        ("fullnat-v6", service(v6, PORT_FULLNAT, Tcp, Maglev, Fullnat)),
        ("toa", Service { toa: true, ..service(v4, PORT_TOA, Tcp, Maglev, Fullnat) }),
        ("ipip", service(v4, PORT_IPIP, Tcp, Maglev, Ipip)),
        ("ipip-v6", service(v6, PORT_IPIP, Tcp, Maglev, Ipip)),
        ("gue", service(v4, PORT_GUE, Tcp, Maglev, Gue)),
        ("quic", of_one(quic(v4, PORT_QUIC))),
        ("quic-moved", quic(v4, PORT_QUIC_MOVED)),
        ("nat", service(v4, PORT_NAT, Tcp, Maglev, Nat)),
        ("nat-v6", service(v6, PORT_NAT, Tcp, Maglev, Nat)),
    ];
    let is_wanted = |service: &Service| match service.forward {
        Nat => options == Options::Nat,
        Fullnat => options == Options::Fullnat,
        _ => true,
    };
    let wanted = services.into_iter().filter(|(_, service)| is_wanted(service));
    let services = wanted.map(|(name, service)| (name.into(), service)).collect();
    let pool = if options == Options::Fullnat { pool() } else { Pool::default() };
    let admission = if options == Options::Guarded { admission() } else { Admission::default() };
    let ingress = BTreeSet::from([INGRESS]);
    Desired { services, ingress, pool: pool.into(), admission: admission.into(), ..Desired::default() }
}

/// Thirty-two addresses of either family.
fn pool() -> Pool {
    let addresses = (1..=32).flat_map(|n| [IpAddr::from([10, 4, 0, n]), [0xfd00, 4, 0, 0, 0, 0, 0, n.into()].into()]);
    Pool { addresses: addresses.collect(), ports: POOL }
}

/// Every other network of 256 addresses in a block that no client is in.
fn admission() -> Admission {
    let network = |n: u32| IpAddr::from((0x2000_0000 + n * 512).to_be_bytes());
    let denied = (0..N_DENIED).filter_map(|n| prefix(&format!("{}/24", network(n))).ok());
    let deny = List::new(denied.collect(), Vec::new());
    let lists = Lists::new(deny, List::default()).into();
    Admission { all_vips: Rules { lists, ..Rules::default() }, ..Admission::default() }
}

/// By connection IDs that hold the last four bytes of a server's address.
fn quic(vip: IpAddr, port: u16) -> Service {
    let ids = ServerIds { len: 4, configs: 1, are_addresses: true, listed: BTreeMap::new() };
    Service { server_ids: Some(Arc::new(ids)), ..service(vip, port, Protocol::Udp, Algorithm::Maglev, Forward::Dsr) }
}

/// With the first backend alone.
fn of_one(mut service: Service) -> Service {
    service.backends.retain(|endpoint, _| endpoint.ip() == IpAddr::from(SERVER));
    service
}

fn service(vip: IpAddr, port: u16, protocol: Protocol, algorithm: Algorithm, forward: Forward) -> Service {
    let backend_port = if forward == Forward::Nat { NAT_BACKEND_PORT } else { port };
    let network = if forward == Forward::Nat { 3 } else { 2 };
    let backends = (1..=N_BACKENDS).map(|i| {
        let address: IpAddr = match vip {
            IpAddr::V4(_) => [10, network, 0, i as u8].into(),
            IpAddr::V6(_) => [0xfd00, u16::from(network), 0, 0, 0, 0, 0, i].into(),
        };
        let destination = MacAddr::new([2, 1, 0, 0, network, i as u8]);
        let next_hop = NextHop {
            ifindex: INGRESS,
            source: MacAddr::new([2, 0, 0, 0, 0, 2]),
            destination,
            takes_redirects: true,
            address: Some(if vip.is_ipv4() { [10, 2, 0, 254].into() } else { [0xfd00, 2, 0, 0, 0, 0, 0, 254].into() }),
            mtu: 1500,
        };
        (
            SocketAddr::new(address, backend_port),
            Backend { weight: 1, alive: true, is_undecided: false, next_hop: Some(next_hop) },
        )
    });
    let (gue_port, idle, on_down) = (GUE_PORT, 800, OnDown::Remap);
    Service {
        vip,
        port,
        protocol,
        algorithm,
        hashing: Hashing::default(),
        forward,
        gue_port,
        mss: None,
        toa: false,
        idle,
        on_down,
        is_tracked: false,
        server_ids: None,
        backends: backends.collect(),
    }
}

/// The reply path asks the kernel for the way to the client: out of an interface of a network namespace of this process's own.
///
/// # Errors
/// Not root, or `ip` refuses.
pub fn route_to_client() -> Result<()> {
    xlb_tests::path::kernel::own_network_namespace()?;
    let client = IpAddr::from(CLIENT_V4);
    let commands = [
        "ip link set lo up".into(),
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.lo.forwarding=1".into(),
        "ip link add out type veth peer name end".into(),
        "ip link set out up".into(),
        "ip link set end up".into(),
        "ip address add 198.51.100.1/24 dev out".into(),
        format!("ip neighbour add {client} lladdr {GATEWAY} dev out"),
        // Flows of the benchmark vary the last bytes of addresses.
        format!("ip route add default via {client} dev out"),
    ];
    for command in &commands {
        let mut words = command.split(' ');
        let output = Command::new(words.next().unwrap_or_default()).args(words).output().with_context(|| command.clone())?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
