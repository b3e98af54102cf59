//! `xlb status`: what `GET /lb/status` says, as a table.

use std::time::Duration;

use anyhow::Result;
use comfy_table::{CellAlignment, Table, presets};
use serde_json::Value;

use super::client::{self, Door};
use super::events::{admin, parts, percent, tiers, time, zone_share};

/// Asks the daemon and prints the answer.
///
/// # Errors
/// If no daemon answers there.
pub async fn show(door: &Door, json: bool) -> Result<()> {
    let status = client::status(door).await?;
    let text = if json { format!("{status:#}\n") } else { tables(&status) + "\n" };
    super::print(&text)
}

/// Whether all is as it should be, and what is missing.
pub fn readiness(status: &Value) -> String {
    match status["waits_for"].as_str() {
        _ if status["ready"] == true => "ready".to_owned(),
        Some(missing) => format!("not ready yet (waits for {missing})"),
        None => "not ready yet".to_owned(),
    }
}

/// Of the sources that were refused most.
const SUSPECTS_SHOWN: usize = 5;

fn tables(status: &Value) -> String {
    let interfaces = list(&status["interfaces"])
        .iter()
        .map(|interface| format!("{} ({})", text(&interface["name"]), text(&interface["mode"])));
    let interfaces = interfaces.collect::<Vec<_>>().join(", ");
    let packets = &status["packets"];
    let ready = readiness(status);
    let mut out = format!("xlb {}, {ready}, on {interfaces}\n", text(&status["version"]));
    out.push_str(&format!(
        "packets: {} received = {} forwarded + {} passed to the host + {} dropped\n",
        packets["received"], packets["forwarded"], packets["passed"], packets["dropped"]
    ));
    for (interface, reason) in status["interfaces_lost"].as_object().into_iter().flatten() {
        out.push_str(&format!("not on interface {interface}: {}\n", text(reason)));
    }
    if let Some(trouble) = status["runtime"]["trouble"].as_str() {
        out.push_str(&format!("what is set at runtime would not survive a restart: {trouble}\n"));
    }
    let absent = status["runtime"]["absent"].as_object().into_iter().flatten();
    for (service, backends) in absent {
        for (backend, set) in backends.as_object().into_iter().flatten() {
            let what = match set["presence"]["by"].as_str() {
                Some(by) => format!("removed by {by} {}", when(&set["presence"])),
                None => "not there at present, and something is set of it at runtime".to_owned(),
            };
            out.push_str(&format!("{service} {backend}: {what}\n"));
        }
    }
    let verdicts = status["verdicts"].as_object().into_iter().flatten().filter(|(_, count)| **count != 0);
    let verdicts = verdicts.map(|(label, count)| format!("{label} {count}")).collect::<Vec<_>>().join(", ");
    if !verdicts.is_empty() {
        out.push_str(&format!("verdicts: {verdicts}\n"));
    }
    out.push_str(&admission("", &status["admission"]));
    for suspect in list(&status["suspects"]).iter().take(SUSPECTS_SHOWN) {
        let whose = suspect["service"].as_str().map(|service| format!("{service}: ")).unwrap_or_default();
        let (source, rule, n) = (text(&suspect["source"]), text(&suspect["rule"]), &suspect["packets"]);
        out.push_str(&format!("refused often: {source}, {whose}{rule}, {n} packets\n"));
    }
    for service in list(&status["services"]) {
        out.push_str(&format!("\n{}\n{}\n", service_line(service), backends(service)));
    }
    out
}

fn service_line(service: &Value) -> String {
    let vip = endpoint(&service["vip"], &service["port"]);
    let mut line = format!(
        "{} {vip}/{} {} by {}: {}, {} connections, {} packets, {}",
        text(&service["name"]),
        text(&service["protocol"]),
        text(&service["forward"]),
        text(&service["algorithm"]),
        text(&service["state"]),
        service["connections"],
        service["packets"],
        bytes(&service["bytes"]),
    );
    if service["dropped"] != 0 {
        line.push_str(&format!(", {} dropped", service["dropped"]));
    }
    for source in list(&service["discovery"]) {
        line.push_str(&format!("\n  {}", source_line(source)));
    }
    if let Some(by) = service["maintenance"]["by"].as_str() {
        line.push_str(&format!(
            "\n  in maintenance: nobody takes new connections, set by {by} {}",
            when(&service["maintenance"])
        ));
    }
    let rules = admission("  ", &service["admission"]);
    if !rules.is_empty() {
        line.push_str(&format!("\n{}", rules.trim_end()));
    }
    line.push_str(&failover(&service["failover"]));
    for backend in list(&service["backends"]) {
        for set in set_at_runtime(backend).into_iter().chain(handshakes(backend)) {
            line.push_str(&format!("\n  {}: {set}", endpoint(&backend["address"], &backend["port"])));
        }
    }
    line
}

