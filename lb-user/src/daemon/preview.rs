//! What a reload would change: the running configuration beside another, as a diff. Pure.
//!
//! Which services and sections differ is told by what they mean; the lines are those of the files, so that they read as the
//! operator wrote them, and a new key needs nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;
use toml::{Table, Value};

use crate::admission::Lists;
use crate::compile::{self, Layout, Quiet, compile};
use crate::config::{self, Config, ConfigError};
use crate::daemon::{Findings, assemble};
use crate::runtime::Overrides;
use crate::tables::Tables;

/// What a daemon runs by.
#[derive(Clone, Debug)]
pub struct Running {
    pub config: Config,
    pub text: Arc<str>,
    pub overrides: Overrides,
}

/// What another configuration would change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Preview {
    /// Lines that begin with `-` (as it is), `+` (as it would be), or a space.
    pub diff: Vec<String>,
    /// Keys for which a reload would be refused.
    pub needs_restart: Vec<&'static str>,
    /// What was set at runtime and would be forgotten.
    pub forgets: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Tables(#[from] compile::CompileError),
}

/// Compares. `file_name` is only shown in errors.
///
/// # Errors
/// The new configuration is wrong, or the tables could not hold it on a good day.
pub fn preview(running: &Running, file_name: &str, text: &str) -> Result<Preview, PreviewError> {
    let mut new = config::parse(file_name, text)?;
    new.read_lists()?;
    let (overrides, forgets) = running.overrides.under(&new);
    // As if every backend were up.
    let findings = Findings { overrides, ..Findings::default() };
    compile(
        &assemble(&new, &findings),
        &Layout::new(new.limits.slots).with_prefixes(new.limits.prefixes),
        &Tables::default(),
        &Quiet(0),
    )?;
    Ok(Preview { diff: diff(running, &new, text), needs_restart: differing_fixed_keys(&running.config, &new), forgets })
}

/// The keys among those that cannot change while running that differ.
pub fn differing_fixed_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    let fixed = [
        ("xdp.pin", new.xdp.pin != old.xdp.pin),
        ("xdp.mode", new.xdp.mode != old.xdp.mode),
        ("xdp.secret_file", new.xdp.secret_file != old.xdp.secret_file),
        ("api.listen", new.api.listen != old.api.listen),
        ("api.socket", new.api.socket != old.api.socket),
        ("api.socket_gid", new.api.socket_gid != old.api.socket_gid),
        ("api.tls_certificate and tls_key", new.api.tls != old.api.tls),
        ("api.token_file", new.api.token_file != old.api.token_file),
        ("api.state_file", new.api.state_file != old.api.state_file),
        ("api.audit_file", new.api.audit_file != old.api.audit_file),
        ("steering", new.steering != old.steering),
        ("fullnat", new.pool != old.pool),
        ("limits.slots", new.limits.slots != old.limits.slots),
        ("limits.flows", new.limits.flows != old.limits.flows),
        ("limits.prefixes", new.limits.prefixes != old.limits.prefixes),
        ("limits.sources", new.limits.sources != old.limits.sources),
    ];
    fixed.into_iter().filter(|(_, differs)| *differs).map(|(key, _)| key).collect()
}

/// The lines in which two configurations differ, under the headers of their sections.
pub fn diff(running: &Running, new: &Config, text: &str) -> Vec<String> {
    let old = &running.config;
    let (before, after) = (sections(&running.text), sections(text));
    let mut lines = Vec::new();
    let headers: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for header in headers.into_iter().filter(|header| !means_the_same(old, new, header)) {
        match (before.get(header), after.get(header)) {
            (Some(before), Some(after)) => {
                let keys: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
                let differing: Vec<_> = keys.into_iter().filter(|key| before.get(*key) != after.get(*key)).collect();
                let lists = lists(old, new, header);
                if !differing.is_empty() || lists.is_some() {
                    lines.push(format!("  {header}"));
                }
                lines.extend(lists);
                for key in differing {
                    lines.extend(before.get(key).map(|value| format!("-   {key} = {value}")));
                    lines.extend(after.get(key).map(|value| format!("+   {key} = {value}")));
                }
            }
            (Some(gone), None) => whole('-', header, gone, &mut lines),
            (None, Some(came)) => whole('+', header, came, &mut lines),
            (None, None) => {}
        }
    }
    lines
}

