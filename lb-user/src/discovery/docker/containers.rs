//! What Docker's list of containers says, and which hosts they are. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Deserialize;

use crate::config::Docker;
use crate::discovery::AddressFamily;
use crate::discovery::found::{Found, Host};
use crate::discovery::teller::{Failure, FailureKind};

/// A container's own say, before what the configuration has for all.
const PORT_LABEL: &str = "xlb.port";
const WEIGHT_LABEL: &str = "xlb.weight";

/// As `GET /containers/json` lists it; absent and `null` are the same there.
#[derive(Clone, Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Container {
    pub(super) id: String,
    names: Option<Vec<String>>,
    labels: Option<BTreeMap<String, String>>,
    network_settings: Option<NetworkSettings>,
}

#[derive(Clone, Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    networks: Option<BTreeMap<String, Network>>,
}

/// Addresses are empty text where there is none.
#[derive(Clone, Deserialize, Debug)]
struct Network {
    #[serde(rename = "IPAddress")]
    v4: Option<String>,
    #[serde(rename = "GlobalIPv6Address")]
    v6: Option<String>,
}

/// The list in an answer.
pub(super) fn read(answer: &[u8]) -> Result<Vec<Container>, Failure> {
    let broken = |error: serde_json::Error| Failure::new(FailureKind::Broken, format!("Docker's list of containers: {error}"));
    serde_json::from_slice(answer).map_err(broken)
}

/// The hosts that containers are.
pub(super) fn found<'c>(containers: impl Iterator<Item = &'c Container>, docker: &Docker, family: AddressFamily) -> Found {
    let mut found = Found::default();
    for container in containers {
        match container.host(docker, family) {
            Ok(host) => found.hosts.push(host),
            Err(reason) => found.unread.push(format!("container {} ({reason})", container.name())),
        }
    }
    found
}

impl Container {
    fn name(&self) -> &str {
        let name = self.names.as_deref().and_then(<[String]>::first);
        name.map_or_else(|| self.id.get(..12).unwrap_or(&self.id), |name| name.trim_start_matches('/'))
    }

    fn host(&self, docker: &Docker, family: AddressFamily) -> Result<Host, String> {
        let address = self.address(docker.network.as_deref(), family)?;
        Ok(Host {
            address,
            port: self.number(PORT_LABEL)?.unwrap_or(docker.port),
            weight: self.number(WEIGHT_LABEL)?.unwrap_or(docker.weight),
            priority: 0,
        })
    }

    fn number(&self, label: &str) -> Result<Option<u16>, String> {
        let Some(text) = self.labels.as_ref().and_then(|labels| labels.get(label)) else { return Ok(None) };
        text.parse().map(Some).map_err(|_| format!("label {label} = {text:?}, but that is a number from 0 to 65535"))
    }

