use expect_test::{Expect, expect};

use super::*;
use crate::failover::{Failback, Minimum, Rules, Tier};

const BACKENDS: &str = "[[service.backend]]\naddress = \"10.0.0.1\"\n[[service.backend]]\naddress = \"10.0.0.2\"\npriority = 1\n";

#[test]
fn what_is_said_about_failover_is_read() {
    let keys = "port = 80\nfailback = \"manual\"\nminimum = \"50%\"\npanic = \"30 %\"\nslow_start = \"1m\"\n";
    let read = service(&format!("{keys}{BACKENDS}[service.sorry]\naddress = \"10.0.0.9\"\n"));
    let rules = Rules {
        failback: Failback::Manual,
        minimum: Some(Minimum::Percent(50)),
        panic_percent: 30,
        slow_start: Some(Duration::from_secs(60)),
    };
    assert_eq!(read.failover, rules);
    let tiers: Vec<Tier> = read.backends.iter().map(|backend| backend.tier).collect();
    assert_eq!(tiers, [Tier::Priority(0), Tier::Priority(1), Tier::Sorry]);
    assert_eq!(service(&format!("port = 80\nminimum = 2\n{BACKENDS}")).failover.minimum, Some(Minimum::Count(2)));
    // A source's backends are of the first priority: there is somebody to stand by for.
    let found = "port = 80\nfailback = \"manual\"\n[[service.backend]]\naddress = \"10.0.0.1\"\npriority = 1\n[service.dns]\nname = \"a.b\"\n";
    assert_eq!(service(found).failover.failback, Failback::Manual);
}

fn refused(lines: &str, expected: Expect) {
    let text = format!("[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 80\n{lines}");
    expected.assert_eq(&parse("xlb.toml", &text).unwrap_err().to_string());
}

#[test]
fn failovers_values_are_checked() {
    let keys = "failback = \"automatic\"\nminimum = \"half\"\npanic = 30\nslow_start = \"10ms\"\n";
    refused(
        &format!("{keys}{}", BACKENDS.replace("= 1\n", "= 256\n")),
        expect![[r#"
        error: invalid `failback` in [[service]]
         --> xlb.toml:7:12
          |
        7 | failback = "automatic"
          |            ^^^^^^^^^^^ expected one of auto, manual, found the string "automatic"
          |
          = help: write "auto" or "manual"

        error: invalid `minimum` in [[service]]
         --> xlb.toml:8:11
          |
        8 | minimum = "half"
          |           ^^^^^^ expected 1% to 100%, found the string "half"
          |
          = help: write it as `minimum = "50%"`, or a number of backends without quotes

        error: invalid `panic` in [[service]]
         --> xlb.toml:9:9
          |
        9 | panic = 30
          |         ^^ expected 0% to 100%, found the number 30
          |
          = help: write it as `panic = "30%"`

        error: invalid `slow_start` in [[service]]
          --> xlb.toml:10:14
           |
        10 | slow_start = "10ms"
           |              ^^^^^^ out of bounds
           |
           = help: write a duration from "1s" to "1day"

        error: invalid `priority` in [[service.backend]]
          --> xlb.toml:15:12
           |
        15 | priority = 256
           |            ^^^ expected a whole number from 0 to 255, found the number 256
           |
           = help: write a whole number from 0 to 255, without quotes

        error: xlb.toml: 5 problems"#]],
    );
    refused(
        &format!("minimum = 0\npanic = \"101%\"\n{BACKENDS}"),
        expect![[r#"
        error: invalid `minimum` in [[service]]
         --> xlb.toml:7:11
          |
        7 | minimum = 0
          |           ^ expected a whole number from 1 to 65535, found the number 0
          |
          = help: write a whole number from 1 to 65535, without quotes

        error: invalid `panic` in [[service]]
         --> xlb.toml:8:9
          |
        8 | panic = "101%"
          |         ^^^^^^ expected 0% to 100%, found the string "101%"
          |
          = help: write it as `panic = "30%"`

        error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn failback_and_minimum_take_somebody_who_stands_by() {
    refused(
        &format!("failback = \"auto\"\nminimum = 2\n{}", BACKENDS.replace("priority = 1\n", "")),
        expect![[r#"
        error: `failback` without a standby
         --> xlb.toml:7:12
          |
        7 | failback = "auto"
          |            ^^^^^^ all backends have the same priority
          |
          = help: remove `failback`, or give those that stand by `priority = 1`

        error: `minimum` without a standby
         --> xlb.toml:8:11
          |
        8 | minimum = 2
          |           ^ all backends have the same priority
          |
          = help: remove `minimum`, or give those that stand by `priority = 1`

        error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn the_sorry_backend_is_a_backend_of_its_own_without_weight_or_priority() {
    let sorry = |rest: &str| format!("{BACKENDS}[service.sorry]\n{rest}\n");
    refused(
        &sorry("address = \"10.0.0.2\""),
        expect![[r#"
        error: backend 10.0.0.2:80 is named twice
          --> xlb.toml:13:11
           |
        10 | address = "10.0.0.2"
           |           ---------- first here
        ...
        13 | address = "10.0.0.2"
           |           ^^^^^^^^^^ again here
           |
           = help: to give it more traffic, raise its `weight`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        &sorry("address = \"192.0.2.1\"\nweight = 3"),
        expect![[r#"
        error: a backend at the VIP itself
          --> xlb.toml:13:11
           |
         5 | vip = "192.0.2.1"
           |       ----------- the VIP
        ...
        13 | address = "192.0.2.1"
           |           ^^^^^^^^^^^ packets would come back to xlb
           |
           = help: name the backend's own address

        error: unknown key `weight` in [service.sorry]
          --> xlb.toml:14:1
           |
        14 | weight = 3
           | ^^^^^^ not a key that xlb knows
           |
           = help: known here are address, port

        error: xlb.toml: 2 problems"#]],
    );
    refused(
        &sorry("port = 80"),
        expect![[r#"
        error: missing `address` in [service.sorry]
          --> xlb.toml:12:1
           |
        12 | [service.sorry]
           | ^^^^^^^^^^^^^^^
           |
           = help: the address that xlb reaches the backend at: `address = "10.0.1.1"`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "[service.sorry]\naddress = \"10.0.0.9\"\n",
        expect![[r#"
        error: a service without backends
         --> xlb.toml:3:1
          |
        3 | [[service]]
          | ^^^^^^^^^^^ nobody serves this
          |
          = help: add `[[service.backend]]` with `address = "..."`, `[service.dns]` with `name = "..."`, `[service.file]` with `path = "..."`, or `[service.docker]`

        error: xlb.toml: 1 problem"#]],
    );
}
