//! The worlds that the other tests stand in do what they promise.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Connections, Dnsmasq, Network, Nginx, Process, World, Wrk, connections, dns, frames, http, udp, until};

const LIMIT: Duration = Duration::from_secs(5);

fn vips() -> [IpAddr; 2] {
    [[10, 200, 1, 1].into(), [0xfd00, 0x200, 0, 0, 0, 0, 1, 1].into()]
}

/// What a namespace of this world is called after its process id and number.
fn exists(name: &str) -> bool {
    std::path::Path::new("/run/netns").join(name).exists()
}

fn answers(network: &Network, address: IpAddr, port: u16, name: &str) -> Result<()> {
    let to = SocketAddr::new(address, port);
    let answer = http::get(&network.client.netns, &format!("http://{to}/"))?;
    ensure!(answer.status == 200 && answer.body.trim() == name, "{to}: {answer:?}, not {name}");
    let names = udp::names(&network.client.netns, to, 1)?;
    ensure!(names == [name], "UDP {to}: {names:?}, not {name}");
    Ok(())
}

fn every_backend_answers_the_client(network: &Network) -> Result<()> {
    let _backends = Backend::start_all(network, 80, &[])?;
    for (i, host) in network.backends.iter().enumerate() {
        answers(network, host.v4.into(), 80, &format!("backend{i}"))?;
        answers(network, host.v6.into(), 80, &format!("backend{i}"))?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn in_the_dsr_network_every_backend_answers_the_client() -> Result<()> {
    every_backend_answers_the_client(&Network::dsr(5, &vips())?)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn in_the_nat_network_every_backend_answers_the_client() -> Result<()> {
    every_backend_answers_the_client(&Network::nat(5)?)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn twenty_backends_stand_within_seconds() -> Result<()> {
    let start = std::time::Instant::now();
    let network = Network::dsr(20, &vips())?;
    let taken = start.elapsed();
    ensure!(taken < Duration::from_secs(20), "{taken:?} for {} backends", network.backends.len());
    println!("{taken:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_frame_sent_to_the_vip_reaches_the_load_balancer_and_only_it() -> Result<()> {
    let network = Network::dsr(2, &vips())?;
    let at_lb = frames::Capture::start(&network.lb.netns, "eth0", "udp")?;
    let at_backend = frames::Capture::start(&network.backends[0].netns, "eth0", "udp")?;
    let from = ([2; 6], network.client.netns.mac("eth0")?);
    let router = network.router.as_ref().expect("a DSR network has a router").netns.mac("client")?;
    let IpAddr::V4(vip) = vips()[0] else { unreachable!("the first is IPv4") };
    let frame = frames::udp_v4((from.1, router), (network.client.v4, 1234), (vip, 80), b"hello");
    frames::Sender::new(&network.client.netns, "eth0")?.send(&frame)?;

    let arrived = at_lb.wait_for(1, LIMIT)?;
    assert!(arrived[0].ends_with(b"hello"), "{arrived:02x?}");
    assert_eq!(arrived[0][..6], network.lb.netns.mac("eth0")?, "the router sends it to the load balancer's address");
    assert_eq!(at_backend.frames()?, Vec::<Vec<u8>>::new());
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_vlan_tag_arrives_as_it_was_sent() -> Result<()> {
    let network = Network::nat(1)?;
    let capture = frames::Capture::start(&network.lb.netns, "client", "vlan")?;
    let macs = (network.client.netns.mac("eth0")?, network.lb.netns.mac("client")?);
    let frame = frames::udp_v4(macs, (network.client.v4, 1), (network.lb.v4, 2), b"tagged");
    let frame = frames::with_vlan(&frame, 42);
    frames::Sender::new(&network.client.netns, "eth0")?.send(&frame)?;
    assert_eq!(capture.wait_for(1, LIMIT)?, [frame]);
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_pass_program_is_attached_natively_to_the_peers() -> Result<()> {
    let network = Network::dsr(1, &vips())?;
    let peers = [(&network.client, "eth0"), (&network.backends[0], "eth0"), (network.router.as_ref().expect("a router"), "lb")];
    for (host, interface) in peers {
        let link = host.netns.run(&format!("ip -json link show dev {interface}"))?;
        let link: serde_json::Value = serde_json::from_str(&link)?;
        // 1: native.
        assert_eq!(link[0]["xdp"]["mode"], 1, "{interface} in {}: {link}", host.netns.name());
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_dropped_world_leaves_nothing() -> Result<()> {
    let network = Network::nat(2)?;
    let name = network.lb.netns.name().to_owned();
    // Held longer than the world: it has to end with the world all the same.
    let mut process = Process::start("sleep", network.lb.netns.command("sh").args(["-c", "echo inside; exec sleep 1000"]))?;
    process.wait_for_log("inside", LIMIT)?;
    assert!(exists(&name));
    drop(network);
    assert!(!exists(&name));
    process.wait(LIMIT)?;
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_world_whose_owner_panics_leaves_nothing() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let panicked = std::thread::spawn(move || {
        let mut world = World::new().unwrap();
        let netns = world.namespace("doomed").unwrap();
        sender.send(netns.name().to_owned()).unwrap();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    assert!(!exists(&receiver.recv().unwrap()));
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_a_killed_process_left_is_swept() -> Result<()> {
    // The name of a process that has ended: no test waits for the id to come round again.
    let mut ended = std::process::Command::new("true").spawn()?;
    ended.wait()?;
    let name = format!("xlb-{}-0-left", ended.id());
    std::process::Command::new("ip").args(["netns", "add", &name]).status()?;
    assert!(exists(&name));
    World::sweep()?;
    assert!(!exists(&name));
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn dnsmasq_answers_with_changed_records() -> Result<()> {
    let mut world = World::new()?;
    let netns = world.namespace("dns")?;
    let (a, b, six) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into(), [0xfd00, 0, 0, 0, 0, 0, 0, 1].into());
    let mut server = Dnsmasq::start(&netns, [127, 0, 0, 1].into(), 1, &[("web.internal", a)])?;
    let asked = |server: &Dnsmasq| dns::query(&netns, server.address(), "web.internal");
    assert_eq!(asked(&server)?, [a]);
    server.set(&[("web.internal", a), ("web.internal", b), ("web.internal", six)])?;
    assert_eq!(asked(&server)?, [a, b, six]);
    server.set(&[])?;
    assert!(asked(&server)?.is_empty());
    server.kill();
    assert!(asked(&server).is_err());
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_turns_unhealthy_and_healthy_again() -> Result<()> {
    let mut world = World::new()?;
    let netns = world.namespace("backend")?;
    let backend = Backend::start(&netns, "b", &[("http", ([127, 0, 0, 1], 80).into())])?;
    let health_becomes = |status| {
        until(LIMIT, &format!("/health to answer {status}"), || {
            Ok((http::get(&netns, "http://127.0.0.1/health")?.status == status).then_some(()))
        })
    };
    health_becomes(200)?;
    backend.toggle_health()?;
    health_becomes(503)?;
    assert_eq!(http::get(&netns, "http://127.0.0.1/")?.status, 200, "only its health changes");
    backend.toggle_health()?;
    health_becomes(200)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn wrk_and_nginx_count_the_same_world() -> Result<()> {
    let network = Network::nat(1)?;
    let backend = &network.backends[0];
    let _nginx = Nginx::start(&backend.netns, "n", &[SocketAddr::new(backend.v4.into(), 80)])?;
    let url = format!("http://{}/", backend.v4);
    assert_eq!(http::get(&network.client.netns, &url)?.body, "n\n");
    let report = Wrk::new(&url, Duration::from_secs(1)).run(&network.client.netns)?;
    assert!(report.requests > 100 && report.errors() == 0, "{report:?}");
    let closing = Wrk { keep_alive: false, ..Wrk::new(&url, Duration::from_secs(1)) }.run(&network.client.netns)?;
    assert!(closing.requests > 10 && closing.requests < report.requests && closing.errors() == 0, "{closing:?}, {report:?}");
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn open_connections_report_the_ones_that_break() -> Result<()> {
    let network = Network::nat(2)?;
    let mut backends = Backend::start_all(&network, 80, &[])?;
    let open = |i: usize| {
        let to = SocketAddr::new(network.backends[i].v4.into(), 80);
        Connections::open(&network.client.netns, to, 10, Duration::from_millis(5), Duration::from_millis(500))
    };
    let (doomed, safe) = (open(0)?, open(1)?);
    assert_eq!(doomed.names().get("backend0"), Some(&10));
    backends[0].kill();
    let after = safe.exchanges() + 50;
    until(LIMIT, "the others to go on", || Ok((safe.exchanges() > after).then_some(())))?;
    let broken: Vec<connections::Broken> = doomed.close()?;
    assert_eq!(broken.len(), 10, "{broken:?}");
    assert_eq!(broken.iter().map(|broken| &*broken.name).collect::<BTreeSet<_>>(), BTreeSet::from(["backend0"]));
    assert!(safe.close()?.is_empty());
    Ok(())
}
