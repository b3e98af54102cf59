//! Where things are: the workspace's root and its target directory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::command;

/// The workspace's root directory.
pub fn root() -> &'static Path {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask)
}

/// The target directory, as cargo sees it: its configuration and `CARGO_TARGET_DIR` count.
///
/// # Errors
/// `cargo metadata` fails, as it does when a manifest is broken.
pub fn target() -> Result<PathBuf> {
    let metadata =
        command::output(command::cargo().current_dir(root()).args(["metadata", "--no-deps", "--offline", "--format-version=1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cargo metadata: not JSON")?;
    let target = metadata["target_directory"].as_str().context("cargo metadata: no target_directory")?;
    Ok(PathBuf::from(target))
}
