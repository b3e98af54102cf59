//! Tunnels to backends that take packets apart with `xlb decap`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::{Backend, Daemon, Host, Network, Process, http, paths, udp, until};

use super::support::{Service, both_vips, story, tally, url, verdict, wait_at_rest};

const LIMIT: Duration = Duration::from_secs(10);

/// `xlb decap` on a backend, which takes packets of this network's balancer only.
pub fn decap(host: &Host) -> Result<Process> {
    let mut command = host.netns.command(paths::xlb()?);
    command.args(["decap", "--interface", "eth0", "--from", "10.2.0.2", "--from", "fd02::2"]);
    let process = Process::start("decap", &mut command)?;
    until(LIMIT, "decap to attach", || Ok(process.log().contains("taking tunnels apart").then_some(())))?;
    Ok(process)
}

fn exchange(forward: &str, backend_is_v4: impl Fn(bool) -> bool) -> Result<()> {
    let vips = both_vips();
    let network = Network::tunnels(3, &vips)?;
    let _backends = Backend::start_all(&network, 80, &vips)?;
    let mut ends = network.backends.iter().map(decap).collect::<Result<Vec<_>>>()?;
    let service = |(name, protocol, vip): (&str, &str, std::net::IpAddr)| {
        let service = Service::new(name, vip, 80).with("protocol", protocol).with("forward", forward);
        service.backends(&network.backends, backend_is_v4(vip.is_ipv4())).toml()
    };
    let [v4, v6] = vips;
    let services = [("web", "tcp", v4), ("web6", "tcp", v6), ("echo", "udp", v4), ("echo6", "udp", v6)].map(service).concat();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    for name in ["web", "web6", "echo", "echo6"] {
        wait_at_rest(&daemon, name, 3)?;
    }
    let client = &network.client.netns;
    for vip in vips {
        let names = tally(http::names(client, &url(vip, 80), 100)?);
        ensure!(names.len() == 3, "TCP by way of {vip} reached {names:?}\n{}", story(&daemon));
        let names = tally(udp::names(client, SocketAddr::new(vip, 80), 100)?);
        ensure!(names.len() == 3, "UDP by way of {vip} reached {names:?}\n{}", story(&daemon));
        // The first one is too big for the tunnel: the client is told, and sends smaller fragments.
        let question = vec![b'x'; 4000];
        let answer = || Ok(udp::ask(client, SocketAddr::new(vip, 80), &question).ok());
        let answer = until(LIMIT, "a large datagram to get through", answer)?;
        ensure!(answer.ends_with(&question), "{} bytes by way of {vip}", answer.len());
    }
    ensure!(verdict(&daemon, "too_big")? > 0, "{:#}", daemon.status()?["verdicts"]);
    for end in &mut ends {
        end.signal(Signal::SIGTERM)?;
        ensure!(end.wait(LIMIT)?.success(), "{}", end.log());
        let counted = if forward == "gue" { "gue=0" } else { "ipip=0" };
        ensure!(end.log().contains("packets") && !end.log().contains(counted), "{}", end.log());
    }
    let links = network.backends[0].netns.run("ip -o link show eth0")?;
    ensure!(!links.contains("xdp"), "the program stayed: {links}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn ip_in_ip_of_one_family_arrives() -> Result<()> {
    exchange("ipip", |vip_is_v4| vip_is_v4)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn ip_in_ip_of_the_other_family_arrives() -> Result<()> {
    exchange("ipip", |vip_is_v4| !vip_is_v4)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn gue_arrives() -> Result<()> {
    exchange("gue", |vip_is_v4| vip_is_v4)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn decap_says_what_keeps_it_from_working() -> Result<()> {
    let network = Network::dsr(1, &both_vips())?;
    let host = &network.backends[0];
    let xlb = paths::xlb()?;
    let end_of = |arguments: &[&str]| -> Result<String> {
        let mut command = host.netns.command(&xlb);
        let mut process = Process::start("decap", command.arg("decap").args(arguments))?;
        ensure!(!process.wait(LIMIT)?.success(), "{arguments:?}: {}", process.log());
        Ok(process.log())
    };
    let missing = end_of(&["--interface", "eth7"])?;
    ensure!(missing.contains("eth7"), "{missing}");
    // The network's own program is in its place.
    let busy = end_of(&["--interface", "eth0", "--mode", "native"])?;
    ensure!(busy.contains("another XDP program is there") && busy.contains("ip link set eth0 xdp off"), "{busy}");
    let many: Vec<String> = (1..=17).flat_map(|i| ["--address".into(), format!("10.2.0.{i}")]).collect();
    let arguments: Vec<&str> = ["--interface", "eth0"].into_iter().chain(many.iter().map(String::as_str)).collect();
    let full = end_of(&arguments)?;
    ensure!(full.contains("16 at most"), "{full}");
    Ok(())
}
