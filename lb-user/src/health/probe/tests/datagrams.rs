//! The UDP and DNS probes.

use hickory_resolver::proto::op::{Message, MessageType, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::AsyncWriteExt;
use tokio::net::UdpSocket;

use super::*;
use crate::desired::Protocol;

fn udp(expect: Option<&[u8]>) -> Probe {
    Probe::Udp(Udp { payload: b"ping".to_vec(), expect: expect.map(<[u8]>::to_vec) })
}

fn dns(expect: DnsAnswer, over: Protocol) -> Probe {
    let name = Name::from_ascii("www.example.org.").unwrap();
    Probe::Dns(Dns { name, record: RecordType::A, expect, over })
}

/// The probe's outcome with a backend on UDP that answers each datagram with what `answer` makes of it.
async fn answered(probe: Probe, timeout: Duration, answer: impl Fn(&[u8]) -> Vec<u8>) -> Outcome {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = socket.local_addr().unwrap();
    let serving = async {
        let mut question = [0; 2048];
        loop {
            let (n_bytes, client) = socket.recv_from(&mut question).await.unwrap();
            socket.send_to(&answer(&question[..n_bytes]), client).await.unwrap();
        }
    };
    tokio::select! {
        outcome = run(&probe, target, timeout) => outcome,
        () = serving => unreachable!(),
    }
}

/// A response to a query, changed by `change`.
fn response(query: &[u8], change: impl FnOnce(&mut Message)) -> Vec<u8> {
    let mut message = Message::from_vec(query).unwrap();
    message.metadata.message_type = MessageType::Response;
    change(&mut message);
    message.to_vec().unwrap()
}

fn add_record(message: &mut Message) {
    let name = message.queries[0].name().clone();
    message.answers.push(Record::from_rdata(name, 60, RData::A(A::new(192, 0, 2, 1))));
}

#[tokio::test]
async fn any_answer_passes_unless_one_is_expected() {
    let large = vec![b'x'; 60_000];
    let pong = Some(b"pong".as_slice());
    let cases = [
        (None, b"".as_slice(), passed("udp: answered")),
        (None, b"go away", passed("udp: answered")),
        (None, &large, passed("udp: answered")),
        (pong, b"a pong.", passed("udp: answered")),
        (pong, b"pon\0", failed("udp: answered \"pon\\x00\", without what is expected")),
        (pong, b"", failed("udp: answered \"\", without what is expected")),
    ];
    for (expect, answer, expected) in cases {
        let outcome = answered(udp(expect), PATIENT, |question| {
            assert_eq!(question, b"ping");
            answer.to_vec()
        });
        assert_eq!(outcome.await, expected);
    }
}

#[tokio::test]
async fn what_a_backend_says_is_shown_in_part() {
    let outcome = answered(udp(Some(b"pong")), PATIENT, |_| vec![b'x'; 60_000]).await;
    assert_eq!(outcome, failed(&format!("udp: answered \"{}...\", without what is expected", "x".repeat(60))));
}

#[tokio::test]
async fn a_closed_udp_port_is_unreachable() {
    for (address, other) in [("127.0.0.1:0", "127.0.0.1:9"), ("[::1]:0", "[::1]:9")] {
        // Taken, so that nobody else listens there, by a socket that hears only another.
        let socket = UdpSocket::bind(address).await.unwrap();
        let target = socket.local_addr().unwrap();
        socket.connect(other).await.unwrap();
        assert_eq!(run(&udp(None), target, PATIENT).await, failed("udp: port unreachable"));
    }
}

#[tokio::test]
async fn a_backend_that_ignores_datagrams_times_out() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = socket.local_addr().unwrap();
    assert_eq!(run(&udp(None), target, BRIEF).await, failed("udp: timed out after 100ms"));
    assert_eq!(run(&dns(DnsAnswer::Records, Protocol::Udp), target, BRIEF).await, failed("dns: timed out after 100ms"));
}

