//! Settings of the host without which replies of NAT backends do not reach their clients.

use std::collections::BTreeSet;

use tracing::warn;

use crate::desired::{Desired, Service};
use crate::status::Interface;

/// What NAT services ask of the host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    forwarding_v4: bool,
    forwarding_v6: bool,
    /// Where replies over IPv4 come in.
    replies_v4: BTreeSet<String>,
}

/// What is set otherwise than needed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    pub finding: String,
    /// Sets it right.
    pub command: String,
}

/// Says what is set wrongly, each once.
#[derive(Debug, Default)]
pub struct Watch {
    looked_for: Needs,
    said: BTreeSet<String>,
}

impl Watch {
    /// Looks whether the host is set for these services, if they need something else than before.
    pub fn look(&mut self, desired: &Desired, interfaces: &[Interface]) {
        let needs = Needs::of(desired, interfaces);
        if needs == self.looked_for {
            return;
        }
        for Trouble { finding, command } in troubles(&needs, read) {
            let trouble = format!("{finding}: {command}");
            if !self.said.contains(&trouble) {
                warn!("{trouble}");
                self.said.insert(trouble);
            }
        }
        self.looked_for = needs;
    }
}

impl Needs {
    pub fn of(desired: &Desired, interfaces: &[Interface]) -> Self {
        let nat = |is_v4: bool| {
            let services = desired.services.values();
            services.filter(move |service| service.forward.translates() && service.vip.is_ipv4() == is_v4)
        };
        let hops = |service: &Service| service.backends.values().filter_map(|backend| backend.next_hop).collect::<Vec<_>>();
        let indices: BTreeSet<u32> = nat(true).flat_map(hops).map(|hop| hop.ifindex).collect();
        let inside = interfaces.iter().filter(|interface| indices.contains(&interface.ifindex));
        Self {
            forwarding_v4: nat(true).next().is_some(),
            forwarding_v6: nat(false).next().is_some(),
            replies_v4: inside.map(|interface| interface.name.clone()).collect(),
        }
    }
}

/// Settings that are not as needed, as `read` gives them by their path below `/proc/sys`. What cannot be read is taken to be right.
pub fn troubles(needs: &Needs, read: impl Fn(&str) -> Option<u32>) -> Vec<Trouble> {
    let switches = [(needs.forwarding_v4, "net/ipv4/ip_forward"), (needs.forwarding_v6, "net/ipv6/conf/all/forwarding")];
    let off = switches.into_iter().filter(|&(is_needed, key)| is_needed && read(key) == Some(0));
    let mut troubles: Vec<Trouble> = off
        .map(|(_, key)| {
            let switch = key.replace('/', ".");
            Trouble {
                finding: format!("{switch} is 0, so replies of nat backends will not be routed to their clients"),
                command: format!("sysctl -w {switch}=1"),
            }
        })
        .collect();
    troubles.extend(needs.replies_v4.iter().filter_map(|interface| spoofing(interface, &read)));
    troubles
}

/// Why a reply that is left to the host's routing would be dropped where it comes in.
///
/// It has the VIP as its source by then. That is an address of the host, which takes it for spoofed unless `accept_local`
/// is set, and it does not belong to that interface, which strict `rp_filter` forbids. IPv6 has neither check. The kernel
/// goes by the higher `rp_filter`, and by either `accept_local`, of the interface and of all (ip-sysctl.rst).
fn spoofing(interface: &str, read: impl Fn(&str) -> Option<u32>) -> Option<Trouble> {
    let of = |name: &str, key: &str| read(&format!("net/ipv4/conf/{name}/{key}"));
    let effective = |key: &str| Some(of("all", key)?.max(of(interface, key)?));
    let is_strict = effective("rp_filter") == Some(1);
    let is_refused = effective("accept_local") == Some(0);
    // Dots in an interface's name are slashes to sysctl.
    let setting = |key: &str| format!("net.ipv4.conf.{}.{key}", interface.replace('.', "/"));
    let mut wrong = Vec::new();
    let mut right = Vec::new();
    if is_strict {
        wrong.push("rp_filter is 1");
        right.push(format!("{}=2", setting("rp_filter")));
    }
    if is_refused {
        wrong.push("accept_local is 0");
        right.push(format!("{}=1", setting("accept_local")));
    }
    (!wrong.is_empty()).then(|| Trouble {
        finding: format!(
            "interface {interface}: {}, so a reply of a nat backend is dropped as spoofed whenever its next hop is not known yet",
            wrong.join(" and ")
        ),
        command: format!("sysctl -w {}", right.join(" ")),
    })
}

