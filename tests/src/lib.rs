//! Worlds to try xlb in: network namespaces joined by veth pairs, real peers in them, and the daemon under test.
//!
//! Everything happens in namespaces of this library's making; the machine's own interfaces are never touched. What a
//! test makes, it owns: dropping a [`World`], a [`Process`] or a [`Daemon`] undoes it, after a panic too. What a
//! killed test leaves behind, [`World::sweep`] removes: names hold the process id of their maker.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use xlb_tests::{Backend, Daemon, Network, http};
//!
//! let vip = "10.200.1.1".parse()?;
//! let network = Network::dsr(5, &[vip])?;
//! let backends = Backend::start_all(&network, 80, &[vip])?;
//! let services = r#"
//!     [[service]]
//!     name = "web"
//!     ...
//! "#;
//! let mut daemon = Daemon::new(&network.lb.netns, &["eth0"]).services(services).start()?;
//! let answer = http::get(&network.client.netns, &format!("http://{vip}/"))?;
//! # let _ = (backends, answer);
//! daemon.stop()
//! # }
//! ```
//!
//! Needs root, and the programs that `cargo xtask setup` installs.

pub mod agent;
pub mod backend;
pub mod booted;
pub mod certificate;
pub mod chromium;
pub mod connections;
pub mod daemon;
pub mod dns;
pub mod docker;
pub mod frames;
pub mod fuzz;
pub mod http;
pub mod impostor;
pub mod interrupt;
pub mod netns;
pub mod network;
pub mod nginx;
mod pass;
pub mod path;
pub mod paths;
pub mod postgres;
pub mod process;
pub mod redis;
pub mod udp;
pub mod wait;
pub mod world;
pub mod wrk;

pub use agent::Agent;
pub use backend::Backend;
pub use booted::Booted;
pub use certificate::{Authority, Certificate};
pub use chromium::Chromium;
pub use connections::Connections;
pub use daemon::Daemon;
pub use dns::Dnsmasq;
pub use docker::Dockerd;
pub use impostor::{Impostor, NameServer};
pub use netns::Netns;
pub use network::{Host, Network};
pub use nginx::Nginx;
pub use postgres::Postgres;
pub use process::Process;
pub use redis::Redis;
pub use wait::until;
pub use world::World;
pub use wrk::Wrk;
