//! Which backends a service's slots are divided among.
//!
//! One that is added to a service which others serve already could not serve its slots before it has passed its first check.
//! They would go to stand-ins and then move again, and those of one that is never up would go for nothing. So it is a member
//! from when it can first serve. It stays one when it fails: stand-ins serve its slots meanwhile, and nothing else moves.
//!
//! Where nobody has served yet, as at a daemon's start, all are members: no slot is anybody's that could be moved, and as
//! they come up one by one, each takes its own slots and no others.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use crate::desired::ServiceName;

/// Members of all services.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members(BTreeMap<ServiceName, BTreeMap<SocketAddr, Standing>>);

/// Why a backend is a member.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It was there before anybody could serve.
    Founder,
    /// It can serve, or could at some time since it was added.
    Proven,
}

impl Members {
    /// Forgets who left: one that comes back has to prove itself again. Asks in their order.
    pub fn retain(&mut self, mut stays: impl FnMut(&ServiceName, &SocketAddr) -> bool) {
        self.0.retain(|name, members| {
            members.retain(|endpoint, _| stays(name, endpoint));
            !members.is_empty()
        });
    }

    /// Makes members of those who may be, of all the backends that a service has, each with whether it can serve now.
    pub fn admit(&mut self, service: &ServiceName, backends: impl Iterator<Item = (SocketAddr, bool)> + Clone) {
        let members = self.0.entry(service.clone()).or_default();
        let is_begun = backends.clone().any(|(endpoint, _)| members.get(&endpoint) == Some(&Standing::Proven));
        for (endpoint, can_serve) in backends {
            if can_serve {
                members.insert(endpoint, Standing::Proven);
            } else if !is_begun {
                members.entry(endpoint).or_insert(Standing::Founder);
            }
        }
    }

    /// Those of one service.
    pub fn of(&self, service: &ServiceName) -> Self {
        Self(self.0.get(service).map(|members| (service.clone(), members.clone())).into_iter().collect())
    }

    /// Takes over a backend of a running program.
    pub fn adopt(&mut self, service: &ServiceName, endpoint: SocketAddr, standing: Standing) {
        self.0.entry(service.clone()).or_default().insert(endpoint, standing);
    }

    pub fn contains(&self, service: &ServiceName, endpoint: SocketAddr) -> bool {
        self.0.get(service).is_some_and(|members| members.contains_key(&endpoint))
    }
}
