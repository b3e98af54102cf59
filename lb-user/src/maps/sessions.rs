//! Sessions of full NAT from outside: how many ports of the pool are taken. The packet path alone takes them.

use std::path::Path;

use aya::Ebpf;
use lb_common::BackendId;
use lb_common::flow::Tick;
use lb_common::session::{Key, Pool, Session, State, word};

use super::mapped::Mapped;
use super::{MapError, shape};

/// A handle to the pool and its sessions.
pub struct Sessions {
    pool: Mapped<Pool>,
    sessions: Mapped<Session>,
    tags: Mapped<u64>,
}

impl Sessions {
    pub(super) fn take(ebpf: &mut Ebpf, wanted: &Pool, pins: Option<&Path>) -> Result<Self, MapError> {
        let [of_pool, of_sessions, of_tags] = shape::of_pool(&wanted.range);
        let mut pool = Mapped::<Pool>::take(ebpf, &of_pool, pins)?;
        if pool.read(0).as_ref() != Some(wanted) {
            pool.set(0, wanted)?;
        }
        let (sessions, tags) = (Mapped::take(ebpf, &of_sessions, pins)?, Mapped::take(ebpf, &of_tags, pins)?);
        Ok(Self { pool, sessions, tags })
    }

    pub fn pool(&self) -> Pool {
        self.pool.read(0).unwrap_or_default()
    }

    /// The tags of a line; none beyond the end.
    pub fn tags(&self, line: u32) -> u64 {
        self.tags.load_long(line)
    }

    /// A session, as it stands; `None` beyond the end.
    pub fn at(&self, index: u32) -> Option<Session> {
        self.sessions.read(index as usize)
    }

    /// Makes sessions nobody's whose backends are not there. Whoever gets a backend's id after it would have them otherwise.
    pub fn forget_all_but_of(&self, is_there: impl Fn(BackendId) -> bool) {
        for index in 0..self.pool().range.n_sessions() {
            let word = index * word::N as u32 + word::KEY as u32;
            let raw = self.sessions.load_long(word);
            let id = Key::from_raw(raw).backend();
            if !id.is_none() && !is_there(id) {
                // If it is another's by now, that one is there.
                self.sessions.clear_long(word, raw);
            }
        }
    }

    /// Ports of each address, by its number, that nobody may take.
    pub fn n_live(&self, now: Tick) -> Vec<u32> {
        let range = self.pool().range;
        let is_live =
            |index: &u32| State::from_raw(self.sessions.load_long(index * word::N as u32 + word::STATE as u32)).is_live(now);
        let of = |number: u32| (number * range.n_ports..(number + 1) * range.n_ports).filter(is_live).count() as u32;
        (0..range.n_v4 + range.n_v6).map(of).collect()
    }
}
