//! Views with nothing of note in them, for tests to change.

use lb_common::counters::BackendCounters;

use super::*;

/// A backend that is checked, known to nobody by a number, and does not serve.
pub fn backend(endpoint: SocketAddr) -> BackendView {
    BackendView {
        id: None,
        endpoint,
        weight: 1,
        check: health::Status::default(),
        serves: false,
        unreachable: None,
        sources: vec!["fixed"],
        zone: None,
        server_id: None,
        base: BackendCounters::default(),
        flows: 0,
        set: BackendOverrides::default(),
        drain: None,
        place: Place::default(),
    }
}

/// A service that the tables do not have yet.
pub fn service(name: &str, backends: Vec<BackendView>) -> ServiceView {
    ServiceView {
        id: None,
        name: name.into(),
        vip: [192, 0, 2, 1].into(),
        port: 80,
        protocol: Protocol::Tcp,
        algorithm: Algorithm::Maglev,
        forward: Forward::Dsr,
        counts_handshakes: false,
        discovery: Vec::new(),
        backends,
        slots: None,
        n_slots_restless: 0,
        leaving: Vec::new(),
        drop_base: 0,
        maintenance: None,
        failover: None,
    }
}
