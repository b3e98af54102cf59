//! Datagrams larger than what fits into a packet: their fragments reach one backend, and so do those of its answers the client.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use xlb_tests::{Backend, Daemon, Network, udp};

use super::fullnat;
use super::support::{both_vips, tcp_and_udp_on_both_families, verdict};

/// Two fragments, three, and as many as there may be.
const LENS: [usize; 4] = [1500, 4000, 9000, 65_000];
const N_FLOWS: usize = 20;

fn exchange(network: &Network, vips: &[std::net::IpAddr], forward: &str, pool: &str) -> Result<()> {
    let _backends = Backend::start_all(network, 80, vips)?;
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces())
        .services(pool.to_owned() + &tcp_and_udp_on_both_families(network, forward))
        .start()?;
    for vip in both_vips() {
        for (len, flow) in LENS.into_iter().flat_map(|len| (0..N_FLOWS).map(move |flow| (len, flow))) {
            let question: Vec<u8> = (0..len).map(|at| (at * 31 + flow) as u8).collect();
            let answer = udp::ask(&network.client.netns, SocketAddr::new(vip, 80), &question)?;
            ensure!(answer.ends_with(&question) && answer.starts_with(b"backend"), "{len} bytes by way of {vip}");
        }
    }
    ensure!(verdict(&daemon, "fragment")? == 0, "{:#}", daemon.status()?["verdicts"]);
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn large_datagrams_arrive_whole_by_dsr() -> Result<()> {
    let vips = both_vips();
    exchange(&Network::dsr(3, &vips)?, &vips, "dsr", "")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn large_datagrams_arrive_whole_by_nat_and_their_answers_too() -> Result<()> {
    exchange(&Network::nat(3)?, &[], "nat", "")
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn large_datagrams_arrive_whole_by_full_nat_and_their_answers_too() -> Result<()> {
    exchange(&fullnat::network(3)?, &[], "fullnat", fullnat::POOL)
}
