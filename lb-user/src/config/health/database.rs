//! What checks of databases have of their own.

use std::path::PathBuf;

use toml::de::DeValue;

use crate::config::report::{Problem, Problems};
use crate::config::section::{At, Fault, Section};
use crate::config::values;
use crate::health::{Login, Postgres, Redis, Role};

const ROLES: [(&str, Role); 2] = [("primary", Role::Primary), ("replica", Role::Replica)];

/// What both have. The outer option is `None` where a value was refused.
struct Common {
    user: Option<At<Option<String>>>,
    password_file: Option<At<Option<PathBuf>>>,
    role: Option<At<Option<Role>>>,
}

impl Common {
    fn read(section: &mut Section<'_>, problems: &mut Problems) -> Self {
        Self {
            user: section.or("user", None, problems, |value| name(value, "a user's name").map(Some)),
            password_file: section.or("password_file", None, problems, |value| values::absolute_path(value).map(Some)),
            role: section.or("role", None, problems, |value| values::one_of(value, &ROLES).map(Some)),
        }
    }
}

pub(super) fn redis(section: &mut Section<'_>, problems: &mut Problems) -> Option<Redis> {
    let common = Common::read(section, problems);
    let (user, password_file) = (common.user?, common.password_file?);
    if user.value.is_some() && password_file.value.is_none() {
        problems.push(
            Problem::new("a Redis user logs in by a password", user.span, "without one")
                .help("add `password_file = \"/etc/xlb/redis-password\"`, or remove `user`"),
        );
        return None;
    }
    Some(Redis { user: user.value, password_file: password_file.value, role: common.role?.value })
}

pub(super) fn postgres(section: &mut Section<'_>, problems: &mut Problems) -> Option<Postgres> {
    let database = section.or("database", None, problems, |value| name(value, "a database's name").map(Some));
    let common = Common::read(section, problems);
    let (user, password_file, database, role) = (common.user?, common.password_file?, database?, common.role?);
    let Some(user) = user.value else {
        let useless = [
            ("password_file", password_file.value.is_some(), password_file.span),
            ("database", database.value.is_some(), database.span),
            ("role", role.value.is_some(), role.span),
        ];
        let mut is_useless = false;
        for (key, _, span) in useless.into_iter().filter(|(_, is_given, _)| *is_given) {
            is_useless = true;
            problems.push(
                Problem::new(format!("a PostgreSQL check without a user has no use for `{key}`"), span, "takes a login")
                    .help(format!("add `user = \"...\"`, or remove `{key}`")),
            );
        }
        return (!is_useless).then_some(Postgres { login: None });
    };
    let login = Login { user, password_file: password_file.value, database: database.value, role: role.value };
    Some(Postgres { login: Some(login) })
}

fn name(value: &DeValue<'_>, what: &str) -> Result<String, Fault> {
    let name = values::string(value, what)?;
    // PostgreSQL's protocol ends names by a zero.
    if name.is_empty() || name.contains('\0') {
        return Err(Fault::new(format!("not {what}"), "write it as the server knows it"));
    }
    Ok(name.to_owned())
}
