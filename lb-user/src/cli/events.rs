//! `xlb events`: what changes, as it changes, a line each.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use http_body_util::BodyExt;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;

use super::client::{self, Door};
use super::status::{list, text};

/// One frame of the stream; a hello has 200 events.
const FRAME_LEN_MAX: usize = 64 << 20;

/// Prints the events that the daemon has kept, and then each as it comes, until the daemon ends.
///
/// # Errors
/// No daemon answers there, it ends, or has too many readers.
pub async fn follow(door: &Door, json: bool, once: bool) -> Result<()> {
    let response = client::begin(door, Method::GET, "/api/v1/events", Bytes::new()).await?;
    let code = response.status();
    let mut body = response.into_body();
    if !code.is_success() {
        let error = String::from_utf8_lossy(&body.collect().await?.to_bytes()).into_owned();
        bail!("{}/api/v1/events: {code}: {error}", door.name());
    }
    let mut waiting = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.context("the daemon has ended, or the connection has")?;
        waiting.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| bytes));
        ensure!(waiting.len() <= FRAME_LEN_MAX, "an event that does not end");
        while let Some(end) = waiting.windows(2).position(|pair| pair == b"\n\n") {
            let event: Vec<u8> = waiting.drain(..end + 2).collect();
            let (name, content) = parse(&String::from_utf8_lossy(&event));
            let events = if name == "hello" { &content["events"] } else { &content };
            match name.as_str() {
                "hello" | "changes" => list(events).iter().try_for_each(|event| print(event, json))?,
                "end" => bail!("{}", text(&content["reason"])),
                _ => {}
            }
            if once && name == "hello" {
                return Ok(());
            }
        }
    }
    bail!("the daemon has ended the stream")
}

/// An event's name and content.
fn parse(event: &str) -> (String, Value) {
    let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    (field("event: ").to_owned(), serde_json::from_str(field("data: ")).unwrap_or_default())
}

fn print(event: &Value, json: bool) -> Result<()> {
    super::print(&if json { format!("{event}\n") } else { format!("{}  {}\n", time(&event["at_ms"]), in_words(event)) })
}

/// A time of the wall clock, in UTC.
pub fn time(at_ms: &Value) -> String {
    let at = Duration::from_millis(at_ms.as_u64().unwrap_or_default());
    match SystemTime::UNIX_EPOCH.checked_add(at) {
        // Beyond the year 9999 there is no such form.
        Some(at) if at.elapsed().is_ok() || at_ms.as_u64() < Some(253_402_300_799_000) => {
            humantime::format_rfc3339_seconds(at).to_string()
        }
        _ => "?".to_owned(),
    }
}

fn in_words(event: &Value) -> String {
    let whom = [text(&event["service"]), text(&event["backend"])].join(" ");
    let whom = whom.trim();
    // Such as `: why`. What an earlier version tells has none.
    let why = ["cause", "failing", "waits_for"].iter().find_map(|key| event[key].as_str());
    let why = why.map_or_else(String::new, |why| format!(": {why}"));
    match text(&event["kind"]) {
        "started" => format!("xlb {} started", text(&event["version"])),
        "missing" => format!("{} events more, which only the log has", event["n_events"]),
        "ready" if event["ready"] == true => "ready".to_owned(),
        "ready" => {
            event["waits_for"].as_str().map_or("no longer ready".to_owned(), |what| format!("not ready, waits for {what}"))
        }
        "reload" if event["accepted"] == true => "reloaded".to_owned(),
        "reload" => format!("a reload was refused, and changed nothing{why}"),
        "tables" if event["failing"].is_null() => "the tables are what they should be again".to_owned(),
        "tables" => format!("the tables are not what they should be{why}"),
        "interface_attached" => format!("on {}, in {} mode", text(&event["interface"]), text(&event["mode"])),
        "interface_detached" => format!("off {}", text(&event["interface"])),
        "discovery" => match (event["cause"].as_str(), &event["stale"]) {
            (None, _) => format!("{whom}: {} answers again", text(&event["source"])),
            (_, Value::Bool(true)) => format!("{whom}: {} fails, its earlier answer holds{why}", text(&event["source"])),
            (..) => format!("{whom}: {} fails{why}", text(&event["source"])),
        },
        "service_added" | "backend_added" => format!("{whom}: added{why}"),
        "service_removed" | "backend_removed" => format!("{whom}: removed{why}"),
        "service_state" if event["up"] == true => format!("{whom}: up{why}"),
        "service_state" => format!("{whom}: down, nobody serves{why}"),
        "slots_moved" => format!("{whom}: {} slots moved{why}", event["n_slots"]),
        "backend_state" => {
            format!("{whom}: {}, was {}: {}", text(&event["to"]), text(&event["from"]), text(&event["cause"]))
        }
        "weight_part" => format!("{whom}: {}: {}", parts(&event["parts"]), text(&event["cause"])),
        "suspected" => format!("{whom}: suspected, probed at once{why}"),
        "flapping" if event["flapping"] == true => format!("{whom}: comes and goes too often"),
        "flapping" => format!("{whom}: no longer comes and goes"),
        "backend_reach" => match event["unreachable"].as_str() {
            Some(reason) => format!("{whom}: not reachable: {reason}"),
            None => format!("{whom}: reachable"),
        },
        "backend_weight" => {
            let by = event["by"].as_str().map_or_else(String::new, |by| format!(", set by {by}"));
            format!("{whom}: weight {}, was {}{by}", event["to"], event["from"])
        }
        "backend_admin" => match &event["set"] {
            Value::Null => format!("{whom}: enabled"),
            set => format!("{whom}: {}", admin(set)),
        },
        "drained" if event["silent_possible"] == true => {
            format!("{whom}: drained; no flow is left that was seen since, though silent ones may be")
        }
        "drained" => format!("{whom}: drained"),
        "maintenance" => match event["set"]["by"].as_str() {
            Some(by) => format!("{whom}: in maintenance, by {by}"),
            None => format!("{whom}: no longer in maintenance"),
        },
        "failover" => {
            let (from, to) = (tiers(&event["from"]), tiers(&event["to"]));
            format!("{whom}: new connections go to {to}, no longer to {from}: {}", text(&event["cause"]))
        }
        "panic" if event["panic"] == true => {
            format!("{whom}: panic, all backends are taken for healthy: {}", text(&event["cause"]))
        }
        "panic" => format!("{whom}: no longer in panic: {}", text(&event["cause"])),
        "spillover" => spillover(whom, event),
        "slow_start" if event["over"] == true => format!("{whom}: has all of its weight"),
        "slow_start" => format!("{whom}: starts slowly"),
        _ => event.to_string(),
    }
}

