//! The file that what was set at runtime is kept in: JSON, replaced as a whole, for the next daemon of the same pin directory.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Deadlines, Overrides};

/// Of the file's form. A daemon that does not know it leaves the file alone.
const VERSION: u32 = 1;
/// More than all backends could need.
const LEN_MAX: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("{path}: cannot be read")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path}: what was set at runtime is not to be had from this file: {reason}")]
    Broken { path: PathBuf, reason: String },
    #[error("{path}: cannot be written; without it the change would not survive a restart, so it was not made")]
    Write { path: PathBuf, source: io::Error },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept<O, D> {
    version: u32,
    services: O,
    /// Beside what was set, since no other clock than the wall's means anything to people.
    #[serde(skip_serializing_if = "Option::is_none")]
    deadlines: Option<D>,
}

/// What a file holds; nothing where there is none.
///
/// # Errors
/// It cannot be read, or is not such a file. Part of one is never taken for the whole.
pub fn load(path: &Path) -> Result<(Overrides, Deadlines), StateError> {
    let broken = |reason: String| StateError::Broken { path: path.to_owned(), reason };
    let text = match fs::metadata(path) {
        Ok(file) if file.len() > LEN_MAX => return Err(broken(format!("it has {} bytes, and {LEN_MAX} at most", file.len()))),
        _ => fs::read_to_string(path),
    };
    let text = match text {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Default::default()),
        Err(source) => return Err(StateError::Read { path: path.to_owned(), source }),
    };
    let kept: Kept<Overrides, Deadlines> = serde_json::from_str(&text).map_err(|error| broken(error.to_string()))?;
    match kept.version {
        VERSION => Ok((kept.services, kept.deadlines.unwrap_or_default())),
        version => Err(broken(format!("it is of version {version}, and this xlb knows {VERSION}"))),
    }
}

/// Replaces the file, or leaves it as it was. Done, it is on the disk.
///
/// # Errors
/// If the operating system refuses.
pub fn store(path: &Path, overrides: &Overrides, deadlines: &Deadlines) -> Result<(), StateError> {
    let deadlines = Some(deadlines).filter(|deadlines| deadlines.is_to_be_kept());
    let mut text = serde_json::to_string_pretty(&Kept { version: VERSION, services: overrides, deadlines }).unwrap_or_default();
    text.push('\n');
    replace(path, text.as_bytes()).map_err(|source| StateError::Write { path: path.to_owned(), source })
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory)?;
    let aside = beside(path, "new");
    let written = write_out(&aside, content).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        // It may not even be there.
        let _ = fs::remove_file(&aside);
        return written;
    }
    // The name is on the disk when its directory is.
    File::open(directory)?.sync_all()
}

fn write_out(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

/// Puts a broken file out of the way, so that the next change does not overwrite what somebody may want to mend.
///
/// # Errors
/// It stays where it was.
pub fn put_aside(path: &Path) -> io::Result<PathBuf> {
    let aside = beside(path, "broken");
    fs::rename(path, &aside)?;
    Ok(aside)
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}