/// A kernel parameter by its path below `/proc/sys`, if it is there and a number.
pub fn read(key: &str) -> Option<u32> {
    std::fs::read_to_string(format!("/proc/sys/{key}")).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORWARDING: [(&str, u32); 2] = [("net/ipv4/ip_forward", 1), ("net/ipv6/conf/all/forwarding", 1)];

    /// What is wrong with these settings, by the commands that set it right.
    fn commands(needs: &Needs, settings: &[(&str, u32)]) -> Vec<String> {
        let read = |key: &str| settings.iter().find(|(name, _)| *name == key).map(|&(_, value)| value);
        let command = |trouble: Trouble| trouble.command.strip_prefix("sysctl -w ").unwrap().to_owned();
        troubles(needs, read).into_iter().map(command).collect()
    }

    #[test]
    fn forwarding_is_asked_of_the_families_that_nat_services_have() {
        let off = FORWARDING.map(|(key, _)| (key, 0));
        let needs = |forwarding_v4, forwarding_v6| Needs { forwarding_v4, forwarding_v6, ..Needs::default() };
        let (v4, v6) = ("net.ipv4.ip_forward=1".to_owned(), "net.ipv6.conf.all.forwarding=1".to_owned());
        assert_eq!(commands(&needs(false, false), &off), Vec::<String>::new());
        assert_eq!(commands(&needs(true, false), &off), std::slice::from_ref(&v4));
        assert_eq!(commands(&needs(true, true), &off), [v4, v6]);
        assert_eq!(commands(&needs(true, true), &FORWARDING), Vec::<String>::new());
    }

    #[test]
    fn replies_with_the_vip_as_source_must_not_be_taken_for_spoofed() {
        let rp_filter = "net.ipv4.conf.eth1.rp_filter=2";
        let accept_local = "net.ipv4.conf.eth1.accept_local=1";
        // rp_filter of all and of eth1, and accept_local of both; and what is to be set.
        let cases = [
            ([0, 0, 0, 1], vec![]),
            ([0, 2, 0, 1], vec![]),
            ([1, 2, 1, 0], vec![]),
            ([2, 1, 0, 1], vec![]),
            ([0, 1, 0, 1], vec![rp_filter]),
            ([1, 0, 0, 1], vec![rp_filter]),
            ([0, 2, 0, 0], vec![accept_local]),
            ([0, 0, 0, 0], vec![accept_local]),
            ([1, 1, 0, 0], vec![rp_filter, accept_local]),
        ];
        let needs = Needs { replies_v4: BTreeSet::from(["eth1".to_owned()]), ..Needs::default() };
        for (values, expected) in cases {
            let keys = ["all/rp_filter", "eth1/rp_filter", "all/accept_local", "eth1/accept_local"];
            let keys = keys.map(|key| format!("net/ipv4/conf/{key}"));
            let settings: Vec<(&str, u32)> = keys.iter().map(String::as_str).zip(values).collect();
            let expected: Vec<String> = (!expected.is_empty()).then(|| expected.join(" ")).into_iter().collect();
            assert_eq!(commands(&needs, &settings), expected, "{values:?}");
        }
    }

    #[test]
    fn an_interface_with_a_dot_is_named_as_sysctl_takes_it() {
        let needs = Needs { replies_v4: BTreeSet::from(["eth1.7".to_owned()]), ..Needs::default() };
        let settings = [("net/ipv4/conf/all/accept_local", 0), ("net/ipv4/conf/eth1.7/accept_local", 0)];
        assert_eq!(commands(&needs, &settings), ["net.ipv4.conf.eth1/7.accept_local=1"]);
    }
}
