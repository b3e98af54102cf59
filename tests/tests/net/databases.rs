//! Databases that are written to at one address and read at another, through a failover under load.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use tokio::net::TcpStream;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};
use xlb_tests::postgres::APPLICATION;
use xlb_tests::{Daemon, Host, Netns, Network, Postgres, until};

use super::support::{LIMIT, Service, service, story, vip, wait_serving};

const PORT: u16 = 5432;
/// Of the reads.
const READ_VIP: &str = "10.200.1.2";
/// How long a client waits for one answer, connecting included: the least `connect_timeout` that libpq knows.
const PATIENCE: Duration = Duration::from_secs(2);
/// From one question of a client's to the next.
const PACE: Duration = Duration::from_millis(10);
/// Without a write, from the primary's death on. Generous: promotion, two probes, and one client that waits in vain.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// For what PostgreSQL does, on a machine with other things to do.
const DATABASE_LIMIT: Duration = Duration::from_secs(30);
/// What is seen of the load before something happens, and after.
const ENOUGH: usize = 50;

const READ: &str = "SELECT pg_is_in_recovery(), count(*) FROM written";
const BY_REPLICA: &str = "t";
const BY_PRIMARY: &str = "f";

/// One question of a client's, and its first value or what went wrong.
#[derive(Clone, Debug)]
struct Exchange {
    number: usize,
    began: Instant,
    ended: Instant,
    answer: Result<String, String>,
}

#[derive(Clone, Copy, PartialEq)]
enum Connects {
    Always,
    /// And after an error.
    Once,
}

/// A client that asks again and again until it is dropped.
struct Load {
    exchanges: Arc<Mutex<Vec<Exchange>>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Load {
    fn start(netns: &Netns, at: SocketAddr, connects: Connects, statement: fn(usize) -> String) -> Self {
        let (exchanges, ends) = (Arc::<Mutex<Vec<Exchange>>>::default(), Arc::<AtomicBool>::default());
        let (netns, kept, end) = (netns.clone(), exchanges.clone(), ends.clone());
        let work = async move {
            let mut session = None;
            let mut ticks = tokio::time::interval(PACE);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            for number in 0.. {
                if end.load(Ordering::Relaxed) {
                    break;
                }
                ticks.tick().await;
                let began = Instant::now();
                let asked = tokio::time::timeout(PATIENCE, ask(&mut session, at, &statement(number))).await;
                let ended = Instant::now();
                let answer = asked.map_err(|_| format!("no answer within {PATIENCE:?}"));
                let answer = answer.and_then(|answer| answer.map_err(|error| format!("{error:#}")));
                if connects == Connects::Always {
                    session = None;
                }
                kept.lock().map_err(|_| anyhow!("poisoned"))?.push(Exchange { number, began, ended, answer });
            }
            Ok(())
        };
        let thread = std::thread::spawn(move || {
            // On this one thread, so that its sockets are the namespace's.
            netns.enter(|| tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work))
        });
        Self { exchanges, ends, thread: Some(thread) }
    }

    fn so_far(&self) -> Result<Vec<Exchange>> {
        Ok(self.exchanges.lock().map_err(|_| anyhow!("poisoned"))?.clone())
    }

