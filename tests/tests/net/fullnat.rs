//! Full NAT: backends that know no way to clients, and that are clients themselves.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::frames::Capture;
use xlb_tests::wrk::Wrk;
use xlb_tests::{Backend, Connections, Daemon, Network, http, udp, until};

use super::support::{
    LIMIT, Service, both_vips, counters_sum, service, story, tally, tcp_and_udp_on_both_families, url, verdict, vip, vip_v6,
    wait_at_rest, wait_serving,
};

pub const POOL: &str = "[fullnat]\naddresses = [\"10.2.0.200\", \"fd02::200\"]\n";

/// Backends that have nothing to do with VIPs, and no way to clients.
pub fn network(n_backends: u8) -> Result<Network> {
    let network = Network::dsr(n_backends, &both_vips())?;
    network.lb.netns.ip(&["addr add 10.2.0.200/24 dev eth0", "addr add fd02::200/64 dev eth0 nodad"])?;
    for host in &network.backends {
        host.netns.ip(&[
            &format!("addr del {}/32 dev lo", vip()),
            &format!("addr del {}/128 dev lo", vip_v6()),
            "route del default",
            "route del ::/0",
        ])?;
    }
    Ok(network)
}

fn web(network: &Network) -> String {
    POOL.to_owned() + &Service::new("web", vip(), 80).with("forward", "fullnat").backends(&network.backends, true).toml()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn backends_without_a_way_to_clients_answer_tcp_and_udp_over_both_families() -> Result<()> {
    let network = network(3)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let services = POOL.to_owned() + &tcp_and_udp_on_both_families(&network, "fullnat");
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    for name in ["web", "web6", "echo", "echo6"] {
        wait_at_rest(&daemon, name, 3)?;
    }
    let client = &network.client.netns;
    for address in both_vips() {
        let tcp = tally(http::names(client, &url(address, 80), 100)?);
        ensure!(tcp.len() == 3, "TCP by way of {address} reached {tcp:?}\n{}", story(&daemon));
        let udp = tally(udp::names(client, SocketAddr::new(address, 80), 100)?);
        ensure!(udp.len() == 3, "UDP by way of {address} reached {udp:?}\n{}", story(&daemon));
    }
    let status = daemon.status()?;
    counters_sum(&status)?;
    ensure!(verdict(&daemon, "tx")? > 0 && verdict(&daemon, "reply")? > 0, "{:#}", status["verdicts"]);
    for address in ["10.2.0.200", "fd02::200"] {
        ensure!(daemon.metric(&format!("xlb_fullnat_ports{{address=\"{address}\"}}"))? == 55_296.0);
        // Sessions are counted about once a second.
        until(LIMIT, "sessions to be counted", || {
            Ok((daemon.metric(&format!("xlb_fullnat_sessions{{address=\"{address}\"}}"))? > 0.0).then_some(()))
        })?;
    }
    let pool: Vec<Value> = daemon.status()?["fullnat"].as_array().context("no pool")?.clone();
    ensure!(pool.len() == 2 && pool[0]["address"] == "10.2.0.200" && pool[0]["ports"] == 55_296, "{pool:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_may_be_a_client_of_its_own_service() -> Result<()> {
    let network = network(2)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let services = POOL.to_owned() + &tcp_and_udp_on_both_families(&network, "fullnat");
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    for name in ["web", "web6", "echo", "echo6"] {
        wait_at_rest(&daemon, name, 2)?;
    }
    for host in &network.backends {
        host.netns.ip(&[format!("route add {} via 10.2.0.2", vip()), format!("route add {} via fd02::2", vip_v6())])?;
        for address in both_vips() {
            let tcp = tally(http::names(&host.netns, &url(address, 80), 50)?);
            ensure!(tcp.len() == 2, "TCP by way of {address} reached {tcp:?}\n{}", story(&daemon));
            let udp = tally(udp::names(&host.netns, SocketAddr::new(address, 80), 50)?);
            ensure!(udp.len() == 2, "UDP by way of {address} reached {udp:?}\n{}", story(&daemon));
        }
    }
    daemon.stop()
}

/// The client that a segment's TOA option names, and what the segment is for.
fn told(frame: &[u8]) -> Result<(Option<SocketAddr>, bool, usize)> {
    let packet = etherparse::SlicedPacket::from_ethernet(frame)?;
    let Some(etherparse::TransportSlice::Tcp(tcp)) = packet.transport else { anyhow::bail!("no TCP: {frame:02x?}") };
    // It comes first, or not at all.
    let named = match *tcp.options() {
        [254, 8, p0, p1, a0, a1, a2, a3, ..] => Some(([a0, a1, a2, a3].into(), [p0, p1])),
        [254, 20, p0, p1, ref rest @ ..] => rest.first_chunk::<16>().map(|address| (IpAddr::from(*address), [p0, p1])),
        _ => None,
    };
    let named = named.map(|(address, port)| SocketAddr::new(address, u16::from_be_bytes(port)));
    Ok((named, tcp.syn(), tcp.payload().len()))
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_is_told_by_a_tcp_option_who_its_client_is() -> Result<()> {
    let network = network(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let services = tcp_and_udp_on_both_families(&network, "fullnat");
    let services = POOL.to_owned() + &services.replace("protocol = \"tcp\"\n", "protocol = \"tcp\"\ntoa = true\n");
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    let backend = &network.backends[0].netns;
    for (name, address, pool) in [("web", vip(), "10.2.0.200"), ("web6", vip_v6(), "fd02::200")] {
        wait_serving(&daemon, name, 1)?;
        let capture = Capture::start(backend, "eth0", &format!("tcp and src host {pool}"))?;
        let source = SocketAddr::new(if address.is_ipv4() { network.client.v4.into() } else { network.client.v6.into() }, 40_404);
        let answer = http::get_from(&network.client.netns, source, &url(address, 80))?;
        ensure!(answer.status == 200, "{answer:?}");
        // A SYN, the acknowledgement of the answer to it, and the request.
        let frames = capture.wait_for(3, LIMIT)?;
        let told = frames.iter().map(|frame| told(frame)).collect::<Result<Vec<_>>>()?;
        let (syn, acknowledged) = (told[0], told[1]);
        ensure!(syn == (Some(source), true, 0), "{told:?}");
        ensure!(acknowledged == (Some(source), false, 0), "{told:?}");
        let with_data: Vec<_> = told.iter().filter(|(_, _, len)| *len > 0).collect();
        ensure!(!with_data.is_empty() && with_data.iter().all(|(named, ..)| named.is_none()), "{told:?}");
    }
    // Long transfers, whose acknowledgements all have it.
    let connections =
        Connections::open(&network.client.netns, (vip(), 80).into(), 50, Duration::from_millis(10), Duration::from_secs(2))?;
    until(LIMIT, "connections to go on", || Ok((connections.exchanges() > 1_000).then_some(())))?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn without_a_free_port_new_flows_are_refused_and_counted_and_others_go_on() -> Result<()> {
    let network = network(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let services = web(&network).replace("[fullnat]\n", "[fullnat]\nports = \"30000-30023\"\n");
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "web", 1)?;
    let client = &network.client.netns;
    let connections = Connections::open(client, (vip(), 80).into(), 8, Duration::from_millis(20), Duration::from_secs(2))?;
    let refused = || verdict(&daemon, "no_source_port");
    ensure!(refused()? == 0, "{:#}", daemon.status()?["verdicts"]);
    let mut held = Vec::new();
    client.enter(|| {
        for _ in 0..40 {
            held.extend(http::connect((vip(), 80).into(), None, Duration::from_millis(100)));
        }
        Ok(())
    })?;
    ensure!(held.len() <= 16 && refused()? > 0, "{} more: {:#}", held.len(), daemon.status()?["verdicts"]);
    let drops = service(&daemon.status()?, "web")?["dropped"].as_u64();
    ensure!(drops.is_some_and(|drops| drops > 0), "{drops:?}");
    let exchanges = connections.exchanges();
    until(LIMIT, "connections to go on", || Ok((connections.exchanges() > exchanges + 20).then_some(())))?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}");
    // Ports of connections that both sides have closed are free some seconds later.
    drop(held);
    until(LIMIT, "ports to be free again", || Ok(http::names(client, &url(vip(), 80), 1).ok()))?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn killed_and_started_again_under_load_it_breaks_no_connection() -> Result<()> {
    let network = network(3)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network)).start()?;
    wait_serving(&daemon, "web", 3)?;
    let client = &network.client.netns;
    let kept = Wrk::new(url(vip(), 80), Duration::from_secs(8)).start(client)?;
    let each = Wrk { keep_alive: false, ..Wrk::new(url(vip(), 80), Duration::from_secs(8)) }.start(client)?;
    let builder = daemon.builder();
    let forwarded = verdict(&daemon, "tx")?;
    until(LIMIT, "load", || Ok((verdict(&daemon, "tx")? > forwarded + 1000).then_some(())))?;
    daemon.kill();
    http::names(client, &url(vip(), 80), 50)?;
    let daemon = builder.start()?;
    wait_serving(&daemon, "web", 3)?;
    for load in [kept, each] {
        let report = load.finish()?;
        ensure!(report.errors() == 0 && report.requests > 100, "{report:?}\n{}", daemon.log());
    }
    ensure!(verdict(&daemon, "no_source_port")? == 0, "{:#}", daemon.status()?["verdicts"]);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn another_pool_takes_a_restart() -> Result<()> {
    let network = network(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network)).start()?;
    wait_serving(&daemon, "web", 1)?;
    let other = web(&network).replace("[fullnat]\n", "[fullnat]\nports = \"20000-29999\"\n");
    daemon.reload(other)?;
    until(LIMIT, "the reload to be refused", || {
        Ok((daemon.metric("xlb_reloads_total{result=\"refused\"}")? == 1.0).then_some(()))
    })?;
    ensure!(daemon.log().contains("fullnat cannot change while running; restart the daemon for it"), "{}", daemon.log());
    let builder = daemon.builder();
    daemon.kill();
    let daemon = builder.start()?;
    ensure!(daemon.metric("xlb_fullnat_ports{address=\"10.2.0.200\"}")? == 10_000.0);
    wait_serving(&daemon, "web", 1)?;
    http::names(&network.client.netns, &url(vip(), 80), 20)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn who_sends_too_much_at_once_is_told_whoever_it_is() -> Result<()> {
    let network = network(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let services = POOL.to_owned() + &tcp_and_udp_on_both_families(&network, "fullnat");
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    for name in ["web", "web6"] {
        wait_serving(&daemon, name, 1)?;
    }
    // A client's router carries less than client and backend think: it tells the VIP, which is to tell the backend.
    let router = network.router.as_ref().context("a router")?;
    router.netns.ip(&["link set client mtu 1400"])?;
    for address in both_vips() {
        let body = http::get(&network.client.netns, &format!("{}bytes/200000", url(address, 80)))?.body;
        ensure!(body.len() == 200_000, "{address}: {} bytes", body.len());
    }
    let routes =
        network.backends[0].netns.run("ip route get 10.2.0.200")? + &network.backends[0].netns.run("ip route get fd02::200")?;
    ensure!(routes.matches("mtu 1400").count() == 2, "{routes}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn xlb_explain_tells_what_stands_for_a_client() -> Result<()> {
    let network = network(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(web(&network)).start()?;
    wait_serving(&daemon, "web", 1)?;
    let from = SocketAddr::new(IpAddr::from([10, 1, 0, 2]), 45_678);
    let explain = || -> Result<Value> {
        let command = format!("explain {from} {}:80/tcp --syn --json", vip());
        let mut process = network.lb.netns.command(xlb_tests::paths::xlb()?);
        Ok(serde_json::from_slice(&process.args(command.split(' ')).output()?.stdout)?)
    };
    let before = explain()?["session"].clone();
    ensure!(
        before["on_record"] == false && before["source"].as_str().is_some_and(|source| source.starts_with("10.2.0.200:")),
        "{before}"
    );
    http::get_from(&network.client.netns, from, &url(vip(), 80))?;
    let after = explain()?["session"].clone();
    ensure!(after["on_record"] == true && after["source"] == before["source"], "{before} {after}");
    daemon.stop()
}