/// The rules on who may send, and what they did; nothing if there are none.
fn admission(indent: &str, admission: &Value) -> String {
    let mut words = Vec::new();
    if admission["deny"].as_u64().is_some_and(|n| n > 0) {
        words.push(format!("{} prefixes denied", admission["deny"]));
    }
    if let Some(n) = admission["allow"].as_u64() {
        words.push(format!("only {n} prefixes allowed"));
    }
    let limits = admission["limits"].as_object().into_iter().flatten();
    words.extend(limits.map(|(rule, rate)| format!("{rule} up to {rate}/s")));
    if words.is_empty() {
        return String::new();
    }
    let refused = admission["refused"].as_object().into_iter().flatten().filter(|(_, n)| **n != 0);
    let refused = refused.map(|(rule, n)| format!("{rule} {n}")).collect::<Vec<_>>().join(", ");
    if !refused.is_empty() {
        words.push(format!("refused: {refused}"));
    }
    format!("{indent}admission: {}\n", words.join(", "))
}

/// What is out of the ordinary about who takes new connections.
fn failover(failover: &Value) -> String {
    let (to, cause) = (tiers(&failover["serving"]), text(&failover["cause"]));
    let mut lines = String::new();
    if failover["panic"] == true {
        lines.push_str(&format!("\n  panic: all backends are taken for healthy: {cause}"));
    } else if failover["failed_over"] == true {
        lines.push_str(&format!("\n  new connections go to {to}: {cause}"));
    }
    let held = &failover["held"];
    if !held.is_null() {
        let since = when(held);
        lines.push_str(&format!("\n  held at priority {} until xlb failback, since it took over {since}", held["value"]));
    }
    lines.push_str(&zones(&failover["zones"]));
    lines
}

/// How new connections are divided among zones, and why.
fn zones(zones: &Value) -> String {
    if list(&zones["shares"]).is_empty() {
        return String::new();
    }
    if list(&zones["shares"]).iter().all(|zone| zone["share"] == 0.0) {
        return format!("\n  no zone can take new connections: {}", text(&zones["cause"]));
    }
    let shares = list(&zones["shares"]).iter().map(|zone| zone_share(text(&zone["zone"]), &zone["share"]));
    let mut line = format!("\n  new connections go to {}", shares.collect::<Vec<_>>().join(", "));
    if zones["spilled"].as_f64().is_some_and(|spilled| spilled > 0.0) {
        line.push_str(&format!("; {} spill over: {}", percent(&zones["spilled"]), text(&zones["cause"])));
    }
    line
}

fn source_line(source: &Value) -> String {
    let mut line = format!("{} {}: {} hosts", text(&source["source"]), text(&source["name"]), source["hosts"]);
    for (key, words) in [("standby", "stand by"), ("refused", "refused")] {
        if source[key].as_u64().is_some_and(|n| n > 0) {
            line.push_str(&format!(", {} {words}", source[key]));
        }
    }
    if let Some(age_s) = source["age_s"].as_f64() {
        line.push_str(&format!(", {} ago", humantime::format_duration(Duration::from_secs(age_s as u64))));
    }
    if let Some(error) = source["last_error"].as_str() {
        let rest = if source["stale"] == true { "; the last good answer stays" } else { "" };
        line.push_str(&format!("; failing: {error}{rest}"));
    }
    line
}

/// What was set of a backend at runtime, in words.
pub fn set_at_runtime(backend: &Value) -> Vec<String> {
    let set = &backend["set"];
    let mut lines = Vec::new();
    if !set["presence"].is_null() {
        lines.push(format!("added by {} {}", text(&set["presence"]["by"]), when(&set["presence"])));
    }
    if !set["weight"].is_null() {
        let weight = &set["weight"];
        lines.push(format!("weight {} set by {} {}", weight["value"], text(&weight["by"]), when(weight)));
    }
    if !set["admin"].is_null() {
        let mut line = format!("{} {}", admin(&set["admin"]), when(&set["admin"]));
        match &backend["drain"]["flows"] {
            _ if backend["drain"].is_null() => {}
            Value::Null => line.push_str("; its flows are being counted"),
            flows => line.push_str(&format!("; {flows} flows left of those seen since")),
        }
        if backend["drain"]["silent_possible"] == true {
            line.push_str(", silent ones not counted");
        }
        lines.push(line);
    }
    lines
}

