//! An emulated machine.

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::kernel::Kernel;
use crate::command;

/// A machine that prints nothing for that long never will: an emulated one takes minutes to load what some tests load.
const SILENCE_MAX: Duration = Duration::from_secs(600);
/// Emulation is not perfect: some boots end in a panic of the kernel at some odd place, or in nothing at all.
const TRIES: usize = 3;
const POLL: Duration = Duration::from_millis(100);

/// By what a machine's clock goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    Wall,
    /// A nanosecond is an instruction.
    Instructions,
}

/// Boots a kernel, and yields all that the machine printed until it powered itself off. A machine whose kernel panics or hangs
/// is given other tries, and this is said.
///
/// # Errors
/// qemu is missing or fails, or no try ends in time; then with what the last one printed.
pub fn boot(kernel: &Kernel, ram_disk: &Path, clock: Clock, verbose: bool) -> Result<String> {
    let mut log = String::new();
    for n in 1..=TRIES {
        let ended;
        (log, ended) = boot_once(kernel, ram_disk, clock, verbose)?;
        if ended && !log.contains("Kernel panic") {
            return Ok(log);
        }
        eprintln!("try {n} of {TRIES}: Linux {} {}", kernel.release, if ended { "panicked" } else { "hung" });
    }
    bail!("Linux {} does not get to an end here; it printed:\n{log}", kernel.release);
}

/// What the machine printed, and whether it ended by itself.
fn boot_once(kernel: &Kernel, ram_disk: &Path, clock: Clock, verbose: bool) -> Result<(String, bool)> {
    let qemu = command::find("qemu-system-x86_64").context("no qemu-system-x86_64; it comes with qemu-system-x86")?;
    eprintln!("booting Linux {}", kernel.release);
    let mut child = Command::new(qemu)
        // One processor, without an exchange of 16 bytes: where that comes into an interrupt's way, qemu now and then corrupts flags, and
        // what kernels since 6.12 keep lists in.
        .args(["-machine", "q35", "-accel", "tcg", "-cpu", "max,cx16=off", "-smp", "1", "-m", "1024"])
        .args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(ram_disk)
        .args(match clock {
            Clock::Wall => &[][..],
            Clock::Instructions => &["-icount", "shift=0,sleep=off"],
        })
        .args(["-append", "console=ttyS0 quiet panic=-1 mitigations=off"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start qemu")?;
    let mut stdout = child.stdout.take().context("qemu has no output")?;
    let n_printed = Arc::new(AtomicUsize::new(0));
    let n_read = Arc::clone(&n_printed);
    let reader = std::thread::spawn(move || {
        let mut log = Vec::new();
        let mut piece = [0; 4096];
        while let Ok(len @ 1..) = stdout.read(&mut piece) {
            log.extend_from_slice(&piece[..len]);
            n_read.store(log.len(), Ordering::Relaxed);
            if verbose {
                print!("{}", String::from_utf8_lossy(&piece[..len]));
            }
        }
        String::from_utf8_lossy(&log).replace('\r', "")
    });
    let ended = wait(&mut child, &n_printed)?;
    Ok((reader.join().unwrap_or_default(), ended))
}

/// Whether the machine ended by itself, and did not fall silent.
fn wait(child: &mut Child, n_printed: &AtomicUsize) -> Result<bool> {
    let mut last = (0, Instant::now());
    while last.1.elapsed() < SILENCE_MAX {
        if child.try_wait()?.is_some() {
            return Ok(true);
        }
        let n_printed = n_printed.load(Ordering::Relaxed);
        if n_printed != last.0 {
            last = (n_printed, Instant::now());
        }
        std::thread::sleep(POLL);
    }
    child.kill()?;
    child.wait()?;
    Ok(false)
}
