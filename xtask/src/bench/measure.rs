//! How the cost of an XDP program is measured: many packets through a wrapper program around it (see
//! `lb-ebpf/src/bin/bench-wrapper`), less the same around a program that only returns.
//!
//! What would spoil the figure, and what is done about it:
//! - Clocks: the wrapper reads the clock, every two thousand packets or so, and the figure comes from these
//!   segments. The wall clock around the system call contains two waits for RCU; the kernel's own figure is in whole
//!   nanoseconds and contains the timer's ticks.
//! - Overlap: the wrapper fences, so that no packet begins before the one before has ended. Without, the processor
//!   hides up to 80 ns of work that nothing waits for.
//! - Neighbours on the same core, for moments: of a run, the figure is the segment that a tenth are faster than, for the
//!   program as for the floor. Under load the median moved by half from run to run, and this by a tenth.
//! - Neighbours for longer: the floor always does the same work. It is measured before and after every try, and
//!   tries whose floors are not near the best one do not count.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader, Pod, TestRun, TestRunOptions};

use super::packets;
use super::tries::{Measured, TOLERANCE, Tries, Try};
use state::{PACKET_MAX, Packet, State, TIMES};

#[path = "../../../lb-ebpf/src/bin/bench-wrapper/state.rs"]
mod state;

// SAFETY: integers in C's order, in falling size: no padding.
unsafe impl Pod for State {}
// SAFETY: as above.
unsafe impl Pod for Packet {}

/// Packets in one run of the program under test; the floors take a quarter.
const N_PACKETS: u32 = 1_000_000;
const N_PACKETS_FLOOR: u32 = N_PACKETS / 4;
/// At most this many tries for each wanted one.
const TRIES_PER_RUN: usize = 8;
/// How long to wait for quiet, over all tries of one figure.
const WAIT_LIMIT: Duration = Duration::from_secs(20);
const WAIT_STEP: Duration = Duration::from_millis(20);

/// A loaded object and its one program of interest.
pub struct Loaded {
    ebpf: Ebpf,
    program: &'static str,
}

impl Loaded {
    /// # Errors
    /// The object cannot be read, has no such program, or the kernel refuses it.
    pub fn load(object: &Path, program: &'static str) -> Result<Self> {
        Self::take(Ebpf::load_file(object).with_context(|| format!("loading {}", object.display()))?, program)
    }

    /// A program of an object whose maps are set up already.
    ///
    /// # Errors
    /// The object has no such program, or the kernel refuses it.
    pub fn take(mut ebpf: Ebpf, program: &'static str) -> Result<Self> {
        load_program(&mut ebpf, program)?;
        Ok(Self { ebpf, program })
    }

    /// # Errors
    /// None: the program was found when it was loaded.
    pub fn program(&self) -> Result<&Xdp> {
        Ok(self.ebpf.program(self.program).context(self.program)?.try_into()?)
    }

    /// # Errors
    /// The object has no such map.
    pub fn map(&mut self, name: &str) -> Result<&mut Map> {
        self.ebpf.map_mut(name).with_context(|| format!("no map {name}"))
    }
}

fn load_program(ebpf: &mut Ebpf, name: &str) -> Result<ProgramFd> {
    let program: &mut Xdp = ebpf.program_mut(name).with_context(|| format!("no program {name}"))?.try_into()?;
    lb_user::datapath::load(program).with_context(|| format!("loading {name}"))?;
    Ok(program.fd()?.try_clone()?)
}

/// Keeps this process on one CPU, before others: packets of one run must not wander between caches.
///
/// # Errors
/// Not allowed to.
pub fn quiet_process() -> Result<()> {
    let n_cpus = std::thread::available_parallelism()?.get();
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(n_cpus - 1);
    rustix::thread::sched_setaffinity(None, &cpus).context("staying on one CPU")?;
    rustix::process::setpriority_process(None, -20).context("going before others")
}

