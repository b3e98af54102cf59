//! The daemon as systemd runs it: what it tells, what it may, and what it gives up.

use std::collections::BTreeSet;
use std::os::unix::net::UnixDatagram;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use xlb_tests::{Backend, Daemon, Network, http, until};

use super::support::{LIMIT, VIP, vip, web};
use super::unit;

/// Bits of `CapEff` (linux/capability.h).
const CAPABILITIES: [(&str, u32); 4] = [("CAP_NET_ADMIN", 12), ("CAP_NET_RAW", 13), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];

/// systemd's side of the notification socket.
struct Manager {
    socket: UnixDatagram,
    directory: tempfile::TempDir,
}

impl Manager {
    fn new() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let socket = UnixDatagram::bind(directory.path().join("notify"))?;
        socket.set_read_timeout(Some(LIMIT))?;
        Ok(Self { socket, directory })
    }

    fn address(&self) -> String {
        self.directory.path().join("notify").display().to_string()
    }

    fn hear(&self) -> Result<String> {
        let mut message = [0; 4096];
        let n = self.socket.recv(&mut message).context("the daemon says nothing")?;
        Ok(String::from_utf8(message[..n].to_vec())?)
    }

    /// The next that is no sign of life.
    fn hear_news(&self) -> Result<String> {
        loop {
            let message = self.hear()?;
            if message.trim_end() != "WATCHDOG=1" {
                return Ok(message);
            }
        }
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn systemd_hears_of_the_start_of_reloads_of_the_end_and_that_the_loop_goes_round() -> Result<()> {
    let network = Network::dsr(1, &[vip()?])?;
    let _backends = Backend::start_all(&network, 80, &[vip()?])?;
    let manager = Manager::new()?;
    let mut daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(web(&network))
        .environment("NOTIFY_SOCKET", &manager.address())
        .environment("WATCHDOG_USEC", "300000")
        .start()?;
    let ready = manager.hear()?;
    ensure!(ready.contains("READY=1") && ready.contains("STATUS=1 service on eth0"), "{ready}");
    for _ in 0..5 {
        let alive = manager.hear()?;
        ensure!(alive.trim_end() == "WATCHDOG=1", "{alive}");
    }
    for (services, expected) in [
        (
            format!("{}\n[[service]]\nname = 1\n", web(&network)),
            "STATUS=the last reload was refused, the log says why; 1 service on eth0",
        ),
        (web(&network), "STATUS=1 service on eth0"),
    ] {
        daemon.reload(services)?;
        let reloading = manager.hear_news()?;
        ensure!(reloading.contains("RELOADING=1"), "{reloading}");
        let time: u64 = reloading.lines().find_map(|line| line.strip_prefix("MONOTONIC_USEC=")).context("a time")?.parse()?;
        ensure!(time > 0);
        let done = manager.hear_news()?;
        ensure!(done.contains("READY=1") && done.contains(expected), "{done}");
    }
    daemon.stop()?;
    let stopping = manager.hear_news()?;
    ensure!(stopping.trim_end() == "STOPPING=1", "{stopping}");
    Ok(())
}

/// The effective and permitted capabilities of each thread, as bits.
fn capabilities_of(process: u32) -> Result<BTreeSet<u64>> {
    let mut found = BTreeSet::new();
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end meanwhile.
        let Ok(status) = std::fs::read_to_string(thread?.path().join("status")) else { continue };
        for line in status.lines().filter(|line| line.starts_with("CapEff:") || line.starts_with("CapPrm:")) {
            found.insert(u64::from_str_radix(line.split_whitespace().nth(1).context("a set")?, 16)?);
        }
    }
    Ok(found)
}

/// Those that the main thread has in effect.
fn capabilities_of_main(process: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status"))?;
    let in_effect = status.lines().find_map(|line| line.strip_prefix("CapEff:")).context("a set")?;
    Ok(u64::from_str_radix(in_effect.trim(), 16)?)
}

fn bits(names: &[&str]) -> u64 {
    CAPABILITIES.iter().filter(|(name, _)| names.contains(name)).map(|(_, bit)| 1 << bit).sum()
}

