//! `xlb doctor`: what on this machine would stop traffic, and what mends it. Nothing is changed.
//!
//! What the daemon knows already is asked of the daemon's own parts: routes and neighbours of the next-hop resolver, who may serve
//! of `assemble`, settings for NAT of the daemon's watch over the host. A second opinion would in time become another one.

mod files;
mod fullnat;
mod interfaces;
mod machine;
mod ways;
mod zones;

use std::fmt;

use serde::Serialize;

use crate::config::Config;

/// How a check came out.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Traffic flows, but not as well as it could, or not always.
    Warning,
    /// Traffic of some service will not flow.
    Problem,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Problem => "problem",
        })
    }
}

/// One thing that was looked at.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Check {
    pub level: Level,
    /// What was looked at, such as `kernel`, or `interface eth0`.
    pub subject: String,
    pub finding: String,
    /// What sets it right: a command where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
}

impl Check {
    fn ok(subject: impl Into<String>, finding: impl Into<String>) -> Self {
        Self { level: Level::Ok, subject: subject.into(), finding: finding.into(), mend: None }
    }

    fn warning(subject: impl Into<String>, finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Warning, subject: subject.into(), finding: finding.into(), mend: Some(mend.into()) }
    }

    fn problem(subject: impl Into<String>, finding: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { level: Level::Problem, ..Self::warning(subject, finding, mend) }
    }
}

/// Examines the machine, and what `config` needs of it. Takes some seconds where a backend's host does not answer.
pub async fn examine(config: Option<&Config>) -> Vec<Check> {
    let mut checks = machine::examine(config);
    if let Some(config) = config {
        let links = interfaces::examine(&config.xdp, &mut checks).await;
        ways::examine(config, &links, &mut checks).await;
        files::examine(config, &mut checks).await;
        checks.extend(zones::examine(config));
        checks.extend(fullnat::examine(config));
    }
    checks
}
