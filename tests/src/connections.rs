//! Many TCP connections that stay open and tell when one breaks or changes its backend.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

use crate::{Netns, http};

/// Threads that share the connections: a stuck one delays only those of its thread.
const THREADS: usize = 8;

/// One connection that did not answer as before.
#[derive(Clone, Debug)]
pub struct Broken {
    /// Who answered before.
    pub name: String,
    /// When, counted from the opening of the connections.
    pub after: Duration,
    /// The error, or who answered instead.
    pub why: String,
}

/// Connections to our HTTP backends behind one address, each asked again and again who is there.
#[derive(Debug)]
pub struct Connections {
    threads: Vec<JoinHandle<Vec<Broken>>>,
    ends: Arc<AtomicBool>,
    exchanges: Arc<AtomicU64>,
    names: BTreeMap<String, usize>,
}

impl Connections {
    /// Opens `n` connections from within a namespace, and asks on each every `interval`; an answer that takes longer than
    /// `limit` breaks it.
    ///
    /// # Errors
    /// A connection cannot be opened.
    pub fn open(netns: &Netns, to: SocketAddr, n: usize, interval: Duration, limit: Duration) -> Result<Self> {
        let opened: Vec<(TcpStream, String)> = netns.enter(|| {
            let one = |_| {
                let mut stream = http::connect(to, None, limit)?;
                let name = ask(&mut stream)?;
                Ok((stream, name))
            };
            (0..n).map(one).collect()
        })?;
        let mut names = BTreeMap::new();
        for (_, name) in &opened {
            *names.entry(name.clone()).or_default() += 1;
        }
        let (ends, exchanges) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut shares: Vec<Vec<_>> = (0..THREADS.min(n)).map(|_| Vec::new()).collect();
        for (i, connection) in opened.into_iter().enumerate() {
            shares[i % THREADS].push(connection);
        }
        let start = Instant::now();
        let watch = |share| {
            let (ends, exchanges) = (ends.clone(), exchanges.clone());
            std::thread::spawn(move || watch(share, interval, start, &ends, &exchanges))
        };
        Ok(Self { threads: shares.into_iter().map(watch).collect(), ends, exchanges, names })
    }

    /// How many connections each backend had at first.
    pub fn names(&self) -> &BTreeMap<String, usize> {
        &self.names
    }

    /// Answers so far, over all connections.
    pub fn exchanges(&self) -> u64 {
        self.exchanges.load(Ordering::Relaxed)
    }

    /// Closes the connections; yields those that broke before.
    ///
    /// # Errors
    /// A watching thread panicked.
    pub fn close(mut self) -> Result<Vec<Broken>> {
        self.ends.store(true, Ordering::Relaxed);
        let mut broken = Vec::new();
        for thread in self.threads.drain(..) {
            broken.extend(thread.join().map_err(|_| anyhow!("a thread that watches connections panicked"))?);
        }
        Ok(broken)
    }
}

impl Drop for Connections {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
    }
}

fn watch(
    mut connections: Vec<(TcpStream, String)>,
    interval: Duration,
    start: Instant,
    ends: &AtomicBool,
    exchanges: &AtomicU64,
) -> Vec<Broken> {
    let mut broken = Vec::new();
    while !ends.load(Ordering::Relaxed) {
        let round = Instant::now();
        connections.retain_mut(|(stream, name)| {
            let why = match ask(stream) {
                Ok(answer) if answer == *name => {
                    exchanges.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Ok(answer) => format!("answered by {answer}"),
                Err(error) => format!("{error:#}"),
            };
            broken.push(Broken { name: name.clone(), after: start.elapsed(), why });
            false
        });
        std::thread::sleep(interval.saturating_sub(round.elapsed()));
    }
    broken
}

/// Asks for the backend's name over a connection that stays open.
fn ask(stream: &mut TcpStream) -> Result<String> {
    stream.write_all(b"GET / HTTP/1.1\r\nHost: xlb\r\n\r\n").context("sending")?;
    let mut answer = Vec::new();
    let mut piece = [0; 1024];
    loop {
        match stream.read(&mut piece).context("receiving")? {
            0 => bail!("closed by the backend"),
            n => answer.extend(&piece[..n]),
        }
        let text = String::from_utf8_lossy(&answer);
        // Our backends' names end with a line.
        if let Some((_, body)) = text.split_once("\r\n\r\n")
            && let Some(name) = body.strip_suffix('\n')
        {
            return Ok(name.to_owned());
        }
    }
}
