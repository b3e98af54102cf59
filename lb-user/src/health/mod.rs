//! Health: which backends serve.
//!
//! One task a backend probes it on a schedule ([`checker`]), state machines without clock or I/O decide what a row of
//! results means ([`state`]) and what all of them mean together ([`vitals`]), and what they decide leaves as a [`Transition`].
//! Nothing here touches a map.

pub mod breaker;
pub mod checker;
pub mod flapping;
mod parts;
pub mod probe;
pub mod quota;
pub mod state;
pub mod steer;
pub mod suspicion;
pub mod vitals;
pub mod window;

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use crate::desired::ServiceName;

pub use breaker::Phase;
pub use checker::{Checker, Status, spawn};
pub use parts::{Advice, Condition, Parts};
pub use probe::{Dns, DnsAnswer, Grpc, Http, Login, Postgres, Redis, Role, Script, Tls, Trust, Udp};
pub use state::State;
pub use steer::{Path, Steering};

/// The granularity of tokio's timers: a sleep may end this much later than asked.
const TICK: Duration = Duration::from_millis(1);

/// How a service's backends are checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Checks {
    pub mode: Mode,
    /// At least one. Each has its own schedule and its own row of results.
    pub list: Vec<Check>,
    /// `[service.breaker]`
    pub breaker: Option<breaker::Rules>,
    /// `[service.passive]`
    pub passive: Option<suspicion::Rules>,
    /// `[service.flapping]`
    pub flapping: flapping::Rules,
    /// How many of the backends may be ejected, or held for flapping, at a time, in percent.
    pub ejected_max_percent: u8,
}

impl Checks {
    pub const EJECTED_MAX_PERCENT: u8 = 50;

    /// These, and no more than holds by default.
    pub fn new(mode: Mode, list: Vec<Check>) -> Self {
        let (flapping, ejected_max_percent) = (flapping::Rules::default(), Self::EJECTED_MAX_PERCENT);
        Self { mode, list, breaker: None, passive: None, flapping, ejected_max_percent }
    }

    /// Whether somebody asks the backends something.
    pub fn is_active(&self) -> bool {
        self.list.iter().any(|check| check.probe != Probe::None)
    }
}

/// `health_mode`: which of several checks a backend must pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    #[default]
    All,
    /// One is enough.
    Any,
}

impl Mode {
    /// What a backend is whose checks say this. `None` while too many of them say nothing.
    fn combine(self, states: impl Iterator<Item = State> + Clone) -> Option<State> {
        let (decisive, otherwise) = match self {
            Self::All => (State::Down, State::Up),
            Self::Any => (State::Up, State::Down),
        };
        let has = |wanted: State| states.clone().any(|state| state == wanted);
        match () {
            () if has(decisive) => Some(decisive),
            () if has(State::Unknown) => None,
            () => Some(otherwise),
        }
    }
}

/// `[service.health]`, or one `[[service.health]]`: one check.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    pub probe: Probe,
    /// `None` probes the port that the backend serves on.
    pub port: Option<u16>,
    /// The longest time from the start of one probe to the start of the next.
    pub interval: Duration,
    /// A probe without a verdict by then has failed. At most `interval`.
    pub timeout: Duration,
    /// Successes in a row that bring a backend back up.
    pub rise: u32,
    /// Failures in a row that take a backend down.
    pub fall: u32,
    /// While a backend is down, the time from probe to probe grows up to this; `None` leaves it as it is.
    pub backoff_max: Option<Duration>,
    pub degraded: Option<Degraded>,
    /// The VIP to ask, with packets that get to the backend as clients' do; `None` asks the backend's own address.
    pub path: Option<Path>,
}

/// When a backend is too slow, though it answers in time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Degraded {
    /// `fall` probes in a row that take longer are too slow; `rise` in a row that do not are well again.
    pub above: Duration,
    /// How much of its weight it has then.
    pub percent: u16,
}

impl Default for Check {
    /// A TCP probe a second; a dead backend is noticed within 2.5 s.
    fn default() -> Self {
        Self {
            probe: Probe::Tcp,
            port: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_millis(500),
            rise: 2,
            fall: 2,
            backoff_max: None,
            degraded: None,
            path: None,
        }
    }
}

impl Check {
    /// The longest time from a backend's death to this check's verdict, which is the [`Transition`] if there is no other.
    ///
    /// Dying at the instant at which it answered a probe, it has up to an interval until the first probe that fails, the
    /// `fall`-th such starts `fall - 1` intervals later, and ends with its time-out: `fall * interval + timeout`.
    pub fn detection_max(&self) -> Duration {
        self.interval.saturating_mul(self.fall).saturating_add(self.timeout)
    }

    /// The longest time from the start of a probe to the start of the next, after so many failures in a row. The first that takes
    /// a backend down is followed by the interval, each further one by twice the time.
    pub fn pause(&self, failed_in_row: u32) -> Duration {
        let beyond = failed_in_row.saturating_sub(self.fall.max(1));
        self.backoff_max.map_or(self.interval, |max| breaker::doubled(self.interval, beyond, max))
    }
}

/// What is asked of a backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Nothing: it counts as up.
    None,
    /// That it accepts a connection.
    Tcp,
    /// That it answers over HTTP, or HTTPS.
    Http(Http),
    /// That a Redis server answers, and has the right role.
    Redis(Redis),
    /// That a PostgreSQL server answers, and has the right role.
    Postgres(Postgres),
    /// That a gRPC server says that it serves.
    Grpc(Grpc),
    /// That a program says so.
    Script(Script),
    /// That an agent beside it says so.
    Agent,
    /// That it answers a datagram.
    Udp(Udp),
    /// That it answers a DNS query.
    Dns(Dns),
    /// That its host answers an ICMP echo request.
    Icmp,
}

impl Probe {
    /// Whether it is sent to a port. Others can check the backends of a service of every port.
    pub fn needs_port(&self) -> bool {
        !matches!(self, Self::None | Self::Icmp | Self::Script(_))
    }
}

/// What a checker has to say of its backend.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum News {
    Transition(Transition),
    /// Its flows have raised suspicion, for this reason, and it is probed at once.
    Suspected {
        service: ServiceName,
        backend: SocketAddr,
        cause: String,
    },
    /// It comes and goes too often, or no longer does.
    Flapping {
        service: ServiceName,
        backend: SocketAddr,
        is_flapping: bool,
    },
}

impl News {
    /// Of whom.
    pub fn key(&self) -> (ServiceName, SocketAddr) {
        match self {
            Self::Transition(Transition { service, backend, .. })
            | Self::Suspected { service, backend, .. }
            | Self::Flapping { service, backend, .. } => (service.clone(), *backend),
        }
    }
}

/// A backend is in another condition than before: another state, or another part of its weight is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transition {
    pub service: ServiceName,
    pub backend: SocketAddr,
    pub from: State,
    pub to: State,
    /// With the new state.
    pub parts: Parts,
    /// What the deciding probe found, such as `http 503` or `connect: refused`.
    pub cause: String,
    /// When the deciding probe ended: what comes after is the way to the maps.
    pub observed: Instant,
}
