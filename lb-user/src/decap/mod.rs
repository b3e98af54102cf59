//! `xlb decap`: the backend's end of a tunnel, as a small XDP program on a backend's interface.

mod program;

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Result, ensure};
use lb_common::decap::{ADDRESSES, Counts, Ends, Outcome};
use lb_common::{Addr, Be16};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};

use crate::nexthop::{self, Addresses};
use crate::rights;

pub use program::Program;

/// What the command line says.
pub struct Options {
    pub interface: String,
    pub mode: Mode,
    /// At which tunnels end; none are those of the interface.
    pub addresses: Vec<IpAddr>,
    /// The balancers; none are all.
    pub senders: Vec<IpAddr>,
    pub gue_port: u16,
}

/// How the program should run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Mode {
    /// Natively where the driver lets us
    Auto,
    /// In the driver, or not at all
    Native,
    /// In the host's stack
    Generic,
}

/// Takes packets apart until it is told to end.
///
/// # Errors
/// Rights are missing, there is no such interface or it refuses, or there are more addresses than the program has room for.
pub async fn run(object: &[u8], options: Options) -> Result<()> {
    rights::check()?;
    let facts = nexthop::facts(&options.interface).await?;
    let mut addresses = Addresses::of(facts.ifindex)?;
    let follows = options.addresses.is_empty();
    let mut ours: BTreeSet<IpAddr> = if follows { addresses.list().await? } else { options.addresses.iter().copied().collect() };
    let mut program = Program::load(object)?;
    program.set(&ends(&ours, &options)?)?;
    // Before the first packet, or it would not be missed.
    let mut end = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut tell = signal(SignalKind::user_defined1())?;
    let native = program.attach(&options.interface, facts.ifindex, options.mode)?;
    let mode = if native { "native" } else { "generic" };
    let senders = if options.senders.is_empty() { "anybody".into() } else { listed(&options.senders) };
    info!(interface = options.interface, mode, addresses = listed(&ours), from = senders, "taking tunnels apart");
    if options.senders.is_empty() {
        warn!("whoever reaches this host can have packets with any source here: name the balancers with --from");
    }
    loop {
        tokio::select! {
            _ = end.recv() => break,
            _ = interrupt.recv() => break,
            _ = tell.recv() => report(&program.counts()?),
            changed = addresses.change(), if follows => {
                changed?;
                let now = addresses.list().await?;
                if now != ours {
                    program.set(&ends(&now, &options)?)?;
                    info!(addresses = listed(&now), "addresses changed");
                    ours = now;
                }
            }
        }
    }
    report(&program.counts()?);
    Ok(())
}

fn report(counts: &Counts) {
    let of = |outcome: Outcome| counts[outcome as usize];
    info!(
        ipip = of(Outcome::Ipip),
        gue = of(Outcome::Gue),
        strangers = of(Outcome::Stranger),
        malformed = of(Outcome::Malformed),
        congested = of(Outcome::Congested),
        other = of(Outcome::Other),
        "packets"
    );
}

fn ends(ours: &BTreeSet<IpAddr>, options: &Options) -> Result<Ends> {
    ensure!(
        ours.len() <= ADDRESSES,
        "{} has {} addresses, and {ADDRESSES} at most can be ends of tunnels: name them with --address",
        options.interface,
        ours.len()
    );
    ensure!(options.senders.len() <= ADDRESSES, "--from can be given {ADDRESSES} times at most");
    let mut ends =
        Ends { gue_port: Be16::new(options.gue_port), is_exclusive: u16::from(!options.senders.is_empty()), ..Ends::default() };
    ends.ours.iter_mut().zip(ours).for_each(|(place, &address)| *place = Addr::from(address));
    ends.senders.iter_mut().zip(&options.senders).for_each(|(place, &address)| *place = Addr::from(address));
    Ok(ends)
}

fn listed<'a>(addresses: impl IntoIterator<Item = &'a IpAddr>) -> String {
    let addresses: Vec<String> = addresses.into_iter().map(IpAddr::to_string).collect();
    if addresses.is_empty() { "none".into() } else { addresses.join(", ") }
}
