//! The gRPC probe, of an HTTP/2 server that says what it is told to.

use bytes::Bytes;
use hyper::{HeaderMap, Response, StatusCode};
use tokio::io::AsyncWriteExt;

use super::*;

const SERVING: &[u8] = b"\0\0\0\0\x02\x08\x01";

fn grpc(service: &str) -> Probe {
    Probe::Grpc(Grpc { service: service.to_owned(), host: None })
}

/// The outcome with a server that answers with this body and, in its trailers, this status. What it was asked is checked
/// to be `question`.
async fn answered(question: &[u8], body: &[u8], status: Option<&'static str>) -> Outcome {
    let service = question.get(2..).unwrap_or_default();
    let probe = grpc(std::str::from_utf8(service).unwrap());
    probed(&probe, PATIENT, |stream| async {
        let target = stream.local_addr()?;
        serve(stream, target, question, body, status).await.map_err(io::Error::other)
    })
    .await
}

async fn serve(
    stream: TcpStream,
    target: SocketAddr,
    question: &[u8],
    body: &[u8],
    status: Option<&'static str>,
) -> Result<(), h2::Error> {
    let mut connection = h2::server::handshake(stream).await?;
    let Some(accepted) = connection.accept().await else { return Ok(()) };
    let (request, mut respond) = accepted?;
    assert_eq!(request.uri().to_string(), format!("http://{target}/grpc.health.v1.Health/Check"));
    assert_eq!((request.method().as_str(), &request.headers()["te"]), ("POST", &"trailers".parse().unwrap()));
    assert_eq!(request.headers()["content-type"], "application/grpc");
    let mut request_body = request.into_body();
    let answering = async {
        let sent = request_body.data().await.unwrap()?;
        assert_eq!(sent, [[0, 0, 0, 0, question.len() as u8].as_slice(), question].concat());
        let response = Response::builder().status(StatusCode::OK).header("content-type", "application/grpc").body(()).unwrap();
        let mut stream = respond.send_response(response, false)?;
        stream.send_data(Bytes::copy_from_slice(body), status.is_none())?;
        if let Some(status) = status {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", status.parse().unwrap());
            trailers.insert("grpc-message", "words".parse().unwrap());
            stream.send_trailers(trailers)?;
        }
        Ok::<_, h2::Error>(())
    };
    let (answered, _) = tokio::join!(answering, async { connection.accept().await });
    answered
}

#[tokio::test]
async fn the_status_of_the_service_decides() {
    let cases: [(&[u8], Option<&str>, Outcome); 9] = [
        (SERVING, Some("0"), passed("grpc: serving")),
        (b"\0\0\0\0\x02\x08\x02", Some("0"), failed("grpc: not serving")),
        (b"\0\0\0\0\0", Some("0"), failed("grpc: unknown")),
        (b"\0\0\0\0\x02\x08\x03", Some("0"), failed("grpc: answered \"\\x00\\x00\\x00\\x00\\x02\\x08\\x03\"")),
        (b"\x01\0\0\0\x02\x08\x01", Some("0"), failed("grpc: answered \"\\x01\\x00\\x00\\x00\\x02\\x08\\x01\"")),
        (b"\0\0\0\0\x09\x08\x01", Some("0"), failed("grpc: answered \"\\x00\\x00\\x00\\x00\\t\\x08\\x01\"")),
        (b"", Some("5"), failed("grpc: status 5: \"words\"")),
        (SERVING, Some("14"), failed("grpc: status 14: \"words\"")),
        (SERVING, None, failed("grpc: what came back is not gRPC")),
    ];
    for (body, status, expected) in cases {
        assert_eq!(answered(b"", body, status).await, expected, "{}", body.escape_ascii());
    }
}

#[tokio::test]
async fn a_service_is_asked_about_by_name() {
    assert_eq!(answered(b"\x0a\x0dexample.Users", SERVING, Some("0")).await, passed("grpc: serving"));
}

#[tokio::test]
async fn an_endless_grpc_answer_fails_before_the_time_is_up() {
    let outcome = answered(b"", &[0; 16_000], Some("0")).await;
    assert_eq!(outcome, failed("grpc: what came back is not gRPC"));
}

#[tokio::test]
async fn what_is_not_http_2_fails() {
    let probe = grpc("");
    for with in [b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(), b"", b"SSH-2.0-OpenSSH_9.2\r\n"] {
        let outcome = probed(&probe, PATIENT, |mut stream| async move {
            stream.write_all(with).await?;
            stream.shutdown().await
        })
        .await;
        let expected = |text: &str| text.starts_with("grpc: ") && !text.contains("timed out");
        assert!(matches!(&outcome, Outcome::Failed(text) if expected(text)), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_grpc_server_that_never_answers_times_out() {
    let probe = grpc("");
    let silent = probed(&probe, BRIEF, |stream| async move {
        let _held_open = stream;
        std::future::pending().await
    });
    assert_eq!(silent.await, failed("grpc: timed out after 100ms"));
}
