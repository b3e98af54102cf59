//! The HTTP probe.

use hyper::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;

use super::*;

/// A request to `/` without wishes.
fn plain() -> Http {
    let (method, path) = (Method::GET, "/".to_owned());
    Http { method, path, host: None, expect: Http::EXPECT_DEFAULT, body: None, tls: None }
}

pub(super) fn probe(path: &str) -> Probe {
    Probe::Http(Http { path: path.to_owned(), ..plain() })
}

/// A request's head.
async fn request_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await?);
    }
    Ok(request)
}

/// Hears the request, says what is given, and closes.
async fn answer(mut stream: TcpStream, answer: &[u8]) -> io::Result<()> {
    request_head(&mut stream).await?;
    stream.write_all(answer).await?;
    stream.shutdown().await
}

/// The outcome of an HTTP probe of a backend that gives this answer.
async fn answered(with: &'static [u8]) -> Outcome {
    probed(&probe("/"), PATIENT, move |stream| answer(stream, with)).await
}

#[tokio::test]
async fn the_status_decides() {
    let cases: [(&[u8], Outcome); 6] = [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", passed("http 200")),
        (b"HTTP/1.1 302 Found\r\nlocation: /elsewhere\r\n\r\n", passed("http 302")),
        (b"HTTP/1.1 503 Busy\r\nconnection: close\r\n\r\nsorry", failed("http 503")),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", failed("http 404")),
        (b"HTTP/1.0 200 OK\r\n\r\n", passed("http 200")),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 500 No\r\n\r\n", failed("http 500")),
    ];
    for (with, expected) in cases {
        assert_eq!(answered(with).await, expected, "{}", with.escape_ascii());
    }
}

#[tokio::test]
async fn the_expected_statuses_can_be_chosen() {
    let probe = Probe::Http(Http { expect: 404..=404, ..plain() });
    let outcome = probed(&probe, PATIENT, |stream| answer(stream, b"HTTP/1.1 404 Not Found\r\n\r\n")).await;
    assert_eq!(outcome, passed("http 404"));
    let outcome = probed(&probe, PATIENT, |stream| answer(stream, b"HTTP/1.1 200 OK\r\n\r\n")).await;
    assert_eq!(outcome, failed("http 200"));
}

#[tokio::test]
async fn the_request_is_what_a_server_expects() {
    for (host, named) in [(None, "127.0.0.1:"), (Some("www.example.org".to_owned()), "www.example.org\r\n")] {
        let probe = Probe::Http(Http { path: "/health?deep=1".to_owned(), host, ..plain() });
        let (tell, told) = oneshot::channel();
        probed(&probe, PATIENT, |mut stream| async move {
            let _ = tell.send(request_head(&mut stream).await?);
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await
        })
        .await;
        let request = String::from_utf8(told.await.unwrap()).unwrap();
        assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{request}");
        let agent = format!("user-agent: xlb/{}\r\n", env!("CARGO_PKG_VERSION"));
        for line in [&format!("host: {named}"), agent.as_str(), "connection: close\r\n"] {
            assert!(request.contains(line), "{line} in {request}");
        }
    }
}

#[tokio::test]
async fn an_endless_body_is_not_waited_for() {
    let outcome = probed(&probe("/"), PATIENT, |mut stream| async move {
        request_head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            stream.write_all(&[b'x'; 4096]).await?;
        }
    })
    .await;
    assert_eq!(outcome, passed("http 200"));
}

#[tokio::test]
async fn what_is_not_http_fails() {
    let garbage: [&[u8]; 7] = [
        b"",
        b"\x00\xff\x16\x03\x01",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 2000 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nbro\xffken header\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\n",
        b"HTTP/1.1 200",
    ];
    for with in garbage {
        let outcome = answered(with).await;
        assert!(matches!(&outcome, Outcome::Failed(text) if text.starts_with("http: ")), "{} {outcome:?}", with.escape_ascii());
    }
}

#[tokio::test]
async fn a_head_without_end_fails_before_the_time_is_up() {
    for piece in [b"x-more: and more\r\n".as_slice(), b"one-line-without-end"] {
        let outcome = probed(&probe("/"), PATIENT, move |mut stream| async move {
            request_head(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                stream.write_all(piece).await?;
            }
        })
        .await;
        assert!(matches!(&outcome, Outcome::Failed(text) if !text.contains("timed out")), "{outcome:?}");
    }
}

#[tokio::test]
async fn who_never_answers_times_out() {
    let outcome = probed(&probe("/"), BRIEF, |stream| async move {
        let _held_open = stream;
        std::future::pending().await
    })
    .await;
    assert_eq!(outcome, failed("http: timed out after 100ms"));
}

#[tokio::test]
async fn who_answers_byte_by_byte_times_out() {
    let outcome = probed(&probe("/"), BRIEF, |mut stream| async move {
        request_head(&mut stream).await?;
        for byte in b"HTTP/1.1 200 OK\r\n\r\n".iter().cycle() {
            stream.write_all(&[*byte]).await?;
            tokio::time::sleep(BRIEF / 4).await;
        }
        Ok(())
    })
    .await;
    assert_eq!(outcome, failed("http: timed out after 100ms"));
}

#[tokio::test]
async fn who_speaks_before_being_asked_fails() {
    let outcome =
        probed(&probe("/"), PATIENT, |mut stream| async move { stream.write_all(b"HTTP/1.1 503 Busy\r\n\r\n").await }).await;
    assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
}

