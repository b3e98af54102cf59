//! The watching by script in virtual time; the asking against nasty servers, and against a real one.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::{Instant, timeout};

use super::*;

/// For what should come soon, on a loaded machine.
const PATIENT: Duration = Duration::from_secs(30);

fn dns(resolver: Option<SocketAddr>, interval: Duration) -> Dns {
    Dns { name: "web.test".to_owned(), port: 8080, resolver, interval, weight: 1 }
}

fn endpoints(addresses: &[&str]) -> BTreeSet<SocketAddr> {
    addresses.iter().map(|address| SocketAddr::new(address.parse().unwrap(), 8080)).collect()
}

/// What a scripted name server says.
#[derive(Clone, Copy)]
enum Says {
    Addresses(&'static [&'static str], u64),
    Fails(FailureKind),
}

/// What the watcher told, after how many seconds; its log; and its status in the end.
struct Story {
    log: Vec<String>,
    told: Vec<(u64, BTreeSet<SocketAddr>)>,
    asked_s: Vec<u64>,
    status: Status,
}

/// A log that a test can read.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(line)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Watches a server that says these, one at a query, until the script ends. The interval is 60 s.
fn watched(script: &[Says]) -> Story {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).without_time().with_target(false).with_ansi(false);
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (send, mut receive) = mpsc::channel(64);
        let status = Arc::new(Mutex::new(Status::default()));
        let dns = dns(None, Duration::from_secs(60));
        let watch = Watch { service: "web".into(), dns, known: Known::default(), status: Arc::clone(&status), out: send };

        let begun = Instant::now();
        let mut script: VecDeque<Says> = script.iter().copied().collect();
        let mut asked_s = Vec::new();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let mut end = Some(end);
        let watching = watch.keep_asking(|| {
            let says = script.pop_front();
            match says {
                Some(_) => asked_s.push(begun.elapsed().as_secs()),
                None => drop(end.take()),
            }
            async move {
                match says {
                    Some(Says::Addresses(addresses, ttl_s)) => Ok(Answer {
                        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
                        ttl: Duration::from_secs(ttl_s),
                    }),
                    Some(Says::Fails(kind)) => Err(Failure::new(kind, format!("{kind:?}"))),
                    None => std::future::pending().await,
                }
            }
        });
        let mut told = Vec::new();
        let listening = async {
            while let Some(Discovered { backends, .. }) = receive.recv().await {
                told.push((begun.elapsed().as_secs(), backends));
            }
        };
        tokio::select! {
            biased;
            () = listening => unreachable!(),
            () = watching => unreachable!(),
            _ = ended => (),
        }
        let status = status.lock().unwrap().clone();
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect();
        Story { log, told, asked_s, status }
    })
}

use FailureKind::{NoAddresses, NoSuchName, TimedOut};
use Says::{Addresses, Fails};

const ONE: &[&str] = &["10.0.0.1"];
const TWO: &[&str] = &["10.0.0.2", "10.0.0.1"];

#[test]
fn a_set_is_told_at_first_and_when_it_changes() {
    let story = watched(&[Addresses(ONE, 5), Addresses(ONE, 5), Addresses(TWO, 5), Addresses(&["10.0.0.1", "10.0.0.2"], 5)]);
    assert_eq!(story.told, [(0, endpoints(ONE)), (10, endpoints(TWO))]);
    assert_eq!((story.status.n_addresses, story.status.stale, story.status.n_errors), (2, false, 0));
}

#[test]
fn addresses_that_leave_the_answer_leave_the_set() {
    let story = watched(&[Addresses(TWO, 5), Addresses(ONE, 5)]);
    assert_eq!(story.told, [(0, endpoints(TWO)), (5, endpoints(ONE))]);
}

#[test]
fn the_ttl_sets_the_pace_up_to_the_interval() {
    let story = watched(&[Addresses(ONE, 7), Addresses(ONE, 0), Addresses(ONE, 3600), Addresses(ONE, 1)]);
    assert_eq!(story.asked_s, [0, 7, 8, 68]);
}

