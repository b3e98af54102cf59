//! `GET /api/v1/events`, as programs read it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xlb_tests::{Backend, Daemon, Netns, Network, http};

use super::support::{LIMIT, Service, vip, wait_serving};

/// As many readers as the daemon admits.
const N_READERS: usize = 64;

struct Events(BufReader<TcpStream>);

impl Events {
    fn open(netns: &Netns) -> Result<Self> {
        let mut stream = netns.enter(|| http::connect("127.0.0.1:9400".parse()?, None, LIMIT))?;
        write!(stream, "GET /api/v1/events HTTP/1.1\r\nHost: xlb\r\n\r\n")?;
        Ok(Self(BufReader::new(stream)))
    }

    /// The next line, be it of the head, a chunk's length, or an event's.
    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        ensure!(self.0.read_line(&mut line)? > 0, "the stream has ended");
        Ok(line.trim_end().to_owned())
    }

    /// The content of the next event of this name.
    fn next(&mut self, name: &str) -> Result<Value> {
        while self.line()? != format!("event: {name}") {}
        let line = self.line()?;
        serde_json::from_str(line.strip_prefix("data: ").context("an event has data")?).context("JSON")
    }
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_reader_gets_the_state_at_once_and_then_every_change() -> Result<()> {
    let network = Network::dsr(2, &[vip()])?;
    let mut backends = Backend::start_all(&network, 80, &[vip()])?;
    let toml = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(toml).start()?;
    let mut events = Events::open(&network.lb.netns)?;
    ensure!(events.line()? == "HTTP/1.1 200 OK");
    let hello = events.next("hello")?;
    ensure!(hello["events"][0]["kind"] == "started", "{hello:#}");
    let now = events.next("status")?;
    ensure!(now["status"]["services"][0]["name"] == "web", "{now:#}");
    let later = events.next("status")?;
    ensure!(later["uptime_ms"].as_u64() > now["uptime_ms"].as_u64(), "{later:#}");
    backends[1].kill();
    let (changes, died) = loop {
        let changes = events.next("changes")?;
        let died = changes.as_array().into_iter().flatten().find(|event| event["to"] == "down").cloned();
        if let Some(died) = died {
            break (changes, died);
        }
    };
    ensure!(died["backend"] == "10.2.0.11:80" && died["cause"] == "connect: refused", "{died:#}");
    let moved = changes.as_array().into_iter().flatten().find(|event| event["kind"] == "slots_moved");
    ensure!(moved.is_some_and(|moved| moved["cause"] == "10.2.0.11:80 is down (connect: refused)"), "{changes:#}");
    // Who comes later is told what was.
    let hello = Events::open(&network.lb.netns)?.next("hello")?;
    ensure!(hello["events"].as_array().into_iter().flatten().any(|event| *event == died), "{hello:#}");
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn readers_beyond_the_limit_are_refused_and_the_rest_of_the_api_answers() -> Result<()> {
    let network = Network::dsr(1, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let toml = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(toml).start()?;
    let readers: Result<Vec<Events>> = (0..N_READERS)
        .map(|_| {
            let mut reader = Events::open(&network.lb.netns)?;
            reader.next("hello")?;
            Ok(reader)
        })
        .collect();
    let readers = readers?;
    ensure!(Events::open(&network.lb.netns)?.line()? == "HTTP/1.1 503 Service Unavailable");
    ensure!(daemon.status()?["ready"] == true);
    drop(readers);
    let admitted = || Ok((Events::open(&network.lb.netns)?.line()? == "HTTP/1.1 200 OK").then_some(()));
    xlb_tests::until(Duration::from_secs(5), "room for a reader", admitted)?;
    daemon.stop()
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn what_comes_and_goes_while_nobody_reads_is_told_later_each_time_with_its_cause() -> Result<()> {
    const N_TIMES: usize = 5;
    let network = Network::dsr(1, &[vip()])?;
    let _backends = Backend::start_all(&network, 80, &[vip()])?;
    let toml = Service::new("web", vip(), 80).backends(&network.backends, true).toml();
    let daemon = Daemon::new(&network.lb.netns, &network.lb_interfaces()).services(toml).start()?;
    wait_serving(&daemon, "web", 1)?;
    // Faster than anybody looks who has no reader.
    for _ in 0..N_TIMES {
        daemon.xlb(&["disable", "web", "10.2.0.10"])?;
        daemon.xlb(&["enable", "web", "10.2.0.10"])?;
    }
    let kept = || -> Result<Vec<Value>> {
        let hello = Events::open(&network.lb.netns)?.next("hello")?;
        Ok(hello["events"].as_array().cloned().unwrap_or_default())
    };
    let of =
        |events: &[Value], kind: &str| -> Vec<Value> { events.iter().filter(|event| event["kind"] == kind).cloned().collect() };
    let events = xlb_tests::until(LIMIT, "the events of ten changes", || {
        Ok(Some(kept()?).filter(|events| of(events, "backend_admin").len() == 2 * N_TIMES))
    })?;
    // It came up at first.
    let states: Vec<Value> = of(&events, "service_state").drain(1..).collect();
    let ups: Vec<&Value> = states.iter().map(|event| &event["up"]).collect();
    ensure!(ups == [false, true].repeat(N_TIMES).iter().collect::<Vec<_>>(), "{events:#?}");
    ensure!(
        states[0]["cause"] == "10.2.0.10:80 was set by root" && states[1]["cause"] == "10.2.0.10:80 was reset",
        "{events:#?}"
    );
    let times: Vec<Option<u64>> = events.iter().map(|event| event["at_ms"].as_u64()).collect();
    ensure!(times.is_sorted() && times.iter().all(Option::is_some), "{events:#?}");
    daemon.stop()
}
