//! `cargo xtask bench`: nanoseconds a packet of the packet path, over an empty program, beside the usual design's.

mod ipvs;
mod measure;
mod packets;
mod peers;
mod reference;
mod tries;
mod xlb;

use anyhow::Result;
use aya::programs::Xdp;
use clap::Args;

use crate::{command, ebpf, setup};
use tries::Measured;

/// Flows that take turns, for each column of the table.
const FLOWS: [u32; 3] = [1, 1 << 16, 1 << 20];

#[derive(Args)]
pub struct Options {
    /// Accepted tries per figure, of which the median is shown
    #[arg(long, default_value_t = 9)]
    runs: usize,
    /// Only the paths whose name contains this
    #[arg(long)]
    only: Option<String>,
    /// One JSON object a figure instead of the table
    #[arg(long)]
    json: bool,
    /// End to end in network namespaces instead, beside nftables, HAProxy and nginx; takes some minutes
    #[arg(long, conflicts_with_all = ["runs", "only", "json"])]
    peers: bool,
    /// Instructions a packet instead, beside IPVS, in emulated machines; takes some minutes
    #[arg(long, conflicts_with_all = ["runs", "only", "json", "peers"])]
    ipvs: bool,
}

/// What the usual design costs with these, in nanoseconds, on the machine whose budgets these are. Where it costs more, so may all else.
const USUAL_NS: [f64; FLOWS.len()] = [37.0, 219.0, 404.0];

/// One line of the table: what a program costs with packets of one kind.
struct Path<'a> {
    name: &'a str,
    program: &'a Xdp,
    packets: Vec<Vec<u8>>,
    /// What it may cost, in nanoseconds, for each of [`FLOWS`].
    budget_ns: Option<[f64; FLOWS.len()]>,
    /// Whether the path is one that packets take while nothing changes, which must hold its budget.
    is_steady: bool,
}

/// Builds and loads the programs, measures, prints.
///
/// # Errors
/// Not root, a program does not load or cannot be measured, or a path costs more than its budget.
pub fn run(options: &Options) -> Result<()> {
    if options.ipvs {
        return ipvs::run();
    }
    if !command::is_root() {
        anyhow::bail!("loading BPF programs needs root");
    }
    if options.peers {
        return peers::run();
    }
    setup::run(setup::For::Building)?;
    let wrapper = ebpf::build(ebpf::Object::BenchWrapper)?;
    let xlb = ebpf::build(ebpf::Object::Xlb)?;
    let reference = ebpf::build(ebpf::Object::BenchReference)?;
    measure::quiet_process()?;

    let steps = check_method(&wrapper)?;
    let pass = measure::Loaded::load(&xlb, "xlb_pass")?;
    let reference = reference::load(&reference)?;
    xlb::route_to_client()?;
    let load = |options| xlb::load(&xlb, options);
    // Sessions of one would leave no ports to those of the other.
    let [plain, with_nat, moved, with_fullnat, with_toa, guarded] = {
        use xlb::Options::{Fullnat, Guarded, Moved, Nat, Off};
        [load(Off)?, load(Nat)?, load(Moved)?, load(Fullnat)?, load(Fullnat)?, load(Guarded)?]
    };
    let mut decap = xlb::load_decap(&xlb)?;
    let scale = scale(&wrapper, reference.program()?, options.runs)?;
    let programs = Programs {
        empty: pass.program()?,
        plain: plain.program()?,
        with_nat: with_nat.program()?,
        moved: moved.program()?,
        with_fullnat: with_fullnat.program()?,
        with_toa: with_toa.program()?,
        guarded: guarded.program()?,
        decap: decap.xdp()?,
        usual: reference.program()?,
    };
    let mut paths = programs.paths();

    for budget in paths.iter_mut().filter_map(|path| path.budget_ns.as_mut()) {
        *budget = std::array::from_fn(|i| budget[i] * scale[i]);
    }

    if !options.json {
        println!("ns a packet over an empty program, median of {} tries (~ noisy, ! over budget)\n", options.runs);
        let remark = if (1.85..=2.15).contains(&steps) { "" } else { ": the machine is too busy, do not trust what follows" };
        println!("method: 800 dependent steps take {steps:.2} times as long as 400, should be 2{remark}\n");
        let [one, many, most] = scale;
        println!(
            "budgets: {one:.2}, {many:.2} and {most:.2} times those of a machine on which the usual design costs {USUAL_NS:?} ns\n"
        );
        println!("{:<36} {:>10} {:>10} {:>10} {:>16}", "path", "1 flow", "64k flows", "1M flows", "budget");
    }
    let (mut over_budget, mut over_goal) = (Vec::new(), Vec::new());
    for path in &paths {
        if options.only.as_ref().is_some_and(|only| !path.name.contains(only.as_str())) {
            continue;
        }
        let figures = FLOWS.map(|flows| measure::measure(&wrapper, path.program, &path.packets, flows, options.runs));
        let figures = figures.into_iter().collect::<Result<Vec<_>>>()?;
        let is_over = |(figure, budget): (&Measured, f64)| !figure.is_noisy && figure.ns > budget;
        if path.budget_ns.is_some_and(|budget| figures.iter().zip(budget).any(is_over)) {
            let list = if path.is_steady { &mut over_budget } else { &mut over_goal };
            list.push(path.name);
        }
        show(path, &figures, options.json);
    }
    if !over_goal.is_empty() {
        println!("\nover their budget, while slots come to rest: {}", over_goal.join(", "));
    }
    if !over_budget.is_empty() {
        anyhow::bail!("over budget: {}", over_budget.join(", "));
    }
    Ok(())
}

