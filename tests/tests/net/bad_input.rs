//! Configurations that cannot be, and machines that are not as the configuration says.

use anyhow::{Result, ensure};
use std::process::Command;
use xlb_tests::{Daemon, Network, paths};

use super::support::{LIMIT, Service, vip};

#[test]
#[ignore = "needs the xlb binary; run by cargo xtask test"]
fn check_tells_every_problem_with_its_place() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("bad.toml");
    std::fs::write(
        &file,
        "[xdp]\ninterfaces = [\"eth0\"]\nmodus = \"auto\"\n\n[[service]]\nname = \"web\"\nvip = \"10.0.0.256\"\nport = 80\n",
    )?;
    let output = Command::new(paths::xlb()?).arg("check").arg(&file).output()?;
    let text = String::from_utf8(output.stderr)?;
    ensure!(!output.status.success());
    for wanted in ["bad.toml:3:1", "modus", "did you mean", "bad.toml:7:7", "10.0.0.256"] {
        ensure!(text.contains(wanted), "no {wanted:?} in:\n{text}");
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn an_interface_that_does_not_exist_is_named() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let mut daemon = Daemon::new(&network.lb.netns, &["eth0", "wan7"]).services(services).start_unready()?;
    let status = daemon.process().wait(LIMIT)?;
    ensure!(!status.success() && daemon.log().contains("wan7 does not exist"), "{status}: {}", daemon.log());
    ensure!(!network.lb.netns.run("ip link show eth0")?.contains("xdp"), "nothing is left attached");
    ensure!(!daemon.pin().exists(), "nothing is left pinned");
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn another_xdp_program_on_the_interface_is_not_pushed_off() -> Result<()> {
    let mut network = Network::dsr(1, &[vip()])?;
    let lb = network.lb.netns.clone();
    network.world.pass_all(&lb, "eth0")?;
    let services = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let mut daemon = Daemon::new(&lb, &["eth0"]).services(services).start_unready()?;
    let status = daemon.process().wait(LIMIT)?;
    ensure!(!status.success() && daemon.log().contains("another XDP program"), "{status}: {}", daemon.log());
    Ok(())
}
