//! The BPF maps: typed handles. All that the daemon's `unsafe` is for stands in this room.
//!
//! [`KernelMaps`] writes the control plane's tables, and there is one of it; [`Counters`] reads what the packet path counts, and
//! there may be many.

mod counters;
mod mapped;
mod typed;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use aya::Ebpf;
use lb_common::directory::Bucket;
use lb_common::hash::HashKeys;
use lb_common::records::{Backend, LAYOUT_VERSION, Link, Service, Settings, SlotLine, link_flags};
use lb_common::{BackendId, limits};

pub use counters::Counters;
use mapped::Mapped;
use typed::Records;

use crate::tables::{FilledDirectory, Write};

#[derive(Debug, thiserror::Error)]
pub enum MapError {
    #[error("map {name} is not in the BPF object; the object and this binary are of different versions")]
    Missing { name: &'static str },
    #[error("map {name}, element {index}")]
    Element { name: &'static str, index: u32, source: aya::maps::MapError },
    #[error("map {name}")]
    Open { name: &'static str, source: aya::maps::MapError },
    #[error("map {name} cannot be mapped into memory")]
    Mmap { name: &'static str, source: std::io::Error },
    #[error("map {name} has {found} elements of {found_len} bytes, this version needs {wanted} of {wanted_len}")]
    Shape { name: &'static str, found: u32, found_len: u32, wanted: u32, wanted_len: u32 },
}

/// The control plane's maps, to be written by one task.
pub struct KernelMaps {
    settings: Mapped<Settings>,
    slots: Mapped<SlotLine>,
    service_buckets: Records<Bucket>,
    reply_buckets: Records<Bucket>,
    services: Records<Service>,
    backends: Records<Backend>,
    links: Records<Link>,
    known_links: BTreeMap<u32, bool>,
}

impl KernelMaps {
    /// Takes the maps out of a loaded object.
    ///
    /// # Errors
    /// If one is missing or has another shape, as a pinned one of another version may have.
    pub fn take(ebpf: &mut Ebpf) -> Result<Self, MapError> {
        Ok(Self {
            settings: Mapped::take(ebpf, "SETTINGS")?,
            slots: Mapped::take(ebpf, "SLOTS")?,
            service_buckets: Records::take(ebpf, "SERVICE_BUCKETS", 2 * limits::SERVICE_BUCKETS)?,
            reply_buckets: Records::take(ebpf, "REPLY_BUCKETS", 2 * limits::REPLY_BUCKETS)?,
            services: Records::take(ebpf, "SERVICES", limits::SERVICE_RECORDS)?,
            backends: Records::take(ebpf, "BACKENDS", limits::BACKEND_RECORDS)?,
            links: Records::take(ebpf, "LINKS", limits::LINKS)?,
            known_links: BTreeMap::new(),
        })
    }

    /// Number of slots that the map was made with.
    pub fn n_slots(&self) -> u32 {
        self.slots.len() as u32 * limits::SLOTS_PER_LINE
    }

    /// The layout version and keys that a running program uses; a version of 0 is a fresh map.
    pub fn settings(&self) -> Settings {
        self.settings.read(0).unwrap_or_default()
    }

    /// Sets the secret. Before the first service, or flows move.
    pub fn set_hash_keys(&mut self, keys: HashKeys) {
        self.settings.with(0, |settings| {
            settings.hash_keys = keys;
            settings.layout_version = LAYOUT_VERSION;
        });
    }

    /// Carries out one change.
    ///
    /// # Errors
    /// If the kernel refuses, which it does for no index within the limits.
    pub fn write(&mut self, write: &Write) -> Result<(), MapError> {
        match write {
            Write::Backend(id, record) => self.backends.set(u32::from(id.0), *record),
            Write::Service(id, record) => self.services.set(u32::from(*id), *record),
            Write::Slots(slots) => {
                for &(number, slot) in slots {
                    self.slots.store_word(number, slot.raw());
                }
                Ok(())
            }
            Write::ServiceDirectory(directory) => {
                let half = 1 - self.settings().services.half();
                fill_half(&mut self.service_buckets, half * limits::SERVICE_BUCKETS, directory)?;
                self.settings.store_long(Settings::SERVICES_WORD, directory.filled.in_half(half).raw());
                Ok(())
            }
            Write::ReplyDirectory(directory) => {
                let half = 1 - self.settings().replies.half();
                fill_half(&mut self.reply_buckets, half * limits::REPLY_BUCKETS, directory)?;
                self.settings.store_long(Settings::REPLIES_WORD, directory.filled.in_half(half).raw());
                Ok(())
            }
            Write::Flags(flags) => {
                self.settings.store_word(Settings::FLAGS_WORD, *flags);
                Ok(())
            }
        }
    }

    /// Notes which interfaces take redirected frames; those not named do not.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn set_links(&mut self, links: &BTreeMap<u32, bool>) -> Result<(), MapError> {
        for &ifindex in self.known_links.keys().filter(|ifindex| !links.contains_key(ifindex)) {
            self.links.set(ifindex, Link::default())?;
        }
        for (&ifindex, &takes_redirects) in links.iter().filter(|(ifindex, _)| **ifindex < limits::LINKS) {
            let flags = if takes_redirects { link_flags::REDIRECT } else { 0 };
            self.links.set(ifindex, Link { flags, pad: 0 })?;
        }
        self.known_links = links.clone();
        self.known_links.retain(|&ifindex, _| ifindex < limits::LINKS);
        Ok(())
    }

    /// What a running program's records say: services and backends in use, by id.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn records(&self) -> Result<RecordsInUse, MapError> {
        let services = self.services.iter()?.filter(|(_, service)| *service != Service::default());
        let backends = self.backends.iter()?.filter(|(_, backend)| *backend != Backend::default());
        Ok(RecordsInUse {
            services: services.map(|(id, service)| (id as u16, service)).collect(),
            backends: backends.map(|(id, backend)| (BackendId(id as u16), backend)).collect(),
        })
    }

    /// The slots of a region.
    pub fn region(&self, first_line: u32, bits: u32) -> Arc<[lb_common::Slot]> {
        let first_slot = first_line * limits::SLOTS_PER_LINE;
        (first_slot..first_slot + (1 << bits)).map(|number| lb_common::Slot::from_raw(self.slots.load_word(number))).collect()
    }
}

/// Records of a running program.
#[derive(Debug, Default)]
pub struct RecordsInUse {
    pub services: BTreeMap<u16, Service>,
    pub backends: BTreeMap<BackendId, Backend>,
}

impl RecordsInUse {
    /// A backend's address and the port that packets reach it on.
    pub fn endpoint(&self, backend: &Backend) -> SocketAddr {
        SocketAddr::new(backend.address.into(), backend.port.get())
    }
}

fn fill_half(buckets: &mut Records<Bucket>, first: u32, directory: &FilledDirectory) -> Result<(), MapError> {
    (first..).zip(&directory.filled.buckets).try_for_each(|(index, bucket)| buckets.set(index, *bucket))
}
