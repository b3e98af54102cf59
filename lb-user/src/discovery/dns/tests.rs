//! The watching by script in virtual time; the asking against nasty servers, and against a real one.

use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};

use super::*;
use crate::config::{self, DnsRecord, Trust};
use crate::discovery::found::{Found, Host};
use crate::discovery::teller::FailureKind;
use crate::discovery::{AddressFamily, Backends, News, Place, Source, Status, Watcher, has_told_nothing, next_set, spawn};

/// For what should come soon, on a loaded machine.
const PATIENT: Duration = Duration::from_secs(30);

const TRUST: Trust = Trust { stale: None, min_hosts: 1 };

fn dns(resolver: Option<SocketAddr>, interval: Duration) -> Dns {
    let (name, record) = ("web.test".to_owned(), DnsRecord::Address);
    Dns { name, record, port: 8080, resolver, interval, weight: 1, trust: TRUST }
}

/// What a NAT service of this family has for backends.
fn place(family: AddressFamily) -> Place {
    let vip = if family == AddressFamily::V4 { "192.0.2.1" } else { "2001:db8:1::1" };
    let text = format!(
        "[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"{vip}\"\nport = 80\nforward = \"nat\"\ndns.name = \"a.b\"\n"
    );
    Place::of(&config::parse("test.toml", &text).unwrap().services[0])
}

fn endpoints(addresses: &[&str]) -> Backends {
    addresses.iter().map(|address| (SocketAddr::new(address.parse().unwrap(), 8080), 1)).collect()
}

fn found(addresses: &[&str]) -> Found {
    let host = |address: &&str| Host { address: address.parse().unwrap(), port: 8080, weight: 1, priority: 0 };
    Found { hosts: addresses.iter().map(host).collect(), unread: Vec::new() }
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
    told: Vec<(u64, Backends)>,
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
    watched_with(TRUST, script)
}

fn watched_with(trust: Trust, script: &[Says]) -> Story {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_writer(move || writer.clone()).without_time().with_target(false).with_ansi(false);
    let _logging = tracing::subscriber::set_default(subscriber.finish());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (send, mut receive) = mpsc::channel(64);
        let interval = Duration::from_secs(60);
        let source = Source::Dns(Dns { trust, ..dns(None, interval) });
        let teller = Teller::new("web".into(), &source, place(AddressFamily::V4), send);
        let status = teller.status();

        let begun = Instant::now();
        let mut script: VecDeque<Says> = script.iter().copied().collect();
        let mut asked_s = Vec::new();
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let mut end = Some(end);
        let watching = keep_asking(interval, teller, || {
            let says = script.pop_front();
            match says {
                Some(_) => asked_s.push(begun.elapsed().as_secs()),
                None => drop(end.take()),
            }
            async move {
                match says {
                    Some(Says::Addresses(addresses, ttl_s)) => {
                        Ok(Answer { found: found(addresses), ttl: Duration::from_secs(ttl_s) })
                    }
                    Some(Says::Fails(kind)) => Err(Failure::new(kind, format!("{kind:?}"))),
                    None => std::future::pending().await,
                }
            }
        });
        let mut told = Vec::new();
        let listening = async {
            while let Some(backends) = next_set(&mut receive).await {
                told.push((begun.elapsed().as_secs(), backends));
            }
        };
        tokio::select! {
            biased;
            () = listening => unreachable!(),
            _ = watching => unreachable!(),
            _ = ended => (),
        }
        let status = status.lock().unwrap().clone();
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap().lines().map(str::to_owned).collect();
        Story { log, told, asked_s, status }
    })
}

use FailureKind::{NoHosts, NoSuchName, TimedOut};
use Says::{Addresses, Fails};

const ONE: &[&str] = &["10.0.0.1"];
const TWO: &[&str] = &["10.0.0.2", "10.0.0.1"];

#[test]
fn a_set_is_told_at_first_and_when_it_changes() {
    let story = watched(&[Addresses(ONE, 5), Addresses(ONE, 5), Addresses(TWO, 5), Addresses(&["10.0.0.1", "10.0.0.2"], 5)]);
    assert_eq!(story.told, [(0, endpoints(ONE)), (10, endpoints(TWO))]);
    assert_eq!((story.status.n_hosts, story.status.stale, story.status.n_failures), (2, false, 0));
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
    for kind in [NoSuchName, NoHosts, FailureKind::Refused, TimedOut, FailureKind::Unreachable] {
        let story = watched(&[Addresses(TWO, 5), Fails(kind), Fails(kind)]);
        assert_eq!(story.told, [(0, endpoints(TWO))], "{kind:?}");
        let status = story.status;
        assert_eq!((status.n_hosts, status.stale, status.n_failures, status.n_queries), (2, true, 2, 3));
        assert_eq!(status.last_error, Some(format!("{kind:?}")));
        assert!(status.answered.is_some());
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
            "WARN discovery failed; what is known stays service=web source=\"dns\" name=\"web.test\" cause=TimedOut n_kept=1",
            "WARN discovery failed; what is known stays service=web source=\"dns\" name=\"web.test\" cause=NoSuchName n_kept=1",
            "INFO discovery works again service=web source=\"dns\" name=\"web.test\"",
            "WARN discovery failed; what is known stays service=web source=\"dns\" name=\"web.test\" cause=NoSuchName n_kept=1",
        ]
    );
}

