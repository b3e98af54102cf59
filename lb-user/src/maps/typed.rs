//! Array maps of records, through the syscall.

use aya::maps::{Array, MapData};
use aya::{Ebpf, Pod};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::MapError;

/// What a map may hold: plain bytes without padding, of any value.
pub trait Record: FromBytes + IntoBytes + Immutable + Copy + 'static {}

impl<T: FromBytes + IntoBytes + Immutable + Copy + 'static> Record for T {}

/// A record in aya's terms.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub struct Plain<T>(pub T);

// SAFETY: `Record` says that T has no padding (IntoBytes) and that any bytes make one (FromBytes), which is what Pod asks.
unsafe impl<T: Record> Pod for Plain<T> {}

/// An array map of records.
pub struct Records<T: Record> {
    name: &'static str,
    array: Array<MapData, Plain<T>>,
}

impl<T: Record> Records<T> {
    pub fn take(ebpf: &mut Ebpf, name: &'static str, n_elements: u32) -> Result<Self, MapError> {
        let map = ebpf.take_map(name).ok_or(MapError::Missing { name })?;
        let array = Array::try_from(map).map_err(|source| MapError::Open { name, source })?;
        let records = Self { name, array };
        records.check_len(n_elements)?;
        Ok(records)
    }

    fn check_len(&self, wanted: u32) -> Result<(), MapError> {
        let found = self.array.len();
        let len = size_of::<T>() as u32;
        if found == wanted {
            return Ok(());
        }
        Err(MapError::Shape { name: self.name, found, found_len: len, wanted, wanted_len: len })
    }

    pub fn set(&mut self, index: u32, record: T) -> Result<(), MapError> {
        self.array.set(index, Plain(record), 0).map_err(|source| MapError::Element { name: self.name, index, source })
    }

    /// All elements with their indices.
    pub fn iter(&self) -> Result<impl Iterator<Item = (u32, T)>, MapError> {
        let elements: Result<Vec<T>, MapError> = (0..self.array.len())
            .map(|index| match self.array.get(&index, 0) {
                Ok(Plain(record)) => Ok(record),
                Err(source) => Err(MapError::Element { name: self.name, index, source }),
            })
            .collect();
        Ok((0..).zip(elements?))
    }
}
