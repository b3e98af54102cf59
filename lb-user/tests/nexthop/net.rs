//! Network namespaces, and a resolver that runs in one.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_user::nexthop::{Answer, Changes, RedirectMode, Resolver};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Beyond what anything here may take, on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// Namespaces of one test, removed with it.
pub struct Net {
    prefix: String,
    namespaces: Vec<String>,
}

impl Net {
    pub fn new(names: &[&str]) -> Self {
        static N_NETS: AtomicU32 = AtomicU32::new(0);
        let n = N_NETS.fetch_add(1, Ordering::Relaxed);
        let mut net = Self { prefix: format!("xlb-nh-{}-{n}", std::process::id()), namespaces: Vec::new() };
        for name in names {
            let namespace = net.namespace(name);
            run(&format!("ip netns add {namespace}"));
            net.namespaces.push(namespace);
            net.ip(name, "link set lo up");
            // Until its addresses are known to be unique, an interface asks for no IPv6 neighbour.
            net.sysctl(name, "ipv6/conf/default/accept_dad", "0");
        }
        net
    }

    /// `lb` with eth0 towards `backend`, both ends up and addressed: 10.0.0.1 and fd00::1, 10.0.0.2 and fd00::2.
    pub fn with_backend() -> Self {
        let net = Self::new(&["lb", "backend"]);
        net.veth("lb", "eth0", "backend", "eth0");
        net.address("lb", "eth0", 1);
        net.address("backend", "eth0", 2);
        net
    }

    pub fn namespace(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Runs `ip` in a namespace. Yields what it prints.
    pub fn ip(&self, name: &str, arguments: &str) -> String {
        run(&format!("ip -n {} {arguments}", self.namespace(name)))
    }

    pub fn run(&self, name: &str, command: &str) {
        run(&format!("nsenter --net=/run/netns/{} {command}", self.namespace(name)));
    }

    /// A pair of interfaces, up.
    pub fn veth(&self, left: &str, left_name: &str, right: &str, right_name: &str) {
        let peer = format!("peer name {right_name} netns {}", self.namespace(right));
        self.ip(left, &format!("link add {left_name} type veth {peer}"));
        self.ip(left, &format!("link set {left_name} up"));
        self.ip(right, &format!("link set {right_name} up"));
    }

    pub fn address(&self, name: &str, interface: &str, host: u8) {
        self.ip(name, &format!("addr add 10.0.0.{host}/24 dev {interface}"));
        self.ip(name, &format!("addr add fd00::{host}/64 dev {interface} nodad"));
    }

    pub fn sysctl(&self, name: &str, path: &str, value: &str) {
        self.within(name, || std::fs::write(format!("/proc/sys/net/{path}"), value)).unwrap();
    }

    /// Runs something in a namespace, on a thread of its own.
    pub fn within<T: Send>(&self, name: &str, work: impl FnOnce() -> T + Send) -> T {
        let namespace = self.namespace(name);
        std::thread::scope(|scope| {
            scope
                .spawn(move || {
                    enter(&namespace);
                    work()
                })
                .join()
                .unwrap()
        })
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for namespace in &self.namespaces {
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn enter(namespace: &str) {
    let file = File::open(format!("/run/netns/{namespace}")).unwrap();
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
}

fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A resolver in a namespace, and all that it said.
pub struct Follower {
    resolver: Option<Resolver>,
    changes: mpsc::Receiver<(Instant, Changes)>,
    pub answers: BTreeMap<IpAddr, Answer>,
    pub redirects: BTreeMap<u32, bool>,
    /// When the last change arrived.
    pub changed_at: Instant,
    thread: Option<JoinHandle<()>>,
}

impl Follower {
    pub fn start(net: &Net, name: &str, mode: RedirectMode, wanted: &[&str]) -> Self {
        let namespace = net.namespace(name);
        let (resolvers, started) = mpsc::channel();
        let (sender, changes) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            enter(&namespace);
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let (changed, mut receiver) = tokio::sync::mpsc::channel(4);
                resolvers.send(Resolver::start(mode, changed).await.unwrap()).unwrap();
                while let Some(changes) = receiver.recv().await {
                    let _ = sender.send((Instant::now(), changes));
                }
            });
        });
        let resolver = started.recv_timeout(DEADLINE).unwrap();
        resolver.want(wanted.iter().map(|address| ip(address)).collect());
        Self {
            resolver: Some(resolver),
            changes,
            answers: BTreeMap::new(),
            redirects: BTreeMap::new(),
            changed_at: Instant::now(),
            thread: Some(thread),
        }
    }

    pub fn resolver(&self) -> &Resolver {
        self.resolver.as_ref().unwrap()
    }

    /// Waits until what it said is as expected.
    #[track_caller]
    pub fn wait_until(&mut self, what: &str, is_so: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !is_so(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let Ok((at, changes)) = self.changes.recv_timeout(left) else {
                panic!("not within {DEADLINE:?}: {what}; {:?} {:?}", self.answers, self.redirects);
            };
            self.answers.extend(changes.next_hops);
            self.redirects = changes.redirects.unwrap_or_else(|| std::mem::take(&mut self.redirects));
            self.changed_at = at;
        }
    }

    #[track_caller]
    pub fn wait_for(&mut self, address: &str, is_so: impl Fn(&Answer) -> bool) {
        let address = ip(address);
        self.wait_until(&address.to_string(), |follower| follower.answers.get(&address).is_some_and(&is_so));
    }

    /// Ends the resolver, and tells whether its task ended with it.
    pub fn stop(&mut self) -> bool {
        self.resolver = None;
        let ended = loop {
            match self.changes.recv_timeout(DEADLINE) {
                Ok(_) => {}
                Err(error) => break error == mpsc::RecvTimeoutError::Disconnected,
            }
        };
        ended && self.thread.take().is_none_or(|thread| thread.join().is_ok())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.resolver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}
