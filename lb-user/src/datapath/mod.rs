//! The program in the kernel: loading, attaching, pinning, adopting what an earlier daemon left running.

mod attach;
mod pins;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use aya::Ebpf;
use aya::programs::{ProgramError, Xdp};
use aya::util::KernelVersion;
use lb_common::features;
use lb_common::hash::HashKeys;
use lb_common::records::LAYOUT_VERSION;
use rustix::io::Errno;

pub use attach::{Attached, Attachment, Wanted, refusal};
use pins::Held;
pub use pins::{Layout, Pins, on_bpffs};

use crate::error;
use crate::maps::substitute::{self, OLDEST, Substitute};
use crate::maps::{self, Counters, KernelMaps, Loaded, MapError, Shared, Sizes, Tracer};

/// The steering program's name in the object.
pub const PROGRAM: &str = "xlb";

#[derive(Debug, thiserror::Error)]
pub enum DatapathError {
    #[error("the BPF object does not load; {hint}")]
    Load { hint: &'static str, source: Box<aya::EbpfError> },
    #[error("this is Linux {kernel}, and xlb needs {OLDEST} or newer")]
    TooOld { kernel: KernelVersion },
    #[error("the BPF object has no XDP program named {PROGRAM}; it and this binary are of different versions")]
    NoProgram,
    #[error("the kernel refuses the program; {hint}")]
    Verifier { hint: &'static str, source: Box<ProgramError> },
    #[error("interface {interface}: the program cannot be attached in {mode} mode; {hint}")]
    Attach { interface: String, mode: &'static str, hint: String, source: Box<ProgramError> },
    #[error("interface {interface}: this kernel has no BPF links for XDP; Linux 5.9 is the oldest that has")]
    NoLink { interface: String, source: aya::programs::links::LinkError },
    #[error("interface {interface} does not exist here; `ip link` lists those that do")]
    NoInterface { interface: String },
    #[error("{}: {doing}", path.display())]
    Pin { path: PathBuf, doing: &'static str, source: Box<dyn std::error::Error + Send + Sync> },
    #[error("{} is in use by another xlb; give each daemon its own xdp.pin", path.display())]
    InUse { path: PathBuf },
    #[error(
        "an xlb whose tables have another layout ({found}; here it is {LAYOUT_VERSION}) left its program running, and its flows cannot be \
         carried over: nothing was touched, and it balances on. Go back to that version; or, to start with empty tables, which \
         moves flows: rm -r {}", path.display()
    )]
    OtherLayout { path: PathBuf, found: String },
    #[error("{} is not on a BPF file system; `mount -t bpf bpf /sys/fs/bpf` makes one", path.display())]
    NotBpffs { path: PathBuf },
    #[error(transparent)]
    Map(#[from] MapError),
    #[error("no random numbers for the hash secret")]
    Random { source: std::io::Error },
    #[error(
        "it takes another program, which has to find the links of this one, and their pins in {} are gone and cannot be made again; restart the \
         daemon for it", path.display()
    )]
    NoPins { path: PathBuf, source: Box<DatapathError> },
}

/// The loaded program with its pins.
pub struct Datapath {
    ebpf: Ebpf,
    /// What the program knows of, and its maps, for another one that knows of more.
    features: u32,
    shared: Shared,
    sizes: Sizes,
    pins: Pins,
    attached: BTreeMap<String, Moored>,
    /// Whether the maps hold the tables of an earlier daemon.
    pub adopted: bool,
}

/// The program on an interface.
struct Moored {
    attached: Attached,
    held: Held,
}

/// What the daemon's tasks need of a loaded program.
pub struct Handles {
    pub maps: KernelMaps,
    pub counters: Counters,
    pub tracer: Tracer,
}

impl Datapath {
    /// Loads the program from `object`, with these [`features`]. Maps that an earlier daemon left pinned are used again if their
    /// shape is the same, and replaced where `[limits]` ask for another.
    ///
    /// # Errors
    /// If the kernel refuses, with what can be done about it, or an xlb of another layout left its program running; nothing is
    /// attached then, and what ran goes on.
    pub fn load(
        object: &[u8],
        pins: Pins,
        sizes: Sizes,
        features: u32,
        secret: Option<HashKeys>,
    ) -> Result<(Self, Handles), DatapathError> {
        raise_memlock_limit();
        let kernel = maps::kernel()?;
        let sizes = on_this_kernel(kernel, sizes)?;
        let layout = pins.layout();
        if let Some(found) = layout.foreign() {
            // Where nobody's packets go by them they are only remains.
            if !pins.linked_interfaces().is_empty() {
                return Err(DatapathError::OtherLayout { path: pins.directory().to_owned(), found });
            }
            pins.clear()?;
        } else if !pins.hold_maps_of_this_shape(sizes, maps::n_cpus()?) {
            pins.clear()?;
        }
        pins.keep_sessions_of(&sizes.pool)?;
        let Loaded { mut ebpf, mut maps, counters, tracer, shared } =
            maps::load(object, sizes, features, Some(pins.directory())).map_err(not_loaded)?;
        let adopted = maps.settings().layout_version == LAYOUT_VERSION;
        if let Some(keys) = secret {
            maps.set_hash_keys(keys);
        } else if !adopted {
            maps.set_hash_keys(random_keys()?);
        }
        verify(&mut ebpf, features)?;
        let attached = BTreeMap::new();
        Ok((Self { ebpf, features, shared, sizes, pins, attached, adopted }, Handles { maps, counters, tracer }))
    }

