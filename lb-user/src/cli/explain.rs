//! `xlb explain`: what `GET /api/v1/explain` says of a packet, a line a step.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use form_urlencoded::Serializer;
use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;

use super::client::{self, Door};
use super::status::{endpoint, list, text};
use crate::desired::Protocol;
use crate::explain::ConnectionId;

/// Which packet.
#[derive(Args, Debug)]
pub struct Packet {
    /// Where it comes from: a client, or a nat backend
    #[arg(value_name = "CLIENT:PORT", value_parser = endpoint_of)]
    client: SocketAddr,
    /// What it is for: 192.0.2.1:80/tcp, or [2001:db8::1]:53/udp
    #[arg(value_name = "VIP:PORT/PROTOCOL")]
    vip: Destination,
    /// It opens a TCP connection; without, it is of one that is there already
    #[arg(long)]
    syn: bool,
    /// The interface that it comes in on; the first of xdp.interfaces unless given
    #[arg(long, value_name = "NAME")]
    interface: Option<String>,
    /// Its time to live or hop limit; 64 unless given
    #[arg(long, value_name = "N")]
    ttl: Option<u8>,
    /// Length of the IP packet in bytes; that of its headers unless given
    #[arg(long, value_name = "BYTES")]
    length: Option<u16>,
    /// It has this VLAN tag; given twice, the outer one first
    #[arg(long, value_name = "ID")]
    vlan: Vec<u16>,
    /// It is a later fragment of the packet with this identification, without ports
    #[arg(long, value_name = "IDENTIFICATION", conflicts_with_all = ["syn", "error"])]
    fragment: Option<u32>,
    /// It is an ICMP error to the VIP's address, about a packet from VIP:PORT to CLIENT:PORT
    #[arg(long, value_name = "KIND", value_enum, conflicts_with = "syn")]
    error: Option<Kind>,
    /// The router that sends that error; the client unless given
    #[arg(long, value_name = "ADDRESS", requires = "error")]
    from: Option<IpAddr>,
    /// It is QUIC with this connection ID, in hexadecimal digits
    #[arg(long, value_name = "HEX", conflicts_with_all = ["syn", "error", "fragment"])]
    connection_id: Option<ConnectionId>,
}

/// What an ICMP error says.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Unreachable,
    TooBig,
    TimeExceeded,
}

impl Kind {
    /// As the API has it.
    fn word(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::TooBig => "too_big",
            Self::TimeExceeded => "time_exceeded",
        }
    }
}

/// Address, port and protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Destination {
    endpoint: SocketAddr,
    protocol: Protocol,
}

fn endpoint_of(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "write ADDRESS:PORT, such as 203.0.113.7:40000 or [2001:db8::7]:40000".to_owned())
}

impl FromStr for Destination {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write ADDRESS:PORT/tcp or ADDRESS:PORT/udp, such as 192.0.2.1:80/tcp or [2001:db8::1]:53/udp".to_owned();
        let (endpoint, protocol) = text.rsplit_once('/').ok_or_else(wrong)?;
        let protocol = match protocol {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => return Err(wrong()),
        };
        Ok(Self { endpoint: endpoint.parse().map_err(|_| wrong())?, protocol })
    }
}

impl Packet {
    fn path(&self) -> String {
        let mut query = Serializer::new(String::new());
        query.append_pair("client", &self.client.to_string());
        query.append_pair("vip", &self.vip.endpoint.to_string());
        query.append_pair("protocol", &self.vip.protocol.to_string());
        query.append_pair("syn", &self.syn.to_string());
        let more = [("ttl", self.ttl.map(u16::from)), ("length", self.length)];
        more.into_iter().filter_map(|(key, value)| Some((key, value?))).for_each(|(key, value)| {
            query.append_pair(key, &value.to_string());
        });
        query.extend_pairs(self.interface.iter().map(|name| ("interface", name)));
        let vlans: Vec<String> = self.vlan.iter().map(u16::to_string).collect();
        query.extend_pairs((!vlans.is_empty()).then(|| ("vlan", vlans.join(","))));
        query.extend_pairs(self.fragment.map(|id| ("fragment", id.to_string())));
        query.extend_pairs(self.error.map(|kind| ("error", kind.word())));
        query.extend_pairs(self.from.map(|from| ("from", from.to_string())));
        query.extend_pairs(self.connection_id.as_ref().map(|id| ("connection_id", id.to_string())));
        format!("/api/v1/explain?{}", query.finish())
    }
}

