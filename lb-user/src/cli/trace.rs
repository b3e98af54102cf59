//! `xlb trace`: what `GET /api/v1/trace` tells, a line a packet, or as a file for tcpdump and Wireshark.

mod capture;

use std::fs::File;
use std::io::BufWriter;
use std::path::PathBuf;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use form_urlencoded::Serializer;
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use super::client::{self, Door, Reach};
use super::status::{list, text};
use capture::Capture;

/// One line of the answer.
const LINE_LEN_MAX: usize = 1 << 20;

/// Which packets, and how many.
#[derive(Args, Debug)]
pub struct Wish {
    /// Packets to this VIP, and replies of its nat backends
    #[arg(long, value_name = "ADDRESS")]
    vip: Option<String>,
    /// Packets with one end here, such as 203.0.113.7 or 2001:db8::/32
    #[arg(long, value_name = "PREFIX")]
    client: Option<String>,
    /// Packets to backends with this address, and their replies
    #[arg(long, value_name = "ADDRESS")]
    backend: Option<String>,
    /// Only these: forwarded, passed, dropped, or single verdicts such as no_backend,denied. Unless given: all, with --vip or
    /// --client; forwarded and dropped otherwise, for passed packets are the host's own, and your session is among them
    #[arg(long, value_name = "VERDICT,...")]
    verdict: Option<String>,
    /// One packet in N, by chance
    #[arg(long, value_name = "1/N")]
    sample: Option<String>,
    /// End after so many packets; 1000 unless given
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// End after this time, up to 1h; 1m unless given
    #[arg(long, value_name = "TIME")]
    duration: Option<String>,
    /// How much of each frame to take, for --write and --json, 14 to 256; 128 unless given
    #[arg(long, value_name = "N")]
    bytes: Option<u16>,
}

impl Wish {
    fn path(&self) -> String {
        let Self { vip, client, backend, verdict, sample, count, duration, bytes } = self;
        let words = [
            ("vip", vip.clone()),
            ("client", client.clone()),
            ("backend", backend.clone()),
            ("verdict", verdict.clone()),
            ("sample", sample.clone()),
            ("count", count.map(|count| count.to_string())),
            ("duration", duration.clone()),
            ("bytes", bytes.map(|bytes| bytes.to_string())),
        ];
        let mut query = Serializer::new(String::new());
        query.extend_pairs(words.into_iter().filter_map(|(key, value)| Some((key, value?))));
        format!("/api/v1/trace?{}", query.finish())
    }
}

/// What becomes of what is told.
pub enum Output {
    Lines,
    Json,
    File(PathBuf),
}

/// Tells packets until there are enough of them, or Ctrl-C.
///
/// # Errors
/// No daemon answers there, one may not see packets, somebody else traces, or the file cannot be written.
pub async fn follow(reach: &Reach, wish: &Wish, output: Output) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let door = Door::try_from(reach)?;
    let response = client::begin(&door, Method::GET, &wish.path(), Bytes::new()).await?;
    let code = response.status();
    let mut body = response.into_body();
    if !code.is_success() {
        bail!(client::refusal(code, &body.collect().await?.to_bytes()));
    }
    // Not before somebody is there who tells: what was in the file stays otherwise.
    let mut printer = Printer::new(output)?;
    let mut waiting = Vec::new();
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
        };
        let Some(frame) = frame else { bail!("the daemon has ended the trace") };
        let frame = frame.context("the daemon has ended, or the connection has")?;
        waiting.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| bytes));
        let end = waiting.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        for line in waiting.drain(..end).collect::<Vec<_>>().split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let line: Value = serde_json::from_slice(line).context("not the JSON of an xlb daemon")?;
            if printer.take(&line)? {
                return printer.finish();
            }
        }
        printer.flush()?;
        ensure!(waiting.len() <= LINE_LEN_MAX, "a line that does not end");
    }
    // The daemon sees that nobody reads any more, and stops.
    drop(body);
    printer.finish()
}

struct Printer {
    is_json: bool,
    capture: Option<(PathBuf, Capture<BufWriter<File>>)>,
    n_packets: u64,
    n_lost: u64,
}

impl Printer {
    fn new(output: Output) -> Result<Self> {
        let is_json = matches!(output, Output::Json);
        let capture = match output {
            Output::File(path) => {
                let file = File::create(&path).with_context(|| format!("{}: cannot be written", path.display()))?;
                let capture = Capture::new(BufWriter::new(file)).with_context(|| path.display().to_string())?;
                Some((path, capture))
            }
            Output::Lines | Output::Json => None,
        };
        Ok(Self { is_json, capture, n_packets: 0, n_lost: 0 })
    }

