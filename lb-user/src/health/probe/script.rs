//! The script probe: a program of the operator's, judged by how it exits.
//!
//! It runs in a process group of its own, which is killed as a whole when the program has ended, when the time is up, and
//! when nobody wants to know any more: nothing that it started outlives the probe. No shell reads the command.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::{Child, Command};

use super::time::Time;
use super::{Found, Setback, Target, excerpt};

const PHASE: &str = "script";
/// How much of what it prints is kept; the rest is read and dropped, so that it can go on.
const OUTPUT_BYTES_MAX: usize = 4096;
/// Its whole environment, besides what names the backend: a script should do the same in a shell and under systemd.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// That a program exits with 0.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// An absolute path.
    pub program: String,
    pub arguments: Vec<String>,
}

impl Script {
    pub(super) async fn ask(&self, service: &str, target: Target, time: &Time) -> Found {
        let unasked = |error: io::Error| Setback::Unasked(format!("{PHASE}: {}: {error}", self.program));
        let (mut child, mut output) = self.start(service, target).map_err(unasked)?;
        let group = Group::of(&child);
        let mut printed = Vec::new();
        let exited = async {
            tokio::select! {
                status = child.wait() => status,
                never = async { swallow(&mut output, &mut printed).await; std::future::pending().await } => never,
            }
        };
        let status = time.keep(PHASE, exited).await?.map_err(unasked)?;
        // What it left running holds the pipe open, and would be waited for.
        drop(group);
        // All that counts is known: who escaped from the group can only withhold the words.
        let _ = time.keep(PHASE, swallow(&mut output, &mut printed)).await;
        verdict(status, &printed)
    }

    /// The process, and what it prints to either stream.
    fn start(&self, service: &str, target: Target) -> io::Result<(Child, pipe::Receiver)> {
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", PATH)
            .env("XLB_SERVICE", service)
            .env("XLB_BACKEND_ADDRESS", target.ip().to_string())
            .env("XLB_BACKEND_PORT", target.port().to_string())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        let child = command.spawn()?;
        // With the command goes this side's end of the pipe for writing.
        drop(command);
        Ok((child, pipe::Receiver::from_owned_fd(reader.into())?))
    }
}

/// A process group, killed when this is dropped. Its leader, if it has ended, has done so just now, and its number cannot be
/// another's yet: numbers are given in turn.
struct Group(Option<Pid>);

impl Group {
    fn of(leader: &Child) -> Self {
        Self(leader.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // None of it may be left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Reads to the end, and keeps the beginning.
async fn swallow(output: &mut pipe::Receiver, kept: &mut Vec<u8>) {
    let mut piece = [0; 1024];
    while let Ok(n_bytes @ 1..) = output.read(&mut piece).await {
        let room = OUTPUT_BYTES_MAX - kept.len();
        kept.extend_from_slice(&piece[..n_bytes.min(room)]);
    }
}

fn verdict(status: ExitStatus, printed: &[u8]) -> Found {
    let ended = match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit {code}"),
        (None, Some(signal)) => format!("killed by signal {signal}"),
        (None, None) => status.to_string(),
    };
    let said = printed.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty());
    let found = match said {
        Some(line) => format!("{PHASE}: {ended}: {}", excerpt(line)),
        None => format!("{PHASE}: {ended}"),
    };
    if status.success() { Ok(found) } else { Err(Setback::Failed(found)) }
}
