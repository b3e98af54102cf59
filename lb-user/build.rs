//! Finds the BPF object for `main.rs` to embed. The library needs none, so that its tests build without the BPF toolchain.

use std::path::PathBuf;
use std::{env, io};

fn main() -> io::Result<()> {
    println!("cargo::rustc-check-cfg=cfg(have_object)");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let object = target_directory()?.join("xlb-ebpf.o");
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-cfg=have_object");
        println!("cargo::rustc-env=XLB_EBPF_OBJECT={}", object.display());
    }
    Ok(())
}

/// Cargo does not tell where it builds, but where this script may write: `<target>/<profile>/build/<package>/out`, below a
/// directory named after the target where one is given.
fn target_directory() -> io::Result<PathBuf> {
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    let marker = |directory: &&std::path::Path| directory.join("CACHEDIR.TAG").is_file();
    out.ancestors().find(marker).map(PathBuf::from).ok_or_else(|| io::ErrorKind::NotFound.into())
}
