//! Tables in the daemon's own memory (BPF_F_MMAPABLE, Linux 5.5): a record changes with a few stores instead of one syscall, and
//! a word changes as a whole.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use aya::Ebpf;
use aya::maps::{Map, MapData};
use aya_obj::generated::bpf_map_type;
use rustix::io::{DupFlags, Errno, dup3};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::MapError;
use super::shape::Shape;

const BPF_F_MMAPABLE: u32 = 1 << 10;

/// What a table may hold: plain bytes without padding, of any value.
pub trait Record: FromBytes + IntoBytes + Immutable + Copy + 'static {}

impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Record for T {}

/// What aya calls the map that the program's anchor for a table makes.
pub(super) fn anchor(table: &str) -> String {
    format!(".bss.{table}")
}

/// Makes a table, or opens the one that an earlier daemon left pinned. New ones are pinned where `pin` says.
///
/// # Errors
/// If the kernel refuses.
fn open(shape: &Shape, pin: Option<&Path>) -> Result<MapData, MapError> {
    let name = shape.name;
    if let Some(pin) = pin.filter(|pin| pin.exists()) {
        return MapData::from_pin(pin).map_err(|source| MapError::Open { name, source });
    }
    let array = bpf_map_type::BPF_MAP_TYPE_ARRAY as u32;
    let definition = aya_obj::Map::new_from_params(array, size_of::<u32>() as u32, shape.len, 1, BPF_F_MMAPABLE);
    let map = MapData::create(definition, name, None).map_err(|source| match crate::error::os_code(&source) {
        Some(code) if code == Errno::TOOBIG.raw_os_error() => MapError::TooLarge { name, len: shape.len, advice: shape.advice() },
        _ => MapError::Open { name, source },
    })?;
    if let Some(pin) = pin {
        map.pin(pin).map_err(|source| MapError::Pin { name, source: Box::new(source) })?;
    }
    Ok(map)
}

/// An array of records that this process and the packet path share.
pub struct Mapped<T: Record> {
    name: &'static str,
    memory: NonNull<T>,
    n_records: usize,
    // The program is loaded by this descriptor's number, later.
    _map: MapData,
    _records: PhantomData<T>,
}

// SAFETY: the memory belongs to the mapping, not to a thread; writes need `&mut self`.
unsafe impl<T: Record + Send> Send for Mapped<T> {}
// SAFETY: `&self` only reads, and what this process does not write, the packet path changes in whole words.
unsafe impl<T: Record + Sync> Sync for Mapped<T> {}

