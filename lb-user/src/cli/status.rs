//! `xlb status`: what `GET /lb/status` says, as a table.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use comfy_table::{CellAlignment, Table, presets};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(5);
/// Of the answer: 65,535 backends take some 25 MB.
const LEN_MAX: usize = 64 << 20;

/// Asks the daemon and prints the answer.
///
/// # Errors
/// If no daemon answers there.
pub async fn show(api: SocketAddr, json: bool) -> Result<()> {
    let answer =
        timeout(LIMIT, ask(api)).await.with_context(|| format!("http://{api}/lb/status: no answer within {LIMIT:?}"))??;
    let status: Value =
        serde_json::from_slice(&answer).with_context(|| format!("http://{api}/lb/status: not the JSON of an xlb daemon"))?;
    let text = if json { format!("{status:#}\n") } else { tables(&status) + "\n" };
    super::print(&text)
}

async fn ask(api: SocketAddr) -> Result<Bytes> {
    let stream = TcpStream::connect(api)
        .await
        .with_context(|| format!("no daemon answers on {api}; is it running, and is this its api.listen (--api)?"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::get("/lb/status").header(header::HOST, api.to_string()).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let code = response.status();
    let body = Limited::new(response.into_body(), LEN_MAX).collect().await.map_err(anyhow::Error::from_boxed)?.to_bytes();
    ensure!(code.is_success(), "http://{api}/lb/status: {code}: {}", String::from_utf8_lossy(&body));
    Ok(body)
}

fn tables(status: &Value) -> String {
    let interfaces = list(&status["interfaces"])
        .iter()
        .map(|interface| format!("{} ({})", text(&interface["name"]), text(&interface["mode"])));
    let interfaces = interfaces.collect::<Vec<_>>().join(", ");
    let packets = &status["packets"];
    let ready = if status["ready"] == true { "ready" } else { "not ready yet" };
    let mut out = format!("xlb {}, {ready}, on {interfaces}\n", text(&status["version"]));
    out.push_str(&format!(
        "packets: {} received = {} forwarded + {} passed to the host + {} dropped\n",
        packets["received"], packets["forwarded"], packets["passed"], packets["dropped"]
    ));
    let verdicts = status["verdicts"].as_object().into_iter().flatten().filter(|(_, count)| **count != 0);
    let verdicts = verdicts.map(|(label, count)| format!("{label} {count}")).collect::<Vec<_>>().join(", ");
    if !verdicts.is_empty() {
        out.push_str(&format!("verdicts: {verdicts}\n"));
    }
    for service in list(&status["services"]) {
        out.push_str(&format!("\n{}\n{}\n", service_line(service), backends(service)));
    }
    out
}

fn service_line(service: &Value) -> String {
    let (vip, port) = (text(&service["vip"]), &service["port"]);
    let endpoint = if vip.contains(':') { format!("[{vip}]:{port}") } else { format!("{vip}:{port}") };
    let mut line = format!(
        "{} {endpoint}/{} {} by {}: {}, {} connections, {} packets, {}",
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
    if let Some(error) = service["dns"]["last_error"].as_str() {
        line.push_str(&format!("\n  DNS: {error}; the last good addresses stay"));
    }
    line
}

fn backends(service: &Value) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["backend", "state", "weight", "share", "connections", "packets", "bytes", "check"]);
    for backend in list(&service["backends"]) {
        let address = text(&backend["address"]);
        let endpoint = if address.contains(':') {
            format!("[{address}]:{}", backend["port"])
        } else {
            format!("{address}:{}", backend["port"])
        };
        let share = format!("{:.1}%", backend["share"].as_f64().unwrap_or_default() * 100.0);
        let check = backend["unreachable"].as_str().unwrap_or_else(|| text(&backend["check"]));
        table.add_row([
            endpoint,
            text(&backend["state"]).to_owned(),
            backend["weight"].to_string(),
            share,
            backend["connections"].to_string(),
            backend["packets"].to_string(),
            bytes(&backend["bytes"]),
            check.to_owned(),
        ]);
    }
    for column in 2..7 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
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
