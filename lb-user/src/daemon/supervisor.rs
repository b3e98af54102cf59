//! What systemd is told (sd_notify(3)): that the daemon is ready, that it reads its configuration again, that it ends, and that
//! its control loop still goes round. Where nobody listens, nothing is said.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::Instant;
use tracing::debug;

/// The loop reports this many times within the time after which systemd would restart the daemon.
const BEATS: u32 = 3;

/// The side of systemd. The loop itself reports to its watchdog: a timer of its own would go on when the loop no longer does.
pub struct Supervisor {
    period: Option<Duration>,
    next: Instant,
}

impl Supervisor {
    /// `limit` is how long systemd waits for a sign of life, if it does at all.
    pub fn new(limit: Option<Duration>, now: Instant) -> Self {
        Self { period: limit.map(|limit| limit / BEATS), next: now }
    }

    /// With what systemd has said in the environment.
    pub fn from_environment() -> Self {
        Self::new(sd_notify::watchdog_enabled(), Instant::now())
    }

    /// The program runs by complete tables, or a reload is over, one way or the other.
    pub fn ready(&self, status: &str) {
        tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Until [`ready`](Self::ready) is said again.
    pub fn reloading(&self) {
        // systemd tells this reload from an earlier one by the time.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => tell(&[NotifyState::Reloading, now]),
            Err(error) => debug!(%error, "systemd is not told of the reload"),
        }
    }

    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }

    /// The loop has come round.
    pub fn beat(&mut self, now: Instant) {
        if self.is_due(now) {
            tell(&[NotifyState::Watchdog]);
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        let Some(period) = self.period.filter(|_| self.next <= now) else { return false };
        self.next = now + period;
        true
    }

    /// When the loop has to come round, if nothing else makes it.
    pub fn next_beat(&self) -> Option<Instant> {
        self.period.map(|_| self.next)
    }
}

fn tell(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        debug!(%error, "systemd cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loop_reports_once_a_period_however_often_it_goes_round() {
        let start = Instant::now();
        let mut supervisor = Supervisor::new(Some(Duration::from_secs(30)), start);
        assert!(supervisor.is_due(start), "the first time round");
        let rounds = (1..=3000).map(|round| start + Duration::from_millis(10) * round);
        let beats: Vec<Duration> = rounds.filter(|&now| supervisor.is_due(now)).map(|now| now - start).collect();
        assert_eq!(beats, [10, 20, 30].map(Duration::from_secs));
        assert_eq!(supervisor.next_beat(), Some(start + Duration::from_secs(40)));
    }

    #[test]
    fn a_loop_that_was_late_does_not_catch_up() {
        let start = Instant::now();
        let mut supervisor = Supervisor::new(Some(Duration::from_secs(30)), start);
        let late = start + Duration::from_secs(25);
        assert!(supervisor.is_due(late));
        assert!(!supervisor.is_due(late));
        assert_eq!(supervisor.next_beat(), Some(late + Duration::from_secs(10)));
    }

    #[test]
    fn without_a_watchdog_nothing_wakes_the_loop() {
        let now = Instant::now();
        let mut supervisor = Supervisor::new(None, now);
        assert!(!supervisor.is_due(now));
        assert_eq!(supervisor.next_beat(), None);
    }
}