/// How many times more than on the machine of the budgets the usual design costs here and now. Never less: what is within its budget is
/// so on a faster machine too.
fn scale(wrapper: &std::path::Path, usual: &Xdp, runs: usize) -> Result<[f64; FLOWS.len()]> {
    let mut scale = [1.0; FLOWS.len()];
    for (scale, (flows, usual_ns)) in scale.iter_mut().zip(FLOWS.into_iter().zip(USUAL_NS)) {
        let here = measure::measure(wrapper, usual, &[packets::tcp_v4(false)], flows, runs)?;
        *scale = (here.ns / usual_ns).max(1.0);
    }
    Ok(scale)
}

/// What is measured: xlb's program with different tables, and what stands beside it.
struct Programs<'a> {
    empty: &'a Xdp,
    plain: &'a Xdp,
    with_nat: &'a Xdp,
    moved: &'a Xdp,
    with_fullnat: &'a Xdp,
    with_toa: &'a Xdp,
    guarded: &'a Xdp,
    decap: &'a Xdp,
    usual: &'a Xdp,
}

impl<'a> Programs<'a> {
    /// The lines of the table.
    fn paths(&self) -> Vec<Path<'a>> {
        use packets::{
            echo_v4, error_v4, in_gue, in_ipip, other_v4, quic_v4, reply_v4, syn_v4_to, tagged_v4, tcp_v4, tcp_v4_to, tcp_v6,
            tcp_v6_to, udp_v4,
        };
        let line = |name, program, packet, budget_ns| Path { name, program, packets: vec![packet], budget_ns, is_steady: true };
        let usual = |name, packet| line(name, self.usual, packet, None);
        let ours = |name, packet, budget_ns| line(name, self.plain, packet, Some(budget_ns));
        let shown = |name, packet| line(name, self.plain, packet, None);
        let nat = |name, packet, budget_ns| line(name, self.with_nat, packet, Some(budget_ns));
        let fullnat = |name, packet| line(name, self.with_fullnat, packet, None);
        let moved = |name, packet, budget_ns| Path { is_steady: false, ..line(name, self.moved, packet, Some(budget_ns)) };
        let stateful =
            |name, packet| Path { is_steady: false, ..line(name, self.plain, packet, Some([35.0, 160.0, f64::INFINITY])) };
        let (backend, port) = xlb::nat_backend();
        vec![
            line("empty program (should be 0)", self.empty, tcp_v4(false), None),
            ours("dsr: tcp4", tcp_v4(false), [20.0, 24.0, 24.0]),
            ours("dsr: udp4", udp_v4(), [20.0, 24.0, 24.0]),
            ours("dsr: tcp4 syn", tcp_v4(true), [20.0, 24.0, 24.0]),
            ours("dsr: tcp6", tcp_v6(), [25.0, 29.0, 29.0]),
            ours("dsr, ip-hash: tcp4", tcp_v4_to(xlb::PORT_IP_HASH, false), [20.0, 24.0, 24.0]),
            ours("ipip: tcp4", tcp_v4_to(xlb::PORT_IPIP, false), [27.0, 32.0, 32.0]),
            ours("ipip: tcp6", tcp_v6_to(xlb::PORT_IPIP), [32.0, 37.0, 37.0]),
            ours("gue: tcp4", tcp_v4_to(xlb::PORT_GUE, false), [40.0, 40.0, 40.0]),
            nat("nat: tcp4", tcp_v4_to(xlb::PORT_NAT, false), [35.0, 39.0, 39.0]),
            nat("nat: tcp6", tcp_v6_to(xlb::PORT_NAT), [40.0, 44.0, 44.0]),
            fullnat("fullnat: tcp4", tcp_v4_to(xlb::PORT_FULLNAT, false)),
            fullnat("fullnat: tcp4 syn", tcp_v4_to(xlb::PORT_FULLNAT, true)),
            fullnat("fullnat: tcp6", tcp_v6_to(xlb::PORT_FULLNAT)),
            line("fullnat, toa: tcp4", self.with_toa, tcp_v4_to(xlb::PORT_TOA, false), None),
            moved("dsr, slots that moved: tcp4", tcp_v4(false), [35.0, 160.0, f64::INFINITY]),
            moved("dsr, slots that moved: tcp4 syn", tcp_v4(true), [35.0, 160.0, f64::INFINITY]),
            moved("dsr, slots that moved: tcp6", tcp_v6(), [40.0, 165.0, f64::INFINITY]),
            stateful("dsr, round-robin: tcp4", tcp_v4_to(xlb::PORT_ROUND_ROBIN, false)),
            stateful("dsr, round-robin: tcp4 syn", tcp_v4_to(xlb::PORT_ROUND_ROBIN, true)),
            stateful("dsr, weighted-round-robin: tcp4 syn", tcp_v4_to(xlb::PORT_WEIGHTED_ROUND_ROBIN, true)),
            stateful("dsr, random: tcp4 syn", tcp_v4_to(xlb::PORT_RANDOM, true)),
            stateful("dsr, least-connections: tcp4 syn", tcp_v4_to(xlb::PORT_LEAST_CONNECTIONS, true)),
            stateful("dsr, least-response-time: tcp4 syn", tcp_v4_to(xlb::PORT_LEAST_RESPONSE_TIME, true)),
            stateful("dsr, max_load: tcp4 syn", tcp_v4_to(xlb::PORT_BOUNDED, true)),
            stateful("dsr, track: tcp4", tcp_v4_to(xlb::PORT_TRACKED, false)),
            shown("dsr, quic: by connection id", quic_v4(xlb::PORT_QUIC, xlb::SERVER)),
            shown("dsr, quic: client moved", quic_v4(xlb::PORT_QUIC_MOVED, xlb::SERVER)),
            shown("dsr, mss: tcp4 syn", syn_v4_to(xlb::PORT_CLAMPED)),
            shown("dsr: tcp4, tagged", tagged_v4()),
            line("dsr, 100,000 prefixes denied: tcp4", self.guarded, tcp_v4(false), None),
            line("decap: ipip, tcp4", self.decap, in_ipip(xlb::SERVER), None),
            line("decap: gue, tcp4", self.decap, in_gue(xlb::SERVER, xlb::GUE_PORT), None),
            shown("echo request", echo_v4()),
            shown("dsr: icmp error about a packet", error_v4()),
            // The kernel's routing table is asked for each, and costs what it costs.
            line("nat reply: tcp4", self.with_nat, reply_v4(backend, port), None),
            ours("not a vip", other_v4(), [12.0, 12.0, 12.0]),
            usual("usual design: tcp4", tcp_v4(false)),
            usual("usual design: udp4", udp_v4()),
            usual("usual design: tcp4 syn", tcp_v4(true)),
            usual("usual design: tcp6", tcp_v6()),
            usual("usual design: not a vip", other_v4()),
        ]
    }
}

