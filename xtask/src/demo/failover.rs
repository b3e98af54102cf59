//! A backend is killed under load.
//!
//! Three looks at once: new connections one after another, whose times and fates are known to the microsecond; open
//! connections that know who they talk to; and wrk, for the load.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use xlb_tests::{Connections, Wrk, http, until};

use super::show::{Show, thousands};
use super::stage::{self, DETECTION, N_BACKENDS, PORT, Stage, WEB};
use super::stalls::Stalls;

/// From the health check's verdict to the last write to the maps.
const TO_MAPS: Duration = Duration::from_millis(10);
const VICTIM: usize = 0;
const N_OPEN: usize = 100;
/// How often each open connection asks.
const ASKS: Duration = Duration::from_millis(20);
/// Nobody's request takes longer unless it is lost.
const PATIENCE: Duration = Duration::from_secs(2);
const LOAD: Duration = Duration::from_secs(2);
/// New connections in a row that succeed before the failures count as over: 1,000 of which none chose the dead backend
/// happen once in 10^97 tries while it still has its fifth.
const N_AFTER: u64 = 1000;
/// What a thread waits on an idle machine is not worth a line.
const STALL_SHOWN: Duration = Duration::from_millis(5);
const LIMIT: Duration = Duration::from_secs(15);

/// What became of the new connections.
#[derive(Default)]
struct Fates {
    n: u64,
    n_failed: u64,
    last_failed: Option<Instant>,
    n_since: u64,
}

impl Fates {
    /// Counts one attempt.
    fn note(&mut self, attempt: &http::Attempt) {
        self.n += 1;
        self.n_since += 1;
        if attempt.name.is_err() {
            self.n_failed += 1;
            self.last_failed = Some(attempt.started);
            self.n_since = 0;
        }
    }

    fn is_over(&self) -> bool {
        self.n_failed > 0 && self.n_since >= N_AFTER
    }
}

pub fn act(show: &mut Show, stage: &mut Stage) -> Result<()> {
    show.title(&format!("kill -9 of backend{VICTIM} under load (wrk, and {N_OPEN} open connections)"));
    let connections = Connections::open(stage.client(), (WEB, PORT).into(), N_OPEN, ASKS, PATIENCE)?;
    let n_victims = connections.names().get(&format!("backend{VICTIM}")).copied().unwrap_or_default();
    let stalls = Stalls::start();
    let load = new_connections(LOAD).start(stage.client())?;
    until(LIMIT, "load to flow", || Ok((connections.exchanges() > 5 * N_OPEN as u64).then_some(())))?;
    let (killed, fates) = kill(stage)?;
    stage.wait_serving("web", usize::from(N_BACKENDS) - 1)?;
    let loaded = load.finish()?;
    let stalled = stalls.longest()?;
    let broken = connections.close()?;

    claim_times(show, stage, fates.last_failed.map(|last| last.saturating_duration_since(killed)), stalled)?;
    let text = format!(
        "it cost {} of {} requests; of the {} new connections after that, none",
        thousands(fates.n_failed + loaded.errors()),
        thousands(fates.n + loaded.requests + loaded.errors()),
        thousands(fates.n_since)
    );
    show.claim(fates.is_over(), &text);
    let n_others = broken.iter().filter(|broken| broken.name != format!("backend{VICTIM}")).count();
    let text =
        format!("of {N_OPEN} open connections its own {n_victims} ended, and {n_others} of the {} others", N_OPEN - n_victims);
    show.claim(n_others == 0 && broken.len() == n_victims, &text);
    others(show, stage)?;
    back(show, stage)
}

