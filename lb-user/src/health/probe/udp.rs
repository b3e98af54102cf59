//! The UDP probe: a datagram, and what comes back.
//!
//! UDP tells nothing by itself: a service that ignores what it does not understand looks like one that is gone. So the
//! question is the operator's to choose, and no answer is a failure.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use tokio::net::UdpSocket;

use super::time::Time;
use super::{Found, Setback, Target, contains, excerpt, setback};

const PHASE: &str = "udp";
/// The largest that there is.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// That it answers a datagram.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Udp {
    /// What is sent.
    pub payload: Vec<u8>,
    /// What the answer must hold somewhere; `None` takes any answer, an empty one too.
    pub expect: Option<Vec<u8>>,
}

impl Udp {
    pub(super) async fn ask(&self, target: Target, time: &Time) -> Found {
        let socket = open(PHASE, target).await?;
        let answer = time.keep(PHASE, exchange(PHASE, &socket, &self.payload)).await??;
        match &self.expect {
            Some(expected) if !contains(&answer, expected) => {
                Err(Setback::Failed(format!("{PHASE}: answered {}, without what is expected", excerpt(&answer))))
            }
            _ => Ok(format!("{PHASE}: answered")),
        }
    }
}

/// A socket that hears only `target`, and of its ICMP errors.
pub(super) async fn open(phase: &str, target: Target) -> Result<UdpSocket, Setback> {
    let any: IpAddr = if target.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let opened = async {
        let socket = UdpSocket::bind((any, 0)).await?;
        target.prepare(&socket)?;
        socket.connect(target.address).await?;
        Ok(socket)
    };
    opened.await.map_err(|error: io::Error| setback(phase, &error))
}

/// The first answer to `question`.
pub(super) async fn exchange(phase: &str, socket: &UdpSocket, question: &[u8]) -> Result<Vec<u8>, Setback> {
    let mut answer = Vec::with_capacity(DATAGRAM_BYTES_MAX);
    let exchanged = async {
        socket.send(question).await?;
        socket.recv_buf(&mut answer).await
    };
    match exchanged.await {
        Ok(_) => Ok(answer),
        // An ICMP error that came back, which the kernel hands to the connected socket.
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            Err(Setback::Failed(format!("{phase}: port unreachable")))
        }
        Err(error) => Err(setback(phase, &error)),
    }
}
