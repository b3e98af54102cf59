//! Flows spread evenly: TCP and UDP, IPv4 and IPv6, both ways of forwarding.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use xlb_tests::{http, udp};

use super::chance;
use super::show::{self, Show, thousands};
use super::stage::{self, N_BACKENDS, PORT, Stage, WEB, WEB_V6};

/// For each line.
const N_FLOWS: usize = 1000;

pub fn act(show: &mut Show, stages: &[&Stage]) -> Result<()> {
    show.title(&format!("Spread of {} new flows each", thousands(N_FLOWS as u64)));
    show.note(&format!("              {}", show::names(N_BACKENDS.into())));
    for stage in stages {
        let before = counted(stage)?;
        for (family, vip) in [("IPv4", WEB), ("IPv6", WEB_V6)] {
            for protocol in ["TCP", "UDP"] {
                let counts = flows(stage, vip, protocol)?;
                let is_even = counts.iter().all(|&count| chance::is_plausible(count, N_FLOWS, 1.0 / f64::from(N_BACKENDS)));
                show.claim(is_even, &format!("{} {family} {protocol} {}", stage.name, show::bars(&counts)));
            }
        }
        let (connections, datagrams) = counted(stage)?;
        let (connections, datagrams) = (connections - before.0, datagrams - before.1);
        let n = 2 * N_FLOWS as u64;
        // A machine that stalls makes TCP send its first packet again.
        let text = format!(
            "{}: xlb counted {} TCP connections and {} datagrams for the {} + {}",
            stage.name,
            thousands(connections),
            thousands(datagrams),
            thousands(n),
            thousands(n)
        );
        show.claim(connections >= n && datagrams == n, &text);
    }
    Ok(())
}

/// Opens flows one after another; yields how many each backend got.
fn flows(stage: &Stage, vip: IpAddr, protocol: &str) -> Result<Vec<usize>> {
    let names = match protocol {
        "TCP" => http::names(stage.client(), &stage::url(vip), N_FLOWS)?,
        _ => udp::names(stage.client(), SocketAddr::new(vip, PORT), N_FLOWS)?,
    };
    stage::tally(&names)
}

/// TCP connections and UDP packets that the daemon has counted.
fn counted(stage: &Stage) -> Result<(u64, u64)> {
    let of = |service: &str, key: &str| -> Result<u64> { stage.service(service)?[key].as_u64().context("no count") };
    Ok((of("web", "connections")? + of("web6", "connections")?, of("echo", "packets")? + of("echo6", "packets")?))
}
