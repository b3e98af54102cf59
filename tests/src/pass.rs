//! The program that passes everything, loaded once a process.

use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use aya::Ebpf;
use aya::programs::xdp::XdpLink;
use aya::programs::{Xdp, XdpMode};
use aya_obj::programs::XdpAttachType;

use crate::{Netns, World, paths};

const PROGRAM: &str = "xlb_pass";

static LOADED: Mutex<Option<Xdp>> = Mutex::new(None);

/// Attaches the pass program natively; it stays until the link is dropped.
pub fn attach(netns: &Netns, interface: &str) -> Result<XdpLink> {
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let program = match &mut *loaded {
        Some(program) => program,
        none => none.insert(load()?),
    };
    netns
        .enter(|| {
            let link = program.attach(interface, XdpMode::Driver)?;
            Ok(program.take_link(link)?)
        })
        .with_context(|| format!("namespace {}: attaching {PROGRAM} to {interface}", netns.name()))
}

/// Through a pin, because the object's other contents (maps of 100 MiB) should not stay in memory with it.
fn load() -> Result<Xdp> {
    let object = paths::object()?;
    let mut ebpf = Ebpf::load_file(&object).with_context(|| format!("loading {}", object.display()))?;
    let program = ebpf.program_mut(PROGRAM).with_context(|| format!("{}: no program {PROGRAM}", object.display()))?;
    let program: &mut Xdp = program.try_into()?;
    program.load()?;
    let directory = World::unique_pin_directory();
    std::fs::create_dir(&directory).with_context(|| format!("{}: is bpffs mounted?", directory.display()))?;
    let pin = directory.join(PROGRAM);
    let pinned = program.pin(&pin).map_err(anyhow::Error::from).and_then(|()| Ok(Xdp::from_pin(&pin, XdpAttachType::Interface)?));
    std::fs::remove_dir_all(&directory)?;
    pinned
}
