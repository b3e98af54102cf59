//! Health checks along the VIP's own path, where that is a tunnel.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use xlb_tests::{Backend, Daemon, Netns, Network, paths, until};

use super::support::{LIMIT, Service, VIP, VIP_V6, both_vips, n_serving, vip, vip_v6, wait_serving};
use super::tunnels::decap;
use super::via_path::{has_ours, routing, sorted, stop_and_leave, wait_down};

const DEVICE: &str = "xlb-path0";
/// VIP and backend of one family, and of two.
const NAMES: [&str; 4] = ["4in4", "6in6", "4in6", "6in4"];
/// The same backends by their own address.
const OWN: &str = "own";

/// A service at this VIP, checked by its path on port 80.
fn along<'a>(name: &'a str, vip: IpAddr, port: u16, forward: &str) -> Service<'a> {
    let check = "type = \"http\"\npath = \"/health\"\nport = 80\nvia = \"path\"\ninterval = \"200ms\"\nrise = 2\nfall = 5";
    Service::new(name, vip, port).with("forward", forward).health(&format!("{check}\ntimeout = \"200ms\""))
}

fn services(network: &Network, forward: &str) -> String {
    let of = |name, vip, port, is_v4| along(name, vip, port, forward).backends(&network.backends, is_v4).toml();
    let [v4, v6, v4_in_v6, v6_in_v4] = NAMES;
    let own = of(OWN, vip(), 82, true).replace("via = \"path\"\n", "");
    [of(v4, vip(), 80, true), of(v6, vip_v6(), 80, false), of(v4_in_v6, vip(), 81, false), of(v6_in_v4, vip_v6(), 81, true), own]
        .concat()
}

fn has_device(netns: &Netns) -> Result<bool> {
    Ok(netns.run("ip -o link")?.contains(DEVICE))
}

