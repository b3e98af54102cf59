//! The packet path in the kernel, through BPF_PROG_TEST_RUN, in a network namespace of its own.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::Ebpf;
use aya::programs::{TestRun, TestRunOptions, Xdp};
use aya::util::KernelVersion;
use lb_common::Verdict;
use lb_common::counters::Totals;
use lb_common::decap::{Ends, Outcome};
use lb_common::features;
use lb_common::flow::Tick;
use lb_common::session::Pool;
use lb_common::trace::{self, Record, Rules};
use lb_user::maps::{self, Counters, KernelMaps, Loaded, Sizes, Tracer};
use lb_user::tables::Plan;
use nix::sched::{CloneFlags, unshare};

use super::Outcome as PathOutcome;
use super::fixture::{self, Interfaces};
use super::memory::TraceWindow;
use super::traces::Traced;

/// The BPF object that `cargo xtask build-ebpf` made.
///
/// # Errors
/// If there is none.
pub fn object() -> Result<Vec<u8>> {
    let path = std::env::var_os("XLB_OBJECT")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/xlb-ebpf.o"), PathBuf::from);
    std::fs::read(&path).with_context(|| format!("{}: build it with `cargo xtask build-ebpf`", path.display()))
}

/// A loaded program with the fixture's tables, in a namespace that ends with the thread.
pub struct Kernel {
    ebpf: Ebpf,
    pub counters: Counters,
    pub maps: KernelMaps,
    pub tracer: Tracer,
    pub interfaces: Interfaces,
    pub verified: Verified,
    names_ingress: bool,
    window: TraceWindow,
    /// Traces are to have no more in a window than their rules say.
    is_bounded: bool,
}

/// What it took the kernel to accept the program.
#[derive(Clone, Copy, Debug)]
pub struct Verified {
    /// That the verifier went through on all ways; kernels before 5.16 do not tell.
    pub n_instructions: Option<u32>,
    /// With compilation to machine code.
    pub time: Duration,
}

/// Index of the loopback interface in every namespace.
const LOOPBACK: u32 = 1;

/// What the kernel did with a packet.
pub struct Ran {
    /// XDP_DROP 1, XDP_PASS 2, XDP_TX 3, XDP_REDIRECT 4.
    pub action: u32,
    pub frame: Vec<u8>,
    pub verdict: Verdict,
}

impl Kernel {
    /// Moves the calling thread into a network namespace of its own, with interfaces, routes and neighbours as the fixture has
    /// them, and loads the program there.
    ///
    /// # Errors
    /// Without root, or if the program does not load.
    pub fn new() -> Result<Self> {
        Self::as_for(maps::kernel()?)
    }

    /// The same, with the program as a kernel of this version has it, which may be older than the running one.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn as_for(kernel: KernelVersion) -> Result<Self> {
        Self::with(kernel, features::ALL, super::fullnat::pool().record())
    }

    /// The same, with a program that knows of these [`features`] only, and of this pool.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with(kernel: KernelVersion, features: u32, pool: Pool) -> Result<Self> {
        own_network_namespace()?;
        let mut interfaces = set_up_network()?;
        let links = fixture::links(interfaces);
        // Before 5.15 a test run has no context to name the interface in: every packet comes in on loopback.
        let names_ingress = maps::kernel()? >= KernelVersion::new(5, 15, 0);
        if !names_ingress {
            interfaces.outside = LOOPBACK;
        }
        let sizes = Sizes { n_slots: fixture::N_SLOTS, n_flows: fixture::N_FLOWS, pool, ..Sizes::default() };
        let Loaded { mut ebpf, mut maps, counters, tracer, .. } = maps::load_as_for(kernel, &object()?, sizes, features, None)?;
        maps.set_hash_keys(fixture::keys());
        let (_, _, plan) = fixture::plan(interfaces);
        for write in plan.writes.iter().chain(&plan.retire) {
            maps.write(write)?;
        }
        maps.set_links(&links)?;
        let program: &mut Xdp = ebpf.program_mut("xlb").context("no program named xlb")?.try_into()?;
        let start = Instant::now();
        lb_user::datapath::load(program)?;
        let verified = Verified { time: start.elapsed(), n_instructions: program.info()?.verified_instruction_count() };
        let window = TraceWindow::of(program)?;
        Ok(Self { ebpf, counters, maps, tracer, interfaces, verified, names_ingress, window, is_bounded: false })
    }

    /// The loaded program.
    ///
    /// # Errors
    /// The object has none of its name.
    pub fn program(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program("xlb").context("no program named xlb")?.try_into()?)
    }

    /// Carries out a plan, to its end.
    ///
    /// # Errors
    /// If the maps are too small.
    pub fn carry_out(&mut self, plan: &Plan) -> Result<()> {
        Ok(plan.writes.iter().chain(&plan.retire).try_for_each(|write| self.maps.write(write))?)
    }

    /// With a watchdog, somebody is taken to be there for so many ticks.
    pub fn attend_for(&mut self, ticks: Tick) {
        self.maps.attend_for(ticks);
    }

    /// Runs one packet, as if it had come in on this interface.
    ///
    /// # Errors
    /// If the kernel refuses to, or if the packet was not counted as exactly one verdict.
    pub fn run(&self, packet: &[u8], ingress: u32) -> Result<Ran> {
        let program = self.program()?;
        let mut frame = vec![0; 2048.max(packet.len() + 256)];
        // struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> =
            [0, packet.len() as u32, 0, ingress, 0, 0].iter().flat_map(|word: &u32| word.to_ne_bytes()).collect();
        let before = self.counters.totals()?;
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut frame);
        if self.names_ingress {
            options.ctx_in = Some(&context);
        }
        let result = program.test_run(options)?;
        frame.truncate(result.data_size_out as usize);
        let verdict = counted(&before, &self.counters.totals()?)?;
        Ok(Ran { action: result.return_value, frame, verdict })
    }
}

