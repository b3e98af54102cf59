//! `[watchdog]`: the packet path is told for how long the daemon may be away from now on, as the control loop comes round.

use lb_common::flow::TICK_SHIFT;
use lb_common::records::settings_flags;
use tokio::time::Instant;
use tracing::warn;

use super::Control;
use crate::daemon::assemble::ticks;
use crate::desired::{Absence, Watchdog};
use crate::maps;

/// The loop says so this many times within the time that it may be away.
const BEATS: u32 = 4;

impl Control {
    /// The loop has come round.
    pub fn attend(&mut self) {
        if let Some(watchdog) = self.desired.watchdog.filter(|_| self.attend_at <= Instant::now()) {
            self.attend_for(watchdog);
        }
    }

    /// When the loop has to come round, if nothing else makes it.
    pub fn next_attendance(&self) -> Option<Instant> {
        self.desired.watchdog.map(|_| self.attend_at)
    }

    pub(super) fn attend_for(&mut self, watchdog: Watchdog) {
        let before = self.maps.settings();
        let n_late = maps::now().wrapping_sub(before.attended_until);
        self.maps.attend_for(ticks(watchdog.after));
        self.attend_at = Instant::now() + watchdog.after / BEATS;
        // A time that has not come yet is far below zero, and wraps.
        if before.flags & settings_flags::WATCHDOG != 0 && (1..=i32::MAX as u32).contains(&n_late) {
            let seconds = (u64::from(n_late) << TICK_SHIFT) / 1_000_000_000;
            let became = match watchdog.absence {
                Absence::Pass => "left to this host",
                Absence::Drop => "dropped",
            };
            warn!(
                seconds,
                "this daemon was away for longer than `watchdog.after`: packets to VIPs were {became} for as long as this"
            );
        }
    }
}
