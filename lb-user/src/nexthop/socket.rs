//! Netlink sockets: one kind for requests, one for events.
//!
//! They are apart because an overrun by events would take the answers to requests with it.
//!
//! The requests are sent by hand, not by netlink-proto: there, a request whose answer is lost stays pending forever,
//! and with it whoever waits for it. Here every request ends, if need be by its time-out.

use std::future::Future;
use std::io;
use std::time::Duration;

use netlink_packet_core::{DecodeError, NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkPayload};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};
use tracing::debug;

use super::NextHopError;
use super::message::{Message, decode, encode};

/// The kernel puts at most 32 KiB in a datagram.
const DATAGRAM_LEN: usize = 64 * 1024;
/// Events of some thousand neighbours at once; what is more, an overrun mends.
const EVENT_BUFFER_LEN: usize = 4 << 20;
/// Ordinarily microseconds; longer while another process holds the kernel's RTNL lock.
const TIMEOUT: Duration = Duration::from_secs(5);

/// For requests, one at a time: the kernel answers most within the system call, so that pipelining would gain nothing.
pub struct Requests {
    socket: TokioSocket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Requests {
    pub fn open(protocol: isize) -> Result<Self, NextHopError> {
        let mut socket = TokioSocket::new(protocol).map_err(NextHopError::Socket)?;
        socket.socket_mut().bind_auto().map_err(NextHopError::Socket)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(DATAGRAM_LEN) })
    }

    /// Has something done that has no answer but yes or no. `what` completes "refused to".
    pub async fn act(&mut self, what: &'static str, flags: u16, request: impl Message) -> Result<(), NextHopError> {
        within(what, self.exchange(NLM_F_REQUEST | NLM_F_ACK | flags, request)).await.map(drop)
    }

    /// Asks for one thing. `None` where the answer cannot be read.
    pub async fn get<M: Message>(&mut self, what: &'static str, request: M) -> Result<Option<M>, NextHopError> {
        let answers = within(what, self.exchange(NLM_F_REQUEST, request)).await?;
        Ok(answers.messages.into_iter().next())
    }

    /// Asks for all there are. A dump that changes disturbed is asked for again.
    pub async fn dump<M: Message>(&mut self, what: &'static str, request: M) -> Result<Answers<M>, NextHopError> {
        const N_TRIES: usize = 5;
        let mut answers = Answers::default();
        for _ in 0..N_TRIES {
            answers = within(what, self.exchange(NLM_F_REQUEST | NLM_F_DUMP, request.clone())).await?;
            if !answers.disturbed {
                break;
            }
        }
        Ok(answers)
    }

    async fn exchange<M: Message>(&mut self, flags: u16, request: M) -> io::Result<Answers<M>> {
        self.sequence = self.sequence.wrapping_add(1);
        let kernel = SocketAddr::new(0, 0);
        self.socket.send_to(&encode(request, flags, self.sequence), &kernel).await?;
        // An answer ends with "done" (dumps), with an acknowledgement, or else is the only message.
        let ends_with_the_first = flags & (NLM_F_ACK | NLM_F_DUMP) == 0;
        let mut answers = Answers::default();
        loop {
            self.buffer.clear();
            let sender = self.socket.recv_from(&mut self.buffer).await?;
            if sender.port_number() != 0 {
                continue;
            }
            // Answers to a request that was given up may still lie here.
            for (header, payload) in decode(&self.buffer).filter(|(header, _)| header.sequence_number == self.sequence) {
                answers.disturbed |= header.flags & NLM_F_DUMP_INTR != 0;
                match payload {
                    Ok(NetlinkPayload::InnerMessage(message)) => answers.messages.push(message),
                    Ok(NetlinkPayload::Error(error)) if error.code.is_some() => return Err(error.to_io()),
                    Ok(NetlinkPayload::Done(done)) if done.code != 0 => {
                        return Err(io::Error::from_raw_os_error(done.code.saturating_neg()));
                    }
                    Ok(NetlinkPayload::Error(_) | NetlinkPayload::Done(_)) => return Ok(answers),
                    Ok(_) => continue,
                    Err(error) => {
                        debug!(kind = header.message_type, %error, "netlink: passed over an answer that cannot be read");
                        answers.n_unread += 1;
                    }
                }
                if ends_with_the_first {
                    return Ok(answers);
                }
            }
        }
    }
}

/// What the kernel answered.
#[derive(Debug)]
pub struct Answers<M> {
    pub messages: Vec<M>,
    /// How many more there were.
    pub n_unread: usize,
    disturbed: bool,
}

impl<M> Default for Answers<M> {
    fn default() -> Self {
        Self { messages: Vec::new(), n_unread: 0, disturbed: false }
    }
}

async fn within<T>(request: &'static str, exchange: impl Future<Output = io::Result<T>>) -> Result<T, NextHopError> {
    match tokio::time::timeout(TIMEOUT, exchange).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(source)) => Err(NextHopError::Refused { request, source }),
        Err(_) => Err(NextHopError::TimedOut { request, timeout_ms: TIMEOUT.as_millis() }),
    }
}

/// What came from an event socket.
#[derive(Debug)]
pub enum Received<M> {
    Events(Vec<Result<M, Unread>>),
    /// Events were lost; everything must be asked for anew.
    Overrun,
}

/// An event that cannot be read, as of a type or with an attribute that only newer kernels have.
#[derive(Debug)]
pub struct Unread {
    pub kind: u16,
    pub error: DecodeError,
}

/// For events of multicast groups.
pub struct Events {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

impl Events {
    pub fn open(protocol: isize, groups: &[u32]) -> Result<Self, NextHopError> {
        let mut socket = TokioSocket::new(protocol).map_err(NextHopError::Socket)?;
        let inner = socket.socket_mut();
        inner.bind_auto().map_err(NextHopError::Socket)?;
        // Without CAP_NET_ADMIN no more than net.core.rmem_max is granted, which is 208 KiB by default.
        if set_socket_recv_buffer_size_force(&*inner, EVENT_BUFFER_LEN).is_err() {
            set_socket_recv_buffer_size(&*inner, EVENT_BUFFER_LEN).map_err(|errno| NextHopError::Socket(errno.into()))?;
        }
        for group in groups {
            inner.add_membership(*group).map_err(NextHopError::Socket)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(DATAGRAM_LEN) })
    }

    /// The next datagram's events. Cancel-safe.
    ///
    /// # Errors
    /// The socket is unusable.
    pub async fn receive<M: Message>(&mut self) -> io::Result<Received<M>> {
        const ENOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();
        self.buffer.clear();
        match self.socket.recv_from(&mut self.buffer).await {
            // Any process may send to a netlink socket; only the kernel is believed.
            Ok(sender) if sender.port_number() != 0 => Ok(Received::Events(Vec::new())),
            Ok(_) => {
                let events = decode(&self.buffer).filter_map(|(header, payload)| match payload {
                    Ok(NetlinkPayload::InnerMessage(message)) => Some(Ok(message)),
                    Ok(_) => None,
                    Err(error) => Some(Err(Unread { kind: header.message_type, error })),
                });
                Ok(Received::Events(events.collect()))
            }
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => Ok(Received::Overrun),
            Err(error) => Err(error),
        }
    }
}
