//! The Redis probe: PING, and ROLE where the role matters.
//!
//! Also of what speaks Redis's protocol: Valkey, KeyDB, Dragonfly.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Take};
use tokio::net::TcpStream;

use super::time::Time;
use super::{Found, Role, Setback, Target, connect, excerpt, file, setback};

const PHASE: &str = "redis";
/// What all answers of one probe may hold. They are a few dozen bytes, but for the list of a primary's replicas, which is
/// not read.
const ANSWERS_BYTES_MAX: u64 = 4096;

/// That a Redis server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redis {
    /// Of Redis's ACLs (since Redis 6); `None` is its default user.
    pub user: Option<String>,
    /// Read for each probe; `None` does not log in.
    pub password_file: Option<PathBuf>,
    /// What the server must be; `None` takes either.
    pub role: Option<Role>,
}

impl Redis {
    pub(super) async fn ask(&self, target: Target, time: &Time) -> Found {
        let password = match &self.password_file {
            Some(path) => Some(file::secret(path).await.map_err(|reason| Setback::Unasked(format!("{PHASE}: {reason}")))?),
            None => None,
        };
        let stream = connect(target, time).await?;
        time.keep(PHASE, self.converse(stream, password)).await?
    }

    async fn converse(&self, stream: TcpStream, password: Option<Vec<u8>>) -> Found {
        let mut server = Server(BufReader::new(stream.take(ANSWERS_BYTES_MAX)));
        if let Some(password) = &password {
            let user = self.user.as_deref().map(str::as_bytes);
            let words: Vec<&[u8]> = [b"AUTH".as_slice()].into_iter().chain(user).chain([password.as_slice()]).collect();
            server.expect(&words, b"+OK").await?;
        }
        // Not only ROLE, which a server answers even while it loads its data.
        server.expect(&[b"PING"], b"+PONG").await?;
        match self.role {
            None => Ok(format!("{PHASE}: pong")),
            Some(wanted) => wanted.judge(PHASE, server.role().await?),
        }
    }
}

/// The other side of a connection, and what it may still say.
struct Server(BufReader<Take<TcpStream>>);

impl Server {
    /// Sends a command (RESP: an array of bulk strings).
    async fn send(&mut self, words: &[&[u8]]) -> Result<(), Setback> {
        let mut command = format!("*{}\r\n", words.len()).into_bytes();
        for word in words {
            command.extend(format!("${}\r\n", word.len()).as_bytes());
            command.extend_from_slice(word);
            command.extend_from_slice(b"\r\n");
        }
        let stream = self.0.get_mut().get_mut();
        stream.write_all(&command).await.map_err(|error| setback(PHASE, &error))
    }

    /// Sends a command that has one right answer.
    async fn expect(&mut self, command: &[&[u8]], answer: &[u8]) -> Result<(), Setback> {
        self.send(command).await?;
        let line = self.line().await?;
        if line == answer { Ok(()) } else { Err(strange(&line)) }
    }

    /// The first word of the answer to ROLE says what the server is. `*5`, `$6`, `master`, and so on.
    async fn role(&mut self) -> Result<Role, Setback> {
        self.send(&[b"ROLE"]).await?;
        let array = self.line().await?;
        if !array.starts_with(b"*") {
            return Err(strange(&array));
        }
        self.line().await?;
        match self.line().await?.as_slice() {
            b"master" => Ok(Role::Primary),
            b"slave" => Ok(Role::Replica),
            other => Err(strange(other)),
        }
    }

    /// The next line, without its end.
    async fn line(&mut self) -> Result<Vec<u8>, Setback> {
        let mut line = Vec::new();
        self.0.read_until(b'\n', &mut line).await.map_err(|error| setback(PHASE, &error))?;
        match line.strip_suffix(b"\r\n") {
            Some(whole) => Ok(whole.to_vec()),
            None if line.is_empty() => Err(setback(PHASE, &io::Error::from(io::ErrorKind::UnexpectedEof))),
            None => Err(strange(&line)),
        }
    }
}

/// An answer that is not the right one: Redis's own errors say what is wrong.
fn strange(line: &[u8]) -> Setback {
    Setback::Failed(match line.strip_prefix(b"-") {
        Some(error) => format!("{PHASE}: error {}", excerpt(error)),
        None => format!("{PHASE}: answered {}", excerpt(line)),
    })
}
