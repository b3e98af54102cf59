//! The sections that stand once: `[xdp]`, `[api]`, `[steering]`, `[watchdog]` and `[limits]`.

use std::path::PathBuf;
use std::time::Duration;

use lb_common::limits::{
    FLOWS_MAX, FLOWS_MIN, PREFIXES_MAX, PREFIXES_MIN, REGION_BITS_MIN, SLOTS_MAX, SLOTS_PER_LINE, SOURCES_MAX, SOURCES_MIN,
};
use toml::de::DeValue;

use super::report::{Problem, Problems};
use super::section::{At, Fault, Section};
use super::{Api, ApiTls, Limits, Mode, OnExit, Xdp, values};
use crate::desired::{Absence, Watchdog};
use crate::health::steer::{self, N_TABLES};

/// How long the daemon may be away, if that matters and nothing else is said.
const AWAY: Duration = Duration::from_secs(60);
/// Shorter than this, a restart with many services would be an absence.
const AWAY_MIN: Duration = Duration::from_secs(10);
pub(super) const PIN_DEFAULT: &str = "/sys/fs/bpf/xlb";

pub(super) fn xdp(mut section: Section<'_>, problems: &mut Problems) -> Option<Xdp> {
    let help = "name the interfaces on which VIP traffic (and replies of nat backends) arrive: `interfaces = [\"eth0\"]`";
    let mut faulty_names = Vec::new();
    let interfaces = section.required("interfaces", help, problems, |value| interfaces(value, &mut faulty_names));
    let n_faulty_names = faulty_names.len();
    faulty_names.into_iter().for_each(|problem| problems.push(problem));

    let modes = [("auto", Mode::Auto), ("native", Mode::Native), ("generic", Mode::Generic)];
    let mode = section.or("mode", Mode::default(), problems, |value| values::one_of(value, &modes));
    let pin = section.or("pin", PathBuf::from(PIN_DEFAULT), problems, values::absolute_path);
    let ends = [("detach", OnExit::Detach), ("keep", OnExit::Keep)];
    let on_exit = section.or("on_exit", OnExit::default(), problems, |value| values::one_of(value, &ends));
    let secret_file = section.or("secret_file", None, problems, |value| values::absolute_path(value).map(Some));
    section.finish(problems);

    if n_faulty_names > 0 {
        return None;
    }
    Some(Xdp {
        interfaces: interfaces?.value,
        mode: mode?.value,
        pin: pin?.value,
        on_exit: on_exit?.value,
        secret_file: secret_file?.value,
    })
}

/// The usable names; each of the others is a problem at its own place.
fn interfaces(value: &DeValue<'_>, problems: &mut Vec<Problem>) -> Result<Vec<String>, Fault> {
    let array = value.as_array().ok_or_else(|| {
        let help = "write a list, even of one: `interfaces = [\"eth0\"]`";
        Fault::new("expected a list of names", help)
    })?;
    if array.is_empty() {
        return Err(Fault::new("an empty list", "name at least one; `ip link` lists the interfaces of this machine"));
    }
    let mut names: Vec<(String, std::ops::Range<usize>)> = Vec::new();
    for element in array.iter() {
        match values::interface(element.get_ref()) {
            Ok(name) => match names.iter().find(|(known, _)| *known == name) {
                Some((_, first)) => problems.push(
                    Problem::new(format!("interface \"{name}\" is named twice"), element.span(), "again here")
                        .and(first.clone(), "first here")
                        .help("a program is attached to an interface once: remove one of them"),
                ),
                None => names.push((name, element.span())),
            },
            Err(fault) => problems.push(fault.at("interfaces", "[xdp]", element.span())),
        }
    }
    Ok(names.into_iter().map(|(name, _)| name).collect())
}

pub(super) fn api(mut section: Section<'_>, default: Api, problems: &mut Problems) -> Option<Api> {
    let listen = section.or("listen", default.listen, problems, |value| values::socket_address(value, None, "127.0.0.1:9400"));
    let socket = section.or("socket", default.socket, problems, socket_path);
    let socket_gid = section.or("socket_gid", None, problems, |value| values::integer(value, 0, u32::MAX - 1).map(Some));
    let path = |value: &DeValue<'_>| values::absolute_path(value).map(Some);
    let certificate = section.or("tls_certificate", None, problems, path);
    let key = section.or("tls_key", None, problems, path);
    let tls = certificate.zip(key).and_then(|(certificate, key)| tls(certificate, key, problems));
    let token_file = section.or("token_file", None, problems, path);
    let state_file = section.or("state_file", default.state_file, problems, values::absolute_path);
    let audit_file = section.or("audit_file", None, problems, path);
    section.finish(problems);
    Some(Api {
        listen: listen?.value,
        socket: socket?.value,
        socket_gid: socket_gid?.value,
        tls: tls?,
        token_file: token_file?.value,
        state_file: state_file?.value,
        audit_file: audit_file?.value,
    })
}