/// Kills the backend while new connections are made; yields when, and what became of them. Returns when none has failed
/// for long, or gives up.
fn kill(stage: &mut Stage) -> Result<(Instant, Fates)> {
    let fates = Mutex::new(Fates::default());
    let locked = || fates.lock().unwrap_or_else(PoisonError::into_inner);
    let client = stage.client().clone();
    let deadline = Instant::now() + LIMIT;
    let goes_on = |attempt: http::Attempt| {
        let mut fates = locked();
        fates.note(&attempt);
        !fates.is_over() && Instant::now() < deadline
    };
    let killed = std::thread::scope(|scope| {
        let attempts = scope.spawn(|| http::attempts(&client, &stage::url(WEB), goes_on));
        let flows = until(LIMIT, "new connections", || Ok((locked().n > 100).then_some(())));
        let killed = Instant::now();
        stage.backends[VICTIM].kill();
        attempts.join().map_err(|_| anyhow!("the thread that connects panicked"))??;
        flows.map(|()| killed)
    })?;
    Ok((killed, fates.into_inner().unwrap_or_else(PoisonError::into_inner)))
}

/// How long it took, as the client and as the daemon saw it.
fn claim_times(show: &mut Show, stage: &Stage, ended: Option<Duration>, stalled: Duration) -> Result<()> {
    let limit = DETECTION + TO_MAPS + stalled;
    let text = format!(
        "after {} ms no request went there any more (configured: noticed within {} ms, + {} ms)",
        ended.map_or("?".into(), ms),
        DETECTION.as_millis(),
        TO_MAPS.as_millis()
    );
    show.claim(ended.is_some_and(|ended| ended <= limit), &text);
    let to_maps = to_maps(stage)?;
    let text =
        format!("of that {} ms from the verdict to the maps, as its log says (limit {} ms)", ms(to_maps), TO_MAPS.as_millis());
    show.claim(to_maps <= TO_MAPS + stalled, &text);
    if stalled >= STALL_SHOWN {
        show.note(&format!(
            "this machine is busy: it kept threads waiting for up to {} ms, which both limits grant",
            ms(stalled)
        ));
    }
    Ok(())
}

/// From the log's line on the slots that the dead backend lost. The metric that has the same is the maximum since the
/// daemon started, when this machine was not yet watched for stalls.
fn to_maps(stage: &Stage) -> Result<Duration> {
    let log = stage.daemon.log();
    let lost = format!("moved=\"{}:{PORT} -> ", stage.network.backends[VICTIM].v4);
    let line = log.lines().rfind(|line| line.contains(" slots moved service=web ") && line.contains(&lost));
    let after_ms = line.and_then(|line| line.split_once("after_ms=")?.1.split(' ').next()?.parse().ok());
    after_ms.map(|ms: f64| Duration::from_secs_f64(ms / 1e3)).context("the log does not say that the slots moved")
}

fn new_connections(duration: Duration) -> Wrk {
    Wrk { keep_alive: false, ..Wrk::new(stage::url(WEB), duration) }
}

/// The four that are left take the load.
fn others(show: &mut Show, stage: &Stage) -> Result<()> {
    let report = new_connections(Duration::from_secs(1)).run(stage.client())?;
    let text = format!("{} more requests to the other four: {} failed", thousands(report.requests), report.errors());
    show.claim(report.errors() == 0 && report.requests > 0, &text);
    Ok(())
}

/// It comes back.
fn back(show: &mut Show, stage: &mut Stage) -> Result<()> {
    let start = Instant::now();
    stage.restart_backend(VICTIM).context("starting it again")?;
    let name = format!("backend{VICTIM}");
    let answered = until(LIMIT, &format!("{name} to answer"), || {
        Ok((http::get(stage.client(), &stage::url(WEB))?.body.trim() == name).then(|| start.elapsed()))
    });
    show.claim(answered.is_ok(), &format!("started again, it serves after {} ms", ms(answered.unwrap_or(LIMIT))));
    for service in ["web", "web6", "echo", "echo6", "sticky"] {
        stage.wait_serving(service, usize::from(N_BACKENDS))?;
    }
    Ok(())
}

/// In milliseconds, with as many digits as mean something.
pub fn ms(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}
