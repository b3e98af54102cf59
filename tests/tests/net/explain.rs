//! `xlb explain` beside real connections: it names the backend that answers them.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use xlb_tests::{Backend, Daemon, Network, http, udp, until};

use super::support::{LIMIT, Service, both_vips, tcp_and_udp_on_both_families, url, vip, vip_v6, wait_at_rest, wait_serving};

const CLIENT: &str = "10.1.0.2";
const CLIENT_V6: &str = "fd01::2";

fn client(vip: IpAddr, port: u16) -> Result<SocketAddr> {
    Ok(SocketAddr::new(if vip.is_ipv4() { CLIENT.parse()? } else { CLIENT_V6.parse()? }, port))
}

/// Runs `xlb explain` where the daemon is, which prints lines or, with `--json`, what the API answers.
fn xlb_explain(network: &Network, arguments: &[&str]) -> Result<String> {
    let output = network.lb.netns.command(xlb_tests::paths::xlb()?).arg("explain").args(arguments).output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

fn explain(network: &Network, from: SocketAddr, to: SocketAddr, protocol: &str, more: &[&str]) -> Result<Value> {
    let (from, to) = (from.to_string(), format!("{to}/{protocol}"));
    Ok(serde_json::from_str(&xlb_explain(network, &[&[from.as_str(), to.as_str(), "--json"], more].concat())?)?)
}

/// The name of the backend that was explained: `backend<i>`.
fn name(network: &Network, explained: &Value) -> Result<String> {
    let address = explained["backend"]["chosen"]["address"].as_str().with_context(|| format!("nobody in {explained:#}"))?;
    let address: IpAddr = address.parse()?;
    let is_it = |host: &xlb_tests::Host| IpAddr::V4(host.v4) == address || IpAddr::V6(host.v6) == address;
    let n = network.backends.iter().position(is_it).with_context(|| format!("{address} is no backend"))?;
    Ok(format!("backend{n}"))
}

/// Who answers TCP from this port.
fn tcp_answer(network: &Network, from: SocketAddr, vip: IpAddr) -> Result<String> {
    Ok(http::get_from(&network.client.netns, from, &url(vip, 80))?.body.trim().to_owned())
}

fn udp_answer(network: &Network, from: SocketAddr, vip: IpAddr) -> Result<String> {
    network.client.netns.enter(|| udp::name(&udp::connect(SocketAddr::new(vip, 80), from.port())?))
}

/// Of each of these ports, the explanation before its first packet, and who answered then.
fn check_ports(network: &Network, ports: std::ops::Range<u16>, is_from: impl Fn(&Value) -> Result<()>) -> Result<()> {
    for vip in both_vips() {
        for port in ports.clone() {
            let (from, to) = (client(vip, port)?, SocketAddr::new(vip, 80));
            let explained = explain(network, from, to, "tcp", &["--syn"])?;
            let (told, real) = (name(network, &explained)?, tcp_answer(network, from, vip)?);
            ensure!(told == real, "TCP from {from} to {to} reached {real}, but {explained:#}");
            is_from(&explained)?;
            let explained = explain(network, from, to, "udp", &[])?;
            let (told, real) = (name(network, &explained)?, udp_answer(network, from, vip)?);
            ensure!(told == real, "UDP from {from} to {to} reached {real}, but {explained:#}");
            is_from(&explained)?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn the_backend_that_is_named_is_the_one_that_answers_before_and_after_a_change() -> Result<()> {
    let network = Network::dsr(4, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let services = tcp_and_udp_on_both_families(&network, "dsr");
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    for name in ["web", "web6", "echo", "echo6"] {
        wait_serving(&daemon, name, 4)?;
    }
    let is_dsr = |explained: &Value| -> Result<()> {
        let way = &explained["way"];
        ensure!(way["forward"] == "dsr" && way["interface"] == "eth0" && way["to"].is_string(), "{explained:#}");
        ensure!(explained["verdict"] == "tx" && explained["class"] == "forwarded", "{explained:#}");
        Ok(())
    };
    check_ports(&network, 20_000..20_012, is_dsr)?;
    for name in ["web", "web6", "echo", "echo6"] {
        let backend = if name.ends_with('6') { "fd02::10" } else { "10.2.0.10" };
        daemon.xlb(&["drain", name, backend])?;
    }
    let not_drained = |explained: &Value| -> Result<()> {
        is_dsr(explained)?;
        // A datagram does not say that it opens a flow: it may be an old one's, and follows it.
        let is_new = explained["packet"]["protocol"] == "tcp";
        ensure!(!is_new || explained["backend"]["chosen"]["admin"].is_null(), "{explained:#}");
        Ok(())
    };
    check_ports(&network, 21_000..21_012, not_drained)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn by_nat_and_ip_hash_the_backend_is_named_with_what_the_destination_becomes_and_its_reply_with_the_vip() -> Result<()> {
    let network = Network::nat(3)?;
    let _backends = Backend::start_all(&network, 8080, &[])?;
    let toml = |name, vip: IpAddr| {
        let service = Service::new(name, vip, 80).with("forward", "nat").with("algorithm", "ip-hash");
        let address = |host: &xlb_tests::Host| -> IpAddr { if vip.is_ipv4() { host.v4.into() } else { host.v6.into() } };
        network.backends.iter().fold(service, |service, host| service.backend(address(host), "port = 8080")).toml()
    };
    let services = [toml("web", vip()), toml("web6", vip_v6())].concat();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services).start()?;
    wait_serving(&daemon, "web", 3)?;
    wait_serving(&daemon, "web6", 3)?;
    for address in both_vips() {
        let mut named = std::collections::BTreeSet::new();
        for port in 20_000..20_008 {
            let (from, to) = (client(address, port)?, SocketAddr::new(address, 80));
            let explained = explain(&network, from, to, "tcp", &["--syn", "--interface", "client"])?;
            let (told, real) = (name(&network, &explained)?, tcp_answer(&network, from, address)?);
            ensure!(told == real, "{from} reached {real}, but {explained:#}");
            ensure!(explained["slot"]["hashed_by"] == "the client's address alone", "{explained:#}");
            let backend: SocketAddr = explained["way"]["destination"].as_str().context("no destination")?.parse()?;
            ensure!(backend.port() == 8080 && explained["way"]["interface"] == real.as_str(), "{explained:#}");
            named.insert(told);
            let reply = explain(&network, backend, from, "tcp", &["--interface", &real])?;
            let service = if address.is_ipv4() { "web" } else { "web6" };
            ensure!(reply["reply"]["service"] == service && reply["reply"]["source"] == to.to_string(), "{reply:#}");
            ensure!(reply["verdict"] == "reply_routed" && reply["service"].is_null(), "{reply:#}");
        }
        ensure!(named.len() == 1, "one client is with one backend: {named:?}");
    }
    let told = xlb_explain(&network, &["10.2.0.2:8080", "10.1.0.2:40000/tcp"])?;
    ensure!(told.contains("reply     of web by 10.2.0.2:8080 (up): leaves with 10.200.1.1:80 as its source"), "{told}");
    ensure!(told.contains("ip route get 10.1.0.2 from 10.200.1.1 iif client"), "{told}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_recorded_flow_stays_with_the_drained_backend_that_has_it_and_asking_records_nothing() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let toml = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(toml).start()?;
    wait_at_rest(&daemon, "web", 3)?;
    let to = SocketAddr::new(vip(), 80);
    let mut of_first = Vec::new();
    for port in 20_000..20_200 {
        let explained = explain(&network, client(vip(), port)?, to, "tcp", &["--syn"])?;
        ensure!(explained["slot"]["at_rest"] == true && explained["backend"]["reason"] == "at_rest", "{explained:#}");
        if explained["backend"]["chosen"]["address"] == "10.2.0.10" {
            of_first.push(client(vip(), port)?);
        }
    }
    let [connected, silent, ..] = of_first[..] else { bail!("of 200 ports only {of_first:?} lead to the first backend") };
    let mut stream = network.client.netns.enter(|| http::connect(to, Some(connected), LIMIT))?;
    ensure!(ask(&mut stream)? == "backend0");
    daemon.xlb(&["drain", "web", "10.2.0.10"])?;
    // The second time as the first: asking has put nothing on record.
    for _ in 0..2 {
        let old = explain(&network, silent, to, "tcp", &[])?;
        ensure!(old["slot"]["at_rest"] == false && old["slot"]["settled"]["address"] == "10.2.0.10", "{old:#}");
        ensure!(old["backend"]["reason"] == "settled" && old["backend"]["chosen"]["admin"] == "drain", "{old:#}");
        ensure!(old["flow"]["on_record"].is_null() && old["flow"]["would_record"] == "guessed", "{old:#}");
    }
    ensure!(ask(&mut stream)? == "backend0", "the connection has moved");
    let kept = explain(&network, connected, to, "tcp", &[])?;
    ensure!(kept["backend"]["reason"] == "on_record" && name(&network, &kept)? == "backend0", "{kept:#}");
    let lines = xlb_explain(&network, &[&connected.to_string(), &format!("{to}/tcp")])?;
    ensure!(lines.contains("flow      on record: 10.2.0.10:80 (up, draining), "), "{lines}");
    ensure!(lines.contains("backend   10.2.0.10:80 (up, draining): the flow is on record there"), "{lines}");
    let new = explain(&network, silent, to, "tcp", &["--syn"])?;
    let told = name(&network, &new)?;
    ensure!(new["backend"]["reason"] == "new_connection" && told != "backend0", "{new:#}");
    ensure!(tcp_answer(&network, silent, vip())? == told, "the new connection went elsewhere than {told}");
    let recorded = explain(&network, silent, to, "tcp", &[])?;
    ensure!(recorded["backend"]["reason"] == "on_record" && name(&network, &recorded)? == told, "{recorded:#}");
    daemon.stop()
}

/// The name of who answers on a connection that stays open.
fn ask(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: xlb\r\n\r\n")?;
    let mut answer = String::new();
    let mut piece = [0; 1024];
    while !answer.split_once("\r\n\r\n").is_some_and(|(_, body)| body.ends_with('\n')) {
        let n = stream.read(&mut piece)?;
        ensure!(n > 0, "closed after {answer:?}");
        answer.push_str(std::str::from_utf8(&piece[..n])?);
    }
    Ok(answer.lines().last().unwrap_or_default().to_owned())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn no_service_no_backend_and_questions_without_sense_are_told_apart() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let down = Service::new("down", vip(), 81).backends(&network.backends, true).toml();
    let web = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services([web, down].concat()).start()?;
    wait_serving(&daemon, "web", 2)?;
    let lines = |destination: &str| xlb_explain(&network, &["10.1.0.2:40000", destination, "--syn"]);
    let elsewhere = lines("10.200.1.1:82/tcp")?;
    ensure!(
        elsewhere.contains("service   none: the destination is a VIP, but takes only down 81/tcp, web 80/tcp"),
        "{elsewhere}"
    );
    ensure!(elsewhere.contains("verdict   not_service, passed: "), "{elsewhere}");
    ensure!(lines("10.99.0.1:80/tcp")?.contains("service   none: the destination is no VIP"));
    let nobody = until(LIMIT, "the checks of down to fail", || {
        let nobody = lines("10.200.1.1:81/tcp")?;
        Ok(nobody.contains("verdict   no_backend, dropped: ").then_some(nobody))
    })?;
    ensure!(nobody.contains("backend   nobody: no backend of the service may take it"), "{nobody}");
    for (arguments, reason) in [
        (&["10.1.0.2:40000", "10.200.1.1:80/tcp", "--interface", "eth9"][..], "does not run on \"eth9\"; it runs on eth0"),
        (&["[fd01::2]:40000", "10.200.1.1:80/tcp"][..], "of different families"),
        (&["10.1.0.2:40000", "10.200.1.1:80/udp", "--syn"][..], "udp has no SYN"),
        (&["10.1.0.2:40000", "10.200.1.1:80/tcp", "--length", "39"][..], "has 40 bytes or more"),
        (&["10.1.0.2:40000", "10.200.1.1:80"][..], "write ADDRESS:PORT/tcp"),
    ] {
        match xlb_explain(&network, arguments) {
            Ok(told) => bail!("{arguments:?}: {told}"),
            Err(error) => ensure!(format!("{error:#}").contains(reason), "{arguments:?}: {error:#}"),
        }
    }
    let api = |query: &str| http::get(&network.lb.netns, &format!("http://127.0.0.1:9400/api/v1/explain{query}"));
    let status = |query| Ok::<u16, anyhow::Error>(api(query)?.status);
    ensure!(status("")? == 400 && status("?client=10.1.0.2:5&vip=10.200.1.1:80&x=1")? == 400);
    ensure!(status("?client=10.1.0.2:5&vip=10.200.1.1:80&interface=eth9")? == 404);
    ensure!(status("?client=10.1.0.2:5&vip=[fd00::1]:80")? == 422);
    ensure!(status("?client=10.1.0.2:5&vip=10.200.1.1:80")? == 200);
    daemon.stop()?;
    let Err(gone) = xlb_explain(&network, &["10.1.0.2:40000", "10.200.1.1:80/tcp"]) else { bail!("nobody is there to answer") };
    let gone = gone.to_string();
    ensure!(gone.contains("no daemon answers on 127.0.0.1:9400; is it running"), "{gone}");
    Ok(())
}
