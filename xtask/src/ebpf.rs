//! Building the BPF objects, and the binary that holds one of them.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::setup::toolchain::{BPF_TARGET, Toolchain};
use crate::{command, workspace};

/// A BPF object of the package `lb-ebpf`.
#[derive(Clone, Copy)]
pub enum Object {
    /// The load balancer.
    Xlb,
    /// What the benchmark measures with.
    BenchWrapper,
    /// What the benchmark measures against.
    BenchReference,
    /// What it measures from.
    BenchDrop,
}

impl Object {
    fn bin(self) -> &'static str {
        match self {
            Self::Xlb => "xlb-ebpf",
            Self::BenchWrapper => "bench-wrapper",
            Self::BenchReference => "bench-reference",
            Self::BenchDrop => "bench-drop",
        }
    }

    /// Compiler flags besides those that every object needs.
    ///
    /// Instruction set v3 (32-bit arithmetic) is in every kernel since 5.1. Headers stand at even addresses, and every machine
    /// that runs XDP loads words from there: without the feature, LLVM puts them together from halves. Linkers with an LLVM
    /// before 22 warn that they do not know it, and leave it at that. What measures stays as it was measured.
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Xlb => &["-Ctarget-cpu=v3", "-Clink-arg=--cpu-features=+alu32,+allows-misaligned-mem-access"],
            Self::BenchWrapper | Self::BenchReference | Self::BenchDrop => &[],
        }
    }
}

/// Builds one object and yields its path, `<target>/<bin>.o`, where `lb-user`'s build script looks for it.
///
/// The file is replaced only when its bytes change, so that nothing that embeds it is rebuilt needlessly, and at
/// once, so that nobody reads half of it.
///
/// # Errors
/// The toolchain is missing, or the program does not compile.
pub fn build(object: Object) -> Result<PathBuf> {
    let toolchain = Toolchain::find().context("no BPF toolchain; run: cargo xtask setup")?;
    let target = workspace::target()?;
    // A target directory of its own: another compiler and other flags would evict what cargo build made, and two
    // cargos in one directory wait for each other.
    let own_target = target.join("ebpf");
    command::run(
        toolchain
            .cargo_build(object.flags())
            .args(["--package", "lb-ebpf", "--features", "kernel", "--bin", object.bin()])
            .current_dir(workspace::root())
            .env("CARGO_TARGET_DIR", &own_target),
    )?;
    let built = own_target.join(BPF_TARGET).join("release").join(object.bin());
    let path = path(object)?;
    replace_if_changed(&built, &path)?;
    Ok(path)
}

/// Where [`build`] puts an object.
///
/// # Errors
/// `cargo metadata` fails.
pub fn path(object: Object) -> Result<PathBuf> {
    Ok(workspace::target()?.join(object.bin()).with_extension("o"))
}

/// Builds the BPF program and `xlb` around it; yields the binary's path.
///
/// # Errors
/// As [`build`], and when the binary does not compile.
pub fn build_xlb() -> Result<PathBuf> {
    build(Object::Xlb)?;
    command::run(command::cargo().args(["build", "--release", "--package", "lb-user"]).current_dir(workspace::root()))?;
    let xlb = workspace::target()?.join("release/xlb");
    if !command::is_executable(&xlb) {
        bail!("cargo build succeeded, but {} is not there; is a target set in cargo's configuration?", xlb.display());
    }
    Ok(xlb)
}

fn replace_if_changed(from: &Path, to: &Path) -> Result<()> {
    let new = std::fs::read(from).with_context(|| format!("the object {} was not built", from.display()))?;
    if std::fs::read(to).is_ok_and(|old| old == new) {
        return Ok(());
    }
    let temporary = to.with_extension(format!("o.{}", std::process::id()));
    std::fs::write(&temporary, new)
        .and_then(|()| std::fs::rename(&temporary, to))
        .with_context(|| format!("cannot write {}", to.display()))
}