#[test]
fn no_failure_takes_addresses_away() {
    for kind in [NoSuchName, NoAddresses, FailureKind::Refused, TimedOut, FailureKind::Unreachable] {
        let story = watched(&[Addresses(TWO, 5), Fails(kind), Fails(kind)]);
        assert_eq!(story.told, [(0, endpoints(TWO))], "{kind:?}");
        let status = story.status;
        assert_eq!((status.n_addresses, status.stale, status.n_errors, status.n_queries), (2, true, 2, 3));
        assert_eq!(status.last_error, Some(format!("{kind:?}")));
        assert!(status.last_success.is_some());
    }
}

#[test]
fn an_answer_without_a_usable_address_is_a_failure() {
    for addresses in [&[] as &[&str], &["0.0.0.0"], &["127.0.0.1", "224.0.0.1"]] {
        let story = watched(&[Addresses(ONE, 5), Addresses(addresses, 5)]);
        assert_eq!(story.told, [(0, endpoints(ONE))]);
        assert!(story.status.stale);
    }
}

#[test]
fn a_failing_server_is_asked_soon_and_then_ever_later() {
    let mut script = vec![Addresses(ONE, 5)];
    script.extend([Fails(TimedOut); 8]);
    script.extend([Addresses(TWO, 5), Fails(TimedOut), Addresses(TWO, 5)]);
    let story = watched(&script);
    assert_eq!(story.asked_s, [0, 5, 6, 8, 12, 20, 36, 68, 128, 188, 193, 194]);
    assert_eq!(story.told.last(), Some(&(188, endpoints(TWO))));
    assert_eq!((story.status.stale, story.status.last_error), (false, None));
}

#[test]
fn each_kind_of_failure_is_logged_once() {
    let story = watched(&[
        Addresses(ONE, 5),
        Fails(TimedOut),
        Fails(TimedOut),
        Fails(NoSuchName),
        Fails(NoSuchName),
        Addresses(ONE, 5),
        Fails(NoSuchName),
    ]);
    let log: Vec<_> = story.log.iter().map(|line| line.trim_start()).collect();
    assert_eq!(
        log,
        [
            "WARN DNS query failed; the last good addresses stay service=web name=\"web.test\" cause=TimedOut n_kept=1",
            "WARN DNS query failed; the last good addresses stay service=web name=\"web.test\" cause=NoSuchName n_kept=1",
            "INFO DNS answers again service=web name=\"web.test\"",
            "WARN DNS query failed; the last good addresses stay service=web name=\"web.test\" cause=NoSuchName n_kept=1",
        ]
    );
}

#[test]
fn addresses_left_out_are_logged_once() {
    const LYING: &[&str] = &["10.0.0.1", "127.0.0.1"];
    let story = watched(&[Addresses(LYING, 5), Addresses(LYING, 5), Addresses(ONE, 5), Addresses(LYING, 5)]);
    assert_eq!(story.told, [(0, endpoints(ONE))]);
    assert_eq!(story.log.len(), 2, "{:?}", story.log);
    assert!(story.log[0].contains("WARN DNS addresses left out: 1 that no backend can have, such as 127.0.0.1"));
}

#[test]
fn what_never_answered_is_not_stale_but_empty() {
    let story = watched(&[Fails(TimedOut)]);
    assert!(story.told.is_empty());
    assert_eq!((story.status.stale, story.status.n_errors, story.status.last_success), (false, 1, None));
}

/// A question for `web.test`.
fn question(server: SocketAddr, family: AddressFamily) -> Question {
    Question { name: "web.test".to_owned(), family, server: Some(server) }
}

/// A name server of one answer: the query, changed by `change`. It ends with the test.
fn answering(change: impl Fn(&mut Vec<u8>) + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 1500];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            let mut answer = query[..length].to_vec();
            change(&mut answer);
            let _ = socket.send_to(&answer, client);
        }
    });
    address
}

