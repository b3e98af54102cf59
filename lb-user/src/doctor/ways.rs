//! The ways to backends and back, and who answers for the VIPs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Check;
use crate::config::Config;
use crate::daemon::{Findings, addresses, assemble, behind_gateway, host};
use crate::desired::{Desired, Forward, NextHop};
use crate::nexthop::{Answer, LinkFacts, RedirectMode, Resolver, Unresolved, Way, advise};
use crate::status::Interface;

/// The kernel gives a neighbour three seconds to answer.
const LIMIT: Duration = Duration::from_secs(5);

pub async fn examine(config: &Config, links: &[LinkFacts], checks: &mut Vec<Check>) {
    let desired = assemble(config, &Findings::default());
    let vips: BTreeSet<IpAddr> = config.services.iter().map(|service| service.vip).collect();
    let wanted = addresses(&desired).union(&vips).copied().collect();
    let native = config.xdp.mode != crate::config::Mode::Generic && links.iter().any(|link| advise(link).native);
    let answers = match resolve(wanted, if native { RedirectMode::Native } else { RedirectMode::Generic }).await {
        Ok(answers) => answers,
        Err(error) => {
            let finding = format!("cannot be asked for: {}", crate::error::chain(&error));
            return checks.push(Check::warning("next hops", finding, "sudo xlb doctor"));
        }
    };
    let mut findings = Findings { ingress: links.iter().map(|link| link.ifindex).collect(), ..Findings::default() };
    findings.note_next_hops(crate::nexthop::Changes { next_hops: answers.clone(), redirects: None });
    let desired = assemble(config, &findings);
    for (name, service) in &desired.services {
        // Once for each address: its ports have the same way.
        let backends: BTreeSet<IpAddr> = service.backends.keys().map(SocketAddr::ip).collect();
        for address in backends {
            let subject = format!("{name} backend {address}");
            let gateway = behind_gateway(service.forward, address, &findings);
            let check = match answers.get(&address) {
                Some(answer) => backend(&subject, service.forward, answer, gateway, &findings.ingress),
                None => {
                    Check::warning(subject, "its next hop could not be found out in time", format!("ip neigh; ping {address}"))
                }
            };
            checks.push(check);
        }
    }
    let of_path = config.services.iter().flat_map(|service| &service.health.list).filter_map(|check| check.path);
    let of_path: BTreeSet<IpAddr> = of_path.map(|path| path.vip).collect();
    checks.extend(vips.iter().filter_map(|vip| Some(answered_for(*vip, of_path.contains(vip), answers.get(vip)?))));
    checks.extend(settings(&desired, links));
}

/// Ways to all addresses, asked as the daemon asks.
async fn resolve(wanted: BTreeSet<IpAddr>, mode: RedirectMode) -> Result<BTreeMap<IpAddr, Answer>, crate::nexthop::NextHopError> {
    let deadline = Instant::now() + LIMIT;
    let (sender, mut changes) = mpsc::channel(16);
    let resolver = Resolver::start(mode, sender).await?;
    let n_wanted = wanted.len();
    resolver.want(wanted);
    let is_decided = |answer: &Answer| !matches!(answer, Err(Unresolved::NeighbourPending { .. }));
    while resolver.snapshot().values().filter(|answer| is_decided(answer)).count() < n_wanted {
        if !matches!(timeout_at(deadline, changes.recv()).await, Ok(Some(_))) {
            break;
        }
    }
    Ok(resolver.snapshot())
}

fn backend(subject: &str, forward: Forward, answer: &Answer, gateway: Option<IpAddr>, ingress: &BTreeSet<u32>) -> Check {
    match (answer, forward) {
        (Ok(_), _) if gateway.is_some() => {
            let gateway = gateway.map(|gateway| gateway.to_string()).unwrap_or_default();
            let finding = format!("behind gateway {gateway}, which would send a dsr packet back to the VIP");
            Check::problem(subject, finding, "forward = \"nat\", or a backend in a network of this machine")
        }
        (Ok(Way { hop, .. }), Forward::Dsr | Forward::Fullnat | Forward::Ipip | Forward::Gue)
            if !hop.takes_redirects && !ingress.contains(&hop.ifindex) =>
        {
            Check::problem(
                subject,
                format!("its interface (index {}) takes no redirected frames, and all but nat needs that", hop.ifindex),
                "forward = \"nat\", or attach any XDP program at the other end of that interface",
            )
        }
        (Ok(Way { hop: NextHop { address: None, ifindex, .. }, .. }), Forward::Ipip | Forward::Gue) => Check::problem(
            subject,
            format!(
                "a tunnel to it would come from this machine's address on interface {ifindex}, and there is none of its family"
            ),
            "ip addr add ADDRESS/LENGTH dev INTERFACE",
        ),
        (Ok(Way { hop, .. }), Forward::Nat | Forward::Fullnat) if !ingress.contains(&hop.ifindex) => Check::problem(
            subject,
            format!("its replies arrive on interface {}, where no program takes them up", hop.ifindex),
            "list that interface in xdp.interfaces; `ip -br link` has its name",
        ),
        (Ok(Way { hop, .. }), _) => Check::ok(subject, format!("answers at {}", hop.destination)),
        (Err(reason @ Unresolved::NoLinkLayerAddress { .. }), Forward::Nat) => {
            Check::warning(subject, format!("{reason}, so the host routes its packets"), "nothing, if that is meant")
        }
        (Err(reason), _) => Check::problem(subject, reason.to_string(), mend(reason)),
    }
}

