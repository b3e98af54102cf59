//! `cargo xtask deb`: the Debian package. What it holds stands in lb-user/Cargo.toml; what has to be made first is made here.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{command, ebpf, setup, workspace};

/// Known to work with what lb-user/Cargo.toml says.
const CARGO_DEB_VERSION: &str = "3.8.0";
/// Under which names shells look for completions.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "xlb"), ("zsh", "_xlb"), ("fish", "xlb.fish")];
/// What lintian says of every package that is not Debian's own.
const NOT_FOR_US: &str = "initial-upload-closes-no-bugs";

/// Builds the package around `binary`, or else around one that is built here, and yields its path.
///
/// # Errors
/// A tool is missing and cannot be installed, or something does not build.
pub fn build(binary: Option<&Path>) -> Result<PathBuf> {
    setup::run(setup::For::Packaging)?;
    if command::find("cargo-deb").is_none() {
        command::run(command::cargo().args(["install", "--locked", "cargo-deb", "--version", CARGO_DEB_VERSION]))
            .context("cargo-deb could not be installed; see https://github.com/kornelski/cargo-deb")?;
    }
    let built = binary.map_or_else(ebpf::build_xlb, |binary| Ok(binary.to_owned()))?;
    // Where lb-user/Cargo.toml looks, wherever cargo builds.
    let stage = workspace::root().join("target/deb");
    if stage.exists() {
        std::fs::remove_dir_all(&stage).with_context(|| format!("{} cannot be emptied", stage.display()))?;
    }
    let xlb = stage_files(&built, &stage)?;
    command::run(Command::new("strip").arg("--strip-unneeded").arg(&xlb))?;
    command::run(command::cargo().current_dir(workspace::root()).args(["deb", "--quiet", "--package", "lb-user"]).args([
        "--no-build",
        "--no-strip",
        "--output",
        "target/deb",
    ]))?;
    let entries = std::fs::read_dir(&stage)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    let package = entries.into_iter().find(|path| path.extension().is_some_and(|extension| extension == "deb"));
    package.with_context(|| format!("cargo-deb left no package in {}", stage.display()))
}

/// The binary, and what it says of itself; yields the binary's new place.
fn stage_files(built: &Path, stage: &Path) -> Result<PathBuf> {
    for directory in ["man", "completions"] {
        std::fs::create_dir_all(stage.join(directory))?;
    }
    let xlb = stage.join("xlb");
    std::fs::copy(built, &xlb).with_context(|| format!("{} cannot be copied", built.display()))?;
    command::run(Command::new(&xlb).arg("man").arg(stage.join("man")))?;
    for (shell, file) in COMPLETIONS {
        let script = command::output(Command::new(&xlb).args(["completions", shell]))?;
        std::fs::write(stage.join("completions").join(file), script)?;
    }
    Ok(xlb)
}

/// Has lintian look at the package, and installs, upgrades and removes it where that harms nobody.
///
/// # Errors
/// Something is wrong with it, or this is not root.
pub fn check(package: &Path) -> Result<()> {
    if !command::is_root() {
        bail!("trying a package takes root: it is installed in namespaces of its own");
    }
    let warnings = ["--allow-root", "--fail-on", "error,warning", "--suppress-tags", NOT_FOR_US];
    command::run(Command::new("lintian").args(warnings).arg(package))?;
    command::run(
        command::cargo()
            .current_dir(workspace::root())
            .args(["test", "--package", "xlb-tests", "--features", "package", "--test", "package"])
            .env("XLB_DEB", package),
    )
}
