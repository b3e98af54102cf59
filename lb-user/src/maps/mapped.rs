//! Array maps in the daemon's own memory (BPF_F_MMAPABLE, Linux 5.5): a slot changes with one store instead of one syscall,
//! and a word changes as a whole.

use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use super::MapError;
use super::typed::Record;

/// An array of records that this process and the packet path share.
pub struct Mapped<T: Record> {
    memory: NonNull<T>,
    n_elements: usize,
    // Keeps the map alive; the mapping alone would too, but a daemon that shows its maps wants the descriptor.
    _map: MapData,
    _records: PhantomData<T>,
}

// SAFETY: the memory belongs to the mapping, not to a thread; writes need `&mut self` or are atomic.
unsafe impl<T: Record + Send> Send for Mapped<T> {}

impl<T: Record> Mapped<T> {
    pub fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<Self, MapError> {
        let Some(Map::Array(map)) = ebpf.take_map(name) else { return Err(MapError::Missing { name }) };
        let info = map.info().map_err(|source| MapError::Open { name, source })?;
        let wanted_len = size_of::<T>() as u32;
        let n_elements = info.max_entries();
        if info.value_size() != wanted_len {
            let (found, found_len) = (n_elements, info.value_size());
            return Err(MapError::Shape { name, found, found_len, wanted: n_elements, wanted_len });
        }
        let len = n_elements as usize * size_of::<T>();
        // SAFETY: a fresh mapping at an address that the kernel chooses; nothing of ours is there.
        let memory =
            unsafe { mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, map.fd(), 0) };
        let memory = memory.map_err(|error| MapError::Mmap { name, source: error.into() })?;
        let memory = NonNull::new(memory.cast()).ok_or(MapError::Missing { name })?;
        Ok(Self { memory, n_elements: n_elements as usize, _map: map, _records: PhantomData })
    }

    pub fn len(&self) -> usize {
        self.n_elements
    }

    pub fn read(&self, index: usize) -> Option<T> {
        // SAFETY: the index is within the mapping, which is aligned to a page and holds plain records. The packet path writes to none of them.
        (index < self.n_elements).then(|| unsafe { self.memory.add(index).read_volatile() })
    }

    /// Changes an element that nothing reads yet, or whose single words do not depend on each other.
    pub fn with(&mut self, index: usize, change: impl FnOnce(&mut T)) {
        if let Some(mut record) = self.read(index) {
            change(&mut record);
            // SAFETY: as in `read`, and this is the only writer.
            unsafe { self.memory.add(index).write_volatile(record) };
        }
    }

    /// The 32-bit word at this position of the whole map.
    fn word(&self, index: u32) -> Option<&AtomicU32> {
        let n_words = self.n_elements * size_of::<T>() / size_of::<u32>();
        // SAFETY: within the mapping and aligned; all accesses to shared words in this process are atomic or under `&mut self`.
        ((index as usize) < n_words).then(|| unsafe { self.memory.cast::<AtomicU32>().add(index as usize).as_ref() })
    }

    /// Changes one word, after everything written before it.
    pub fn store_word(&mut self, index: u32, value: u32) {
        if let Some(word) = self.word(index) {
            word.store(value, Ordering::Release);
        }
    }

    /// Changes one 64-bit word, after everything written before it. `index` counts such words.
    pub fn store_long(&mut self, index: u32, value: u64) {
        let n_longs = self.n_elements * size_of::<T>() / size_of::<u64>();
        if (index as usize) < n_longs {
            // SAFETY: within the mapping and aligned, as a page is; other accesses to it are atomic or under `&mut self`.
            let long = unsafe { self.memory.cast::<AtomicU64>().add(index as usize).as_ref() };
            long.store(value, Ordering::Release);
        }
    }

    pub fn load_word(&self, index: u32) -> u32 {
        self.word(index).map_or(0, |word| word.load(Ordering::Acquire))
    }
}

impl<T: Record> Drop for Mapped<T> {
    fn drop(&mut self) {
        let len = self.n_elements * size_of::<T>();
        // SAFETY: exactly what was mapped, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.memory.as_ptr().cast(), len) };
        if let Err(error) = unmapped {
            tracing::debug!(%error, "unmapping a BPF map");
        }
    }
}
