//! `cargo xtask bench --ipvs`: instructions a packet, beside IPVS, in a machine whose clock counts them.
//!
//! Figures repeat to less than a percent, whatever else the host does. They count instructions and no more: what memory and branches
//! cost a real processor is not in them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use super::peers::plot;
use crate::vm::guest::{self, MARK, Payload};
use crate::vm::{kernel, machine};
use crate::{ebpf, setup, workspace};

/// As the machine's script names them: where a balancer sees packets, who it is, and what it does with them.
const SCRIPT: &str = include_str!("guest.sh");
const KERNELS: [&str; 2] = ["6.1", "6.12"];
const MODULES: &[&str] = &["veth", "pktgen", "ip_vs", "ip_vs_mh"];
const PROGRAMS: &[&str] = &["dash", "ip", "ethtool", "ipvsadm"];

/// Ways to a backend, by what they are called here and there.
const WAYS: [(&str, &str, &str); 3] =
    [("direct", "xlb_dsr", "ipvs_dr"), ("translated", "xlb_nat", "ipvs_nat"), ("in a tunnel", "xlb_ipip", "ipvs_tunnel")];

/// Instructions a packet, by the script's names.
type Figures = BTreeMap<String, f64>;

/// Measures on each kernel, prints a table, and writes it, a plot and the figures into a folder under the target directory.
///
/// # Errors
/// A kernel cannot be fetched or does not boot, or packets got lost on the way.
pub fn run() -> Result<()> {
    setup::run(setup::For::MachinePeers)?;
    let xlb = ebpf::build_xlb()?;
    let mut payload = Payload::new(PROGRAMS)?;
    payload.own_program(&xlb, "xlb")?;
    payload.add("bench-drop.o", &ebpf::build(ebpf::Object::BenchDrop)?)?;
    payload.add_script("measure.sh", SCRIPT);
    let mut lines = Vec::new();
    for source in kernel::chosen(&KERNELS.map(str::to_owned))? {
        let kernel = kernel::fetch(source)?;
        let disk = guest::ram_disk(&kernel, &payload, MODULES, "dash /measure.sh")?;
        let log = machine::boot(&kernel, &disk, machine::Clock::Instructions, false)?;
        let figures = figures(&log).with_context(|| format!("Linux {} printed:\n{log}", kernel.release))?;
        lines.push((kernel.release, figures));
    }
    let table = table(&lines)?;
    println!("{table}");
    println!("written to {}", write(&lines, &table)?.display());
    Ok(())
}

/// What the machine has measured.
fn figures(log: &str) -> Result<Figures> {
    let mut figures = Figures::new();
    for line in log.lines().filter_map(|line| line.strip_prefix(MARK)?.trim().strip_prefix("measured ")) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [name, micros, n_sent, n_arrived] = words[..] else { anyhow::bail!("{line}") };
        let [micros, n_sent, n_arrived] = [micros, n_sent, n_arrived].map(str::parse::<f64>);
        let (micros, n_sent, n_arrived) = (micros?, n_sent?, n_arrived?);
        // Some of the kernel's own, such as router solicitations, arrive too.
        let wanted = if name.starts_with("to_") { 0.0 } else { n_sent };
        ensure!((wanted..wanted + 20.0).contains(&n_arrived), "{name}: {n_arrived} of {wanted} packets arrived");
        figures.insert(name.to_owned(), micros * 1000.0 / n_sent);
    }
    let of_ways = WAYS.iter().flat_map(|&(_, xlb, ipvs)| [xlb, ipvs]);
    for name in ["to_ip", "to_xdp"].into_iter().chain(of_ways) {
        ensure!(figures.contains_key(name), "{name} was not measured");
    }
    Ok(figures)
}

/// A way's own instructions, without those that bring a packet there: of xlb, and of IPVS.
fn own(figures: &Figures, xlb: &str, ipvs: &str) -> Result<(f64, f64)> {
    let figure = |name: &str| figures.get(name).copied().with_context(|| format!("{name} was not measured"));
    Ok((figure(xlb)? - figure("to_xdp")?, figure(ipvs)? - figure("to_ip")?))
}

fn table(lines: &[(String, Figures)]) -> Result<String> {
    let mut text = String::from("instructions a packet, beyond those that bring it to XDP, or to IP\n\n");
    writeln!(text, "{:<26} {:<12} {:>8} {:>8} {:>8}", "kernel", "way", "xlb", "IPVS", "ratio")?;
    for (release, figures) in lines {
        for (way, xlb, ipvs) in WAYS {
            let (xlb, ipvs) = own(figures, xlb, ipvs)?;
            writeln!(text, "{release:<26} {way:<12} {xlb:>8.0} {ipvs:>8.0} {:>8.1}", ipvs / xlb)?;
        }
    }
    Ok(text)
}

fn write(lines: &[(String, Figures)], table: &str) -> Result<PathBuf> {
    let folder = workspace::target()?.join("peers");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("ipvs.txt"), table)?;
    std::fs::write(folder.join("ipvs.json"), serde_json::to_string_pretty(lines)?)?;
    for (release, figures) in lines {
        let mut bars = Vec::new();
        for (way, xlb, ipvs) in WAYS {
            let (xlb, ipvs) = own(figures, xlb, ipvs)?;
            bars.extend([(format!("xlb, {way}"), xlb), (format!("IPVS, {way}"), ipvs)]);
        }
        let bars: Vec<(&str, f64, String)> = bars.iter().map(|(name, n)| (name.as_str(), *n, format!("{n:.0}"))).collect();
        let svg = plot::bars(&format!("Instructions a packet, Linux {release}"), &bars);
        std::fs::write(folder.join(format!("ipvs-{release}.svg")), svg)?;
    }
    Ok(folder)
}
