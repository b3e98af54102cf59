//! What is measured, and against whom: nginx as the server, wrk as the client.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xlb_tests::{Netns, Nginx, Wrk};

use super::balancers::{DIRECT_PORT, PORT};

/// Long enough for some tens of thousands of requests.
const DURATION: Duration = Duration::from_secs(3);
const N_CONNECTIONS: u32 = 32;

/// A real server of short and long answers, on the port that balancers send to, and on one that is asked directly. What comes from
/// the first is taken for a reply by a balancer that translates.
///
/// # Errors
/// As [`Nginx::start`].
pub fn serve(netns: &Netns, addresses: &[IpAddr]) -> Result<Nginx> {
    let on_both = |&address: &IpAddr| [PORT, DIRECT_PORT].map(|port| SocketAddr::new(address, port));
    let listen: Vec<SocketAddr> = addresses.iter().flat_map(on_both).collect();
    Nginx::start(netns, "server", &listen)
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Load {
    /// Short answers on connections that stay open.
    Requests,
    /// A connection for each short answer.
    Connections,
    /// Answers of a megabyte.
    Bulk,
}

/// What one load has come to.
#[derive(Clone, Copy, Debug)]
pub struct Figures {
    /// Requests a second; of [`Load::Bulk`], gigabits.
    pub rate: f64,
    pub p99_ms: f64,
    /// Time of all processors for a request: client, balancer, servers and kernel together. What a program in the kernel takes is
    /// booked on whoever was interrupted, and cannot be told apart.
    pub cpu_us: f64,
    pub errors: u64,
}

impl Load {
    pub const ALL: [Self; 3] = [Self::Requests, Self::Connections, Self::Bulk];

    pub fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests on open connections",
            Self::Connections => "a connection for each request",
            Self::Bulk => "answers of 1 MiB",
        }
    }

    pub fn key(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Connections => "connections",
            Self::Bulk => "bulk",
        }
    }

    pub fn unit(self) -> &'static str {
        if self == Self::Bulk { "Gbit/s" } else { "1/s" }
    }

    pub fn shown(self, rate: f64) -> String {
        if self == Self::Bulk { format!("{rate:.2}") } else { format!("{rate:.0}") }
    }

    /// # Errors
    /// Nobody answers, or the kernel does not tell what its processors did.
    pub fn measure(self, client: &Netns, to: SocketAddr) -> Result<Figures> {
        let path = if self == Self::Bulk { "bulk" } else { "" };
        let url = format!("http://{to}/{path}");
        // A megabyte takes long where 32 are on their way at a time.
        let timeout = Duration::from_secs(10);
        let wrk = Wrk { keep_alive: self != Self::Connections, connections: N_CONNECTIONS, timeout, ..Wrk::new(url, DURATION) };
        let before = busy_us()?;
        let report = wrk.run(client)?;
        let busy_us = busy_us()? - before;
        ensure!(report.requests > 0, "no answer");
        let n_requests = report.requests as f64;
        let seconds = report.duration.as_secs_f64();
        let rate = if self == Self::Bulk { report.bytes as f64 * 8.0 / 1e9 / seconds } else { n_requests / seconds };
        let p99_ms = report.latency_p99.as_secs_f64() * 1e3;
        Ok(Figures { rate, p99_ms, cpu_us: busy_us / n_requests, errors: report.errors() })
    }
}

/// For how long all processors together have done something, in microseconds (proc_stat(5)).
fn busy_us() -> Result<f64> {
    const TICK_US: f64 = 10_000.0;
    let stat = std::fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<f64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    ensure!(ticks.len() >= 7, "/proc/stat begins with {line:?}");
    // All but idle and waiting for disks; what comes after is counted among these already, or is another machine's.
    Ok((ticks[..7].iter().sum::<f64>() - ticks[3] - ticks[4]) * TICK_US)
}
