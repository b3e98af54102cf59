//! A backend that answers with its name over HTTP, TCP and UDP: small, quick to start, one thread a connection.
//!
//!     xlb-test-backend NAME [http=ADDR:PORT | tcp=ADDR:PORT | udp=ADDR:PORT]...
//!
//! - HTTP/1.1, connections kept alive: `/health` answers 200 or 503 (SIGUSR1 switches), `/bytes/N` N bytes, and any
//!   other path the name.
//! - TCP and UDP: every piece that arrives comes back with the name and a space before it.
//!
//! Prints `ready` when it listens everywhere. UDP answers come from the address that was asked, since each socket is
//! bound to one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::sys::signal::{SigSet, Signal};

struct Backend {
    name: String,
    is_healthy: AtomicBool,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xlb-test-backend: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().ok_or_else(|| invalid("NAME is missing"))?;
    let backend = Arc::new(Backend { name, is_healthy: AtomicBool::new(true) });

    // Before any other thread: they all must leave the signal to the one that waits for it.
    let toggle = SigSet::from_iter([Signal::SIGUSR1]);
    toggle.thread_block()?;

    for argument in arguments {
        let (protocol, address) = argument.split_once('=').ok_or_else(|| invalid(&argument))?;
        let address: SocketAddr = address.parse().map_err(|_| invalid(&argument))?;
        let backend = backend.clone();
        match protocol {
            "http" => listen(address, backend, http)?,
            "tcp" => listen(address, backend, tcp)?,
            "udp" => {
                let socket = UdpSocket::bind(address)?;
                thread::spawn(move || udp(&socket, &backend));
            }
            _ => return Err(invalid(&argument)),
        }
    }
    println!("ready");
    loop {
        toggle.wait()?;
        backend.is_healthy.fetch_xor(true, Ordering::Relaxed);
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{what}: want NAME [http|tcp|udp=ADDR:PORT]..."))
}

fn listen(address: SocketAddr, backend: Arc<Backend>, serve: fn(TcpStream, &Backend) -> io::Result<()>) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let backend = backend.clone();
            // A client that goes away is none of the backend's business.
            thread::spawn(move || drop(stream.set_nodelay(true).and_then(|()| serve(stream, &backend))));
        }
    });
    Ok(())
}

fn http(stream: TcpStream, backend: &Backend) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_owned();
        let mut keeps_alive = !line.trim_end().ends_with("HTTP/1.0");
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            let header = line.trim_end();
            if header.is_empty() {
                break;
            }
            keeps_alive &= !header.eq_ignore_ascii_case("connection: close");
        }
        stream.write_all(&answer(&path, keeps_alive, backend))?;
        if !keeps_alive {
            return Ok(());
        }
    }
}

fn answer(path: &str, keeps_alive: bool, backend: &Backend) -> Vec<u8> {
    let is_healthy = path != "/health" || backend.is_healthy.load(Ordering::Relaxed);
    let status = if is_healthy { "200 OK" } else { "503 Service Unavailable" };
    let connection = if keeps_alive { "keep-alive" } else { "close" };
    let body = match path.strip_prefix("/bytes/").and_then(|n| n.parse().ok()) {
        Some(n_bytes) => vec![b'x'; n_bytes],
        None => format!("{}\n", backend.name).into_bytes(),
    };
    let mut answer =
        format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: {connection}\r\n\r\n", body.len()).into_bytes();
    answer.extend(body);
    answer
}

fn tcp(mut stream: TcpStream, backend: &Backend) -> io::Result<()> {
    let mut piece = [0; 65536];
    loop {
        match stream.read(&mut piece)? {
            0 => return Ok(()),
            n => stream.write_all(&named(backend, &piece[..n]))?,
        }
    }
}

fn udp(socket: &UdpSocket, backend: &Backend) {
    let mut piece = [0; 65536];
    loop {
        // An ICMP error for an earlier answer shows here: the next datagram is still wanted.
        if let Ok((n, from)) = socket.recv_from(&mut piece) {
            let _ = socket.send_to(&named(backend, &piece[..n]), from);
        }
    }
}

fn named(backend: &Backend, piece: &[u8]) -> Vec<u8> {
    [backend.name.as_bytes(), b" ", piece].concat()
}