impl<T: Record> Mapped<T> {
    /// Makes a table, or opens the one pinned under its name in `pins`, and puts it in the place of the map that aya made for the
    /// program's anchor.
    ///
    /// # Errors
    /// If the program has no such anchor, the table has another shape, or the kernel refuses.
    pub fn take(ebpf: &mut Ebpf, shape: &Shape, pins: Option<&Path>) -> Result<Self, MapError> {
        let name = shape.name;
        let table = open(shape, pins.map(|pins| pins.join(name)).as_deref())?;
        let Some(Map::Array(map)) = ebpf.take_map(&anchor(name)) else { return Err(MapError::Missing { name }) };
        let info = table.info().map_err(|source| MapError::Open { name, source })?;
        if info.value_size() != shape.len || info.max_entries() != 1 {
            return Err(MapError::Shape { name, found: info.value_size(), wanted: shape.len });
        }
        replace(map.fd().as_fd(), table.fd().as_fd()).map_err(|error| MapError::Mmap { name, source: error.into() })?;
        // SAFETY: a fresh mapping at an address that the kernel chooses; nothing of ours is there.
        let memory = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            mmap(std::ptr::null_mut(), shape.len as usize, access, MapFlags::SHARED, map.fd(), 0)
        };
        let memory = memory.map_err(|error| MapError::Mmap { name, source: error.into() })?;
        let memory = NonNull::new(memory.cast()).ok_or(MapError::Missing { name })?;
        Ok(Self { name, memory, n_records: shape.len as usize / size_of::<T>(), _map: map, _records: PhantomData })
    }

    pub fn len(&self) -> usize {
        self.n_records
    }

    pub fn read(&self, index: usize) -> Option<T> {
        // SAFETY: the index is within the mapping, which is aligned to a page and holds plain records. The packet path writes to none of them.
        (index < self.n_records).then(|| unsafe { self.memory.add(index).read_volatile() })
    }

    /// All records with their indices.
    pub fn iter(&self) -> impl Iterator<Item = (u32, T)> {
        (0..self.n_records).filter_map(|index| Some((index as u32, self.read(index)?)))
    }

    /// Writes a record, each 64-bit word of it as a whole.
    ///
    /// # Errors
    /// [`MapError::Index`] beyond the end.
    pub fn set(&mut self, index: u32, record: &T) -> Result<(), MapError> {
        const { assert!(size_of::<T>().is_multiple_of(size_of::<u64>())) };
        let n_words = size_of::<T>() / size_of::<u64>();
        if index as usize >= self.n_records {
            return Err(MapError::Index { name: self.name, index, n_records: self.n_records });
        }
        let words = record.as_bytes().chunks_exact(size_of::<u64>());
        for (offset, word) in words.enumerate() {
            let mut bytes = [0; size_of::<u64>()];
            bytes.copy_from_slice(word);
            self.store_long((index as usize * n_words + offset) as u32, u64::from_ne_bytes(bytes));
        }
        Ok(())
    }

    /// The 32-bit word at this position of the whole table.
    fn word(&self, index: u32) -> Option<&AtomicU32> {
        let n_words = self.n_records * size_of::<T>() / size_of::<u32>();
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
        if let Some(long) = self.long(index) {
            long.store(value, Ordering::Release);
        }
    }

    fn long(&self, index: u32) -> Option<&AtomicU64> {
        let n_longs = self.n_records * size_of::<T>() / size_of::<u64>();
        // SAFETY: within the mapping and aligned, as a page is; other accesses to it are atomic or under `&mut self`.
        ((index as usize) < n_longs).then(|| unsafe { self.memory.cast::<AtomicU64>().add(index as usize).as_ref() })
    }

    /// The 64-bit word at this position, 0 beyond the end.
    pub fn load_long(&self, index: u32) -> u64 {
        self.long(index).map_or(0, |long| long.load(Ordering::Acquire))
    }

    /// Clears a 64-bit word, unless it is another by now: then the packet path was faster. This is what one may do who does not own
    /// the table.
    pub fn clear_long(&self, index: u32, seen: u64) -> bool {
        self.long(index).is_some_and(|long| long.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok())
    }

    /// Adds to a 64-bit word, which wraps. The packet path may do so too.
    pub fn add_long(&self, index: u32, change: u64) {
        if let Some(long) = self.long(index) {
            long.fetch_add(change, Ordering::AcqRel);
        }
    }

    pub fn load_word(&self, index: u32) -> u32 {
        self.word(index).map_or(0, |word| word.load(Ordering::Acquire))
    }
}

/// Makes `place`'s descriptor stand for `table`'s map. aya has written the number of that descriptor into the program, which the
/// kernel has not seen yet, and offers no other way to give a section a map of our own making.
pub(super) fn replace(place: BorrowedFd<'_>, table: BorrowedFd<'_>) -> rustix::io::Result<()> {
    // SAFETY: `place` has an owner, who goes on owning it; this second owner is never dropped, and nobody else uses it meanwhile.
    let mut descriptor = ManuallyDrop::new(unsafe { OwnedFd::from_raw_fd(place.as_raw_fd()) });
    dup3(table, &mut descriptor, DupFlags::CLOEXEC)
}

impl<T: Record> Drop for Mapped<T> {
    fn drop(&mut self) {
        let len = self.n_records * size_of::<T>();
        // SAFETY: exactly what was mapped, and no reference into it outlives `self`.
        let unmapped = unsafe { munmap(self.memory.as_ptr().cast(), len) };
        if let Err(error) = unmapped {
            tracing::debug!(%error, "unmapping a BPF map");
        }
    }
}
