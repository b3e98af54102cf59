//! Installing packages on Debian and its like.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command;

/// Asked by the packages' scripts before they start a service; 101 means "do not".
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// What packages would start at boot.
const SERVICES: &[(&str, &str)] = &[
    ("nginx-light", "nginx.service"),
    ("redis-server", "redis-server.service"),
    ("postgresql", "postgresql.service"),
    ("prometheus", "prometheus.service"),
    ("haproxy", "haproxy.service"),
    ("docker.io", "docker.service"),
    ("docker.io", "docker.socket"),
    ("docker.io", "containerd.service"),
];

/// Whether this system installs packages with apt.
pub fn is_here() -> bool {
    command::find("apt-get").is_some()
}

/// Whether apt could install `package`, as far as its present lists say.
pub fn has(package: &str) -> bool {
    command::output(Command::new("apt-cache").args(["policy", package]))
        .is_ok_and(|policy| policy.lines().any(|line| line.trim_start().starts_with("Candidate: ") && !line.ends_with("(none)")))
}

/// Fetches the lists of packages: a new machine has none, or old ones.
///
/// # Errors
/// `apt-get update` fails: no network, or no rights.
pub fn update() -> Result<()> {
    command::run(Command::new("apt-get").args(["update", "-qq"])).context("the lists of packages could not be fetched")
}

/// Installs packages, without questions and without starting the services in them.
///
/// # Errors
/// Not root, or apt fails. Both say the command to run.
pub fn install(packages: &[&str]) -> Result<()> {
    let by_hand = format!("apt-get install {}", packages.join(" "));
    if !command::is_root() {
        bail!("missing packages; as root: {by_hand}");
    }
    if !packages.iter().all(|package| has(package)) {
        update()?;
    }
    let services_stay_off = ServicesStayOff::new();
    let installed = command::run(
        Command::new("apt-get")
            .args(["install", "-y", "-qq", "--no-install-recommends", "-o", "Dpkg::Use-Pty=0"])
            .args(packages)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    );
    drop(services_stay_off);
    installed.with_context(|| format!("packages could not be installed; look at what this says: {by_hand}"))?;
    if Path::new("/run/systemd/system").is_dir() {
        // Only the programs are wanted: the machine's own ports must not be taken at the next boot.
        for (_, service) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
            command::run(Command::new("systemctl").args(["disable", "--quiet", service]))?;
        }
    }
    Ok(())
}

/// While it lives, packages do not start their services. A policy that the system already has is left alone.
struct ServicesStayOff {
    is_ours: bool,
}

impl ServicesStayOff {
    fn new() -> Self {
        use std::os::unix::fs::OpenOptionsExt;
        let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        let is_ours = file.is_ok_and(|mut file| std::io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n").is_ok());
        Self { is_ours }
    }
}

impl Drop for ServicesStayOff {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = std::fs::remove_file(POLICY);
        }
    }
}
