//! `cargo xtask bench --peers`: end to end in network namespaces, beside what else balances there.

mod balancers;
mod load;
pub mod plot;

use std::fmt::Write as _;
use std::net::IpAddr;
use std::path::PathBuf;

use anyhow::{Context, Result};
use xlb_tests::{Host, Network, Nginx};

use crate::{setup, workspace};
use balancers::{Kind, VIP};
use load::{Figures, Load};

const N_BACKENDS: u8 = 3;
/// Each round measures everybody, beginning with another one: what the machine does meanwhile meets all of them.
const ROUNDS: usize = 5;

/// What one balancer has come to.
struct Line {
    kind: Kind,
    /// For each [`Load`], the median of all rounds.
    figures: Vec<Figures>,
}

/// Measures, prints a table, and writes it, a plot and the figures into a folder under the target directory.
///
/// # Errors
/// Not root, a peer is not to be had, or one answers no request.
pub fn run() -> Result<()> {
    setup::run(setup::For::Peers)?;
    let network = Network::nat(N_BACKENDS)?;
    let _servers = servers(&network, &[])?;
    // Where servers answer around the balancer.
    let direct = Network::dsr(N_BACKENDS, &[VIP.into()])?;
    let _direct_servers = servers(&direct, &[VIP.into()])?;
    let mut rounds: Vec<Vec<Vec<Figures>>> = Kind::ALL.iter().map(|_| Vec::new()).collect();
    for round in 0..ROUNDS {
        for turn in 0..Kind::ALL.len() {
            let index = (round + turn) % Kind::ALL.len();
            let kind = Kind::ALL[index];
            let network = if kind.is_direct() { &direct } else { &network };
            eprintln!("round {} of {ROUNDS}: {}", round + 1, kind.name());
            let running = kind.start(network).with_context(|| format!("starting {}", kind.name()))?;
            let to = running.address();
            let of = |load: Load| {
                load.measure(&network.client.netns, to).with_context(|| format!("{} by {}", load.name(), kind.name()))
            };
            rounds[index].push(Load::ALL.into_iter().map(of).collect::<Result<_>>()?);
        }
    }
    let lines: Vec<Line> =
        Kind::ALL.into_iter().zip(&rounds).map(|(kind, rounds)| Line { kind, figures: medians(rounds) }).collect();
    let table = table(&lines);
    println!("{table}");
    let folder = write(&lines, &table)?;
    println!("written to {}", folder.display());
    Ok(())
}

/// One on each backend, at its own address and at these.
fn servers(network: &Network, vips: &[IpAddr]) -> Result<Vec<Nginx>> {
    let addresses = |host: &Host| [&[host.v4.into()], vips].concat();
    network.backends.iter().map(|host| load::serve(&host.netns, &addresses(host))).collect()
}

/// Of each figure, over all rounds.
fn medians(rounds: &[Vec<Figures>]) -> Vec<Figures> {
    let of = |index: usize| {
        let median = |figure: fn(&Figures) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(|round| figure(&round[index])).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        Figures {
            rate: median(|figures| figures.rate),
            p99_ms: median(|figures| figures.p99_ms),
            cpu_us: median(|figures| figures.cpu_us),
            errors: rounds.iter().map(|round| round[index].errors).sum(),
        }
    };
    (0..Load::ALL.len()).map(of).collect()
}

fn table(lines: &[Line]) -> String {
    let mut text = format!(
        "{N_BACKENDS} nginx, one client, {} processors for all of it; medians of {ROUNDS} rounds\n\n",
        std::thread::available_parallelism().map_or(1, usize::from)
    );
    for (index, load) in Load::ALL.into_iter().enumerate() {
        let _ = writeln!(text, "{:<32} {:>14} {:>10} {:>14} {:>8}", load.name(), load.unit(), "p99 ms", "CPU us/each", "failed");
        for Line { kind, figures } in lines {
            let Figures { rate, p99_ms, cpu_us, errors } = figures[index];
            let _ = writeln!(text, "  {:<30} {:>14} {p99_ms:>10.2} {cpu_us:>14.2} {errors:>8}", kind.name(), load.shown(rate));
        }
        text.push('\n');
    }
    text
}

fn write(lines: &[Line], table: &str) -> Result<PathBuf> {
    let folder = workspace::target()?.join("peers");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("peers.txt"), table)?;
    let figures: Vec<_> = lines.iter().map(|line| line.json()).collect();
    std::fs::write(folder.join("peers.json"), serde_json::to_string_pretty(&figures)?)?;
    for (index, load) in Load::ALL.into_iter().enumerate() {
        let bars: Vec<(&str, f64, String)> =
            lines.iter().map(|line| (line.kind.name(), line.figures[index].rate, load.shown(line.figures[index].rate))).collect();
        std::fs::write(
            folder.join(format!("{}.svg", load.key())),
            plot::bars(&format!("{}, {}", load.name(), load.unit()), &bars),
        )?;
    }
    Ok(folder)
}

impl Line {
    fn json(&self) -> serde_json::Value {
        let loads = Load::ALL.into_iter().zip(&self.figures).map(|(load, figures)| {
            let Figures { rate, p99_ms, cpu_us, errors } = figures;
            (load.key().to_owned(), serde_json::json!({ "rate": rate, "p99_ms": p99_ms, "cpu_us": cpu_us, "errors": errors }))
        });
        serde_json::json!({ "balancer": self.kind.name(), "loads": loads.collect::<serde_json::Map<_, _>>() })
    }
}
