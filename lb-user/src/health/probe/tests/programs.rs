//! The script probe, with what any system has; and the agent probe.

use std::path::Path;

use tokio::io::AsyncWriteExt;

use super::*;
use crate::health::Advice;

const BACKEND: &str = "192.0.2.1:80";

fn script(words: &[&str]) -> Probe {
    let (program, arguments) = words.split_first().unwrap();
    Probe::Script(Script { program: (*program).to_owned(), arguments: arguments.iter().map(|word| (*word).to_owned()).collect() })
}

async fn ran(words: &[&str], timeout: Duration) -> Outcome {
    run(&script(words), BACKEND.parse().unwrap(), timeout).await
}

/// What a shell script leads to.
async fn shell(lines: &str) -> Outcome {
    ran(&["/bin/sh", "-c", lines], PATIENT).await
}

/// Whether a process still runs: it may be dead, and not yet taken leave of.
fn is_running(process: &str) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(process.trim()).join("status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// The process whose number is in a file, once it is there.
async fn process_in(file: &Path) -> String {
    let found = async {
        loop {
            match std::fs::read_to_string(file) {
                Ok(process) if process.ends_with('\n') => return process,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    };
    tokio::time::timeout(PATIENT, found).await.expect("a process, before it is killed")
}

async fn until_gone(process: &str) {
    let gone = async {
        while is_running(process) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENT, gone).await.expect("killed");
}

/// A file of this test's own, which is not there yet.
fn file(name: &str) -> std::path::PathBuf {
    let file = std::env::temp_dir().join(format!("xlb-script-{}-{name}", std::process::id()));
    let _ = std::fs::remove_file(&file);
    file
}

#[tokio::test]
async fn the_exit_status_decides() {
    for (lines, expected) in [
        ("exit 0", passed("script: exit 0")),
        ("echo; echo ' well '; echo more", passed("script: exit 0: \"well\"")),
        ("exit 3", failed("script: exit 3")),
        ("echo disk full >&2; exit 1", failed("script: exit 1: \"disk full\"")),
        ("kill -TERM $$", failed("script: killed by signal 15")),
    ] {
        assert_eq!(shell(lines).await, expected, "{lines}");
    }
}

#[tokio::test]
async fn the_environment_names_the_backend_and_holds_nothing_else() {
    assert_eq!(
        shell("echo $XLB_SERVICE $XLB_BACKEND_ADDRESS $XLB_BACKEND_PORT $HOME$USER").await,
        passed("script: exit 0: \"web 192.0.2.1 80\"")
    );
    let names = "env | cut -d= -f1 | sort | tr '\\n' ' '";
    assert_eq!(shell(names).await, passed("script: exit 0: \"PATH PWD XLB_BACKEND_ADDRESS XLB_BACKEND_PORT XLB_SERVICE\""));
}

#[tokio::test]
async fn arguments_are_not_read_by_a_shell() {
    assert_eq!(ran(&["/bin/echo", "$HOME; *", "`id`"], PATIENT).await, passed("script: exit 0: \"$HOME; * `id`\""));
}

#[tokio::test]
async fn endless_output_is_dropped_and_does_not_block() {
    assert_eq!(
        shell("head -c 10000000 /dev/zero | tr '\\0' x").await,
        passed(&format!("script: exit 0: \"{}...\"", "x".repeat(60)))
    );
    assert_eq!(ran(&["/bin/cat", "/dev/zero"], BRIEF).await, failed("script: timed out after 100ms"));
}

#[tokio::test]
async fn a_script_that_hangs_is_killed_with_all_that_it_started() {
    let child = file("hangs");
    let lines = format!("sleep 1000 & echo $! > {}; wait", child.display());
    let outcome = ran(&["/bin/sh", "-c", &lines], Duration::from_secs(1)).await;
    assert_eq!(outcome, failed("script: timed out after 1s"));
    until_gone(&process_in(&child).await).await;
    std::fs::remove_file(child).unwrap();
}

#[tokio::test]
async fn what_a_script_leaves_running_is_killed_and_not_waited_for() {
    let child = file("leaves");
    let outcome = shell(&format!("sleep 1000 & echo $! > {}; echo done", child.display())).await;
    assert_eq!(outcome, passed("script: exit 0: \"done\""));
    until_gone(&process_in(&child).await).await;
    std::fs::remove_file(child).unwrap();
}

#[tokio::test]
async fn a_script_nobody_waits_for_is_killed() {
    let child = file("abandoned");
    let lines = format!("echo $$ > {}; sleep 1000", child.display());
    let probe = script(&["/bin/sh", "-c", &lines]);
    let task = tokio::spawn(async move { run(&probe, BACKEND.parse().unwrap(), PATIENT).await });
    let process = process_in(&child).await;
    task.abort();
    until_gone(&process).await;
    std::fs::remove_file(child).unwrap();
}

#[tokio::test]
async fn a_script_that_cannot_be_started_says_nothing_about_the_backend() {
    let expected = "script: /no/such/program: No such file or directory (os error 2)".to_owned();
    assert_eq!(ran(&["/no/such/program"], PATIENT).await, Outcome::Unasked(expected));
}

#[tokio::test]
async fn an_agent_speaks_first() {
    for (answer, expected) in [
        (b"up 75%\n".as_slice(), Outcome::Advised(Advice::Percent(75), "agent: \"up 75%\"".to_owned())),
        (b"ready", Outcome::Advised(Advice::default(), "agent: \"ready\"".to_owned())),
        (b"down#disk full\r\nup\r\n", failed("agent: \"down#disk full\"")),
        (b"", failed("agent: \"\" is not an agent's answer")),
    ] {
        let outcome = probed(&Probe::Agent, PATIENT, |mut stream| async move {
            stream.write_all(answer).await?;
            stream.shutdown().await
        });
        assert_eq!(outcome.await, expected);
    }
}

#[tokio::test]
async fn an_agent_that_never_ends_its_line_fails() {
    let silent = probed(&Probe::Agent, BRIEF, |stream| async move {
        let _held_open = stream;
        std::future::pending().await
    });
    assert_eq!(silent.await, failed("agent: timed out after 100ms"));
    let endless = probed(&Probe::Agent, PATIENT, |mut stream| async move {
        loop {
            stream.write_all(b"up ").await?;
        }
    });
    assert_eq!(endless.await, failed("agent: no end of line within 1024 bytes"));
}
