use super::*;
use crate::config::parse;
use crate::discovery::Kind;

const HEAD: &str = "[xdp]\ninterfaces = [\"eth0\"]\n";

/// A configuration of these `[[service]]` sections.
fn config(services: &str) -> Config {
    parse("test.toml", &format!("{HEAD}{services}")).unwrap_or_else(|error| panic!("{error}"))
}

fn service(name: &str, vip: &str, port: u16, rest: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = {port}\nhealth.type = \"none\"\n{rest}\n")
}

fn discovered(found: &[(&str, &str)]) -> Findings {
    let mut findings = Findings::default();
    for (service, endpoint) in found {
        find(&mut findings, service, Kind::Dns, endpoint, 7);
    }
    findings
}

/// A source gives one endpoint more.
fn find(findings: &mut Findings, service: &str, source: Kind, endpoint: &str, weight: u16) {
    let by_source = findings.discovered.entry(service.into()).or_default();
    by_source.entry(source).or_default().insert(endpoint.parse().unwrap(), weight);
}

/// Endpoints of a service, with their weights.
fn backends(desired: &Desired, service: &str) -> Vec<(String, u16)> {
    let backends = &desired.services[service].backends;
    backends.iter().map(|(endpoint, backend)| (endpoint.to_string(), backend.weight)).collect()
}

fn hop(last_byte: u8) -> NextHop {
    NextHop {
        ifindex: 2,
        source: MacAddr::new([2; 6]),
        destination: MacAddr::new([4, 0, 0, 0, 0, last_byte]),
        takes_redirects: true,
        ..NextHop::NOWHERE
    }
}

fn direct(last_byte: u8) -> Answer {
    Ok(Way { hop: hop(last_byte), gateway: None })
}

fn note(findings: &mut Findings, address: &str, answer: Answer) {
    let next_hops = BTreeMap::from([(address.parse().unwrap(), answer)]);
    findings.note_next_hops(Changes { next_hops, redirects: None });
}

const DNS: &str = "dns = { name = \"web.internal\", weight = 7 }";

#[test]
fn a_discovered_address_that_is_a_vip_is_left_out() {
    let config = config(&(service("web", "10.200.1.1", 80, DNS) + &service("db", "10.200.1.2", 80, DNS)));
    let desired = assemble(&config, &discovered(&[("web", "10.0.0.1:80"), ("web", "10.200.1.1:80"), ("web", "10.200.1.2:80")]));
    assert_eq!(backends(&desired, "web"), [("10.0.0.1:80".into(), 7)]);
}

#[test]
fn a_discovered_nat_backend_of_another_nat_service_is_left_out_wherever_that_service_stands() {
    let fixed = "forward = \"nat\"\nbackend = [{ address = \"10.0.0.1\", port = 8080 }]";
    let found = format!("forward = \"nat\"\n{}", DNS.replace("weight", "port = 8080, weight"));
    let services = [
        service("first", "10.200.1.1", 80, &found),
        service("second", "10.200.1.2", 80, fixed),
        service("third", "10.200.1.3", 80, &found),
    ];
    let found = [("first", "10.0.0.1:8080"), ("first", "10.0.0.2:8080"), ("third", "10.0.0.2:8080"), ("third", "10.0.0.3:8080")];
    let desired = assemble(&config(&services.concat()), &discovered(&found));
    assert_eq!(backends(&desired, "first"), [("10.0.0.2:8080".into(), 7)]);
    assert_eq!(backends(&desired, "second"), [("10.0.0.1:8080".into(), 1)]);
    assert_eq!(backends(&desired, "third"), [("10.0.0.3:8080".into(), 7)]);
}

#[test]
fn every_port_of_a_nat_backend_is_also_each_of_them() {
    let nat = |rest: &str| format!("forward = \"nat\"\n{rest}");
    let services = [
        service("fixed", "10.200.1.1", 80, &nat("backend = [{ address = \"10.0.0.1\", port = 8080 }]")),
        service("all", "10.200.1.2", 0, &nat(DNS)),
        service("one", "10.200.1.3", 80, &nat(DNS)),
    ];
    let found = [("all", "10.0.0.1:0"), ("all", "10.0.0.2:0"), ("one", "10.0.0.2:80"), ("one", "10.0.0.3:80")];
    let desired = assemble(&config(&services.concat()), &discovered(&found));
    assert_eq!(backends(&desired, "all"), [("10.0.0.2:0".into(), 7)]);
    assert_eq!(backends(&desired, "one"), [("10.0.0.3:80".into(), 7)]);
}