fn spillover(whom: &str, event: &Value) -> String {
    let all = || event["shares"].as_object().into_iter().flatten();
    let shares: Vec<String> = all().map(|(zone, share)| zone_share(zone, share)).collect();
    let (shares, cause) = (shares.join(", "), text(&event["cause"]));
    if all().all(|(_, share)| share.as_f64() == Some(0.0)) {
        return format!("{whom}: no zone can take new connections: {cause}");
    }
    match event["spilled"].as_f64() {
        Some(spilled) if spilled > 0.0 => {
            format!("{whom}: {} of new connections spill over to other zones, now {shares}: {cause}", percent(&spilled.into()))
        }
        _ => format!("{whom}: new connections are divided among zones as usual, {shares}: {cause}"),
    }
}

/// Such as `zone a 70%`.
pub fn zone_share(zone: &str, share: &Value) -> String {
    let zone = if zone.is_empty() { "no zone".to_owned() } else { format!("zone {zone}") };
    format!("{zone} {}", percent(share))
}

/// Priorities, or the sorry backend.
pub fn tiers(tiers: &Value) -> String {
    let one = |tier: &Value| tier.as_u64().map_or_else(|| text(tier).to_owned(), |priority| format!("priority {priority}"));
    let named: Vec<String> = list(tiers).iter().map(one).collect();
    if named.is_empty() { "nobody".to_owned() } else { named.join(" and ") }
}

/// Who wants how much of a backend's weight.
pub fn parts(parts: &Value) -> String {
    let part = |(by, part): (&String, &Value)| match by.as_str() {
        "agent" => format!("{} of its weight by its agent", percent(part)),
        _ => format!("{} of its weight for its slow answers", percent(part)),
    };
    let named: Vec<String> = parts.as_object().into_iter().flatten().map(part).collect();
    if named.is_empty() { "all of its weight".to_owned() } else { named.join(" and ") }
}

pub fn percent(share: &Value) -> String {
    format!("{:.0}%", share.as_f64().unwrap_or_default() * 100.0)
}

