//! Health checks along the VIP's own path: who lacks the VIP is found, and nothing is left on the machine.

use anyhow::{Context, Result, ensure};
use xlb_tests::{Backend, Daemon, Netns, Network, until};

use super::support::{LIMIT, Service, VIP, VIP_V6, both_vips, n_serving, service, vip, vip_v6, wait_serving};

/// What each family's services are called: one whose checks go along the path, and one whose do not.
const NAMES: [[&str; 2]; 2] = [["web", "own"], ["web6", "own6"]];

fn services(network: &Network) -> String {
    let service = |name, address, port, more: &str| {
        let text = Service::new(name, address, port).backends(&network.backends, address.is_ipv4()).toml();
        text.replace("path = \"/health\"", &format!("path = \"/health\"\nport = 80\n{more}"))
    };
    let along = "via = \"path\"";
    let of =
        |[along_path, own]: [&'static str; 2], address| service(along_path, address, 80, along) + &service(own, address, 81, "");
    of(NAMES[0], vip()) + &of(NAMES[1], vip_v6())
}

/// All rules, all routes of all tables, and all devices.
pub fn routing(netns: &Netns) -> Result<String> {
    let mut lines = String::new();
    for line in ["ip -4 rule", "ip -6 rule", "ip -4 route show table all", "ip -6 route show table all"] {
        lines += &netns.run(line)?;
    }
    for link in netns.run("ip -br link")?.lines().filter_map(|line| line.split_whitespace().next()) {
        lines += &format!("device {link}\n");
    }
    // Counts of seconds, and what the kernel learns of neighbours.
    Ok(lines
        .lines()
        .filter(|line| !line.contains("expires") && !line.contains("cache"))
        .map(|line| format!("{line}\n"))
        .collect())
}

pub fn has_ours(routing: &str) -> bool {
    routing.contains("fwmark 0x786c") && routing.contains("proto 120")
}

/// Ends the daemon, after which everything is as it was before.
pub fn stop_and_leave(daemon: Daemon, netns: &Netns, before: &str) -> Result<()> {
    daemon.stop()?;
    let after = routing(netns)?;
    ensure!(after == before, "before:\n{before}\nafter:\n{after}");
    Ok(())
}

pub fn wait_down(daemon: &Daemon, name: &str, nth: usize) -> Result<String> {
    until(LIMIT, &format!("backend {nth} of {name} to be down"), || {
        let backend = service(&daemon.status()?, name)?["backends"][nth].clone();
        Ok((backend["state"] == "down").then(|| backend["check"].as_str().unwrap_or_default().to_owned()))
    })
    .with_context(|| daemon.log())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_backend_without_the_vip_is_down_by_the_path_and_up_by_its_own_address() -> Result<()> {
    let network = Network::dsr(3, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let lb = &network.lb.netns;
    let before = routing(lb)?;
    let daemon = Daemon::new(lb, &network.lb_interfaces()).services(services(&network)).start()?;
    for name in NAMES.concat() {
        wait_serving(&daemon, name, 3)?;
    }
    ensure!(has_ours(&routing(lb)?), "{}", routing(lb)?);

    // It passes on what is not for it: by the router to the balancer, which would find somebody who answers.
    let faulty = &network.backends[1].netns;
    faulty.sysctl(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
    faulty.ip(&[format!("addr del {VIP}/32 dev lo"), format!("addr del {VIP_V6}/128 dev lo")])?;
    for [along, own] in NAMES {
        let found = wait_down(&daemon, along, 1)?;
        println!("{along}: {found}");
        ensure!(n_serving(&daemon, along)? == 2 && n_serving(&daemon, own)? == 3, "{}", daemon.log());
    }
    faulty.ip(&[format!("addr add {VIP}/32 dev lo"), format!("addr add {VIP_V6}/128 dev lo nodad")])?;
    for name in NAMES.concat() {
        wait_serving(&daemon, name, 3)?;
    }
    stop_and_leave(daemon, lb, &before)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn lost_rules_and_routes_come_back_and_a_killed_daemons_are_removed() -> Result<()> {
    let network = Network::dsr(2, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let lb = &network.lb.netns;
    let before = routing(lb)?;
    let mut daemon = Daemon::new(lb, &network.lb_interfaces()).services(services(&network)).start()?;
    for name in NAMES.concat() {
        wait_serving(&daemon, name, 2)?;
    }
    let whole = routing(lb)?;
    let first_table = 0x786c_0000u32;
    lb.run("ip -4 rule del priority 120")?;
    lb.run("ip -6 rule del priority 120")?;
    lb.run(&format!("ip -4 route flush table {first_table}"))?;
    until(LIMIT, "rules and routes to be back", || Ok((sorted(&routing(lb)?) == sorted(&whole)).then_some(())))
        .with_context(|| routing(lb).unwrap_or_default())?;
    ensure!(n_serving(&daemon, "web")? == 2 && !daemon.log().contains("backend is down"), "{}", daemon.log());

    // A backend that leaves takes its own with it.
    let fewer = services(&network).replace(&format!("[[service.backend]]\naddress = \"{}\"\n", network.backends[1].v4), "");
    daemon.reload(fewer)?;
    let one_rule = || Ok((lb.run("ip -4 rule")?.matches("fwmark").count() == 1).then_some(()));
    until(LIMIT, "its rule to be gone", one_rule).with_context(|| routing(lb).unwrap_or_default())?;

    daemon.kill();
    ensure!(has_ours(&routing(lb)?), "a killed daemon cannot remove anything");
    let daemon = daemon.builder().services(services(&network).replace("via = \"path\"", "")).start()?;
    until(LIMIT, "what the killed daemon left to be gone", || Ok((routing(lb)? == before).then_some(())))
        .with_context(|| routing(lb).unwrap_or_default())?;
    wait_serving(&daemon, "web", 2)?;
    daemon.stop()
}

pub fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn where_the_balancer_has_the_vip_itself_or_the_tables_are_anothers_no_verdict_is_passed() -> Result<()> {
    let network = Network::dsr(1, &both_vips())?;
    let _backends = Backend::start_all(&network, 80, &both_vips())?;
    let lb = &network.lb.netns;
    lb.ip(&[format!("addr add {VIP}/32 dev lo")])?;
    let daemon = Daemon::new(lb, &network.lb_interfaces()).services(services(&network)).start_unready()?;
    until(LIMIT, "the daemon to say so", || Ok(daemon.log().contains("is an address of this machine").then_some(())))
        .with_context(|| daemon.log())?;
    lb.ip(&[format!("addr del {VIP}/32 dev lo")])?;
    wait_serving(&daemon, "web", 1)?;

    // A second one, which would have the same numbers for other backends.
    let second = Daemon::new(lb, &["lo"]).mode("generic").api("127.0.0.1:9401").services(services(&network)).start_unready()?;
    until(LIMIT, "the second to say so", || Ok(second.log().contains("set another `steering.tables`").then_some(())))
        .with_context(|| second.log())?;
    drop(second);
    let tables = "[steering]\ntables = 8192\n";
    let second = Daemon::new(lb, &["lo"]).mode("generic").api("127.0.0.1:9401").services(services(&network) + tables).start()?;
    wait_serving(&second, "web", 1)?;
    second.stop()?;
    ensure!(!routing(lb)?.contains("fwmark 0x2000") && has_ours(&routing(lb)?), "{}", routing(lb)?);
    daemon.stop()
}
