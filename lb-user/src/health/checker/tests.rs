//! The schedule in virtual time, against backends that die at the worst moment; and the whole against real ones.

use std::cell::Cell;
use std::rc::Rc;

use proptest::prelude::*;
use tokio::net::TcpListener;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::time::timeout;

use super::*;
use crate::health::suspicion;
use crate::health::{Mode, Probe};

const BACKEND: &str = "127.0.0.1:80";

fn only(check: Check) -> Checks {
    Checks::new(Mode::All, vec![check])
}

fn record(check: &Check, transitions: mpsc::Sender<News>) -> Record {
    let checks = only(check.clone());
    let vitals = Vitals::new(&checks, None);
    Record::new("web".into(), BACKEND.parse().unwrap(), &checks, vitals, Arc::default(), transitions)
}

/// The next transition; `None` if none comes any more.
async fn next(news: &mut mpsc::Receiver<News>) -> Option<Transition> {
    loop {
        if let News::Transition(transition) = news.recv().await? {
            return Some(transition);
        }
    }
}

/// Follows the one check of a record.
async fn keep_checking<P: Future<Output = Outcome>>(record: Record, check: &Check, probe: impl FnMut() -> P) {
    // Nobody suspects anything.
    super::keep_checking(&tokio::sync::Mutex::new(record), 0, check, &Notify::new(), probe).await;
}

fn check(interval_ms: u64, timeout_ms: u64, fall: u32) -> Check {
    let (interval, timeout) = (Duration::from_millis(interval_ms), Duration::from_millis(timeout_ms));
    Check { probe: Probe::Tcp, interval, timeout, fall, ..Check::default() }
}

/// Runs a test in virtual time, which passes only while everybody waits.
fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, test)
}

/// How long after its death a backend is down, if it answers `n_alive` probes, the last of them at the very moment
/// of its death, and swallows the rest: the worst case.
fn detection(check: &Check, n_alive: u32) -> Duration {
    in_virtual_time(async {
        let (send, mut receive) = mpsc::channel(8);
        let death = Rc::new(Cell::new(Instant::now()));
        let mut answered = 0;
        let dies = Rc::clone(&death);
        let probe = || {
            answered += 1;
            let alive = answered <= n_alive;
            if alive {
                dies.set(Instant::now());
            }
            let deadline = probe::deadline(check.timeout);
            async move {
                if alive {
                    return Outcome::Passed("alive".to_owned());
                }
                sleep_until(deadline).await;
                Outcome::Failed("dead".to_owned())
            }
        };
        let down = async {
            loop {
                let transition: Transition = next(&mut receive).await.unwrap();
                if transition.to == State::Down {
                    return transition.observed;
                }
            }
        };
        tokio::select! {
            () = keep_checking(record(check, send), check, probe) => unreachable!(),
            observed = down => observed - death.get(),
        }
    })
}

#[test]
fn the_defaults_notice_a_dead_backend_within_three_seconds() {
    let check = Check::default();
    assert!(check.detection_max() <= Duration::from_secs(3), "{:?}", check.detection_max());
    for n_alive in 1..100 {
        let took = detection(&check, n_alive);
        assert!(took <= check.detection_max(), "{took:?}");
    }
}