fn mend(reason: &Unresolved) -> String {
    match reason {
        Unresolved::NoRoute => "ip route add NETWORK via GATEWAY, or ip addr add ADDRESS/LENGTH dev INTERFACE".into(),
        Unresolved::LocalAddress => "correct its address in the configuration".into(),
        Unresolved::Unreachable => "ip route get ADDRESS shows the route; remove it".into(),
        Unresolved::InterfaceDown { interface } => format!("ip link set {interface} up"),
        Unresolved::NeighbourPending { interface, gateway } | Unresolved::NeighbourFailed { interface, gateway } => {
            format!("start that host, or look for it: ping -c 1 -I {interface} {gateway}")
        }
        Unresolved::NoLinkLayerAddress { .. } => "forward = \"nat\"".into(),
    }
}

/// Where packets to a VIP come in from: who answers ARP and neighbour solicitations for it, or who routes it here. Checks that
/// go along its path take that it is none of this machine's own.
fn answered_for(vip: IpAddr, has_path_checks: bool, answer: &Answer) -> Check {
    let subject = format!("vip {vip}");
    let len = if vip.is_ipv4() { 32 } else { 128 };
    match answer {
        Err(Unresolved::LocalAddress) if has_path_checks => Check::problem(
            subject,
            "an address of this machine, where checks with via = \"path\" would end; backends never come up",
            format!("have the router route it here, and: ip addr del {vip}/{len} dev INTERFACE; or via = \"address\""),
        ),
        Err(Unresolved::LocalAddress) => Check::ok(subject, "an address of this machine, which answers for it"),
        Ok(Way { gateway: None, hop }) => Check::problem(
            subject,
            format!(
                "another machine, {}, answers for it in this network; a dsr backend may, or another balancer",
                hop.destination
            ),
            "on a backend: sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2",
        ),
        Err(Unresolved::NeighbourFailed { interface, gateway } | Unresolved::NeighbourPending { interface, gateway })
            if *gateway == vip =>
        {
            Check::problem(
                subject,
                format!("is in the network of {interface}, and nobody answers for it there"),
                format!("ip addr add {vip}/{len} dev {interface}"),
            )
        }
        _ => Check::ok(
            subject,
            format!("in no network of this machine; its router needs a route to it: ip route add {vip}/{len} via THIS-MACHINE"),
        ),
    }
}

/// What NAT needs of the host's own forwarding.
fn settings(desired: &Desired, links: &[LinkFacts]) -> Vec<Check> {
    let interface = |link: &LinkFacts| Interface { name: link.name.clone(), ifindex: link.ifindex, mode: "" };
    let needs = host::Needs::of(desired, &links.iter().map(interface).collect::<Vec<_>>());
    let has_nat = desired.services.values().any(|service| service.forward.translates());
    let troubles = host::troubles(&needs, host::read);
    if has_nat && troubles.is_empty() {
        return vec![Check::ok("forwarding", "set as nat needs it")];
    }
    troubles.into_iter().map(|trouble| Check::problem("forwarding", trouble.finding, trouble.command)).collect()
}

#[cfg(test)]
mod tests {
    use lb_common::MacAddr;

    use super::*;
    use crate::doctor::Level;

    fn way(ifindex: u32, takes_redirects: bool, gateway: Option<IpAddr>) -> Answer {
        let hop =
            NextHop { ifindex, source: MacAddr::default(), destination: MacAddr::default(), takes_redirects, ..NextHop::NOWHERE };
        Ok(Way { hop, gateway })
    }

    #[test]
    fn a_backend_is_judged_by_its_way_and_how_it_is_forwarded_to() {
        let router = Some(IpAddr::from([10, 0, 0, 1]));
        let cases = [
            ("on the way in, nothing is redirected", Forward::Dsr, way(2, false, None), None, Level::Ok),
            ("elsewhere, it is", Forward::Dsr, way(3, false, None), None, Level::Problem),
            ("and may be taken", Forward::Dsr, way(3, true, None), None, Level::Ok),
            ("dsr stops at a router", Forward::Dsr, way(2, true, router), router, Level::Problem),
            ("nat does not", Forward::Nat, way(2, true, router), None, Level::Ok),
            ("replies of nat must be taken up", Forward::Nat, way(3, true, None), None, Level::Problem),
            ("a tunnel comes from somewhere", Forward::Ipip, way(3, true, None), None, Level::Problem),
            ("without a route there is no way", Forward::Nat, Err(Unresolved::NoRoute), None, Level::Problem),
        ];
        for (what, forward, answer, gateway, expected) in cases {
            assert_eq!(backend("x", forward, &answer, gateway, &BTreeSet::from([2])).level, expected, "{what}");
        }
    }

    #[test]
    fn a_vip_is_answered_for_by_this_machine_or_routed_to_it() {
        let vip = IpAddr::from([192, 0, 2, 1]);
        let failed = |gateway| Err(Unresolved::NeighbourFailed { interface: "eth0".into(), gateway });
        let cases = [
            (Err(Unresolved::LocalAddress), Level::Ok),
            (Err(Unresolved::NoRoute), Level::Ok),
            (way(2, true, Some(IpAddr::from([10, 0, 0, 1]))), Level::Ok),
            (failed(IpAddr::from([10, 0, 0, 1])), Level::Ok),
            (failed(vip), Level::Problem),
            (way(2, true, None), Level::Problem),
        ];
        for (answer, expected) in cases {
            assert_eq!(answered_for(vip, false, &answer).level, expected, "{answer:?}");
        }
        assert_eq!(answered_for(vip, true, &Err(Unresolved::LocalAddress)).level, Level::Problem);
    }
}