/// Both or neither. `None` after reporting that one is missing.
fn tls(certificate: At<Option<PathBuf>>, key: At<Option<PathBuf>>, problems: &mut Problems) -> Option<Option<ApiTls>> {
    let (given, missing, span) = match (certificate.value, key.value) {
        (Some(certificate), Some(key)) => return Some(Some(ApiTls { certificate, key })),
        (None, None) => return Some(None),
        (Some(_), None) => ("tls_certificate", "tls_key", certificate.span),
        (None, Some(_)) => ("tls_key", "tls_certificate", key.span),
    };
    problems.push(
        Problem::new(format!("`{given}` without `{missing}`"), span, "TLS takes both")
            .help(format!("add `{missing} = \"/etc/xlb/...\"`, or remove `{given}` to speak plain HTTP")),
    );
    None
}

/// A path that a Unix socket can be bound to (unix(7): 108 bytes with a zero at the end, and it is bound as PATH.new first).
fn socket_path(value: &DeValue<'_>) -> Result<PathBuf, Fault> {
    const LENGTH_MAX: usize = 103;
    let path = values::absolute_path(value)?;
    match path.as_os_str().len() {
        ..=LENGTH_MAX => Ok(path),
        length => Err(Fault::new(format!("{length} bytes, but a socket's path has at most {LENGTH_MAX}"), "use a shorter path")),
    }
}

pub(super) fn steering(mut section: Section<'_>, problems: &mut Problems) -> Option<steer::Range> {
    let default = steer::Range::default();
    let tables = section.or("tables", default.first_table, problems, |value| {
        let first = values::integer(value, N_TABLES, u32::MAX - N_TABLES)?;
        if !first.is_multiple_of(N_TABLES) {
            let next = first.next_multiple_of(N_TABLES);
            return Err(Fault::new(format!("not a multiple of {N_TABLES}"), format!("the next that fits is {next}")));
        }
        Ok(first)
    });
    // After the rule for local addresses, and before the one for the main table.
    let priority = section.or("priority", default.priority, problems, |value| values::integer(value, 1, 32_765));
    section.finish(problems);
    Some(steer::Range { first_table: tables?.value, priority: priority?.value })
}

/// `None` after reporting a problem; of no wish, or the wish that nothing happens, no watchdog.
pub(super) fn watchdog(mut section: Section<'_>, problems: &mut Problems) -> Option<Option<Watchdog>> {
    let has_after = section.has("after");
    let after = section.or("after", AWAY, problems, |value| values::duration(value, AWAY_MIN));
    let absences = [("keep", None), ("pass", Some(Absence::Pass)), ("drop", Some(Absence::Drop))];
    let action = section.or("action", None, problems, |value| values::one_of(value, &absences));
    section.finish(problems);
    let (after, action) = (after?, action?);
    if action.value.is_none() && has_after {
        let problem = Problem::new("a watchdog that does nothing", after.span, "after this time all goes on as before");
        problems.push(problem.help("say what is to happen: `action = \"pass\"` or `action = \"drop\"`; or remove `after`"));
        return None;
    }
    Some(action.value.map(|absence| Watchdog { after: after.value, absence }))
}

pub(super) fn limits(mut section: Section<'_>, problems: &mut Problems) -> Option<Limits> {
    let slots = section.or("slots", Limits::default().slots, problems, |value| {
        let slots = values::integer(value, 1 << REGION_BITS_MIN, SLOTS_MAX)?;
        if !slots.is_multiple_of(SLOTS_PER_LINE) {
            let next = slots.next_multiple_of(SLOTS_PER_LINE);
            return Err(Fault::new(format!("not a multiple of {SLOTS_PER_LINE}"), format!("the next that fits is {next}")));
        }
        Ok(slots)
    });
    let flows = section.or("flows", Limits::default().flows, problems, |value| {
        let flows = values::integer(value, FLOWS_MIN, FLOWS_MAX)?;
        if !flows.is_power_of_two() {
            let next = flows.next_power_of_two();
            return Err(Fault::new("not a power of two", format!("the next that fits is {next}")));
        }
        Ok(flows)
    });
    let prefixes = section.or("prefixes", Limits::default().prefixes, problems, |value| {
        let prefixes = values::integer(value, PREFIXES_MIN, PREFIXES_MAX)?;
        if !prefixes.is_multiple_of(16) {
            let next = prefixes.next_multiple_of(16);
            return Err(Fault::new("not a multiple of 16", format!("the next that fits is {next}")));
        }
        Ok(prefixes)
    });
    let sources = section.or("sources", Limits::default().sources, problems, |value| {
        let sources = values::integer(value, SOURCES_MIN, SOURCES_MAX)?;
        if !sources.is_power_of_two() {
            let next = sources.next_power_of_two();
            return Err(Fault::new("not a power of two", format!("the next that fits is {next}")));
        }
        Ok(sources)
    });
    section.finish(problems);
    Some(Limits { slots: slots?.value, flows: flows?.value, prefixes: prefixes?.value, sources: sources?.value })
}
