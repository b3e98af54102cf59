//! What checks over HTTP have of their own.

use std::ops::RangeInclusive;

use hyper::header::HeaderValue;
use hyper::http::uri::PathAndQuery;
use toml::de::DeValue;

use crate::config::report::Problems;
use crate::config::section::{Fault, Section};
use crate::config::values;
use crate::health::Http;

pub(super) fn read(section: &mut Section<'_>, problems: &mut Problems) -> Option<Http> {
    let path = section.or("path", "/".to_owned(), problems, path);
    let host = section.or("host", None, problems, |value| host(value).map(Some));
    let expect = section.or("expect", Http::EXPECT_DEFAULT, problems, statuses);
    Some(Http { path: path?.value, host: host?.value, expect: expect?.value })
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
