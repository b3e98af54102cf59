//! The wall clock jumps, for the daemon alone: libfaketime stands between it and the kernel, and leaves the monotonic clock as it is.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Backend, Connections, Daemon, Dnsmasq, Network, until};

use super::support::{LIMIT, Service, both_vips, n_serving, service, vip, vip_v6, wait_serving};

const NAME: &str = "api.internal";
const YEAR_S: i64 = 365 * 86_400;
/// Long enough to jump within it, both ways.
const DEADLINE: Duration = Duration::from_secs(6);

/// Where Debian's libfaketime has the library, for whatever processor.
fn library() -> Result<PathBuf> {
    let directories = std::fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
    let found = directories.into_iter().find(|path| path.is_file());
    found.context("no libfaketime: install Debian's package faketime, or run cargo xtask setup")
}

/// The daemon's wall clock.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn at(directory: &Path) -> Result<Self> {
        let clock = Self { file: directory.join("clock") };
        clock.jump(0)?;
        Ok(clock)
    }

    /// So many seconds before or after everybody else's.
    fn jump(&self, offset_s: i64) -> Result<()> {
        // Never empty in between.
        let new = self.file.with_extension("new");
        std::fs::write(&new, format!("{offset_s:+}\n"))?;
        Ok(std::fs::rename(new, &self.file)?)
    }

    fn environment(&self, builder: xlb_tests::daemon::Builder) -> Result<xlb_tests::daemon::Builder> {
        let (library, file) = (library()?.display().to_string(), self.file.display().to_string());
        let variables = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", &file),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("FAKETIME_DISABLE_SHM", "1"),
            ("NO_FAKE_STAT", "1"),
        ];
        Ok(variables.iter().fold(builder, |builder, (key, value)| builder.environment(key, value)))
    }
}

fn dns(server: &Dnsmasq) -> String {
    format!("name = \"{NAME}\"\nport = 80\nresolver = \"{}\"\ninterval = \"1s\"\n", server.address())
}

/// The next daemon, after one that was killed.
fn again(mut daemon: Daemon) -> Result<Daemon> {
    daemon.kill();
    daemon.builder().start()
}

/// How far a daemon's clock is from ours, by the time that it notes of a change.
fn offset_s(daemon: &Daemon, weight: u16, backend: &str) -> Result<i64> {
    daemon.xlb(&["weight", "web", backend, &weight.to_string()])?;
    let set = service(&daemon.status()?, "web")?["backends"][2]["set"]["weight"].clone();
    ensure!(set["value"] == weight, "{set}");
    let at_s = set["at_ms"].as_u64().context("no time")? / 1000;
    let now_s = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    Ok(i64::try_from(at_s)? - i64::try_from(now_s)?)
}

fn wait_state(daemon: &Daemon, name: &str, nth: usize, state: &str) -> Result<Duration> {
    let start = Instant::now();
    until(LIMIT, &format!("backend {nth} of {name} to be {state}"), || {
        Ok((service(&daemon.status()?, name)?["backends"][nth]["state"] == state).then_some(()))
    })
    .with_context(|| daemon.log())?;
    Ok(start.elapsed())
}