#[test]
fn a_dsr_backend_may_serve_many() {
    let config = config(&(service("web", "10.200.1.1", 80, DNS) + &service("db", "10.200.1.2", 80, DNS)));
    let desired = assemble(&config, &discovered(&[("web", "10.0.0.1:80"), ("db", "10.0.0.1:80")]));
    assert_eq!((backends(&desired, "web").len(), backends(&desired, "db").len()), (1, 1));
}

#[test]
fn a_configured_weight_wins_over_discoverys() {
    let rest = format!("backend = [{{ address = \"10.0.0.1\", weight = 3 }}]\n{DNS}");
    let desired = assemble(
        &config(&service("web", "10.200.1.1", 80, &rest)),
        &discovered(&[("web", "10.0.0.1:80"), ("web", "10.0.0.2:80")]),
    );
    assert_eq!(backends(&desired, "web"), [("10.0.0.1:80".into(), 3), ("10.0.0.2:80".into(), 7)]);
}

#[test]
fn of_several_sources_all_backends_are_taken_with_the_weight_of_the_first() {
    let rest = format!(
        "backend = [{{ address = \"10.0.0.1\", weight = 3 }}]\n{DNS}\nfile.path = \"/f.json\"\ndocker.socket = \"/docker.sock\""
    );
    let config = config(&service("web", "10.200.1.1", 80, &rest));
    let mut findings = Findings::default();
    for (source, weight, hosts) in [(Kind::Dns, 7, 1..=5), (Kind::Docker, 11, 1..=4), (Kind::File, 13, 1..=3)] {
        for host in hosts {
            find(&mut findings, "web", source, &format!("10.0.0.{host}:80"), weight);
        }
    }
    let weights = backends(&assemble(&config, &findings), "web").into_iter().map(|(_, weight)| weight).collect::<Vec<_>>();
    assert_eq!(weights, [3, 13, 13, 11, 7]);
    let by: Vec<_> = sources(&config.services[0], &findings).into_values().map(|by| by.join(" ")).collect();
    assert_eq!(by, ["fixed file docker dns", "file docker dns", "file docker dns", "docker dns", "dns"]);
    // One that has nobody takes nothing of the others.
    findings.discovered.get_mut("web").unwrap().get_mut(&Kind::File).unwrap().clear();
    let weights = backends(&assemble(&config, &findings), "web").into_iter().map(|(_, weight)| weight).collect::<Vec<_>>();
    assert_eq!(weights, [3, 11, 11, 11, 7]);
}

#[test]
fn a_source_that_is_configured_no_more_has_no_say() {
    let config = config(&service("web", "10.200.1.1", 80, DNS));
    let mut findings = discovered(&[("web", "10.0.0.1:80")]);
    find(&mut findings, "web", Kind::Docker, "10.0.0.2:80", 1);
    assert_eq!(backends(&assemble(&config, &findings), "web"), [("10.0.0.1:80".into(), 7)]);
    findings.forget_sources(&config);
    assert_eq!(findings.discovered["web"].keys().collect::<Vec<_>>(), [&Kind::Dns]);
}

#[test]
fn what_is_refused_is_told_by_service_and_source() {
    let nat = |rest: &str| format!("forward = \"nat\"\n{rest}");
    let services = [
        service("fixed", "10.200.1.1", 80, &nat("backend = [{ address = \"10.0.0.1\" }]")),
        service("found", "10.200.1.2", 80, &nat(DNS)),
    ];
    let found = [("found", "10.0.0.1:80"), ("found", "10.200.1.1:80"), ("found", "10.0.0.2:80")];
    let refused = refused(&config(&services.concat()), &discovered(&found));
    let shown: Vec<_> = refused.iter().map(|((service, source), hosts)| format!("{service} {source} {hosts:?}")).collect();
    assert_eq!(
        shown,
        [
            "found dns {10.0.0.1:80: \"another nat service has it: its replies could not be told apart\", 10.200.1.1:80: \"it is a VIP\"}"
        ]
    );
}