/// Who has drained or disabled a backend, and until when.
pub fn admin(set: &Value) -> String {
    let by = text(&set["by"]);
    if set["value"] == "disable" {
        return format!("disabled by {by}");
    }
    match &set["value"]["drain"]["until_ms"] {
        Value::Null => format!("drains, set by {by}"),
        until_ms => format!("drains until {}, set by {by}", time(until_ms)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_are_told_in_words() {
        let at = "2026-01-02T03:04:05Z";
        let set = json!({ "value": { "drain": { "until_ms": 1_767_323_045_000_u64 } }, "by": "root" });
        let cases = [
            (
                json!({ "kind": "backend_admin", "service": "web", "backend": "10.0.0.1:80", "set": set }),
                format!("web 10.0.0.1:80: drains until {at}, set by root"),
            ),
            (
                json!({ "kind": "backend_admin", "service": "web", "backend": "10.0.0.1:80", "set": null }),
                "web 10.0.0.1:80: enabled".into(),
            ),
            (json!({ "kind": "service_state", "service": "web", "up": false }), "web: down, nobody serves".into()),
            (
                json!({ "kind": "service_state", "service": "web", "up": false, "cause": "why" }),
                "web: down, nobody serves: why".into(),
            ),
            (json!({ "kind": "slots_moved", "service": "web", "n_slots": 7, "cause": "why" }), "web: 7 slots moved: why".into()),
            (
                json!({ "kind": "discovery", "service": "web", "source": "dns", "stale": true, "cause": "why" }),
                "web: dns fails, its earlier answer holds: why".into(),
            ),
            (
                json!({ "kind": "discovery", "service": "web", "source": "dns", "stale": false, "cause": "why" }),
                "web: dns fails: why".into(),
            ),
            (json!({ "kind": "discovery", "service": "web", "source": "dns", "stale": false }), "web: dns answers again".into()),
            (json!({ "kind": "tables", "failing": "why" }), "the tables are not what they should be: why".into()),
            (json!({ "kind": "tables", "failing": null }), "the tables are what they should be again".into()),
            (json!({ "kind": "interface_attached", "interface": "eth0", "mode": "native" }), "on eth0, in native mode".into()),
            (
                json!({ "kind": "reload", "accepted": false, "cause": "why" }),
                "a reload was refused, and changed nothing: why".into(),
            ),
            (json!({ "kind": "missing", "n_events": 7 }), "7 events more, which only the log has".into()),
            (
                json!({ "kind": "backend_weight", "service": "web", "backend": "10.0.0.1:80", "from": 1, "to": 3, "by": "root" }),
                "web 10.0.0.1:80: weight 3, was 1, set by root".into(),
            ),
            (
                json!({ "kind": "ready", "ready": false, "waits_for": "web 10.0.0.1:80: the end of its first check" }),
                "not ready, waits for web 10.0.0.1:80: the end of its first check".into(),
            ),
            (
                json!({ "kind": "maintenance", "service": "web", "set": { "by": "root", "at_ms": 1 } }),
                "web: in maintenance, by root".into(),
            ),
            (
                json!({ "kind": "failover", "service": "web", "from": [0], "to": [1, "sorry"], "cause": "why" }),
                "web: new connections go to priority 1 and sorry, no longer to priority 0: why".into(),
            ),
            (
                json!({ "kind": "panic", "service": "web", "panic": true, "cause": "why" }),
                "web: panic, all backends are taken for healthy: why".into(),
            ),
            (
                json!({ "kind": "spillover", "service": "web", "spilled": 0.3, "shares": { "a": 0.7, "b": 0.3 }, "cause": "why" }),
                "web: 30% of new connections spill over to other zones, now zone a 70%, zone b 30%: why".into(),
            ),
            (
                json!({ "kind": "spillover", "service": "web", "spilled": 0.0, "shares": { "": 0.0, "a": 1.0 }, "cause": "why" }),
                "web: new connections are divided among zones as usual, no zone 0%, zone a 100%: why".into(),
            ),
            (
                json!({ "kind": "spillover", "service": "web", "spilled": 0.0, "shares": { "a": 0.0, "b": 0.0 }, "cause": "why" }),
                "web: no zone can take new connections: why".into(),
            ),
            (
                json!({ "kind": "slow_start", "service": "web", "backend": "10.0.0.1:80", "over": false }),
                "web 10.0.0.1:80: starts slowly".into(),
            ),
            (
                json!({ "kind": "weight_part", "service": "web", "backend": "10.0.0.1:80", "parts": { "agent": 0.5 }, "cause": "why" }),
                "web 10.0.0.1:80: 50% of its weight by its agent: why".into(),
            ),
            (
                json!({ "kind": "weight_part", "service": "web", "backend": "10.0.0.1:80", "parts": {}, "cause": "why" }),
                "web 10.0.0.1:80: all of its weight: why".into(),
            ),
            (
                json!({ "kind": "flapping", "service": "web", "backend": "10.0.0.1:80", "flapping": true }),
                "web 10.0.0.1:80: comes and goes too often".into(),
            ),
            (json!({ "kind": "ready", "ready": true }), "ready".into()),
            (json!({ "kind": "of tomorrow" }), r#"{"kind":"of tomorrow"}"#.into()),
        ];
        for (event, expected) in cases {
            assert_eq!(in_words(&event), expected);
        }
        assert_eq!(time(&json!(1_767_323_045_000_u64)), at);
        assert_eq!(time(&json!(u64::MAX)), "?");
    }

    #[test]
    fn there_are_words_for_each_kind() {
        for change in crate::journal::samples::all() {
            let words = in_words(&serde_json::to_value(&change).unwrap());
            assert!(!words.starts_with('{'), "{words}");
        }
    }

    #[test]
    fn a_frame_has_a_name_and_a_content() {
        assert_eq!(parse("event: changes\ndata: [1]\n\n"), ("changes".into(), json!([1])));
        assert_eq!(parse(": a comment\n\n"), (String::new(), Value::Null));
    }
}