/// Starts a program with these capabilities and no way to others.
fn with_only(names: &[&str]) -> Vec<String> {
    let added = names.iter().map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()));
    let set = format!("--bounding-set=-all{}", added.collect::<String>());
    ["setpriv".into(), set, "--inh-caps=-all".into(), "--no-new-privs".into()].into()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_the_unit_grants_is_enough_and_less_is_refused_by_name() -> Result<()> {
    let network = Network::dsr(1, &[vip()?])?;
    let _backends = Backend::start_all(&network, 80, &[vip()?])?;
    let granted = unit::value("CapabilityBoundingSet")?;
    let granted: Vec<&str> = granted.split(' ').collect();
    // Nobody may ping but by a raw socket.
    network.lb.netns.sysctl(&[("ipv4/ping_group_range", "1 0")])?;
    let icmp = web(&network).replace("type = \"http\"", "type = \"icmp\"");
    let start = |names: &[&str]| {
        let wrapper = with_only(names);
        let wrapper: Vec<&str> = wrapper.iter().map(String::as_str).collect();
        Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(icmp.clone()).started_by(&wrapper)
    };
    let daemon = start(&granted).start()?;
    ensure!(http::names(&network.client.netns, &format!("http://{VIP}/"), 20)?.len() == 20);
    daemon.stop()?;
    for needed in ["CAP_BPF", "CAP_NET_ADMIN", "CAP_PERFMON"] {
        let rest: Vec<&str> = granted.iter().copied().filter(|name| *name != needed).collect();
        let mut daemon = start(&rest).start_unready()?;
        let status = daemon.process().wait(LIMIT)?;
        let log = daemon.log();
        ensure!(!status.success() && log.contains(&format!("rights are missing: {needed} (")), "without {needed}:\n{log}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn once_it_runs_every_thread_has_given_up_the_rest_and_another_interface_can_still_come() -> Result<()> {
    let network = Network::nat(1)?;
    let _backends = Backend::start_all(&network, 80, &[])?;
    let backend = network.backends[0].v4;
    let services = format!(
        "[[service]]\nname = \"web\"\nvip = \"{VIP}\"\nport = 80\nforward = \"nat\"\n[service.health]\ninterval = \"100ms\"\n\
         timeout = \"100ms\"\n[[service.backend]]\naddress = \"{backend}\"\n"
    );
    let mut daemon = Daemon::new(&network.lb.netns, &["client"]).services(services).log_filter("debug").start()?;
    ensure!(daemon.log().contains("kept=\"CAP_NET_ADMIN CAP_NET_RAW CAP_BPF\""), "{}", daemon.log());
    // All threads have these in effect; the main thread has another one laid by.
    let kept = BTreeSet::from(
        [&["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"][..], &["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF", "CAP_PERFMON"]].map(bits),
    );
    let found = capabilities_of(daemon.id())?;
    ensure!(found == kept, "{found:x?} instead of {kept:x?}");
    let config = std::fs::read_to_string(daemon.config())?;
    let both = config.replace("interfaces = [\"client\"]", "interfaces = [\"client\", \"backend0\"]");
    ensure!(config != both);
    // It takes another program too.
    let both = both + "[service.admission]\ndeny = [\"198.51.100.0/24\"]\n";
    std::fs::write(daemon.config(), both)?;
    daemon.process().signal(Signal::SIGHUP)?;
    until(LIMIT, "an answer by way of the new interface", || {
        Ok(http::get(&network.client.netns, &format!("http://{VIP}/")).ok().filter(|answer| answer.status == 200))
    })
    .with_context(|| daemon.log())?;
    ensure!(daemon.log().matches("the program is verified").count() == 2, "{}", daemon.log());
    let found = capabilities_of(daemon.id())?;
    ensure!(found == kept, "{found:x?} instead of {kept:x?} after the reload");
    let in_effect = capabilities_of_main(daemon.id())?;
    ensure!(in_effect == bits(&["CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_BPF"]), "{in_effect:x?}");
    daemon.stop()
}
