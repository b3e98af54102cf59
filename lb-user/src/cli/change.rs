//! `xlb drain`, `weight` and the like: what is changed at runtime, asked of the daemon.

use anyhow::{Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::{Value, json};

use super::client::{self, Door, Reach, encoded};

/// Whom a change is about.
#[derive(Args, Debug)]
pub struct Whom {
    /// The service's name
    service: String,
    /// The backend's address; with its port, where several share the address
    #[arg(value_name = "ADDRESS[:PORT]")]
    backend: String,
}

/// What can be changed at runtime.
#[derive(Subcommand, Debug)]
pub enum Verb {
    /// Drain a backend: no new connections, and those that it has stay until they end
    ///
    /// `xlb status` shows how many are left. With a deadline the backend is disabled then. It stays so through restarts, until
    /// `xlb enable` or `xlb reset`.
    Drain {
        #[command(flatten)]
        whom: Whom,
        /// Disable it after this time, such as 10m or 1h30m
        #[arg(long, value_name = "TIME")]
        deadline: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Take a backend out at once, as if it were down
    ///
    /// The service's on_down says what becomes of its connections. Checks go on.
    Disable {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        reach: Reach,
    },
    /// End a drain, or take a disabled backend in again
    ///
    /// It serves then as the checks say. A weight that was set at runtime stays; `xlb reset` forgets that too.
    Enable {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        reach: Reach,
    },
    /// Set a backend's weight
    Weight {
        #[command(flatten)]
        whom: Whom,
        /// 0 to 65535, as in the file; 0 takes no new connections
        weight: u16,
        #[command(flatten)]
        reach: Reach,
    },
    /// Add a backend to a service
    ///
    /// Until it is removed, or reset; the file is not touched.
    Add {
        #[command(flatten)]
        whom: Whom,
        /// As in the file; 1 unless given, or what the file says of one that was removed
        #[arg(long)]
        weight: Option<u16>,
        /// The zone that it is in, where the service goes by zones
        #[arg(long)]
        zone: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Remove a backend from a service; connections that it has stay until they end
    Remove {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        reach: Reach,
    },
    /// Put a service in maintenance, or end that: nobody of it takes new connections
    Maintenance {
        /// The service's name
        service: String,
        #[arg(value_enum)]
        state: Switch,
        #[command(flatten)]
        reach: Reach,
    },
    /// Bring a service back to its first priority with a healthy backend, where failback is "manual"
    ///
    /// New connections go there; those that the standbys have stay until they end.
    Failback {
        /// The service's name
        service: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Forget what was set at runtime: the file holds again, for one backend, one service, or all
    Reset {
        /// The service's name; without, all services
        service: Option<String>,
        /// One of its backends; without, all of them
        #[arg(value_name = "ADDRESS[:PORT]")]
        backend: Option<String>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Have the daemon read its configuration file again
    ///
    /// Waits until that is done and prints what changed, or why nothing did. `xlb check` shows it beforehand.
    Reload {
        #[command(flatten)]
        reach: Reach,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Switch {
    On,
    Off,
}

/// Asks for the change, and prints what is different now.
///
/// # Errors
/// It is not done, and why.
pub async fn carry_out(verb: Verb) -> Result<()> {
    let (reach, method, path, body) = request(verb);
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    let (code, answer) = client::ask(&Door::try_from(&reach)?, method, &path, body).await?;
    if !code.is_success() {
        bail!(client::refusal(code, &answer));
    }
    let answer: Value = serde_json::from_slice(&answer).unwrap_or_else(|_| String::from_utf8_lossy(&answer).into());
    let lines: Vec<&str> = answer["changed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    super::print(&if lines.is_empty() { "nothing to change: it is so already\n".to_owned() } else { lines.join("\n") + "\n" })
}

fn request(verb: Verb) -> (Reach, Method, String, Value) {
    let of = |service: &str| format!("/api/v1/services/{}", encoded(service));
    let backend = |whom: &Whom| format!("{}/backends/{}", of(&whom.service), encoded(&whom.backend));
    match verb {
        Verb::Drain { whom, deadline, reach } => {
            let body = deadline.map_or(Value::Null, |deadline| json!({ "deadline": deadline }));
            (reach, Method::POST, backend(&whom) + "/drain", body)
        }
        Verb::Disable { whom, reach } => (reach, Method::POST, backend(&whom) + "/disable", Value::Null),
        Verb::Enable { whom, reach } => (reach, Method::POST, backend(&whom) + "/enable", Value::Null),
        Verb::Weight { whom, weight, reach } => (reach, Method::PUT, backend(&whom) + "/weight", json!({ "weight": weight })),
        Verb::Add { whom, weight, zone, reach } => {
            let mut body = json!({ "address": whom.backend });
            if let Some(weight) = weight {
                body["weight"] = weight.into();
            }
            if let Some(zone) = zone {
                body["zone"] = zone.into();
            }
            (reach, Method::POST, of(&whom.service) + "/backends", body)
        }
        Verb::Remove { whom, reach } => (reach, Method::DELETE, backend(&whom), Value::Null),
        Verb::Maintenance { service, state, reach } => {
            let body = json!({ "on": matches!(state, Switch::On) });
            (reach, Method::POST, of(&service) + "/maintenance", body)
        }
        Verb::Failback { service, reach } => (reach, Method::POST, of(&service) + "/failback", Value::Null),
        Verb::Reset { service, backend, reach } => {
            let named = [("service", service), ("backend", backend)];
            let body = named.into_iter().filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
            (reach, Method::POST, "/api/v1/reset".to_owned(), Value::Object(body.collect()))
        }
        Verb::Reload { reach } => (reach, Method::POST, "/api/v1/reload".to_owned(), Value::Null),
    }
}
