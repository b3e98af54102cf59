//! `xlb doctor`: one thing is broken at a time, and is named with what mends it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Netns, Network, paths};

use super::support::{Service, vip};

/// What the doctor says in a namespace of this configuration, and whether it ended with success.
fn examine(netns: &Netns, interfaces: &[String], services: &str) -> Result<(Value, bool)> {
    let config = tempfile::NamedTempFile::new()?;
    std::fs::write(config.path(), format!("[xdp]\ninterfaces = {interfaces:?}\n\n{services}"))?;
    let mut command = netns.command(paths::xlb()?);
    let output = command.args(["doctor", "--json", "--config"]).arg(config.path()).output()?;
    let text = String::from_utf8(output.stdout)?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    let report = serde_json::from_str(&text).with_context(|| format!("{text}{complaint}"))?;
    Ok((report, output.status.success()))
}

fn checks(report: &Value) -> impl Iterator<Item = &Value> {
    report["checks"].as_array().into_iter().flatten()
}

/// That one check of this level is about this, says this, and advises this.
fn ensure_said(report: &Value, level: &str, subject: &str, finding: &str, mend: &str) -> Result<()> {
    let contains = |check: &Value, key: &str, text: &str| check[key].as_str().unwrap_or_default().contains(text);
    let is_it = |check: &&Value| {
        let is_about = check["level"] == level && contains(check, "subject", subject);
        is_about && contains(check, "finding", finding) && contains(check, "mend", mend)
    };
    ensure!(checks(report).any(|check| is_it(&check)), "no {level} {subject:?} with {finding:?} and {mend:?} in {report:#}");
    Ok(())
}

fn dsr_service(network: &Network) -> String {
    Service::new("web", vip(), 80).backends(&network.backends, true).toml()
}

