//! `[fullnat]`, and what services and it have to do with each other.

use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};

use lb_common::limits::POOL_ADDRESSES;
use lb_common::session::PORTS_MIN;
use toml::de::DeValue;

use super::report::{Problem, Problems};
use super::section::{At, Fault, Section};
use super::service::ServiceDraft;
use super::values;
use crate::desired::Forward;
use crate::pool::{PORTS_DEFAULT, Pool};

/// Below are ports of services, and those that only root may bind (RFC 6335 section 6).
const PORT_MIN: u16 = 1024;

/// The section as far as it could be read, with the place of each address.
#[derive(Default)]
pub(super) struct Draft {
    addresses: Vec<At<IpAddr>>,
    ports: Option<RangeInclusive<u16>>,
    /// What was wrong has been reported.
    is_refused: bool,
}

impl Draft {
    pub(super) fn read(mut section: Section<'_>, problems: &mut Problems) -> Self {
        let mut faults = Vec::new();
        let help = "name addresses of this machine that stand for clients: `addresses = [\"10.0.0.250\"]`";
        let addresses = section.required("addresses", help, problems, |value| addresses(value, &mut faults));
        let is_refused = addresses.is_none() || !faults.is_empty();
        faults.into_iter().for_each(|problem| problems.push(problem));
        let ports = section.or("ports", PORTS_DEFAULT, problems, ports);
        section.finish(problems);
        let is_refused = is_refused || ports.is_none();
        let addresses = addresses.map(|addresses| addresses.value).unwrap_or_default();
        Self { addresses, ports: ports.map(|ports| ports.value), is_refused }
    }

    /// What stands here and elsewhere, and must not.
    pub(super) fn check(&self, services: &[ServiceDraft], problems: &mut Problems) {
        for address in &self.addresses {
            let is_it = |ip: IpAddr| ip == address.value;
            let vip = services.iter().filter_map(|service| service.listens.as_ref()).find(|vip| is_it(vip.value.vip));
            let backends = services.iter().flat_map(|service| service.backends.iter().flatten());
            let backend =
                backends.map(|backend| (backend.value.endpoint, &backend.span)).find(|(endpoint, _)| is_it(endpoint.ip()));
            if let Some(vip) = vip {
                let title = format!("{} is a VIP and an address of the pool", address.value);
                problems.push(taken(title, address, &vip.span, "what comes there is for a service"));
            } else if let Some((endpoint, span)) = backend {
                let title = format!("{} is a backend and an address of the pool", endpoint.ip());
                problems.push(taken(title, address, span, "packets to the pool are this machine's own"));
            }
        }
        if self.is_refused {
            return;
        }
        for service in services.iter().filter(|service| service.forward == Some(Forward::Fullnat)) {
            let Some(vip) = &service.listens else { continue };
            let is_v4 = vip.value.vip.is_ipv4();
            if !self.addresses.iter().any(|address| address.value.is_ipv4() == is_v4) {
                let family = if is_v4 { "IPv4" } else { "IPv6" };
                let title = format!("full NAT of {family}, and no {family} address to come from");
                let help = match self.addresses.is_empty() {
                    true => "add `[fullnat]` with `addresses = [\"...\"]`: addresses of this machine that are no VIPs",
                    false => "add one to `addresses` in `[fullnat]`: packets keep their family",
                };
                problems.push(Problem::new(title, vip.span.clone(), "its backends would have nobody to answer").help(help));
            }
        }
    }

    /// The pool, if nothing of it was refused.
    pub(super) fn complete(self) -> Option<Pool> {
        if self.is_refused {
            return None;
        }
        let addresses = self.addresses.into_iter().map(|address| address.value).collect();
        Some(Pool { addresses, ports: self.ports.unwrap_or(PORTS_DEFAULT) })
    }
}

fn taken(title: String, address: &At<IpAddr>, other: &Range<usize>, label: &'static str) -> Problem {
    let problem = Problem::new(title, address.span.clone(), "this address").and(other.clone(), label);
    problem.help("give the pool an address of its own: `ip addr add ADDRESS/LENGTH dev INTERFACE`")
}

/// The usable addresses; each of the others is a problem at its own place.
fn addresses(value: &DeValue<'_>, problems: &mut Vec<Problem>) -> Result<Vec<At<IpAddr>>, Fault> {
    let array = value.as_array().ok_or_else(|| {
        let help = "write a list, even of one: `addresses = [\"10.0.0.250\"]`";
        Fault::new(format!("expected a list of addresses, found {}", values::found(value)), help)
    })?;
    if array.is_empty() {
        return Err(Fault::new("an empty list", "name at least one address, or remove `[fullnat]`"));
    }
    if array.len() > POOL_ADDRESSES as usize {
        let help = format!("xlb takes {POOL_ADDRESSES} at most, each with all its ports");
        return Err(Fault::new(format!("{} addresses", array.len()), help));
    }
    let mut addresses: Vec<At<IpAddr>> = Vec::new();
    for element in array.iter() {
        match values::host_address(element.get_ref()) {
            Ok(address) => match addresses.iter().find(|known| known.value == address) {
                Some(first) => problems.push(
                    Problem::new(format!("{address} is in the pool twice"), element.span(), "again here")
                        .and(first.span.clone(), "first here")
                        .help("it has no more ports by that: remove one of them"),
                ),
                None => addresses.push(At { value: address, span: element.span() }),
            },
            Err(fault) => problems.push(fault.at("addresses", "[fullnat]", element.span())),
        }
    }
    Ok(addresses)
}

/// The first and the last.
fn ports(value: &DeValue<'_>) -> Result<RangeInclusive<u16>, Fault> {
    let help = || format!("write the first and the last, from {PORT_MIN} on: `ports = \"10240-65535\"`");
    let text = values::string(value, "a range of ports").map_err(|fault| Fault::new(fault.label, help()))?;
    let parsed = text.split_once('-').and_then(|(first, last)| Some((first.trim().parse().ok()?, last.trim().parse().ok()?)));
    let Some((first, last)) = parsed else {
        return Err(Fault::new(format!("expected a range of ports, found {}", values::found(value)), help()));
    };
    let ports: RangeInclusive<u16> = first..=last;
    if first < PORT_MIN {
        return Err(Fault::new(format!("ports below {PORT_MIN} are of services"), help()));
    }
    if (ports.len() as u32) < PORTS_MIN {
        return Err(Fault::new(format!("{} ports", ports.len()), format!("write a range of {PORTS_MIN} at least")));
    }
    Ok(ports)
}
