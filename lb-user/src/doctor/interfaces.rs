//! The interfaces of the configuration.

use super::Check;
use crate::config::{Mode, Xdp};
use crate::datapath::PROGRAM;
use crate::nexthop::{self, LinkFacts, NextHopError};

/// Examines each interface, and yields those that exist.
pub async fn examine(xdp: &Xdp, checks: &mut Vec<Check>) -> Vec<LinkFacts> {
    let mut links = Vec::new();
    for name in &xdp.interfaces {
        let subject = format!("interface {name}");
        match nexthop::facts(name).await {
            Ok(facts) => {
                checks.push(state(&subject, &facts));
                checks.push(mode(&subject, &facts, xdp.mode));
                checks.extend(large_frames(&subject, &facts, xdp.mode));
                checks.extend(facts.xdp_attached.map(|id| occupant(&subject, name, id, &program_name(id))));
                checks.extend(checksums(&subject, &facts).await);
                links.push(facts);
            }
            Err(NextHopError::NoSuchInterface { .. }) => {
                let mend = "ip -br link lists those that do; correct xdp.interfaces";
                checks.push(Check::problem(subject, "does not exist here", mend));
            }
            Err(error) => {
                let finding = format!("cannot be examined: {}", crate::error::chain(&error));
                checks.push(Check::warning(subject, finding, "sudo xlb doctor"));
            }
        }
    }
    links
}

fn state(subject: &str, facts: &LinkFacts) -> Check {
    match facts.up {
        true => Check::ok(subject, format!("up, MTU {}", facts.mtu)),
        false => Check::problem(
            subject,
            "is down or has no carrier",
            format!("ip link set {} up; if that does not do, look at the cable or the other end", facts.name),
        ),
    }
}

/// Which mode the program will run in, and whether that loses frames.
fn mode(subject: &str, facts: &LinkFacts, wanted: Mode) -> Check {
    let advice = nexthop::advise(facts);
    match (wanted, advice.reason) {
        (Mode::Generic, _) => Check::ok(subject, "generic mode, as configured"),
        (_, None) if facts.xdp_features.is_some() => Check::ok(subject, "native mode"),
        (_, None) => Check::ok(subject, "native mode, as far as this kernel tells"),
        (Mode::Auto, Some(reason)) => Check::warning(
            subject,
            format!("generic mode, at about half the throughput: {reason}"),
            "mend the reason, or set xdp.mode = \"generic\" to accept it",
        ),
        (Mode::Native, Some(reason)) => {
            Check::problem(subject, format!("native mode is configured, but {reason}"), "set xdp.mode = \"auto\"")
        }
    }
}

fn large_frames(subject: &str, facts: &LinkFacts, wanted: Mode) -> Option<Check> {
    let mtu_max = nexthop::native_mtu_max(facts).filter(|&mtu_max| facts.mtu > mtu_max && wanted != Mode::Generic)?;
    let finding = format!("its MTU, {}, is above the {mtu_max} bytes that native mode takes here", facts.mtu);
    Some(Check::warning(subject, finding, format!("ip link set {} mtu {mtu_max}", facts.name)))
}

/// The name of a loaded program. `None` without the right to see it.
fn program_name(id: u32) -> Option<String> {
    let program = aya::programs::loaded_programs().filter_map(Result::ok).find(|program| program.id() == id)?;
    program.name_as_str().map(ToOwned::to_owned)
}

/// Who has the interface already.
fn occupant(subject: &str, interface: &str, id: u32, name: &Option<String>) -> Check {
    match name.as_deref() {
        Some(PROGRAM) => Check::ok(subject, "an xlb program is attached, which a daemon with the same xdp.pin takes over"),
        name => Check::problem(
            subject,
            format!("another XDP program is attached: {}, id {id}", name.unwrap_or("of unknown name")),
            format!("ip link set {interface} xdp off, or let go of its link: bpftool link"),
        ),
    }
}

/// Between veths, checksums are left to hardware that is not there, and are wrong once an address changes.
async fn checksums(subject: &str, facts: &LinkFacts) -> Option<Check> {
    let is_veth = facts.kind.as_deref() == Some("veth");
    if !is_veth || nexthop::partial_checksums(facts.ifindex).await != Some(true) {
        return None;
    }
    Some(Check::warning(
        subject,
        "a veth with checksum offload: frames bear partial checksums, and TCP fails where an address is rewritten",
        format!("ethtool -K {} tx off, here, and so at the other ends towards clients and backends", facts.name),
    ))
}

#[cfg(test)]
mod tests {
    use lb_common::MacAddr;

    use super::*;
    use crate::doctor::Level;

    fn veth(peer_has_xdp: Option<bool>) -> LinkFacts {
        LinkFacts {
            ifindex: 2,
            name: "eth0".into(),
            ethernet: true,
            mac: MacAddr::default(),
            mtu: 9000,
            kind: Some("veth".into()),
            up: true,
            xdp_features: Some(1),
            peer_has_xdp,
            xdp_attached: None,
        }
    }

    #[test]
    fn a_veth_that_would_lose_frames_is_a_problem_only_where_native_mode_is_forced() {
        let cases = [
            (Mode::Auto, Some(true), Level::Ok),
            (Mode::Auto, Some(false), Level::Warning),
            (Mode::Native, Some(false), Level::Problem),
            (Mode::Generic, Some(false), Level::Ok),
        ];
        for (wanted, peer, expected) in cases {
            assert_eq!(mode("x", &veth(peer), wanted).level, expected, "{wanted:?} {peer:?}");
        }
    }

    #[test]
    fn large_frames_need_a_driver_that_hands_them_over_in_pieces() {
        assert_eq!(large_frames("x", &veth(None), Mode::Auto).map(|check| check.level), Some(Level::Warning));
        assert_eq!(large_frames("x", &veth(None), Mode::Generic), None);
        let in_pieces = LinkFacts { xdp_features: Some(1 | 32), ..veth(None) };
        assert_eq!(large_frames("x", &in_pieces, Mode::Auto), None);
    }

    #[test]
    fn only_a_program_of_another_kind_is_in_the_way() {
        assert_eq!(occupant("x", "eth0", 7, &Some(PROGRAM.into())).level, Level::Ok);
        assert_eq!(occupant("x", "eth0", 7, &Some("filter".into())).level, Level::Problem);
        assert_eq!(occupant("x", "eth0", 7, &None).level, Level::Problem);
    }
}
