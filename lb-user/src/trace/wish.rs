//! Which packets somebody wants to see.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use ipnet::IpNet;
use lb_common::Addr;
use lb_common::trace::{HEAD_LEN, Prefix, RECORDS_MAX, Rules};
use lb_common::verdict::Verdict;
use serde::Serialize;

use crate::api::query;

/// Packets until a trace ends by itself.
pub const COUNT_DEFAULT: u64 = 1_000;
pub const COUNT_MAX: u64 = 10_000_000;
/// Time until then.
pub const DURATION_DEFAULT: Duration = Duration::from_secs(60);
pub const DURATION_MAX: Duration = Duration::from_secs(60 * 60);
/// Bytes of each packet.
const BYTES_DEFAULT: usize = 128;

/// What a query may have.
pub const KEYS: [&str; 8] = ["vip", "client", "backend", "verdict", "sample", "count", "duration", "bytes"];

/// Which packets, and how many.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Wish {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vip: Option<IpAddr>,
    /// Either end of a packet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<IpNet>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backend: Option<IpAddr>,
    /// By label.
    pub verdicts: Vec<&'static str>,
    /// One packet in so many.
    pub sample: u32,
    pub count: u64,
    #[serde(rename = "duration_s", serialize_with = "seconds")]
    pub duration: Duration,
    /// Of each packet.
    pub bytes: usize,
}

fn seconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

impl Wish {
    /// What a query asks for, or what is wrong with it.
    ///
    /// # Errors
    /// A key is unknown, given twice, or has a value that is none.
    pub fn read(query: &str) -> Result<Self, String> {
        let [vip, client, backend, verdict, sample, count, duration, bytes] = query::values(query, &KEYS)?;
        let address = |key: &str, text: Option<String>| {
            let parse = |text: String| text.parse::<IpAddr>().map_err(|_| format!("{key} {text:?}: write an address"));
            text.map(parse).transpose()
        };
        let (vip, backend) = (address("vip", vip)?, address("backend", backend)?);
        let client = client.map(|text| network(&text)).transpose()?;
        let verdicts = match verdict {
            Some(text) => verdicts(&text)?,
            // Who names no one sees what xlb has to do with, and not the host's own packets, his own session among them.
            None if vip.is_none() && client.is_none() => verdicts("forwarded,dropped")?,
            None => Verdict::ALL.iter().map(|verdict| verdict.label()).collect(),
        };
        Ok(Self {
            vip,
            client,
            backend,
            verdicts,
            sample: sample.map(|text| one_in(&text)).transpose()?.unwrap_or(1),
            count: number("count", count, 1, COUNT_MAX)?.unwrap_or(COUNT_DEFAULT),
            duration: duration.map(|text| time(&text)).transpose()?.unwrap_or(DURATION_DEFAULT),
            bytes: number("bytes", bytes, 14, HEAD_LEN as u64)?.map_or(BYTES_DEFAULT, |bytes| bytes as usize),
        })
    }

    /// As the packet path goes by it, but for the time.
    pub fn rules(&self, id: u32) -> Rules {
        let host = |address: Option<IpAddr>| address.map(IpNet::from);
        let wanted = Verdict::ALL.iter().filter(|verdict| self.verdicts.contains(&verdict.label()));
        Rules {
            client: prefix(self.client),
            vip: prefix(host(self.vip)),
            backend: prefix(host(self.backend)),
            verdicts: wanted.fold(0, |bits, verdict| bits | (1 << *verdict as u8)),
            one_in: self.sample,
            n_max: RECORDS_MAX,
            id,
            ..Rules::NONE
        }
    }
}

/// A network, or an address, which is one of its own. What the kernel has as an IPv4 address is written as one.
fn network(text: &str) -> Result<IpNet, String> {
    let network = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    network.map_err(|_| format!("client {text:?}: write an address or a prefix, such as 203.0.113.0/24 or 2001:db8::/32"))
}

fn prefix(network: Option<IpNet>) -> Prefix {
    let Some(network) = network else { return Prefix::ANY };
    let mask = match network.netmask() {
        // All of what says that the address is of IPv4.
        IpAddr::V4(mask) => IpAddr::V6(((u128::MAX << 32) | u128::from(Ipv4Addr::to_bits(mask))).into()),
        mask => mask,
    };
    let IpAddr::V6(mask) = mask else { return Prefix::ANY };
    Prefix { address: Addr::from(network.network()), mask: Addr::from(mask) }
}

