//! `xlb check`: whether a configuration is right, without root and without touching anything; and what a reload would change.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use hyper::Method;
use hyper::body::Bytes;
use serde_json::Value;

use super::client::{self, Door};
use super::counted;
use super::status::{list, text};
use crate::compile::{Layout, Quiet, compile};
use crate::config::{self, Config};
use crate::daemon::{Findings, assemble};
use crate::discovery::Kind;
use crate::tables::Tables;

/// Prints what a configuration amounts to, and where its daemon runs, what would be different.
///
/// # Errors
/// All that is wrong with it.
pub fn check(path: &Path, socket: Option<PathBuf>) -> Result<()> {
    let (config, content) = config::load_with_text(path)?;
    // As if every backend were up: what cannot be compiled then cannot be served on a good day either.
    compile(
        &assemble(&config, &Findings::default()),
        &Layout::new(config.limits.slots).with_prefixes(config.limits.prefixes),
        &Tables::default(),
        &Quiet(0),
    )?;
    super::print(&format!("{}: ok, {}\n", path.display(), summary(&config)))?;
    let is_told = socket.is_some();
    let socket = socket.unwrap_or_else(|| config.api.socket.clone());
    // No daemon, or none that this user may ask, is no fault of the file.
    if is_told || socket.exists() {
        match super::block_on(compare(socket, content)) {
            Ok(difference) => super::print(&difference)?,
            Err(error) if is_told => return Err(error),
            Err(error) => eprintln!("what a reload would change is not known: {}", crate::error::chain(error.as_ref())),
        }
    }
    Ok(())
}

async fn compare(socket: PathBuf, content: String) -> Result<String> {
    let (code, answer) = client::ask(&Door::Socket(socket), Method::POST, "/api/v1/check", Bytes::from(content)).await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    if !code.is_success() {
        bail!("{}", text(&answer["error"]));
    }
    Ok(difference(&answer))
}

fn difference(preview: &Value) -> String {
    let lines = |key: &str| list(&preview[key]).iter().map(text).collect::<Vec<_>>();
    let (diff, needs_restart, forgets) = (lines("diff"), lines("needs_restart"), lines("forgets"));
    let mut out = match (diff.is_empty(), needs_restart.is_empty()) {
        (true, _) => "a reload would change nothing: this is what the daemon runs by\n".to_owned(),
        (false, true) => format!("a reload would change:\n{}\n", diff.join("\n")),
        (false, false) => {
            let keys = needs_restart.join(", ");
            format!(
                "a reload would be refused, for {keys} cannot change while running; a restart would change:\n{}\n",
                diff.join("\n")
            )
        }
    };
    forgets.iter().for_each(|line| out.push_str(&format!("it would forget {line}\n")));
    out
}

fn summary(config: &Config) -> String {
    let n_backends: usize = config.services.iter().map(|service| service.backends.len()).sum();
    let mut text = format!("{}, {}", counted(config.services.len(), "service"), counted(n_backends, "fixed backend"));
    for (kind, noun, what_for) in
        [(Kind::Dns, "name", "to ask DNS for"), (Kind::File, "file", "to watch"), (Kind::Docker, "Docker socket", "to follow")]
    {
        let n = config.services.iter().filter(|service| service.has_source(kind)).count();
        if n > 0 {
            text.push_str(&format!(", {} {what_for}", counted(n, noun)));
        }
    }
    text
}
