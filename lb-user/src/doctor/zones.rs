//! Whether this machine's zone is one that backends are in.

use super::Check;
use crate::config::{Config, Service};
use crate::failover::{Spread, Zone};

/// Nothing, if no service puts the machine's own zone first.
pub fn examine(config: &Config) -> Option<Check> {
    let own = config.node.zone.as_ref()?;
    let goes_by_it = |service: &&Service| service.zones.as_ref().is_some_and(|zones| zones.spread == Spread::Local);
    let is_in_it = |service: &&Service| zones(service).any(|zone| zone == own);
    let (near, far): (Vec<&Service>, Vec<&Service>) = config.services.iter().filter(goes_by_it).partition(is_in_it);
    let subject = format!("zone {own}");
    if far.is_empty() {
        let names: Vec<&str> = near.iter().map(|service| &*service.name).collect();
        return (!names.is_empty()).then(|| Check::ok(subject, format!("backends of {} are in it", names.join(", "))));
    }
    let names: Vec<&str> = far.iter().map(|service| &*service.name).collect();
    let finding = format!("no backend of {} is in it: all their connections go to other zones", names.join(", "));
    let mut theirs: Vec<&str> = far.iter().flat_map(|service| zones(service)).map(|zone| &**zone).collect();
    theirs.sort_unstable();
    theirs.dedup();
    let mend = format!("is `zone` in [node] right? They are in {}", theirs.join(", "));
    Some(Check::warning(subject, finding, mend))
}

fn zones(service: &Service) -> impl Iterator<Item = &Zone> {
    let of_sources = service.ranks.values().filter_map(|rank| rank.zone.as_ref());
    service.backends.iter().filter_map(|backend| backend.zone.as_ref()).chain(of_sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn a_zone_without_backends_is_told() {
        let examined = |own: &str, zones: &str| {
            let text = format!(
                "[xdp]\ninterfaces = [\"eth0\"]\n[node]\nzone = \"{own}\"\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 80\n\
                 [[service.backend]]\naddress = \"10.0.0.1\"\nzone = \"a\"\n[service.dns]\nname = \"a.b\"\nzone = \"b\"\n{zones}"
            );
            examine(&crate::config::parse("xlb.toml", &text).unwrap_or_else(|error| panic!("{error}")))
        };
        for own in ["a", "b"] {
            let check = examined(own, "[service.zones]").unwrap();
            assert_eq!((check.level, &*check.finding), (Level::Ok, "backends of web are in it"));
        }
        let check = examined("A", "[service.zones]").unwrap();
        assert_eq!((check.level, &*check.subject), (Level::Warning, "zone A"));
        assert_eq!(check.finding, "no backend of web is in it: all their connections go to other zones");
        assert_eq!(check.mend.as_deref(), Some("is `zone` in [node] right? They are in a, b"));
        assert_eq!(examined("c", ""), None);
        assert_eq!(examined("c", "[service.zones]\nweights = { a = 1, b = 1 }"), None);
    }
}
