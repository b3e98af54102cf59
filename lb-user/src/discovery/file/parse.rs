//! The two formats of files with backends. Pure.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;
use serde::de::{Deserializer, Error, IgnoredAny, MapAccess, Unexpected, Visitor};

use crate::config::{File, FileFormat};
use crate::discovery::found::{Found, Host};

/// Why a file is refused, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// From 1.
    line: usize,
    /// From 1.
    column: usize,
    message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.line, self.column, self.message)
    }
}

/// All hosts in a file's text.
///
/// # Errors
/// Where it does not hold what its format asks for. A file without text is no list of nobody: somebody is about to write it.
pub(super) fn parse(file: &File, text: &str) -> Result<Found, Fault> {
    if text.trim().is_empty() {
        let empty = if file.format == FileFormat::Json { "[]" } else { "backend = []" };
        return Err(Fault { line: 1, column: 1, message: format!("the file is empty; for no backends, write `{empty}`") });
    }
    let hosts = match file.format {
        FileFormat::Json => json(file, text)?,
        FileFormat::Toml => toml(file, text)?,
    };
    Ok(Found { hosts, unread: Vec::new() })
}

/// Prometheus' `file_sd_configs`: a list of groups, each of targets and the labels that they share.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Group {
    targets: Vec<Target>,
    #[serde(default)]
    labels: Labels,
}

/// `ADDRESS:PORT` or `ADDRESS`.
struct Target {
    address: IpAddr,
    port: Option<u16>,
}

/// Of all labels, what xlb knows.
#[derive(Default)]
struct Labels {
    weight: Option<u16>,
}

/// Prometheus drops labels that begin with `__` before it stores anything, so that one file can serve both.
const WEIGHT_LABELS: [&str; 2] = ["weight", "__xlb_weight__"];

fn json(file: &File, text: &str) -> Result<Vec<Host>, Fault> {
    let groups: Vec<Group> = serde_json::from_str(text).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let said = error.to_string();
        let place = format!(" at line {line} column {column}");
        Fault { line: line.max(1), column: column.max(1), message: said.strip_suffix(&place).unwrap_or(&said).to_owned() }
    })?;
    let hosts = groups.into_iter().flat_map(|group| {
        let weight = group.labels.weight.unwrap_or(file.weight);
        let host = move |Target { address, port }| Host { address, port: port.unwrap_or(file.port), weight, priority: 0 };
        group.targets.into_iter().map(host)
    });
    Ok(hosts.collect())
}

