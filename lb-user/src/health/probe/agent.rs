//! The agent probe: a process on the backend's host that says in a line how the host is, as HAProxy's agent-check has it.
//!
//! Words between spaces, tabs or commas, up to the end of the line or a `#`, after which a reason may follow. What the words
//! say of weights and numbers of connections is not taken up: only whether the backend should get new flows.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

use super::time::Time;
use super::{Found, Setback, Target, connect, excerpt, setback};

const PHASE: &str = "agent";
/// HAProxy reads no more of it either.
const ANSWER_BYTES_MAX: u64 = 1024;

pub(super) async fn ask(target: Target, time: &Time) -> Found {
    let stream = connect(target, time).await?;
    let line = time.keep(PHASE, line(stream)).await?.map_err(|error| setback(PHASE, &error))?;
    if line.len() as u64 == ANSWER_BYTES_MAX && !line.ends_with(b"\n") {
        return Err(Setback::Failed(format!("{PHASE}: no end of line within {ANSWER_BYTES_MAX} bytes")));
    }
    judge(&line)
}

/// The first line, which the end of the connection may end too.
async fn line(stream: TcpStream) -> std::io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(stream.take(ANSWER_BYTES_MAX)).read_until(b'\n', &mut line).await?;
    Ok(line)
}

fn judge(line: &[u8]) -> Found {
    let said = format!("{PHASE}: {}", excerpt(line.trim_ascii()));
    let words = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let words = words.split(|byte| byte.is_ascii_whitespace() || *byte == b',').filter(|word| !word.is_empty());
    let mut passes = None;
    for word in words {
        let Some(serves) = serves(word) else { return Err(Setback::Failed(format!("{said} is not an agent's answer"))) };
        // One word against it is enough.
        passes = Some(passes.unwrap_or(true) && serves);
    }
    match passes {
        Some(true) => Ok(said),
        Some(false) => Err(Setback::Failed(said)),
        None => Err(Setback::Failed(format!("{said} is not an agent's answer"))),
    }
}

/// Whether a backend of which this is said should get new flows. `None` for a word of another language.
fn serves(word: &[u8]) -> Option<bool> {
    let word = word.to_ascii_lowercase();
    match word.as_slice() {
        b"up" | b"ready" => Some(true),
        b"down" | b"fail" | b"failed" | b"stopped" | b"drain" | b"maint" => Some(false),
        other => match (other.strip_suffix(b"%"), other.strip_prefix(b"maxconn:")) {
            // A share of 0 is how an agent drains.
            (Some(percent), _) => Some(number(percent)? > 0),
            (None, Some(connections)) => number(connections).map(|_| true),
            (None, None) => None,
        },
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_say_whether_a_backend_serves() {
        let passing = ["up\n", "ready", "75%", "up ready 100% maxconn:30\r\n", "UP,READY\t1%", "maxconn:5", "up # down before\n"];
        let failing = ["down\n", "stopped#by hand", "failed", "fail", "maint", "drain\n", "0%", "up 50% drain", "ready down"];
        let strange = ["", "\n", "# up", "ok", "up fine", "%", "-1%", "maxconn:", "HTTP/1.1 400 Bad Request", "\u{fffd}%"];
        for (lines, expected) in [(passing.as_slice(), Some(true)), (&failing, Some(false)), (&strange, None)] {
            for line in lines {
                let said = format!("agent: {}", excerpt(line.as_bytes().trim_ascii()));
                let found = match judge(line.as_bytes()) {
                    Ok(text) => (text == said).then_some(true),
                    Err(Setback::Failed(text)) if text == said => Some(false),
                    Err(Setback::Failed(text)) => {
                        assert_eq!(text, format!("{said} is not an agent's answer"));
                        None
                    }
                    Err(other) => panic!("{other:?}"),
                };
                assert_eq!(found, expected, "{line}");
            }
        }
    }
}