#[test]
fn refused_hosts_are_logged_once() {
    const LYING: &[&str] = &["10.0.0.1", "127.0.0.1"];
    let story = watched(&[Addresses(LYING, 5), Addresses(LYING, 5), Addresses(ONE, 5), Addresses(LYING, 5)]);
    assert_eq!(story.told, [(0, endpoints(ONE))]);
    assert_eq!(story.log.len(), 2, "{:?}", story.log);
    assert!(story.log[0].contains("WARN hosts refused: 1 that cannot be backends, such as 127.0.0.1"));
}

#[test]
fn what_never_answered_is_not_stale_but_empty() {
    let story = watched(&[Fails(TimedOut)]);
    assert!(story.told.is_empty());
    assert_eq!((story.status.stale, story.status.n_failures, story.status.answered), (false, 1, None));
}

#[test]
fn an_answer_with_fewer_than_min_hosts_is_not_taken() {
    let trust = Trust { min_hosts: 2, ..TRUST };
    let story = watched_with(trust, &[Addresses(TWO, 5), Addresses(ONE, 5), Addresses(ONE, 5), Addresses(TWO, 5)]);
    assert_eq!(story.told, [(0, endpoints(TWO))]);
    let status = story.status;
    assert_eq!((status.n_too_few, status.n_failures, status.n_queries, status.stale), (2, 2, 4, false));
    let warnings: Vec<_> = story.log.iter().filter(|line| line.contains("WARN")).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains("cause=1 usable, but min_hosts = 2"), "{warnings:?}");
}

#[test]
fn what_is_known_leaves_when_no_good_answer_came_for_as_long_as_stale_says() {
    let trust = Trust { stale: Some(Duration::from_secs(12)), ..TRUST };
    let mut script = vec![Addresses(TWO, 5)];
    script.extend([Fails(TimedOut); 6]);
    script.extend([Addresses(TWO, 5), Addresses(TWO, 20), Addresses(TWO, 5)]);
    let story = watched_with(trust, &script);
    // Asked once more at the very end, and then as before: the next good answer is told though it is the same.
    assert_eq!(story.asked_s, [0, 5, 6, 8, 12, 20, 36, 68, 73, 93]);
    assert_eq!(story.told, [(0, endpoints(TWO)), (12, Backends::new()), (68, endpoints(TWO))]);
    assert_eq!((story.status.n_hosts, story.status.stale), (2, false));
    assert_eq!(story.log.iter().filter(|line| line.contains("its backends leave")).count(), 1);
}

#[test]
fn what_an_earlier_daemon_knew_leaves_after_as_long_too() {
    let trust = Trust { stale: Some(Duration::from_secs(3)), ..TRUST };
    let story = watched_with(trust, &[Fails(TimedOut); 5]);
    assert_eq!((story.asked_s, story.told), (vec![0, 1, 3, 7, 15], vec![(3, Backends::new())]));
    assert_eq!((story.status.n_hosts, story.status.stale), (0, false));
}

/// A question for `web.test`.
fn question(server: SocketAddr, family: AddressFamily) -> Question {
    Question::new(&dns(Some(server), Duration::from_secs(60)), family)
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
    for (code, kind) in [(0, NoHosts), (2, FailureKind::Refused), (3, NoSuchName), (5, FailureKind::Refused)] {
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
    options: &'static [&'static str],
}

impl Dnsmasq {
    fn start(test: &str, hosts: &str) -> Self {
        Self::start_with(test, hosts, &[])
    }

