//! `xlb agent` on a backend, asked by xlb's own check of type `agent` and by a client that knows nothing of it.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use anyhow::{Context, Result, ensure};
use xlb_tests::{Backend, Daemon, Netns, Network, Process, paths, until};

use super::support::{LIMIT, Service, n_serving, service, vip, wait_serving};

const PORT: u16 = 9777;

fn start(netns: &Netns, arguments: &[&str]) -> Result<Process> {
    let mut command = netns.command(paths::xlb()?);
    let mut process = Process::start("agent", command.arg("agent").args(arguments))?;
    process.wait_for_log("says how this host is", LIMIT)?;
    Ok(process)
}

/// What is said upon a connection; `sent` goes first, as HAProxy's `agent-send` does.
fn ask(netns: &Netns, address: SocketAddr, sent: &str) -> Result<String> {
    netns.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(sent.as_bytes())?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        stream.shutdown(Shutdown::Both)?;
        Ok(said)
    })
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_host_says_how_it_is_and_an_operators_file_takes_it_out() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let files = tempfile::tempdir()?;
    let (drain, maint) = (files.path().join("drain"), files.path().join("maint"));
    let (drain_text, maint_text) = (drain.display().to_string(), maint.display().to_string());
    let from = network.lb.v4.to_string();
    let limits = ["--cpu-max", "100%", "--memory-max", "100%", "--disk", "/=100%", "--from", &from];
    let mut arguments = limits.to_vec();
    arguments.extend(["--drain-file", &drain_text, "--maint-file", &maint_text]);
    let agent = start(&network.backends[0].netns, &arguments)?;
    let _other = start(&network.backends[1].netns, &limits)?;

    let (lb, address) = (&network.lb.netns, SocketAddr::from((network.backends[0].v4, PORT)));
    for sent in ["", "health of web?\n"] {
        let said = ask(lb, address, sent)?;
        let share = said.strip_prefix("ready up ").and_then(|rest| rest.strip_suffix("%\n")).context(said.clone())?;
        ensure!((1..=100).contains(&share.parse::<u8>()?), "{said}");
    }
    // It is nobody's business but the balancers'.
    ensure!(ask(&network.client.netns, address, "").map_or(true, |said| said.is_empty()));

    let check = "type = \"agent\"\nport = 9777\ninterval = \"50ms\"\ntimeout = \"50ms\"\nrise = 2\nfall = 10";
    let web = Service::new("web", vip(), 80).health(check).backends(&network.backends, true).toml();
    let daemon = Daemon::new(lb, &network.lb_interfaces()).services(web).start()?;
    wait_serving(&daemon, "web", 2)?;
    for (file, reason, expected) in [(&drain, "", "drain"), (&maint, "new disks\n", "maint #new disks")] {
        std::fs::write(file, reason)?;
        until(LIMIT, &format!("{expected} to be heard"), || {
            let check = service(&daemon.status()?, "web")?["backends"][0]["check"].clone();
            Ok(check.as_str().is_some_and(|check| check.contains(&format!("\"{expected}\""))).then_some(()))
        })
        .with_context(|| daemon.log())?;
        until(LIMIT, "it to be out", || Ok((n_serving(&daemon, "web")? == 1).then_some(())))?;
        ensure!(ask(lb, address, "")? == format!("{expected}\n"));
        std::fs::remove_file(file)?;
        wait_serving(&daemon, "web", 2)?;
    }
    ensure!(agent.log().contains("maint #new disks"), "{}", agent.log());
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn beyond_a_limit_a_host_is_down_and_what_cannot_be_measured_is_refused_at_the_start() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let netns = &network.backends[0].netns;
    let (lb, address) = (&network.lb.netns, SocketAddr::from((network.backends[0].v4, PORT)));
    // No machine runs in so little memory; one that does nothing but tests has no processor left.
    let _agent = start(netns, &["--memory-max", "1%", "--cpu-max", "100%"])?;
    let said = ask(lb, address, "")?;
    ensure!(said.starts_with("down #memory ") && said.ends_with("%, above 1%\n"), "{said}");

    let refused = netns.command(paths::xlb()?).args(["agent", "--disk", "/nowhere=90%"]).output()?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(!refused.status.success() && said.contains("disk /nowhere: No such file or directory"), "{said}");
    let refused = netns.command(paths::xlb()?).arg("agent").output()?;
    let said = String::from_utf8(refused.stderr)?;
    ensure!(!refused.status.success() && said.contains("--listen [::]:9777"), "{said}");
    Ok(())
}
