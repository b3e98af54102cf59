//! Many services and backends: how long a start, a change and a takeover take, and what it costs to have them. `--nocapture` shows
//! the figures; docs/scale.md has some.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use xlb_tests::{Backend, Daemon, Network, until};

use super::support::{Service, vip};

const N_BACKENDS: usize = 20;
/// Addresses that the backends have, some of each service's.
const N_ADDRESSES: usize = 120;
/// For a machine with other things to do.
const LIMIT: Duration = Duration::from_secs(120);

/// What was measured.
struct Figures {
    start_s: f64,
    resident_mib: f64,
    /// From the verdict of a health check to the last write, on average.
    change_ms: f64,
    /// The same where the service has priorities and a slow start.
    ruled_ms: f64,
    takeover_s: f64,
    idle_percent: f64,
}

/// Services that nobody checks, beside `web`, which is checked, and has these keys of its own and of its second backend.
fn services(network: &Network, n_services: usize, keys: &str, keys_of_second: &str) -> String {
    let web = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let mut toml = web.replacen("port = 80\n", &format!("port = 80\n{keys}"), 1);
    toml.push_str(keys_of_second);
    for n in 1..n_services {
        let (port, host) = (1000 + n, n % 50);
        let _ = write!(toml, "[[service]]\nname = \"s{n}\"\nvip = \"10.200.2.{host}\"\nport = {port}\nhealth.type = \"none\"\n");
        for i in 0..N_BACKENDS {
            let _ = write!(toml, "[[service.backend]]\naddress = \"10.2.0.{}\"\n", 100 + (n * 7 + i) % N_ADDRESSES);
        }
    }
    toml
}

/// Processor time that a process has used (proc(5), fields 14 and 15).
fn used(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields = stat.rsplit(") ").next().context("no fields")?.split(' ').skip(11).take(2);
    Ok(Duration::from_millis(fields.map(|field| field.parse::<u64>().unwrap_or_default() * 10).sum()))
}

fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<f64>()? / 1024.0)
}

/// Starts a daemon, and yields how long it took to be ready.
fn start(builder: xlb_tests::daemon::Builder) -> Result<(Daemon, f64)> {
    let begun = Instant::now();
    let daemon = builder.start_unready()?;
    until(LIMIT, "xlb to be ready", || Ok((daemon.get("/health/ready")?.status == 200).then_some(())))
        .with_context(|| daemon.log())?;
    Ok((daemon, begun.elapsed().as_secs_f64()))
}

/// Has a backend of `web` fail and come back five times. From a verdict to the last write, in milliseconds, on average.
fn change(daemon: &Daemon, backend: &Backend) -> Result<f64> {
    let metric = |name: &str| until(LIMIT, name, || daemon.metric(name).map(Some));
    let count = || Ok::<_, anyhow::Error>((metric("xlb_map_change_seconds_total")?, metric("xlb_map_changes_total")?));
    let turns = ["backend is down service=web", "backend is up service=web"];
    // By the log: a status of so many backends is long, and would be measured too.
    let told = |turn: &str| daemon.log().matches(turn).count();
    let before = count()?;
    for _ in 0..5 {
        for turn in turns {
            let n_told = told(turn);
            backend.toggle_health()?;
            until(LIMIT, turn, || Ok((told(turn) > n_told).then_some(())))?;
        }
    }
    let after = count()?;
    let n_changes = after.1 - before.1;
    ensure!(n_changes >= 10.0, "{n_changes} changes");
    Ok((after.0 - before.0) / n_changes * 1e3)
}