/// Measures a loaded XDP program on `packets`, taken in turn, each time with another of `flows` clients.
///
/// `wrapper` is the object of the wrapper. `flows` is a power of two; 1 leaves the packets as they are. Checksums are not
/// adapted to the client. The figure includes one `bpf_xdp_adjust_head`, if the program makes one.
///
/// # Errors
/// The wrapper does not load, cannot tail-call the program (attach type or `frags` differ), or cannot undo what the
/// program does to a packet.
pub fn measure(wrapper: &Path, program: &Xdp, packets: &[Vec<u8>], flows: u32, runs: usize) -> Result<Measured> {
    ensure!(flows.is_power_of_two(), "{flows} flows: must be a power of two");
    let (action, growth) = try_once(program, packets)?;
    let program = program.fd()?.try_clone()?;
    let mut wrapper = Wrapper::load(wrapper, packets, flows, growth)?;
    let empty = wrapper.empty.try_clone()?;

    // Caches, predictors, and every flow's place in the program's tables.
    for _ in 0..1 + 3 * flows / N_PACKETS {
        wrapper.run(&program, N_PACKETS)?;
    }
    let mut tries = Tries::default();
    let mut undoing = Undoing::of(&wrapper)?;
    let mut waited = Duration::ZERO;
    while tries.quiet().len() < runs && tries.made.len() < runs * TRIES_PER_RUN {
        let before = wrapper.floor(&empty)?;
        tries.best_floor = tries.best_floor.min(before);
        if before > tries.best_floor * (1.0 + TOLERANCE) && waited < WAIT_LIMIT {
            let start = Instant::now();
            std::thread::sleep(WAIT_STEP);
            waited += start.elapsed();
            continue;
        }
        let total = wrapper.run(&program, N_PACKETS)?;
        undoing.measure(&mut wrapper)?;
        let after = wrapper.floor(&empty)?;
        tries.best_floor = tries.best_floor.min(after);
        let floor = f64::midpoint(before, after);
        tries.made.push(Try { floors: [before, after], net: total - floor });
    }
    let undoing = undoing.ns(tries.best_floor);
    for one in &mut tries.made {
        one.net -= undoing;
    }
    tries.finish(runs, action)
}

/// What the wrapper takes to move a packet's beginning back, which is none of the program's cost.
struct Undoing {
    /// The program that moves the beginning, and the one that moves it there and back; none if the program under test does not.
    programs: Option<[ProgramFd; 2]>,
    /// What each took at best, with the floor, in nanoseconds a packet.
    best: [f64; 2],
}

impl Undoing {
    fn of(wrapper: &Wrapper) -> Result<Self> {
        let programs = match &wrapper.adjust {
            Some([adjust, and_back]) => Some([adjust.try_clone()?, and_back.try_clone()?]),
            None => None,
        };
        Ok(Self { programs, best: [f64::INFINITY; 2] })
    }

    fn measure(&mut self, wrapper: &mut Wrapper) -> Result<()> {
        for (program, best) in self.programs.iter().flatten().zip(&mut self.best) {
            *best = best.min(wrapper.floor(program)?);
        }
        Ok(())
    }

    fn ns(&self, floor: f64) -> f64 {
        let [adjust, and_back] = self.best.map(|best| (best - floor).max(0.0));
        // Half of there and back is one move: the program's.
        if self.programs.is_some() { (adjust - and_back / 2.0).max(0.0) } else { 0.0 }
    }
}

/// What the program does with each packet, and by how much it lengthens or shortens it at the front (0 if that differs).
fn try_once(program: &Xdp, packets: &[Vec<u8>]) -> Result<(&'static str, i32)> {
    const ACTIONS: [&str; 5] = ["XDP_ABORTED", "XDP_DROP", "XDP_PASS", "XDP_TX", "XDP_REDIRECT"];
    let mut outcomes = Vec::new();
    for packet in packets {
        ensure!((14..=PACKET_MAX).contains(&packet.len()), "a packet of {} bytes: 14 to {PACKET_MAX} work", packet.len());
        let mut out = vec![0; PACKET_MAX + 256];
        let options = TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::default() };
        let result = program.test_run(options).context("running the program once")?;
        let action = ACTIONS.get(result.return_value as usize).copied().unwrap_or("an unknown action");
        outcomes.push((action, result.data_size_out as i32 - packet.len() as i32));
    }
    let Some(&(action, growth)) = outcomes.first() else { bail!("no packets to measure with") };
    let is_same = outcomes.iter().all(|outcome| *outcome == (action, growth));
    Ok(if is_same { (action, growth) } else { ("several actions", 0) })
}

/// The wrapper program, loaded for one figure.
struct Wrapper {
    ebpf: Ebpf,
    state: Array<MapData, State>,
    times: Array<MapData, u64>,
    program: ProgramArray<MapData>,
    empty: ProgramFd,
    /// Only if the program under test moves the beginning of packets: the program that does so too, and the one that undoes it.
    adjust: Option<[ProgramFd; 2]>,
    first_packet: Vec<u8>,
    next_flow: u32,
    n_packets: u32,
    flow_mask: u32,
}

