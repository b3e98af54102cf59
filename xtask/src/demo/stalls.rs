//! How long this machine kept a thread waiting that wanted to run.
//!
//! The demo promises milliseconds on machines that may have other things to do. What they take is measured beside each
//! such promise, and granted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};

const STEP: Duration = Duration::from_millis(1);

/// A thread that wants to run every millisecond, and notes how late it gets to.
pub struct Stalls {
    ends: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Stalls {
    pub fn start() -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let ends = ends.clone();
            move || watch(&ends)
        });
        Self { ends, thread }
    }

    /// The longest that the thread was late.
    ///
    /// # Errors
    /// It panicked.
    pub fn longest(self) -> Result<Duration> {
        self.ends.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow!("the thread that watches for stalls panicked"))
    }
}

fn watch(ends: &AtomicBool) -> Duration {
    let mut longest = Duration::ZERO;
    while !ends.load(Ordering::Relaxed) {
        let start = Instant::now();
        std::thread::sleep(STEP);
        longest = longest.max(start.elapsed().saturating_sub(STEP));
    }
    longest
}