fn measure(network: &Network, backends: &[Backend], n_services: usize) -> Result<Figures> {
    let builder = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services(network, n_services, "", ""));
    let (mut daemon, start_s) = start(builder)?;
    let change_ms = change(&daemon, &backends[1])?;
    daemon.reload(services(network, n_services, "slow_start = \"2s\"\n", "priority = 1\n"))?;
    until(LIMIT, "the reload", || Ok(daemon.log().contains("reloaded config=").then_some(())))?;
    // Its second backend does not serve while the first does.
    let ruled_ms = change(&daemon, &backends[0])?;
    let (before, begun) = (used(daemon.id())?, Instant::now());
    // This time is what is measured.
    std::thread::sleep(Duration::from_secs(5));
    let idle_percent = (used(daemon.id())? - before).as_secs_f64() / begun.elapsed().as_secs_f64() * 100.0;
    let resident_mib = resident_mib(daemon.id())?;
    daemon.kill();
    let (daemon, takeover_s) = start(daemon.builder())?;
    daemon.stop()?;
    Ok(Figures { start_s, resident_mib, change_ms, ruled_ms, takeover_s, idle_percent })
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_thousand_services_cost_what_ten_times_a_hundred_do() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let backends = Backend::start_all(&network, 80, &[vip()])?;
    let more: Vec<String> = (0..N_ADDRESSES).map(|i| format!("addr add 10.2.0.{}/32 dev eth0", 100 + i)).collect();
    network.backends[0].netns.ip(&more)?;
    let [few, many] = [measure(&network, &backends, 100)?, measure(&network, &backends, 1000)?];
    println!("services  start s  takeover s  a change ms  by rules ms  resident MiB  idle %");
    for (n_services, figures) in [(100, &few), (1000, &many)] {
        let Figures { start_s, takeover_s, change_ms, ruled_ms, resident_mib, idle_percent } = figures;
        println!(
            "{n_services:8}  {start_s:7.1}  {takeover_s:10.1}  {change_ms:11.1}  {ruled_ms:11.1}  {resident_mib:12.0}  {idle_percent:6.1}"
        );
    }
    // What grew with the square would be a hundred times as much. A busy machine is given some.
    for (what, few, many) in [
        ("the start", few.start_s, many.start_s),
        // Who asks how 20,000 backends are keeps the loop for as long as that takes.
        ("a change", few.change_ms.max(3.0), many.change_ms),
        ("a change by rules", few.ruled_ms.max(3.0), many.ruled_ms),
        ("a takeover", few.takeover_s, many.takeover_s),
    ] {
        ensure!(many < few * 30.0, "{what}: {few} and {many}");
    }
    ensure!(many.resident_mib < 1024.0 && many.idle_percent < 50.0, "{} MiB, {} %", many.resident_mib, many.idle_percent);
    Ok(())
}

/// Connections that a network namespace has begun (RFC 4022, tcpActiveOpens).
fn active_opens(network: &Network) -> Result<u64> {
    let text = network.lb.netns.run("cat /proc/net/snmp")?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let found = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "ActiveOpens").context("no ActiveOpens")?;
    Ok(found.1.parse()?)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn ten_thousand_checks_a_second_leave_time_for_all_else() -> Result<()> {
    const N_SERVICES: usize = 5;
    const N_CHECKED: usize = 100;
    let network = Network::dsr(1, &[vip()])?;
    let more: Vec<String> = (0..N_CHECKED).map(|i| format!("addr add 10.2.0.{}/32 dev eth0", 100 + i)).collect();
    network.backends[0].netns.ip(&more)?;
    let listen = std::net::SocketAddr::from(([0, 0, 0, 0], 80));
    let _nginx = xlb_tests::Nginx::start(&network.backends[0].netns, "all", &[listen])?;
    let mut toml = String::new();
    for n in 0..N_SERVICES {
        let _ = write!(
            toml,
            "[[service]]\nname = \"s{n}\"\nvip = \"{}\"\nport = 80\nhealth = {{ type = \"tcp\", interval = \"50ms\" }}\n",
            std::net::Ipv4Addr::new(10, 200, 2, n as u8)
        );
        for i in 0..N_CHECKED {
            let _ = write!(toml, "[[service.backend]]\naddress = \"10.2.0.{}\"\n", 100 + i);
        }
    }
    let (daemon, _) = start(Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(toml))?;
    let (opened, used_before, begun) = (active_opens(&network)?, used(daemon.id())?, Instant::now());
    // This time is what is measured.
    std::thread::sleep(Duration::from_secs(5));
    let (opened, took) = (active_opens(&network)? - opened, begun.elapsed().as_secs_f64());
    let cores = (used(daemon.id())? - used_before).as_secs_f64() / took;
    let rate = opened as f64 / took;
    println!("{rate:.0} checks a second take {:.0} % of a core, {:.1} us each", cores * 100.0, cores / rate * 1e6);
    ensure!(rate > 2_000.0, "{rate} checks a second");
    let answer = daemon.get("/health/ready")?;
    ensure!(answer.status == 200, "{answer:?}");
    daemon.stop()
}
