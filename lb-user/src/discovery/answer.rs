//! What a name server said, and how long it holds. Pure.

use std::time::Duration;

use super::found::Found;
use super::teller::WAIT_MIN;

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Answer {
    pub(super) found: Found,
    /// The shortest on the way to the addresses.
    pub(super) ttl: Duration,
}

impl Answer {
    /// How long to wait until the name is asked for again.
    pub(super) fn wait(&self, interval: Duration) -> Duration {
        self.ttl.min(interval).max(WAIT_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_query_honours_ttl_and_interval() {
        for (ttl_s, interval_s, wait_s) in [(30, 60, 30), (300, 60, 60), (0, 60, 1), (5, 1, 1)] {
            let [ttl, interval, wait] = [ttl_s, interval_s, wait_s].map(Duration::from_secs);
            let answer = Answer { found: Found::default(), ttl };
            assert_eq!(answer.wait(interval), wait, "ttl {ttl_s} interval {interval_s}");
        }
    }
}