    fn start_with(test: &str, hosts: &str, options: &'static [&'static str]) -> Self {
        // Free a moment ago, over both protocols.
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = tcp.local_addr().unwrap();
        drop(tcp);
        let file = std::env::temp_dir().join(format!("xlb-dns-{test}-{}", std::process::id()));
        std::fs::write(&file, hosts).unwrap();
        let process = Self::run(address, &file, options);
        Self { process, address, hosts: file, options }
    }

    fn run(address: SocketAddr, hosts: &std::path::Path, options: &[&str]) -> Child {
        Command::new("/usr/sbin/dnsmasq")
            .args(["--no-daemon", "--no-resolv", "--no-hosts", "--bind-interfaces", "--conf-file=/dev/null", "--pid-file="])
            .args(["--listen-address=127.0.0.1", "--local=/test/", "--local-ttl=1", "--cname=alias.test,web.test"])
            .arg(format!("--port={}", address.port()))
            .arg(format!("--addn-hosts={}", hosts.display()))
            .args(options)
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
        self.process = Self::run(self.address, &self.hosts, self.options);
    }

    /// A watcher that asks it.
    fn watched(&self, family: AddressFamily) -> (Watcher, mpsc::Receiver<News>) {
        let (send, receive) = mpsc::channel(8);
        let source = Source::Dns(dns(Some(self.address), Duration::from_secs(2)));
        (spawn("web".into(), source, place(family), send), receive)
    }

    fn srv(&self) -> Dns {
        let name = "_http._tcp.test".to_owned();
        Dns { name, record: DnsRecord::Srv, port: 0, ..dns(Some(self.address), Duration::from_secs(2)) }
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

async fn told(receive: &mut mpsc::Receiver<News>) -> Backends {
    timeout(PATIENT, next_set(receive)).await.unwrap().unwrap()
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
    assert!(watcher.status().n_hosts == 1 && has_told_nothing(&mut receive));
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
    until(&watcher, |status| status.stale && status.n_failures > 0).await;
    assert!(watcher.status().n_hosts == 1 && has_told_nothing(&mut receive));
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
    let expected = (1..=300).map(|n| (SocketAddr::new(address(n).into(), 8080), 1)).collect();
    assert_eq!(told(&mut receive).await, expected);
}

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn the_servers_ttl_and_aliases_are_read() {
    let server = Dnsmasq::start("ttl", "10.9.0.1 web.test\n");
    let alias = Dns { name: "alias.test.".to_owned(), ..dns(Some(server.address), Duration::from_secs(60)) };
    let alias = Question::new(&alias, AddressFamily::V4);
    for question in [question(server.address, AddressFamily::V4), alias] {
        let answer = server.answers(question).await;
        assert_eq!(answer, Answer { found: found(&["10.9.0.1"]), ttl: Duration::from_secs(1) });
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

/// Two of priority 10, of which one without a weight; two of 20, of which one without an address of either family.
const SRV: &[&str] = &[
    "--srv-host=_http._tcp.test,a.test,8001,10,60",
    "--srv-host=_http._tcp.test,b.test,8002,10,0",
    "--srv-host=_http._tcp.test,c.test,8003,20,5",
    "--srv-host=_http._tcp.test,gone.test,8004,20,5",
];

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn srv_records_give_ports_and_weights_and_the_next_priority_stands_by() {
    let hosts = "10.9.0.1 a.test\n10.9.0.2 b.test\n10.9.0.3 b.test\n2001:db8::1 a.test\n10.9.0.4 c.test\n";
    let server = Dnsmasq::start_with("srv", hosts, SRV);
    let expected = |list: &[(&str, u16)]| list.iter().map(|(at, weight)| (at.parse().unwrap(), *weight)).collect::<Backends>();
    let (send, mut receive) = mpsc::channel(8);
    let watcher = spawn("web".into(), Source::Dns(server.srv()), place(AddressFamily::V4), send);
    let first = [("10.9.0.1:8001", 60), ("10.9.0.2:8002", 1), ("10.9.0.3:8002", 1)];
    assert_eq!(told(&mut receive).await, expected(&first));
    until(&watcher, |status| status.answered.is_some()).await;
    let status = watcher.status();
    assert_eq!((status.n_hosts, status.n_standby, status.n_refused), (3, 1, 1));
    // Nobody of the first priority is left: the next one steps in, and out again.
    server.now_has("10.9.0.4 c.test\n");
    assert_eq!(told(&mut receive).await, expected(&[("10.9.0.4:8003", 5)]));
    server.now_has(hosts);
    assert_eq!(told(&mut receive).await, expected(&first));
    let v6 = Question::new(&server.srv(), AddressFamily::V6);
    let usable = server.answers(v6).await.found.usable(place(AddressFamily::V6));
    assert_eq!(usable.backends, expected(&[("[2001:db8::1]:8001", 60)]));
}

#[tokio::test]
#[ignore = "needs dnsmasq; run by cargo xtask test"]
async fn an_srv_name_without_records_or_without_any_target_is_a_failure() {
    let server = Dnsmasq::start_with("nosrv", "10.9.0.1 web.test\n", &["--srv-host=_none._tcp.test"]);
    server.answers(question(server.address, AddressFamily::V4)).await;
    for (name, kind) in [("_none._tcp.test", NoHosts), ("web.test", NoHosts), ("_other._tcp.test", NoSuchName)] {
        let question = Question::new(&Dns { name: name.to_owned(), ..server.srv() }, AddressFamily::V4);
        assert_eq!(question.ask().await.map_err(|failure| failure.kind), Err(kind), "{name}");
    }
}
