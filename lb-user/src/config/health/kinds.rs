//! The types of checks, and which keys belong to which.

use crate::config::report::{Problem, Problems};
use crate::config::section::{At, Section};

/// What `type` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    None,
    Tcp,
    Http,
    Https,
    Grpc,
    Redis,
    Postgres,
    Script,
    Agent,
    Udp,
    Dns,
    Icmp,
}

/// In the order in which an operator is shown the choice.
pub(super) const KINDS: [(&str, Kind); 12] = [
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("grpc", Kind::Grpc),
    ("redis", Kind::Redis),
    ("postgres", Kind::Postgres),
    ("script", Kind::Script),
    ("agent", Kind::Agent),
    ("tcp", Kind::Tcp),
    ("udp", Kind::Udp),
    ("dns", Kind::Dns),
    ("icmp", Kind::Icmp),
    ("none", Kind::None),
];

const HTTP_OR_HTTPS: &[Kind] = &[Kind::Http, Kind::Https];
const DATABASES: &[Kind] = &[Kind::Redis, Kind::Postgres];
/// All that go to a port; a script is told it.
const WITH_PORT: &[Kind] = &[
    Kind::Http,
    Kind::Https,
    Kind::Grpc,
    Kind::Redis,
    Kind::Postgres,
    Kind::Script,
    Kind::Agent,
    Kind::Tcp,
    Kind::Udp,
    Kind::Dns,
];

/// All that xlb sends packets for itself, to what serves the VIP: a script sends its own, an agent speaks for its host.
const STEERED: &[Kind] =
    &[Kind::Http, Kind::Https, Kind::Grpc, Kind::Redis, Kind::Postgres, Kind::Tcp, Kind::Udp, Kind::Dns, Kind::Icmp];

/// The keys that not every type has, and whose they are.
const KEYS: [(&str, &[Kind]); 21] = [
    ("port", WITH_PORT),
    ("via", STEERED),
    ("method", HTTP_OR_HTTPS),
    ("path", HTTP_OR_HTTPS),
    ("command", &[Kind::Script]),
    ("host", &[Kind::Http, Kind::Https, Kind::Grpc]),
    ("grpc_service", &[Kind::Grpc]),
    ("body", HTTP_OR_HTTPS),
    ("verify", &[Kind::Https]),
    ("ca_file", &[Kind::Https]),
    ("sni", &[Kind::Https]),
    ("user", DATABASES),
    ("password_file", DATABASES),
    ("role", DATABASES),
    ("database", &[Kind::Postgres]),
    ("expect", &[Kind::Http, Kind::Https, Kind::Udp, Kind::Dns]),
    ("expect_hex", &[Kind::Udp]),
    ("payload", &[Kind::Udp]),
    ("payload_hex", &[Kind::Udp]),
    ("query", &[Kind::Dns]),
    ("record", &[Kind::Dns]),
];

/// More types than this to choose from are no help.
const CHOICES_SHOWN: usize = 4;

impl Kind {
    /// As the file writes it.
    fn word(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }
}

/// Reports the keys of other types: they would do nothing. A check of type `none` may keep everything, which is how a
/// check is switched off for a while. Without a kind, for `type` was refused, nobody knows what is foreign.
pub(super) fn refuse_foreign(section: &mut Section<'_>, kind: Option<&At<Kind>>, problems: &mut Problems) {
    let is_type_given = section.has("type");
    for (key, owners) in KEYS {
        if kind.is_some_and(|kind| owners.contains(&kind.value)) {
            continue;
        }
        let Some(span) = section.dismiss(key) else { continue };
        let Some(kind) = kind.filter(|kind| kind.value != Kind::None) else { continue };
        let word = kind.value.word();
        let choices: Vec<_> = owners.iter().map(|owner| format!("`type = \"{}\"`", owner.word())).collect();
        let help = match choices.len() {
            1..=CHOICES_SHOWN => format!("write {}, or remove `{key}`", choices.join(" or ")),
            _ => format!("remove `{key}`"),
        };
        problems.push(
            Problem::new(format!("a check of type {word} has no `{key}`"), span, format!("means nothing to {word}"))
                .and(kind.span.clone(), if is_type_given { "the type" } else { "of this type by default" })
                .help(help),
        );
    }
}