#[test]
fn a_backend_serves_by_its_check_and_before_the_first_by_what_was_adopted() {
    let config = config(&service("web", "10.200.1.1", 80, "backend = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }]"));
    let key = |host: &str| (ServiceName::from("web"), format!("10.0.0.{host}:80").parse().unwrap());
    let mut findings = Findings::default();
    let alive = |findings: &Findings| {
        let desired = assemble(&config, findings);
        desired.services["web"].backends.values().map(|backend| backend.alive).collect::<Vec<_>>()
    };
    assert_eq!(alive(&findings), [false, false]);
    findings.adopted_alive.insert(key("1"));
    findings.health.insert(key("1"), State::Unknown.into());
    findings.health.insert(key("2"), State::Up.into());
    assert_eq!(alive(&findings), [true, true]);
    findings.health.insert(key("1"), State::Down.into());
    assert_eq!(alive(&findings), [false, true]);
}

#[test]
fn a_neighbour_that_is_only_asked_again_keeps_its_way_and_one_that_failed_loses_it() {
    let config = config(&service("web", "10.200.1.1", 80, "backend = [{ address = \"10.0.0.1\" }]"));
    let mut findings = Findings::default();
    let way = |findings: &Findings| assemble(&config, findings).services["web"].backends.values().next().unwrap().next_hop;
    let (interface, gateway) = ("eth0".to_owned(), "10.0.0.1".parse().unwrap());
    let pending = || Err(Unresolved::NeighbourPending { interface: interface.clone(), gateway });
    note(&mut findings, "10.0.0.1", pending());
    assert_eq!(way(&findings), None);
    note(&mut findings, "10.0.0.1", direct(1));
    assert_eq!(way(&findings), Some(hop(1)));
    note(&mut findings, "10.0.0.1", pending());
    assert_eq!(way(&findings), Some(hop(1)));
    note(&mut findings, "10.0.0.1", direct(2));
    assert_eq!(way(&findings), Some(hop(2)));
    note(&mut findings, "10.0.0.1", Err(Unresolved::NeighbourFailed { interface: interface.clone(), gateway }));
    assert_eq!(way(&findings), None);
    note(&mut findings, "10.0.0.1", pending());
    assert_eq!(way(&findings), None);
}

#[test]
fn a_way_without_link_layer_addresses_is_left_to_the_hosts_routing() {
    let mut findings = Findings::default();
    let tunnel = Unresolved::NoLinkLayerAddress { ifindex: 9, interface: "wg0".into(), kind: "wireguard".into() };
    note(&mut findings, "10.0.0.1", Err(tunnel));
    let hop = findings.last_ways.values().next().unwrap().hop;
    assert_eq!((hop.ifindex, hop.takes_redirects), (9, false));
}

#[test]
fn a_backend_behind_a_gateway_is_out_of_reach_by_dsr_and_in_reach_by_nat() {
    let backend = "backend = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }]";
    let nat = format!("forward = \"nat\"\n{}", backend.replace("10.0.0", "10.0.1"));
    let config = config(&(service("dsr", "10.200.1.1", 80, backend) + &service("nat", "10.200.1.2", 80, &nat)));
    let mut findings = Findings::default();
    let gateway = "10.0.0.254".parse().unwrap();
    for network in ["10.0.0", "10.0.1"] {
        note(&mut findings, &format!("{network}.1"), Ok(Way { hop: hop(1), gateway: Some(gateway) }));
        note(&mut findings, &format!("{network}.2"), direct(2));
    }
    let desired = assemble(&config, &findings);
    let ways = |name: &str| desired.services[name].backends.values().map(|backend| backend.next_hop).collect::<Vec<_>>();
    assert_eq!(ways("dsr"), [None, Some(hop(2))]);
    assert_eq!(ways("nat"), [Some(hop(1)), Some(hop(2))]);
    let refused = BTreeMap::from([(("dsr".into(), "10.0.0.1:80".parse().unwrap()), gateway)]);
    assert_eq!(behind_gateways(&desired, &findings), refused);
}

#[test]
fn what_concerns_no_backend_any_more_is_forgotten() {
    let config = config(&service("web", "10.200.1.1", 80, "backend = [{ address = \"10.0.0.1\" }]"));
    let mut findings = discovered(&[("web", "10.0.0.1:80"), ("gone", "10.0.0.2:80")]);
    for host in ["10.0.0.1", "10.0.0.2"] {
        note(&mut findings, host, direct(1));
        let key = (ServiceName::from("web"), SocketAddr::new(host.parse().unwrap(), 80));
        findings.health.insert(key.clone(), State::Up.into());
        findings.adopted_alive.insert(key);
    }
    findings.retain(&assemble(&config, &findings));
    let lens = [findings.discovered.len(), findings.health.len(), findings.adopted_alive.len(), findings.answers.len()];
    assert_eq!((lens, findings.last_ways.len()), ([1; 4], 1));
}
