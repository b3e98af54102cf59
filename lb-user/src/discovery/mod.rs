//! Discovery: backends that are found rather than written down.
//!
//! A [`Source`] is a DNS name, a file, or a Docker daemon. Each has a task that tells the whole set of backends whenever it
//! changes. What is common to all is in `found` (what can be a backend) and `teller` (what is taken, kept and told). What
//! serves is still for the health checks to say; nothing here touches a map.
//!
//! The rule that matters: no failure takes a backend away. A source that is gone, lies, or has nothing to say leaves the last
//! good set as it is, because its outage must not become an outage of the service; unless the operator has set how long
//! (`stale`). Backends leave only when an answer without them comes.

mod answer;
mod dns;
mod docker;
mod file;
mod found;
mod query;
mod teller;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

pub use found::Place;
pub use teller::Status;

use crate::config;
use crate::desired::ServiceName;
use teller::Teller;

/// Endpoints with their weights.
pub type Backends = BTreeMap<SocketAddr, u16>;

/// Where backends come from. Where two name the same backend, the weight of the lesser one here holds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    File,
    Docker,
    Dns,
}

impl Kind {
    /// In configuration, status, metrics and logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Docker => "docker",
            Self::Dns => "dns",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// What one of a service's sources has to say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct News {
    pub service: ServiceName,
    pub source: Kind,
    pub what: What,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// All backends that the service has by it, present now. What is not in it has left.
    Backends(Backends),
    /// It gives no usable answer any more, or none for another reason than before. What it said holds, if it is stale.
    Failing { is_stale: bool, cause: String },
    /// It gives usable answers again.
    Recovered,
}

/// What is to be watched, as configured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    Dns(config::Dns),
    File(config::File),
    Docker(config::Docker),
}

impl Source {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Dns(_) => Kind::Dns,
            Self::File(_) => Kind::File,
            Self::Docker(_) => Kind::Docker,
        }
    }

    /// Which one of its kind it is: a DNS name, a path, or a socket's path.
    pub fn name(&self) -> String {
        match self {
            Self::Dns(dns) => dns.name.clone(),
            Self::File(file) => file.path.display().to_string(),
            Self::Docker(docker) => docker.socket.display().to_string(),
        }
    }

    /// Of hosts of which it says none.
    pub fn weight(&self) -> u16 {
        match self {
            Self::Dns(dns) => dns.weight,
            Self::File(file) => file.weight,
            Self::Docker(docker) => docker.weight,
        }
    }

    /// Whether a backend of an earlier daemon can have come from it: a name's addresses all have one port.
    pub fn may_have(&self, endpoint: SocketAddr) -> bool {
        match self {
            Self::Dns(dns) => dns.record == config::DnsRecord::Srv || dns.port == endpoint.port(),
            Self::File(_) | Self::Docker(_) => true,
        }
    }

    fn trust(&self) -> config::Trust {
        match self {
            Self::Dns(dns) => dns.trust,
            Self::File(file) => file.trust,
            Self::Docker(docker) => docker.trust,
        }
    }
}

/// A source's task. Dropping it ends the task; nothing more is sent then.
#[derive(Debug)]
pub struct Watcher {
    task: AbortHandle,
    status: Arc<Mutex<Status>>,
}

impl Watcher {
    /// A snapshot.
    pub fn status(&self) -> Status {
        // Whoever held it only replaced whole values: they are sound even if it panicked.
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Starts watching. The whole set is sent at the first usable answer, and whenever it changes; and what is wrong with the source.
///
/// The task ends when the receiver is gone.
///
/// # Panics
/// Outside a tokio runtime.
pub fn spawn(service: ServiceName, source: Source, place: Place, out: mpsc::Sender<News>) -> Watcher {
    let teller = Teller::new(service, &source, place, out);
    let status = teller.status();
    let task = match source {
        Source::Dns(dns) => tokio::spawn(dns::watch(dns, teller)),
        Source::File(file) => tokio::spawn(file::watch(file, teller)),
        Source::Docker(docker) => tokio::spawn(docker::watch(docker, teller)),
    };
    Watcher { task: task.abort_handle(), status }
}

/// The next set of backends; `None` if none comes any more.
pub async fn next_set(news: &mut mpsc::Receiver<News>) -> Option<Backends> {
    loop {
        if let What::Backends(backends) = news.recv().await?.what {
            return Some(backends);
        }
    }
}

/// Whether no set of backends waits to be taken.
#[cfg(test)]
fn has_told_nothing(news: &mut mpsc::Receiver<News>) -> bool {
    !std::iter::from_fn(|| news.try_recv().ok()).any(|news| matches!(news.what, What::Backends(_)))
}

/// Which addresses a service can use: packets keep the family of its VIP.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum AddressFamily {
    V4,
    V6,
}

impl AddressFamily {
    /// Of this address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}
