//! `[service.breaker]`, `[service.flapping]` and `[service.passive]`: whom not to trust though its checks pass.

use std::time::Duration;

use crate::config::report::{Problem, Problems};
use crate::config::section::{At, Section};
use crate::config::values;
use crate::health::{Checks, breaker, flapping, suspicion};

/// Less than this holds no results that could be counted.
const WINDOW_MIN: Duration = Duration::from_secs(1);
const EJECTION_MIN: Duration = Duration::from_millis(100);
const REQUESTS_MAX: u32 = 1_000_000;
/// A backend that goes down and comes up again does not flap.
const CHANGES_MIN: u32 = 3;
const CHANGES_MAX: u32 = 1000;

/// When a backend is ejected, and how many of a service at most, in percent.
pub(super) fn breaker(mut section: Section<'_>, problems: &mut Problems) -> Option<(breaker::Rules, u8)> {
    let fallback = breaker::Rules::default();
    let errors = section.or("errors", fallback.errors_percent, problems, |value| values::percent(value, 1, "`errors = \"50%\"`"));
    let window = section.or("window", fallback.window, problems, |value| values::duration(value, WINDOW_MIN));
    let requests_min =
        section.or("requests_min", fallback.requests_min, problems, |value| values::integer(value, 1, REQUESTS_MAX));
    let ejection = section.or("ejection", fallback.ejection, problems, |value| values::duration(value, EJECTION_MIN));
    // A long ejection alone is a whole wish.
    let max_default = ejection.as_ref().map_or(fallback.ejection_max, |ejection| fallback.ejection_max.max(ejection.value));
    let ejection_max = section.or("ejection_max", max_default, problems, |value| values::duration(value, EJECTION_MIN));
    let max_ejected = section
        .or("max_ejected", Checks::EJECTED_MAX_PERCENT, problems, |value| values::percent(value, 0, "`max_ejected = \"50%\"`"));
    section.finish(problems);
    let ejection_max = not_below("ejection", &ejection?, "ejection_max", ejection_max?, problems)?;
    let rules = breaker::Rules {
        errors_percent: errors?.value,
        window: window?.value,
        requests_min: requests_min?.value,
        ejection: ejection_max.0,
        ejection_max: ejection_max.1,
    };
    Some((rules, max_ejected?.value))
}

pub(super) fn passive(mut section: Section<'_>, problems: &mut Problems) -> Option<suspicion::Rules> {
    let fallback = suspicion::Rules::default();
    let unanswered = section
        .or("unanswered", fallback.unanswered_percent, problems, |value| values::percent(value, 1, "`unanswered = \"50%\"`"));
    let window = section.or("window", fallback.window, problems, |value| values::duration(value, WINDOW_MIN));
    let min = section.or("handshakes_min", fallback.handshakes_min, problems, |value| values::integer(value, 1, REQUESTS_MAX));
    section.finish(problems);
    Some(suspicion::Rules { unanswered_percent: unanswered?.value, window: window?.value, handshakes_min: min?.value })
}

pub(super) fn flapping(mut section: Section<'_>, problems: &mut Problems) -> Option<flapping::Rules> {
    let fallback = flapping::Rules::default();
    let changes = section.or("changes", fallback.changes, problems, |value| values::integer(value, CHANGES_MIN, CHANGES_MAX));
    let window = section.or("window", fallback.window, problems, |value| values::duration(value, WINDOW_MIN));
    let hold = section.or("hold", None, problems, |value| values::duration(value, EJECTION_MIN).map(Some));
    let hold_given = hold.as_ref().and_then(|at| Some(At { value: at.value?, span: at.span.clone() }));
    let max_default = hold_given.as_ref().map_or(fallback.hold_max, |hold| fallback.hold_max.max(hold.value));
    let has_max = section.has("hold_max");
    let hold_max = section.or("hold_max", max_default, problems, |value| values::duration(value, EJECTION_MIN));
    section.finish(problems);
    let (hold, hold_max) = (hold?, hold_max?);
    let hold_max = match hold_given {
        Some(hold) => not_below("hold", &hold, "hold_max", hold_max, problems)?.1,
        None if has_max => {
            let problem = Problem::new("`hold_max` without `hold`", hold_max.span, "nobody is held");
            problems.push(problem.help("remove `hold_max`, or say how long to hold at first: `hold = \"30s\"`"));
            return None;
        }
        None => hold_max.value,
    };
    Some(flapping::Rules { changes: changes?.value, window: window?.value, hold: hold.value, hold_max })
}

/// A time and the most that it grows to.
fn not_below(
    key: &str,
    time: &At<Duration>,
    max_key: &str,
    max: At<Duration>,
    problems: &mut Problems,
) -> Option<(Duration, Duration)> {
    if max.value >= time.value {
        return Some((time.value, max.value));
    }
    let shown = humantime::format_duration(time.value);
    problems.push(
        Problem::new(format!("`{max_key}` is shorter than `{key}`"), max.span, "shorter")
            .and(time.span.clone(), "it begins with this")
            .help(format!("`{key}` grows up to `{max_key}`: write at least \"{shown}\"")),
    );
    None
}
