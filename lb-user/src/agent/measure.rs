//! Looks at the host: /proc, file systems, and the two files by which an operator takes it out.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::verdict::{Limits, Percent, Reading};

/// Over so many looks the processors' load is taken: one busy second is no reason to lose connections.
const N_LOOKS: usize = 6;
/// As much of a reason as anybody reads.
const REASON_BYTES_MAX: u64 = 1024;

pub struct Meter {
    limits: Limits,
    maint_file: PathBuf,
    drain_file: PathBuf,
    looks: VecDeque<Ticks>,
}

impl Meter {
    pub fn new(limits: Limits, maint_file: PathBuf, drain_file: PathBuf) -> Self {
        Self { limits, maint_file, drain_file, looks: VecDeque::new() }
    }

    /// Blocks for as long as file systems take.
    pub fn read(&mut self) -> Reading {
        if let Some(ticks) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(ticks) {
            self.looks.push_back(ticks);
            self.looks.drain(..self.looks.len().saturating_sub(N_LOOKS));
        }
        let memory = fs::read_to_string("/proc/meminfo").map_err(|error| format!("/proc/meminfo: {error}"));
        let memory = memory.and_then(|text| used_memory(&text).ok_or_else(|| "/proc/meminfo: no MemAvailable".to_owned()));
        Reading {
            maint: reason(&self.maint_file),
            drain: reason(&self.drain_file),
            cpu: self.looks.front().zip(self.looks.back()).and_then(|(first, last)| first.until(last)),
            memory: Some(memory),
            disks: self.limits.disks.iter().map(|disk| used_of_disk(&disk.path)).collect(),
        }
    }
}

/// What the processors have done since the boot, in ticks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Ticks {
    busy: u64,
    all: u64,
}

impl Ticks {
    /// How busy they were in between; `None` if no time has passed.
    fn until(&self, later: &Self) -> Option<Percent> {
        let all = later.all.checked_sub(self.all).filter(|all| *all > 0)?;
        // Waiting for disks may be taken back (proc_stat(5)).
        Some(Percent::of(later.busy.saturating_sub(self.busy).min(all), all))
    }
}

/// Of the first line of /proc/stat: user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two.
fn ticks(stat: &str) -> Option<Ticks> {
    let numbers = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace().take(8);
    let numbers: Vec<u64> = numbers.map(str::parse).collect::<Result<_, _>>().ok()?;
    let (idle, iowait) = (*numbers.get(3)?, *numbers.get(4)?);
    let all = numbers.iter().sum::<u64>();
    Some(Ticks { busy: all.saturating_sub(idle).saturating_sub(iowait), all })
}

/// What cannot be had without swapping.
fn used_memory(meminfo: &str) -> Option<Percent> {
    let kib = |key: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        line.split_ascii_whitespace().next()?.parse().ok()
    };
    let total = kib("MemTotal")?;
    Some(Percent::of(total.saturating_sub(kib("MemAvailable")?), total))
}

/// As `df` has it: of what others than root may use.
fn used_of_disk(path: &Path) -> Result<Percent, String> {
    let disk = statvfs(path).map_err(|errno| format!("disk {}: {errno}", path.display()))?;
    let used = disk.f_blocks.saturating_sub(disk.f_bfree);
    Ok(Percent::of(used, used.saturating_add(disk.f_bavail)))
}

/// What stands in the file; `None` if it is not there. One that is there and cannot be read is there.
fn reason(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    match File::open(path).and_then(|file| file.take(REASON_BYTES_MAX).read_to_end(&mut bytes)) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        _ => Some(String::from_utf8_lossy(&bytes).into_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_busy_when_neither_idle_nor_waiting_for_disks() {
        let before = ticks("cpu  100 0 50 800 50 0 0 0 0 0\ncpu0 1 1 1 1\n").unwrap();
        assert_eq!(before, Ticks { busy: 150, all: 1000 });
        let after = ticks("cpu  150 0 75 850 75 0 0 0 7 7\n").unwrap();
        assert_eq!(before.until(&after), Some(Percent::of(1, 2)));
        assert_eq!(before.until(&before), None);
        assert_eq!(after.until(&before), None);
        for broken in ["", "cpu", "cpu  1 2 3", "cpu  a b c d e f", "intr 1 2 3 4 5 6 7"] {
            assert_eq!(ticks(broken), None, "{broken}");
        }
    }

    #[test]
    fn memory_is_used_that_is_not_available() {
        let text = "MemTotal:       1000 kB\nMemFree:         100 kB\nMemAvailable:    400 kB\n";
        assert_eq!(used_memory(text), Some(Percent::of(60, 100)));
        assert_eq!(used_memory("MemTotal: 5 kB\n"), None);
    }

    #[test]
    fn this_machine_can_be_measured_and_a_disk_that_is_not_there_is_named() {
        let limits = |path: &str| Limits {
            cpu: Percent::of(1, 1),
            memory: Percent::of(1, 1),
            disks: vec![format!("{path}=99%").parse().unwrap()],
        };
        let none = PathBuf::from("/nowhere/file");
        let reading = Meter::new(limits("/"), none.clone(), none.clone()).read();
        assert_eq!(reading.check(), Ok(()));
        assert_eq!((reading.maint, reading.drain), (None, None));
        let reading = Meter::new(limits("/nowhere"), none.clone(), none).read();
        assert!(reading.check().unwrap_err().contains("disk /nowhere: "), "{reading:?}");
    }
}
