//! Namespaces and links that vanish with their owner.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};
use aya::programs::xdp::XdpLink;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::netns::{Netns, ip_batch};
use crate::{interrupt, pass};

const PREFIX: &str = "xlb";
const BPF_FS: &str = "/sys/fs/bpf";
const NETNS: &str = "/run/netns";
/// Where only root makes files, and nothing outlasts a boot.
const SCRATCH: &str = "/run";
/// Makes names unique within one process.
static SEQUENCE: AtomicU32 = AtomicU32::new(0);

/// A set of namespaces named `xlb-<pid>-<number>-<role>`. Dropping it ends what runs in them and deletes them.
#[derive(Debug)]
pub struct World {
    name: String,
    namespaces: Vec<Netns>,
    pass_links: Vec<XdpLink>,
}

impl World {
    /// An empty world. Removes first what dead processes left behind.
    ///
    /// # Errors
    /// Not root.
    pub fn new() -> Result<Self> {
        if !nix::unistd::geteuid().is_root() {
            bail!("network namespaces need root");
        }
        Self::sweep()?;
        Ok(Self { name: unique_name(), namespaces: Vec::new(), pass_links: Vec::new() })
    }

    /// Makes one namespace for each role, with loopback up, no IPv6 duplicate address detection, and no reverse path
    /// filter: an answer by way of another host is what a load balancer is about.
    ///
    /// # Errors
    /// `ip netns` fails, for example because the role exists already.
    pub fn namespaces<S: AsRef<str>>(&mut self, roles: &[S]) -> Result<Vec<Netns>> {
        let new: Vec<_> = roles.iter().map(|role| Netns::named(format!("{}-{}", self.name, role.as_ref()))).collect();
        // Known before they exist, so that half of them is deleted as well.
        self.namespaces.extend(new.iter().cloned());
        let _admission = interrupt::admission();
        ip_batch(&[], &new.iter().map(|netns| format!("netns add {}", netns.name())).collect::<Vec<_>>())?;
        for netns in &new {
            netns.sysctl(&[
                ("ipv4/conf/all/rp_filter", "0"),
                ("ipv4/conf/default/rp_filter", "0"),
                ("ipv6/conf/all/disable_ipv6", "0"),
                ("ipv6/conf/default/disable_ipv6", "0"),
                ("ipv6/conf/default/accept_dad", "0"),
                ("ipv6/conf/default/accept_ra", "0"),
                ("ipv6/conf/default/router_solicitations", "0"),
            ])?;
            netns.ip(&["link set lo up"])?;
        }
        Ok(new)
    }

    /// One namespace: see [`World::namespaces`].
    ///
    /// # Errors
    /// As there.
    pub fn namespace(&mut self, role: &str) -> Result<Netns> {
        self.namespaces(&[role])?.pop().context("one role, one namespace")
    }

    /// Joins two namespaces by a veth pair, both ends up, without checksum offload: frames between veths would carry
    /// partial checksums, which become wrong as soon as XDP changes an address.
    ///
    /// # Errors
    /// An interface of that name is there already, or its name is longer than 15 characters.
    pub fn veth(&self, a: (&Netns, &str), b: (&Netns, &str)) -> Result<()> {
        let ((a, a_name), (b, b_name)) = (a, b);
        ip_batch(&[], &[format!("link add name {a_name} netns {} type veth peer name {b_name} netns {}", a.name(), b.name())])?;
        for (netns, name) in [(a, a_name), (b, b_name)] {
            netns.run(&format!("ethtool -K {name} tx off"))?;
            netns.ip(&[format!("link set {name} up")])?;
        }
        Ok(())
    }

    /// Attaches the program that passes everything, natively, for as long as the world lives.
    ///
    /// Frames that XDP sends out of a veth (`XDP_TX`, `XDP_REDIRECT`) vanish unless its peer has a program too.
    ///
    /// # Errors
    /// The interface has a program, or the object `xlb-ebpf.o` was not built.
    pub fn pass_all(&mut self, netns: &Netns, interface: &str) -> Result<()> {
        self.pass_links.push(pass::attach(netns, interface)?);
        Ok(())
    }

    /// A directory under the BPF file system for one daemon's pins. Removed by [`World::sweep`] should it remain.
    pub fn unique_pin_directory() -> PathBuf {
        Path::new(BPF_FS).join(unique_name())
    }

