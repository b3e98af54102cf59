//! Says so when this process did not run for a while: stopped by SIGSTOP, on a virtual machine that stood still, or starved. What
//! then looks like others' faults (probes out of time, events that came late) has its reason here.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tracing::warn;

const PERIOD: Duration = Duration::from_secs(1);
/// Less is any busy machine's.
const LATE_MIN: Duration = Duration::from_secs(1);

/// Watches until the process ends.
pub async fn watch() {
    loop {
        let due = Instant::now() + PERIOD;
        sleep_until(due).await;
        let late = due.elapsed();
        if late > LATE_MIN {
            let late_s = late.as_secs_f64();
            warn!("this process did not run for {late_s:.1} s; probes that were on their way then do not count");
        }
    }
}