    /// Sees to it that the program knows of these features: if it does not, one that does takes its place on all interfaces, with its
    /// maps, between two packets.
    ///
    /// # Errors
    /// If the kernel refuses it. What ran goes on then, at worst beside the new one: all goes by the same tables.
    pub fn provide(&mut self, object: &[u8], features: u32) -> Result<(), DatapathError> {
        if features & !self.features == 0 {
            return Ok(());
        }
        if let Err(error) = self.pin_again() {
            return Err(DatapathError::NoPins { path: self.pins.directory().to_owned(), source: Box::new(error) });
        }
        let features = features | self.features;
        let mut ebpf = maps::load_again(object, self.sizes, features, &self.shared).map_err(not_loaded)?;
        verify(&mut ebpf, features)?;
        for Moored { attached: Attached { interface, ifindex, native }, held } in self.attached.values_mut() {
            let mode = if *native { Wanted::Native } else { Wanted::Generic { reason: None } };
            let attachment = Attachment { interface: interface.clone(), ifindex: *ifindex, mode };
            *held = attach::attach(program(&mut ebpf)?, &attachment, &self.pins)?.1;
        }
        (self.ebpf, self.features) = (ebpf, features);
        Ok(())
    }

    /// The aya object, for the BPF side's log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    pub fn attached(&self) -> impl Iterator<Item = &Attached> {
        self.attached.values().map(|moored| &moored.attached)
    }

    /// Where the program was put on an interface of this name.
    pub fn attached_to(&self, interface: &str) -> Option<&Attached> {
        self.attached.get(interface).map(|moored| &moored.attached)
    }

    /// Runs the program on an interface, in place of an earlier daemon's if one left it there.
    ///
    /// # Errors
    /// If the kernel refuses, with what can be done about it.
    pub fn attach(&mut self, attachment: &Attachment) -> Result<&Attached, DatapathError> {
        let program = program(&mut self.ebpf)?;
        let (attached, held) = attach::attach(program, attachment, &self.pins)?;
        let moored = Moored { attached, held };
        Ok(&self.attached.entry(attachment.interface.clone()).insert_entry(moored).into_mut().attached)
    }

    /// Takes the program off an interface, unless that is attached under another name too: then it bears that one.
    ///
    /// # Errors
    /// If the pin cannot be removed.
    pub fn detach(&mut self, interface: &str) -> Result<(), DatapathError> {
        let Some(Moored { attached, .. }) = self.attached.remove(interface) else { return self.pins.remove_link(interface) };
        match self.attached().find(|other| other.ifindex == attached.ifindex) {
            Some(other) if self.pins.has_link(interface, attached.native) => {
                self.pins.rename_link(interface, &other.interface, attached.native)
            }
            Some(_) => Ok(()),
            None => self.pins.remove_link(interface),
        }
    }

    /// Whether a daemon that is started later finds what this one leaves running.
    fn is_pinned(&self) -> bool {
        self.pins.hold_maps() && self.attached().all(|attached| self.has_link(attached))
    }

    /// Whether the link to an interface is pinned, under any name that it is attached under.
    fn has_link(&self, attached: &Attached) -> bool {
        let names = self.attached().filter(|other| other.ifindex == attached.ifindex);
        names.into_iter().any(|name| self.pins.has_link(&name.interface, name.native))
    }

    /// Makes pins again that have vanished, maps first: who finds a link must find its tables. Yields whether any had.
    ///
    /// # Errors
    /// If the kernel refuses, there is no BPF file system, or another daemon has the directory by now. All that runs goes on.
    pub fn pin_again(&mut self) -> Result<bool, DatapathError> {
        if self.is_pinned() {
            return Ok(false);
        }
        self.pins.open_again()?;
        self.shared.pin(self.pins.directory())?;
        let lost: Vec<String> =
            self.attached().filter(|attached| !self.has_link(attached)).map(|attached| attached.interface.clone()).collect();
        for Moored { attached, held } in self.attached.values_mut().filter(|moored| lost.contains(&moored.attached.interface)) {
            self.pins.keep_again(&attached.interface, attached.native, held)?;
        }
        Ok(true)
    }

