//! Small files that a probe needs: certificates, passwords. Read for each probe, so that a change takes effect by itself.

use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Far above any of them; a wrong path must not fill the memory.
const BYTES_MAX: u64 = 1024 * 1024;

/// What is in the file.
///
/// # Errors
/// It cannot be read, or is too large: why, with the path, for the operator.
pub(super) async fn read(path: &Path) -> Result<Vec<u8>, String> {
    let owned = path.to_owned();
    // Elsewhere, for the disk may be slow or a network's.
    let read = tokio::task::spawn_blocking(move || {
        let mut bytes = Vec::new();
        File::open(owned)?.take(BYTES_MAX + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let bytes = match read.await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(error)) => return Err(format!("{}: {error}", path.display())),
        Err(error) => return Err(format!("{}: {error}", path.display())),
    };
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("{}: more than {BYTES_MAX} bytes", path.display()));
    }
    Ok(bytes)
}

/// The password in the file: its first line, for editors end it.
///
/// # Errors
/// As for [`read`].
pub(super) async fn secret(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = read(path).await?;
    let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
    Ok(line.strip_suffix(b"\r").unwrap_or(line).to_vec())
}
