//! Backends come and go under connections that stay, and a flood of SYNs besides.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::path::packets::{Flags, frame, tcp};
use xlb_tests::{Backend, Connections, Daemon, Network, frames, until};

use super::support::{LIMIT, Service, service, vip, wait_serving};

const N_BACKENDS: u8 = 6;
const N_CONNECTIONS: usize = 1000;
const N_CHANGES: usize = 50;
const N_SYNS: u32 = 1_000_000;
/// Where an IPv4 frame has its source address.
const SOURCE: std::ops::Range<usize> = 26..30;

/// What the service is at each change: who is there, and with which weight. Everyone goes, drains and comes back.
fn web(network: &Network, change: usize) -> String {
    let absent = change % network.backends.len();
    let drained = (change + 2) % network.backends.len();
    let hosts = network.backends.iter().enumerate().filter(|(n, _)| *n != absent);
    let service = Service::new("web", vip(), 80).with("idle", "10m");
    let weight = |n| if n == drained { 0 } else { 1 + (n + change) % 3 };
    hosts.fold(service, |service, (n, host)| service.backend(host.v4, &format!("weight = {}", weight(n)))).toml()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn connections_outlive_changes_of_the_set_and_a_flood_of_syns() -> Result<()> {
    let network = Network::dsr(N_BACKENDS, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let all = Service::new("web", vip(), 80).with("idle", "10m").backends(&network.backends, true).toml();
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(all).start()?;
    let (interval, limit) = (Duration::from_millis(500), Duration::from_secs(20));
    let connections = Connections::open(&network.client.netns, (vip(), 80).into(), N_CONNECTIONS, interval, limit)?;
    ensure!(connections.names().len() == network.backends.len(), "{:?}", connections.names());
    let exchanges = connections.exchanges();
    let flood = Flood::start(&network)?;
    for change in 0..N_CHANGES {
        daemon.reload(web(&network, change))?;
        wait_serving(&daemon, "web", network.backends.len() - 2)?;
    }
    flood.finish()?;
    until(LIMIT, "every connection to be used since", || {
        Ok((connections.exchanges() > exchanges + 3 * N_CONNECTIONS as u64).then_some(()))
    })?;
    let status = daemon.status()?;
    let broken = connections.close()?;
    println!("{N_CONNECTIONS} connections, {N_CHANGES} changes, {N_SYNS} SYNs, broken: {}\n{:#}", broken.len(), status["flows"]);
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    let slots = service(&status, "web")?["slots_not_at_rest"].as_u64().context("a count")?;
    ensure!(slots > 0, "with so many changes, slots are not at rest");
    ensure!(status["flows"]["evicted"] == 0, "a flood pushed flows out: {:#}", status["flows"]);
    ensure!(status["flows"]["recorded"].as_u64() > Some(u64::from(N_SYNS) / 4), "the flood was recorded: {:#}", status["flows"]);
    daemon.stop()
}

/// SYNs from a million addresses, sent while other things happen. Their checksums are those of another address: the balancer
/// does not look at them, and the backends' kernels drop the packets instead of answering into nowhere.
struct Flood(std::thread::JoinHandle<Result<()>>);

impl Flood {
    fn start(network: &Network) -> Result<Self> {
        let router = network.router.as_ref().context("the DSR network has a router")?;
        let sender = frames::Sender::new(&router.netns, "br0")?;
        let (from, to) = (router.netns.mac("br0")?, network.lb.netns.mac("eth0")?);
        let mut syn = frame("11.0.0.1:1024", &format!("{}:80", vip()), tcp(Flags::Syn)).macs(from, to).bytes();
        let send = move || {
            for n in 0..N_SYNS {
                let client = 0x0b00_0000 | n.wrapping_mul(0x9e_3779) & 0xff_ffff;
                syn[SOURCE].copy_from_slice(&client.to_be_bytes());
                sender.send(&syn)?;
            }
            Ok(())
        };
        Ok(Self(std::thread::spawn(send)))
    }

    fn finish(self) -> Result<()> {
        self.0.join().map_err(|_| anyhow::anyhow!("the flood's thread panicked"))?
    }
}
