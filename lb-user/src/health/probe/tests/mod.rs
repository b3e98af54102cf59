//! Probes against real listeners, the nasty ones too.

mod databases;
mod datagrams;
mod grpc;
mod http;
mod programs;

use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket};

use super::*;

/// Long enough for a loaded machine to answer in.
const PATIENT: Duration = Duration::from_secs(10);
/// For those who never answer.
const BRIEF: Duration = Duration::from_millis(100);

fn passed(text: &str) -> Outcome {
    Outcome::Passed(text.to_owned())
}

fn failed(text: &str) -> Outcome {
    Outcome::Failed(text.to_owned())
}

/// A probe of a backend of the service `web`.
async fn run(probe: &Probe, target: SocketAddr, timeout: Duration) -> Outcome {
    super::run(probe, &"web".into(), target, timeout).await
}

/// A backend that does `serve` with its first connection, and the probe's outcome with it.
async fn probed<S>(probe: &Probe, timeout: Duration, serve: impl FnOnce(TcpStream) -> S) -> Outcome
where
    S: Future<Output = io::Result<()>>,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let probing = run(probe, target, timeout);
    // For as long as the probe runs; the backend's errors are the point.
    let serving = async {
        let (stream, _) = listener.accept().await.unwrap();
        let _ = serve(stream).await;
        std::future::pending().await
    };
    tokio::select! {
        outcome = probing => outcome,
        () = serving => unreachable!(),
    }
}

/// An address at which nothing listens: bound, so that nobody else takes it, and never listened on.
fn deaf() -> (TcpSocket, SocketAddr) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    (socket, address)
}

#[tokio::test]
async fn a_listener_passes_the_tcp_probe() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let outcome = run(&Probe::Tcp, listener.local_addr().unwrap(), PATIENT).await;
    assert_eq!(outcome, passed("connected"));
}

#[tokio::test]
async fn the_tcp_probe_leaves_no_connection_behind() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    run(&Probe::Tcp, listener.local_addr().unwrap(), PATIENT).await;
    let (mut stream, _) = listener.accept().await.unwrap();
    let error = stream.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_closed_port_is_refused() {
    let (_socket, target) = deaf();
    for probe in [Probe::Tcp, http::probe("/")] {
        assert_eq!(run(&probe, target, PATIENT).await, failed("connect: refused"));
    }
}

#[tokio::test]
async fn a_full_backlog_times_out() {
    // The kernel completes backlog + 1 connections that nobody accepts, and ignores further SYNs.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let target = listener.local_addr().unwrap();
    let _waiting = TcpStream::connect(target).await.unwrap();
    assert_eq!(run(&Probe::Tcp, target, BRIEF).await, failed("connect: timed out after 100ms"));
}

#[tokio::test]
async fn a_service_without_check_passes_unasked() {
    let (_socket, target) = deaf();
    assert_eq!(run(&Probe::None, target, PATIENT).await, passed("not checked"));
}

#[test]
fn what_this_machine_lacks_does_not_count_against_a_backend() {
    use rustix::io::Errno;
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL] {
        let outcome = setback("connect", &io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!(matches!(outcome, Setback::Unasked(_)), "{errno}");
    }
    for errno in [Errno::CONNREFUSED, Errno::HOSTUNREACH, Errno::NETUNREACH, Errno::TIMEDOUT, Errno::CONNRESET, Errno::ACCESS] {
        let outcome = setback("connect", &io::Error::from_raw_os_error(errno.raw_os_error()));
        assert!(matches!(outcome, Setback::Failed(_)), "{errno}");
    }
}
