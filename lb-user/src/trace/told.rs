//! A record, told by names.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use lb_common::admission::Rule;
use lb_common::trace::{How, Record};
use lb_common::verdict::Verdict;
use serde::Serialize;

use super::Summary;
use crate::desired::ServiceName;
use crate::status::Snapshot;

/// What the packet path's numbers are called.
#[derive(Debug, Default)]
pub struct Names {
    services: BTreeMap<u16, ServiceName>,
    backends: BTreeMap<u16, SocketAddr>,
    interfaces: BTreeMap<u32, String>,
}

impl Names {
    pub fn of(snapshot: &Snapshot) -> Self {
        let mut names = Self::default();
        for service in &snapshot.services {
            names.services.extend(service.id.map(|id| (id, service.name.clone())));
            let there = service.backends.iter().filter_map(|backend| Some((backend.id?.0, backend.endpoint)));
            names.backends.extend(there);
            names.backends.extend(service.leaving.iter().map(|backend| (backend.id.0, backend.endpoint)));
        }
        names.interfaces.extend(snapshot.interfaces.iter().map(|interface| (interface.ifindex, interface.name.clone())));
        names
    }

    /// Whether a record has a number that is not known.
    pub fn lack(&self, record: &Record) -> bool {
        let lacks_service = record.service != 0 && !self.services.contains_key(&record.service);
        lacks_service || (record.backend != 0 && !self.backends.contains_key(&record.backend))
    }

    fn interface(&self, ifindex: u32) -> Option<String> {
        self.interfaces.get(&ifindex).cloned().or_else(|| crate::daemon::interface_name(ifindex))
    }
}

/// The wall clock by the monotonic one, at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    wall: SystemTime,
    monotonic: Duration,
}

impl Clock {
    pub fn now() -> Self {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        Self { wall: SystemTime::now(), monotonic: Duration::new(time.tv_sec as u64, time.tv_nsec as u32) }
    }

    /// When that was.
    fn at(&self, monotonic_ns: u64) -> SystemTime {
        let then = Duration::from_nanos(monotonic_ns);
        let wall = match then.checked_sub(self.monotonic) {
            Some(later) => self.wall.checked_add(later),
            None => self.wall.checked_sub(self.monotonic.saturating_sub(then)),
        };
        wall.unwrap_or(self.wall)
    }
}

/// One packet, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Told {
    /// RFC 3339, UTC.
    pub at: String,
    pub interface: Option<String>,
    pub ifindex: u32,
    pub packet: Summary,
    /// Of the frame, in bytes.
    pub length: u32,
    pub service: Option<ServiceName>,
    pub backend: Option<SocketAddr>,
    /// Why it is this backend.
    pub how: Option<&'static str>,
    /// Among the service's slots.
    pub slot: Option<u32>,
    pub refused: Option<Refused>,
    pub verdict: &'static str,
    /// `forwarded`, `passed` or `dropped`.
    pub class: &'static str,
    /// The verdict in a sentence.
    pub meaning: &'static str,
    /// How it leaves, if it does.
    pub left: Option<Left>,
    /// The beginning of the frame as it came, in base64.
    pub bytes: String,
}

/// A rule of admission that a packet did not pass.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Refused {
    /// The service whose rule it is; `None` for one of all VIPs.
    pub service: Option<ServiceName>,
    pub rule: &'static str,
}

/// A packet as it leaves.
#[derive(Clone, Debug, Serialize)]
pub struct Left {
    /// `None` where the kernel's routing sends it.
    pub interface: Option<String>,
    pub packet: Summary,
    pub length: u32,
    pub bytes: String,
}

impl Told {
    /// `None` of a record that is of no version of this packet path.
    pub fn new(record: &Record, names: &Names, clock: Clock, n_bytes: usize) -> Option<Self> {
        let verdict = Verdict::from_number(record.verdict)?;
        let (came, left) = (record.came(), record.left());
        let encoded = |bytes: &[u8]| STANDARD.encode(&bytes[..bytes.len().min(n_bytes)]);
        let is_refused = matches!(verdict, Verdict::Denied | Verdict::Limited);
        let rule = Rule::ALL.get(usize::from(record.rule)).filter(|_| is_refused);
        Some(Self {
            at: humantime::format_rfc3339_nanos(clock.at(record.at_ns)).to_string(),
            interface: names.interface(record.ingress),
            ifindex: record.ingress,
            packet: Summary::of_frame(came),
            length: record.frame_len,
            service: names.services.get(&record.service).cloned(),
            backend: names.backends.get(&record.backend).copied(),
            how: how(record.how),
            slot: has_slot(record.how).then_some(record.slot_index),
            refused: rule.map(|rule| Refused { service: names.services.get(&record.scope).cloned(), rule: rule.label() }),
            verdict: verdict.label(),
            class: verdict.class().label(),
            meaning: verdict.explanation().trim(),
            left: (!left.is_empty()).then(|| Left {
                interface: if record.egress == 0 { None } else { names.interface(record.egress) },
                packet: Summary::of_frame(left),
                length: record.frame_left_len,
                bytes: encoded(left),
            }),
            bytes: encoded(came),
        })
    }
}

/// A word for it, as `xlb explain` has for its reasons.
fn how(how: How) -> Option<&'static str> {
    Some(match how {
        How::AT_REST => "at_rest",
        How::ON_RECORD => "on_record",
        How::NEW => "new_connection",
        How::CHOSEN => "chosen",
        How::SETTLED => "settled",
        How::CURRENT => "current",
        How::FRAGMENT => "fragment",
        How::REPLY => "reply",
        How::CONNECTION_ID => "connection_id",
        _ => return None,
    })
}

fn has_slot(how: How) -> bool {
    !matches!(how, How::NOT | How::FRAGMENT | How::REPLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_the_time_of_the_wall_clock() {
        let clock =
            Clock { wall: SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045), monotonic: Duration::from_secs(500) };
        let record = |at_ns| Record { at_ns, ..Record::default() };
        let at = |at_ns| Told::new(&record(at_ns), &Names::default(), clock, 0).unwrap().at;
        assert_eq!(at(499_999_999_000), "2026-01-02T03:04:04.999999000Z");
        assert_eq!(at(501_000_000_000), "2026-01-02T03:04:06.000000000Z");
        assert_eq!(at(0), "2026-01-02T02:55:45.000000000Z");
    }

    #[test]
    fn only_what_was_refused_has_a_rule_and_only_what_left_has_left() {
        let told = |record: &Record| Told::new(record, &Names::default(), Clock::now(), 64);
        let mut record = Record { verdict: Verdict::Denied as u8, rule: Rule::Allow as u8, came_len: 9, ..Record::default() };
        let refused = told(&record).unwrap();
        assert_eq!(refused.refused, Some(Refused { service: None, rule: Rule::Allow.label() }));
        assert!(refused.left.is_none() && refused.how.is_none() && refused.slot.is_none());
        (record.verdict, record.how, record.slot_index, record.left_len) = (Verdict::Tx as u8, How::AT_REST, 7, 80);
        let sent = told(&record).unwrap();
        assert_eq!((sent.refused, sent.how, sent.slot), (None, Some("at_rest"), Some(7)));
        assert_eq!(STANDARD.decode(sent.left.unwrap().bytes).unwrap().len(), 64);
        record.verdict = 200;
        assert!(told(&record).is_none());
    }
}