impl Traced for Kernel {
    fn set(&mut self, rules: Rules) {
        self.maps.set_tracing(false);
        self.tracer.set(&rules).expect("there is room for rules");
        self.is_bounded = rules.n_max != trace::RECORDS_MAX;
        self.maps.set_tracing(true);
    }

    fn ingress(&self) -> u32 {
        self.interfaces.outside
    }

    fn run(&mut self, packet: &[u8]) -> (PathOutcome, Vec<Record>) {
        if !self.is_bounded {
            self.window.renew().expect("the kernel writes its maps");
        }
        let Ran { frame, verdict, .. } = Self::run(self, packet, self.interfaces.outside).expect("the kernel runs it");
        let records = std::iter::from_fn(|| self.tracer.read()).collect();
        (PathOutcome { verdict, frame }, records)
    }
}

/// The program for backends.
pub struct Decap(lb_user::decap::Program);

impl Decap {
    /// # Errors
    /// Without root, or if the program does not load.
    pub fn new(ends: &Ends) -> Result<Self> {
        let mut program = lb_user::decap::Program::load(&object()?)?;
        program.set(ends)?;
        Ok(Self(program))
    }

    /// Runs one packet. Yields its outcome, the XDP action, and the frame afterwards.
    ///
    /// # Errors
    /// If the kernel refuses to, or if the packet was not counted once.
    pub fn run(&mut self, packet: &[u8]) -> Result<(Outcome, u32, Vec<u8>)> {
        let before = self.0.counts()?;
        let mut frame = vec![0; 2048];
        let mut options = TestRunOptions::new();
        options.data_in = Some(packet);
        options.data_out = Some(&mut frame);
        let result = self.0.xdp()?.test_run(options)?;
        frame.truncate(result.data_size_out as usize);
        let after = self.0.counts()?;
        let counted: Vec<_> = Outcome::ALL.into_iter().filter(|&one| after[one as usize] != before[one as usize]).collect();
        let [outcome] = counted[..] else { bail!("one packet was counted as {counted:?}") };
        Ok((outcome, result.return_value, frame))
    }
}

/// The one verdict that was counted between two readings.
fn counted(before: &Totals, after: &Totals) -> Result<Verdict> {
    ensure!(after.received == before.received + 1, "received went from {} to {}", before.received, after.received);
    let counted: Vec<Verdict> = Verdict::ALL.iter().copied().filter(|&verdict| after.of(verdict) != before.of(verdict)).collect();
    match counted[..] {
        [verdict] if after.of(verdict) == before.of(verdict) + 1 => Ok(verdict),
        _ => bail!("one packet was counted as {counted:?}"),
    }
}

/// The XDP action that a verdict stands for.
pub fn action(verdict: Verdict) -> u32 {
    use lb_common::verdict::Class;
    match (verdict, verdict.class()) {
        (Verdict::Tx | Verdict::EchoReply | Verdict::TooBig, _) => 3,
        (Verdict::Redirect | Verdict::Reply, _) => 4,
        (Verdict::Routed | Verdict::ReplyRouted, _) | (_, Class::Passed) => 2,
        _ => 1,
    }
}

/// Moves the calling thread into a network namespace of its own, which ends with it.
///
/// # Errors
/// Without root.
pub fn own_network_namespace() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace of our own takes root")
}

/// Makes the fixture's interfaces, routes and neighbours in the calling thread's network namespace.
///
/// # Errors
/// They are there already, or `ip` fails.
pub fn set_up_network() -> Result<Interfaces> {
    let mac = |mac: super::packets::Mac| lb_common::MacAddr::new(mac).to_string();
    let (ours, inside, gateway) = (mac(fixture::OURS), mac(fixture::OURS_INSIDE), mac(fixture::GATEWAY));
    let commands = [
        "ip link set lo up".into(),
        format!("ip link add outside address {ours} type veth peer name outside-end"),
        format!("ip link add inside address {inside} type veth peer name inside-end"),
        "ip link set outside up".into(),
        "ip link set outside-end up".into(),
        "ip link set inside up".into(),
        "ip link set inside-end up".into(),
        "sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1".into(),
        "ip address add 10.9.0.1/24 dev outside".into(),
        "ip address add fd09::1/64 dev outside nodad".into(),
        format!("ip neighbour add {} lladdr {gateway} dev outside", fixture::CLIENT),
        format!("ip neighbour add {} lladdr {gateway} dev outside", fixture::CLIENT_V6),
    ];
    for command in &commands {
        let mut words = command.split(' ');
        let program = words.next().context("a command has a first word")?;
        let output = Command::new(program).args(words).output().with_context(|| command.clone())?;
        ensure!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let index = |name: &str| -> Result<u32> {
        let text = std::fs::read_to_string(format!("/proc/thread-self/net/dev_snmp6/{name}"))?;
        let index = text.lines().find_map(|line| line.strip_prefix("ifIndex")).context("no ifIndex")?;
        Ok(index.trim().parse()?)
    };
    Ok(Interfaces { outside: index("outside")?, inside: index("inside")? })
}
