//! The secret that all nodes of a cluster share, from a file.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use lb_common::hash::HashKeys;
use sha2::{Digest, Sha256};

/// Fewer bytes can be guessed.
const LEN_MIN: usize = 16;

/// The hash keys that follow from a file's contents, white space at the end left out.
///
/// # Errors
/// If the file cannot be read, or holds too little to be a secret.
pub fn read(path: &Path) -> Result<HashKeys> {
    let contents = std::fs::read(path).with_context(|| format!("xdp.secret_file = {}", path.display()))?;
    let secret = contents.trim_ascii_end();
    ensure!(
        secret.len() >= LEN_MIN,
        "xdp.secret_file = {}: {} bytes, but a secret needs at least {LEN_MIN}; `head -c 32 /dev/urandom | base64 > {0}` makes one",
        path.display(),
        secret.len()
    );
    Ok(HashKeys::from_bytes(Sha256::digest(secret).into()))
}
