use expect_test::expect;
use serde_json::json;

use super::*;

/// A status in which all counters stand at `n` thousands.
fn status(n: u64) -> serde_json::Value {
    let backend = |address: &str, state: &str, factor: u64| {
        json!({ "address": address, "port": 80, "weight": 1, "state": state, "serving": state == "up", "share": 0.5,
            "packets": n * 1000 * factor, "bytes": n * 1_000_000 * factor, "connections": n * 100 * factor, "check": "http \u{1b}[31m200" })
    };
    let service = |name: &str, vip: &str, factor: u64| {
        json!({ "name": name, "vip": vip, "port": 80, "protocol": "tcp", "algorithm": "maglev", "forward": "dsr", "state": "up",
            "packets": n * 1000 * factor, "bytes": n * 1_000_000 * factor, "connections": n * 100 * factor, "dropped": 0,
            "slots_not_at_rest": 12, "leaving": [], "backends": [backend("10.0.0.1", "up", factor), backend("10.0.0.2", "down", 0)] })
    };
    json!({ "version": "0.1.0", "ready": true, "interfaces": [{ "name": "eth0", "ifindex": 2, "mode": "native" }],
        "packets": { "received": n * 4000, "forwarded": n * 3000, "passed": 0, "dropped": n * 5 },
        "flows": { "capacity": 1024, "opening": 1, "guessed": 2, "established": 3, "closing": 4 },
        "verdicts": { "tx": n * 3000, "no_backend": n * 5 },
        "services": [service("web", "192.0.2.1", 1), service("web6", "2001:db8::1", 2)] })
}

/// A view of ten seconds.
fn view() -> View {
    let (mut view, start) = (View::default(), Instant::now());
    view.take(status(1), start);
    view.take(status(11), start + Duration::from_secs(10));
    view
}

#[test]
fn the_picture_fits_80_by_24() {
    expect![[r#"
        xlb 0.1.0, ready, on eth0 (native)
        in 4.00k pkt/s, to backends 24.0M bit/s, 300 conn/s, dropped 5 pkt/s
        2 of 4 backends serve, 10 flows on record, 24 slots not at rest
        drops: no_backend 55 (5/s)

        service, backend            state     share  pkt/s  bit/s conn/s last check
        web 192.0.2.1:80/tcp        up               1.00k  8.00M    100 dsr maglev
          10.0.0.1:80               up        50.0%  1.00k  8.00M    100 http  [31m200
          10.0.0.2:80               down      50.0%      0      0      0 http  [31m200
        web6 [2001:db8::1]:80/tcp   up               2.00k  16.0M    200 dsr maglev
          10.0.0.1:80               up        50.0%  2.00k  16.0M    200 http  [31m200
          10.0.0.2:80               down      50.0%      0      0      0 http  [31m200











        q quit   up, down, page keys: move   s: sort, now as configured
    "#]]
    .assert_eq(&picture(&mut view(), 80, 24).unwrap());
}

#[test]
fn a_single_picture_has_all_rows_and_no_keys() {
    let mut view = view();
    let short = whole(&mut view, 80).unwrap();
    assert!(short.lines().count() == 12 && short.contains("web6 [") && !short.contains("quit"), "{short}");
    let backend = view.status["services"][0]["backends"][0].clone();
    view.status["services"][0]["backends"] = vec![backend; 100].into();
    let long = whole(&mut view, 80).unwrap();
    assert!(long.lines().count() == 110 && long.contains("web6 [") && !long.ends_with("\n\n"), "{long}");
}

#[test]
fn s_sorts_by_the_next_column_and_the_cursor_stays_in_the_table() {
    let mut view = view();
    view.sort_by_next();
    let picture = picture(&mut view, 80, 24).unwrap();
    assert!(picture.find("web6 [").unwrap() < picture.find("web 192").unwrap(), "{picture}");
    assert!(picture.contains("sort, now packets"), "{picture}");
    view.move_by(100);
    assert_eq!(view.cursor.selected(), Some(5));
    view.move_by(-100);
    assert_eq!(view.cursor.selected(), Some(0));
}

#[test]
fn what_was_known_stays_when_the_daemon_goes_and_one_that_starts_anew_has_no_negative_rates() {
    let mut view = view();
    view.lose(&anyhow::anyhow!("no daemon answers"));
    let gone = picture(&mut view, 80, 24).unwrap();
    assert!(gone.starts_with("no daemon answers\n") && gone.contains("10.0.0.2:80"), "{gone}");
    view.take(status(0), Instant::now() + Duration::from_secs(20));
    let back = picture(&mut view, 80, 24).unwrap();
    assert!(back.starts_with("xlb 0.1.0") && back.contains("in 0 pkt/s"), "{back}");
}

#[test]
fn what_was_set_at_runtime_is_marked() {
    let mut view = view();
    let by = json!({ "value": "disable", "by": "root", "at_ms": 0 });
    let web = &mut view.status["services"][0];
    web["backends"][0]["set"] = json!({ "admin": by });
    web["backends"][0]["serving"] = json!(false);
    web["backends"][1]["set"] = json!({ "weight": { "value": 7, "by": "uid 990", "at_ms": 0 } });
    view.status["services"][1]["maintenance"] = json!({ "value": true, "by": "root", "at_ms": 0 });
    expect![[r#"
        xlb 0.1.0, ready, on eth0 (native)
        in 4.00k pkt/s, to backends 24.0M bit/s, 300 conn/s, dropped 5 pkt/s
        1 of 4 backends serve, 10 flows on record, 24 slots not at rest
        drops: no_backend 55 (5/s)

        service, backend            state     share  pkt/s  bit/s conn/s last check
        web 192.0.2.1:80/tcp        up               1.00k  8.00M    100 dsr maglev
          10.0.0.1:80 *             disabled  50.0%  1.00k  8.00M    100 http  [31m200
          10.0.0.2:80 *             down      50.0%      0      0      0 http  [31m200
        web6 [2001:db8::1]:80/tcp * maint            2.00k  16.0M    200 dsr maglev
          10.0.0.1:80               up        50.0%  2.00k  16.0M    200 http  [31m200
          10.0.0.2:80               down      50.0%      0      0      0 http  [31m200











        q quit   up, down, page keys: move   s: sort, now as configured * set at runtime
    "#]]
    .assert_eq(&picture(&mut view, 80, 24).unwrap());
}
