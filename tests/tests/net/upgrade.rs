//! The daemon replaced by another version under load: the tables go over to it, or it is refused before it touches anything.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use aya::maps::{Array, Map, MapData};
use lb_common::records::{LAYOUT_VERSION, Settings};
use nix::sys::signal::Signal;
use xlb_tests::{Backend, Connections, Daemon, Netns, Network, http, paths, udp, until};

use super::support::{LIMIT, Service, url, verdict, vip, wait_serving};

/// Flows over UDP, each asked again and again: nobody repeats a datagram that was lost.
struct Datagrams {
    asked: Arc<AtomicU64>,
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Result<Vec<String>>>,
}

impl Datagrams {
    fn start(netns: &Netns, to: SocketAddr, n_flows: u16) -> Result<Self> {
        let (asked, ends) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let flows: Vec<(UdpSocket, String)> = netns.enter(|| {
            let flow = |_| {
                let socket = udp::connect(to, 0)?;
                let name = udp::name(&socket)?;
                Ok((socket, name))
            };
            (0..n_flows).map(flow).collect()
        })?;
        let (asking, ended) = (Arc::clone(&asked), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            let mut faults = Vec::new();
            while !ended.load(Ordering::Relaxed) {
                for (socket, name) in &flows {
                    match udp::name(socket) {
                        Ok(now) if now == *name => {}
                        Ok(now) => faults.push(format!("a flow of {name} was answered by {now}")),
                        Err(error) => faults.push(format!("lost: {error:#}")),
                    }
                    asking.fetch_add(1, Ordering::Relaxed);
                }
            }
            Ok(faults)
        });
        Ok(Self { asked, ends, thread })
    }

    /// How many were asked, and what went wrong.
    fn end(self) -> Result<(u64, Vec<String>)> {
        self.ends.store(true, Ordering::Relaxed);
        let faults = self.thread.join().map_err(|_| anyhow!("the thread has panicked"))??;
        Ok((self.asked.load(Ordering::Relaxed), faults))
    }

    fn wait_for(&self, n_more: u64) -> Result<()> {
        let wanted = self.asked.load(Ordering::Relaxed) + n_more;
        until(LIMIT, "datagrams to be answered", || Ok((self.asked.load(Ordering::Relaxed) >= wanted).then_some(())))
    }
}

struct Scene {
    network: Network,
    _backends: Vec<Backend>,
    files: tempfile::TempDir,
}

impl Scene {
    fn new() -> Result<Self> {
        let network = Network::dsr(4, &[vip()])?;
        let _backends = Backend::start_all(&network, 80, &[vip()])?;
        Ok(Self { network, _backends, files: tempfile::tempdir()? })
    }

    fn services(&self) -> String {
        let service = |name, protocol| {
            let service = Service::new(name, vip(), 80).with("protocol", protocol);
            service.backends(&self.network.backends, true).toml()
        };
        service("web", "tcp") + &service("echo", "udp")
    }

    fn daemon(&self) -> Result<Daemon> {
        let builder = Daemon::new(&self.network.lb.netns, &self.network.lb_interfaces());
        let daemon = builder.on_exit("keep").services(self.services()).start()?;
        wait_serving(&daemon, "web", 4)?;
        wait_serving(&daemon, "echo", 4)?;
        Ok(daemon)
    }

    fn datagrams(&self) -> Result<Datagrams> {
        Datagrams::start(&self.network.client.netns, (vip(), 80).into(), 100)
    }

    fn connections(&self) -> Result<Connections> {
        let client = &self.network.client.netns;
        Connections::open(client, (vip(), 80).into(), 100, Duration::from_millis(10), Duration::from_secs(2))
    }

    /// Another file with the program, as a package brings it.
    fn new_binary(&self) -> Result<PathBuf> {
        let path = self.files.path().join("xlb");
        std::fs::copy(paths::xlb()?, &path)?;
        Ok(path)
    }
}

/// Ends them, of whom none was lost or led astray.
fn all_went_on(datagrams: Datagrams, connections: Connections, meanwhile: &str, daemon: &Daemon) -> Result<()> {
    let ((n_asked, faults), broken) = (datagrams.end()?, connections.close()?);
    println!("{n_asked} datagrams {meanwhile}, {} lost or led astray", faults.len());
    ensure!(faults.is_empty() && broken.is_empty(), "{faults:?} {broken:?}\n{}", daemon.log());
    Ok(())
}