impl<'de> Deserialize<'de> for Target {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Target;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address and port, such as \"10.0.1.1:8080\" (names are not resolved here)")
            }

            // Within the visit the error gets its place.
            fn visit_str<E: Error>(self, text: &str) -> Result<Target, E> {
                if let Ok(endpoint) = text.parse::<SocketAddr>() {
                    return Ok(Target { address: endpoint.ip(), port: Some(endpoint.port()) });
                }
                match text.parse() {
                    Ok(address) => Ok(Target { address, port: None }),
                    Err(_) => Err(E::invalid_value(Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("labels: an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Labels::default();
                while let Some(key) = map.next_key::<String>()? {
                    if WEIGHT_LABELS.contains(&key.as_str()) {
                        labels.weight = Some(map.next_value::<Weight>()?.0);
                    } else {
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(labels)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// A label's value is text, though it be a number.
struct Weight(u16);

impl<'de> Deserialize<'de> for Weight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Weight;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a weight from \"0\" to \"65535\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Weight, E> {
                text.parse().map(Weight).map_err(|_| E::invalid_value(Unexpected::Str(text), &self))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Weight, E> {
                number.try_into().map(Weight).map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    backend: Vec<Entry>,
}

/// As a backend stands in xlb's own configuration.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    address: IpAddr,
    port: Option<u16>,
    weight: Option<u16>,
}

fn toml(file: &File, text: &str) -> Result<Vec<Host>, Fault> {
    let document: Document = ::toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        let before = text.get(..at).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().map_or(0, |rest| rest.chars().count()) + 1;
        Fault { line, column, message: error.message().replace('\n', ", ") }
    })?;
    let host = |Entry { address, port, weight }| Host {
        address,
        port: port.unwrap_or(file.port),
        weight: weight.unwrap_or(file.weight),
        priority: 0,
    };
    Ok(document.backend.into_iter().map(host).collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::config::Trust;

    fn file(format: FileFormat) -> File {
        let trust = Trust { stale: None, min_hosts: 0 };
        File { path: "/x".into(), format, port: 80, weight: 1, interval: Duration::from_secs(1), trust }
    }

    fn check(format: FileFormat, text: &str, expected: Expect) {
        let said = match parse(&file(format), text) {
            Ok(found) => {
                let hosts = found.hosts.iter();
                hosts.map(|host| format!("{} {} weight {}", host.address, host.port, host.weight)).collect::<Vec<_>>().join("\n")
            }
            Err(fault) => fault.to_string(),
        };
        expected.assert_eq(&said);
    }

    #[test]
    fn a_list_for_prometheus_gives_targets_with_their_groups_weight() {
        let text = r#"[
            { "targets": ["10.0.0.1:8080", "10.0.0.2"], "labels": { "job": "api", "weight": "5" } },
            { "targets": ["[2001:db8::1]:80", "2001:db8::2"], "labels": { "__xlb_weight__": "0", "n": 3 } },
            { "targets": ["10.0.0.3:1"] },
            { "targets": [], "labels": {} }
        ]"#;
        check(
            FileFormat::Json,
            text,
            expect![[r#"
                10.0.0.1 8080 weight 5
                10.0.0.2 80 weight 5
                2001:db8::1 80 weight 0
                2001:db8::2 80 weight 0
                10.0.0.3 1 weight 1"#]],
        );
        check(FileFormat::Json, "[]", expect![""]);
    }

    #[test]
    fn a_list_in_toml_gives_backends_as_the_configuration_writes_them() {
        let text = "[[backend]]\naddress = \"10.0.0.1\"\nport = 8080\nweight = 5\n[[backend]]\naddress = \"2001:db8::1\"\n";
        check(
            FileFormat::Toml,
            text,
            expect![[r#"
                10.0.0.1 8080 weight 5
                2001:db8::1 80 weight 1"#]],
        );
        check(FileFormat::Toml, "# Nobody.\nbackend = []\n", expect![""]);
    }

    #[test]
    fn what_is_wrong_with_json_is_told_with_its_place() {
        for (text, expected) in [
            ("", expect!["1:1: the file is empty; for no backends, write `[]`"]),
            ("[\n{ \"targets\": [\"10.0.0.1:80\",", expect!["2:28: EOF while parsing a value"]),
            (
                "[\n{ \"targets\": [\"10.0.0.1:80\",\n\"web.internal:80\"] }]",
                expect![[
                    r#"3:17: invalid value: string "web.internal:80", expected an address and port, such as "10.0.1.1:8080" (names are not resolved here)"#
                ]],
            ),
            (
                "[{ \"targets\": [\"10.0.0.1:80\"], \"labels\": { \"weight\": \"many\" } }]",
                expect![[r#"1:59: invalid value: string "many", expected a weight from "0" to "65535""#]],
            ),
            (
                "[{ \"targets\": [\"10.0.0.1:80\"], \"labels\": { \"weight\": 65536 } }]",
                expect![[r#"1:58: invalid value: integer `65536`, expected a weight from "0" to "65535""#]],
            ),
            ("[{ \"target\": [\"10.0.0.1:80\"] }]", expect!["1:11: unknown field `target`, expected `targets` or `labels`"]),
            ("{ \"targets\": [] }", expect!["1:1: invalid type: map, expected a sequence"]),
            ("[] []", expect!["1:4: trailing characters"]),
        ] {
            check(FileFormat::Json, text, expected);
        }
    }

    #[test]
    fn what_is_wrong_with_toml_is_told_with_its_place() {
        for (text, expected) in [
            (" \n", expect!["1:1: the file is empty; for no backends, write `backend = []`"]),
            ("# Nothing else.\n", expect!["1:1: missing field `backend`"]),
            ("[[backend]]\naddress = \"10.0.0", expect![[r#"2:18: invalid basic string, expected `"`"#]]),
            ("[[backend]]\nport = 80\n", expect!["1:1: missing field `address`"]),
            ("[[backend]]\naddress = \"10.0.0.1\"\nport = 65536\n", expect!["3:8: invalid value: integer `65536`, expected u16"]),
            ("[[backend]]\naddress = \"web.internal\"\n", expect!["2:11: invalid IP address syntax"]),
            ("[[backends]]\naddress = \"10.0.0.1\"\n", expect!["1:3: unknown field `backends`, expected `backend`"]),
        ] {
            check(FileFormat::Toml, text, expected);
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic_and_no_cut_json_is_taken(text in any::<String>(), at in 1..60usize) {
            let _ = (parse(&file(FileFormat::Json), &text), parse(&file(FileFormat::Toml), &text));
            let whole = r#"[{"targets":["10.0.0.1:80","10.0.0.2:80"],"labels":{"weight":"2"}}]"#;
            prop_assert!(parse(&file(FileFormat::Json), &whole[..at]).is_err());
        }
    }
}
