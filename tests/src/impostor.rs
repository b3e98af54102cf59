//! Servers that do what no honest one does: they drip, flood, lie and fall silent.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::Netns;

/// How often it is looked whether the end has come.
const TURN: Duration = Duration::from_millis(20);

/// What a server does with a connection, until its peer goes away or it is told to end.
pub type Conduct = fn(TcpStream, &AtomicBool) -> io::Result<()>;

/// A listener in a namespace. Dropping it ends it, and what it does with its connections.
#[derive(Debug)]
pub struct Impostor {
    ends: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Impostor {
    /// Takes connections at `address`, each in a thread of its own.
    ///
    /// # Errors
    /// The address is taken, or not the namespace's.
    pub fn tcp(netns: &Netns, address: SocketAddr, conduct: Conduct) -> Result<Self> {
        Self::tcp_with(netns, address, conduct)
    }

    /// The same, by what remembers something.
    ///
    /// # Errors
    /// As of [`tcp`](Self::tcp).
    pub fn tcp_with<F>(netns: &Netns, address: SocketAddr, conduct: F) -> Result<Self>
    where
        F: Fn(TcpStream, &AtomicBool) -> io::Result<()> + Clone + Send + 'static,
    {
        let listener = netns.enter(|| TcpListener::bind(address).with_context(|| address.to_string()))?;
        let mut impostor = Self { ends: Arc::default(), threads: Vec::new() };
        impostor.listen(listener, move |stream, ends| drop(conduct(stream, ends)))?;
        Ok(impostor)
    }

    fn listen(&mut self, listener: TcpListener, serve: impl Fn(TcpStream, &AtomicBool) + Clone + Send + 'static) -> Result<()> {
        listener.set_nonblocking(true)?;
        let ends = self.ends.clone();
        self.threads.push(thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => {
                        let (ends, serve) = (ends.clone(), serve.clone());
                        // So that no peer keeps a thread for ever.
                        let limited = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(LIMIT)));
                        let limited = limited.and_then(|()| stream.set_write_timeout(Some(LIMIT)));
                        if limited.is_ok() {
                            thread::spawn(move || serve(stream, &ends));
                        }
                    }
                    Err(_) => thread::sleep(TURN),
                }
            }
        }));
        Ok(())
    }
}

const LIMIT: Duration = Duration::from_secs(5);

impl Drop for Impostor {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// Accepts, and says nothing.
///
/// # Errors
/// None.
pub fn silent(stream: TcpStream, ends: &AtomicBool) -> io::Result<()> {
    while !ends.load(Ordering::Relaxed) {
        thread::sleep(TURN);
    }
    drop(stream);
    Ok(())
}

/// Answers a good answer, a byte each second.
///
/// # Errors
/// The peer has gone.
pub fn dripping(mut stream: TcpStream, ends: &AtomicBool) -> io::Result<()> {
    for byte in b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" {
        stream.write_all(&[*byte])?;
        for _ in 0..50 {
            if ends.load(Ordering::Relaxed) {
                return Ok(());
            }
            thread::sleep(TURN);
        }
    }
    Ok(())
}

/// Answers with a body of a gigabyte.
///
/// # Errors
/// The peer has gone.
pub fn endless_body(mut stream: TcpStream, ends: &AtomicBool) -> io::Result<()> {
    // Of the request no more than its first byte matters.
    stream.read_exact(&mut [0])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")?;
    flood(stream, ends)
}

/// Answers with a gigabyte of header.
///
/// # Errors
/// The peer has gone.
pub fn endless_head(mut stream: TcpStream, ends: &AtomicBool) -> io::Result<()> {
    stream.read_exact(&mut [0])?;
    stream.write_all(b"HTTP/1.1 200 OK\r\nX: ")?;
    flood(stream, ends)
}

/// Sends a gigabyte unasked.
///
/// # Errors
/// The peer has gone.
pub fn flood(mut stream: TcpStream, ends: &AtomicBool) -> io::Result<()> {
    let piece = [b'x'; 65536];
    for _ in 0..(1 << 30) / piece.len() {
        if ends.load(Ordering::Relaxed) {
            return Ok(());
        }
        stream.write_all(&piece)?;
    }
    Ok(())
}

/// What a name server makes of a question.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// These addresses.
    Addresses(Vec<Ipv4Addr>),
    /// The same, but only after a while.
    Late(Duration, Vec<Ipv4Addr>),
    /// So many addresses in a network where nobody is: too many for UDP.
    Many(u16),
    /// An address of the other family, whatever was asked for.
    WrongFamily,
    /// An alias of an alias of itself.
    Loop,
    /// Bytes without sense.
    Garbage,
    /// Nothing.
    Silence,
}

