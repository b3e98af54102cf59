//! `[service.health]`

use std::ops::RangeInclusive;
use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::http::uri::PathAndQuery;
use toml::de::DeValue;

use super::report::{Problem, Problems};
use super::section::{At, Fault, Section};
use super::values;
use crate::desired::Protocol;
use crate::health::{Check, Probe};

/// Below this, the probes of a few thousand backends leave no time for anything else.
const INTERVAL_MIN: Duration = Duration::from_millis(10);
/// Twice the granularity of the timers.
const TIMEOUT_MIN: Duration = Duration::from_millis(2);
/// More in a row than anyone waits for.
const STREAK_MAX: u32 = 1000;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Http,
}

const KINDS: [(&str, Kind); 3] = [("http", Kind::Http), ("tcp", Kind::Tcp), ("none", Kind::None)];

/// The check of a service without `[service.health]`: a TCP service's backends must accept connections; whether UDP is
/// served cannot be told without knowing what is spoken.
pub(super) fn default(protocol: Protocol) -> Check {
    let probe = match protocol {
        Protocol::Tcp => Probe::Tcp,
        Protocol::Udp => Probe::None,
    };
    Check { probe, ..Check::default() }
}

/// The check that the section asks for. `None` after reporting what is wrong with it.
pub(super) fn read(mut section: Section<'_>, protocol: Protocol, problems: &mut Problems) -> Option<Check> {
    let default_kind = if default(protocol).probe == Probe::None { Kind::None } else { Kind::Tcp };
    let kind = section.or("type", default_kind, problems, |value| values::one_of(value, &KINDS));
    let port = section.or("port", None, problems, |value| values::number_u16(value, 1).map(Some));
    let probe = probe(&mut section, kind.as_ref().map(|kind| kind.value), problems);

    let fallback = Check::default();
    let interval_given = section.has("interval");
    let interval = section.or("interval", fallback.interval, problems, |value| values::duration(value, INTERVAL_MIN));
    // A short interval shortens the time-out with it, so that `interval = "50ms"` alone is a whole wish.
    let timeout_default = interval.as_ref().map_or(fallback.timeout, |interval| fallback.timeout.min(interval.value));
    let timeout = section.or("timeout", timeout_default, problems, |value| values::duration(value, TIMEOUT_MIN));
    let rise = section.or("rise", fallback.rise, problems, |value| values::integer(value, 1, STREAK_MAX));
    let fall = section.or("fall", fallback.fall, problems, |value| values::integer(value, 1, STREAK_MAX));
    section.finish(problems);

    let (interval, timeout) = (interval?, timeout?);
    if timeout.value > interval.value {
        problems.push(timeout_beyond_interval(&interval, interval_given, timeout));
        return None;
    }
    Some(Check {
        probe: probe?,
        port: port?.value,
        interval: interval.value,
        timeout: timeout.value,
        rise: rise?.value,
        fall: fall?.value,
    })
}

fn timeout_beyond_interval(interval: &At<Duration>, given: bool, timeout: At<Duration>) -> Problem {
    let (shown_timeout, shown_interval) = (humantime::format_duration(timeout.value), humantime::format_duration(interval.value));
    Problem::new(
        format!("a health check's timeout of {shown_timeout} is longer than its interval of {shown_interval}"),
        timeout.span,
        "longer than the interval",
    )
    .and(interval.span.clone(), if given { "the interval" } else { "the interval, by default, is 1s" })
    .help(format!("a probe must end before the next begins: write a timeout of at most \"{shown_interval}\""))
}

/// The keys of `http` checks are errors in a `tcp` check, where they would do nothing. A check of type `none` may keep
/// everything: that is how a check is switched off for a while.
fn probe(section: &mut Section<'_>, kind: Option<Kind>, problems: &mut Problems) -> Option<Probe> {
    let given = ["path", "host", "expect"].into_iter().find(|key| section.has(key));
    let path = section.or("path", "/".to_owned(), problems, path);
    let host = section.or("host", None, problems, |value| host(value).map(Some));
    let expect = section.or("expect", Probe::EXPECT_DEFAULT, problems, statuses);
    match kind? {
        Kind::None => Some(Probe::None),
        Kind::Tcp => match given {
            None => Some(Probe::Tcp),
            Some(key) => {
                problems.push(
                    Problem::new(format!("a tcp check has no `{key}`"), section.span.clone(), "of type tcp")
                        .help(format!("write `type = \"http\"`, or remove `{key}`")),
                );
                None
            }
        },
        Kind::Http => Some(Probe::Http { path: path?.value, host: host?.value, expect: expect?.value }),
    }
}

fn path(value: &DeValue<'_>) -> Result<String, Fault> {
    let path = values::string(value, "a path")?;
    if !path.starts_with('/') {
        return Err(Fault::new("an HTTP path begins with `/`", format!("write \"/{path}\"")));
    }
    if path.contains('#') || path.parse::<PathAndQuery>().is_err() {
        return Err(Fault::new("not a path that can be asked for", "percent-encode spaces and the like"));
    }
    Ok(path.to_owned())
}

fn host(value: &DeValue<'_>) -> Result<String, Fault> {
    let host = values::string(value, "the value of a Host header")?;
    let usable = !host.is_empty() && HeaderValue::from_str(host).is_ok() && host.is_ascii() && !host.contains(' ');
    if usable { Ok(host.to_owned()) } else { Err(Fault::new("no host has this name", "write it as \"www.example.org\"")) }
}

/// One status, or a range of them.
fn statuses(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Fault> {
    const HELP: &str = "write 200, or a range such as \"200-399\"";
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (200..=599).contains(status));
    let range = match value {
        DeValue::Integer(number) => status(number.as_str()).map(|status| status..=status),
        DeValue::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            status(first).zip(status(last)).map(|(first, last)| first..=last)
        }
        _ => None,
    };
    range.filter(|range| !range.is_empty()).ok_or_else(|| Fault::new("expected HTTP statuses from 200 to 599", HELP))
}
