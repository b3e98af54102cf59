//! The agent probe: a process on the backend's host that says in a line how the host is, as HAProxy's agent-check has it.
//!
//! Words between spaces, tabs or commas, up to the end of the line or a `#`, after which a reason may follow. What they say of
//! numbers of connections is not taken up.

use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;

use super::time::Time;
use super::{Setback, Target, connect, excerpt, setback};
use crate::health::Advice;

const PHASE: &str = "agent";
/// HAProxy reads no more of it either.
const ANSWER_BYTES_MAX: u64 = 1024;

/// What the agent advises, and its line.
type Advised = Result<(Advice, String), Setback>;

pub(super) async fn ask(target: Target, time: &Time) -> Advised {
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

fn judge(line: &[u8]) -> Advised {
    let said = format!("{PHASE}: {}", excerpt(line.trim_ascii()));
    let words = line.split(|byte| *byte == b'#').next().unwrap_or_default();
    let words = words.split(|byte| byte.is_ascii_whitespace() || *byte == b',').filter(|word| !word.is_empty());
    let meanings: Option<Vec<Word>> = words.map(meaning).collect();
    match meanings.filter(|meanings| !meanings.is_empty()) {
        None => Err(Setback::Failed(format!("{said} is not an agent's answer"))),
        // One word against it is enough.
        Some(meanings) if meanings.contains(&Word::Down) => Err(Setback::Failed(said)),
        Some(meanings) => {
            let advice =
                meanings.into_iter().filter_map(|word| if let Word::Advice(advice) = word { Some(advice) } else { None });
            Ok((Advice::strongest(advice), said))
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    /// It is well.
    Up,
    Down,
    Advice(Advice),
}

/// `None` for a word of another language.
fn meaning(word: &[u8]) -> Option<Word> {
    let word = word.to_ascii_lowercase();
    match word.as_slice() {
        b"up" | b"ready" => Some(Word::Up),
        b"down" | b"fail" | b"failed" | b"stopped" => Some(Word::Down),
        b"drain" => Some(Word::Advice(Advice::Drain)),
        b"maint" => Some(Word::Advice(Advice::Maint)),
        other => match (other.strip_suffix(b"%"), other.strip_prefix(b"maxconn:")) {
            (Some(percent), _) => Some(Word::Advice(Advice::percent(number(percent)?))),
            (None, Some(connections)) => number(connections).map(|_| Word::Up),
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
    fn words_say_whether_a_backend_serves_and_how_much() {
        let full = Some(Advice::Percent(100));
        let cases: [(&str, Option<Advice>); 21] = [
            ("up\n", full),
            ("ready", full),
            ("75%", Some(Advice::Percent(75))),
            ("up ready 100% maxconn:30\r\n", full),
            ("UP,READY\t1%", Some(Advice::Percent(1))),
            ("150%", Some(Advice::Percent(150))),
            ("4000000000%", Some(Advice::Percent(Advice::PERCENT_MAX))),
            ("maxconn:5", full),
            ("up # down before\n", full),
            ("maint", Some(Advice::Maint)),
            ("drain\n", Some(Advice::Drain)),
            ("drain maint", Some(Advice::Maint)),
            ("0%", Some(Advice::Drain)),
            ("up 50% drain", Some(Advice::Drain)),
            // HAProxy's ready ends maintenance; here each line stands for itself.
            ("ready 20% 50%", Some(Advice::Percent(20))),
            ("down\n", None),
            ("stopped#by hand", None),
            ("failed", None),
            ("fail", None),
            ("ready down", None),
            ("drain down", None),
        ];
        let said = |line: &str| format!("agent: {}", excerpt(line.as_bytes().trim_ascii()));
        for (line, expected) in cases {
            let found = match judge(line.as_bytes()) {
                Ok((advice, text)) => Some((advice, text)),
                Err(Setback::Failed(text)) if text == said(line) => None,
                Err(other) => panic!("{line}: {other:?}"),
            };
            assert_eq!(found, expected.map(|advice| (advice, said(line))), "{line}");
        }
        for line in ["", "\n", "# up", "ok", "up fine", "%", "-1%", "maxconn:", "HTTP/1.1 400 Bad Request", "\u{fffd}%"] {
            let Err(Setback::Failed(text)) = judge(line.as_bytes()) else { panic!("{line}") };
            assert_eq!(text, format!("{} is not an agent's answer", said(line)));
        }
    }
}