/// How a backend's connections opened, in words, if any did.
fn handshakes(backend: &Value) -> Option<String> {
    let handshakes = &backend["handshakes"];
    let n = |key: &str| handshakes[key].as_u64().unwrap_or_default();
    if n("opened") == 0 {
        return None;
    }
    let mut line = format!("{} connections opened, {} answered", n("opened"), n("answered"));
    if let Some(mean_ms) = handshakes["mean_ms"].as_f64() {
        line.push_str(&format!(" in {mean_ms:.2} ms on average"));
    }
    for (key, words) in [("repeated", "SYNs repeated"), ("refused", "refused")] {
        if n(key) > 0 {
            line.push_str(&format!(", {} {words}", n(key)));
        }
    }
    Some(line)
}

fn when(set: &Value) -> String {
    format!("at {}", time(&set["at_ms"]))
}

fn backends(service: &Value) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    // Who has no zones needs no column for them, and likewise of server IDs.
    let has = |key: &str| list(&service["backends"]).iter().any(|backend| !backend[key].is_null());
    let (has_zones, has_ids) = (has("zone"), has("server_id"));
    let with_labels = |mut cells: Vec<String>, zone: &str, id: &str| {
        let labels = [(has_zones, zone), (has_ids, id)].into_iter().filter(|(is_there, _)| *is_there);
        cells.splice(2..2, labels.map(|(_, label)| label.to_owned()));
        cells
    };
    let header = ["backend", "by", "state", "weight", "share", "connections", "packets", "bytes", "check"];
    table.set_header(with_labels(header.map(str::to_owned).to_vec(), "zone", "server id"));
    for backend in list(&service["backends"]) {
        let share = format!("{:.1}%", backend["share"].as_f64().unwrap_or_default() * 100.0);
        let check = backend["unreachable"].as_str().unwrap_or_else(|| text(&backend["check"]));
        let cells = vec![
            endpoint(&backend["address"], &backend["port"]),
            list(&backend["sources"]).iter().map(text).collect::<Vec<_>>().join(","),
            state(backend),
            backend["weight"].to_string(),
            share,
            backend["connections"].to_string(),
            backend["packets"].to_string(),
            bytes(&backend["bytes"]),
            check.to_owned(),
        ];
        table.add_row(with_labels(cells, text(&backend["zone"]), text(&backend["server_id"])));
    }
    for column in 3..8 {
        if let Some(column) = table.column_mut(column + usize::from(has_zones) + usize::from(has_ids)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

/// A backend's health, and what somebody has made of it.
fn state(backend: &Value) -> String {
    let mut words = vec![text(&backend["state"]).to_owned()];
    if backend["priority"] == "sorry" {
        words.push("sorry".to_owned());
    }
    match &backend["set"]["admin"]["value"] {
        Value::Null if backend["standby"] == true => words.push("standby".to_owned()),
        Value::Null => {}
        admin if admin == "disable" => words.push("disabled".to_owned()),
        _ => words.push("draining".to_owned()),
    }
    if backend["state"] != "down" && backend["serving"] != true && backend["unreachable"].is_string() {
        words.push("no way".to_owned());
    }
    if let Some(part) = backend["slow_start"].as_f64() {
        words.push(format!("starts slowly at {:.0}%", part * 100.0));
    }
    match (&backend["breaker"]["phase"], &backend["breaker"]["ejections"]) {
        (phase, n) if phase == "open" => words.push(format!("the {} time in a row", nth(n))),
        (phase, _) if phase == "half-open" => words.push("on trial".to_owned()),
        _ => {}
    }
    if backend["flapping"] == true {
        words.push("flapping".to_owned());
    }
    if let Some(backoff_s) = backend["backoff_s"].as_f64() {
        words.push(format!("probed every {}", humantime::format_duration(Duration::from_secs_f64(backoff_s))));
    }
    if !backend["weight_parts"].is_null() {
        words.push(parts(&backend["weight_parts"]));
    }
    words.join(", ")
}

fn nth(n: &Value) -> String {
    match n.as_u64().unwrap_or_default() {
        1 => "first".to_owned(),
        2 => "second".to_owned(),
        3 => "third".to_owned(),
        n => format!("{n}th"),
    }
}

pub fn endpoint(address: &Value, port: &Value) -> String {
    let address = text(address);
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A number of bytes as people read it.
fn bytes(value: &Value) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut number = value.as_f64().unwrap_or_default();
    let mut unit = 0;
    while number >= 1000.0 && unit + 1 < UNITS.len() {
        number /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{number} B") } else { format!("{number:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_is_healthy_and_out_of_reach_is_not_merely_up() {
        let mut backend = json!({ "state": "up", "serving": true, "unreachable": null });
        assert_eq!(state(&backend), "up");
        backend["unreachable"] = "10.0.1.1 does not answer on eth0".into();
        backend["serving"] = false.into();
        assert_eq!(state(&backend), "up, no way");
        backend["state"] = "down".into();
        assert_eq!(state(&backend), "down");
    }
}
