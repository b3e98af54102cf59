//! Single values: from what TOML has to what it means.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::section::Fault;
use super::suggest::nearest;

/// The longest duration anywhere; far below where adding it to a clock could overflow.
const DURATION_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// What was found instead, for people.
pub(super) fn found(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("the string {:?}", text.as_ref()),
        DeValue::Integer(number) => format!("the number {number}"),
        DeValue::Float(number) => format!("the number {number}"),
        DeValue::Boolean(truth) => truth.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}

fn expected(what: &str, value: &DeValue<'_>, help: impl Into<String>) -> Fault {
    Fault::new(format!("expected {what}, found {}", found(value)), help)
}

pub(super) fn string<'a>(value: &'a DeValue<'_>, what: &str) -> Result<&'a str, Fault> {
    value.as_str().ok_or_else(|| expected(what, value, "write it in double quotes"))
}

pub(super) fn truth(value: &DeValue<'_>) -> Result<bool, Fault> {
    value.as_bool().ok_or_else(|| expected("true or false", value, "write true or false, without quotes"))
}

/// A whole number within `min..=max`.
pub(super) fn integer(value: &DeValue<'_>, min: u32, max: u32) -> Result<u32, Fault> {
    let help = format!("write a whole number from {min} to {max}, without quotes");
    let Some(number) = value.as_integer() else { return Err(expected("a whole number", value, help)) };
    // Whatever does not parse is out of any bound: TOML's integers may be of any size and sign.
    match u32::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) if (min..=max).contains(&number) => Ok(number),
        _ => Err(expected(&format!("a whole number from {min} to {max}"), value, help)),
    }
}

pub(super) fn number_u16(value: &DeValue<'_>, min: u16) -> Result<u16, Fault> {
    // The bounds keep it within 16 bits.
    integer(value, min.into(), u16::MAX.into()).map(|number| u16::try_from(number).unwrap_or(u16::MAX))
}

/// A number within `min..=max` hundredths, in hundredths.
pub(super) fn hundredths(value: &DeValue<'_>, min: u16, max: u16) -> Result<u16, Fault> {
    let bounds = format!("from {} to {}", f64::from(min) / 100.0, f64::from(max) / 100.0);
    let help = format!("write a number {bounds}, without quotes, with two decimals at most");
    let text = value.as_integer().map(|number| number.as_str()).or(value.as_float().map(|number| number.as_str()));
    let Some(text) = text else { return Err(expected("a number", value, help)) };
    let number = text.replace('_', "").parse::<f64>().unwrap_or(f64::NAN) * 100.0;
    let is_whole = (number - number.round()).abs() < 1e-6;
    if is_whole && (f64::from(min)..=f64::from(max)).contains(&number) {
        Ok(number.round() as u16)
    } else {
        Err(expected(&format!("a number {bounds}"), value, help))
    }
}

/// A share in whole percent, as `"50%"`, from `min` on.
pub(super) fn percent(value: &DeValue<'_>, min: u8, example: &str) -> Result<u8, Fault> {
    let number = value.as_str().and_then(|text| text.strip_suffix('%')?.trim_end().parse().ok());
    match number {
        Some(number) if (min..=100).contains(&number) => Ok(number),
        _ => {
            let label = format!("expected {min}% to 100%, found {}", found(value));
            Err(Fault::new(label, format!("write it as {example}")))
        }
    }
}

/// One word of a fixed choice.
pub(super) fn one_of<T: Copy>(value: &DeValue<'_>, choices: &[(&str, T)]) -> Result<T, Fault> {
    let words = || choices.iter().map(|(word, _)| *word);
    let found = value.as_str().unwrap_or_default();
    if let Some((_, choice)) = choices.iter().find(|(word, _)| *word == found) {
        return Ok(*choice);
    }
    let help = match nearest(found, words()) {
        Some(word) => format!("did you mean \"{word}\"?"),
        None => format!("write {}", words().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(" or ")),
    };
    Err(expected(&format!("one of {}", words().collect::<Vec<_>>().join(", ")), value, help))
}

/// A duration with its unit, at least `min`.
pub(super) fn duration(value: &DeValue<'_>, min: Duration) -> Result<Duration, Fault> {
    const WHAT: &str = "a duration with its unit";
    const HELP: &str = "write a number and a unit in quotes, such as \"500ms\", \"2s\" or \"1m 30s\"";
    if let Some(number) = value.as_integer() {
        let help = format!("a bare number has no unit: write \"{number}s\" for seconds, or \"{number}ms\"");
        return Err(expected(WHAT, value, help));
    }
    let text = string(value, WHAT).map_err(|fault| Fault::new(fault.label, HELP))?;
    let duration = humantime::parse_duration(text).map_err(|reason| Fault::new(format!("expected {WHAT}: {reason}"), HELP))?;
    if !(min..=DURATION_MAX).contains(&duration) {
        let (min, max) = (humantime::format_duration(min), humantime::format_duration(DURATION_MAX));
        return Err(Fault::new("out of bounds", format!("write a duration from \"{min}\" to \"{max}\"")));
    }
    Ok(duration)
}