/// Verdicts by label or class, with commas between.
fn verdicts(text: &str) -> Result<Vec<&'static str>, String> {
    let mut wanted = Vec::new();
    for word in text.split(',') {
        let is_meant = |verdict: &&Verdict| verdict.label() == word || verdict.class().label() == word;
        let meant: Vec<&str> = Verdict::ALL.iter().filter(is_meant).map(|verdict| verdict.label()).collect();
        if meant.is_empty() {
            let labels: Vec<&str> = Verdict::ALL.iter().map(|verdict| verdict.label()).collect();
            return Err(format!(
                "verdict {word:?} is not known; write forwarded, passed or dropped, or one or more of {}",
                labels.join(",")
            ));
        }
        wanted.extend(meant);
    }
    wanted.dedup();
    Ok(wanted)
}

/// `1/N`, or N alone.
fn one_in(text: &str) -> Result<u32, String> {
    let number = text.strip_prefix("1/").unwrap_or(text);
    let number = number.parse().ok().filter(|n| *n > 0);
    number.ok_or_else(|| format!("sample {text:?}: write 1/N, such as 1/100 for one packet in a hundred"))
}

fn number(key: &str, text: Option<String>, min: u64, max: u64) -> Result<Option<u64>, String> {
    let parse = |text: String| {
        let number = text.parse().ok().filter(|number| (min..=max).contains(number));
        number.ok_or_else(|| format!("{key} {text:?}: write a number, {min} to {max}"))
    };
    text.map(parse).transpose()
}

fn time(text: &str) -> Result<Duration, String> {
    let wrong = || format!("duration {text:?}: write a number and a unit, 100ms to 1h, such as 30s");
    let duration = humantime::parse_duration(text).map_err(|_| wrong())?;
    if (Duration::from_millis(100)..=DURATION_MAX).contains(&duration) { Ok(duration) } else { Err(wrong()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whole() {
        let wish = Wish::read(
            "vip=192.0.2.1&client=203.0.113.9/24&backend=fd00::1&verdict=dropped,tx&sample=1/100&count=5&duration=30s&bytes=64",
        );
        let wish = wish.unwrap();
        assert_eq!((wish.vip, wish.backend), (Some("192.0.2.1".parse().unwrap()), Some("fd00::1".parse().unwrap())));
        assert_eq!((wish.sample, wish.count, wish.duration, wish.bytes), (100, 5, Duration::from_secs(30), 64));
        assert!(wish.verdicts.contains(&"denied") && wish.verdicts.contains(&"tx") && !wish.verdicts.contains(&"redirect"));
        let rules = wish.rules(7);
        assert!(rules.client.has(&Addr::from("203.0.113.77".parse::<IpAddr>().unwrap())), "host bits do not count");
        assert!(!rules.client.has(&Addr::from("203.0.114.77".parse::<IpAddr>().unwrap())));
        assert!(!rules.client.has(&Addr::from("::cb00:714d".parse::<IpAddr>().unwrap())), "the same bits of another family");
        assert!(rules.vip.has(&Addr::from("192.0.2.1".parse::<IpAddr>().unwrap())));
        assert_eq!(rules.verdicts & 0b11, 1);
        assert_eq!((rules.one_in, rules.id, rules.until), (100, 7, 0));
    }

    #[test]
    fn without_a_filter_the_hosts_own_packets_are_left_out() {
        let has_passed = |query: &str| Wish::read(query).unwrap().verdicts.contains(&"not_service");
        assert!(!has_passed("") && !has_passed("backend=10.0.0.1"));
        assert!(has_passed("vip=192.0.2.1") && has_passed("client=10.0.0.0/8") && has_passed("verdict=passed"));
        assert!(Wish::read("").unwrap().rules(1).client.is_any());
    }

    #[test]
    fn each_error_says_what_to_write() {
        for (query, reason) in [
            ("vip=192.0.2.1:80", "vip \"192.0.2.1:80\": write an address"),
            ("client=10.0.0.0/33", "client \"10.0.0.0/33\": write an address or a prefix"),
            ("backend=web", "backend \"web\": write an address"),
            (
                "verdict=tx,lost",
                "verdict \"lost\" is not known; write forwarded, passed or dropped, or one or more of tx,redirect",
            ),
            ("sample=0", "sample \"0\": write 1/N"),
            ("sample=2/3", "sample \"2/3\""),
            ("count=0", "count \"0\": write a number, 1 to 10000000"),
            ("duration=2h", "duration \"2h\": write a number and a unit, 100ms to 1h"),
            ("bytes=257", "bytes \"257\": write a number, 14 to 256"),
            ("port=80", "\"port\" is not known here; there are vip, client"),
            ("count=1&count=2", "count is given twice"),
        ] {
            let error = Wish::read(query).unwrap_err();
            assert!(error.contains(reason), "{query}: {error}");
        }
    }
}
