//! Discovered backends that the tables have no room for. Of such a service what was in force before goes on, and everything else
//! goes on as ever: a name server that lies, or a group that has grown too large, must not keep dead backends of others in the
//! tables.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::compile::CompileError;
use crate::config::Config;
use crate::desired::ServiceName;
use crate::discovery::{self, Backends, Kind};

/// How often it is tried whether there is room by now.
const RETRY: Duration = Duration::from_secs(5);

type BySource = BTreeMap<Kind, Backends>;
type Sets = BTreeMap<ServiceName, BySource>;

/// What sources gave last and is not in force.
#[derive(Debug, Default)]
pub struct HeldBack {
    /// All that was discovered, when the tables last held it.
    in_force: Sets,
    is_changed: bool,
    held: Sets,
    /// Why, of those that are held back, or are tried again.
    reasons: BTreeMap<ServiceName, String>,
    retry_at: Option<Instant>,
}

impl HeldBack {
    /// With what an earlier daemon's tables hold.
    pub fn new(in_force: Sets) -> Self {
        Self { in_force, ..Self::default() }
    }

    /// When to try again.
    pub fn next_due(&self) -> Option<Instant> {
        self.retry_at
    }

    /// Sources of a service gave something else, or are about to: it is to be tried as a whole.
    pub fn release(&mut self, service: &ServiceName, discovered: &mut Sets) {
        self.is_changed = true;
        if let Some(held) = self.held.remove(service) {
            discovered.insert(service.clone(), held);
        }
    }

