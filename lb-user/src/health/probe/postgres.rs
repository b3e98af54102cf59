//! The PostgreSQL probe: without a user, whether the server takes logins, as `pg_isready` asks; with one, whether the login
//! succeeds; with a role, also what the server is.
//!
//! PostgreSQL logs clients that vanish. So this probe takes leave as the protocol has it, and closes with FIN.
//!
//! Without TLS: what needs it is asked by a script.

use std::io;
use std::path::PathBuf;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::{NoTls, SimpleQueryMessage};

use super::time::Time;
use super::{Found, Role, Setback, Target, connect_gently, excerpt, file, setback};

const PHASE: &str = "postgres";
const APPLICATION: &str = "xlb";
/// All that a server may say to one probe: some hundred bytes if it is PostgreSQL.
const ANSWERS_BYTES_MAX: u64 = 64 * 1024;

/// That a PostgreSQL server answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Postgres {
    pub login: Option<Login>,
}

/// As whom a probe logs in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    pub user: String,
    /// Read for each probe; `None` for servers that ask for none.
    pub password_file: Option<PathBuf>,
    /// `None` is the one called like the user, as everywhere in PostgreSQL.
    pub database: Option<String>,
    /// What the server must be; `None` takes either.
    pub role: Option<Role>,
}

impl Postgres {
    pub(super) async fn ask(&self, target: Target, time: &Time) -> Found {
        let Some(login) = &self.login else {
            let stream = connect_gently(target, time).await?;
            return time.keep(PHASE, is_ready(stream)).await?;
        };
        let config = login.config().await.map_err(|reason| Setback::Unasked(format!("{PHASE}: {reason}")))?;
        let stream = connect_gently(target, time).await?;
        let conversed = time.keep(PHASE, login.converse(stream, config)).await?;
        conversed.map_err(|error| Setback::Failed(format!("{PHASE}: {}", described(&error))))?
    }
}

impl Login {
    async fn config(&self) -> Result<tokio_postgres::Config, String> {
        let mut config = tokio_postgres::Config::new();
        config.user(&self.user).application_name(APPLICATION);
        if let Some(database) = &self.database {
            config.dbname(database);
        }
        if let Some(path) = &self.password_file {
            config.password(file::secret(path).await?);
        }
        Ok(config)
    }

    async fn converse(&self, stream: TcpStream, config: tokio_postgres::Config) -> Result<Found, tokio_postgres::Error> {
        // A message may announce a gigabyte, and would be waited for: what can be read is bounded here.
        let (reader, writer) = tokio::io::split(stream);
        let bounded = tokio::io::join(reader.take(ANSWERS_BYTES_MAX), writer);
        let (client, connection) = config.connect_raw(bounded, NoTls).await?;
        let asked = async {
            // Dropped when it has asked, upon which the connection says goodbye.
            let client = client;
            match self.role {
                Some(wanted) => client.simple_query("SELECT pg_is_in_recovery()").await.map(|rows| Some((wanted, rows))),
                None => Ok(None),
            }
        };
        let (asked, _) = tokio::join!(asked, connection);
        let Some((wanted, rows)) = asked? else { return Ok(Ok(format!("{PHASE}: logged in"))) };
        let in_recovery = rows.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        Ok(match in_recovery {
            Some("f") => wanted.judge(PHASE, Role::Primary),
            Some("t") => wanted.judge(PHASE, Role::Replica),
            other => Err(Setback::Failed(format!("{PHASE}: pg_is_in_recovery() is {other:?}"))),
        })
    }
}

/// What the server or the protocol says is wrong; tokio-postgres' own words only name the kind.
fn described(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(refusal), _) => excerpt(refusal.message().as_bytes()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    }
}

/// Whether the server answers a startup message by asking for a login. It logs nothing of a client that leaves then.
/// Message formats: PostgreSQL documentation, section 55.7.
async fn is_ready(mut stream: TcpStream) -> Found {
    const PROTOCOL_3_0: u32 = 196_608;
    let parameters = format!("user\0{APPLICATION}\0\0");
    let length = (parameters.len() + 8) as u32;
    let startup = [&length.to_be_bytes(), &PROTOCOL_3_0.to_be_bytes(), parameters.as_bytes()].concat();
    let exchanged = async {
        stream.write_all(&startup).await?;
        let (kind, length) = (stream.read_u8().await?, stream.read_u32().await?);
        let mut body = Vec::new();
        // The length counts itself.
        let body_bytes = u64::from(length.saturating_sub(4));
        if body_bytes <= ANSWERS_BYTES_MAX {
            stream.take(body_bytes).read_to_end(&mut body).await?;
        }
        Ok::<_, io::Error>((kind, body_bytes == body.len() as u64, body))
    };
    let (kind, is_whole, body) = exchanged.await.map_err(|error| setback(PHASE, &error))?;
    match kind {
        b'R' if is_whole => Ok(format!("{PHASE}: takes logins")),
        b'E' if is_whole => refusal(&body),
        _ => Err(Setback::Failed(format!("{PHASE}: what came back is not PostgreSQL's protocol"))),
    }
}

/// A server that refuses this user or database by name is well; one that starts, stops or is full says so otherwise.
fn refusal(body: &[u8]) -> Found {
    let field = |kind: u8| body.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(&[kind]));
    let code = field(b'C').unwrap_or_default();
    // SQLSTATE classes 28, invalid authorization, and 3D, invalid catalog name.
    if code.starts_with(b"28") || code.starts_with(b"3D") {
        return Ok(format!("{PHASE}: takes logins"));
    }
    Err(Setback::Failed(format!("{PHASE}: {}", excerpt(field(b'M').unwrap_or_default()))))
}