fn pinned_settings(daemon: &Daemon) -> Result<Array<MapData, [u8; size_of::<Settings>()]>> {
    Ok(Array::try_from(Map::Array(MapData::from_pin(daemon.pin().join("SETTINGS"))?))?)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_new_binary_takes_over_under_load_without_losing_a_packet_or_moving_a_flow() -> Result<()> {
    let scene = Scene::new()?;
    let mut daemon = scene.daemon()?;
    let (datagrams, connections) = (scene.datagrams()?, scene.connections()?);
    let script = format!("exec {} \"$@\"", scene.new_binary()?.display());
    // Ended as an upgrade ends it, and as a fault does.
    for ending in [Signal::SIGTERM, Signal::SIGKILL] {
        datagrams.wait_for(500)?;
        daemon.process().signal(ending)?;
        daemon.process().wait(LIMIT)?;
        datagrams.wait_for(500)?;
        let next = daemon.builder().started_by(&["sh", "-c", &script]).start()?;
        ensure!(next.log().contains("taking over the tables"), "{}", next.log());
        wait_serving(&next, "web", 4)?;
        datagrams.wait_for(500)?;
        let moved = next.metric("xlb_service_slots_moved_total{service=\"web\"}").unwrap_or_default();
        ensure!(moved == 0.0, "{moved} slots moved\n{}", next.log());
        daemon = next;
    }
    all_went_on(datagrams, connections, "over two upgrades", &daemon)
}

/// Lines of the log that say what a program was verified with.
fn verified(daemon: &Daemon) -> Vec<String> {
    let log = daemon.log();
    log.lines().filter(|line| line.contains("the program is verified")).map(ToOwned::to_owned).collect()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_reload_that_asks_for_more_exchanges_the_program_under_load_and_makes_pins_again_for_it() -> Result<()> {
    let scene = Scene::new()?;
    let mut daemon = scene.daemon()?;
    let (datagrams, connections) = (scene.datagrams()?, scene.connections()?);
    datagrams.wait_for(500)?;
    let reloaded = |daemon: &Daemon| daemon.log().matches("reloaded config=").count();
    let program = || Ok::<_, anyhow::Error>(prog_id(&scene.network.lb.netns.run("ip -details link show eth0")?));
    let first = program()?;

    let guarded = |mss: &str| {
        let service = Service::new("guarded", vip(), 81).backends(&scene.network.backends, true).toml();
        let service = service.replace("port = 81\n", &format!("port = 81\n{mss}"));
        format!("{}{service}[service.admission]\ndeny = [\"10.0.0.0/8\"]\n", scene.services())
    };
    daemon.reload(guarded(""))?;
    until(LIMIT, "the reload", || Ok((reloaded(&daemon) == 1).then_some(())))?;
    ensure!(program()? != first, "the interface has the program that it had");
    let lines = verified(&daemon);
    ensure!(lines.len() == 2 && !lines[0].contains("admission") && lines[1].contains("admission"), "{lines:?}");
    // It does what it was exchanged for.
    ensure!(http::get(&scene.network.client.netns, &url(vip(), 81)).is_err(), "who is denied was answered");
    ensure!(verdict(&daemon, "denied")? > 0, "{:#}", daemon.status()?["verdicts"]);
    datagrams.wait_for(500)?;

    // What is off again costs a look at a flag, and no other program.
    let second = program()?;
    daemon.reload(scene.services())?;
    until(LIMIT, "the reload back", || Ok((reloaded(&daemon) == 2).then_some(())))?;
    ensure!(program()? == second && verified(&daemon).len() == 2, "{}", daemon.log());

    // The next one finds this one's links by their pins.
    std::fs::remove_dir_all(daemon.pin()).context("the pins")?;
    daemon.reload(guarded("mss = 1200\n"))?;
    until(LIMIT, "the third reload", || Ok((reloaded(&daemon) == 3).then_some(())))?;
    ensure!(program()? != second && verified(&daemon).len() == 3, "{}", daemon.log());
    datagrams.wait_for(500)?;
    all_went_on(datagrams, connections, "over an exchange of programs", &daemon)
}

/// `prog/xdp id 42` of `ip -details link`.
fn prog_id(link: &str) -> Option<String> {
    link.split("prog/xdp id ").nth(1).and_then(|rest| rest.split(' ').next()).map(ToOwned::to_owned)
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn tables_of_another_layout_are_refused_and_go_on_as_they_are() -> Result<()> {
    let scene = Scene::new()?;
    let mut daemon = scene.daemon()?;
    let (datagrams, connections) = (scene.datagrams()?, scene.connections()?);
    daemon.kill();
    let mut settings = pinned_settings(&daemon)?;
    let before = settings.get(&0, 0)?;
    let mut other = before;
    other[..4].copy_from_slice(&(LAYOUT_VERSION + 1).to_ne_bytes());
    settings.set(0, other, 0)?;

    let mut refused = daemon.builder().start_unready()?;
    ensure!(!refused.process().wait(LIMIT)?.success(), "{}", refused.log());
    let reason = format!("version {}; here it is {LAYOUT_VERSION}", LAYOUT_VERSION + 1);
    ensure!(refused.log().contains(&reason) && refused.log().contains("rm -r /sys/fs/bpf/"), "{}", refused.log());
    ensure!(settings.get(&0, 0)? == other, "the settings were touched");
    ensure!(scene.network.lb.netns.run("ip link show eth0")?.contains("xdp"), "the program is gone");
    datagrams.wait_for(500)?;

    // Back at the version that made them, everything is as it was.
    settings.set(0, before, 0)?;
    let daemon = daemon.builder().start()?;
    wait_serving(&daemon, "web", 4)?;
    datagrams.wait_for(500)?;
    all_went_on(datagrams, connections, "before and after a refusal", &daemon)?;

    // What was said to help does.
    let mut daemon = daemon;
    daemon.kill();
    settings.set(0, other, 0)?;
    std::fs::remove_dir_all(daemon.pin()).context("the pins")?;
    let daemon = daemon.builder().on_exit("detach").start()?;
    wait_serving(&daemon, "web", 4)?;
    daemon.stop()
}
