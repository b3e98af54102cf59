//! Requests and connections a second, beside the same without balancing.

use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::Result;
use xlb_tests::wrk::Report;
use xlb_tests::{Backend, Wrk};

use super::show::{Show, thousands};
use super::stage::{PORT, Stage, WEB};

/// As short as wrk can.
const DURATION: Duration = Duration::from_secs(1);
const N_CONNECTIONS: u32 = 32;
/// Where a backend is asked directly. What comes from the port of a nat service is taken for its reply.
const DIRECT_PORT: u16 = 8080;

pub fn act(show: &mut Show, stages: &[&Stage]) -> Result<()> {
    show.title("Throughput: no request fails");
    let n_processors = std::thread::available_parallelism().map_or(1, usize::from);
    show.note(&format!("client, xlb and backends share {n_processors} processors here: the ratio says more than the figures"));
    show.note(&format!("{:<34} {:>14} {:>24} {:>10}", "", "through xlb", "routed to one backend", "ratio"));
    for stage in stages {
        let host = &stage.network.backends[0];
        let _direct = Backend::start(&host.netns, "direct", &[("http", (Ipv6Addr::UNSPECIFIED, DIRECT_PORT).into())])?;
        let (vip, direct) = (SocketAddr::new(WEB, PORT), SocketAddr::new(host.v4.into(), DIRECT_PORT));
        for (what, keep_alive) in [("requests/s on open connections", true), ("new connections/s", false)] {
            let balanced = load(stage, vip, keep_alive)?;
            let routed = load(stage, direct, keep_alive)?;
            let (balanced_per_s, routed_per_s) = (balanced.requests_per_s(), routed.requests_per_s());
            let text = format!(
                "{} {what:<30} {:>14} {:>24} {:>9.0}%",
                stage.name,
                thousands(balanced_per_s as u64),
                thousands(routed_per_s as u64),
                100.0 * balanced_per_s / routed_per_s
            );
            show.claim(balanced.errors() == 0 && balanced.requests > 0, &text);
        }
    }
    Ok(())
}

fn load(stage: &Stage, to: SocketAddr, keep_alive: bool) -> Result<Report> {
    Wrk { keep_alive, connections: N_CONNECTIONS, ..Wrk::new(format!("http://{to}/"), DURATION) }.run(stage.client())
}
