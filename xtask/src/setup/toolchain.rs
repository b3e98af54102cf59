//! The compiler and the linker for BPF: two ways to get them.
//!
//! - **rustup**: nightly with `rust-src` compiles `core` for the target itself (`-Z build-std`).
//! - **Debian**: its compiler comes with `core` ready-made for `bpfel-unknown-none`. It is a release, not a nightly;
//!   `RUSTC_BOOTSTRAP=1` lets it compile the unstable features that a `no_std` BPF program needs.
//!
//! Either way `bpf-linker` does the linking. Its LLVM must be as new as the compiler's, whose bitcode it reads; so in
//! the Debian way it is built against the LLVM that Debian's compiler uses.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::apt;
use crate::command;

/// The version that is known to work with the pinned aya.
const BPF_LINKER_VERSION: &str = "0.13.0";
pub const BPF_TARGET: &str = "bpfel-unknown-none";

const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
/// `rustc` and `core` for BPF, as Debian 12 names them (the compiler that it keeps new for browsers).
const DEBIAN_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];

/// How BPF objects are built here.
#[derive(Debug)]
pub enum Toolchain {
    Rustup { linker: PathBuf },
    Debian { linker: PathBuf, llvm: u32 },
}

impl Toolchain {
    /// What is here and complete. Looks only; the rustup way comes first, being the one that the user set up.
    pub fn find() -> Option<Self> {
        let linker = command::find("bpf-linker")?;
        if nightly_has_source() {
            return Some(Self::Rustup { linker });
        }
        if !debian_has_core() {
            return None;
        }
        let llvm = debian_llvm().ok()?;
        (!is_linked_to_another_llvm(&linker, llvm)).then_some(Self::Debian { linker, llvm })
    }

    /// `cargo build` with this toolchain, release, for the BPF target. The caller adds package, bin and features.
    pub fn cargo_build(&self, flags: &[&str]) -> Command {
        let (mut command, linker) = match self {
            Self::Rustup { linker } => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
                // What the outer cargo set would choose its own toolchain again.
                command.env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC");
                (command, linker)
            }
            Self::Debian { linker, llvm } => {
                let mut command = command::cargo();
                command.arg("build").env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1");
                let mut libraries = vec![PathBuf::from(format!("/usr/lib/llvm-{llvm}/lib"))];
                libraries.extend(std::env::split_paths(&std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default()));
                if let Ok(libraries) = std::env::join_paths(libraries) {
                    command.env("LD_LIBRARY_PATH", libraries);
                }
                (command, linker)
            }
        };
        // The separator is how cargo passes flags that may hold spaces. With BTF the verifier names our source lines.
        let linker = format!("-Clinker={}", linker.display());
        let flags = [linker.as_str(), "-Clink-arg=--btf", "-Cdebuginfo=2"].iter().chain(flags).copied().collect::<Vec<_>>();
        command
            .args(["--release", "--target", BPF_TARGET])
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        command
    }
}

/// Makes [`Toolchain::find`] succeed, if it can.
///
/// # Errors
/// Neither way can be completed here; the error lists the commands.
pub fn install_missing() -> Result<()> {
    if Toolchain::find().is_some() {
        return Ok(());
    }
    if nightly_has_source() {
        // Its own LLVM: bpf-linker's default follows nightly's.
        return command::run(command::cargo().args(["install", "--locked", "bpf-linker"]))
            .context("bpf-linker could not be built; see https://github.com/aya-rs/bpf-linker#installation");
    }
    if !debian_has_core() {
        install_debian_compiler()?;
    }
    let llvm = debian_llvm()?;
    let config = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin/llvm-config"));
    if !command::is_executable(&config) {
        apt::install(&[&format!("llvm-{llvm}-dev")])?;
    }
    install_bpf_linker(llvm)?;
    match Toolchain::find() {
        Some(_) => Ok(()),
        None => bail!("bpf-linker was installed but is not found in {}/bin", command::cargo_home().display()),
    }
}

fn install_debian_compiler() -> Result<()> {
    if apt::is_here() {
        if command::is_root() && !DEBIAN_COMPILER.iter().all(|package| apt::has(package)) {
            apt::update()?;
        }
        if DEBIAN_COMPILER.iter().all(|package| apt::has(package)) {
            return apt::install(&DEBIAN_COMPILER);
        }
    }
    bail!(
        "building the BPF program takes a nightly compiler with its source, and bpf-linker:\n  \
         rustup toolchain install nightly --component rust-src\n  \
         cargo install --locked bpf-linker\n\
         (on Debian 12 its packages do instead, and this command installs them, as root: {})",
        DEBIAN_COMPILER.join(", ")
    );
}

fn install_bpf_linker(llvm: u32) -> Result<()> {
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let mut path = vec![PathBuf::from(&prefix).join("bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    command::run(
        command::cargo()
            .args(["install", "bpf-linker", "--force", "--locked", "--version", BPF_LINKER_VERSION])
            .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
            .env("PATH", std::env::join_paths(path)?)
            .env("LLVM_PREFIX", prefix)
            .env_remove("CARGO_TARGET_DIR"),
    )
    .with_context(|| {
        format!(
            "bpf-linker {BPF_LINKER_VERSION} could not be built against LLVM {llvm}, which {DEBIAN_RUSTC} uses; \
             or use the rustup way: rustup toolchain install nightly --component rust-src"
        )
    })
}

/// Whether rustup's nightly can compile `core`.
fn nightly_has_source() -> bool {
    let Ok(toolchains) = command::rustup_home().join("toolchains").read_dir() else { return false };
    let nightly = format!("nightly-{}", std::env::consts::ARCH);
    toolchains.flatten().any(|toolchain| {
        // Not the dated ones: `rustup run nightly` would not take them.
        toolchain.file_name().to_string_lossy().starts_with(&nightly)
            && toolchain.path().join("lib/rustlib/src/rust/library/core/Cargo.toml").is_file()
    })
}

/// Whether Debian's compiler is here, with `core` for the BPF target.
fn debian_has_core() -> bool {
    let Ok(libraries) = Path::new("/usr/lib/rustlib").join(BPF_TARGET).join("lib").read_dir() else { return false };
    command::is_executable(Path::new(DEBIAN_RUSTC))
        && libraries.flatten().any(|library| library.file_name().to_string_lossy().starts_with("libcore-"))
}

/// The major version of the LLVM that Debian's compiler uses.
fn debian_llvm() -> Result<u32> {
    let version = command::output(Command::new(DEBIAN_RUSTC).arg("-vV"))?;
    version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: ")?.split('.').next()?.parse().ok())
        .with_context(|| format!("{DEBIAN_RUSTC} -vV does not say which LLVM it uses:\n{version}"))
}

/// Whether the program loads an LLVM library of another major version. One that holds its LLVM in itself is trusted.
fn is_linked_to_another_llvm(linker: &Path, llvm: u32) -> bool {
    // The names of the libraries stand near the file's start. As text, because the standard library's search in text
    // is fast even in a build without optimisation.
    const START_LEN: u64 = 1 << 20;
    let mut start = Vec::new();
    let _ = std::fs::File::open(linker).and_then(|program| program.take(START_LEN).read_to_end(&mut start));
    let program = String::from_utf8_lossy(&start);
    program.split("libLLVM.so.").skip(1).any(|rest| {
        let version = rest.split(|character: char| !character.is_ascii_digit()).next();
        version.and_then(|version| version.parse::<u32>().ok()).is_some_and(|version| version != llvm)
    })
}
