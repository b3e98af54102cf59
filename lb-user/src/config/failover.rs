//! The keys of a service that say who takes new flows while others cannot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use toml::de::DeValue;

use super::discovery::Ranks;
use super::report::{Problem, Problems};
use super::section::{At, Fault, Section};
use super::{Backend, values};
use crate::failover::{Failback, Minimum, Rules, Tier};

const FAILBACKS: [(&str, Failback); 2] = [("auto", Failback::Auto), ("manual", Failback::Manual)];
/// Shorter than this, its steps are shorter than what a check can tell.
const SLOW_START_MIN: Duration = Duration::from_secs(1);

/// `backends` are those that the service names itself, `ranks` where those of its sources belong; `None` if a source was refused.
pub(super) fn read(
    section: &mut Section<'_>,
    backends: &[Option<At<Backend>>],
    ranks: Option<&Ranks>,
    problems: &mut Problems,
) -> Option<Rules> {
    let failback = section.or("failback", None, problems, |value| values::one_of(value, &FAILBACKS).map(Some));
    let minimum = section.or("minimum", None, problems, |value| minimum(value).map(Some));
    let panic_percent = section.or("panic", 0, problems, |value| values::percent(value, 0, "`panic = \"30%\"`"));
    let slow_start = section.or("slow_start", None, problems, |value| values::duration(value, SLOW_START_MIN).map(Some));
    // Of one that was refused the priority is not known.
    let of_sources = ranks.into_iter().flat_map(BTreeMap::values).map(|rank| rank.value.tier);
    let tiers: BTreeSet<Tier> = backends.iter().flatten().map(|backend| backend.value.tier).chain(of_sources).collect();
    if tiers.len() < 2 && ranks.is_some() && backends.iter().all(Option::is_some) {
        let failback = failback.as_ref().filter(|at| at.value.is_some()).map(|at| ("failback", at.span.clone()));
        let minimum = minimum.as_ref().filter(|at| at.value.is_some()).map(|at| ("minimum", at.span.clone()));
        for (key, span) in failback.into_iter().chain(minimum) {
            let problem = Problem::new(format!("`{key}` without a standby"), span, "all backends have the same priority");
            problems.push(problem.help(format!("remove `{key}`, or give those that stand by `priority = 1`")));
        }
    }
    Some(Rules {
        failback: failback?.value.unwrap_or_default(),
        minimum: minimum?.value,
        panic_percent: panic_percent?.value,
        slow_start: slow_start?.value,
    })
}

pub(super) fn priority(section: &mut Section<'_>, problems: &mut Problems) -> Option<u8> {
    let priority = section.or("priority", 0, problems, |value| values::integer(value, 0, u8::MAX.into()))?;
    // The bounds keep it within 8 bits.
    Some(u8::try_from(priority.value).unwrap_or(u8::MAX))
}

fn minimum(value: &DeValue<'_>) -> Result<Minimum, Fault> {
    if value.as_str().is_some() {
        return values::percent(value, 1, "`minimum = \"50%\"`, or a number of backends without quotes").map(Minimum::Percent);
    }
    values::number_u16(value, 1).map(Minimum::Count)
}