#[test]
fn quick_settings_notice_a_dead_backend_within_300_ms() {
    let check = check(50, 50, 3);
    assert_eq!(check.detection_max(), Duration::from_millis(200));
    for n_alive in 1..100 {
        let took = detection(&check, n_alive);
        assert!(took <= check.detection_max(), "{took:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn detection_keeps_its_bound_under_any_settings(
        interval_ms in 10u64..5000, timeout_share in 0.0..=1.0, fall in 1u32..6, n_alive in 1u32..20,
    ) {
        let timeout_ms = (interval_ms as f64 * timeout_share) as u64;
        let check = check(interval_ms, timeout_ms.max(2), fall);
        let took = detection(&check, n_alive);
        prop_assert!(took <= check.detection_max(), "{took:?} > {:?}", check.detection_max());
        // And it is no idle bound: jitter takes a tenth at most.
        let soonest = check.interval.mul_f64(0.9) * check.fall + check.timeout.saturating_sub(TICK * 2);
        prop_assert!(took >= soonest.saturating_sub(TICK * 2), "{took:?} < {soonest:?}");
    }
}

#[test]
fn probes_start_on_schedule_however_long_they_take() {
    in_virtual_time(async {
        let check = check(1000, 1000, 3);
        let (send, _receive) = mpsc::channel(8);
        let starts = Rc::new(Cell::new(Vec::new()));
        let seen = Rc::clone(&starts);
        let mut n = 0u64;
        let probe = || {
            let mut so_far = seen.take();
            so_far.push(Instant::now());
            seen.set(so_far);
            n += 1;
            let takes = Duration::from_millis(n * 37 % 1000);
            async move {
                tokio::time::sleep(takes).await;
                Outcome::Passed(String::new())
            }
        };
        let begun = Instant::now();
        let _ = timeout(Duration::from_secs(200), keep_checking(record(&check, send), &check, probe)).await;
        let starts = starts.take();
        assert!(starts[0] - begun <= check.interval / 10 + TICK);
        for pair in starts.windows(2) {
            let gap = pair[1] - pair[0];
            assert!(gap >= check.interval.mul_f64(0.9) - TICK && gap <= check.interval, "{gap:?}");
        }
    });
}

#[test]
fn a_dead_backend_is_asked_less_often_and_one_that_answers_as_often_as_before() {
    in_virtual_time(async {
        let check = Check { backoff_max: Some(Duration::from_secs(10)), ..check(1000, 1000, 2) };
        let (send, _receive) = mpsc::channel(8);
        let starts = Rc::new(Cell::new(Vec::new()));
        let seen = Rc::clone(&starts);
        // It dies after three probes, and is back at the twelfth.
        let probe = || {
            let mut so_far = seen.take();
            so_far.push(Instant::now());
            let n = so_far.len();
            seen.set(so_far);
            async move { if (4..12).contains(&n) { Outcome::Failed(String::new()) } else { Outcome::Passed(String::new()) } }
        };
        let record = record(&check, send);
        let status = Arc::clone(&record.status);
        let _ = timeout(Duration::from_secs(60), keep_checking(record, &check, probe)).await;
        let starts = starts.take();
        let longest_s = [1, 1, 1, 1, 1, 2, 4, 8, 10, 10, 10, 1, 1, 1];
        for (n, (pair, longest_s)) in starts.windows(2).zip(longest_s).enumerate() {
            let (gap, longest) = (pair[1] - pair[0], Duration::from_secs(longest_s));
            assert!(gap >= longest.mul_f64(0.9) - TICK && gap <= longest, "gap {n}: {gap:?} of at most {longest:?}");
        }
        assert!(starts.len() > longest_s.len(), "{}", starts.len());
        assert_eq!(status.lock().unwrap().backoff, None);
    });
}

#[test]
fn a_probe_that_could_not_be_sent_changes_nothing() {
    in_virtual_time(async {
        let check = check(10, 10, 1);
        let (send, mut receive) = mpsc::channel(8);
        let record = record(&check, send);
        let status = Arc::clone(&record.status);
        let mut n = 0;
        let probe = || {
            n += 1;
            let outcome = if n == 1 { Outcome::Passed("alive".to_owned()) } else { Outcome::Unasked("no ports".to_owned()) };
            async move { outcome }
        };
        let _ = timeout(Duration::from_secs(10), keep_checking(record, &check, probe)).await;
        assert_eq!(next(&mut receive).await.unwrap().to, State::Up);
        // The record went with its sender; there was nothing else to tell.
        assert_eq!(receive.try_recv(), Err(TryRecvError::Disconnected));
        let status = status.lock().unwrap();
        assert_eq!((status.state, status.last_result.as_str()), (State::Up, "no ports"));
    });
}

/// After how many probes a backend is down whose probes fail this much after their time-out, in turn.
fn n_probes_until_down(late_ms: &[u64]) -> Option<usize> {
    in_virtual_time(async {
        let check = check(1000, 100, 1);
        let (send, mut receive) = mpsc::channel(8);
        let mut n = 0;
        let probe = || {
            let late = late_ms.get(n).copied();
            n += 1;
            async move {
                match late {
                    Some(late) => tokio::time::sleep(Duration::from_millis(100 + late)).await,
                    None => std::future::pending().await,
                }
                Outcome::Failed("dead".to_owned())
            }
        };
        let _ = timeout(Duration::from_secs(100), keep_checking(record(&check, send), &check, probe)).await;
        // The last one never ends.
        next(&mut receive).await.map(|_| n - 1)
    })
}

#[test]
fn a_failure_that_nobody_looked_for_in_time_does_not_count_unless_all_are_so() {
    assert_eq!(n_probes_until_down(&[0]), Some(1));
    assert_eq!(n_probes_until_down(&[200]), Some(1));
    assert_eq!(n_probes_until_down(&[5_000]), None);
    assert_eq!(n_probes_until_down(&[5_000, 0]), Some(2));
    assert_eq!(n_probes_until_down(&[5_000, 5_000]), Some(2));
}

#[test]
fn a_checker_that_nobody_listens_to_ends() {
    in_virtual_time(async {
        let check = check(10, 10, 1);
        let (send, receive) = mpsc::channel(8);
        drop(receive);
        let checking = keep_checking(record(&check, send), &check, || async { Outcome::Passed(String::new()) });
        assert!(timeout(Duration::from_secs(10), checking).await.is_ok());
    });
}

/// A real checker of a real address, and what it tells.
fn checking(backend: SocketAddr, check: Check) -> (Checker, mpsc::Receiver<News>) {
    let (send, receive) = mpsc::channel(8);
    (spawn("web".into(), backend, only(check), None, send, &Steering::none()), receive)
}

#[tokio::test]
async fn a_backend_without_check_is_up_at_once() {
    let check = Check { probe: Probe::None, ..Check::default() };
    let (checker, mut transitions) = checking(BACKEND.parse().unwrap(), check);
    let transition = next(&mut transitions).await.unwrap();
    assert_eq!((transition.from, transition.to, transition.cause.as_str()), (State::Unknown, State::Up, "not checked"));
    assert_eq!(checker.status().state, State::Up);
}

#[tokio::test]
async fn a_backend_that_dies_and_returns_is_followed() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let backend = listener.local_addr().unwrap();
    let (checker, mut transitions) = checking(backend, check(50, 50, 3));
    let up = next(&mut transitions).await.unwrap();
    assert_eq!((up.from, up.to, up.cause.as_str()), (State::Unknown, State::Up, "connected"));
    assert_eq!((up.backend, &*up.service), (backend, "web"));

    let died = Instant::now();
    drop(listener);
    let down = next(&mut transitions).await.unwrap();
    assert_eq!((down.from, down.to), (State::Up, State::Down));
    assert!(down.cause.starts_with("connect: re"), "refused, or reset while it was accepted: {}", down.cause);
    assert!(down.observed - died < Duration::from_millis(300), "{:?}", down.observed - died);
    assert!(checker.status().failed_in_row >= 3);

    let _listener = TcpListener::bind(backend).await.unwrap();
    let up = next(&mut transitions).await.unwrap();
    assert_eq!((up.from, up.to), (State::Down, State::Up));
    let status = checker.status();
    assert_eq!((status.failed_in_row, status.last_result.as_str()), (0, "connected"));
    assert!(status.passed_in_row >= 2 && status.last_latency.is_some());
}