impl Wrapper {
    fn load(object: &Path, packets: &[Vec<u8>], flows: u32, growth: i32) -> Result<Self> {
        let n_packets = u32::try_from(packets.len())?;
        let head_delta = -growth;
        let mut ebpf = EbpfLoader::new()
            .map_max_entries("PACKETS", n_packets)
            .override_global("HEAD_DELTA", &head_delta, true)
            .load_file(object)
            .with_context(|| format!("loading {}", object.display()))?;
        load_program(&mut ebpf, "wrapper")?;
        let empty = load_program(&mut ebpf, "empty")?;
        let mut load = |name| load_program(&mut ebpf, name);
        let adjust = if growth != 0 { Some([load("adjust")?, load("adjust_and_back")?]) } else { None };
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("the wrapper has no map {name}"));
        let mut elements: Array<_, Packet> = Array::try_from(take("PACKETS")?)?;
        for (index, packet) in (0..).zip(packets) {
            elements.set(index, element(packet, flows)?, 0)?;
        }
        Ok(Self {
            state: Array::try_from(take("STATE")?)?,
            times: Array::try_from(take("TIMES_NS")?)?,
            program: ProgramArray::try_from(take("PROGRAM")?)?,
            ebpf,
            empty,
            adjust,
            first_packet: packets[0].clone(),
            next_flow: 0,
            n_packets,
            flow_mask: flows - 1,
        })
    }

    /// Nanoseconds a packet of the wrapper around a program that is not under test: it consumes no flows.
    fn floor(&mut self, program: &ProgramFd) -> Result<f64> {
        let next_flow = self.next_flow;
        let ns = self.run(program, N_PACKETS_FLOOR);
        self.next_flow = next_flow;
        ns
    }

    /// Nanoseconds a packet of the wrapper around `program`: what a tenth of the run's segments are faster than.
    fn run(&mut self, program: &ProgramFd, n_packets: u32) -> Result<f64> {
        self.program
            .set(0, program, 0)
            .context("the wrapper cannot tail-call the program: both must be of type XDP and support fragments, or neither")?;
        // 256 segments at least, so that a tenth are some; fewer than the times that are kept.
        let segment_bits = (n_packets / 256).ilog2().max((n_packets / (TIMES - 1)).ilog2());
        let state = State {
            n_calls: 0,
            segment_bits: segment_bits.into(),
            base: 0,
            begin: 0,
            n_heads_moved: 0,
            n_tails_moved: 0,
            n_failed: 0,
            fence: 0,
            next_packet: 0,
            n_packets: self.n_packets,
            next_flow: self.next_flow,
            flow_mask: self.flow_mask,
        };
        self.state.set(0, state, 0)?;
        let wrapper: &Xdp = self.ebpf.program("wrapper").context("wrapper")?.try_into()?;
        let options = TestRunOptions { data_in: Some(&self.first_packet), repeat: n_packets, ..TestRunOptions::default() };
        wrapper.test_run(options).context("running the wrapper")?;
        let state = self.state.get(&0, 0)?;
        ensure!(state.n_failed == 0, "{} of {n_packets} packets could not be restored", state.n_failed);
        ensure!(state.n_calls == u64::from(n_packets), "{} of {n_packets} packets ran", state.n_calls);
        self.next_flow = state.next_flow;

        let n_segments = ((n_packets - 1) >> segment_bits).min(TIMES - 1);
        let times = (0..=n_segments).map(|index| self.times.get(&index, 0)).collect::<Result<Vec<_>, _>>()?;
        let mut segments: Vec<f64> =
            times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / f64::from(1u32 << segment_bits)).collect();
        segments.sort_by(f64::total_cmp);
        Ok(segments[segments.len() / 10])
    }
}

/// The packet with the places of its client's address and port, as the wrapper wants it.
fn element(packet: &[u8], flows: u32) -> Result<Packet> {
    let (client_address_at, client_port_at) = match packets::client_at(packet) {
        Some(places) => places,
        None if flows == 1 => (0, 0),
        None => bail!("flows vary only in packets from or to the client"),
    };
    let mut bytes = [0; PACKET_MAX];
    bytes[..packet.len()].copy_from_slice(packet);
    Ok(Packet { last: packet.len() as u32 - 1, client_address_at, client_port_at, bytes })
}
