//! `GET /api/v1/explain`: what the packet path would do with a packet. The question stands in the query.

use std::fmt::Display;
use std::net::SocketAddr;
use std::str::FromStr;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::{Source, query};
use crate::daemon::Inquiry;
use crate::desired::Protocol;
use crate::explain::{ErrorKind, IcmpError, Question, Senseless, TTL_DEFAULT};

/// What a query may have.
const KEYS: [&str; 12] =
    ["client", "vip", "protocol", "syn", "interface", "ttl", "length", "vlan", "fragment", "error", "from", "connection_id"];

pub async fn answer(State(source): State<Source>, RawQuery(query): RawQuery) -> Response {
    let question = match read(query.as_deref().unwrap_or_default()) {
        Ok(question) => question,
        Err(reason) => return refused(StatusCode::BAD_REQUEST, &reason),
    };
    match source.inquire(|answer| Inquiry::Explain { question, answer }).await {
        Ok(Ok(explanation)) => ([(header::CACHE_CONTROL, "no-store")], Json(explanation)).into_response(),
        Ok(Err(senseless)) => refused(code(&senseless), &senseless.to_string()),
        Err(unavailable) => unavailable.into_response(),
    }
}

fn refused(code: StatusCode, reason: &str) -> Response {
    (code, Json(json!({ "error": reason }))).into_response()
}

fn code(senseless: &Senseless) -> StatusCode {
    match senseless {
        Senseless::Interface { .. } => StatusCode::NOT_FOUND,
        Senseless::Nowhere => StatusCode::CONFLICT,
        _ => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// The question in a query, or what is wrong with it.
fn read(query: &str) -> Result<Question, String> {
    let [client, vip, protocol, syn, interface, ttl, length, vlan, fragment, error, from, connection_id] =
        query::values(query, &KEYS)?;
    let client = parsed("client", client, "203.0.113.7:40000 or [2001:db8::7]:40000")?;
    let vip = parsed("vip", vip, "192.0.2.1:80 or [2001:db8::1]:80")?;
    let protocol = match protocol.as_deref() {
        None | Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        Some(other) => return Err(format!("protocol {other:?}: write tcp or udp")),
    };
    let client: SocketAddr = client.ok_or("client is missing: the address and port that the packet comes from")?;
    let from = parsed("from", from, "the address of a router")?;
    let error = match (error.as_deref(), from) {
        (None, None) => None,
        (None, Some(_)) => return Err("from is the sender of an ICMP error: give error too".to_owned()),
        (Some(kind), from) => Some(IcmpError { kind: error_kind(kind)?, from: from.unwrap_or(client.ip()) }),
    };
    let vlans = vlan.iter().flat_map(|text| text.split(','));
    let vlans = vlans.map(|id| id.parse().map_err(|_| format!("vlan {id:?}: write 0 to 4095, or two with a comma between")));
    Ok(Question {
        client,
        vip: vip.ok_or("vip is missing: the address and port that the packet is for")?,
        protocol,
        syn: parsed("syn", syn, "true or false")?.unwrap_or_default(),
        interface,
        ttl: parsed("ttl", ttl, "0 to 255")?.unwrap_or(TTL_DEFAULT),
        length: parsed("length", length, "a number of bytes, up to 65535")?,
        vlans: vlans.collect::<Result<_, _>>()?,
        fragment: parsed("fragment", fragment, "the identification of a packet")?,
        error,
        connection_id: parsed("connection_id", connection_id, "hexadecimal digits, such as 0a0102030405")?,
    })
}

fn error_kind(text: &str) -> Result<ErrorKind, String> {
    match text {
        "unreachable" => Ok(ErrorKind::Unreachable),
        "too_big" => Ok(ErrorKind::TooBig),
        "time_exceeded" => Ok(ErrorKind::TimeExceeded),
        _ => Err(format!("error {text:?}: write unreachable, too_big or time_exceeded")),
    }
}

fn parsed<T: FromStr<Err: Display>>(key: &str, value: Option<String>, example: &str) -> Result<Option<T>, String> {
    value.map(|text| text.parse().map_err(|error| format!("{key} {text:?}: {error}; write {example}"))).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_read_whole() {
        let question = read("client=203.0.113.7:40000&vip=%5Bfd00::1%5D:53&protocol=udp&syn=true&interface=eth0&ttl=1&length=99");
        let question = question.unwrap();
        assert_eq!((question.client.to_string(), question.vip.to_string()), ("203.0.113.7:40000".into(), "[fd00::1]:53".into()));
        assert_eq!((question.protocol, question.syn, question.ttl, question.length), (Protocol::Udp, true, 1, Some(99)));
        assert_eq!(question.interface.as_deref(), Some("eth0"));
        let error = read("client=1.2.3.4:5&vip=10.0.0.1:80&error=too_big&vlan=7,8").unwrap();
        assert_eq!(error.error, Some(IcmpError { kind: ErrorKind::TooBig, from: "1.2.3.4".parse().unwrap() }));
        assert_eq!((error.vlans, error.fragment), (vec![7, 8], None));
        let error = read("client=1.2.3.4:5&vip=10.0.0.1:80&error=unreachable&from=9.9.9.9").unwrap().error;
        assert_eq!(error.map(|error| error.from.to_string()).as_deref(), Some("9.9.9.9"));
        let short = read("vip=10.0.0.1:80&client=10.0.0.2:5").unwrap();
        assert_eq!((short.protocol, short.syn, short.ttl, short.length), (Protocol::Tcp, false, TTL_DEFAULT, None));
    }

    #[test]
    fn each_error_says_what_to_write() {
        for (query, reason) in [
            ("", "client is missing"),
            ("client=1.2.3.4:5", "vip is missing"),
            ("client=1.2.3.4&vip=10.0.0.1:80", "client \"1.2.3.4\": invalid socket address syntax; write 203.0.113.7:40000"),
            ("client=1.2.3.4:5&vip=10.0.0.1:99999", "vip \"10.0.0.1:99999\""),
            ("client=1.2.3.4:5&vip=10.0.0.1:80&protocol=icmp", "protocol \"icmp\": write tcp or udp"),
            ("client=1.2.3.4:5&vip=10.0.0.1:80&syn=1", "syn \"1\""),
            ("client=1.2.3.4:5&vip=10.0.0.1:80&ttl=256", "ttl \"256\""),
            ("client=1.2.3.4:5&vip=10.0.0.1:80&length=65536", "length \"65536\""),
            ("client=1.2.3.4:5&client=1.2.3.4:6", "client is given twice"),
            ("client=1.2.3.4:5&vip=10.0.0.1:80&error=lost", "error \"lost\": write unreachable, too_big or time_exceeded"),
            ("client=1.2.3.4:5&vip=10.0.0.1:80&from=9.9.9.9", "from is the sender of an ICMP error"),
            ("client=1.2.3.4:5&vip=10.0.0.1:80&vlan=x", "vlan \"x\": write 0 to 4095"),
            ("client=1.2.3.4:5&vip=10.0.0.1:80&fragment=-1", "fragment \"-1\""),
            ("client=1.2.3.4:5&port=80", "\"port\" is not known here; there are client, vip, protocol"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(reason), "{query}: {error}");
        }
    }

    #[test]
    fn the_description_lists_what_a_query_may_have() {
        query::assert_described("/api/v1/explain", &KEYS);
    }
}
