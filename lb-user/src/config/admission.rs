//! `[admission]` and `[service.admission]`: who may send to VIPs.

use std::path::PathBuf;

use ipnet::IpNet;
use toml::de::DeValue;

use super::report::{Problem, Problems};
use super::section::{Fault, Section};
use super::values;
use crate::admission::{List, Lists, Rules, prefix};

/// The section's two forms, as the file writes them.
pub(super) const ALL_VIPS: &str = "[admission]";
pub(super) const OF_SERVICE: &str = "[service.admission]";

/// The rules of a section; files are not read yet.
pub(super) fn rules(mut section: Section<'_>, place: &'static str, problems: &mut Problems) -> Option<Rules> {
    let mut faults = Vec::new();
    let deny = list(&mut section, ["deny", "deny_files"], place, &mut faults, problems);
    let allow = list(&mut section, ["allow", "allow_files"], place, &mut faults, problems);
    section.finish(problems);
    let is_sound = faults.is_empty();
    faults.into_iter().for_each(|problem| problems.push(problem));
    let (deny, allow) = (deny?, allow?);
    is_sound.then(|| Rules { lists: Lists::new(deny, allow).into() })
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