    /// Waits for enough answers, to questions from now on, that are `wanted`.
    fn wait(&self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<()> {
        let now = Instant::now();
        until(DATABASE_LIMIT, what, || {
            let exchanges = self.so_far()?;
            let good = |exchange: &&Exchange| exchange.began > now && exchange.answer.as_ref().is_ok_and(|answer| wanted(answer));
            ensure!(exchanges.iter().filter(good).count() >= ENOUGH, "{:?}", exchanges.last());
            Ok(Some(()))
        })
    }

    fn finish(mut self) -> Result<Vec<Exchange>> {
        self.ends.store(true, Ordering::Relaxed);
        let thread = self.thread.take().context("it has ended")?;
        thread.join().map_err(|_| anyhow!("a client panicked"))??;
        self.so_far()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Asks in the session, or in a new one, which it leaves open unless something is wrong.
async fn ask(session: &mut Option<Client>, at: SocketAddr, statement: &str) -> Result<String> {
    let client = match session.take() {
        Some(client) => client,
        None => log_in(at).await?,
    };
    let messages = client.simple_query(statement).await?;
    *session = Some(client);
    let row = messages.iter().find_map(|message| if let SimpleQueryMessage::Row(row) = message { Some(row) } else { None });
    Ok(row.and_then(|row| row.get(0)).unwrap_or_default().to_owned())
}

async fn log_in(at: SocketAddr) -> Result<Client> {
    let stream = TcpStream::connect(at).await.context("connecting")?;
    let mut config = tokio_postgres::Config::new();
    config.user(APPLICATION).dbname("postgres");
    let (client, connection) = config.connect_raw(stream, NoTls).await.context("logging in")?;
    // It ends with the client. What breaks it, the client tells.
    tokio::spawn(connection);
    Ok(client)
}

fn failures(exchanges: &[Exchange]) -> Vec<&Exchange> {
    exchanges.iter().filter(|exchange| exchange.answer.is_err()).collect()
}

/// The longest time without an answer that was no error.
fn longest_silence(exchanges: &[Exchange]) -> Duration {
    let good: Vec<_> = exchanges.iter().filter(|exchange| exchange.answer.is_ok()).map(|exchange| exchange.ended).collect();
    good.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

/// Two services over the same two servers, as in config/examples/databases.toml. Writes go to whoever is the primary. Reads go to
/// `reader` while it takes logins, whatever its role, and else to the other.
fn services(hosts: &[Host], reader: usize) -> Result<String> {
    let login = format!("user = \"{APPLICATION}\"\ndatabase = \"postgres\"");
    let checked = |more: &str| format!("type = \"postgres\"\n{login}\ninterval = \"500ms\"\ntimeout = \"400ms\"\n{more}");
    let writes = Service::new("writes", vip(), PORT).health(&checked("role = \"primary\"")).backends(hosts, true);
    // With so much patience that nobody is taken for dead where the machine is busy.
    let reads = Service::new("reads", READ_VIP.parse()?, PORT).health(&checked("fall = 10"));
    let reads = (0..)
        .zip(hosts)
        .fold(reads, |reads, (i, host)| reads.backend(host.v4, if i == reader { "priority = 0" } else { "priority = 1" }));
    Ok(writes.toml() + &reads.toml())
}

fn wait_up(daemon: &Daemon, name: &str, i: usize) -> Result<()> {
    until(LIMIT, &format!("backend {i} of {name} to be up"), || {
        Ok((service(&daemon.status()?, name)?["backends"][i]["state"] == "up").then_some(()))
    })
    .with_context(|| story(daemon))
}

/// A primary with an empty table, and a replica that has each write before it is acknowledged.
fn synchronous_pair(first: &Host, second: &Host) -> Result<(Postgres, Postgres)> {
    let primary = Postgres::start(&first.netns, (first.v4, PORT).into())?;
    primary.sql(&format!("CREATE ROLE {APPLICATION} LOGIN"))?;
    primary.sql(&format!("CREATE SCHEMA AUTHORIZATION {APPLICATION} CREATE TABLE written (number bigint)"))?;
    let replica = primary.replica(&second.netns, (second.v4, PORT).into())?;
    // Only now, for a replica copies its primary's settings, and would wait for one of its own when it is promoted.
    primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'")?;
    primary.sql("SELECT pg_reload_conf()")?;
    until(DATABASE_LIMIT, "replication to be synchronous", || {
        Ok((primary.sql("SELECT sync_state FROM pg_stat_replication")?.trim() == "sync").then_some(()))
    })?;
    Ok((primary, replica))
}

/// Each read had an answer, and by the replica as long as the primary was another.
fn no_read_is_lost(reads: &[Exchange], killed: Instant) -> Result<()> {
    ensure!(failures(reads).is_empty(), "{:?}", failures(reads));
    let early = reads.iter().find(|read| read.ended < killed && read.answer.as_deref() != Ok(BY_REPLICA));
    ensure!(early.is_none(), "read at the primary while there was a replica: {early:?}");
    Ok(())
}

/// What was acknowledged is at `server`.
fn no_write_is_lost(writes: &[Exchange], server: &Postgres) -> Result<()> {
    let written = server.sql(&format!("SELECT number FROM {APPLICATION}.written"))?;
    let kept: BTreeSet<usize> = written.lines().map(str::parse).collect::<Result<_, _>>()?;
    let acknowledged = writes.iter().filter(|write| write.answer.is_ok());
    let lost: Vec<_> = acknowledged.filter(|write| !kept.contains(&write.number)).collect();
    ensure!(lost.is_empty(), "acknowledged, but not there: {lost:?}");
    Ok(())
}

/// "3 of 500 failed, the slowest took 20ms".
fn summary(exchanges: &[Exchange]) -> String {
    let slowest = exchanges.iter().map(|exchange| exchange.ended - exchange.began).max().unwrap_or_default();
    format!("{} of {} failed, the slowest took {slowest:.1?}", failures(exchanges).len(), exchanges.len())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_failover_of_postgresql_under_load_costs_no_read_and_no_acknowledged_write() -> Result<()> {
    let read_vip: IpAddr = READ_VIP.parse()?;
    let network = Network::dsr(2, &[vip(), read_vip])?;
    let [first, second] = &network.backends[..] else { anyhow::bail!("{:?}", network.backends) };
    let (mut primary, replica) = synchronous_pair(first, second)?;
    let mut daemon =
        Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(services(&network.backends, 1)?).start()?;
    wait_serving(&daemon, "writes", 1)?;
    wait_up(&daemon, "reads", 0)?;
    wait_up(&daemon, "reads", 1)?;
    let client = &network.client.netns;
    let writes = Load::start(client, (vip(), PORT).into(), Connects::Always, |i| format!("INSERT INTO written VALUES ({i})"));
    let reads = Load::start(client, (read_vip, PORT).into(), Connects::Always, |_| READ.into());
    let session = Load::start(client, (read_vip, PORT).into(), Connects::Once, |_| READ.into());
    writes.wait("writes before", |_| true)?;
    reads.wait("reads before", |by| by == BY_REPLICA)?;
    session.wait("reads before, in one session", |by| by == BY_REPLICA)?;

    let killed = Instant::now();
    primary.kill();
    replica.promote()?;
    let promoted = killed.elapsed();
    writes.wait("writes after", |_| true).with_context(|| story(&daemon))?;
    reads.wait("reads after", |by| by == BY_PRIMARY).with_context(|| story(&daemon))?;
    session.wait("reads after, in one session", |by| by == BY_PRIMARY)?;

    // The first server is back, as the other's replica, and is to have the reads.
    let rejoined = replica.replica(&first.netns, (first.v4, PORT).into())?;
    wait_up(&daemon, "reads", 0)?;
    let swapped = Instant::now();
    daemon.reload(services(&network.backends, 0)?)?;
    reads.wait("reads by the new replica", |by| by == BY_REPLICA).with_context(|| story(&daemon))?;
    session.wait("the session to stay", |by| by == BY_PRIMARY)?;
    wait_serving(&daemon, "writes", 1)?;
    wait_serving(&daemon, "reads", 1)?;

    let (writes, reads, session) = (writes.finish()?, reads.finish()?, session.finish()?);
    let silence = longest_silence(&writes);
    println!("promoted {promoted:.1?} after the kill");
    println!("writes: {}; none for {silence:.1?}", summary(&writes));
    println!("reads: {}; in one session: {}", summary(&reads), summary(&session));
    no_read_is_lost(&reads, killed).with_context(|| story(&daemon))?;
    no_read_is_lost(&session, killed).with_context(|| story(&daemon))?;
    let later = reads.iter().skip_while(|read| read.began < swapped).map(|read| read.answer.as_deref() == Ok(BY_REPLICA));
    ensure!(later.is_sorted(), "after the reload reads went to and fro");
    ensure!(silence < SILENCE_MAX, "no write for {silence:?}: {:?}\n{}", failures(&writes), story(&daemon));
    no_write_is_lost(&writes, &replica)?;
    drop(rejoined);
    daemon.stop()
}
