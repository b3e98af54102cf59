//! Who may send to a VIP, with real clients.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Connections, Daemon, Network, frames, http, until};

use super::support::{LIMIT, Service, both_vips, url, verdict, vip, vip_v6, wait_answer};

fn services(network: &Network) -> String {
    let of = |name, vip: IpAddr| Service::new(name, vip, 80).backends(&network.backends, vip.is_ipv4()).toml();
    of("web", vip()) + &of("web6", vip_v6())
}

/// Whether the client is served from this address of its own.
fn is_served(network: &Network, from: &str, url: &str) -> bool {
    let answer = |from| http::get_from(&network.client.netns, SocketAddr::new(from, 0), url);
    from.parse().is_ok_and(|from| answer(from).is_ok_and(|answer| answer.status == 200))
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_denied_client_gets_nothing_others_everything_and_a_reload_exchanges_the_list() -> Result<()> {
    let network = Network::dsr(2, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let (web, web6) = (url(vip(), 80), url(vip_v6(), 80));
    network.client.netns.ip(&["addr add 10.1.0.66/24 dev eth0", "addr add fd01::66/64 dev eth0 nodad"])?;
    let directory = tempfile::tempdir()?;
    let list = directory.path().join("deny.txt");
    std::fs::write(&list, "# bad neighbours\n10.1.0.66\nfd01::66/128\n")?;
    let rules = format!("[admission]\ndeny_files = [{list:?}]\n");
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(rules + &services(&network)).start()?;
    wait_answer(&network.client.netns, &web)?;
    // Which of its addresses a client would take by itself is its own business.
    let v6 = network.client.v6.to_string();
    until(LIMIT, "IPv6 to be served", || Ok(is_served(&network, &v6, &web6).then_some(())))?;
    ensure!(!is_served(&network, "10.1.0.66", &web) && !is_served(&network, "fd01::66", &web6), "denied");
    ensure!(verdict(&daemon, "denied")? >= 2, "{:#}", daemon.status()?["verdicts"]);
    ensure!(daemon.metric("xlb_admission_refused_total{rule=\"deny\"}")? >= 2.0);
    ensure!(network.client.netns.run(&format!("ping -n -c 1 -W 1 -I 10.1.0.66 {}", vip())).is_err(), "a ping is denied");
    network.client.netns.run(&format!("ping -n -c 1 -W 2 -I 10.1.0.66 {}", network.lb.v4))?;

    std::fs::write(&list, format!("{}\n", network.client.v4))?;
    daemon.process().signal(nix::sys::signal::Signal::SIGHUP)?;
    until(LIMIT, "the other list to hold", || Ok(is_served(&network, "10.1.0.66", &web).then_some(())))?;
    ensure!(!is_served(&network, &network.client.v4.to_string(), &web));

    std::fs::write(&list, "10.1.0.66\n10.1.0.300\n")?;
    daemon.process().signal(nix::sys::signal::Signal::SIGHUP)?;
    daemon.process().wait_for_log("not reloaded", LIMIT)?;
    ensure!(daemon.log().contains("deny.txt:2: \"10.1.0.300\" is no prefix"), "{}", daemon.log());
    ensure!(is_served(&network, "10.1.0.66", &web), "a bad list changes nothing");

    std::fs::write(&list, "")?;
    daemon.process().signal(nix::sys::signal::Signal::SIGHUP)?;
    wait_answer(&network.client.netns, &web)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_million_prefixes_load_in_seconds_and_traffic_goes_on_meanwhile() -> Result<()> {
    const N: u32 = 1_000_000;
    let network = Network::dsr(1, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let web = url(vip(), 80);
    network.client.netns.ip(&["addr add 10.1.0.66/24 dev eth0"])?;
    let directory = tempfile::tempdir()?;
    let list = directory.path().join("deny.txt");
    // Apart from each other, so that none is saved; and one that matters.
    let hosts = (0..N - 1).map(|n| format!("{}\n", std::net::Ipv4Addr::from_bits(0x5000_0000 + 2 * n)));
    std::fs::write(&list, hosts.collect::<String>() + "10.1.0.66\n")?;
    let limits = "[limits]\nprefixes = 1000000\n";
    let mut daemon =
        Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(limits.to_owned() + &services(&network)).start()?;
    wait_answer(&network.client.netns, &web)?;
    ensure!(is_served(&network, "10.1.0.66", &web));
    let config = std::fs::read_to_string(daemon.config())?;
    std::fs::write(daemon.config(), format!("{config}\n[admission]\ndeny_files = [{list:?}]\n"))?;
    let start = std::time::Instant::now();
    daemon.process().signal(nix::sys::signal::Signal::SIGHUP)?;
    let loaded = until(LIMIT, "the list to hold", || {
        http::get(&network.client.netns, &web)?;
        let n = daemon.metric("xlb_admission_prefixes{list=\"deny\"}")?;
        Ok((n == f64::from(N)).then(|| start.elapsed()))
    })?;
    ensure!(!is_served(&network, "10.1.0.66", &web), "the last of a million is denied");
    println!("{N} prefixes in {loaded:?}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn with_an_allow_list_a_service_is_for_those_on_it_alone() -> Result<()> {
    let network = Network::dsr(1, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let web = url(vip(), 80);
    network.client.netns.ip(&["addr add 10.1.0.66/24 dev eth0"])?;
    let own = "[service.admission]\nallow = [\"10.1.0.66\"]\n";
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml() + own;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    until(LIMIT, "who is allowed to be served", || Ok(is_served(&network, "10.1.0.66", &web).then_some(())))?;
    ensure!(!is_served(&network, &network.client.v4.to_string(), &web));
    ensure!(daemon.metric("xlb_service_refused_total{service=\"web\",rule=\"allow\"}")? >= 1.0);
    let explain = ["explain", &format!("{}:4000", network.client.v4), &format!("{}:80/tcp", vip())];
    let output = network.lb.netns.command(xlb_tests::paths::xlb()?).args(explain).output()?;
    let explained = String::from_utf8_lossy(&output.stdout);
    ensure!(explained.contains("refused") && explained.contains("denied, dropped"), "{explained}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_flood_from_one_source_and_from_spoofed_ones_is_held_while_a_good_client_works_on() -> Result<()> {
    let network = Network::dsr(2, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let web = url(vip(), 80);
    let rules = "[admission]\nsource_packets = \"200/s\"\nsource_packets_burst = 300\n[limits]\nsources = 8192\n";
    let echo = Service::new("echo", vip(), 80).with("protocol", "udp").backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(rules.to_owned() + &services(&network) + &echo)
        .start()?;
    wait_answer(&network.client.netns, &web)?;
    let router = network.router.as_ref().expect("the DSR network has one");
    let sender = frames::Sender::new(&router.netns, "br0")?;
    let (from, to) = (router.netns.mac("br0")?, network.lb.netns.mac("eth0")?);
    let frame = |source: Ipv4Addr| frames::udp_v4((from, to), (source, 4000), (Ipv4Addr::new(10, 200, 1, 1), 80), b"flood");
    let heavy = Ipv4Addr::new(10, 9, 9, 9);
    let mut n_sent = 0u32;
    let mut slowest = Duration::ZERO;
    for round in 0..20u32 {
        for n in 0..2000u32 {
            sender.send(&frame(heavy))?;
            sender.send(&frame(Ipv4Addr::from_bits(0x6000_0000 + round * 2000 + n)))?;
            n_sent += 1;
        }
        let asked = Instant::now();
        http::names(&network.client.netns, &web, 3)?;
        slowest = slowest.max(asked.elapsed());
    }
    let limited = until(LIMIT, "the flood to be counted", || {
        let limited = verdict(&daemon, "limited")?;
        // Less what has passed, and what a full queue has lost on the way.
        Ok((2 * limited >= u64::from(n_sent)).then_some(limited))
    })?;
    ensure!(limited < u64::from(n_sent), "its burst has passed: {limited} of {n_sent}");
    ensure!(slowest < Duration::from_secs(1), "three requests took {slowest:?}");
    let status = daemon.status()?;
    let most = &status["suspects"][0];
    ensure!(most["source"] == format!("{heavy}/32") && most["rule"] == "source_packets", "{:#}", status["suspects"]);
    ensure!(status["admission"]["limits"]["source_packets"] == 200.0, "{:#}", status["admission"]);
    let counted = daemon.metric("xlb_admission_refused_total{rule=\"source_packets\"}")?;
    ensure!(counted >= limited as f64, "{counted} of {limited}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn new_connections_beyond_the_rate_are_dropped_and_those_that_are_open_go_on() -> Result<()> {
    let network = Network::dsr(2, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let web = url(vip(), 80);
    let own = "[service.admission]\nsource_connections = \"4/m\"\nsource_connections_burst = 25\n";
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml() + own;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    // What a source may open counts down from when the service has backends.
    let client = &network.client.netns;
    let open = Connections::open(client, (vip(), 80).into(), 5, Duration::from_millis(10), Duration::from_secs(2))?;
    let served = (0..40).take_while(|_| http::get(client, &web).is_ok()).count();
    ensure!((1..=20).contains(&served), "{served} more than the five");
    network.client.netns.ip(&["addr add 10.1.0.66/24 dev eth0"])?;
    ensure!(is_served(&network, "10.1.0.66", &web), "another source has a burst of its own");
    ensure!(daemon.metric("xlb_service_refused_total{service=\"web\",rule=\"source_connections\"}")? >= 1.0);
    let broken = open.close()?;
    ensure!(broken.is_empty(), "{broken:?}");
    daemon.stop()
}