#[tokio::test]
async fn who_closes_at_once_fails() {
    let outcome = probed(&probe("/"), PATIENT, |stream| async move {
        drop(stream);
        Ok(())
    })
    .await;
    assert!(matches!(&outcome, Outcome::Failed(text) if text.starts_with("http: ")), "{outcome:?}");
}

/// The outcome of a probe that looks for `mark` in a body.
async fn with_body(mark: &str, body: impl AsRef<[u8]>) -> Outcome {
    let probe = Probe::Http(Http { body: Some(mark.to_owned()), ..plain() });
    let answer_head = b"HTTP/1.1 200 OK\r\n\r\n".as_slice();
    let with = [answer_head, body.as_ref()].concat();
    probed(&probe, PATIENT, |stream| async move { answer(stream, &with).await }).await
}

#[tokio::test]
async fn the_body_decides_if_asked_to() {
    let bound = 64 * 1024;
    let without = failed("http 200, without \"ready\" in the first 64 KiB of the body");
    for (body, expected) in [
        (b"all ready.".to_vec(), passed("http 200")),
        (b"not read".to_vec(), without.clone()),
        (b"".to_vec(), without.clone()),
        ([vec![b'x'; bound - 5], b"ready".to_vec()].concat(), passed("http 200")),
        ([vec![b'x'; bound - 4], b"ready".to_vec()].concat(), without.clone()),
    ] {
        assert_eq!(with_body("ready", &body).await, expected, "{} bytes", body.len());
    }
}

#[tokio::test]
async fn a_mark_in_pieces_is_found() {
    let probe = Probe::Http(Http { body: Some("ready".to_owned()), ..plain() });
    let outcome = probed(&probe, PATIENT, |mut stream| async move {
        request_head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await?;
        for byte in b"not yet, but now ready" {
            stream.write_all(&[b'1', b'\r', b'\n', *byte, b'\r', b'\n']).await?;
        }
        std::future::pending().await
    });
    assert_eq!(outcome.await, passed("http 200"));
}

#[tokio::test]
async fn of_an_endless_body_the_beginning_is_read() {
    let probe = Probe::Http(Http { body: Some("ready".to_owned()), ..plain() });
    let outcome = probed(&probe, PATIENT, |mut stream| async move {
        request_head(&mut stream).await?;
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
        loop {
            stream.write_all(&[b'x'; 4096]).await?;
        }
    });
    assert_eq!(outcome.await, failed("http 200, without \"ready\" in the first 64 KiB of the body"));
}

#[tokio::test]
async fn a_body_is_not_looked_at_where_the_status_decides() {
    let probe = Probe::Http(Http { body: Some("ready".to_owned()), ..plain() });
    let outcome = probed(&probe, PATIENT, |stream| answer(stream, b"HTTP/1.1 503 Busy\r\n\r\nready"));
    assert_eq!(outcome.await, failed("http 503"));
}

#[tokio::test]
async fn a_body_that_breaks_off_fails() {
    let probe = Probe::Http(Http { body: Some("ready".to_owned()), ..plain() });
    let outcome = probed(&probe, PATIENT, |stream| answer(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nhalf")).await;
    assert!(matches!(&outcome, Outcome::Failed(text) if text.starts_with("http: ")), "{outcome:?}");
}

#[tokio::test]
async fn the_method_is_the_operators() {
    for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
        let probe = Probe::Http(Http { method: method.clone(), ..plain() });
        let (tell, told) = oneshot::channel();
        let outcome = probed(&probe, PATIENT, |mut stream| async move {
            let _ = tell.send(request_head(&mut stream).await?);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n").await
        });
        assert_eq!(outcome.await, passed("http 200"));
        assert!(told.await.unwrap().starts_with(format!("{method} / HTTP/1.1\r\n").as_bytes()));
    }
}

/// HTTPS that takes any certificate, of backends that never show one.
fn https() -> Probe {
    Probe::Http(Http { tls: Some(Tls { name: None, trust: Trust::Anyone }), ..plain() })
}

#[tokio::test]
async fn who_does_not_speak_tls_fails() {
    let probe = https();
    let outcome = probed(&probe, PATIENT, |mut stream| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await?;
        std::future::pending().await
    });
    assert_eq!(outcome.await, failed("tls: received corrupt message of type InvalidContentType"));
    let outcome = probed(&probe, PATIENT, |mut stream| async move { stream.shutdown().await }).await;
    assert!(matches!(&outcome, Outcome::Failed(text) if text.starts_with("tls: ")), "{outcome:?}");
}

#[tokio::test]
async fn a_handshake_that_is_never_answered_times_out() {
    let probe = https();
    let outcome = probed(&probe, BRIEF, |stream| async move {
        let _held_open = stream;
        std::future::pending().await
    });
    assert_eq!(outcome.await, failed("tls: timed out after 100ms"));
}

#[tokio::test]
async fn without_its_certificates_a_check_cannot_ask() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let ask = |file: &str| {
        let trust = Trust::File(file.into());
        let probe = Probe::Http(Http { tls: Some(Tls { name: None, trust }), ..plain() });
        async move { run(&probe, target, PATIENT).await }
    };
    let gone = Outcome::Unasked("tls: /no/such/file: No such file or directory (os error 2)".to_owned());
    assert_eq!(ask("/no/such/file").await, gone);
    assert_eq!(ask("/dev/null").await, Outcome::Unasked("tls: /dev/null: no certificate in it".to_owned()));
    assert_eq!(ask("/dev/zero").await, Outcome::Unasked("tls: /dev/zero: more than 1048576 bytes".to_owned()));
}
