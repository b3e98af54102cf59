//! `xlb doctor`: the findings as lines or as JSON.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, bail};
use serde_json::json;

use crate::config;
use crate::doctor::{Check, Level, examine};

/// Examines and prints.
///
/// # Errors
/// The configuration cannot be read, or there is a problem.
pub fn show(path: Option<&Path>, json: bool) -> Result<()> {
    let config = path.map(config::load).transpose()?;
    let checks = super::block_on(async { Ok(examine(config.as_ref()).await) })?;
    let count = |level: Level| checks.iter().filter(|check| check.level == level).count();
    let (n_problems, n_warnings) = (count(Level::Problem), count(Level::Warning));
    let text = match json {
        true => format!("{:#}\n", json!({ "problems": n_problems, "warnings": n_warnings, "checks": checks })),
        false => lines(&checks),
    };
    super::print(&text)?;
    if n_problems > 0 {
        bail!("{}, {}", super::counted(n_problems, "problem"), super::counted(n_warnings, "warning"));
    }
    Ok(())
}

fn lines(checks: &[Check]) -> String {
    let mut text = String::new();
    for Check { level, subject, finding, mend } in checks {
        // Writing to memory does not fail.
        let _ = writeln!(text, "{level:<8} {subject}: {finding}");
        if let Some(mend) = mend {
            let _ = writeln!(text, "         -> {mend}");
        }
    }
    text
}
