//! The maps of a program, for the one that takes its place.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use aya::Ebpf;
use aya::maps::{Map, MapData};

use super::mapped::{anchor, replace};
use super::{MapError, shape};

/// Constants: each program has its own.
const CONSTANTS: &str = ".rodata";

/// Descriptors of all maps that a program has, by aya's names.
pub struct Shared(BTreeMap<String, OwnedFd>);

/// The descriptors of an object's maps, before anybody takes them from there. They are the same afterwards, whatever they stand for then.
pub(super) fn anchors(ebpf: &Ebpf) -> BTreeMap<String, RawFd> {
    let maps = ebpf.maps().filter_map(|(name, map)| Some((name.to_owned(), descriptor(name, map)?.as_raw_fd())));
    maps.collect()
}

/// What is shared of a map, if anything.
fn descriptor<'m>(name: &str, map: &'m Map) -> Option<BorrowedFd<'m>> {
    match map {
        Map::Array(data) | Map::RingBuf(data) if name != CONSTANTS => Some(data.fd().as_fd()),
        _ => None,
    }
}

impl Shared {
    /// Those that were put into the places of these anchors, which all are still owned by somebody.
    pub(super) fn of(anchors: BTreeMap<String, RawFd>) -> Result<Self, MapError> {
        let copied = anchors.into_iter().map(|(name, descriptor)| {
            // SAFETY: the object and those who took maps of it are there as long as this call, and own it.
            let copy = unsafe { BorrowedFd::borrow_raw(descriptor) }.try_clone_to_owned();
            copy.map(|copy| (name.clone(), copy)).map_err(|source| MapError::Share { name, source })
        });
        Ok(Self(copied.collect::<Result<_, _>>()?))
    }

    /// Pins those that are to outlive the daemon and have no pin in this directory, each under its name.
    ///
    /// # Errors
    /// If one cannot be pinned.
    pub fn pin(&self, directory: &Path) -> Result<(), MapError> {
        for name in shape::names().filter(|name| !directory.join(name).exists()) {
            let shared = self.0.get(&anchor(name)).ok_or(MapError::Missing { name })?;
            let copy = shared.try_clone().map_err(|source| MapError::Share { name: name.to_owned(), source })?;
            let map = MapData::from_fd(copy).map_err(|source| MapError::Open { name, source })?;
            map.pin(directory.join(name)).map_err(|source| MapError::Pin { name, source: Box::new(source) })?;
        }
        Ok(())
    }

    /// Puts them into the places of another object's, whose programs are still to be loaded.
    pub(super) fn give_to(&self, ebpf: &Ebpf) -> Result<(), MapError> {
        for (name, map) in ebpf.maps() {
            if let (Some(place), Some(shared)) = (descriptor(name, map), self.0.get(name)) {
                replace(place, shared.as_fd())
                    .map_err(|error| MapError::Share { name: name.to_owned(), source: error.into() })?;
            }
        }
        Ok(())
    }
}
