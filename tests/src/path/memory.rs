//! What the packet path in the kernel remembers, for tests in which hours pass in an instant: the kernel's clock cannot be set, so
//! what was noted by it is made older instead.

use anyhow::{Context, Result, bail, ensure};
use aya::Pod;
use aya::maps::{Array, Map, MapData};
use aya::programs::Xdp;
use lb_common::flow::{Entry, Tick};
use lb_common::limits;
use lb_common::session::{self, State};

use super::fixture::{N_FLOWS, N_SLOTS};

const N_FLOW_WORDS: usize = N_FLOWS as usize;
const N_LINES: usize = (N_SLOTS / limits::SLOTS_PER_LINE) as usize;
const N_BACKENDS: usize = limits::BACKEND_RECORDS as usize;
/// Words of the fixture's size of all [`Load`](lb_common::load::Load)s.
const N_LOAD_WORDS: usize = N_BACKENDS * size_of::<lb_common::load::Load>() / size_of::<u64>();
const N_SERVICES: usize = limits::SERVICE_RECORDS as usize;

/// Stack of a thread that has these tables in its hands, each of which is one element of a map.
pub const STACK_LEN: usize = 64 << 20;

/// A map of one element.
type Table<const N: usize, T> = Array<MapData, [T; N]>;

/// The tables with the times and the flows, as large as the fixture has them.
pub struct Memory {
    flows: Table<N_FLOW_WORDS, u64>,
    slots_seen: Table<N_LINES, Tick>,
    backends_seen: Table<N_BACKENDS, Tick>,
    backend_loads: Table<N_LOAD_WORDS, u64>,
    service_loads: Table<N_SERVICES, u64>,
}

impl Memory {
    /// That of a loaded program. The calling thread needs a stack of [`STACK_LEN`].
    ///
    /// # Errors
    /// The kernel does not tell its maps, or one has another shape.
    pub fn of(program: &Xdp) -> Result<Self> {
        Ok(Self {
            flows: open(program, "FLOWS")?,
            slots_seen: open(program, "SLOTS_SEEN")?,
            backends_seen: open(program, "BACKENDS_SEEN")?,
            backend_loads: open(program, "BACKEND_LOADS")?,
            service_loads: open(program, "SERVICE_LOADS")?,
        })
    }

    /// Makes all that was noted older.
    ///
    /// # Errors
    /// The kernel refuses to read or write a map.
    pub fn grow_older(&mut self, ticks: Tick) -> Result<()> {
        let older = |noted: Tick| if noted == 0 { 0 } else { noted.wrapping_sub(ticks) };
        change(&mut self.slots_seen, older)?;
        change(&mut self.backends_seen, older)?;
        change(&mut self.flows, |raw| {
            let entry = Entry::from_raw(raw);
            if entry.is_empty() {
                0
            } else {
                Entry::new(entry.tag(), entry.backend(), entry.state(), (raw as Tick).wrapping_sub(ticks)).raw()
            }
        })
    }

    /// Forgets everything.
    ///
    /// # Errors
    /// As for [`grow_older`](Self::grow_older).
    pub fn forget(&mut self) -> Result<()> {
        self.forget_flows()?;
        change(&mut self.slots_seen, |_| 0)?;
        change(&mut self.backends_seen, |_| 0)
    }

    /// Forgets all flows, which count for nobody any more.
    ///
    /// # Errors
    /// As for [`grow_older`](Self::grow_older).
    pub fn forget_flows(&mut self) -> Result<()> {
        change(&mut self.flows, |_| 0)?;
        change(&mut self.backend_loads, |_| 0)?;
        change(&mut self.service_loads, |_| 0)
    }
}

/// Ports of a pool whose sessions can be made older.
pub const N_SESSIONS: usize = 72;
const N_SESSION_WORDS: usize = N_SESSIONS * session::word::N;

/// The sessions of a pool of so many ports.
pub struct SessionMemory {
    sessions: Table<N_SESSION_WORDS, u64>,
    tags: Table<{ N_SESSIONS / session::LINE as usize }, u64>,
}

impl SessionMemory {
    /// Those of a loaded program.
    ///
    /// # Errors
    /// As for [`Memory::of`].
    pub fn of(program: &Xdp) -> Result<Self> {
        Ok(Self { sessions: open(program, "SESSIONS")?, tags: open(program, "SESSION_TAGS")? })
    }

    /// Makes all of them older.
    ///
    /// # Errors
    /// The kernel refuses to read or write a map.
    pub fn grow_older(&mut self, ticks: Tick) -> Result<()> {
        let mut word = 0;
        change(&mut self.sessions, |raw| {
            let is_state = word % session::word::N == session::word::STATE;
            word += 1;
            if !is_state {
                return raw;
            }
            // What is over stays over.
            let until = State::from_raw(raw).until();
            raw - u64::from(until) + u64::from(until.saturating_sub(ticks))
        })
    }

    /// Forgets all of them.
    ///
    /// # Errors
    /// As for [`grow_older`](Self::grow_older).
    pub fn forget(&mut self) -> Result<()> {
        change(&mut self.sessions, |_| 0)?;
        change(&mut self.tags, |_| 0)
    }
}

/// Where the packet path notes how much it has traced lately.
pub struct TraceWindow(Table<1, u64>);

impl TraceWindow {
    /// That of a loaded program.
    ///
    /// # Errors
    /// As for [`Memory::of`].
    pub fn of(program: &Xdp) -> Result<Self> {
        Ok(Self(open(program, "TRACE_WINDOW")?))
    }

    /// Begins a new one.
    ///
    /// # Errors
    /// The kernel refuses to write the map.
    pub fn renew(&mut self) -> Result<()> {
        change(&mut self.0, |_| 0)
    }
}

/// A map that the program has, by its name.
fn open<const N: usize, T: Pod>(program: &Xdp, name: &str) -> Result<Table<N, T>> {
    for id in program.info()?.map_ids()?.context("the kernel does not tell a program's maps")? {
        let map = MapData::from_id(id)?;
        let info = map.info()?;
        if info.name_as_str() == Some(name) {
            ensure!(info.value_size() as usize == size_of::<[T; N]>(), "map {name} has {} bytes", info.value_size());
            return Ok(Array::try_from(Map::Array(map))?);
        }
    }
    bail!("the program has no map {name}")
}

fn change<const N: usize, T: Pod>(table: &mut Table<N, T>, change: impl FnMut(T) -> T) -> Result<()> {
    let records = table.get(&0, 0)?.map(change);
    Ok(table.set(0, records, 0)?)
}
