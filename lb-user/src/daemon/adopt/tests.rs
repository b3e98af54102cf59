use lb_common::MacAddr;

use super::*;
use crate::compile::{Quiet, compile};
use crate::config::parse;
use crate::daemon::assemble::assemble;
use crate::discovery::Backends;
use crate::health::State;
use crate::tables::diff;

const N_SLOTS: u32 = 1 << 16;
const HOP: NextHop = NextHop {
    ifindex: 2,
    source: MacAddr::new([2; 6]),
    destination: MacAddr::new([4; 6]),
    takes_redirects: true,
    ..NextHop::NOWHERE
};

fn config(backends: &str) -> Config {
    let text = format!(
        "[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"10.200.1.1\"\nport = 80\n{backends}\n\
         [[service]]\nname = \"db\"\nvip = \"10.200.1.2\"\nport = 80\nbackend = [{{ address = \"10.0.0.9\" }}]\n"
    );
    parse("test.toml", &text).unwrap_or_else(|error| panic!("{error}"))
}

/// What a daemon with this configuration leaves behind, all its backends healthy and in reach.
fn left_behind(config: &Config, discovered: &[&str]) -> (Tables, Layout) {
    let mut findings = Findings::default();
    let found: Backends = discovered.iter().map(|endpoint| (endpoint.parse().unwrap(), 1)).collect();
    for source in config.services[0].sources() {
        findings.discovered.entry("web".into()).or_default().insert(source.kind(), found.clone());
    }
    for (name, service) in assemble(config, &findings).services {
        for endpoint in service.backends.into_keys() {
            findings.last_ways.insert(endpoint.ip(), Way { hop: HOP, gateway: None });
            findings.health.insert((name.clone(), endpoint), State::Up.into());
        }
    }
    compile(&assemble(config, &findings), &Layout::new(N_SLOTS), &Tables::default(), &Quiet(0)).unwrap()
}

/// What the next daemon makes of it: the tables taken over, and those that it then compiles.
fn taken_over(left: &Tables, config: &Config) -> (Tables, Tables, Layout) {
    let (mut layout, mut findings) = (Layout::new(N_SLOTS), Findings::default());
    let in_use = RecordsInUse { services: left.services.clone(), backends: left.backends.clone() };
    let slots = |region: Region| left.regions[&region.first_line].slots.clone();
    let adopted = take_over(in_use, slots, 1000, config, &mut layout, &mut findings);
    let adopted = Tables { flags: left.flags, ..adopted };
    let (tables, layout) = compile(&assemble(config, &findings), &layout, &adopted, &Quiet(1000)).unwrap();
    (adopted, tables, layout)
}

#[test]
fn nothing_moves_when_the_configuration_is_the_same() {
    let config = config("backend = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }]");
    let (left, _) = left_behind(&config, &[]);
    let (adopted, tables, _) = taken_over(&left, &config);
    let plan = diff(&adopted, &tables);
    assert!(plan.moves.is_empty() && plan.retire.is_empty(), "{:?}", plan.moves);
    assert_eq!((tables.services, tables.backends), (left.services, left.backends));
}

#[test]
fn one_that_had_failed_keeps_its_place_and_one_that_is_new_gets_none_before_it_is_up() {
    let before = config("backend = [{ address = \"10.0.0.1\" }, { address = \"10.0.0.2\" }, { address = \"10.0.0.3\" }]");
    let (mut left, layout) = left_behind(&before, &[]);
    let mut desired = assemble(&before, &Findings::default());
    for service in desired.services.values_mut() {
        for (endpoint, backend) in &mut service.backends {
            backend.alive = endpoint.to_string() != "10.0.0.2:80";
            (backend.is_undecided, backend.next_hop) = (false, Some(HOP));
        }
    }
    (left, _) = compile(&desired, &layout, &left, &Quiet(0)).unwrap();
    let list = (1..=4).map(|host| format!("{{ address = \"10.0.0.{host}\" }}")).collect::<Vec<_>>().join(", ");
    let (adopted, tables, _) = taken_over(&left, &config(&format!("backend = [{list}]")));
    let plan = diff(&adopted, &tables);
    assert!(plan.moves.is_empty() && plan.retire.is_empty(), "{:?}", plan.moves);
}

#[test]
fn discovered_backends_serve_until_their_source_says_otherwise() {
    for source in ["dns.name = \"web.internal\"", "file.path = \"/web.json\"", "docker.labels = [\"web\"]"] {
        let config = config(source);
        let (left, _) = left_behind(&config, &["10.0.0.1:80", "10.0.0.2:80"]);
        let (adopted, tables, _) = taken_over(&left, &config);
        let plan = diff(&adopted, &tables);
        assert!(plan.moves.is_empty() && plan.retire.is_empty(), "{source}: {:?}", plan.moves);
        assert_eq!(tables.backends, left.backends, "{source}");
    }
}

#[test]
fn slots_of_backends_that_are_configured_no_more_are_nobodys() {
    for gone in ["backend = []", "backend = [{ address = \"10.0.0.1\", weight = 0 }]"] {
        let (left, layout) = left_behind(&config("backend = [{ address = \"10.0.0.1\" }]"), &[]);
        let first_line = Region::of(&left.services[&layout.find_service(&"web".into()).unwrap()]).first_line;
        let (_, tables, _) = taken_over(&left, &config(gone));
        let slots = &tables.regions[&first_line].slots;
        assert!(slots.iter().all(|slot| slot.current().is_none()), "{gone}: {:?}", slots[0]);
    }
}

#[test]
fn a_service_under_another_name_is_the_same_service() {
    let before = config("backend = [{ address = \"10.0.0.1\" }]");
    let (left, layout) = left_behind(&before, &[]);
    let mut after = before;
    after.services[0].name = "shop".into();
    let (_, tables, new_layout) = taken_over(&left, &after);
    assert_eq!(new_layout.find_service(&"shop".into()), layout.find_service(&"web".into()));
    assert_eq!(tables.backends, left.backends);
}