    /// What worlds of this or of dead processes have left, as paths: namespaces, pins, scratch directories.
    pub fn leftovers() -> Vec<PathBuf> {
        named_by(|pid| pid == std::process::id() || !is_alive(pid))
    }

    /// Deletes what processes that are no longer alive left behind, as a killed test does.
    ///
    /// # Errors
    /// A namespace cannot be deleted.
    pub fn sweep() -> Result<()> {
        delete_all(&named_by(|pid| !is_alive(pid)))
    }

    /// Deletes what this process has made.
    ///
    /// # Errors
    /// A namespace cannot be deleted.
    pub(crate) fn sweep_own() -> Result<()> {
        delete_all(&named_by(|pid| pid == std::process::id()))
    }

    /// A directory for all temporary files of this process from now on: configurations, logs. It vanishes with its owner;
    /// after a `kill -9`, which no owner survives, with the next [`World::sweep`].
    ///
    /// # Errors
    /// Not root, or called a second time.
    pub fn scratch() -> Result<tempfile::TempDir> {
        let name = format!("{}-scratch", unique_name());
        let directory = tempfile::Builder::new().prefix(&name).rand_bytes(0).tempdir_in(SCRATCH)?;
        if tempfile::env::override_temp_dir(directory.path()).is_err() {
            bail!("temporary files have a directory of their own already");
        }
        Ok(directory)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.pass_links.clear();
        let paths: Vec<_> = self.namespaces.iter().map(Netns::path).filter(|path| path.exists()).collect();
        if let Err(error) = delete_all(&paths) {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}

fn unique_name() -> String {
    format!("{PREFIX}-{}-{}", std::process::id(), SEQUENCE.fetch_add(1, Ordering::Relaxed))
}

/// Namespaces, pins and scratch directories whose name holds a process id that `wanted` accepts.
fn named_by(wanted: impl Fn(u32) -> bool) -> Vec<PathBuf> {
    let entries = [NETNS, BPF_FS, SCRATCH].map(Path::new).into_iter().filter_map(|directory| directory.read_dir().ok());
    let paths = entries.flat_map(|entries| entries.flatten().map(|entry| entry.path()));
    paths.filter(|path| maker(path).is_some_and(&wanted)).collect()
}

/// The process id in a name of ours: `xlb-<pid>-...`.
fn maker(path: &Path) -> Option<u32> {
    let mut words = path.file_name()?.to_str()?.split('-');
    if words.next() != Some(PREFIX) {
        return None;
    }
    let pid = words.next()?.parse().ok()?;
    words.next().is_some().then_some(pid)
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

fn delete_all(paths: &[PathBuf]) -> Result<()> {
    let (namespaces, directories): (Vec<&PathBuf>, Vec<&PathBuf>) = paths.iter().partition(|path| path.starts_with(NETNS));
    end_processes_in(&namespaces);
    let mut failed = Vec::new();
    let mut lines = Vec::new();
    for namespace in namespaces {
        match namespace.file_name().and_then(|name| name.to_str()) {
            Some(name) => lines.push(format!("netns delete {name}")),
            None => failed.push(namespace),
        }
    }
    // Another test's sweep may be first: only what is still there afterwards is a failure.
    let _ = ip_batch(&["-force"], &lines);
    for directory in directories {
        let _ = std::fs::remove_dir_all(directory);
    }
    failed.extend(paths.iter().filter(|path| path.exists()));
    if !failed.is_empty() {
        bail!("could not delete {failed:?}");
    }
    Ok(())
}

/// Ends what still runs in the namespaces: a namespace lives on, nameless, as long as a process does.
fn end_processes_in(namespaces: &[&PathBuf]) {
    let inodes: HashSet<u64> = namespaces.iter().filter_map(|path| Some(path.metadata().ok()?.ino())).collect();
    if inodes.is_empty() {
        return;
    }
    let Ok(processes) = Path::new("/proc").read_dir() else { return };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let is_inside = process.path().join("ns/net").metadata().is_ok_and(|namespace| inodes.contains(&namespace.ino()));
        if is_inside && u32::try_from(pid) != Ok(std::process::id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_a_maker() {
        let of = |name: &str| maker(&Path::new("/run/netns").join(name));
        assert_eq!(of("xlb-42-0-lb"), Some(42));
        assert_eq!(of("xlb-42-7"), Some(42), "pins have no role");
        for other in ["xlb", "xlb-42", "xlb-a-0", "other-42-0", "42-0", "xlbx-42-0"] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn this_process_is_alive_and_no_process_has_the_highest_number() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
