//! Waiting for a condition instead of sleeping.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

const STEP: Duration = Duration::from_millis(2);

/// Asks `condition` until it yields something, at most for `limit`; an error counts as "not yet".
///
/// # Errors
/// The time is over: the message says what was waited for, and the condition's last error.
pub fn until<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let start = Instant::now();
    loop {
        let answer = condition();
        match answer {
            Ok(Some(value)) => return Ok(value),
            Ok(None) | Err(_) if start.elapsed() < limit => std::thread::sleep(STEP),
            Ok(None) => bail!("waited {limit:?} for {what}"),
            Err(error) => return Err(error).with_context(|| format!("waited {limit:?} for {what}")),
        }
    }
}