    /// Whether this was the last line.
    fn take(&mut self, line: &Value) -> Result<bool> {
        let (packet, end) = (&line["packet"], &line["end"]);
        if self.is_json {
            super::print(&format!("{line}\n"))?;
        }
        if !packet.is_null() {
            self.n_packets += 1;
            match &mut self.capture {
                Some((path, capture)) => capture.add(packet, &in_words(packet)).with_context(|| path.display().to_string())?,
                None if self.is_json => {}
                None => super::print(&format!("{} {}\n", time(packet), in_words(packet)))?,
            }
        }
        let lost = if end.is_null() { &line["lost"] } else { &end["lost"] };
        self.note(lost);
        Ok(!end.is_null())
    }

    /// Losses are told when there are more of them.
    fn note(&mut self, lost: &Value) {
        let count = |key: &str| lost[key].as_u64().unwrap_or_default();
        let (limited, ring, reader) = (count("limited"), count("ring"), count("reader"));
        let n_lost = limited + ring + reader;
        if n_lost <= self.n_lost {
            return;
        }
        self.n_lost = n_lost;
        let reasons = [
            (limited, "there were more at once than a trace may have; --sample thins them out"),
            (ring, "the daemon did not keep up"),
            (reader, "this end did not keep up"),
        ];
        for (n, reason) in reasons.into_iter().filter(|(n, _)| *n > 0) {
            eprintln!("not told so far: {} ({reason})", super::counted(n as usize, "packet"));
        }
    }

    fn flush(&mut self) -> Result<()> {
        match &mut self.capture {
            Some((path, capture)) => capture.flush().with_context(|| path.display().to_string()),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<()> {
        self.flush()?;
        let place = self.capture.map_or_else(String::new, |(path, _)| format!(" in {}", path.display()));
        eprintln!("{}{place}", super::counted(self.n_packets as usize, "packet"));
        Ok(())
    }
}

/// The time of day, UTC, to the microsecond.
fn time(packet: &Value) -> &str {
    let at = text(&packet["at"]);
    at.split_once('T').and_then(|(_, time)| time.get(..15)).unwrap_or(at)
}

/// All but the time, in a line.
fn in_words(packet: &Value) -> String {
    let interface = packet["interface"].as_str().map_or_else(|| format!("interface {}", packet["ifindex"]), str::to_owned);
    let mut words = vec![interface, summary(&packet["packet"])];
    words.extend(route(packet));
    words.push(outcome(packet));
    words.join("  ")
}

/// Service and backend, as far as the packet came.
fn route(packet: &Value) -> Option<String> {
    let service = packet["service"].as_str()?;
    let Some(backend) = packet["backend"].as_str() else { return Some(service.to_owned()) };
    let arrow = if packet["how"] == "reply" { "<-" } else { "->" };
    let why = match text(&packet["how"]) {
        "at_rest" => "slot at rest",
        "on_record" => "flow on record",
        "new_connection" => "new flow",
        "chosen" => "new flow, chosen by the algorithm",
        "settled" => "no record, from before the slot moved",
        "current" => "no record",
        "fragment" => "follows its first fragment",
        "reply" => "reply",
        other => other,
    };
    let slot = packet["slot"].as_u64().map_or_else(String::new, |slot| format!(", slot {slot}"));
    Some(format!("{service} {arrow} {backend} ({why}{slot})"))
}

fn outcome(packet: &Value) -> String {
    let (verdict, left) = (text(&packet["verdict"]), &packet["left"]);
    let mut words = match text(&packet["class"]) {
        "passed" => format!("passed to the host ({verdict})"),
        class => format!("{class} ({verdict})"),
    };
    let refused = &packet["refused"];
    if !refused.is_null() {
        let whose = refused["service"].as_str().map_or("[admission]".to_owned(), |service| format!("the admission of {service}"));
        words.push_str(&format!(", rule {} of {whose}", text(&refused["rule"])));
    }
    if left.is_null() {
        return words;
    }
    let (came, left_as) = (&packet["packet"], &left["packet"]);
    if came["source"] != left_as["source"] || came["destination"] != left_as["destination"] {
        words.push_str(&format!(" as {}", summary(left_as)));
    }
    if let Some(interface) = left["interface"].as_str()
        && packet["interface"] != interface
    {
        words.push_str(&format!(" by {interface}"));
    }
    words
}

/// A packet as tcpdump would have it, more or less.
fn summary(packet: &Value) -> String {
    let mut words = Vec::new();
    words.extend(list(&packet["vlans"]).iter().map(|vlan| format!("vlan {vlan}")));
    words.push(text(&packet["protocol"]).to_owned());
    if let (Some(source), Some(destination)) = (packet["source"].as_str(), packet["destination"].as_str()) {
        words.push(format!("{source} > {destination}"));
    }
    words.extend(packet["flags"].as_str().map(str::to_owned));
    words.extend(packet["fragment"].as_str().map(|which| format!("({which} fragment)")));
    if !packet["about"].is_null() {
        words.push(format!("about {}", summary(&packet["about"])));
    }
    words.join(" ")
}

#[cfg(test)]
mod tests;
