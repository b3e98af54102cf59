//! The kernel, the user's rights, memory and limits.

use std::path::Path;

use rustix::process::{Resource, getrlimit};

use super::Check;
use crate::config::Config;
use crate::datapath::on_bpffs;
use crate::error::chain;
use crate::health::steer::{Trouble, Way, look_for_tun};
use crate::maps::{Sizes, shape};

/// The oldest kernel that has `bpf_xdp_get_buff_len`.
const KERNEL_MIN: (u32, u32) = (5, 18);
/// Bits of `CapEff` (linux/capability.h).
const CAPABILITIES: [(&str, u32); 3] = [("CAP_NET_ADMIN", 12), ("CAP_PERFMON", 38), ("CAP_BPF", 39)];
const PIN_DEFAULT: &str = "/sys/fs/bpf";
/// Descriptors that the daemon needs beside its checks' sockets: maps, links, netlink, its API.
const N_DESCRIPTORS_BASE: u64 = 256;

pub fn examine(config: Option<&Config>) -> Vec<Check> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let pin = config.map_or(Path::new(PIN_DEFAULT), |config| &config.xdp.pin);
    let sizes = config.map_or_else(Sizes::default, Sizes::from);
    let mut checks = vec![kernel(release.trim()), rights(&status), bpffs(pin), memory(sizes)];
    checks.extend(config.map(descriptors));
    if config.is_some_and(has_probes_into_tunnels) {
        checks.push(tun(look_for_tun()));
    }
    checks
}

fn kernel(release: &str) -> Check {
    let mut numbers = release.split(|character: char| !character.is_ascii_digit()).map(str::parse);
    let (Some(Ok(major)), Some(Ok(minor))) = (numbers.next(), numbers.next()) else {
        return Check::warning("kernel", format!("its release, {release:?}, cannot be read"), "uname -r");
    };
    if (major, minor) < KERNEL_MIN {
        let mend = format!("install Linux {}.{} or later", KERNEL_MIN.0, KERNEL_MIN.1);
        return Check::problem("kernel", format!("Linux {release} is too old: it lacks bpf_xdp_get_buff_len"), mend);
    }
    Check::ok("kernel", format!("Linux {release}"))
}

fn rights(status: &str) -> Check {
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let effective = effective.unwrap_or_default();
    let missing: Vec<&str> = CAPABILITIES.iter().filter(|(_, bit)| effective >> bit & 1 == 0).map(|(name, _)| *name).collect();
    match missing.is_empty() {
        true => Check::ok("rights", "CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"),
        false => Check::warning(
            "rights",
            format!("this user lacks {}, which the daemon needs, and without which not all can be seen", missing.join(", ")),
            "sudo xlb doctor",
        ),
    }
}

fn bpffs(pin: &Path) -> Check {
    let subject = "bpf file system";
    match on_bpffs(pin) {
        true => Check::ok(subject, format!("{} is on one", pin.display())),
        false => Check::problem(
            subject,
            format!("{} is not on one, so maps and programs cannot be pinned", pin.display()),
            "mount -t bpf bpf /sys/fs/bpf",
        ),
    }
}

fn memory(sizes: Sizes) -> Check {
    let n_cpus = aya::util::nr_cpus().map_or(1, |n| n as u32);
    let needed: u64 = shape::all(sizes, n_cpus).map(|shape| u64::from(shape.len)).sum();
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    memory_for(needed, available_bytes(&meminfo))
}

fn memory_for(needed: u64, available: Option<u64>) -> Check {
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    match available {
        Some(available) if available < needed => Check::problem(
            "memory",
            format!("the maps take {} MiB, and {} MiB are free", mib(needed), mib(available)),
            "set limits.slots and limits.flows lower",
        ),
        Some(available) => Check::ok("memory", format!("the maps take {} MiB of {} MiB free", mib(needed), mib(available))),
        None => Check::warning("memory", "how much is free cannot be read", "free -m"),
    }
}

fn available_bytes(meminfo: &str) -> Option<u64> {
    let kib = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix("kB")?.trim().parse().ok());
    kib.map(|kib: u64| kib * 1024)
}

/// Each check in flight has a socket.
fn descriptors(config: &Config) -> Check {
    let checks = config.services.iter().map(|service| service.backends.len() * service.health.list.len());
    let needed = N_DESCRIPTORS_BASE + checks.sum::<usize>() as u64;
    descriptors_for(needed, getrlimit(Resource::Nofile).current)
}

fn descriptors_for(needed: u64, limit: Option<u64>) -> Check {
    match limit {
        Some(limit) if limit < needed => Check::warning(
            "open files",
            format!("{needed} may be needed, and the limit is {limit}"),
            format!("ulimit -n {needed}, or LimitNOFILE={needed} in the systemd unit"),
        ),
        _ => Check::ok("open files", format!("{needed} may be needed, and are allowed")),
    }
}

fn has_probes_into_tunnels(config: &Config) -> bool {
    let paths = config.services.iter().flat_map(|service| &service.health.list).filter_map(|check| check.path);
    paths.into_iter().any(|path| path.way != Way::Direct)
}

fn tun(looked: Result<(), Trouble>) -> Check {
    let subject = "probes into tunnels";
    match looked {
        Ok(()) => Check::ok(subject, "there are TAP devices to send them by"),
        Err(trouble) => Check::problem(subject, chain(&trouble).to_string(), "modprobe tun"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_kernel_is_told_by_its_release() {
        let cases = [
            ("6.18.5-amd64", Level::Ok),
            ("5.18.0", Level::Ok),
            ("5.17.15-custom", Level::Problem),
            ("4.19.0", Level::Problem),
            ("10.0", Level::Ok),
            ("strange", Level::Warning),
        ];
        for (release, expected) in cases {
            assert_eq!(kernel(release).level, expected, "{release}");
        }
    }

    #[test]
    fn missing_rights_are_named() {
        assert_eq!(rights("Name:\txlb\nCapEff:\t000001ffffffffff\n").level, Level::Ok);
        let check = rights("CapEff:\t0000004000001000\n");
        assert_eq!(check.level, Level::Warning);
        assert!(check.finding.contains("lacks CAP_BPF,"), "{}", check.finding);
    }

    #[test]
    fn memory_and_open_files_are_compared_with_what_is_needed() {
        assert_eq!(available_bytes("MemTotal: 9 kB\nMemAvailable:   2048 kB\n"), Some(2 << 20));
        assert_eq!(memory_for(2 << 20, Some(1 << 20)).level, Level::Problem);
        assert_eq!(memory_for(1 << 20, Some(2 << 20)).level, Level::Ok);
        assert_eq!(memory_for(1, None).level, Level::Warning);
        assert_eq!(descriptors_for(1025, Some(1024)).level, Level::Warning);
        assert_eq!(descriptors_for(1024, Some(1024)).level, Level::Ok);
        assert_eq!(descriptors_for(1024, None).level, Level::Ok, "no limit");
    }

    #[test]
    fn who_cannot_have_a_device_is_told_how_to() {
        assert_eq!(tun(Ok(())).level, Level::Ok);
        let check = tun(Err(Trouble::NoTun { source: std::io::ErrorKind::NotFound.into() }));
        assert_eq!(check.level, Level::Problem);
        assert!(check.finding.contains("/dev/net/tun") && check.finding.ends_with("not found"), "{}", check.finding);
    }

    #[test]
    fn a_directory_elsewhere_is_not_on_a_bpf_file_system() {
        assert_eq!(bpffs(Path::new("/proc/xlb")).level, Level::Problem);
    }
}