#[tokio::test]
async fn an_answer_from_elsewhere_does_not_count() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let target = socket.local_addr().unwrap();
    let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let serving = async {
        let mut question = [0; 16];
        let (_, client) = socket.recv_from(&mut question).await.unwrap();
        stranger.send_to(b"pong", client).await.unwrap();
        std::future::pending::<()>().await;
    };
    let probe = udp(None);
    tokio::select! {
        outcome = run(&probe, target, BRIEF) => assert_eq!(outcome, failed("udp: timed out after 100ms")),
        () = serving => unreachable!(),
    }
}

#[tokio::test]
async fn the_code_and_the_records_of_a_dns_answer_decide() {
    let cases = [
        (ResponseCode::NoError, 1, "dns: no error, 1 record", [true, true, false, false]),
        (ResponseCode::NoError, 0, "dns: no error, 0 records", [false, true, false, false]),
        (ResponseCode::NXDomain, 0, "dns: non-existent domain, 0 records", [false, false, true, false]),
        (ResponseCode::Refused, 0, "dns: query refused, 0 records", [false, false, false, true]),
        (ResponseCode::ServFail, 0, "dns: server failure, 0 records", [false, false, false, false]),
    ];
    for (code, n_records, text, passes) in cases {
        let answers = [DnsAnswer::Records, DnsAnswer::NoError, DnsAnswer::NxDomain, DnsAnswer::Refused];
        for (expect, passes) in answers.into_iter().zip(passes) {
            let outcome = answered(dns(expect, Protocol::Udp), PATIENT, |query| {
                response(query, |message| {
                    message.metadata.response_code = code;
                    (0..n_records).for_each(|_| add_record(message));
                })
            });
            assert_eq!(outcome.await, if passes { passed(text) } else { failed(text) }, "{expect:?}");
        }
    }
}

#[tokio::test]
async fn a_truncated_dns_answer_is_an_answer() {
    let outcome = answered(dns(DnsAnswer::NoError, Protocol::Udp), PATIENT, |query| {
        response(query, |message| message.metadata.truncation = true)
    });
    assert_eq!(outcome.await, passed("dns: no error, 0 records"));
}

#[tokio::test]
async fn what_is_not_the_answer_to_the_query_fails() {
    let other = failed("dns: what came back answers another question");
    let not_dns = failed("dns: what came back is not DNS");
    let probe = dns(DnsAnswer::Records, Protocol::Udp);
    assert_eq!(answered(probe.clone(), PATIENT, |query| query.to_vec()).await, other, "an echo");
    assert_eq!(answered(probe.clone(), PATIENT, |_| Vec::new()).await, not_dns);
    assert_eq!(answered(probe.clone(), PATIENT, |_| vec![0xff; 512]).await, not_dns);
    let another_id = |query: &[u8]| response(query, |message| message.metadata.id ^= 1);
    assert_eq!(answered(probe.clone(), PATIENT, another_id).await, other);
    let another_name = |query: &[u8]| {
        response(query, |message| {
            message.queries[0].set_name(Name::from_ascii("www.example.net.").unwrap());
            add_record(message);
        })
    };
    assert_eq!(answered(probe.clone(), PATIENT, another_name).await, other);
    let in_capitals = |query: &[u8]| {
        response(query, |message| {
            message.queries[0].set_name(Name::from_ascii("WWW.EXAMPLE.ORG.").unwrap());
            add_record(message);
        })
    };
    assert_eq!(answered(probe.clone(), PATIENT, in_capitals).await, passed("dns: no error, 1 record"));
}

#[tokio::test]
async fn over_tcp_a_message_that_never_ends_fails() {
    let probe = dns(DnsAnswer::Records, Protocol::Tcp);
    let closes = probed(&probe, PATIENT, |mut stream| async move {
        stream.read_u16().await?;
        stream.write_all(&[0xff, 0xff, 1]).await?;
        stream.shutdown().await
    });
    assert!(matches!(&closes.await, Outcome::Failed(text) if text.starts_with("dns: ")));
    let dawdles = probed(&probe, BRIEF, |mut stream| async move {
        loop {
            stream.write_all(&[0xff]).await?;
            tokio::time::sleep(BRIEF / 4).await;
        }
    });
    assert_eq!(dawdles.await, failed("dns: timed out after 100ms"));
}
