//! The TCP probe: a backend that accepts a connection passes.
//!
//! The kernel accepts on behalf of a process that hangs, until its backlog is full: what this tells is that something
//! listens. Who needs to know that it answers asks over HTTP.

use tokio::net::TcpStream;

use super::Outcome;

pub(super) fn verdict(stream: TcpStream) -> Outcome {
    drop(stream);
    Outcome::Passed("connected".to_owned())
}