/// An address that packets can be sent to.
pub(super) fn host_address(value: &DeValue<'_>) -> Result<IpAddr, Fault> {
    const WHAT: &str = "an IPv4 or IPv6 address";
    let text = string(value, WHAT)?;
    let address: IpAddr = text.parse().map_err(|_| {
        let is_of_numbers = !text.is_empty() && text.chars().all(|letter| letter.is_ascii_digit() || letter == '.');
        let help = match text {
            _ if text.contains('/') => "leave out the prefix length",
            _ if text.parse::<SocketAddr>().is_ok() => "leave out the port here: it has a key of its own",
            _ if is_of_numbers => "write four numbers from 0 to 255, such as \"192.0.2.1\"",
            _ if text.contains(':') => "write eight groups of hexadecimal digits, or fewer with `::`, such as \"2001:db8::1\"",
            _ => "names are not resolved here: write the address; only backends can have names, by [service.dns]",
        };
        expected(WHAT, value, help)
    })?;
    match unusable(address) {
        Some(reason) => Err(Fault::new(reason, "use a unicast address that routers and hosts can reach")),
        None => Ok(address),
    }
}

/// Why no packets from elsewhere can reach an address, if so.
pub(crate) fn unusable(address: IpAddr) -> Option<&'static str> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let (link_local, mapped) = match address {
        IpAddr::V4(_) => (false, false),
        IpAddr::V6(v6) => (v6.is_unicast_link_local(), v6.to_ipv4_mapped().is_some()),
    };
    match address {
        _ if address.is_unspecified() => Some("this is the unspecified address"),
        _ if address.is_loopback() => Some("this is a loopback address: it never leaves a machine"),
        _ if address.is_multicast() => Some("this is a multicast address"),
        _ if broadcast => Some("this is the broadcast address"),
        _ if link_local => Some("this is a link-local address: it means nothing without an interface"),
        _ if mapped => Some("this is an IPv4 address mapped into IPv6: write it as IPv4"),
        _ => None,
    }
}

/// `ADDRESS:PORT`; the port may be left out if there is a `default_port`.
pub(super) fn socket_address(value: &DeValue<'_>, default_port: Option<u16>, example: &str) -> Result<SocketAddr, Fault> {
    let what = if default_port.is_some() { "an address, with or without a port" } else { "an address and port" };
    let text = string(value, what)?;
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    match (text.parse::<IpAddr>(), default_port) {
        (Ok(ip), Some(port)) => Ok(SocketAddr::new(ip, port)),
        _ => Err(expected(what, value, format!("write it as \"{example}\""))),
    }
}

pub(super) fn absolute_path(value: &DeValue<'_>) -> Result<PathBuf, Fault> {
    let path = PathBuf::from(string(value, "an absolute path")?);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Fault::new("expected an absolute path", "the daemon's working directory is not yours: begin with `/`"))
}

/// The name of a network interface, under the kernel's rules (`dev_valid_name`).
pub(super) fn interface(value: &DeValue<'_>) -> Result<String, Fault> {
    // IFNAMSIZ is 16, with the terminating zero.
    const LENGTH_MAX: usize = 15;
    let name = string(value, "the name of an interface")?;
    let forbidden = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name == "." || name == ".." || name.contains(forbidden) {
        return Err(Fault::new("no interface can have this name", "`ip link` lists the interfaces of this machine"));
    }
    if name.len() > LENGTH_MAX {
        let label = format!("{} bytes, but Linux's names of interfaces have at most {LENGTH_MAX}", name.len());
        return Err(Fault::new(label, "`ip link` lists the interfaces of this machine"));
    }
    Ok(name.to_owned())
}

/// A service's name, which stands in metrics, logs and URLs.
pub(super) fn service_name(value: &DeValue<'_>) -> Result<String, Fault> {
    name(string(value, "a name")?, "service").map(str::to_owned)
}

/// What can name a `whose`, and be a label of metrics.
pub(super) fn name<'n>(name: &'n str, whose: &str) -> Result<&'n str, Fault> {
    const LENGTH_MAX: usize = 63;
    const HELP: &str = "use 1 to 63 letters, digits, `-`, `_` and `.`";
    if let Some(c) = name.chars().find(|c| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))) {
        return Err(Fault::new(format!("{c:?} cannot stand in a {whose}'s name"), HELP));
    }
    if name.is_empty() || name.len() > LENGTH_MAX {
        return Err(Fault::new(format!("{} characters", name.len()), HELP));
    }
    Ok(name)
}

/// A DNS name, absolute or not (RFC 1035 section 2.3.4 for the lengths).
pub(super) fn dns_name(value: &DeValue<'_>) -> Result<String, Fault> {
    let name = string(value, "a DNS name")?;
    let label_fits = |label: &str| {
        (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    let labels = name.strip_suffix('.').unwrap_or(name);
    if labels.len() > 253 || !labels.split('.').all(label_fits) {
        let help = "labels of 1 to 63 letters, digits, `-` and `_`, with dots between, such as \"api.internal\"";
        return Err(Fault::new("not a DNS name", help));
    }
    if name.parse::<IpAddr>().is_ok() {
        return Err(Fault::new("this is an address, not a name", "write addresses as [[service.backend]]"));
    }
    Ok(name.to_owned())
}
