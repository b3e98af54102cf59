//! `cargo xtask demo`: the main job, shown and checked in under a minute.
//!
//! One file, one thing shown. Each makes its traffic, measures, and says what it found as claims; a claim that does not
//! hold makes the demo fail. What is random is held to bounds that chance does not pass (see `chance`), what takes time
//! is waited for and held to what the configuration promises.

mod affinity;
mod chance;
mod counters;
mod failover;
mod hold;
mod scale;
mod show;
mod spread;
mod stage;
mod stalls;
mod throughput;

use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use xlb_tests::{World, interrupt};

use crate::{command, ebpf, setup, workspace};
use show::Show;
use stage::Stage;

#[derive(Args)]
pub struct Options {
    /// Leave everything running afterwards, say what to try, and clean up at Ctrl-C
    #[arg(long)]
    hold: bool,
}

/// Sets up, builds, shows.
///
/// # Errors
/// Not root, something cannot be built or started, or something that is shown is not so.
pub fn run(options: &Options) -> Result<()> {
    if !command::is_root() {
        bail!("the demo makes network namespaces and loads a BPF program: run it as root");
    }
    setup::run(setup::For::Everything)?;
    build()?;
    interrupt::clean_up()?;
    interrupt::unless_interrupted(|| {
        let scratch = World::scratch()?;
        let shown = perform(options);
        drop(scratch);
        shown?;
        // Those of others, who may be ending just now, are theirs.
        let own = format!("/xlb-{}-", std::process::id());
        let left: Vec<_> = World::leftovers().into_iter().filter(|path| path.to_string_lossy().contains(&own)).collect();
        if left.is_empty() { Ok(()) } else { bail!("the demo left behind {left:?}") }
    })
}

/// The daemon with its BPF program, and the backends, where `xlb_tests` looks for them: around this program.
fn build() -> Result<()> {
    ebpf::build_xlb()?;
    command::run(command::cargo().current_dir(workspace::root()).args(["build", "--package", "xlb-tests", "--bins"]))
}

fn perform(options: &Options) -> Result<()> {
    let start = Instant::now();
    let mut show = Show::new();
    show.title("xlb between a client and five backends, in network namespaces");
    let (mut dsr, nat) = (Stage::dsr()?, Stage::nat()?);
    show.note(&format!(
        "dsr: backends answer the client directly    nat: they answer through xlb    (up in {:.1} s)",
        start.elapsed().as_secs_f64()
    ));

    // An interrupted act fails, which is nothing to be told about.
    let shown = interrupt::unless_interrupted(|| acts(&mut show, &mut dsr, &nat));
    let failed = show.failed();
    if shown.is_err() || !failed.is_empty() {
        for stage in [&dsr, &nat] {
            eprintln!("\nthe log of xlb ({}):\n{}", stage.name, stage.daemon.log().trim_end());
        }
    }
    shown?;
    if !failed.is_empty() {
        bail!("{} of {} claims do not hold:\n{}", failed.len(), show.n_claims(), failed.join("\n"));
    }
    show.end(&format!("all {} claims hold, {:.0} s", show.n_claims(), start.elapsed().as_secs_f64()));
    if options.hold {
        hold::hold(&mut show, &dsr, &nat)?;
    }
    dsr.end()?;
    nat.end()
}

fn acts(show: &mut Show, dsr: &mut Stage, nat: &Stage) -> Result<()> {
    spread::act(show, &[dsr, nat]).context("while spreading flows")?;
    affinity::act(show, dsr).context("while asking under ip-hash")?;
    failover::act(show, dsr).context("while a backend died")?;
    scale::act(show, dsr).context("while scaling up through DNS")?;
    throughput::act(show, &[dsr, nat]).context("while measuring throughput")?;
    counters::act(show, &[dsr, nat]).context("while reading the counters")
}
