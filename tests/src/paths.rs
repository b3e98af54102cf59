//! Where the things under test are: said by `cargo xtask test` in the environment, else beside the running program.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The `xlb` binary: `$XLB_BIN`, else `<target>/release/xlb`.
///
/// # Errors
/// It is in neither place.
pub fn xlb() -> Result<PathBuf> {
    look("XLB_BIN", &["release/xlb", "xlb"])
}

/// The BPF object: `$XLB_OBJECT`, else `<target>/xlb-ebpf.o`.
///
/// # Errors
/// It is in neither place.
pub fn object() -> Result<PathBuf> {
    look("XLB_OBJECT", &["xlb-ebpf.o"])
}

/// The test backend, which cargo builds with the tests.
///
/// # Errors
/// It is not beside the running program; `cargo build -p xlb-tests --bins` puts it there.
pub(crate) fn test_backend() -> Result<PathBuf> {
    look("XLB_TEST_BACKEND", &["xlb-test-backend"])
}

/// `$variable`, else the first of `names` that exists under a directory around the running program.
fn look(variable: &str, names: &[&str]) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable).map(PathBuf::from) {
        if !path.is_file() {
            bail!("{variable} says {}, which is not a file", path.display());
        }
        return Ok(path);
    }
    let program = std::env::current_exe().context("where does this program run from?")?;
    let around = |name: &&str| {
        program.ancestors().skip(1).take(4).map(|directory: &Path| directory.join(name)).find(|path| path.is_file())
    };
    names.iter().find_map(around).with_context(|| {
        format!("{} was not built beside {}; run: cargo xtask build, or set {variable}", names[0], program.display())
    })
}
