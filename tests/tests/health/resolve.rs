//! The DNS check, and the UDP one, with dnsmasq.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use lb_user::health::probe::Outcome;
use xlb_tests::{Dnsmasq, until};

use super::support::{BRIEF, PATIENT, check_service, check_within, fails, host, passes};

const SERVER: &str = "127.0.0.1:53";
const RECORDS: [(&str, IpAddr); 1] = [("api.internal", IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7)))];

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_name_server_is_judged_by_what_it_knows() -> Result<()> {
    let (_world, netns) = host()?;
    let mut server = Dnsmasq::start(&netns, Ipv4Addr::LOCALHOST.into(), 0, &RECORDS)?;
    let cases = [
        ("query = \"api.internal\"", true, "dns: no error, 1 record"),
        ("query = \"API.internal.\"", true, "dns: no error, 1 record"),
        ("query = \"api.internal\"\nrecord = \"AAAA\"", false, "dns: no error, 0 records"),
        ("query = \"api.internal\"\nrecord = \"AAAA\"\nexpect = \"noerror\"", true, "dns: no error, 0 records"),
        ("query = \"gone.internal\"", false, "dns: non-existent domain, 0 records"),
        ("query = \"gone.internal\"\nexpect = \"nxdomain\"", true, "dns: non-existent domain, 0 records"),
        // It has nobody to ask about other names.
        ("query = \"www.example.org\"", false, "dns: query refused, 0 records"),
        ("query = \"www.example.org\"\nexpect = \"refused\"", true, "dns: query refused, 0 records"),
    ];
    for protocol in ["udp", "tcp"] {
        for (lines, passes, found) in cases {
            let outcome = check_service(&netns, protocol, &format!("type = \"dns\"\n{lines}"), SERVER, PATIENT)?;
            let expected = if passes { Outcome::Passed(found.to_owned()) } else { Outcome::Failed(found.to_owned()) };
            ensure!(outcome == expected, "{lines} over {protocol}: {outcome:?}, not {expected:?}");
        }
    }
    server.kill();
    for (protocol, found) in [("udp", "dns: port unreachable"), ("tcp", "connect: refused")] {
        // A child that dnsmasq has forked for a TCP connection may hold the ports for a moment longer.
        until(PATIENT, found, || {
            let outcome = check_service(&netns, protocol, "type = \"dns\"\nquery = \"api.internal\"", SERVER, BRIEF)?;
            Ok((outcome == Outcome::Failed(found.to_owned())).then_some(()))
        })?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn any_protocol_over_udp_can_be_asked_in_its_own_bytes() -> Result<()> {
    let (_world, netns) = host()?;
    let mut server = Dnsmasq::start(&netns, Ipv4Addr::LOCALHOST.into(), 0, &RECORDS)?;
    // A query for api.internal, A; the answer holds the address.
    let query = "payload_hex = \"1234 0100 0001 0000 0000 0000 03617069 08696e7465726e616c 00 0001 0001\"";
    let expecting = |bytes: &str| format!("type = \"udp\"\n{query}\nexpect_hex = \"{bytes}\"");
    passes(&netns, &expecting("c0000207"), SERVER, "udp: answered")?;
    let outcome = check_within(&netns, &expecting("c0000208"), SERVER, BRIEF)?;
    ensure!(matches!(&outcome, Outcome::Failed(text) if text.ends_with("without what is expected")), "{outcome:?}");
    server.freeze()?;
    let outcome = check_within(&netns, &expecting("c0000207"), SERVER, BRIEF)?;
    ensure!(outcome == Outcome::Failed("udp: timed out after 200ms".to_owned()), "{outcome:?}");
    server.kill();
    fails(&netns, &expecting("c0000207"), SERVER, "udp: port unreachable")
}