type Keys = BTreeMap<String, String>;

fn whole(sign: char, header: &str, keys: &Keys, lines: &mut Vec<String>) {
    lines.push(format!("{sign} {header}"));
    lines.extend(keys.iter().map(|(key, value)| format!("{sign}   {key} = {value}")));
}

/// Whether two files mean the same by a section, though they may say it otherwise.
fn means_the_same(old: &Config, new: &Config, header: &str) -> bool {
    match header {
        "[xdp]" => old.xdp == new.xdp,
        "[api]" => old.api == new.api,
        "[steering]" => old.steering == new.steering,
        "[limits]" => old.limits == new.limits,
        "[node]" => old.node == new.node,
        "[fullnat]" => old.pool == new.pool,
        "[admission]" => old.admission.all_vips == new.admission.all_vips,
        _ => header.strip_prefix(SERVICE).is_some_and(|name| {
            let find = |config: &'_ Config| config.services.iter().find(|service| &*service.name == name).cloned();
            find(old) == find(new) && old.admission.of(&name.into()) == new.admission.of(&name.into())
        }),
    }
}

/// What files of lists have now and would have, where those differ.
fn lists(old: &Config, new: &Config, header: &str) -> Option<String> {
    let rules = |config: &Config| match header.strip_prefix(SERVICE) {
        Some(name) => config.admission.of(&name.into()).cloned(),
        None => (header == "[admission]").then(|| config.admission.all_vips.clone()),
    };
    let (old, new) = (rules(old)?.lists, rules(new)?.lists);
    let have = |lists: &Lists| format!("{} denied, {} allowed", lists.deny.len(), lists.allow.len());
    (old != new).then(|| format!("    prefixes: {}; before: {}", have(&new), have(&old)))
}

const SERVICE: &str = "[[service]] ";

/// What a file says, by section. It was read before, so it is TOML.
fn sections(text: &str) -> BTreeMap<String, Keys> {
    let mut sections = BTreeMap::new();
    for (name, value) in text.parse::<Table>().unwrap_or_default() {
        match value {
            Value::Array(services) if name == "service" => {
                for service in services.iter().filter_map(Value::as_table) {
                    let title = service.get("name").and_then(Value::as_str).unwrap_or_default();
                    sections.insert(format!("{SERVICE}{title}"), keys(service, "service", &["name"]));
                }
            }
            Value::Table(table) => drop(sections.insert(format!("[{name}]"), keys(&table, &name, &[]))),
            value => drop(sections.entry("top".into()).or_insert_with(Keys::new).insert(name, value.to_string())),
        }
    }
    sections
}

/// A table's keys, those of tables within joined by dots; of tables in a list, one line each.
fn keys(table: &Table, place: &str, without: &[&str]) -> Keys {
    let mut found = Keys::new();
    for (key, value) in table.iter().filter(|(key, _)| !without.contains(&key.as_str())) {
        match value {
            // An empty one says that it is there.
            Value::Table(inner) if !inner.is_empty() => {
                let inner = keys(inner, &format!("{place}.{key}"), &[]);
                found.extend(inner.into_iter().map(|(name, value)| (format!("{key}.{name}"), value)));
            }
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_table) => {
                for (number, element) in (1..).zip(list.iter().filter_map(Value::as_table)) {
                    found.insert(format!("[[{place}.{key}]] {}", title(element, number)), inline(element));
                }
            }
            value => drop(found.insert(key.clone(), value.to_string())),
        }
    }
    found
}

/// What tells a table from the others in its list.
fn title(element: &Table, number: usize) -> String {
    let Some(address) = element.get("address").and_then(Value::as_str) else { return number.to_string() };
    match element.get("port") {
        Some(port) => format!("{address} port {port}"),
        None => address.to_owned(),
    }
}

