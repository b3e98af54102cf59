//! Watches one file that others write, and reads it whole whenever it changes.
//!
//! What is half written is not read: a file that was modified is left alone until its writer has closed it or put another in
//! its place. Where the kernel tells nothing, as of files on other machines, a file must have rested for a moment.

mod lookout;
mod parse;

use std::convert::Infallible;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;

use super::found::Found;
use super::teller::{Failure, FailureKind, Gone, Teller};
use crate::config::File;
use lookout::Lookout;

#[cfg(test)]
mod tests;

/// Far more than all the hosts that are taken need.
const BYTES_MAX: u64 = 16 << 20;

/// How long a file must have been left alone if nobody said that its writer is done.
const REST: Duration = Duration::from_millis(500);

/// Reads until nobody listens any more.
pub(super) async fn watch(file: File, teller: Teller) {
    let Err(Gone) = keep_reading(file, teller).await;
}

async fn keep_reading(file: File, mut teller: Teller) -> Result<Infallible, Gone> {
    let mut lookout = Lookout::new(&file.path);
    loop {
        let looked;
        (lookout, looked) = look(lookout, file.path.clone()).await?;
        let answer = match looked {
            // What happened in between may have to do with what was read.
            Looked::Read(_) if lookout.has_news() => continue,
            Looked::Read(contents) => contents.and_then(|contents| parsed(&file, &contents)),
            Looked::Restless(wait) => {
                lookout.changed_within(wait).await;
                continue;
            }
            Looked::BeingWritten if lookout.changed_within(file.interval).await => continue,
            Looked::BeingWritten => Err(Failure::new(
                FailureKind::Broken,
                format!(
                    "{}: somebody has modified it and not closed it yet; it is read as soon as that is done",
                    file.path.display()
                ),
            )),
        };
        teller.take(answer).await?;
        let wait = if teller.is_failing() { teller.wait_after_failure(file.interval) } else { file.interval };
        lookout.changed_within(wait).await;
    }
}

/// What a look found.
enum Looked {
    Read(Result<String, Failure>),
    /// It changed a moment ago: look again after so long.
    Restless(Duration),
    BeingWritten,
}

/// Watches what the path leads by now, then reads. Not on the runtime's own threads: a file system may hang.
async fn look(mut lookout: Lookout, path: PathBuf) -> Result<(Lookout, Looked), Gone> {
    let looking = tokio::task::spawn_blocking(move || {
        lookout.follow();
        let looked = if lookout.is_being_written() {
            Looked::BeingWritten
        } else if let Some(wait) = restless(&path).filter(|_| !lookout.is_written()) {
            Looked::Restless(wait)
        } else {
            Looked::Read(read(&path))
        };
        (lookout, looked)
    });
    // It ends only with the runtime.
    looking.await.map_err(|_| Gone)
}

/// How long until a file has rested, if it has not.
fn restless(path: &Path) -> Option<Duration> {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    // One from the future has rested as far as anybody can tell.
    let age = SystemTime::now().duration_since(modified).ok()?;
    REST.checked_sub(age).filter(|rest| !rest.is_zero())
}

fn read(path: &Path) -> Result<String, Failure> {
    let failure = |kind, text: String| Failure::new(kind, format!("{}: {text}", path.display()));
    let unreadable = |error: std::io::Error| failure(FailureKind::Unreachable, error.to_string());
    // Opening a FIFO would wait for its writer.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let opened = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(|error| unreadable(error.into()))?;
    let file = std::fs::File::from(opened);
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(failure(FailureKind::Unreachable, "not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > BYTES_MAX {
        return Err(failure(FailureKind::Broken, format!("more than {BYTES_MAX} bytes; no list of backends is that long")));
    }
    String::from_utf8(bytes)
        .map_err(|error| failure(FailureKind::Broken, format!("not UTF-8 after {} bytes", error.utf8_error().valid_up_to())))
}

fn parsed(file: &File, contents: &str) -> Result<Found, Failure> {
    parse::parse(file, contents).map_err(|fault| Failure::new(FailureKind::Broken, format!("{}:{fault}", file.path.display())))
}