fn admin(daemon: &Daemon, nth: usize) -> Result<Value> {
    Ok(service(&daemon.status()?, "web")?["backends"][nth]["set"]["admin"]["value"].clone())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn jumps_disturb_neither_checks_nor_dns_nor_deadlines_nor_what_was_set() -> Result<()> {
    let network = Network::dsr(3, &both_vips())?;
    let backends = Backend::start_all(&network, 80, &both_vips())?;
    let of = |n: usize| -> Vec<(&str, IpAddr)> { network.backends[..n].iter().map(|host| (NAME, host.v6.into())).collect() };
    let mut server = Dnsmasq::start(&network.client.netns, network.client.v4.into(), 1, &of(1))?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml()
        + &Service::new("api", vip_v6(), 80).dns(&dns(&server)).toml();
    let files = tempfile::tempdir()?;
    let clock = Clock::at(files.path())?;
    let builder = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services);
    let mut daemon = clock.environment(builder)?.start()?;
    wait_serving(&daemon, "web", 3)?;
    wait_serving(&daemon, "api", 1)?;
    let hosts: Vec<String> = network.backends.iter().map(|host| host.v4.to_string()).collect();
    let connections =
        Connections::open(&network.client.netns, (vip(), 80).into(), 50, Duration::from_millis(10), Duration::from_secs(5))?;
    ensure!(offset_s(&daemon, 2, &hosts[2])?.abs() < 60);

    let drained = Instant::now();
    daemon.xlb(&["drain", "web", &hosts[1], "--deadline", "6s"])?;
    for (round, years) in [3, -3, 1, 0].into_iter().enumerate() {
        clock.jump(years * YEAR_S)?;
        // Or nothing here would show anything.
        let jumped = offset_s(&daemon, 3 + round as u16, &hosts[2])? - years * YEAR_S;
        ensure!(jumped.abs() < 60, "the daemon's clock is {jumped} s from where it was set");
        ensure!(admin(&daemon, 1)? != "disable" || drained.elapsed() >= DEADLINE, "ended by a jump\n{}", daemon.log());
        // Checks go on as often as ever: a failure, and the end of it, are found at once.
        backends[0].toggle_health()?;
        let down = wait_state(&daemon, "web", 0, "down")?;
        backends[0].toggle_health()?;
        let up = wait_state(&daemon, "web", 0, "up")?;
        println!("{years:+} years: down after {down:?}, up after {up:?}");
        // DNS is asked again within its second.
        server.set(&of(1 + (round + 1) % 2))?;
        wait_serving(&daemon, "api", 1 + (round + 1) % 2)?;
    }
    until(LIMIT, "the drain's deadline", || Ok((admin(&daemon, 1)? == "disable").then_some(()))).with_context(|| daemon.log())?;
    let took = drained.elapsed();
    println!("the drain of 6 s ended after {took:?}");
    ensure!(took >= DEADLINE, "after {took:?}\n{}", daemon.log());
    ensure!(daemon.log().matches("backend is down").count() >= 4, "{}", daemon.log());
    // The machine may stand still for a while; no jump is taken for that.
    let paused_s = |line: &str| line.split_once("did not run for ")?.1.split(' ').next()?.parse::<f64>().ok();
    ensure!(!daemon.log().lines().filter_map(paused_s).any(|paused_s| paused_s > 60.0), "{}", daemon.log());
    let broken = connections.close()?;
    // Of the backend that was disabled, and of the one that was down.
    ensure!(broken.iter().all(|broken| broken.name != "backend2"), "{broken:?}\n{}", daemon.log());

    // The state file is whole, wherever the clock stands when it is read.
    clock.jump(-5 * YEAR_S)?;
    daemon.kill();
    let daemon = daemon.builder().start()?;
    wait_serving(&daemon, "web", 2)?;
    let status = service(&daemon.status()?, "web")?;
    ensure!(status["backends"][2]["set"]["weight"]["value"] == 6 && admin(&daemon, 1)? == "disable", "{status:#}");
    ensure!(n_serving(&daemon, "api")? <= 2 && !daemon.log().contains("not to be had"), "{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_deadline_outlives_daemons_wherever_the_clock_jumps_between_them() -> Result<()> {
    let network = Network::dsr(3, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let files = tempfile::tempdir()?;
    let clock = Clock::at(files.path())?;
    let daemon = clock.environment(Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services))?.start()?;
    wait_serving(&daemon, "web", 3)?;
    let hosts: Vec<String> = network.backends.iter().map(|host| host.v4.to_string()).collect();
    let drained = Instant::now();
    daemon.xlb(&["drain", "web", &hosts[0], "--deadline", "6s"])?;
    daemon.xlb(&["drain", "web", &hosts[1], "--deadline", "1h"])?;
    // By the wall clock both would be over, and then in years.
    clock.jump(3 * YEAR_S)?;
    let daemon = again(daemon)?;
    let jumped = offset_s(&daemon, 2, &hosts[2])? - 3 * YEAR_S;
    ensure!(jumped.abs() < 60, "the daemon's clock is {jumped} s from where it was set");
    ensure!(admin(&daemon, 0)? != "disable" || drained.elapsed() >= DEADLINE, "ended by a jump\n{}", daemon.log());
    ensure!(admin(&daemon, 1)?["drain"]["until_ms"].is_u64(), "ended by a jump\n{}", daemon.log());
    clock.jump(-3 * YEAR_S)?;
    let daemon = again(daemon)?;
    until(LIMIT, "the drain's deadline", || Ok((admin(&daemon, 0)? == "disable").then_some(()))).with_context(|| daemon.log())?;
    ensure!(drained.elapsed() >= DEADLINE, "after {:?}\n{}", drained.elapsed(), daemon.log());
    ensure!(admin(&daemon, 1)?["drain"]["until_ms"].is_u64(), "{}", daemon.log());
    daemon.stop()
}
