//! The Redis and PostgreSQL probes, of backends that are neither, or not well.

use tokio::io::AsyncWriteExt;

use super::*;

fn redis(role: Option<Role>) -> Probe {
    Probe::Redis(Redis { user: None, password_file: None, role })
}

fn ready() -> Probe {
    Probe::Postgres(Postgres { login: None })
}

fn login() -> Probe {
    let login = Login { user: "xlb".to_owned(), password_file: None, database: None, role: None };
    Probe::Postgres(Postgres { login: Some(login) })
}

/// The outcome with a backend that says this, whatever it is asked, and holds the connection open.
async fn told(probe: &Probe, answer: &[u8]) -> Outcome {
    probed(probe, PATIENT, |mut stream| async move {
        stream.write_all(answer).await?;
        std::future::pending().await
    })
    .await
}

/// A message of PostgreSQL's protocol.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], (body.len() as u32 + 4).to_be_bytes().as_slice(), body].concat()
}

#[tokio::test]
async fn the_answers_of_redis_decide() {
    let (primary, replica) = (Some(Role::Primary), Some(Role::Replica));
    let cases: [(Option<Role>, &[u8], Outcome); 8] = [
        (None, b"+PONG\r\n", passed("redis: pong")),
        (primary, b"+PONG\r\n*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n", passed("redis: primary")),
        (replica, b"+PONG\r\n*5\r\n$5\r\nslave\r\n", passed("redis: replica")),
        (replica, b"+PONG\r\n*3\r\n$6\r\nmaster\r\n", failed("redis: primary, not replica")),
        (primary, b"+PONG\r\n*1\r\n$8\r\nsentinel\r\n", failed("redis: answered \"sentinel\"")),
        (None, b"-LOADING Redis is loading\r\n", failed("redis: error \"LOADING Redis is loading\"")),
        (primary, b"+PONG\r\n-NOPERM no\r\n", failed("redis: error \"NOPERM no\"")),
        (None, b"SSH-2.0-OpenSSH_9.2\r\n", failed("redis: answered \"SSH-2.0-OpenSSH_9.2\"")),
    ];
    for (role, answer, expected) in cases {
        assert_eq!(told(&redis(role), answer).await, expected, "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn the_first_message_of_postgresql_decides() {
    let error = |code: &str, text: &str| message(b'E', format!("SFATAL\0C{code}\0M{text}\0\0").as_bytes());
    let takes_logins = passed("postgres: takes logins");
    for (answer, expected) in [
        (message(b'R', &[0, 0, 0, 10]), takes_logins.clone()),
        (error("28000", "no pg_hba.conf entry"), takes_logins.clone()),
        (error("3D000", "no such database"), takes_logins.clone()),
        (error("57P03", "the database system is starting up"), failed("postgres: \"the database system is starting up\"")),
        (error("53300", "sorry, too many clients already"), failed("postgres: \"sorry, too many clients already\"")),
        (message(b'E', b""), failed("postgres: \"\"")),
        (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), failed("postgres: what came back is not PostgreSQL's protocol")),
        // An authentication request of a gigabyte is none.
        (b"R\x40\0\0\0".to_vec(), failed("postgres: what came back is not PostgreSQL's protocol")),
    ] {
        assert_eq!(told(&ready(), &answer).await, expected, "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn a_login_that_is_refused_says_why() {
    let refused = message(b'E', b"SFATAL\0C57P03\0Mthe database system is starting up\0\0");
    assert_eq!(told(&login(), &refused).await, failed("postgres: \"the database system is starting up\""));
    // A password is asked for, and there is none.
    let outcome = told(&login(), &message(b'R', &[0, 0, 0, 3])).await;
    assert_eq!(outcome, failed("postgres: invalid configuration: password missing"));
}

#[tokio::test]
async fn who_never_answers_or_dawdles_times_out() {
    for (probe, phase) in [(redis(None), "redis"), (ready(), "postgres"), (login(), "postgres")] {
        let silent = probed(&probe, BRIEF, |stream| async move {
            let _held_open = stream;
            std::future::pending().await
        });
        assert_eq!(silent.await, failed(&format!("{phase}: timed out after 100ms")));
        let slow = probed(&probe, BRIEF, |mut stream| async move {
            // The beginning of a long answer to either.
            for byte in b"R\0\0\x40\0".iter().chain(std::iter::repeat(&b'x')) {
                stream.write_all(&[*byte]).await?;
                tokio::time::sleep(BRIEF / 4).await;
            }
            Ok(())
        });
        assert_eq!(slow.await, failed(&format!("{phase}: timed out after 100ms")));
    }
}

#[tokio::test]
async fn an_endless_answer_fails_before_the_time_is_up() {
    for (probe, beginning) in [(redis(None), b"+".as_slice()), (ready(), b"R\x40\0\0\0"), (login(), b"R\x40\0\0\0")] {
        let outcome = probed(&probe, PATIENT, |mut stream| async move {
            stream.write_all(beginning).await?;
            loop {
                stream.write_all(&[b'x'; 4096]).await?;
            }
        })
        .await;
        assert!(matches!(&outcome, Outcome::Failed(text) if !text.contains("timed out")), "{outcome:?}");
    }
}

#[tokio::test]
async fn who_closes_at_once_fails_every_probe_of_databases() {
    for probe in [redis(None), ready(), login()] {
        let outcome = probed(&probe, PATIENT, |mut stream| async move { stream.shutdown().await }).await;
        assert!(matches!(&outcome, Outcome::Failed(_)), "{outcome:?}");
    }
}