    /// Takes the program off interfaces that an earlier daemon left it on and nobody wants it on any more.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn detach_all_but(&mut self, wanted: &[String]) -> Result<(), DatapathError> {
        let left = self.pins.linked_interfaces();
        left.iter().filter(|interface| !wanted.contains(interface)).try_for_each(|interface| self.pins.remove_link(interface))
    }

    /// Takes the program off all interfaces and removes all pins: packets are the host's again.
    ///
    /// # Errors
    /// If a pin cannot be removed.
    pub fn shut_down(mut self) -> Result<(), DatapathError> {
        self.attached.clear();
        self.pins.remove()
    }
}

/// What is different on this kernel, said in the log; yields the sizes that it has room for.
fn on_this_kernel(kernel: KernelVersion, wanted: Sizes) -> Result<Sizes, DatapathError> {
    if kernel < OLDEST {
        return Err(DatapathError::TooOld { kernel });
    }
    for Substitute { since: (major, minor), lacking, .. } in substitute::lacking(kernel) {
        tracing::warn!("before Linux {major}.{minor} there is no {lacking}");
    }
    let sizes = wanted.or_less(kernel);
    if sizes != wanted {
        let Sizes { n_slots, n_flows, .. } = sizes;
        tracing::warn!(n_slots, n_flows, "fewer than by default: before Linux 6.1, no map may have more than 4 MiB");
    }
    Ok(sizes)
}

fn not_loaded(error: MapError) -> DatapathError {
    match error {
        MapError::Load { source } => DatapathError::Load { hint: load_hint(&source), source },
        error => error.into(),
    }
}

/// Has the kernel look at the steering program, and says how that went.
fn verify(ebpf: &mut Ebpf, features: u32) -> Result<(), DatapathError> {
    let start = Instant::now();
    load(program(ebpf)?).map_err(|source| DatapathError::Verifier { hint: verifier_hint(&source), source: Box::new(source) })?;
    let names = features::NAMES.iter().filter(|(feature, _)| features & feature != 0).map(|(_, name)| *name);
    let features = names.collect::<Vec<_>>().join(" ");
    tracing::info!(features, took_ms = start.elapsed().as_millis() as u64, "the program is verified");
    Ok(())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, DatapathError> {
    ebpf.program_mut(PROGRAM).and_then(|program| program.try_into().ok()).ok_or(DatapathError::NoProgram)
}

fn random_keys() -> Result<HashKeys, DatapathError> {
    let mut bytes = [0; 32];
    let mut filled = 0;
    while filled < bytes.len() {
        let flags = rustix::rand::GetRandomFlags::empty();
        filled += rustix::rand::getrandom(&mut bytes[filled..], flags)
            .map_err(|error| DatapathError::Random { source: error.into() })?;
    }
    Ok(HashKeys::from_bytes(bytes))
}

/// Kernels before 5.11 account maps against RLIMIT_MEMLOCK. Newer ones do not care.
fn raise_memlock_limit() {
    let unlimited = rustix::process::Rlimit { current: None, maximum: None };
    if let Err(error) = rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited) {
        tracing::debug!(%error, "raising the limit on locked memory");
    }
}

fn load_hint(error: &aya::EbpfError) -> &'static str {
    match error::os_code(error) {
        Some(code) if code == Errno::PERM.raw_os_error() => RIGHTS,
        Some(code) if code == Errno::NOMEM.raw_os_error() => "memory for the maps is missing; lower limits.slots",
        _ => "the cause follows",
    }
}

fn verifier_hint(error: &ProgramError) -> &'static str {
    match error::os_code(error) {
        Some(code) if code == Errno::PERM.raw_os_error() => RIGHTS,
        _ => "it may be too old: Linux 5.10 is the oldest that was tried",
    }
}

const RIGHTS: &str = "it takes root, or CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON";
/// How often a program is given to the verifier that was interrupted.
const LOAD_TRIES: u32 = 8;

/// Has the kernel look at a program and take it. A signal to this process, even to another of its threads, interrupts the verifier
/// (EAGAIN): it begins again then.
///
/// # Errors
/// The verifier refuses.
pub fn load(program: &mut Xdp) -> Result<(), ProgramError> {
    for _ in 1..LOAD_TRIES {
        match program.load() {
            Err(error) if crate::error::os_code(&error) == Some(Errno::AGAIN.raw_os_error()) => {}
            done => return done,
        }
    }
    program.load()
}
