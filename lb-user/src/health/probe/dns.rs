//! The DNS probe: one query, judged by the answer's code and whether it holds records.
//!
//! Asked over what the service speaks. A truncated answer (TC) is an answer: that the rest is fetched over TCP is for
//! clients, and for a check of the service on TCP.

use std::io;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_resolver::proto::rr::{Name, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::time::Time;
use super::{Found, Setback, Target, connect, setback, udp};
use crate::desired::Protocol;

const PHASE: &str = "dns";

/// That it answers a DNS query.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dns {
    /// Absolute.
    pub name: Name,
    pub record: RecordType,
    pub expect: DnsAnswer,
    /// What the query is sent over.
    pub over: Protocol,
}

/// Which answer passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DnsAnswer {
    /// `NOERROR`, with at least one record.
    Records,
    /// `NOERROR`, with or without.
    NoError,
    NxDomain,
    Refused,
}

impl DnsAnswer {
    fn accepts(self, code: ResponseCode, n_records: usize) -> bool {
        match self {
            Self::Records => code == ResponseCode::NoError && n_records > 0,
            Self::NoError => code == ResponseCode::NoError,
            Self::NxDomain => code == ResponseCode::NXDomain,
            Self::Refused => code == ResponseCode::Refused,
        }
    }
}

impl Dns {
    pub(super) async fn ask(&self, target: Target, time: &Time) -> Found {
        let query = self.query();
        let bytes = query.to_vec().map_err(|error| Setback::Unasked(format!("{PHASE}: {error}")))?;
        let answer = match self.over {
            Protocol::Udp => {
                let socket = udp::open(PHASE, target).await?;
                time.keep(PHASE, udp::exchange(PHASE, &socket, &bytes)).await??
            }
            Protocol::Tcp => {
                let mut stream = connect(target, time).await?;
                let exchanged = time.keep(PHASE, over_tcp(&mut stream, &bytes)).await?;
                exchanged.map_err(|error| setback(PHASE, &error))?
            }
        };
        self.judge(&query, &answer)
    }

    fn query(&self) -> Message {
        let mut query = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(self.name.clone(), self.record));
        query
    }

    fn judge(&self, query: &Message, answer: &[u8]) -> Found {
        let failed = |what: &str| Setback::Failed(format!("{PHASE}: {what}"));
        let answer = Message::from_vec(answer).map_err(|_| failed("what came back is not DNS"))?;
        let is_ours = answer.metadata.message_type == MessageType::Response && answer.metadata.id == query.metadata.id;
        // Servers may leave the question out of a refusal, but not answer another.
        if !is_ours || answer.queries.iter().any(|question| !query.queries.contains(question)) {
            return Err(failed("what came back answers another question"));
        }
        let (code, n_records) = (answer.metadata.response_code, answer.answers.len());
        let records = if n_records == 1 { "record" } else { "records" };
        let found = format!("{}, {n_records} {records}", code.to_str().to_lowercase());
        if self.expect.accepts(code, n_records) { Ok(format!("{PHASE}: {found}")) } else { Err(failed(&found)) }
    }
}

/// Length and message, as RFC 1035 section 4.2.2 has it.
async fn over_tcp(stream: &mut TcpStream, query: &[u8]) -> io::Result<Vec<u8>> {
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
