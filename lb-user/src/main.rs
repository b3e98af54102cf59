//! The `xlb` binary: the command line, with the BPF program inside.

use std::process::ExitCode;

#[cfg(not(have_object))]
compile_error!("the BPF program is not built: run `cargo xtask build-ebpf` first, or `cargo xtask build` for both");

/// The BPF object that `cargo xtask build-ebpf` made.
#[cfg(have_object)]
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("XLB_EBPF_OBJECT"));
#[cfg(not(have_object))]
static OBJECT: &[u8] = &[];

fn main() -> ExitCode {
    lb_user::cli::main(OBJECT)
}
