//! How busy backends are, as the packet path counts it. Here only flows are taken off that nobody will end any more.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;

use aya::Ebpf;
use lb_common::BackendId;
use lb_common::load::{Load, n_active};

use super::mapped::Mapped;
use super::{MapError, shape};

/// Handles to what the packet path keeps for algorithms that go by more than the hash.
pub struct Loads {
    backends: Mapped<Load>,
    services: Mapped<u64>,
    turns: Mapped<u64>,
    /// The packet path's own.
    _handshakes: Mapped<u64>,
    /// By how much each count was wrong when it was looked at last.
    wrong: RefCell<Wrong>,
}

#[derive(Default)]
struct Wrong {
    backends: BTreeMap<u32, u64>,
    services: BTreeMap<u32, u64>,
}

/// The 64-bit words of a [`Load`], of which the first is the number of active flows.
const WORDS: u32 = (size_of::<Load>() / size_of::<u64>()) as u32;

impl Loads {
    pub(super) fn take(ebpf: &mut Ebpf, pins: Option<&Path>) -> Result<Self, MapError> {
        Ok(Self {
            backends: Mapped::take(ebpf, &shape::BACKEND_LOADS, pins)?,
            services: Mapped::take(ebpf, &shape::SERVICE_LOADS, pins)?,
            turns: Mapped::take(ebpf, &shape::TURNS, pins)?,
            _handshakes: Mapped::take(ebpf, &shape::HANDSHAKES, pins)?,
            wrong: RefCell::default(),
        })
    }

    /// How busy a backend is.
    pub fn backend(&self, id: BackendId) -> Load {
        self.backends.read(usize::from(id.0)).unwrap_or_default()
    }

    /// Active flows of a service.
    pub fn active(&self, service: u16) -> u64 {
        n_active(self.services.load_long(service.into()))
    }

    /// The number of a service's next turn.
    pub fn turn(&self, service: u16) -> u64 {
        self.turns.load_long(service.into())
    }

    /// A flow was taken off the table: it is no longer its backend's, nor its service's.
    pub(super) fn take_off(&self, id: BackendId, service: u16) {
        self.backends.add_long(u32::from(id.0) * WORDS, u64::MAX);
        self.services.add_long(service.into(), u64::MAX);
    }

    /// Sets right what is wrong by the same number for the second time: by ids that changed hands while they had flows, or by a kernel
    /// without atomic exchange. Counts that only changed while flows were counted are let be.
    pub(super) fn set_right(&self, counted: &[u64], service_of: impl Fn(BackendId) -> u16) {
        let mut by_service = BTreeMap::<u32, u64>::new();
        for (id, &n) in (0..=u16::MAX).zip(counted).filter(|&(_, &n)| n > 0) {
            *by_service.entry(service_of(BackendId(id)).into()).or_default() += n;
        }
        let mut wrong = self.wrong.borrow_mut();
        let backends = (0..).zip(counted.iter().copied());
        wrong.backends = set_right(&self.backends, WORDS, backends, &wrong.backends);
        let services = (0..self.services.len() as u32).map(|id| (id, by_service.get(&id).copied().unwrap_or_default()));
        wrong.services = set_right(&self.services, 1, services, &wrong.services);
    }
}

fn set_right<T: super::mapped::Record>(
    counts: &Mapped<T>,
    n_words: u32,
    counted: impl Iterator<Item = (u32, u64)>,
    before: &BTreeMap<u32, u64>,
) -> BTreeMap<u32, u64> {
    let wrong = counted.map(|(id, n)| (id, n.wrapping_sub(counts.load_long(id * n_words)))).filter(|&(_, by)| by != 0);
    let (again, first): (Vec<_>, Vec<_>) = wrong.partition(|(id, by)| before.get(id) == Some(by));
    again.into_iter().for_each(|(id, by)| counts.add_long(id * n_words, by));
    first.into_iter().collect()
}
