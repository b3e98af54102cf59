//! HTTP load by `wrk`, with its result in numbers.

use std::io::Write;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{Netns, Process, http};

/// Prints the result as one line of JSON: wrk's own report is made for people, and rounds.
const SCRIPT: &str = r#"
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"requests":%d,"bytes":%d,"duration_us":%d,"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d,' ..
    '"p50":%d,"p99":%d,"max":%d}\n',
    summary.requests, summary.bytes, summary.duration, e.connect, e.read, e.write, e.status, e.timeout,
    latency:percentile(50), latency:percentile(99), latency.max))
end
"#;

/// What load to make.
#[derive(Clone, Debug)]
pub struct Wrk {
    pub url: String,
    pub connections: u32,
    pub threads: u32,
    pub duration: Duration,
    /// How long an answer may take; longer counts in [`Report::timeout_errors`].
    pub timeout: Duration,
    /// Keep connections open, or ask the server to close each after one request.
    pub keep_alive: bool,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    pub requests: u64,
    pub bytes: u64,
    pub duration: Duration,
    pub connect_errors: u64,
    pub read_errors: u64,
    pub write_errors: u64,
    /// Answers of 400 and above.
    pub status_errors: u64,
    pub timeout_errors: u64,
    pub latency_p50: Duration,
    pub latency_p99: Duration,
    pub latency_max: Duration,
}

impl Report {
    /// Requests that failed, in any way.
    pub fn errors(&self) -> u64 {
        self.connect_errors + self.read_errors + self.write_errors + self.status_errors + self.timeout_errors
    }

    pub fn requests_per_s(&self) -> f64 {
        self.requests as f64 / self.duration.as_secs_f64()
    }
}

/// A running `wrk`.
#[derive(Debug)]
pub struct Running {
    process: Process,
    limit: Duration,
    _script: tempfile::NamedTempFile,
}

impl Wrk {
    /// Ten kept-alive connections from one thread for `duration`.
    pub fn new(url: impl Into<String>, duration: Duration) -> Self {
        let timeout = Duration::from_secs(2);
        Self { url: url.into(), connections: 10, threads: 1, duration, timeout, keep_alive: true }
    }

    /// Starts the load. Fractions of a second are cut off the durations, as `wrk` takes whole ones.
    ///
    /// # Errors
    /// wrk is not installed, or the URL's host is not an address.
    pub fn start(&self, netns: &Netns) -> Result<Running> {
        let mut script = tempfile::Builder::new().suffix(".lua").tempfile()?;
        if !self.keep_alive {
            writeln!(script, "wrk.headers['Connection'] = 'close'")?;
        }
        script.write_all(SCRIPT.as_bytes())?;
        // With its port: wrk looks up the name of a missing one in /etc/services, which small systems lack.
        let (address, path) = http::parse(&self.url)?;
        let mut command = netns.command("wrk");
        command
            .args([format!("-c{}", self.connections), format!("-t{}", self.threads)])
            .args([format!("-d{}s", self.duration.as_secs().max(1)), format!("--timeout={}s", self.timeout.as_secs().max(1))])
            .arg("-s")
            .arg(script.path())
            .arg(format!("http://{address}{path}"));
        let process = Process::start(format!("wrk {}", self.url), &mut command)?;
        Ok(Running { process, limit: self.duration * 2 + Duration::from_secs(10), _script: script })
    }

    /// Makes the load and waits for its end.
    ///
    /// # Errors
    /// As [`Wrk::start`] and [`Running::finish`].
    pub fn run(&self, netns: &Netns) -> Result<Report> {
        self.start(netns)?.finish()
    }
}

impl Running {
    /// Whether it still makes load.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// wrk fails: it could not connect at all.
    pub fn finish(mut self) -> Result<Report> {
        let status = self.process.wait(self.limit)?;
        let log = self.process.log();
        if !status.success() {
            bail!("{}: {status}\n{log}", self.process.name());
        }
        let line = log.lines().find_map(|line| line.strip_prefix("RESULT ")).with_context(|| format!("no result in:\n{log}"))?;
        let value: serde_json::Value = serde_json::from_str(line)?;
        let number = |key: &str| value[key].as_u64().with_context(|| format!("no {key} in {line}"));
        let time = |key: &str| number(key).map(Duration::from_micros);
        Ok(Report {
            requests: number("requests")?,
            bytes: number("bytes")?,
            duration: time("duration_us")?,
            connect_errors: number("connect")?,
            read_errors: number("read")?,
            write_errors: number("write")?,
            status_errors: number("status")?,
            timeout_errors: number("timeout")?,
            latency_p50: time("p50")?,
            latency_p99: time("p99")?,
            latency_max: time("max")?,
        })
    }
}
