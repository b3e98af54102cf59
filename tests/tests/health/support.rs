//! One check as the daemon makes it: from lines of a configuration to the outcome of a probe.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lb_user::config;
use lb_user::health::probe::{self, Outcome};
use xlb_tests::{Netns, World};

/// Enough for a loaded machine to answer in.
pub const PATIENT: Duration = Duration::from_secs(10);
/// For those who never answer.
pub const BRIEF: Duration = Duration::from_millis(200);

/// A world of one namespace; servers in it take their usual ports on loopback.
pub fn host() -> Result<(World, Netns)> {
    let mut world = World::new()?;
    let netns = world.namespace("health")?;
    Ok((world, netns))
}

/// The outcome of the check that these lines under `[service.health]` describe, of `target`.
pub fn check(netns: &Netns, lines: &str, target: &str) -> Result<Outcome> {
    check_within(netns, lines, target, PATIENT)
}

/// The same with a time-out.
pub fn check_within(netns: &Netns, lines: &str, target: &str, timeout: Duration) -> Result<Outcome> {
    check_service(netns, "tcp", lines, target, timeout)
}

/// The same of a service with another protocol.
pub fn check_service(netns: &Netns, protocol: &str, lines: &str, target: &str, timeout: Duration) -> Result<Outcome> {
    let target: SocketAddr = target.parse()?;
    let file = format!(
        "[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"checked\"\nvip = \"192.0.2.1\"\nport = 1\nprotocol = \"{protocol}\"\n\
         backend = [{{ address = \"10.0.1.1\" }}]\n[service.health]\n{lines}\n"
    );
    let service = config::parse("test.toml", &file)?.services.pop().context("one service")?;
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    // On a thread of the namespace, so that all its sockets are there.
    let probe = &service.health.list.first().context("one check")?.probe;
    netns.enter(|| Ok(runtime()?.block_on(probe::run(probe, &service.name, target, timeout))))
}

/// # Errors
/// The check did not pass, or found something else.
pub fn passes(netns: &Netns, lines: &str, target: &str, found: &str) -> Result<()> {
    let outcome = check(netns, lines, target)?;
    ensure!(outcome == Outcome::Passed(found.to_owned()), "{lines}: {outcome:?}, not passed {found:?}");
    Ok(())
}

/// # Errors
/// The check did not fail, or for another reason.
pub fn fails(netns: &Netns, lines: &str, target: &str, found: &str) -> Result<()> {
    let outcome = check(netns, lines, target)?;
    ensure!(outcome == Outcome::Failed(found.to_owned()), "{lines}: {outcome:?}, not failed {found:?}");
    Ok(())
}
