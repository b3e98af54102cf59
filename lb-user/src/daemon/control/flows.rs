//! What flows show of their backends between two probes: read from the counters, told to the checkers.

use std::collections::BTreeMap;
use std::time::Duration;

use lb_common::BackendId;
use lb_common::handshake::Handshakes;
use tokio::time::Instant;

use super::Control;
use crate::daemon::BackendKey;
use crate::health::suspicion;

/// How often it is looked. A client waits for a second before it sends its SYN once more.
const LOOK: Duration = Duration::from_millis(500);

/// What was seen when it was last looked.
#[derive(Debug, Default)]
pub struct Flows {
    last: BTreeMap<BackendKey, (BackendId, Handshakes)>,
    looked: Option<Instant>,
}

impl Control {
    /// When to look at flows again; `None` if no service wants it.
    pub fn next_look(&self) -> Option<Instant> {
        let is_wanted = self.config.services.iter().any(|service| service.health.passive.is_some());
        is_wanted.then(|| self.flows.looked.map_or_else(Instant::now, |looked| looked + LOOK))
    }

    /// Tells the checkers what flows have shown since the last time.
    pub fn look_at_flows(&mut self) {
        let mut now = BTreeMap::new();
        for service in self.config.services.iter().filter(|service| service.health.passive.is_some()) {
            let backends = self.desired.services.get(&service.name).into_iter().flat_map(|service| service.backends.keys());
            for &endpoint in backends {
                let Some(id) = self.layout.find_backend(&service.name, endpoint) else { continue };
                now.insert((service.name.clone(), endpoint), (id, self.ledger.counters().handshakes(id)));
            }
        }
        for (key, (id, counted)) in &now {
            // An id that changes hands goes on counting.
            if let Some((_, before)) = self.flows.last.get(key).filter(|(before, _)| before == id) {
                self.followers.note_flows(key, suspicion::counts(&counted.since(before)));
            }
        }
        self.flows = Flows { last: now, looked: Some(Instant::now()) };
    }
}
