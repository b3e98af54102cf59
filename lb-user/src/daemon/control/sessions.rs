//! How many ports of the pool of full NAT are taken.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::maps::{self, Sessions};
use crate::pool::Pool;
use crate::status::PoolStatus;

/// With many addresses, looking takes a while: it is not looked more often.
const LOOK: Duration = Duration::from_secs(1);

/// What was seen when it was last looked, of each address.
#[derive(Debug, Default)]
pub struct Counted(Mutex<Option<(Instant, Vec<u32>)>>);

impl Counted {
    /// Of each address, as of a second ago at most.
    pub fn status(&self, pool: &Pool, sessions: &Sessions) -> Vec<PoolStatus> {
        if pool.is_empty() {
            return Vec::new();
        }
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = counted.take_if(|(looked, _)| looked.elapsed() < LOOK);
        let (looked, live) = known.unwrap_or_else(|| (Instant::now(), sessions.n_live(maps::now())));
        let ports = pool.range().n_ports;
        let status = |((_, address), &sessions)| PoolStatus { address, ports, sessions };
        let status = pool.numbered().zip(&live).map(status).collect();
        *counted = Some((looked, live));
        status
    }
}