    fn address(&self, wanted: Option<&str>, family: AddressFamily) -> Result<IpAddr, String> {
        let none = BTreeMap::new();
        let networks = self.network_settings.as_ref().and_then(|settings| settings.networks.as_ref()).unwrap_or(&none);
        let names = || networks.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        let (name, network) = match wanted {
            Some(name) => {
                networks.get_key_value(name).ok_or_else(|| format!("it is not in network {name}, but in: {}", names()))?
            }
            None if networks.len() > 1 => return Err(format!("it is in several networks: name one of {} in `network`", names())),
            None => networks.first_key_value().ok_or("it is in no network")?,
        };
        let address = match family {
            AddressFamily::V4 => &network.v4,
            AddressFamily::V6 => &network.v6,
        };
        let address = address.as_deref().filter(|address| !address.is_empty());
        let address = address.ok_or_else(|| format!("it has no address of the VIP's family in network {name}"))?;
        address.parse().map_err(|_| format!("its address is {address:?}"))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use expect_test::{Expect, expect};

    use super::*;
    use crate::config::Trust;

    /// A list with one container, which has these labels and networks.
    fn container(labels: &str, networks: &str) -> Vec<Container> {
        let text = format!(
            r#"[{{"Id":"3fd19adacd5e5b650b","Names":["/web-1"],"Image":"bb","Labels":{labels},"State":"running","Ports":[],
            "HostConfig":{{"NetworkMode":"app"}},"NetworkSettings":{{"Networks":{networks}}}}}]"#
        );
        read(text.as_bytes()).unwrap()
    }

    fn check(containers: &[Container], network: Option<&str>, family: AddressFamily, expected: Expect) {
        let docker = Docker {
            socket: "/s".into(),
            labels: Vec::new(),
            network: network.map(str::to_owned),
            port: 80,
            weight: 1,
            interval: Duration::from_secs(60),
            trust: Trust { stale: None, min_hosts: 0 },
        };
        let found = found(containers.iter(), &docker, family);
        let hosts = found.hosts.iter().map(|host| format!("{} {} weight {}", host.address, host.port, host.weight));
        expected.assert_eq(&hosts.chain(found.unread.iter().cloned()).collect::<Vec<_>>().join("\n"));
    }

    const ONE: &str = r#"{"app":{"NetworkID":"x","IPAddress":"172.28.0.2","GlobalIPv6Address":"fd00::2","MacAddress":"02"}}"#;
    const TWO: &str = r#"{"app":{"IPAddress":"172.28.0.2"},"back":{"IPAddress":"172.29.0.2","GlobalIPv6Address":""}}"#;
    use AddressFamily::{V4, V6};

    #[test]
    fn a_containers_address_is_that_of_its_network_and_the_vips_family() {
        check(&container("{}", ONE), None, V4, expect!["172.28.0.2 80 weight 1"]);
        check(&container("null", ONE), None, V6, expect!["fd00::2 80 weight 1"]);
        check(&container("{}", TWO), Some("back"), V4, expect!["172.29.0.2 80 weight 1"]);
    }

    #[test]
    fn labels_say_port_and_weight() {
        check(&container(r#"{"xlb.port":"8080","xlb.weight":"0"}"#, ONE), None, V4, expect!["172.28.0.2 8080 weight 0"]);
        check(
            &container(r#"{"xlb.port":"http"}"#, ONE),
            None,
            V4,
            expect![[r#"container web-1 (label xlb.port = "http", but that is a number from 0 to 65535)"#]],
        );
        check(
            &container(r#"{"xlb.weight":"65536"}"#, ONE),
            None,
            V4,
            expect![[r#"container web-1 (label xlb.weight = "65536", but that is a number from 0 to 65535)"#]],
        );
    }

    #[test]
    fn a_container_without_a_plain_address_is_told_of() {
        check(
            &container("{}", TWO),
            None,
            V4,
            expect!["container web-1 (it is in several networks: name one of app, back in `network`)"],
        );
        check(
            &container("{}", TWO),
            Some("front"),
            V4,
            expect!["container web-1 (it is not in network front, but in: app, back)"],
        );
        check(
            &container("{}", TWO),
            Some("back"),
            V6,
            expect!["container web-1 (it has no address of the VIP's family in network back)"],
        );
        check(&container("{}", "{}"), None, V4, expect!["container web-1 (it is in no network)"]);
        check(&container("{}", "null"), None, V4, expect!["container web-1 (it is in no network)"]);
        // In the host's own network.
        check(
            &container("{}", r#"{"host":{"IPAddress":""}}"#),
            None,
            V4,
            expect!["container web-1 (it has no address of the VIP's family in network host)"],
        );
    }

    #[test]
    fn what_is_no_list_is_a_failure() {
        for answer in ["", "{}", "[{}]", "[{\"Id\":1}]"] {
            assert_eq!(read(answer.as_bytes()).unwrap_err().kind, FailureKind::Broken, "{answer}");
        }
    }
}
