//! Interfaces that go down, go away, come back as others or change their names, and pins that vanish.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use xlb_tests::{Backend, Connections, Daemon, Netns, Network, http, paths, until};

use super::support::{LIMIT, Service, url, vip, wait_answer, wait_serving};

struct Scene {
    network: Network,
    _backends: Vec<Backend>,
}

impl Scene {
    fn new() -> Result<Self> {
        let network = Network::dsr(2, &[vip()])?;
        let backends = Backend::start_all(&network, 80, &[vip()])?;
        // A bridge has the least address of its ports, and would have another with another port: the backends would not know it.
        network.router.as_ref().context("a router")?.netns.ip(&["link set br0 address 02:00:00:00:00:01"])?;
        // While no program takes them, packets to the VIP go round in circles, and the router tells the client of another way.
        let none = ["all", "eth0"].map(|interface| format!("ipv4/conf/{interface}/accept_redirects"));
        network.client.netns.sysctl(&none.each_ref().map(|key| (key.as_str(), "0")))?;
        Ok(Self { network, _backends: backends })
    }

    fn daemon(&self) -> xlb_tests::daemon::Builder {
        let services = Service::new("web", vip(), 80).backends(&self.network.backends, true).toml();
        Daemon::new(&self.lb(), &self.network.lb_interfaces()).services(services)
    }

    fn lb(&self) -> Netns {
        self.network.lb.netns.clone()
    }

    /// Traffic flows: each of the backends is reached.
    fn flows(&self) -> Result<()> {
        http::names(&self.network.client.netns, &url(vip(), 80), 30).map(drop)
    }

    fn connections(&self) -> Result<Connections> {
        let (interval, limit) = (Duration::from_millis(10), Duration::from_secs(2));
        Connections::open(&self.network.client.netns, (vip(), 80).into(), 50, interval, limit)
    }

    /// The balancer's interface again, with all that it had.
    fn make_interface_again(&mut self) -> Result<()> {
        let router = self.network.router.as_ref().context("a router")?.netns.clone();
        let lb = self.lb();
        self.network.world.veth((&lb, "eth0"), (&router, "lb"))?;
        router.ip(&["link set lb master br0"])?;
        self.network.world.pass_all(&router, "lb")?;
        lb.ip(&["addr add 10.2.0.2/24 dev eth0", "route add default via 10.2.0.1"])?;
        // The router asks nobody for the new link-layer address, for it has the old one; who asks it is believed.
        lb.run("ping -n -c 1 -W 5 10.2.0.1").map(drop)
    }
}

/// Writes other interfaces into the configuration.
fn set_interfaces(daemon: &Daemon, from: &str, to: &str) -> Result<()> {
    let config = std::fs::read_to_string(daemon.config())?;
    let changed = config.replace(&format!("interfaces = [{from:?}]"), &format!("interfaces = [{to:?}]"));
    ensure!(changed != config, "no {from} in:\n{config}");
    Ok(std::fs::write(daemon.config(), changed)?)
}

fn n_lines(daemon: &Daemon, text: &str) -> usize {
    daemon.log().lines().filter(|line| line.contains(text)).count()
}

