//! `[node]`, `[service.zones]`, and the zone of a backend or a source.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use toml::de::DeValue;

use super::discovery::Ranks;
use super::report::{Problem, Problems};
use super::section::{At, Fault, Section};
use super::suggest::nearest;
use super::{Backend, Node, values};
use crate::desired::Algorithm;
use crate::failover::{Spread, Tier, Zone, ZoneRules};

/// As Envoy has it.
const OVERPROVISION_DEFAULT: u16 = 140;
/// In hundredths: below that a zone could not bear what it has; far above, nothing would ever spill over.
const OVERPROVISION_MIN: u16 = 100;
const OVERPROVISION_MAX: u16 = 1_000;
const WEIGHT_MAX: u32 = 1_000;

pub(super) fn node(mut section: Section<'_>, problems: &mut Problems) -> Option<Node> {
    let zone = zone(&mut section, problems);
    section.finish(problems);
    Some(Node { zone: zone?.value })
}

/// Where a zone may be named; without one, where it would stand.
pub(super) fn zone(section: &mut Section<'_>, problems: &mut Problems) -> Option<At<Option<Zone>>> {
    section.or("zone", None, problems, |value| values::string(value, "a zone's name").and_then(zone_name).map(Some))
}

fn zone_name(name: &str) -> Result<Zone, Fault> {
    values::name(name, "zone").map(Zone::from)
}

/// A zone by its name, as somebody says it at runtime, or what is wrong with that name.
pub(crate) fn named(name: &str) -> Result<Zone, String> {
    zone_name(name).map_err(|Fault { label, help }| format!("zone {name:?}: {label}; {help}"))
}

/// What a service's file says of zones, and where.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) rules: ZoneRules,
    span: Range<usize>,
}

/// What else of the service has to do with zones. What is `None` was refused.
pub(super) struct Of<'a> {
    pub(super) algorithm: Option<Algorithm>,
    pub(super) backends: &'a [Option<At<Backend>>],
    pub(super) ranks: Option<&'a Ranks>,
}

/// `Some(None)` without such a section, `None` if it was refused.
pub(super) fn read(parent: &mut Section<'_>, of: &Of<'_>, problems: &mut Problems) -> Option<Option<Draft>> {
    let is_given = parent.has("zones");
    let Some(mut section) = parent.table("zones", "[service.zones]", problems) else { return (!is_given).then_some(None) };
    let span = section.span.clone();
    let overprovision = section.or("overprovision", OVERPROVISION_DEFAULT, problems, |value| {
        values::hundredths(value, OVERPROVISION_MIN, OVERPROVISION_MAX)
    });
    let mut faulty_weights = Vec::new();
    let weights = section.or("weights", None, problems, |value| weights(value, &mut faulty_weights).map(Some));
    let is_faulty = !faulty_weights.is_empty();
    faulty_weights.into_iter().for_each(|problem| problems.push(problem));
    section.finish(problems);
    if of.algorithm == Some(Algorithm::RoundRobin) {
        let problem =
            Problem::new("zones with round-robin", span.clone(), "round-robin asks for no weights, and so for no shares");
        problems.push(problem.help("use `algorithm = \"weighted-round-robin\"`, or remove `[service.zones]`"));
    }
    let (overprovision, weights) = (overprovision?.value, weights?.value);
    if is_faulty {
        return None;
    }
    let inhabited = inhabited(of);
    if inhabited.as_ref().is_some_and(|zones| zones.is_empty()) {
        let problem =
            Problem::new("zones without a backend in one", span.clone(), "no backend or source of this service has a zone");
        problems.push(problem.help("give its backends `zone = \"a\"`, each its own, or remove `[service.zones]`"));
    } else if let Some(weights) = &weights {
        check_weights(weights, inhabited.as_ref(), problems);
        check_backends(weights, of, problems);
    }
    let spread = weights.map_or(Spread::Local, |weights| {
        Spread::Weights(weights.into_iter().map(|(zone, weight)| (zone.value, weight)).collect())
    });
    Some(Some(Draft { rules: ZoneRules { spread, overprovision }, span }))
}

/// The weight of each zone, and where the file names it.
type Weights = Vec<(At<Zone>, u16)>;

