//! What checks by datagrams and DNS queries have of their own.

use std::net::IpAddr;

use data_encoding::HEXLOWER_PERMISSIVE;
use hickory_resolver::proto::rr::{Name, RecordType};
use toml::de::DeValue;

use crate::config::report::{Problem, Problems};
use crate::config::section::{At, Fault, Section};
use crate::config::values;
use crate::desired::Protocol;
use crate::health::{Dns, DnsAnswer, Udp};

/// What fits into one packet on any path (RFC 8085 section 3.2 names 1280 for IPv6, headers included).
const PAYLOAD_BYTES_MAX: usize = 1200;

const RECORDS: [(&str, RecordType); 10] = [
    ("A", RecordType::A),
    ("AAAA", RecordType::AAAA),
    ("CNAME", RecordType::CNAME),
    ("HTTPS", RecordType::HTTPS),
    ("MX", RecordType::MX),
    ("NS", RecordType::NS),
    ("PTR", RecordType::PTR),
    ("SOA", RecordType::SOA),
    ("SRV", RecordType::SRV),
    ("TXT", RecordType::TXT),
];

const ANSWERS: [(&str, DnsAnswer); 4] = [
    ("records", DnsAnswer::Records),
    ("noerror", DnsAnswer::NoError),
    ("nxdomain", DnsAnswer::NxDomain),
    ("refused", DnsAnswer::Refused),
];

pub(super) fn udp(section: &mut Section<'_>, problems: &mut Problems) -> Option<Udp> {
    if !section.has("payload") && !section.has("payload_hex") {
        let help = "say what to send: `payload = \"ping\"`, or `payload_hex = \"00 ff\"`; whatever the service answers";
        section.missing("payload", help, problems);
    }
    let payload = bytes(section, "payload", "payload_hex", problems);
    let expect = bytes(section, "expect", "expect_hex", problems);
    Some(Udp { payload: payload??, expect: expect? })
}

pub(super) fn dns(section: &mut Section<'_>, over: Protocol, problems: &mut Problems) -> Option<Dns> {
    let help = "name what the server must know: `query = \"www.example.org\"`";
    let name = section.required("query", help, problems, query);
    let record = section.or("record", RecordType::A, problems, |value| values::one_of(value, &RECORDS));
    let expect = section.or("expect", DnsAnswer::Records, problems, |value| values::one_of(value, &ANSWERS));
    Some(Dns { name: name?.value, record: record?.value, expect: expect?.value, over })
}

/// Bytes as text, or under another key as hex digits. `None` after reporting what is wrong.
fn bytes(
    section: &mut Section<'_>,
    text_key: &'static str,
    hex_key: &'static str,
    problems: &mut Problems,
) -> Option<Option<Vec<u8>>> {
    let text = section.or(text_key, None, problems, |value| text(value).map(Some));
    let hex = section.or(hex_key, None, problems, |value| hex(value).map(Some));
    match (text?, hex?) {
        (At { value: Some(_), span: first }, At { value: Some(_), span }) => {
            problems.push(
                Problem::new(format!("`{text_key}` and `{hex_key}` say the same thing twice"), span, "again here")
                    .and(first, "first here")
                    .help(format!("remove `{text_key}`, or `{hex_key}`")),
            );
            None
        }
        (text, hex) => Some(text.value.or(hex.value)),
    }
}

fn text(value: &DeValue<'_>) -> Result<Vec<u8>, Fault> {
    bounded(values::string(value, "text")?.as_bytes().to_vec())
}

fn hex(value: &DeValue<'_>) -> Result<Vec<u8>, Fault> {
    const HELP: &str = "write two digits a byte, with or without spaces between bytes, such as \"00 ff\"";
    let text = values::string(value, "hexadecimal digits")?;
    let mut bytes = Vec::new();
    for word in text.split_whitespace() {
        match HEXLOWER_PERMISSIVE.decode(word.as_bytes()) {
            Ok(more) => bytes.extend(more),
            Err(_) if word.bytes().all(|digit| digit.is_ascii_hexdigit()) => {
                return Err(Fault::new(format!("{word:?} has half a byte"), HELP));
            }
            Err(_) => return Err(Fault::new(format!("{word:?} is not hexadecimal"), HELP)),
        }
    }
    bounded(bytes)
}

fn bounded(bytes: Vec<u8>) -> Result<Vec<u8>, Fault> {
    if bytes.len() <= PAYLOAD_BYTES_MAX {
        return Ok(bytes);
    }
    let label = format!("{} bytes, but a check sends and looks for at most {PAYLOAD_BYTES_MAX}", bytes.len());
    Err(Fault::new(label, "a check asks a short question"))
}

/// A name to ask for. Unlike one to follow it may be the root.
fn query(value: &DeValue<'_>) -> Result<Name, Fault> {
    let text = values::string(value, "a DNS name")?;
    if text == "." {
        return Ok(Name::root());
    }
    if text.parse::<IpAddr>().is_ok() {
        let help = "to ask whose address this is, write its name under in-addr.arpa or ip6.arpa, and `record = \"PTR\"`";
        return Err(Fault::new("this is an address, not a name", help));
    }
    let text = values::dns_name(value)?;
    let mut name =
        Name::from_ascii(text).map_err(|error| Fault::new(error.to_string(), "write a name such as \"www.example.org\""))?;
    name.set_fqdn(true);
    Ok(name)
}