#[tokio::test]
async fn the_configured_port_is_probed_and_the_backend_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = Some(listener.local_addr().unwrap().port());
    let (_checker, mut transitions) = checking("127.0.0.1:0".parse().unwrap(), Check { port, ..Check::default() });
    let up = next(&mut transitions).await.unwrap();
    assert_eq!((up.to, up.backend.port()), (State::Up, 0));
}

#[tokio::test]
async fn a_dropped_checker_says_nothing_more() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (checker, mut transitions) = checking(listener.local_addr().unwrap(), check(10, 10, 1));
    assert!(next(&mut transitions).await.is_some());
    drop(checker);
    drop(listener);
    // The task's sender goes with it.
    assert_eq!(next(&mut transitions).await, None);
}

#[test]
fn several_checks_say_one_thing() {
    use State::{Down, Unknown, Up};
    for (states, all, any) in [
        ([Up, Up], Some(Up), Some(Up)),
        ([Up, Down], Some(Down), Some(Up)),
        ([Down, Down], Some(Down), Some(Down)),
        ([Up, Unknown], None, Some(Up)),
        ([Down, Unknown], Some(Down), None),
        ([Unknown, Unknown], None, None),
    ] {
        for states in [states, [states[1], states[0]]] {
            assert_eq!((Mode::All.combine(states.into_iter()), Mode::Any.combine(states.into_iter())), (all, any), "{states:?}");
        }
    }
}

