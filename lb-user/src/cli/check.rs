//! `xlb check`: whether a configuration is right, without root and without touching anything.

use std::path::Path;

use anyhow::Result;

use super::counted;
use crate::compile::{Layout, Quiet, compile};
use crate::config::{self, Config};
use crate::daemon::{Findings, assemble};
use crate::discovery::Kind;
use crate::tables::Tables;

/// Prints what a configuration amounts to.
///
/// # Errors
/// All that is wrong with it.
pub fn check(path: &Path) -> Result<()> {
    let config = config::load(path)?;
    // As if every backend were up: what cannot be compiled then cannot be served on a good day either.
    compile(&assemble(&config, &Findings::default()), &Layout::new(config.limits.slots), &Tables::default(), &Quiet(0))?;
    println!("{}: ok, {}", path.display(), summary(&config));
    Ok(())
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
