//! `[admission]` and `[service.admission]`: who may send to VIPs.

use std::path::PathBuf;

use ipnet::IpNet;
use lb_common::meter::{self, Limit, METERS};
use toml::de::DeValue;

use super::report::{Problem, Problems};
use super::section::{Fault, Section};
use super::values;
use crate::admission::{Limits, List, Lists, Rules, prefix};

/// The section's two forms, as the file writes them.
pub(super) const ALL_VIPS: &str = "[admission]";
pub(super) const OF_SERVICE: &str = "[service.admission]";

/// The rules of a section; files are not read yet.
pub(super) fn rules(mut section: Section<'_>, place: &'static str, problems: &mut Problems) -> Option<Rules> {
    let mut faults = Vec::new();
    let deny = list(&mut section, ["deny", "deny_files"], place, &mut faults, problems);
    let allow = list(&mut section, ["allow", "allow_files"], place, &mut faults, problems);
    let limits = limits(&mut section, place, &mut faults, problems);
    section.finish(problems);
    let is_sound = faults.is_empty();
    faults.into_iter().for_each(|problem| problems.push(problem));
    let (deny, allow, limits) = (deny?, allow?, limits?);
    is_sound.then(|| Rules { lists: Lists::new(deny, allow).into(), limits })
}

/// A second in units of the packet path's time.
const SECOND: u64 = 1_000_000_000 >> meter::TIME_SHIFT;

/// Less than this the packet path's clock does not tell apart: 10 ms.
const CLOCK_STEP: u64 = SECOND / 100;

/// What comes in 15 minutes is the largest burst.
const BURST_TIME_MAX: u64 = 15 * 60 * SECOND;
const _: () = assert!(BURST_TIME_MAX <= meter::AHEAD_MAX);

/// A small rate lets as many pass at once as this, unless the file says otherwise.
const BURST_MIN_DEFAULT: u64 = 10;

const KEYS: [[&str; 2]; METERS] = [
    ["source_packets", "source_packets_burst"],
    ["source_connections", "source_connections_burst"],
    ["packets", "packets_burst"],
    ["connections", "connections_burst"],
];

fn limits(section: &mut Section<'_>, place: &'static str, faults: &mut Vec<Problem>, problems: &mut Problems) -> Option<Limits> {
    let mut limits = [Some(Limit::default()); METERS];
    for (limit, keys) in limits.iter_mut().zip(KEYS) {
        *limit = self::limit(section, keys, place, faults, problems);
    }
    let default = Limits::default();
    let bits = |section: &mut Section<'_>, key, default: u8, max: u32, problems: &mut Problems| {
        let bits = section.or(key, default.into(), problems, |value| values::integer(value, 1, max))?;
        Some(u8::try_from(bits.value).unwrap_or(default))
    };
    let source_bits_v4 = bits(section, "source_v4", default.source_bits_v4, 32, problems);
    let source_bits_v6 = bits(section, "source_v6", default.source_bits_v6, 64, problems);
    let limits: Option<Vec<Limit>> = limits.into_iter().collect();
    let limits = limits?.try_into().unwrap_or_default();
    Some(Limits { limits, source_bits_v4: source_bits_v4?, source_bits_v6: source_bits_v6? })
}

/// A rate and its burst.
fn limit(
    section: &mut Section<'_>,
    [rate_key, burst_key]: [&'static str; 2],
    place: &'static str,
    faults: &mut Vec<Problem>,
    problems: &mut Problems,
) -> Option<Limit> {
    let interval = section.or(rate_key, 0, problems, rate)?;
    let given = section.or(burst_key, None, problems, |value| values::integer(value, 1, u32::MAX).map(Some))?;
    let interval_units = u64::from(interval.value);
    if interval_units == 0 {
        if given.value.is_some() {
            let fault = Fault::new("a burst without a rate", format!("remove it, or add `{rate_key} = \"100/s\"`"));
            faults.push(fault.at(burst_key, place, given.span));
        }
        return Some(Limit::default());
    }
    let default = (SECOND / interval_units).max(BURST_MIN_DEFAULT);
    let burst = given.value.unwrap_or(u32::try_from(default).unwrap_or(u32::MAX));
    let (least, most) = (CLOCK_STEP.div_ceil(interval_units).max(1), BURST_TIME_MAX / interval_units);
    if !(least..=most).contains(&burst.into()) {
        let label = if u64::from(burst) < least {
            "less than what comes at this rate in 10 ms, the least that the packet path's clock tells apart"
        } else {
            "more than what comes at this rate in 15 minutes"
        };
        faults.push(Fault::new(label, format!("write a number from {least} to {most}")).at(burst_key, place, given.span));
    }
    Some(Limit { interval: interval.value, burst })
}

/// The time between two at a rate such as "100/s", in units of the packet path's time.
fn rate(value: &DeValue<'_>) -> Result<u32, Fault> {
    const HELP: &str = "write \"100/s\" for a hundred a second, or \"30/m\" for thirty a minute: from \"4/m\" to \"10000000/s\"";
    let text = values::string(value, "a rate").map_err(|fault| Fault::new(fault.label, HELP))?;
    let wrong = || Fault::new(format!("expected a rate, found {text:?}"), HELP);
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let number: u64 = number.trim().parse().map_err(|_| wrong())?;
    let per = match unit.trim() {
        "s" => SECOND,
        "m" => 60 * SECOND,
        _ => return Err(wrong()),
    };
    let interval = per.checked_div(number).and_then(|interval| u32::try_from(interval).ok());
    // Below 25 units, rounding to whole ones would be felt.
    interval.filter(|&interval| interval >= 25).ok_or_else(|| Fault::new("out of bounds", HELP))
}

fn list(
    section: &mut Section<'_>,
    [inline, files]: [&'static str; 2],
    place: &'static str,
    faults: &mut Vec<Problem>,
    problems: &mut Problems,
) -> Option<List> {
    let prefixes = section.or(inline, Vec::new(), problems, |value| {
        elements(value, "prefixes", "[\"10.0.0.0/8\", \"2001:db8::/32\"]", inline, place, faults, |element| {
            let text = values::string(element, "a prefix")?;
            prefix(text).map_err(|what| Fault::new(what, "write a prefix such as \"203.0.113.0/24\", or a single address"))
        })
    });
    let files = section.or(files, Vec::new(), problems, |value| {
        elements(value, "paths", "[\"/etc/xlb/deny.txt\"]", files, place, faults, values::absolute_path)
    });
    let (prefixes, files): (Vec<IpNet>, Vec<PathBuf>) = (prefixes?.value, files?.value);
    Some(List::new(prefixes, files))
}

/// The usable elements of a list; each of the others is a problem at its own place.
fn elements<'a, T>(
    value: &DeValue<'a>,
    what: &str,
    example: &str,
    key: &'static str,
    place: &'static str,
    faults: &mut Vec<Problem>,
    read: impl Fn(&DeValue<'a>) -> Result<T, Fault>,
) -> Result<Vec<T>, Fault> {
    let array = value.as_array().ok_or_else(|| {
        let label = format!("expected a list of {what}, found {}", values::found(value));
        Fault::new(label, format!("write a list, even of one: `{key} = {example}`"))
    })?;
    let mut found = Vec::new();
    for element in array.iter() {
        match read(element.get_ref()) {
            Ok(element) => found.push(element),
            Err(fault) => faults.push(fault.at(key, place, element.span())),
        }
    }
    if array.is_empty() && key.starts_with("allow") {
        // Nobody and everybody are too far apart to guess.
        return Err(Fault::new("an empty list", format!("name who is allowed, or remove `{key}` to allow all")));
    }
    Ok(found)
}
