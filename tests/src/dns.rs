//! A real DNS server, dnsmasq, whose records change while it runs; and a small client to see what it answers.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;

use crate::{Netns, Process, udp, until};

const CHANGE_LIMIT: Duration = Duration::from_secs(5);
const TYPE_A: u16 = 1;
const TYPE_AAAA: u16 = 28;

/// A DNS server that is authoritative for `internal.`: a name there without records does not exist.
#[derive(Debug)]
pub struct Dnsmasq {
    process: Process,
    netns: Netns,
    address: SocketAddr,
    hosts: tempfile::NamedTempFile,
}

impl Dnsmasq {
    /// Starts the server on `address` (the namespace's own) with `records`, pairs of name and address, which it hands out
    /// with the TTL `ttl_s`. Returns when it answers.
    ///
    /// # Errors
    /// dnsmasq is not installed, or the port is taken.
    pub fn start(netns: &Netns, address: IpAddr, ttl_s: u32, records: &[(&str, IpAddr)]) -> Result<Self> {
        let hosts = tempfile::NamedTempFile::new()?;
        let mut command = netns.command("dnsmasq");
        command
            .args(["--keep-in-foreground", "--log-facility=-", "--conf-file=/dev/null", "--pid-file=", "--user=root"])
            .args(["--no-resolv", "--no-hosts", "--bind-interfaces", "--port=53", "--local=/internal/"])
            .args([format!("--listen-address={address}"), format!("--local-ttl={ttl_s}")])
            .arg(format!("--addn-hosts={}", hosts.path().display()));
        let process = Process::start("dnsmasq", &mut command)?;
        let mut server = Self { process, netns: netns.clone(), address: SocketAddr::new(address, 53), hosts };
        // It reads its hosts again only once it handles signals, and an early one would end it.
        server.process.wait_for_log("read ", CHANGE_LIMIT)?;
        server.set(records)?;
        Ok(server)
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Replaces all records. Returns when the server answers with the new ones.
    ///
    /// # Errors
    /// The server is gone, or never takes the records over.
    pub fn set(&mut self, records: &[(&str, IpAddr)]) -> Result<()> {
        let before = std::fs::read_to_string(self.hosts.path())?;
        let lines: String = records.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        // dnsmasq may be reading the file: it is replaced at once, under the same name.
        let mut new = tempfile::NamedTempFile::new_in(self.hosts.path().parent().context("a file in a directory")?)?;
        new.write_all(lines.as_bytes())?;
        std::fs::rename(new.path(), self.hosts.path())?;
        self.process.signal(Signal::SIGHUP)?;
        let mut names: Vec<&str> = records.iter().map(|(name, _)| *name).collect();
        names.extend(before.lines().filter_map(|line| line.split(' ').nth(1)));
        for name in names {
            let mut wanted: Vec<IpAddr> = records.iter().filter(|record| record.0 == name).map(|record| record.1).collect();
            wanted.sort();
            wanted.dedup();
            until(CHANGE_LIMIT, &format!("dnsmasq to answer {wanted:?} for {name}"), || {
                Ok((query(&self.netns, self.address, name)? == wanted).then_some(()))
            })
            .with_context(|| self.process.log())?;
        }
        Ok(())
    }

    /// Freezes the server: questions stay unanswered.
    ///
    /// # Errors
    /// The server is gone.
    pub fn freeze(&self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    /// # Errors
    /// The server is gone.
    pub fn thaw(&self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// Ends the server: its port refuses.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}

/// The A and AAAA records of a name, sorted. A name that does not exist has none.
///
/// # Errors
/// No answer within a second, or the server refuses or fails.
pub fn query(netns: &Netns, server: SocketAddr, name: &str) -> Result<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for record_type in [TYPE_A, TYPE_AAAA] {
        let answer = udp::ask(netns, server, &question(name, record_type)?)?;
        addresses.extend(parse(&answer).with_context(|| format!("{server} about {name}: {answer:02x?}"))?);
    }
    addresses.sort();
    Ok(addresses)
}

/// RFC 1035, section 4.1: a header with one question, recursion desired.
fn question(name: &str, record_type: u16) -> Result<Vec<u8>> {
    let mut question = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.trim_end_matches('.').split('.') {
        question.push(u8::try_from(label.len()).context("a label of more than 255 bytes")?);
        question.extend(label.as_bytes());
    }
    question.push(0);
    question.extend(record_type.to_be_bytes());
    question.extend(1u16.to_be_bytes());
    Ok(question)
}

fn parse(answer: &[u8]) -> Result<Vec<IpAddr>> {
    let u16_at = |at: usize| answer.get(at..at + 2).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])).context("cut short");
    match u16_at(2)? & 0xf {
        0 => {}
        3 => return Ok(Vec::new()),
        code => bail!("response code {code}"),
    }
    let n_answers = u16_at(6)?;
    let mut at = after_name(answer, 12)? + 4;
    let mut addresses = Vec::new();
    for _ in 0..n_answers {
        at = after_name(answer, at)?;
        let (record_type, len) = (u16_at(at)?, usize::from(u16_at(at + 8)?));
        let value = answer.get(at + 10..at + 10 + len).context("cut short")?;
        match record_type {
            TYPE_A => addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(value)?).into()),
            TYPE_AAAA => addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(value)?).into()),
            _ => {}
        }
        at += 10 + len;
    }
    Ok(addresses)
}

/// Where a name ends: after its empty label, or after a pointer (RFC 1035, section 4.1.4).
fn after_name(answer: &[u8], mut at: usize) -> Result<usize> {
    loop {
        match *answer.get(at).context("cut short")? {
            0 => return Ok(at + 1),
            len if len >= 0xc0 => return Ok(at + 2),
            len => at += 1 + usize::from(len),
        }
    }
}
