//! What the BPF side has to say, which is little: it goes into the daemon's own log.

use std::time::Duration;

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

/// The ring buffer holds what was said meanwhile. Nothing that it says is urgent: what matters at once is counted.
const PERIOD: Duration = Duration::from_secs(1);

/// Passes on the BPF side's log lines from now on.
pub fn follow(ebpf: &mut Ebpf) {
    let mut logger = match EbpfLogger::init(ebpf) {
        Ok(logger) => logger,
        Err(error) => {
            warn!(error = crate::error::chain(&error), "the BPF side's log cannot be followed");
            return;
        }
    };
    tokio::spawn(async move {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            logger.flush();
        }
    });
}
