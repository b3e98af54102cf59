//! Netlink sockets: one kind for requests, one for events.
//!
//! They are apart because an overrun by events would take the answers to requests with it.

use std::future::Future;
use std::io;
use std::time::Duration;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use rustix::net::sockopt::{set_socket_recv_buffer_size, set_socket_recv_buffer_size_force};

use super::NextHopError;
use super::wire::{self, Body};

/// The kernel puts at most 32 KiB in a datagram.
const DATAGRAM_LEN: usize = 64 * 1024;
/// Events of some thousand neighbours at once; what is more, an overrun mends.
const EVENT_BUFFER_LEN: usize = 4 << 20;
/// Ordinarily microseconds; longer while another process holds the kernel's RTNL lock.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A message of an event or an answer, kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Event {
    pub kind: u16,
    pub body: Vec<u8>,
}

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
    pub async fn act(&mut self, what: &'static str, kind: u16, flags: u16, body: &Body) -> Result<(), NextHopError> {
        let flags = wire::NLM_F_REQUEST | wire::NLM_F_ACK | flags;
        within(what, async { self.exchange(kind, flags, body).await }).await.map(drop)
    }

    /// Asks for one thing.
    pub async fn get(&mut self, what: &'static str, kind: u16, body: &Body) -> Result<Option<Event>, NextHopError> {
        within(what, async { self.exchange(kind, wire::NLM_F_REQUEST, body).await })
            .await
            .map(|answers| answers.events.into_iter().next())
    }

    /// Asks for all there are. A dump that changes disturbed is asked for again.
    pub async fn dump(&mut self, what: &'static str, kind: u16, body: &Body) -> Result<Vec<Event>, NextHopError> {
        const N_TRIES: usize = 5;
        let flags = wire::NLM_F_REQUEST | wire::NLM_F_DUMP;
        let mut answers = Answers::default();
        for _ in 0..N_TRIES {
            answers = within(what, async { self.exchange(kind, flags, body).await }).await?;
            if !answers.disturbed {
                break;
            }
        }
        Ok(answers.events)
    }

    async fn exchange(&mut self, kind: u16, flags: u16, body: &Body) -> io::Result<Answers> {
        self.sequence = self.sequence.wrapping_add(1);
        let kernel = SocketAddr::new(0, 0);
        self.socket.send_to(&body.message(kind, flags, self.sequence), &kernel).await?;
        // An answer ends with "done" (dumps), with an acknowledgement, or else is the only message.
        let ends_with_the_first = flags & (wire::NLM_F_ACK | wire::NLM_F_DUMP) == 0;
        let mut answers = Answers::default();
        loop {
            self.buffer.clear();
            let sender = self.socket.recv_from(&mut self.buffer).await?;
            if sender.port_number() != 0 {
                continue;
            }
            // Answers to a request that was given up may still lie here.
            for message in wire::messages(&self.buffer).filter(|message| message.sequence == self.sequence) {
                answers.disturbed |= message.flags & wire::NLM_F_DUMP_INTR != 0;
                match message.kind {
                    wire::NLMSG_NOOP => {}
                    wire::NLMSG_ERROR | wire::NLMSG_DONE => return status(message.body).map(|()| answers),
                    kind => answers.events.push(Event { kind, body: message.body.to_vec() }),
                }
                if ends_with_the_first && !answers.events.is_empty() {
                    return Ok(answers);
                }
            }
        }
    }
}

#[derive(Default)]
struct Answers {
    events: Vec<Event>,
    disturbed: bool,
}

/// The negative error number that an acknowledgement and the end of a dump start with; 0 where all is well.
fn status(body: &[u8]) -> io::Result<()> {
    match wire::u32_at(body, 0).map_or(0, u32::cast_signed) {
        0 => Ok(()),
        code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Received {
    Events(Vec<Event>),
    /// Events were lost; everything must be asked for anew.
    Overrun,
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
    pub async fn receive(&mut self) -> io::Result<Received> {
        const ENOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();
        self.buffer.clear();
        match self.socket.recv_from(&mut self.buffer).await {
            // Any process may send to a netlink socket; only the kernel is believed.
            Ok(sender) if sender.port_number() != 0 => Ok(Received::Events(Vec::new())),
            Ok(_) => {
                let events = wire::messages(&self.buffer);
                Ok(Received::Events(events.map(|message| Event { kind: message.kind, body: message.body.to_vec() }).collect()))
            }
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => Ok(Received::Overrun),
            Err(error) => Err(error),
        }
    }
}