/// Asks the daemon and prints the answer.
///
/// # Errors
/// If no daemon answers there, or there is no such packet.
pub async fn show(door: &Door, packet: &Packet, json: bool) -> Result<()> {
    let (code, answer) = client::ask(door, Method::GET, &packet.path(), Bytes::new()).await?;
    let answer: Value = serde_json::from_slice(&answer)
        .with_context(|| format!("{}/api/v1/explain: not the JSON of an xlb daemon", door.name()))?;
    if !code.is_success() {
        bail!("{}", text(&answer["error"]));
    }
    let text = if json { format!("{answer:#}\n") } else { lines(&answer) };
    super::print(&text)
}

/// One step a line, in the order of the packet path.
fn lines(answer: &Value) -> String {
    let mut out = String::new();
    let mut line = |title: &str, words: String| {
        // Writing to memory cannot fail.
        let _ = writeln!(out, "{title:<9} {words}");
    };
    let packet = &answer["packet"];
    line("packet", packet_line(packet));
    line("service", service_line(answer));
    if !answer["refused"].is_null() {
        line("refused", text(&answer["refused"]["why"]).to_owned());
    }
    if !answer["named"].is_null() {
        line("named", named_line(&answer["named"]));
    }
    if !answer["slot"].is_null() {
        slot_lines(&answer["slot"]).into_iter().zip(["slot", ""]).for_each(|(words, title)| line(title, words));
    }
    if !answer["flow"].is_null() {
        line("flow", flow_line(&answer["flow"]));
    }
    if !answer["fragment"].is_null() {
        line("fragment", fragment_line(&answer["fragment"]));
    }
    if !answer["backend"].is_null() {
        let backend = &answer["backend"];
        line("backend", format!("{}: {}", named(&backend["chosen"]), text(&backend["why"])));
        let unreachable = backend["chosen"]["unreachable"].as_str();
        unreachable.into_iter().for_each(|reason| line("", reason.to_owned()));
    }
    if !answer["way"].is_null() {
        line("forward", way_line(&answer["way"]));
    }
    if !answer["session"].is_null() {
        let session = &answer["session"];
        let state = if session["on_record"] == true { "its session's" } else { "a new session's, if nobody takes it before" };
        line("source", format!("becomes {}, {state}", text(&session["source"])));
    }
    if !answer["reply"].is_null() {
        reply_lines(&answer["reply"], packet).into_iter().zip(["reply", ""]).for_each(|(words, title)| line(title, words));
    }
    line("verdict", format!("{}, {}: {}", text(&answer["verdict"]), text(&answer["class"]), text(&answer["meaning"])));
    out
}

fn packet_line(packet: &Value) -> String {
    let syn = if packet["syn"] == true { " SYN" } else { "" };
    let (client, vip, protocol) = (text(&packet["client"]), text(&packet["vip"]), text(&packet["protocol"]));
    let address = |endpoint: &str| endpoint.parse().map_or(endpoint.to_owned(), |end: SocketAddr| end.ip().to_string());
    let error = &packet["error"];
    let what = match &packet["fragment"] {
        _ if !error.is_null() => {
            let (kind, from) = (text(&error["kind"]).replace('_', " "), text(&error["from"]));
            format!("{from} > {} icmp {kind}, about {vip} > {client} {protocol}", address(vip))
        }
        Value::Null => match packet["connection_id"].as_str() {
            Some(id) => format!("{client} > {vip} {protocol}, QUIC connection {id}"),
            None => format!("{client} > {vip} {protocol}{syn}"),
        },
        id => format!("{} > {} {protocol}, a later fragment of packet {id}", address(client), address(vip)),
    };
    let vlans: String = list(&packet["vlans"]).iter().map(|vlan| format!("vlan {vlan}, ")).collect();
    format!("{vlans}{what}, {} bytes, ttl {}, in on {}", packet["length"], packet["ttl"], text(&packet["interface"]),)
}

fn service_line(answer: &Value) -> String {
    let service = &answer["service"];
    if !service.is_null() {
        let takes = match &service["port"] {
            port if *port == 0 => format!("every port of {}", text(&service["vip"])),
            port => endpoint(&service["vip"], port),
        };
        return format!(
            "{} (id {}), {takes}/{}, by {}",
            service["name"].as_str().unwrap_or("nameless"),
            service["id"],
            text(&service["protocol"]),
            text(&service["algorithm"]),
        );
    }
    let services = list(&answer["services_at_vip"]).iter().map(|service| {
        let port = if service["port"] == 0 { "every port".to_owned() } else { service["port"].to_string() };
        format!("{} {port}/{}", text(&service["name"]), text(&service["protocol"]))
    });
    match services.collect::<Vec<_>>().join(", ") {
        none if none.is_empty() => "none: the destination is no VIP".to_owned(),
        services => format!("none: the destination is a VIP, but takes only {services}"),
    }
}