fn nat_service(network: &Network) -> String {
    Service::new("web", vip(), 80).with("forward", "nat").backends(&network.backends, true).toml()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_machine_that_is_well_has_no_problem() -> Result<()> {
    let (dsr, nat) = (Network::dsr(2, &[vip()])?, Network::nat(2)?);
    for (network, toml) in [(&dsr, dsr_service(&dsr)), (&nat, nat_service(&nat))] {
        for interface in network.lb_interfaces() {
            network.lb.netns.sysctl(&[
                (&format!("ipv4/conf/{interface}/rp_filter"), "2"),
                (&format!("ipv4/conf/{interface}/accept_local"), "1"),
            ])?;
        }
        let (report, is_well) = examine(&network.lb.netns, &network.lb_interfaces(), &toml)?;
        ensure!(is_well && report["problems"] == 0 && report["warnings"] == 0, "{report:#}");
        for subject in ["kernel", "rights", "bpf file system", "memory", "open files", "vip 10.200.1.1"] {
            ensure_said(&report, "ok", subject, "", "")?;
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_is_wrong_with_an_interface_is_named() -> Result<()> {
    let mut network = Network::dsr(1, &[vip()])?;
    let lb = network.lb.netns.clone();
    let toml = dsr_service(&network);
    let (report, is_well) = examine(&lb, &["eth0".into(), "eth7".into()], &toml)?;
    ensure!(!is_well);
    ensure_said(&report, "problem", "interface eth7", "does not exist", "ip -br link")?;

    lb.run("ethtool -K eth0 tx on")?;
    let (report, _) = examine(&lb, &network.lb_interfaces(), &toml)?;
    ensure_said(&report, "warning", "interface eth0", "partial checksums", "ethtool -K eth0 tx off")?;
    lb.run("ethtool -K eth0 tx off")?;

    network.world.pass_all(&lb, "eth0")?;
    let (report, is_well) = examine(&lb, &network.lb_interfaces(), &toml)?;
    ensure!(!is_well);
    ensure_said(&report, "problem", "interface eth0", "another XDP program is attached: xlb_pass", "ip link set eth0 xdp off")?;

    lb.ip(&["link set eth0 down"])?;
    let (report, is_well) = examine(&lb, &network.lb_interfaces(), &toml)?;
    ensure!(!is_well);
    ensure_said(&report, "problem", "interface eth0", "is down", "ip link set eth0 up")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_veth_that_would_lose_frames_is_named() -> Result<()> {
    let mut world = xlb_tests::World::new()?;
    let (a, b) = (world.namespace("a")?, world.namespace("b")?);
    world.veth((&a, "eth0"), (&b, "eth0"))?;
    a.ip(&["addr add 10.9.0.1/24 dev eth0"])?;
    b.ip(&["addr add 10.9.0.2/24 dev eth0"])?;
    let toml = Service::new("web", vip(), 80).backend("10.9.0.2".parse::<std::net::IpAddr>()?, "").toml();
    let (report, is_well) = examine(&a, &["eth0".into()], &toml)?;
    ensure!(is_well, "generic mode works: {report:#}");
    ensure_said(&report, "warning", "interface eth0", "generic mode", "xdp.mode")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn backends_without_a_way_are_named_with_the_reason() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let lb = &network.lb.netns;
    let backend = |address: &str| -> Result<String> {
        Ok(Service::new("web", vip(), 80).backend(address.parse::<std::net::IpAddr>()?, "").toml())
    };
    for (address, finding, mend) in [
        ("10.2.0.99", "10.2.0.99 does not answer on eth0", "ping -c 1 -I eth0 10.2.0.99"),
        ("10.1.0.2", "behind gateway 10.2.0.1", "forward = \"nat\""),
        ("10.2.0.2", "it is an address of this host", "correct its address"),
    ] {
        let (report, is_well) = examine(lb, &network.lb_interfaces(), &backend(address)?)?;
        ensure!(!is_well);
        ensure_said(&report, "problem", &format!("web backend {address}"), finding, mend)?;
    }
    lb.ip(&["route del default"])?;
    let (report, _) = examine(lb, &network.lb_interfaces(), &backend("10.77.0.1")?)?;
    ensure_said(&report, "problem", "web backend 10.77.0.1", "no route", "ip route add")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn who_answers_for_a_vip_is_named() -> Result<()> {
    let network = Network::dsr(1, &[])?;
    let lb = &network.lb.netns;
    let backend = &network.backends[0];
    // In the segment itself, so that somebody must answer for it.
    let toml = Service::new("web", "10.2.0.80".parse()?, 80).backends(&network.backends, true).toml();
    let (report, is_well) = examine(lb, &network.lb_interfaces(), &toml)?;
    ensure!(!is_well);
    ensure_said(&report, "problem", "vip 10.2.0.80", "nobody answers", "ip addr add 10.2.0.80/32 dev eth0")?;

    backend.netns.sysctl(&[("ipv4/conf/all/arp_ignore", "0")])?;
    backend.netns.ip(&["addr add 10.2.0.80/32 dev lo"])?;
    lb.ip(&["neigh flush all"])?;
    let (report, is_well) = examine(lb, &network.lb_interfaces(), &toml)?;
    ensure!(!is_well);
    ensure_said(&report, "problem", "vip 10.2.0.80", "another machine", "arp_ignore=1")?;

    lb.ip(&["addr add 10.2.0.80/32 dev eth0"])?;
    let (report, _) = examine(lb, &network.lb_interfaces(), &toml)?;
    ensure_said(&report, "ok", "vip 10.2.0.80", "an address of this machine", "")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_nat_needs_of_the_host_is_named() -> Result<()> {
    let network = Network::nat(1)?;
    let lb = &network.lb.netns;
    let toml = nat_service(&network);
    lb.sysctl(&[("ipv4/ip_forward", "0")])?;
    let (report, is_well) = examine(lb, &network.lb_interfaces(), &toml)?;
    ensure!(!is_well);
    ensure_said(&report, "problem", "forwarding", "net.ipv4.ip_forward is 0", "sysctl -w net.ipv4.ip_forward=1")?;

    lb.sysctl(&[("ipv4/ip_forward", "1"), ("ipv4/conf/backend0/rp_filter", "1"), ("ipv4/conf/backend0/accept_local", "1")])?;
    let (report, _) = examine(lb, &network.lb_interfaces(), &toml)?;
    ensure_said(&report, "problem", "forwarding", "rp_filter is 1", "sysctl -w net.ipv4.conf.backend0.rp_filter=2")?;

    let (report, _) = examine(lb, &["client".into()], &toml)?;
    ensure_said(&report, "problem", "web backend 10.2.0.2", "where no program takes them up", "xdp.interfaces")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn files_sockets_and_names_that_cannot_be_used_are_named() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let files = tempfile::tempdir()?;
    let file = |name: &str, content: &str, mode: u32| -> Result<String> {
        let path = files.path().join(name);
        std::fs::write(&path, content)?;
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
        Ok(path.display().to_string())
    };
    let authority = xlb_tests::Authority::new()?;
    let signed = authority.sign("api", "DNS:api.example.org")?;
    let _dns = xlb_tests::Dnsmasq::start(
        &network.lb.netns,
        std::net::Ipv4Addr::LOCALHOST.into(),
        60,
        &[("known.internal", network.backends[0].v4.into())],
    )?;
    let script = file("script", "#!/bin/sh\n", 0o644)?;
    let token = file("token", "0123456789abcdef0123\n", 0o644)?;
    let state = file("state.json", "{", 0o600)?;
    let targets = file("targets.json", "[{\"targets\": [\"10.2.0.10\"]}]", 0o644)?;
    let nowhere = files.path().join("nowhere");
    let service = |name: &str, port: u16, health: &str, rest: &str| {
        format!("[[service]]\nname = {name:?}\nvip = \"10.200.1.1\"\nport = {port}\n[service.health]\n{health}\n{rest}\n")
    };
    let toml = [
        format!("[api]\ntoken_file = {token:?}\nstate_file = {state:?}\nsocket = \"{script}/xlb.sock\"\n"),
        format!("tls_certificate = {:?}\ntls_key = {:?}\n", signed.chain, signed.key),
        service("a", 1, &format!("type = \"script\"\ncommand = [{script:?}]"), &format!("[service.file]\npath = {targets:?}")),
        service("b", 2, "type = \"none\"", &format!("[service.docker]\nsocket = {nowhere:?}\nlabels = [\"x\"]")),
        service("c", 3, "type = \"none\"", "[service.dns]\nname = \"known.internal\"\nresolver = \"127.0.0.1\""),
        service("d", 4, "type = \"none\"", "[service.dns]\nname = \"unknown.internal\"\nresolver = \"127.0.0.1\""),
        service(
            "e",
            5,
            &format!("type = \"https\"\nca_file = {nowhere:?}"),
            &format!("[service.file]\npath = \"{}.json\"\n[[service.backend]]\naddress = \"10.2.0.10\"", nowhere.display()),
        ),
    ]
    .concat();
    let (report, is_well) = examine(&network.lb.netns, &network.lb_interfaces(), &toml)?;
    ensure!(!is_well);
    for (level, subject, finding, mend) in [
        ("warning", "api.socket", "is no directory; nothing can be changed", "ls -ld "),
        ("warning", "api.state_file", "is not to be had", "mv "),
        ("warning", "api.token_file", "others than its owner", "chmod 600"),
        ("ok", "api.tls_key", "is the certificate's", ""),
        // They are made for two days.
        ("warning", "api.tls_certificate", "is valid for 1 more days", "xlb reload"),
        ("problem", "health checks'", "never come up", "chmod +x"),
        ("ok", "a file", "names 1 backends", ""),
        ("problem", "b docker", "no other backends", "docker -H unix://"),
        ("ok", "c dns known.internal", "names 1 backends", ""),
        ("problem", "d dns unknown.internal", "no other backends", "dig @127.0.0.1 -p 53"),
        ("problem", "nowhere", "No such file", "ls -l"),
        ("warning", "e file", "", "ls -l"),
    ] {
        ensure_said(&report, level, subject, finding, mend)?;
    }
    Ok(())
}