/// How many times longer twice the work takes: what cannot tell one from two cannot measure anything now.
///
/// Much work, because the processor still hides up to 30 ns of it behind the beginning of the next packet.
fn check_method(wrapper: &std::path::Path) -> Result<f64> {
    const RUNS: usize = 3;
    let packets = [packets::tcp_v4(false)];
    let ns = |program| -> Result<Measured> {
        let steps = measure::Loaded::load(wrapper, program)?;
        measure::measure(wrapper, steps.program()?, &packets, 1, RUNS)
    };
    let (once, twice) = (ns("steps_400")?, ns("steps_800")?);
    Ok(twice.ns / once.ns)
}

fn show(path: &Path<'_>, figures: &[Measured], json: bool) {
    if json {
        for (figure, flows) in figures.iter().zip(FLOWS) {
            let line = serde_json::json!({
                "path": path.name, "flows": flows, "ns": figure.ns, "ns_min": figure.ns_min, "ns_max": figure.ns_max,
                "floor_ns": figure.floor_ns, "action": figure.action, "noisy": figure.is_noisy,
                "kept": figure.n_kept, "tries": figure.n_tries,
            });
            println!("{line}");
        }
        return;
    }
    let cell = |i: usize| {
        let figure = &figures[i];
        let is_over = path.budget_ns.is_some_and(|budget| figure.ns > budget[i]);
        let marks = format!("{}{}", if figure.is_noisy { "~" } else { "" }, if is_over { "!" } else { "" });
        format!("{marks}{:.1}", figure.ns)
    };
    let limit = |ns: f64| if ns.is_finite() { format!("{ns:.0}") } else { "-".into() };
    let budget = path.budget_ns.map_or_else(|| "-".into(), |budget| budget.map(limit).join(" / "));
    println!("{:<36} {:>10} {:>10} {:>10} {budget:>16}   {}", path.name, cell(0), cell(1), cell(2), figures[0].action);
}