fn named_line(found: &Value) -> String {
    let backend = match &found["backend"] {
        Value::Null => "nobody's, so that the flow decides".to_owned(),
        backend => named(backend),
    };
    format!("by its connection ID, server {}: {backend}", text(&found["server_id"]))
}

fn slot_lines(slot: &Value) -> [String; 2] {
    let number = format!("{} of {}, by {}", slot["number"], slot["of"], text(&slot["hashed_by"]));
    let current = &slot["current"];
    let owners = match (slot["at_rest"] == true, &slot["settled"]) {
        (true, _) if current.is_null() => "nobody's".to_owned(),
        (true, _) => format!("at rest: {}", named(current)),
        (false, Value::Null) if slot["all_recorded"] == true => {
            format!("all flows are recorded; one that began unseen is for {}", named(current))
        }
        (false, Value::Null) => format!("not at rest: current {}, settled nobody", named(current)),
        (false, settled) => format!("not at rest: current {}, settled {}", named(current), named(settled)),
    };
    [number, owners]
}

fn flow_line(flow: &Value) -> String {
    let record = &flow["on_record"];
    let mut words = match record {
        Value::Null => "not on record".to_owned(),
        _ => format!(
            "on record: {}, {}, last packet {:.0} s ago",
            named(&record["backend"]),
            text(&record["state"]),
            record["silent_s"].as_f64().unwrap_or_default()
        ),
    };
    if let Some(state) = flow["would_record"].as_str()
        && record["state"] != state
    {
        words.push_str(&format!("; this packet would put it on record as {state}"));
    }
    words
}

fn fragment_line(fragment: &Value) -> String {
    match &fragment["on_record"] {
        Value::Null => {
            "not on record: no first fragment of this packet came in the last 30 s, or another one's is in its place".to_owned()
        }
        backend => format!("on record: the first one of its packet is {}'s", named(backend)),
    }
}

fn way_line(way: &Value) -> String {
    let mut words = text(&way["forward"]).to_owned();
    if let Some(destination) = way["destination"].as_str() {
        words.push_str(&format!(", to {destination}"));
    }
    let tunnel = &way["tunnel"];
    if !tunnel.is_null() {
        let port = if tunnel["port"].is_null() { String::new() } else { format!(" port {}", tunnel["port"]) };
        let ends = format!(", {} > {}{port}", text(&tunnel["source"]), text(&tunnel["destination"]));
        words.push_str(&format!("{ends}, for packets of {} bytes at most", tunnel["length_max"]));
    }
    let interface = match way["interface"].as_str() {
        Some(name) => name.to_owned(),
        None => format!("interface {}", way["ifindex"]),
    };
    match way["to"].as_str() {
        _ if way["by_host"] == true => {
            words.push_str(&format!("; sent by the host's routing, for {interface} takes no redirected frames"));
        }
        Some(to) => words.push_str(&format!("; out of {interface}, to {to} from {}", text(&way["from"]))),
        None => words.push_str("; no next hop is known"),
    }
    words
}

fn reply_lines(reply: &Value, packet: &Value) -> [String; 2] {
    let (client, source) = (text(&reply["client"]), text(&reply["source"]));
    let vip = source.parse().map_or_else(|_| source.to_owned(), |source: SocketAddr| source.ip().to_string());
    let service = reply["service"].as_str().unwrap_or("a nameless service");
    [
        format!("of {service} by {}: leaves with {source} as its source", named(&reply["backend"])),
        format!(
            "the way is the kernel's to know: ip route get {client} from {vip} iif {}; if it is the host itself, the packet is not touched",
            text(&packet["interface"])
        ),
    ]
}

/// A backend with what is to be known of it.
fn named(backend: &Value) -> String {
    if backend.is_null() {
        return "nobody".to_owned();
    }
    let mut traits = vec![match backend["state"].as_str() {
        Some(state) => state.to_owned(),
        None => "left the service".to_owned(),
    }];
    if backend["state"] == "down" && !text(&backend["check"]).is_empty() {
        traits[0].push_str(&format!(": {}", text(&backend["check"])));
    }
    match backend["admin"].as_str() {
        Some("drain") => traits.push("draining".to_owned()),
        Some(_) => traits.push("disabled".to_owned()),
        None if backend["weight"] == 0 && !backend["state"].is_null() => traits.push("weight 0".to_owned()),
        None => {}
    }
    format!("{} ({})", endpoint(&backend["address"], &backend["port"]), traits.join(", "))
}

#[cfg(test)]
mod tests;