fn inline(element: &Table) -> String {
    let shown = element.iter().filter(|(key, _)| !matches!(key.as_str(), "address" | "port"));
    let shown: Vec<String> = shown.map(|(key, value)| format!("{key} = {value}")).collect();
    if shown.is_empty() { "{}".to_owned() } else { format!("{{ {} }}", shown.join(", ")) }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    const OLD: &str = r#"
[xdp]
interfaces = ["eth0"]

[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
type = "http"
path = "/health"
[[service.backend]]
address = "10.0.1.1"
[[service.backend]]
address = "10.0.1.2"
weight = 3
"#;

    fn running() -> Running {
        let config = config::parse("old", OLD).unwrap_or_else(|error| panic!("{error}"));
        Running { config, text: OLD.into(), overrides: Overrides::default() }
    }

    fn check(new: &str, expected: Expect) {
        let preview = preview(&running(), "new", new).unwrap_or_else(|error| panic!("{error}"));
        expected.assert_eq(&(preview.diff.join("\n") + &preview.needs_restart.concat()));
    }

    #[test]
    fn what_means_the_same_is_no_difference_however_it_is_written() {
        check(&format!("# the same\n{OLD}"), expect![""]);
        check(&OLD.replace("port = 80", "protocol = \"tcp\"\nport = 0x50"), expect![""]);
        check(&OLD.replace("address = \"10.0.1.1\"", "weight = 1\naddress = \"10.0.1.1\""), expect![""]);
    }

    #[test]
    fn keys_backends_and_services_that_differ_are_shown_as_the_files_have_them() {
        let new = OLD.replace("/health", "/ready").replace("weight = 3", "weight = 5").replace("10.0.1.1", "10.0.1.7");
        check(
            &new,
            expect![[r#"
                  [[service]] web
                -   [[service.backend]] 10.0.1.1 = {}
                -   [[service.backend]] 10.0.1.2 = { weight = 3 }
                +   [[service.backend]] 10.0.1.2 = { weight = 5 }
                +   [[service.backend]] 10.0.1.7 = {}
                -   health.path = "/health"
                +   health.path = "/ready""#]],
        );
        check(
            &OLD.replace("\"web\"", "\"shop\"").replace("eth0", "eth1"),
            expect![[r#"
                + [[service]] shop
                +   [[service.backend]] 10.0.1.1 = {}
                +   [[service.backend]] 10.0.1.2 = { weight = 3 }
                +   health.path = "/health"
                +   health.type = "http"
                +   port = 80
                +   vip = "192.0.2.1"
                - [[service]] web
                -   [[service.backend]] 10.0.1.1 = {}
                -   [[service.backend]] 10.0.1.2 = { weight = 3 }
                -   health.path = "/health"
                -   health.type = "http"
                -   port = 80
                -   vip = "192.0.2.1"
                  [xdp]
                -   interfaces = ["eth0"]
                +   interfaces = ["eth1"]"#]],
        );
    }

    #[test]
    fn zones_are_shown_and_take_no_restart() {
        let first = OLD.replace("[[service]]", "[node]\nzone = \"a\"\n[[service]]").replace("weight = 3", "zone = \"a\"");
        let config = config::parse("old", &first).unwrap_or_else(|error| panic!("{error}"));
        let running = Running { config, text: first.as_str().into(), overrides: Overrides::default() };
        let second = first.replace("zone = \"a\"\n[[service]]", "zone = \"b\"\n[[service]]") + "[service.zones]\n";
        let preview = preview(&running, "new", &second).unwrap();
        expect![[r#"
              [[service]] web
            +   zones = {}
              [node]
            -   zone = "a"
            +   zone = "b""#]]
        .assert_eq(&preview.diff.join("\n"));
        assert!(preview.needs_restart.is_empty());
    }

    #[test]
    fn what_takes_a_restart_is_named() {
        let new = OLD.replace("[[service]]", "[limits]\nflows = 65536\n[[service]]");
        let preview = preview(&running(), "new", &new).unwrap();
        assert_eq!(preview.needs_restart, ["limits.flows"]);
        assert_eq!(preview.diff, ["+ [limits]", "+   flows = 65536"]);
    }

    #[test]
    fn a_wrong_file_is_shown_at_its_line() {
        let error = preview(&running(), "new", &OLD.replace("192.0.2.1", "nonsense")).unwrap_err().to_string();
        assert!(error.contains("new:7") && error.contains("nonsense"), "{error}");
    }
}