fn has_program(netns: &Netns, interface: &str) -> Result<bool> {
    Ok(netns.run(&format!("ip link show {interface}"))?.contains("xdp"))
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_interface_that_was_down_balances_again_when_it_is_up() -> Result<()> {
    let scene = Scene::new()?;
    let daemon = scene.daemon().start()?;
    for _ in 0..2 {
        scene.lb().ip(&["link set eth0 down"])?;
        wait_serving(&daemon, "web", 0)?;
        // The kernel has dropped the routes by way of it.
        scene.lb().ip(&["link set eth0 up", "route add default via 10.2.0.1"])?;
        wait_serving(&daemon, "web", 2)?;
        wait_answer(&scene.network.client.netns, &url(vip(), 80))?;
        scene.flows()?;
    }
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_interface_that_is_deleted_and_made_again_has_the_program_again() -> Result<()> {
    let mut scene = Scene::new()?;
    let daemon = scene.daemon().start()?;
    for round in 1..=2 {
        scene.lb().ip(&["link delete eth0"])?;
        until(LIMIT, "the status to say that it is gone", || {
            Ok(daemon.status()?["interfaces_lost"]["eth0"].as_str().is_some_and(|why| why.contains("it is gone")).then_some(()))
        })
        .with_context(|| daemon.log())?;
        ensure!(daemon.get("/health")?.body.contains("\"interfaces_lost\":[\"eth0\"]"), "{:?}", daemon.get("/health")?);
        let told = scene.lb().run(&format!("{} status", paths::xlb()?.display()))?;
        ensure!(told.contains("not on interface eth0: it is gone"), "{told}");
        scene.make_interface_again()?;
        until(LIMIT, "the program to run there", || Ok(daemon.status()?["interfaces_lost"].is_null().then_some(())))
            .with_context(|| daemon.log())?;
        wait_serving(&daemon, "web", 2)?;
        wait_answer(&scene.network.client.netns, &url(vip(), 80)).with_context(|| daemon.log())?;
        scene.flows()?;
        let status = daemon.status()?;
        ensure!(status["interfaces_lost"].is_null() && status["interfaces"][0]["mode"] == "native", "{status:#}");
        ensure!(n_lines(&daemon, "it is gone") == round, "once for each time:\n{}", daemon.log());
    }
    let pin = daemon.pin().to_owned();
    daemon.stop()?;
    ensure!(!has_program(&scene.lb(), "eth0")? && !pin.exists());
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_renamed_interface_is_taken_over_under_its_new_name_by_a_reload_and_by_a_restart() -> Result<()> {
    let scene = Scene::new()?;
    let mut daemon = scene.daemon().start()?;
    let connections = scene.connections()?;
    // Up it cannot be renamed by every kernel, and going down would drop its routes.
    scene.lb().ip(&["link set eth0 name wan0"])?;
    daemon.process().wait_for_log("it is called wan0 now", LIMIT)?;
    set_interfaces(&daemon, "eth0", "wan0")?;
    daemon.process().signal(Signal::SIGHUP)?;
    daemon.process().wait_for_log(" reloaded", LIMIT)?;
    let status = daemon.status()?;
    ensure!(status["interfaces"][0]["name"] == "wan0" && status["interfaces"].as_array().map(Vec::len) == Some(1), "{status:#}");
    ensure!(has_program(&scene.lb(), "wan0")?);
    // Another name again while nobody looks after the program.
    daemon.kill();
    scene.lb().ip(&["link set wan0 name eth0"])?;
    let exchanges = connections.exchanges();
    until(LIMIT, "traffic to go on", || Ok((connections.exchanges() > exchanges + 100).then_some(())))?;
    let daemon = daemon.builder().start()?;
    wait_serving(&daemon, "web", 2)?;
    scene.flows()?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    let pin = daemon.pin().to_owned();
    daemon.stop()?;
    ensure!(!has_program(&scene.lb(), "eth0")? && !pin.exists());
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn names_that_two_interfaces_have_exchanged_are_no_obstacle_to_a_restart() -> Result<()> {
    let scene = Scene::new()?;
    let lb = scene.lb();
    lb.ip(&["link add spare type veth peer name spare1", "link set spare up", "link set spare1 up"])?;
    let services = Service::new("web", vip(), 80).backends(&scene.network.backends, true).toml();
    let mut daemon = Daemon::new(&lb, &["eth0", "spare"]).services(services).start()?;
    let connections = scene.connections()?;
    daemon.kill();
    lb.ip(&["link set spare name aside", "link set eth0 name spare", "link set aside name eth0"])?;
    let daemon = daemon.builder().start()?;
    wait_serving(&daemon, "web", 2)?;
    scene.flows()?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    let pin = daemon.pin().to_owned();
    daemon.stop()?;
    ensure!(!has_program(&lb, "eth0")? && !has_program(&lb, "spare")? && !pin.exists());
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_interface_taken_out_of_the_file_is_free_of_a_program_that_was_taken_over_too() -> Result<()> {
    let scene = Scene::new()?;
    let lb = scene.lb();
    lb.ip(&["link add spare type veth peer name spare1", "link set spare up", "link set spare1 up"])?;
    let mut daemon = scene.daemon().start()?;
    daemon.kill();
    let mut daemon = daemon.builder().start()?;
    set_interfaces(&daemon, "eth0", "spare")?;
    daemon.process().signal(Signal::SIGHUP)?;
    daemon.process().wait_for_log(" reloaded", LIMIT)?;
    ensure!(has_program(&lb, "spare")? && !has_program(&lb, "eth0")?, "{}", daemon.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn pins_that_somebody_removes_take_no_traffic_with_them_and_are_made_again() -> Result<()> {
    let scene = Scene::new()?;
    let mut daemon = scene.daemon().start()?;
    let connections = scene.connections()?;
    let pins = |daemon: &Daemon| -> Result<BTreeSet<OsString>> {
        Ok(std::fs::read_dir(daemon.pin())?.map(|entry| entry.map(|entry| entry.file_name())).collect::<Result<_, _>>()?)
    };
    let before = pins(&daemon)?;
    // All of them, a table, and the link alone.
    for (round, one) in (1..).zip([None, Some("SLOTS"), Some("native_eth0")]) {
        match one {
            None => std::fs::remove_dir_all(daemon.pin())?,
            Some(name) => std::fs::remove_file(daemon.pin().join(name))?,
        }
        until(LIMIT, "the pins to be made again", || Ok((n_lines(&daemon, "have been made again") == round).then_some(())))
            .with_context(|| daemon.log())?;
        ensure!(pins(&daemon)? == before, "{:?}\n{}", pins(&daemon)?, daemon.log());
        scene.flows()?;
    }
    // They are what they were: the next daemon finds its tables and its link.
    daemon.kill();
    scene.flows()?;
    let daemon = daemon.builder().start()?;
    wait_serving(&daemon, "web", 2)?;
    ensure!(daemon.log().contains("taking over the tables of an earlier daemon"), "{}", daemon.log());
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    let pin = daemon.pin().to_owned();
    daemon.stop()?;
    ensure!(!has_program(&scene.lb(), "eth0")? && !pin.exists());
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_directory_of_pins_that_is_anothers_by_now_is_left_alone() -> Result<()> {
    let scene = Scene::new()?;
    let mut daemon = scene.daemon().start()?;
    std::fs::remove_dir_all(daemon.pin())?;
    std::fs::create_dir(daemon.pin())?;
    let theirs = std::fs::File::open(daemon.pin())?;
    let lock = Flock::lock(theirs, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| error)?;
    daemon.process().wait_for_log("is in use by another xlb", LIMIT)?;
    ensure!(std::fs::read_dir(daemon.pin())?.next().is_none(), "{}", daemon.log());
    scene.flows()?;
    drop(lock);
    daemon.process().wait_for_log("have been made again", LIMIT)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_bpf_file_system_that_is_unmounted_takes_no_traffic_with_it_and_the_end_is_told_as_it_is() -> Result<()> {
    let scene = Scene::new()?;
    // In a mount namespace of its own, with a BPF file system of its own.
    let script = "umount --lazy /sys/fs/bpf; mount -t bpf bpf /sys/fs/bpf && exec \"$0\" \"$@\"";
    let wrapper = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script];
    let mut daemon = scene.daemon().on_exit("keep").started_by(&wrapper).start()?;
    let connections = scene.connections()?;
    let mounts = format!("--mount=/proc/{}/ns/mnt", daemon.id());
    let umount = |arguments: &[&str]| -> Result<bool> {
        let mut command = std::process::Command::new("nsenter");
        Ok(command.arg(&mounts).arg("umount").args(arguments).stderr(std::process::Stdio::null()).status()?.success())
    };
    ensure!(!umount(&["/sys/fs/bpf"])?, "it is in use: only by force");
    ensure!(umount(&["--lazy", "/sys/fs/bpf"])?);
    daemon.process().wait_for_log("the pins are gone", LIMIT)?;
    scene.flows()?;
    daemon.process().signal(Signal::SIGHUP)?;
    daemon.process().wait_for_log(" reloaded", LIMIT)?;
    // What takes another program takes pins.
    let services = std::fs::read_to_string(daemon.config())?;
    let guarded = format!("{services}[service.admission]\ndeny = [\"10.0.0.0/8\"]\n");
    std::fs::write(daemon.config(), &guarded)?;
    daemon.process().signal(Signal::SIGHUP)?;
    daemon.process().wait_for_log("not reloaded, everything stays as it is", LIMIT)?;
    ensure!(daemon.log().contains("restart the daemon for it"), "{}", daemon.log());
    scene.flows()?;
    std::fs::write(daemon.config(), services)?;
    // Back, and gone once more.
    let mount = ["mount", "-t", "bpf", "bpf", "/sys/fs/bpf"];
    ensure!(std::process::Command::new("nsenter").arg(&mounts).args(mount).status()?.success());
    daemon.process().wait_for_log("have been made again", LIMIT)?;
    ensure!(umount(&["--lazy", "/sys/fs/bpf"])?);
    until(LIMIT, "it to be noticed", || Ok((n_lines(&daemon, "the pins are gone") == 2).then_some(())))?;
    let broken = connections.close()?;
    ensure!(broken.is_empty(), "{broken:?}\n{}", daemon.log());
    daemon.process().signal(Signal::SIGTERM)?;
    daemon.process().wait(LIMIT)?;
    ensure!(daemon.log().contains("the program ends with this process"), "{}", daemon.log());
    ensure!(!daemon.log().contains("the next daemon takes over"), "{}", daemon.log());
    until(LIMIT, "the program to be gone", || Ok((!has_program(&scene.lb(), "eth0")?).then_some(())))?;
    Ok(())
}