/// A name server for all names, that answers what it is told to. Dropping it ends it.
#[derive(Debug)]
pub struct NameServer {
    address: SocketAddr,
    reply: Arc<Mutex<Reply>>,
    _impostor: Impostor,
}

impl NameServer {
    /// Answers at `address`, over UDP and TCP, with a TTL of a second.
    ///
    /// # Errors
    /// The address is taken, or not the namespace's.
    pub fn start(netns: &Netns, address: SocketAddr, reply: Reply) -> Result<Self> {
        let (listener, socket) =
            netns.enter(|| Ok((TcpListener::bind(address)?, UdpSocket::bind(address)?))).with_context(|| address.to_string())?;
        let reply = Arc::new(Mutex::new(reply));
        let mut impostor = Impostor { ends: Arc::default(), threads: Vec::new() };
        let (by_tcp, by_udp) = (reply.clone(), reply.clone());
        impostor.listen(listener, move |stream, _| drop(converse(stream, &by_tcp)))?;
        socket.set_read_timeout(Some(TURN))?;
        let ends = impostor.ends.clone();
        impostor.threads.push(thread::spawn(move || {
            let mut question = [0; 512];
            while !ends.load(Ordering::Relaxed) {
                let Ok((len, from)) = socket.recv_from(&mut question) else { continue };
                let (question, by_udp) = (question[..len].to_vec(), by_udp.clone());
                let Ok(socket) = socket.try_clone() else { continue };
                // Who is late holds up nobody else.
                thread::spawn(move || {
                    let answered = answer(&question, &by_udp, 1200);
                    answered.map(|answer| socket.send_to(&answer, from))
                });
            }
        }));
        Ok(Self { address, reply, _impostor: impostor })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it answers from now on.
    pub fn set(&self, reply: Reply) {
        *self.reply.lock().unwrap_or_else(PoisonError::into_inner) = reply;
    }
}

fn converse(mut stream: TcpStream, reply: &Mutex<Reply>) -> io::Result<()> {
    loop {
        let mut len = [0; 2];
        stream.read_exact(&mut len)?;
        let mut question = vec![0; u16::from_be_bytes(len).into()];
        stream.read_exact(&mut question)?;
        let Some(answer) = answer(&question, reply, u16::MAX.into()) else { continue };
        stream.write_all(&[&(answer.len() as u16).to_be_bytes()[..], &answer].concat())?;
    }
}

/// RFC 1035, section 4.1: the question's header and question again, and the answer's records. One that is too long is cut, and says so.
fn answer(question: &[u8], reply: &Mutex<Reply>, len_max: usize) -> Option<Vec<u8>> {
    const A: u16 = 1;
    const CNAME: u16 = 5;
    const AAAA: u16 = 28;
    let reply = reply.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let end = 12 + question.get(12..)?.iter().position(|byte| *byte == 0)? + 5;
    let (id, asked) = (question.get(..2)?, question.get(12..end)?);
    let wanted = u16::from_be_bytes([*asked.get(asked.len() - 4)?, *asked.get(asked.len() - 3)?]);
    // The name asked for stands at 12.
    let record = |name: &[u8], record_type: u16, value: &[u8]| {
        [name, &record_type.to_be_bytes(), &[0, 1, 0, 0, 0, 1], &(value.len() as u16).to_be_bytes(), value].concat()
    };
    let (here, below): (&[u8], &[u8]) = (&[0xc0, 12], &[1, b'a', 0xc0, 12]);
    let addresses = |addresses: Vec<Ipv4Addr>| -> Vec<Vec<u8>> {
        let records = addresses.into_iter().map(|address| record(here, A, &address.octets()));
        if wanted == A { records.collect() } else { Vec::new() }
    };
    let records = match reply {
        Reply::Addresses(list) => addresses(list),
        Reply::Late(after, list) => {
            thread::sleep(after);
            addresses(list)
        }
        Reply::Many(n) => addresses((0..n).map(|n| Ipv4Addr::from(0x0a63_0000 + u32::from(n))).collect()),
        Reply::WrongFamily => vec![record(here, AAAA, &std::net::Ipv6Addr::LOCALHOST.octets())],
        Reply::Loop => vec![record(here, CNAME, below), record(below, CNAME, here)],
        Reply::Garbage => return Some([id, &[0x81, 0x80], &[0xff; 200]].concat()),
        Reply::Silence => return None,
    };
    let len: usize = 12 + asked.len() + records.iter().map(Vec::len).sum::<usize>();
    let (flags, records) = if len > len_max { (0x8380u16, Vec::new()) } else { (0x8180, records) };
    let n = (records.len() as u16).to_be_bytes();
    Some([id, &flags.to_be_bytes(), &[0, 1], &n, &[0; 4], asked, &records.concat()].concat())
}