fn a_tunnels_end_and_the_vip_are_asked_for(forward: &str) -> Result<()> {
    let network = Network::tunnels(3, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let lb = &network.lb.netns;
    // The first has all, the second lacks its tunnel's end, the third the VIPs.
    let [first, second, third] = [0, 1, 2].map(|nth| &network.backends[nth]);
    let mut end = decap(first)?;
    let _other = decap(third)?;
    third.netns.ip(&[format!("addr del {VIP}/32 dev lo"), format!("addr del {VIP_V6}/128 dev lo")])?;
    let before = routing(lb)?;
    let daemon = Daemon::new(lb, &network.lb_interfaces()).services(services(&network, forward)).start()?;
    wait_serving(&daemon, OWN, 3)?;
    for name in NAMES {
        wait_serving(&daemon, name, 1)?;
        for nth in [1, 2] {
            println!("{name}: {}", wait_down(&daemon, name, nth)?);
        }
        ensure!(n_serving(&daemon, name)? == 1, "{name}:\n{}", daemon.log());
    }
    ensure!(has_ours(&routing(lb)?) && has_device(lb)?, "{}", routing(lb)?);

    let _late = decap(second)?;
    third.netns.ip(&[format!("addr add {VIP}/32 dev lo"), format!("addr add {VIP_V6}/128 dev lo nodad")])?;
    for name in NAMES {
        wait_serving(&daemon, name, 3)?;
    }
    end.kill();
    first.netns.run("ip link set eth0 xdp off")?;
    for name in NAMES {
        wait_down(&daemon, name, 0)?;
    }
    ensure!(n_serving(&daemon, OWN)? == 3, "{}", daemon.log());
    stop_and_leave(daemon, lb, &before)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn by_ipip_a_backend_without_its_tunnels_end_or_the_vip_is_down() -> Result<()> {
    a_tunnels_end_and_the_vip_are_asked_for("ipip")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn by_gue_a_backend_without_its_tunnels_end_or_the_vip_is_down() -> Result<()> {
    a_tunnels_end_and_the_vip_are_asked_for("gue")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn one_backend_is_asked_by_every_way_that_leads_to_it() -> Result<()> {
    let network = Network::tunnels(1, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let _end = decap(&network.backends[0])?;
    let of = |name, port, forward: &str, more: &str| {
        let service = along(name, vip(), port, forward).backends(&network.backends, true).toml();
        service.replace("[service.health]", &format!("{more}\n[service.health]"))
    };
    let port_of_nobody = "gue_port = 5555";
    let all =
        [of("dsr", 80, "dsr", ""), of("ipip", 81, "ipip", ""), of("gue", 82, "gue", ""), of("none", 83, "gue", port_of_nobody)];
    let lb = &network.lb.netns;
    let mut daemon = Daemon::new(lb, &network.lb_interfaces()).services(all.concat()).start()?;
    for name in ["dsr", "ipip", "gue"] {
        wait_serving(&daemon, name, 1)?;
    }
    wait_down(&daemon, "none", 0)?;
    ensure!(lb.run("ip -4 rule")?.matches("fwmark").count() == 4, "{}", routing(lb)?);

    // What nobody needs any more goes: the seats' neighbours, and the device with the last that needs it.
    daemon.reload(all[..2].concat())?;
    let neighbours = || -> Result<usize> { Ok(lb.run(&format!("ip neigh show nud permanent dev {DEVICE}"))?.lines().count()) };
    until(LIMIT, "one neighbour to be left", || Ok((neighbours()? == 1).then_some(())))
        .with_context(|| lb.run("ip neigh show nud all").unwrap_or_default())?;
    daemon.reload(all[0].clone())?;
    until(LIMIT, "the device to be gone", || Ok((!has_device(lb)?).then_some(())))?;
    wait_serving(&daemon, "dsr", 1)?;
    daemon.reload(all.concat())?;
    for name in ["dsr", "ipip", "gue"] {
        wait_serving(&daemon, name, 1)?;
    }
    // The backend answers the address that it is reached from, whichever that is now.
    lb.ip(&["addr add 10.2.0.3/24 dev eth0", "route change 10.2.0.0/24 dev eth0 proto kernel scope link src 10.2.0.3"])?;
    until(LIMIT, "all ways to be from the other address", || {
        Ok((routing(lb)?.matches("src 10.2.0.3 onlink").count() == 3).then_some(()))
    })
    .with_context(|| routing(lb).unwrap_or_default())?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_was_taken_away_comes_back_and_a_killed_daemons_is_removed() -> Result<()> {
    let network = Network::tunnels(2, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let _ends = network.backends.iter().map(decap).collect::<Result<Vec<_>>>()?;
    let lb = &network.lb.netns;
    let before = routing(lb)?;
    let mut daemon = Daemon::new(lb, &network.lb_interfaces()).services(services(&network, "ipip")).start()?;
    for name in NAMES {
        wait_serving(&daemon, name, 2)?;
    }
    let all = || -> Result<String> {
        let neighbours = lb.run(&format!("ip neigh show nud permanent dev {DEVICE}")).unwrap_or_default();
        let link = lb.run(&format!("ip -o link show {DEVICE} up")).unwrap_or_default();
        let is_up = link.contains("NOARP") && link.contains("mtu 1280") && !link.contains("MULTICAST");
        Ok(format!("{}{neighbours}{is_up}\n", routing(lb)?))
    };
    let whole = all()?;
    let gone = |lines: &[&str]| -> Result<()> {
        for line in lines {
            lb.run(line)?;
        }
        until(LIMIT, &format!("all to be back after {lines:?}"), || Ok((sorted(&all()?) == sorted(&whole)).then_some(())))
            .with_context(|| format!("before:\n{whole}\nafter:\n{}", all().unwrap_or_default()))
    };
    gone(&[&format!("ip link del {DEVICE}")])?;
    gone(&[&format!("ip link set {DEVICE} down")])?;
    gone(&[&format!("ip neigh del 240.0.0.1 dev {DEVICE}"), "ip -4 rule del priority 120", "ip -6 rule del priority 120"])?;
    gone(&[&format!("ip -4 route flush table {}", 0x786c_0000u32)])?;
    for name in NAMES {
        ensure!(n_serving(&daemon, name)? == 2, "{name}:\n{}", daemon.log());
    }
    ensure!(!daemon.log().contains("backend is down"), "{}", daemon.log());

    daemon.kill();
    until(LIMIT, "the device to be gone with its daemon", || Ok((!has_device(lb)?).then_some(())))?;
    ensure!(has_ours(&routing(lb)?), "a killed daemon cannot remove anything else");
    let daemon = daemon.builder().start()?;
    for name in NAMES {
        wait_serving(&daemon, name, 2)?;
    }
    stop_and_leave(daemon, lb, &before)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn two_daemons_have_a_device_each_and_without_tun_no_verdict_is_passed() -> Result<()> {
    let network = Network::tunnels(1, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let _end = decap(&network.backends[0])?;
    let lb = &network.lb.netns;
    let daemon = Daemon::new(lb, &network.lb_interfaces()).services(services(&network, "gue")).start()?;
    wait_serving(&daemon, NAMES[0], 1)?;
    let tables = "[steering]\ntables = 8192\n";
    let second = || Daemon::new(lb, &["lo"]).mode("generic").api("127.0.0.1:9401").services(services(&network, "ipip") + tables);
    let other = second().start()?;
    for name in NAMES {
        wait_serving(&other, name, 1)?;
        wait_serving(&daemon, name, 1)?;
    }
    ensure!(lb.run("ip -o link")?.contains("xlb-path1"));
    other.stop()?;

    let without_tun = ["unshare", "--mount", "sh", "-c", "mount -t tmpfs none /dev/net && exec \"$0\" \"$@\""];
    let other = second().started_by(&without_tun).start_unready()?;
    until(LIMIT, "the daemon to say so", || Ok(other.log().contains("`modprobe tun`").then_some(())))
        .with_context(|| other.log())?;
    ensure!(n_serving(&other, NAMES[0])? == 0 && !other.log().contains("backend is down"), "{}", other.log());
    wait_serving(&other, OWN, 1)?;
    let mut doctor = lb.command(without_tun[0]);
    let report = doctor.args(&without_tun[1..]).arg(paths::xlb()?).args(["doctor", "--config"]).arg(other.config()).output()?;
    let report = String::from_utf8(report.stdout)?;
    ensure!(report.contains("problem  probes into tunnels: ") && report.contains("-> modprobe tun"), "{report}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn where_nothing_of_the_vips_family_could_be_answered_no_verdict_is_passed() -> Result<()> {
    let network = Network::tunnels(1, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let _end = decap(&network.backends[0])?;
    let lb = &network.lb.netns;
    lb.ip(&["addr del 10.2.0.2/24 dev eth0"])?;
    let four_in_six = along("web", vip(), 80, "ipip").backends(&network.backends, false).toml();
    let daemon = Daemon::new(lb, &network.lb_interfaces()).services(four_in_six).start_unready()?;
    until(LIMIT, "the daemon to say so", || Ok(daemon.log().contains("has no address of its family").then_some(())))
        .with_context(|| daemon.log())?;
    lb.ip(&["addr add 10.2.0.2/24 dev eth0"])?;
    wait_serving(&daemon, "web", 1)?;
    ensure!(!daemon.log().contains("backend is down"), "{}", daemon.log());
    daemon.stop()
}
