//! Two more backends by DNS: how soon they serve, and how few flows go elsewhere.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use xlb_tests::{Netns, http};

use super::chance;
use super::failover::ms;
use super::show::{self, Show, thousands};
use super::stage::{self, API, CHECK_INTERVAL, DNS_TTL, N_BACKENDS, N_IN_DNS, Stage, dns_records};
use super::stalls::Stalls;

const SLOTS_MOVED: &str = "xlb_service_slots_moved_total{service=\"api\"}";
const N_FLOWS: u16 = 1000;
/// Below the ports that the kernel gives out itself.
const FIRST_PORT: u16 = 20_000;
/// A query and a first probe.
const SLACK: Duration = Duration::from_millis(100);
/// Flows that move between backends that stay, as a part of all: what Maglev hashing costs over the ideal.
const DISRUPTION_MAX: f64 = 0.02;

pub fn act(show: &mut Show, stage: &mut Stage) -> Result<()> {
    let n_after = usize::from(N_BACKENDS);
    show.title(&format!("Scale-up through DNS, from {N_IN_DNS} to {n_after} backends"));
    stage.wait_serving("api", N_IN_DNS)?;
    let before = owners(stage.client())?;
    let slots_before = stage.daemon.metric(SLOTS_MOVED)?;
    let stalls = Stalls::start();
    let start = Instant::now();
    let records = dns_records(&stage.network, n_after);
    stage.dns.as_mut().context("no DNS server here")?.set(&records)?;
    let told = start.elapsed();
    stage.wait_serving("api", n_after)?;
    let took = start.elapsed();
    let limit = told + DNS_TTL + CHECK_INTERVAL + SLACK + stalls.longest()?;
    let text = format!("{} ms after the record changed both new ones serve (its TTL is {} ms)", ms(took), DNS_TTL.as_millis());
    show.claim(took <= limit, &text);

    let after = owners(stage.client())?;
    let moves = || before.iter().zip(&after).filter(|(before, after)| before != after);
    let n_moved = moves().count();
    let n_between_old = moves().filter(|&(_, &after)| after < N_IN_DNS).count();
    let n_flows = before.len();
    let share = (n_after - N_IN_DNS) as f64 / n_after as f64;
    let text = format!(
        "of {} flows {n_moved} would go to another backend (ideal: {:.0}), {n_between_old} of them between the old ones",
        thousands(n_flows as u64),
        n_flows as f64 * share
    );
    let allowed = DISRUPTION_MAX * n_flows as f64;
    let is_minimal = n_between_old as f64 <= allowed + chance::margin(n_flows, DISRUPTION_MAX);
    show.claim(is_minimal && chance::is_plausible(n_moved - n_between_old, n_flows, share), &text);
    let names = |owners: &[usize]| {
        let mut counts = vec![0; n_after];
        owners.iter().for_each(|&owner| counts[owner] += 1);
        show::bars(&counts)
    };
    let slots = stage.daemon.metric(SLOTS_MOVED)? - slots_before;
    let text = format!(
        "before {}\nafter  {}\n{SLOTS_MOVED} rose by {slots}: twice for a slot that went to the first of the new ones, then to the other",
        names(&before),
        names(&after)
    );
    show.note(&text);
    Ok(())
}

/// Which backend serves each of the flows, told apart by the client's port.
fn owners(client: &Netns) -> Result<Vec<usize>> {
    let own: SocketAddr = ([0, 0, 0, 0], 0).into();
    let owner = |port| {
        let answer = http::get_from(client, SocketAddr::new(own.ip(), port), &stage::url(API))?;
        stage::number(answer.body.trim())
    };
    (FIRST_PORT..FIRST_PORT + N_FLOWS).map(owner).collect()
}