#[tokio::test]
async fn error_codes_are_told_apart() {
    // The low four bits of the header's fourth byte; the first bit of the third makes it a response (RFC 1035, 4.1.1).
    for (code, kind) in [(0, NoAddresses), (2, FailureKind::Refused), (3, NoSuchName), (5, FailureKind::Refused)] {
        let server = answering(move |message| {
            message[2] |= 0x80;
            message[3] = 0x80 | code;
        });
        let failure = question(server, AddressFamily::V4).ask().await.unwrap_err();
        assert_eq!(failure.kind, kind, "code {code}: {failure}");
    }
}

#[tokio::test]
async fn garbage_and_silence_end_in_time() {
    let garbage = answering(|message| message.fill(0xff));
    let cut = answering(|message| message.truncate(7));
    let silence = UdpSocket::bind("127.0.0.1:0").unwrap();
    let ask = async |server| question(server, AddressFamily::V4).ask().await.is_err();
    let asked = async { tokio::join!(ask(garbage), ask(cut), ask(silence.local_addr().unwrap())) };
    assert_eq!(timeout(PATIENT, asked).await.unwrap(), (true, true, true));
}

/// A dnsmasq of the test's own, on a port of its own, with a hosts file of its own.
struct Dnsmasq {
    process: Child,
    address: SocketAddr,
    hosts: PathBuf,
}

impl Dnsmasq {
    fn start(test: &str, hosts: &str) -> Self {
        // Free a moment ago, over both protocols.
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        drop(tcp);
        let file = std::env::temp_dir().join(format!("xlb-dns-{test}-{}", std::process::id()));
        std::fs::write(&file, hosts).unwrap();
        let process = Self::run(address, &file);
        Self { process, address, hosts: file }
    }

    fn run(address: SocketAddr, hosts: &std::path::Path) -> Child {
        Command::new("/usr/sbin/dnsmasq")
            .args(["--no-daemon", "--no-resolv", "--no-hosts", "--bind-interfaces", "--conf-file=/dev/null", "--pid-file="])
            .args(["--listen-address=127.0.0.1", "--local=/test/", "--local-ttl=1", "--cname=alias.test,web.test"])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--addn-hosts={}", hosts.display()))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    }

    /// Has the running server read another hosts file.
    fn now_has(&self, hosts: &str) {
        std::fs::write(&self.hosts, hosts).unwrap();
        let pid = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
    }

    fn stop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn start_again(&mut self) {
        self.process = Self::run(self.address, &self.hosts);
    }

    /// A watcher that asks it.
    fn watched(&self, family: AddressFamily) -> (Watcher, mpsc::Receiver<Discovered>) {
        let (send, receive) = mpsc::channel(8);
        (spawn("web".into(), dns(Some(self.address), Duration::from_secs(2)), family, send), receive)
    }

    /// Its answer, once it is there to give one.
    async fn answers(&self, question: Question) -> Answer {
        let asking = async {
            loop {
                if let Ok(answer) = question.ask().await {
                    return answer;
                }
            }
        };
        timeout(PATIENT, asking).await.unwrap()
    }
}

impl Drop for Dnsmasq {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_file(&self.hosts);
    }
}

async fn told(receive: &mut mpsc::Receiver<Discovered>) -> BTreeSet<SocketAddr> {
    timeout(PATIENT, receive.recv()).await.unwrap().unwrap().backends
}

