//! Ctrl-C in a program that has worlds: nothing of it stays.

use std::fs;
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::World;

/// What a shell says of a program that SIGINT ended.
const EXIT_STATUS: i32 = 130;

/// Held by whoever makes a namespace or a process. An interrupt takes it whole and for good, so that nothing comes about
/// behind its back while it deletes.
static GATE: RwLock<()> = RwLock::new(());

/// Waits for ever once the program has been interrupted.
pub(crate) fn admission() -> RwLockReadGuard<'static, ()> {
    GATE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Has Ctrl-C, SIGTERM and SIGHUP end this process's children, delete its worlds, and end it with status 130. For
/// programs, not for tests.
///
/// # Errors
/// There is such a handler already.
pub fn clean_up() -> Result<()> {
    ctrlc::set_handler(|| {
        let _closed = GATE.write().unwrap_or_else(PoisonError::into_inner);
        end_children();
        if let Err(error) = World::sweep_own() {
            eprintln!("{error:#}");
        }
        std::process::exit(EXIT_STATUS);
    })
    .context("a handler for Ctrl-C")
}

/// Yields what `work` yields, unless the program is interrupted meanwhile: then this waits for its end, since whatever
/// becomes of work whose children are killed under its hands is of no interest to anybody.
pub fn unless_interrupted<T>(work: impl FnOnce() -> T) -> T {
    let result = work();
    drop(admission());
    result
}

/// A child is not in its namespace from the first moment: looking there would miss it.
fn end_children() {
    let own = std::process::id();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if parent(pid) == Some(own) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

/// From `/proc/<pid>/stat`, `pid (name) state parent ...`; the name may hold anything.
fn parent(pid: i32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_of_this_process_is_the_one_that_started_it() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(parent(own), Some(std::os::unix::process::parent_id()));
    }
}