    /// Has everything tried again that is held back, if it is time.
    pub fn release_due(&mut self, discovered: &mut Sets, now: Instant) {
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.is_changed = true;
            discovered.append(&mut self.held);
        }
    }

    /// Puts back what was in force of those who can be the reason for this error. Whether anybody can.
    pub fn hold(&mut self, error: &CompileError, discovered: &mut Sets, now: Instant) -> bool {
        if !self.is_changed {
            return false;
        }
        let is_new = |service: &&ServiceName| discovered.get(*service) != self.in_force.get(*service);
        let mut culprits: Vec<ServiceName> = discovered.keys().filter(is_new).cloned().collect();
        // Whoever it hits first is named, be it for the growth of another: then all who changed are at fault.
        if let Some(named) = error.service().filter(|named| culprits.contains(named)) {
            culprits = vec![named.clone()];
        }
        for service in &culprits {
            let reason = error.to_string();
            if self.reasons.get(service) != Some(&reason) {
                warn!(%service, reason, "no room for what discovery gave; what it gave before stays in force");
            }
            self.reasons.insert(service.clone(), reason);
            let given = match self.in_force.get(service) {
                Some(before) => discovered.insert(service.clone(), before.clone()),
                None => discovered.remove(service),
            };
            self.held.insert(service.clone(), given.unwrap_or_default());
        }
        self.retry_at = (!self.held.is_empty()).then_some(now + RETRY);
        !culprits.is_empty()
    }

    /// The tables hold what is discovered now.
    pub fn note_done(&mut self, config: &Config, discovered: &Sets) {
        if std::mem::take(&mut self.is_changed) {
            self.in_force.clone_from(discovered);
        }
        self.held.retain(|name, _| config.services.iter().any(|service| service.name == *name));
        self.reasons.retain(|service, _| {
            let is_held = self.held.contains_key(service);
            if !is_held && discovered.contains_key(service) {
                info!(%service, "there is room for what discovery gave, and it is in force");
            }
            is_held
        });
        if self.held.is_empty() {
            self.retry_at = None;
        }
    }

    /// How a source goes whose answer is held back.
    pub fn tell(&self, service: &ServiceName, status: &mut discovery::Status) {
        let Some(reason) = self.reasons.get(service).filter(|_| self.held.contains_key(service)) else { return };
        let in_force = self.in_force.get(service).and_then(|by_source| by_source.get(&status.source));
        status.last_error = Some(format!("no room for {} hosts: {reason}", status.n_hosts));
        status.n_hosts = in_force.map_or(0, Backends::len);
        status.stale = true;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[xdp]\ninterfaces = [\"eth0\"]\n\
        [[service]]\nname = \"api\"\nvip = \"192.0.2.1\"\nport = 80\n[service.dns]\nname = \"api.test\"\nport = 80\n\
        [[service]]\nname = \"web\"\nvip = \"192.0.2.2\"\nport = 80\n[service.dns]\nname = \"web.test\"\nport = 80\n";

    fn set(n: u8) -> BySource {
        let backends = (0..n).map(|i| (([10, 0, 0, i], 80).into(), 1)).collect();
        BTreeMap::from([(Kind::Dns, backends)])
    }

    fn out_of_slots(service: &str) -> CompileError {
        CompileError::OutOfSlots { service: service.into(), wanted: 1 << 20, free: 64, limit: 1 << 16 }
    }

    fn status() -> discovery::Status {
        discovery::Status {
            source: Kind::Dns,
            name: "api.test".into(),
            answered: None,
            last_error: None,
            n_queries: 1,
            n_failures: 0,
            n_too_few: 0,
            n_hosts: 200,
            n_standby: 0,
            n_refused: 0,
            stale: false,
        }
    }

    #[test]
    fn who_has_grown_too_large_keeps_what_it_had_and_is_tried_again_until_it_fits() {
        let (api, web): (ServiceName, ServiceName) = ("api".into(), "web".into());
        let config = crate::config::parse("xlb.toml", CONFIG).unwrap();
        let now = Instant::now();
        let mut discovered = Sets::from([(api.clone(), set(2)), (web.clone(), set(3))]);
        let mut held = HeldBack::new(discovered.clone());
        held.release(&api, &mut discovered);
        discovered.insert(api.clone(), set(200));
        held.release(&web, &mut discovered);
        discovered.insert(web.clone(), set(4));
        assert!(held.hold(&out_of_slots("api"), &mut discovered, now));
        assert_eq!(discovered, Sets::from([(api.clone(), set(2)), (web.clone(), set(4))]), "the other one's change holds");
        held.note_done(&config, &discovered);
        let mut told = status();
        held.tell(&api, &mut told);
        assert_eq!((told.n_hosts, told.stale), (2, true));
        assert!(told.last_error.unwrap().starts_with("no room for 200 hosts: service api needs 1048576 slots"));
        assert!(!held.hold(&out_of_slots("api"), &mut discovered, now), "nobody is left who could be the reason");

        let due = held.next_due().unwrap();
        held.release_due(&mut discovered, due);
        assert_eq!(discovered[&api], set(200));
        held.note_done(&config, &discovered);
        assert_eq!(held.next_due(), None);
        let mut told = status();
        held.tell(&api, &mut told);
        assert_eq!(told, status());
    }

    #[test]
    fn an_answer_that_fits_ends_it_at_once() {
        let api: ServiceName = "api".into();
        let config = crate::config::parse("xlb.toml", CONFIG).unwrap();
        let mut discovered = Sets::new();
        let mut held = HeldBack::default();
        held.release(&api, &mut discovered);
        discovered.insert(api.clone(), set(200));
        assert!(held.hold(&out_of_slots("api"), &mut discovered, Instant::now()));
        assert_eq!(discovered, Sets::new(), "it never had any");
        held.note_done(&config, &discovered);
        held.release(&api, &mut discovered);
        discovered.insert(api.clone(), set(2));
        held.note_done(&config, &discovered);
        assert_eq!((held.next_due(), discovered[&api].clone()), (None, set(2)));
    }

    #[test]
    fn where_the_one_that_is_named_has_not_changed_all_who_have_are_held_back() {
        let (api, web): (ServiceName, ServiceName) = ("api".into(), "web".into());
        let mut discovered = Sets::from([(api.clone(), set(2)), (web.clone(), set(3))]);
        let mut held = HeldBack::new(discovered.clone());
        held.release(&api, &mut discovered);
        discovered.insert(api.clone(), set(200));
        assert!(held.hold(&out_of_slots("web"), &mut discovered, Instant::now()));
        assert_eq!(discovered, Sets::from([(api, set(2)), (web, set(3))]));
    }
}
