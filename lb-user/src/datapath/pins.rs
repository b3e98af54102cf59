//! The pin directory: maps and links that outlive the daemon.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya::maps::{Array, Map, MapData, MapInfo};
use aya::programs::links::{FdLink, PinnedLink};
use lb_common::records::{LAYOUT_VERSION, Settings};
use lb_common::session::Pool;
use rustix::fs::{FlockOperation, flock, statfs};
use zerocopy::IntoBytes;

use super::DatapathError;
use crate::maps::{Sizes, shape};

/// Magic number of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: u32 = 0xcafe_4a11;

/// Of the maps that are pinned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Layout {
    /// None are, or nobody has written to them.
    None,
    Version(u32),
    /// Not even the settings, which say the version, are as long as this one's.
    Unknown,
}

impl Layout {
    /// What is to be said of one that is not this version's.
    pub fn foreign(self) -> Option<String> {
        match self {
            Self::None | Self::Version(LAYOUT_VERSION) => None,
            Self::Version(version) => Some(format!("version {version}")),
            Self::Unknown => Some("of a version that cannot be told".to_owned()),
        }
    }
}

/// One daemon's directory. Locked while it lives.
pub struct Pins {
    directory: PathBuf,
    lock: File,
}

/// A link that is held besides its pin: should that vanish, with the BPF file system or by somebody's hand, packets are balanced on.
pub struct Held {
    _link: FdLink,
    /// The same one, to be pinned again: what cannot be pinned is let go.
    spare: Option<FdLink>,
}