async fn until(watcher: &Watcher, holds: impl Fn(&Status) -> bool) {
    let waiting = async {
        while !holds(&watcher.status()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENT, waiting).await.unwrap();
}

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn a_real_servers_changes_are_followed() {
    let server = Dnsmasq::start("changes", "10.9.0.1 web.test\n10.9.0.2 web.test\n");
    let (_watcher, mut receive) = server.watched(AddressFamily::V4);
    assert_eq!(told(&mut receive).await, endpoints(&["10.9.0.1", "10.9.0.2"]));
    server.now_has("10.9.0.2 web.test\n10.9.0.3 web.test\n");
    assert_eq!(told(&mut receive).await, endpoints(&["10.9.0.2", "10.9.0.3"]));
}

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn each_family_is_asked_for_by_itself() {
    let server = Dnsmasq::start("families", "10.9.0.1 web.test\n2001:db8::1 web.test\n2001:db8::2 web.test\n");
    let (_v4, mut receive_v4) = server.watched(AddressFamily::V4);
    let (_v6, mut receive_v6) = server.watched(AddressFamily::V6);
    assert_eq!(told(&mut receive_v4).await, endpoints(&["10.9.0.1"]));
    assert_eq!(told(&mut receive_v6).await, endpoints(&["2001:db8::1", "2001:db8::2"]));
}

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn a_name_that_vanishes_keeps_its_addresses_until_it_returns() {
    let server = Dnsmasq::start("vanishes", "10.9.0.1 web.test\n");
    let (watcher, mut receive) = server.watched(AddressFamily::V4);
    told(&mut receive).await;
    server.now_has("10.9.0.1 other.test\n");
    until(&watcher, |status| status.stale).await;
    assert_eq!(watcher.status().last_error.as_deref(), Some("the name does not exist"));
    // Only the other family is left: no answer to this question either.
    server.now_has("2001:db8::1 web.test\n");
    until(&watcher, |status| status.last_error.as_deref() == Some("the name has no address of the VIP's family")).await;
    assert_eq!((watcher.status().n_addresses, receive.try_recv()), (1, Err(TryRecvError::Empty)));
    server.now_has("10.9.0.1 web.test\n10.9.0.2 web.test\n");
    assert_eq!(told(&mut receive).await, endpoints(&["10.9.0.1", "10.9.0.2"]));
    assert!(!watcher.status().stale);
}

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn a_server_that_is_gone_keeps_its_addresses_until_it_is_back() {
    let mut server = Dnsmasq::start("gone", "10.9.0.1 web.test\n");
    let (watcher, mut receive) = server.watched(AddressFamily::V4);
    told(&mut receive).await;
    server.stop();
    until(&watcher, |status| status.stale && status.n_errors > 0).await;
    assert_eq!((watcher.status().n_addresses, receive.try_recv()), (1, Err(TryRecvError::Empty)));
    std::fs::write(&server.hosts, "10.9.0.7 web.test\n").unwrap();
    server.start_again();
    assert_eq!(told(&mut receive).await, endpoints(&["10.9.0.7"]));
}

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn an_answer_too_big_for_a_datagram_comes_over_tcp() {
    let address = |n: u32| Ipv4Addr::from(0x0a09_0000 + n);
    let hosts: String = (1..=300).map(|n| format!("{} web.test\n", address(n))).collect();
    let server = Dnsmasq::start("tcp", &hosts);
    let (_watcher, mut receive) = server.watched(AddressFamily::V4);
    let expected = (1..=300).map(|n| SocketAddr::new(address(n).into(), 8080)).collect();
    assert_eq!(told(&mut receive).await, expected);
}

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn the_servers_ttl_and_aliases_are_read() {
    let server = Dnsmasq::start("ttl", "10.9.0.1 web.test\n");
    let alias = Question { name: "alias.test.".to_owned(), ..question(server.address, AddressFamily::V4) };
    for question in [question(server.address, AddressFamily::V4), alias] {
        let answer = server.answers(question).await;
        assert_eq!(answer, Answer { addresses: vec!["10.9.0.1".parse().unwrap()], ttl: Duration::from_secs(1) });
    }
}

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn a_dropped_watcher_says_nothing_more() {
    let server = Dnsmasq::start("dropped", "10.9.0.1 web.test\n");
    let (watcher, mut receive) = server.watched(AddressFamily::V4);
    told(&mut receive).await;
    drop(watcher);
    assert_eq!(timeout(PATIENT, receive.recv()).await.unwrap(), None);
}
