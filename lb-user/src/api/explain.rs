//! `GET /api/v1/explain`: what the packet path would do with a packet. The question stands in the query.

use std::fmt::Display;
use std::str::FromStr;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::Source;
use crate::daemon::Inquiry;
use crate::desired::Protocol;
use crate::explain::{Question, Senseless, TTL_DEFAULT};

/// What a query may have.
const KEYS: [&str; 7] = ["client", "vip", "protocol", "syn", "interface", "ttl", "length"];

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
    let mut values: [Option<String>; KEYS.len()] = Default::default();
    for (key, value) in form_urlencoded::parse(query.as_bytes()) {
        let place = KEYS.iter().position(|known| *known == key);
        let place = place.ok_or_else(|| format!("{key:?} is not known here; there are {}", KEYS.join(", ")))?;
        if values[place].replace(value.into_owned()).is_some() {
            return Err(format!("{key} is given twice"));
        }
    }
    let [client, vip, protocol, syn, interface, ttl, length] = values;
    let client = parsed("client", client, "203.0.113.7:40000 or [2001:db8::7]:40000")?;
    let vip = parsed("vip", vip, "192.0.2.1:80 or [2001:db8::1]:80")?;
    let protocol = match protocol.as_deref() {
        None | Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        Some(other) => return Err(format!("protocol {other:?}: write tcp or udp")),
    };
    Ok(Question {
        client: client.ok_or("client is missing: the address and port that the packet comes from")?,
        vip: vip.ok_or("vip is missing: the address and port that the packet is for")?,
        protocol,
        syn: parsed("syn", syn, "true or false")?.unwrap_or_default(),
        interface,
        ttl: parsed("ttl", ttl, "0 to 255")?.unwrap_or(TTL_DEFAULT),
        length: parsed("length", length, "a number of bytes, up to 65535")?,
    })
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
            ("client=1.2.3.4:5&port=80", "\"port\" is not known here; there are client, vip, protocol"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.contains(reason), "{query}: {error}");
        }
    }

    #[test]
    fn the_description_lists_what_a_query_may_have() {
        let description: serde_json::Value = serde_json::from_str(super::super::OPENAPI).unwrap();
        let parameters = description["paths"]["/api/v1/explain"]["get"]["parameters"].as_array().unwrap();
        let names: Vec<&str> = parameters.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
        assert_eq!(names, KEYS);
        assert!(parameters.iter().all(|parameter| parameter["in"] == "query"));
    }
}