impl Pins {
    /// Makes the directory if need be, and locks it.
    ///
    /// # Errors
    /// If it is not on a BPF file system, cannot be made, or another daemon has it.
    pub fn open(directory: &Path) -> Result<Self, DatapathError> {
        let pin_error =
            |doing, source: io::Error| DatapathError::Pin { path: directory.to_owned(), doing, source: Box::new(source) };
        fs::create_dir_all(directory).map_err(|source| match on_bpffs(directory) {
            true => pin_error("the pin directory cannot be made", source),
            false => DatapathError::NotBpffs { path: directory.to_owned() },
        })?;
        if !on_bpffs(directory) {
            return Err(DatapathError::NotBpffs { path: directory.to_owned() });
        }
        let lock = File::open(directory).map_err(|source| pin_error("the pin directory cannot be opened", source))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
            rustix::io::Errno::WOULDBLOCK => DatapathError::InUse { path: directory.to_owned() },
            error => pin_error("the pin directory cannot be locked", error.into()),
        })?;
        Ok(Self { directory: directory.to_owned(), lock })
    }

    /// Where the maps are pinned, each under its name.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Whose layout the pinned maps have. Reads, and changes nothing.
    pub fn layout(&self) -> Layout {
        const LEN: usize = size_of::<Settings>();
        const VERSION_AT: usize = offset_of!(Settings, layout_version);
        let path = self.directory.join(shape::SETTINGS.name);
        if !path.exists() {
            return Layout::None;
        }
        let settings = MapData::from_pin(&path).map(Map::Array).and_then(Array::<_, [u8; LEN]>::try_from);
        match settings
            .and_then(|settings| settings.get(&0, 0))
            .ok()
            .and_then(|settings| settings[VERSION_AT..].first_chunk().copied())
        {
            Some(version) => match u32::from_ne_bytes(version) {
                0 => Layout::None,
                version => Layout::Version(version),
            },
            None => Layout::Unknown,
        }
    }

    /// Lets go of the sessions of full NAT, unless they are of this pool. A program that runs by them has them for as long as it runs.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn keep_sessions_of(&self, pool: &Pool) -> Result<(), DatapathError> {
        const LEN: usize = size_of::<Pool>();
        let shapes = shape::of_pool(&pool.range);
        let pinned =
            MapData::from_pin(self.directory.join(shapes[0].name)).map(Map::Array).and_then(Array::<_, [u8; LEN]>::try_from);
        let is_of_it = pinned.and_then(|pinned| pinned.get(&0, 0)).is_ok_and(|bytes| bytes == pool.as_bytes());
        if is_of_it && shapes.iter().all(|shape| self.holds(shape)) {
            return Ok(());
        }
        shapes.iter().try_for_each(|shape| remove_if_there(&self.directory.join(shape.name)))
    }

    fn holds(&self, shape: &shape::Shape) -> bool {
        MapInfo::from_pin(self.directory.join(shape.name))
            .is_ok_and(|info| info.value_size() == shape.len && info.max_entries() == 1)
    }

    /// Whether every map is there, as this version makes it, but for those of the pool.
    pub fn hold_maps_of_this_shape(&self, sizes: Sizes, n_cpus: u32) -> bool {
        shape::all_but_the_pool(sizes, n_cpus).all(|shape| self.holds(&shape))
    }

    /// Makes the directory again, if it is another one than it was or gone, and locks it.
    ///
    /// # Errors
    /// As [`open`](Self::open). It is as before then.
    pub fn open_again(&mut self) -> Result<(), DatapathError> {
        let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let locked = self.lock.metadata().map(inode).ok();
        if locked.is_none() || locked != fs::metadata(&self.directory).map(inode).ok() {
            *self = Self::open(&self.directory)?;
        }
        Ok(())
    }

    /// Holds a link that is pinned.
    pub fn hold(&self, interface: &str, native: bool, link: FdLink) -> Held {
        let spare = PinnedLink::from_pin(self.link_path(interface, native)).ok().map(FdLink::from);
        Held { _link: link, spare }
    }

    /// Pins a link whose pin has vanished.
    ///
    /// # Errors
    /// If the kernel refuses. The program stays where it is.
    pub fn keep_again(&self, interface: &str, native: bool, held: &mut Held) -> Result<(), DatapathError> {
        let spare = held.spare.take().ok_or_else(|| DatapathError::Pin {
            path: self.link_path(interface, native),
            doing: "the link cannot be pinned again while this daemon runs",
            source: "the kernel has given no second descriptor of it".into(),
        })?;
        held.spare = Some(self.keep_link(interface, native, spare)?);
        Ok(())
    }

    /// Keeps a link alive beyond the daemon.
    ///
    /// # Errors
    /// If the kernel refuses.
    pub fn keep_link(&self, interface: &str, native: bool, link: FdLink) -> Result<FdLink, DatapathError> {
        let path = self.link_path(interface, native);
        let pinned = link.pin(&path).map_err(|source| DatapathError::Pin {
            path,
            doing: "the link cannot be pinned",
            source: Box::new(source),
        })?;
        Ok(pinned.into())
    }

    /// The link that was left on an interface, if it is of this mode: by its index, for it may have had another name then.
    ///
    /// # Errors
    /// If it bears another name and that cannot be changed.
    pub fn link(&self, interface: &str, ifindex: u32, native: bool) -> Result<Option<FdLink>, DatapathError> {
        let names = [interface.to_owned()].into_iter().chain(self.linked_interfaces());
        let mut links = names.filter_map(|name| {
            let link = FdLink::from(PinnedLink::from_pin(self.link_path(&name, native)).ok()?);
            Some((name, link))
        });
        let Some((name, link)) = links.find(|(_, link)| ifindex_of(link) == Some(ifindex)) else { return Ok(None) };
        self.rename_link(&name, interface, native)?;
        Ok(Some(link))
    }

    /// Has a link bear an interface's new name. Two interfaces may have exchanged theirs: what bears the new name gets the old one.
    ///
    /// # Errors
    /// If the BPF file system refuses.
    pub fn rename_link(&self, from: &str, to: &str, native: bool) -> Result<(), DatapathError> {
        if from == to {
            return Ok(());
        }
        let (from, to) = (self.link_path(from, native), self.link_path(to, native));
        let aside = self.directory.join(ASIDE);
        let renamed =
            rename_if_there(&to, &aside).and_then(|()| rename_if_there(&from, &to)).and_then(|()| rename_if_there(&aside, &from));
        let refused =
            |source| DatapathError::Pin { path: from, doing: "the link's pin cannot be renamed", source: Box::new(source) };
        renamed.map_err(refused)
    }

    /// Whether a link of this name is pinned.
    pub fn has_link(&self, interface: &str, native: bool) -> bool {
        self.link_path(interface, native).exists()
    }

    /// Whether the daemon's maps are pinned where its successor will look.
    pub fn hold_maps(&self) -> bool {
        on_bpffs(&self.directory) && shape::names().all(|name| self.directory.join(name).exists())
    }

    /// Interfaces on which an earlier daemon left the program.
    pub fn linked_interfaces(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter_map(|name| MODES.iter().find_map(|mode| Some(name.strip_prefix(mode)?.replace('@', ".")))).collect()
    }

    /// Lets a link go: its program leaves the interface when nobody else holds the link.
    ///
    /// # Errors
    /// If the pin cannot be removed.
    pub fn remove_link(&self, interface: &str) -> Result<(), DatapathError> {
        [false, true].iter().try_for_each(|&native| remove_if_there(&self.link_path(interface, native)))
    }

    /// Removes all pins: links first, or packets would meet empty tables.
    ///
    /// # Errors
    /// If one cannot be removed.
    pub fn clear(&self) -> Result<(), DatapathError> {
        for interface in self.linked_interfaces() {
            self.remove_link(&interface)?;
        }
        remove_if_there(&self.directory.join(ASIDE))?;
        shape::names().try_for_each(|name| remove_if_there(&self.directory.join(name)))
    }

    /// Removes all pins and the directory.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn remove(self) -> Result<(), DatapathError> {
        self.clear()?;
        // Somebody else's files, or another daemon's directory below, keep it: that is fine.
        let _ = fs::remove_dir(&self.directory);
        Ok(())
    }

    fn link_path(&self, interface: &str, native: bool) -> PathBuf {
        // bpffs refuses names with a dot, which VLAN interfaces have.
        self.directory.join(format!("{}{}", MODES[usize::from(native)], interface.replace('.', "@")))
    }
}

/// What the names of links begin with: a link cannot tell its mode, so its name does.
const MODES: [&str; 2] = ["generic_", "native_"];

/// What a link is called while it and another exchange their names.
const ASIDE: &str = "aside";

fn rename_if_there(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The interface that a link is on, which the kernel tells only here (proc(5)). `None` if that is gone.
fn ifindex_of(link: &FdLink) -> Option<u32> {
    let id = link.info().ok()?.id().to_string();
    let descriptors = fs::read_dir("/proc/self/fdinfo").ok()?.flatten();
    let texts = descriptors.filter_map(|descriptor| fs::read_to_string(descriptor.path()).ok());
    let field = |text: &str, key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(|value| value.trim().to_owned()))
    };
    let text = texts.into_iter().find(|text| field(text, "link_id").is_some_and(|link_id| link_id == id))?;
    field(&text, "ifindex")?.parse().ok().filter(|ifindex| *ifindex != 0)
}

fn remove_if_there(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(DatapathError::Pin { path: path.to_owned(), doing: "the pin cannot be removed", source: Box::new(error) })
        }
        _ => Ok(()),
    }
}

/// Whether the nearest existing ancestor is on a BPF file system.
pub fn on_bpffs(path: &Path) -> bool {
    let existing = path.ancestors().find(|ancestor| ancestor.exists());
    existing.and_then(|existing| statfs(existing).ok()).is_some_and(|stat| stat.f_type as u32 == BPF_FS_MAGIC)
}
