//! What checks over HTTP, HTTPS and gRPC have of their own.

use std::ops::RangeInclusive;

use hyper::Method;
use hyper::header::HeaderValue;
use hyper::http::uri::{Authority, PathAndQuery};
use rustls::pki_types::ServerName;
use toml::de::DeValue;

use crate::config::report::{Problem, Problems};
use crate::config::section::{At, Fault, Section};
use crate::config::values;
use crate::health::{Grpc, Http, Tls, Trust};

const METHODS: [(&str, &Method); 3] = [("GET", &Method::GET), ("HEAD", &Method::HEAD), ("OPTIONS", &Method::OPTIONS)];
/// Longer is no mark to look for, but a page.
const BODY_TEXT_BYTES_MAX: usize = 1024;

pub(super) fn read(section: &mut Section<'_>, is_tls: bool, problems: &mut Problems) -> Option<Http> {
    let method = section.or("method", &Method::GET, problems, |value| values::one_of(value, &METHODS));
    let path = section.or("path", "/".to_owned(), problems, path);
    let host = section.or("host", None, problems, |value| host(value).map(Some));
    let expect = section.or("expect", Http::EXPECT_DEFAULT, problems, statuses);
    let body = section.or("body", None, problems, |value| body(value).map(Some));
    let tls = if is_tls { Some(tls(section, host.as_ref(), problems)) } else { None };

    let (method, body) = (method?, body?);
    if *method.value == Method::HEAD && body.value.is_some() {
        problems.push(
            Problem::new("an answer to HEAD has no body", body.span, "cannot be found")
                .and(method.span, "the method")
                .help("write `method = \"GET\"`, or remove `body`"),
        );
        return None;
    }
    Some(Http {
        method: method.value.clone(),
        path: path?.value,
        host: host?.value,
        expect: expect?.value,
        body: body.value,
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
    })
}

pub(super) fn grpc(section: &mut Section<'_>, problems: &mut Problems) -> Option<Grpc> {
    let service = section.or("grpc_service", String::new(), problems, grpc_service);
    let host = section.or("host", None, problems, |value| authority(value).map(Some));
    Some(Grpc { service: service?.value, host: host?.value })
}

fn grpc_service(value: &DeValue<'_>) -> Result<String, Fault> {
    let name = values::string(value, "the name of a gRPC service")?;
    if name.len() > Grpc::SERVICE_BYTES_MAX {
        let label = format!("{} bytes, but a check asks for at most {}", name.len(), Grpc::SERVICE_BYTES_MAX);
        return Err(Fault::new(label, "write the name that the server registers its health under"));
    }
    Ok(name.to_owned())
}

/// HTTP/2 has no header for the host, but a part of the URI.
fn authority(value: &DeValue<'_>) -> Result<String, Fault> {
    let host = host(value)?;
    match host.parse::<Authority>() {
        Ok(_) => Ok(host),
        Err(_) => Err(Fault::new("no URI has this host", "write it as \"www.example.org\"")),
    }
}

/// `None` after reporting what is wrong.
fn tls(section: &mut Section<'_>, host: Option<&At<Option<String>>>, problems: &mut Problems) -> Option<Tls> {
    let verify = section.or("verify", true, problems, values::truth);
    let ca_file = section.or("ca_file", None, problems, |value| values::absolute_path(value).map(Some));
    let sni = section.or("sni", None, problems, |value| sni(value).map(Some));
    let (verify, ca_file, sni) = (verify?, ca_file?, sni?);
    let trust = match (verify.value, ca_file.value) {
        (true, None) => Trust::System,
        (true, Some(path)) => Trust::File(path),
        (false, None) => Trust::Anyone,
        (false, Some(_)) => {
            problems.push(
                Problem::new("nothing is verified, so `ca_file` does nothing", ca_file.span, "not read")
                    .and(verify.span, "verifies nothing")
                    .help("remove `verify = false`, or `ca_file`"),
            );
            return None;
        }
    };
    let name = match (sni.value, host?) {
        (Some(name), _) => Some(name),
        (None, At { value: Some(host), span }) => match named_by(host) {
            Some(name) => Some(name),
            None => {
                problems.push(
                    Problem::new("no certificate can name this host", span.clone(), "neither a DNS name nor an address")
                        .help("add `sni = \"...\"` with the name that the certificate is for"),
                );
                return None;
            }
        },
        (None, At { value: None, .. }) => None,
    };
    Some(Tls { name, trust })
}

/// The name in a `Host` header, without a port.
fn named_by(host: &str) -> Option<ServerName<'static>> {
    let authority: Authority = host.parse().ok()?;
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(name.to_owned()).ok()
}

fn sni(value: &DeValue<'_>) -> Result<ServerName<'static>, Fault> {
    let name = values::string(value, "a DNS name, or an address")?;
    ServerName::try_from(name.to_owned())
        .map_err(|_| Fault::new("no certificate can name this", "write a DNS name such as \"www.example.org\", or an address"))
}

fn body(value: &DeValue<'_>) -> Result<String, Fault> {
    let text = values::string(value, "the text to look for")?;
    match text.len() {
        0 => Err(Fault::new("every body holds nothing", "write the text to look for, or remove `body`")),
        1..=BODY_TEXT_BYTES_MAX => Ok(text.to_owned()),
        n => {
            let label = format!("{n} bytes, but a check looks for at most {BODY_TEXT_BYTES_MAX}");
            Err(Fault::new(label, "choose a shorter mark"))
        }
    }
}

fn path(value: &DeValue<'_>) -> Result<String, Fault> {
    let path = values::string(value, "a path")?;
    if !path.starts_with('/') {
        return Err(Fault::new("an HTTP path begins with `/`", format!("write \"/{path}\"")));
    }
    if path.contains('#') || path.parse::<PathAndQuery>().is_err() {
        return Err(Fault::new("not a path that can be asked for", "percent-encode spaces and the like"));
    }
    Ok(path.to_owned())
}

fn host(value: &DeValue<'_>) -> Result<String, Fault> {
    let host = values::string(value, "the value of a Host header")?;
    let usable = !host.is_empty() && HeaderValue::from_str(host).is_ok() && host.is_ascii() && !host.contains(' ');
    if usable { Ok(host.to_owned()) } else { Err(Fault::new("no host has this name", "write it as \"www.example.org\"")) }
}

/// One status, or a range of them.
fn statuses(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Fault> {
    const HELP: &str = "write 200, or a range such as \"200-399\"";
    let status = |text: &str| text.trim().parse::<u16>().ok().filter(|status| (200..=599).contains(status));
    let range = match value {
        DeValue::Integer(number) => status(number.as_str()).map(|status| status..=status),
        DeValue::String(text) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            status(first).zip(status(last)).map(|(first, last)| first..=last)
        }
        _ => None,
    };
    range.filter(|range| !range.is_empty()).ok_or_else(|| Fault::new("expected HTTP statuses from 200 to 599", HELP))
}