fn weights(value: &DeValue<'_>, faulty: &mut Vec<Problem>) -> Result<Weights, Fault> {
    const HELP: &str = "write `weights = { a = 50, b = 30 }`, a weight for each zone";
    let Some(table) = value.as_table() else {
        return Err(Fault::new(format!("expected a weight for each zone, found {}", values::found(value)), HELP));
    };
    let mut weights = Weights::new();
    for (key, value) in table.iter() {
        let weight = values::integer(value.get_ref(), 0, WEIGHT_MAX).map_err(|fault| (fault, value.span()));
        match zone_name(key.get_ref()).map_err(|fault| (fault, key.span())).and_then(|zone| Ok((zone, weight?))) {
            // The bounds keep it within 16 bits.
            Ok((zone, weight)) => weights.push((At { value: zone, span: key.span() }, u16::try_from(weight).unwrap_or(u16::MAX))),
            Err((fault, span)) => faulty.push(fault.at(key.get_ref(), "[service.zones] weights", span)),
        }
    }
    if faulty.is_empty() && weights.iter().all(|(_, weight)| *weight == 0) {
        return Err(Fault::new("no zone has a weight", HELP));
    }
    Ok(weights)
}

/// The zones that the service has backends in. `None` if something was refused that might name one.
fn inhabited(of: &Of<'_>) -> Option<BTreeSet<Zone>> {
    let of_sources = of.ranks?.values().filter_map(|rank| rank.value.zone.clone());
    let mut zones: BTreeSet<Zone> = of_sources.collect();
    for backend in of.backends {
        zones.extend(backend.as_ref()?.value.zone.clone());
    }
    Some(zones)
}

fn check_weights(weights: &Weights, inhabited: Option<&BTreeSet<Zone>>, problems: &mut Problems) {
    let sum: u32 = weights.iter().map(|(_, weight)| u32::from(*weight)).sum();
    for (zone, weight) in weights {
        if inhabited.is_some_and(|inhabited| !inhabited.contains(&zone.value)) {
            let known = || inhabited.into_iter().flatten().map(|zone| &**zone);
            let label = match nearest(&zone.value, known()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("no backend is in zone \"{}\"", zone.value),
            };
            let problem =
                Problem::new(format!("a weight for zone \"{}\", where nobody is", zone.value), zone.span.clone(), label);
            problems.push(problem.help(format!("this service has backends in {}", known().collect::<Vec<_>>().join(", "))));
        } else if *weight > 0 && u32::from(*weight) * 100 < sum {
            let label = format!("{weight} of {sum} is less than 1%");
            let problem = Problem::new(format!("too little for zone \"{}\"", zone.value), zone.span.clone(), label);
            problems
                .push(problem.help("shares are whole percent: raise it, or write 0, for a zone that serves while no other can"));
        }
    }
}

/// With weights, who is in no zone that has one would take nothing, which nobody writes a backend down for.
fn check_backends(weights: &Weights, of: &Of<'_>, problems: &mut Problems) {
    let backends = of.backends.iter().flatten().filter(|backend| backend.value.tier != Tier::Sorry);
    let backends = backends.map(|backend| (&backend.value.zone, &backend.span));
    let sources = of.ranks.into_iter().flat_map(BTreeMap::values).map(|rank| (&rank.value.zone, &rank.span));
    for (zone, span) in backends.chain(sources) {
        let (title, label) = match zone {
            Some(zone) if weights.iter().any(|(weighed, _)| weighed.value == *zone) => continue,
            Some(zone) => (format!("zone \"{zone}\" has no weight"), format!("in zone \"{zone}\"")),
            None => ("a backend without a zone, where zones have weights".to_owned(), "no `zone` here".to_owned()),
        };
        let help = match zone {
            Some(zone) => {
                format!("add it to `weights` in `[service.zones]`: `{zone} = 50`, or 0, to serve while no other zone can")
            }
            None => "add `zone = \"a\"`".to_owned(),
        };
        problems.push(Problem::new(title, span.clone(), label).help(help));
    }
}

/// What is wrong between a service and the machine. `node` is `None` if it was refused.
pub(super) fn check_node(draft: &Draft, node: Option<&Node>, problems: &mut Problems) {
    if draft.rules.spread == Spread::Local && node.is_some_and(|node| node.zone.is_none()) {
        let problem = Problem::new(
            "which zone comes first is not known",
            draft.span.clone(),
            "this machine's own zone, unless zones have weights",
        );
        problems.push(problem.help("add `[node]` with `zone = \"a\"`, or `weights = { a = 50, b = 50 }` here"));
    }
}