/// Feeds results to two checks of a record with rise and fall 1, such as `a+` and `b-`, and shows what was told: the first
/// letter of each new state.
fn told(mode: Mode, results: &str) -> String {
    in_virtual_time(async {
        let (send, mut receive) = mpsc::channel(64);
        let check = Check { rise: 1, fall: 1, ..Check::default() };
        let checks = Checks::new(mode, vec![check.clone(), check]);
        let mut record =
            Record::new("web".into(), BACKEND.parse().unwrap(), &checks, Vitals::new(&checks, None), Arc::default(), send);
        for result in results.split(' ') {
            let (index, outcome) = match result.as_bytes() {
                [check, b'+'] => (check - b'a', Outcome::Passed(result.to_owned())),
                [check, b'-'] => (check - b'a', Outcome::Failed(result.to_owned())),
                other => panic!("{other:?}"),
            };
            assert!(record.take(index.into(), outcome, Instant::now(), Duration::ZERO).await.is_ok());
        }
        drop(record);
        let mut told = String::new();
        while let Some(transition) = next(&mut receive).await {
            told.push(transition.to.to_string().remove(0));
        }
        told
    })
}

#[test]
fn a_backend_follows_all_its_checks_or_any() {
    for (results, all, any) in [
        ("a+ b+", "u", "u"),
        ("a+ b-", "d", "u"),
        ("a- b-", "d", "d"),
        ("a+ b+ a- b-", "ud", "ud"),
        ("a+ b+ a- a+ b- b+", "ududu", "u"),
        ("a- b- a+ b+", "du", "du"),
        // What is known goes on until enough is known otherwise.
        ("a- a+ b+", "du", "u"),
        ("a+ a- b-", "d", "ud"),
    ] {
        assert_eq!((told(Mode::All, results).as_str(), told(Mode::Any, results).as_str()), (all, any), "{results}");
    }
}

#[tokio::test]
async fn checks_run_side_by_side_and_show_what_each_found() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let deaf = tokio::net::TcpSocket::new_v4().unwrap();
    deaf.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let refused = Check { port: Some(deaf.local_addr().unwrap().port()), ..check(20, 20, 2) };
    for (mode, expected) in [(Mode::All, State::Down), (Mode::Any, State::Up)] {
        let checks = Checks::new(mode, vec![check(50, 50, 3), refused.clone()]);
        let (send, mut transitions) = mpsc::channel(8);
        let checker = spawn("web".into(), listener.local_addr().unwrap(), checks, None, send, &Steering::none());
        assert_eq!(next(&mut transitions).await.unwrap().to, expected);
        let both = async {
            while checker.status().last_result != "connected; connect: refused" {
                tokio::time::sleep(TICK).await;
            }
        };
        timeout(Duration::from_secs(10), both).await.expect("both results");
        assert_eq!(checker.status().state, expected);
    }
}

#[tokio::test]
async fn a_backend_under_suspicion_is_probed_at_once_until_that_is_decided() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let slow = check(3_600_000, 1000, 3);
    let checks = Checks { passive: Some(suspicion::Rules::default()), ..only(slow) };
    let (send, mut transitions) = mpsc::channel(8);
    let checker = spawn("web".into(), listener.local_addr().unwrap(), checks, None, send, &Steering::none());
    // The first probe comes within a tenth of the interval; suspicion does not wait.
    let seen = |passed, failed| Counts { passed, failed };
    checker.note_flows(seen(0, 9));
    let up = timeout(Duration::from_secs(10), next(&mut transitions)).await.expect("an immediate probe").unwrap();
    assert_eq!(up.to, State::Up);
    drop(listener);
    // What is well raises none.
    checker.note_flows(seen(90, 9));
    assert!(timeout(Duration::from_millis(300), next(&mut transitions)).await.is_err());
    let down = async {
        loop {
            checker.note_flows(seen(0, 200));
            if let Ok(Some(transition)) = timeout(Duration::from_millis(50), next(&mut transitions)).await {
                return transition.to;
            }
        }
    };
    assert_eq!(timeout(Duration::from_secs(10), down).await.expect("a verdict"), State::Down);
    assert!(checker.status().n_suspicions >= 2);
}
