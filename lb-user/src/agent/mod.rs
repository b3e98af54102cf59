//! `xlb agent`: says over TCP how this host is, as HAProxy's agent-check has it, for checks of type `agent`.
//!
//! What is measured and what is said are apart: a task measures once a second, and whoever connects is told what that came
//! to. A disk that does not answer then holds up no answer, and a crowd of askers costs no measurements.

mod measure;
mod verdict;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use measure::Meter;
pub use verdict::{Disk, Limits, Percent};
use verdict::{Reading, Said};

/// From one measurement to the next.
const STEP: Duration = Duration::from_secs(1);
/// A measurement that is older says nothing any more.
const AGE_MAX: Duration = Duration::from_secs(5);
/// Askers at a time; each is answered at once, and soon gone.
const N_ASKERS: usize = 64;
/// How long an asker may take to read a line.
const ASKER_LIMIT: Duration = Duration::from_secs(2);
/// After a failure to take a connection, as without file descriptors left.
const PAUSE: Duration = Duration::from_secs(1);

/// What the command line says.
pub struct Options {
    pub listen: SocketAddr,
    pub limits: Limits,
    /// Who is answered; none are all.
    pub askers: Vec<IpAddr>,
    /// While it is there, the host is in maintenance.
    pub maint_file: PathBuf,
    /// While it is there, the host takes no new connections.
    pub drain_file: PathBuf,
}

/// Answers until SIGTERM or SIGINT.
///
/// # Errors
/// The port is taken, or something that is to be measured cannot be.
pub async fn run(options: Options) -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let meter = Meter::new(options.limits.clone(), options.maint_file.clone(), options.drain_file.clone());
    // What is wrong from the start is a slip of the pen, and said to who made it.
    let (meter, first) = measured(meter).await?;
    first.check().map_err(anyhow::Error::msg)?;
    let listener = TcpListener::bind(options.listen).await.with_context(|| format!("--listen {}", options.listen))?;
    let (latest, seen) = watch::channel((Instant::now(), first));
    let askers = options.askers.iter().map(IpAddr::to_canonical).collect();
    info!(listen = %listener.local_addr()?, "says how this host is");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        done = keep_measuring(meter, latest) => return done,
        () = answer_all(listener, seen, options.limits, askers) => {}
    }
    info!("ended");
    Ok(())
}

async fn measured(mut meter: Meter) -> Result<(Meter, Reading)> {
    // Asking a file system may take as long as that likes.
    let done = tokio::task::spawn_blocking(move || {
        let reading = meter.read();
        (meter, reading)
    });
    Ok(done.await?)
}

async fn keep_measuring(mut meter: Meter, latest: watch::Sender<(Instant, Reading)>) -> Result<()> {
    let mut ticks = interval(STEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (back, reading) = measured(meter).await?;
        meter = back;
        latest.send_replace((Instant::now(), reading));
    }
}

async fn answer_all(listener: TcpListener, seen: watch::Receiver<(Instant, Reading)>, limits: Limits, askers: BTreeSet<IpAddr>) {
    let places = Arc::new(Semaphore::new(N_ASKERS));
    let mut before: Option<Said> = None;
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot take a connection");
                sleep(PAUSE).await;
                continue;
            }
        };
        if !askers.is_empty() && !askers.contains(&from.ip().to_canonical()) {
            debug!(%from, "not answered: not one of --from");
            continue;
        }
        let said = {
            let latest = seen.borrow();
            let age = latest.0.elapsed();
            if age > AGE_MAX { Said::stale(age) } else { latest.1.say(&limits) }
        };
        if before.as_ref().map(Said::kind) != Some(said.kind()) {
            info!(answer = said.line().trim_end(), "the answer is another kind");
        }
        let line = said.line();
        before = Some(said);
        tokio::spawn(async move {
            if timeout(ASKER_LIMIT, tell(stream, &line)).await.is_err() {
                debug!(%from, "took no answer in time");
            }
            drop(place);
        });
    }
}

/// Says the line, and waits until the other side has it: with something unread in it, as `agent-send` may put there, a
/// connection that is closed is reset, and the line may be lost with it.
async fn tell(mut stream: TcpStream, line: &str) {
    if stream.write_all(line.as_bytes()).await.is_err() || stream.shutdown().await.is_err() {
        return;
    }
    let mut unread = [0; 256];
    while matches!(stream.read(&mut unread).await, Ok(1..)) {}
}
