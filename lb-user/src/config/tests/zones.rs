use expect_test::{Expect, expect};

use super::*;
use crate::discovery::Kind;
use crate::failover::{Spread, Tier, ZoneRules};

const TWO: &str =
    "[[service.backend]]\naddress = \"10.0.0.1\"\nzone = \"a\"\n[[service.backend]]\naddress = \"10.0.0.2\"\nzone = \"b\"\n";

fn text(node: &str, lines: &str) -> String {
    format!("[xdp]\ninterfaces = [\"eth0\"]\n{node}[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 80\n{lines}")
}

fn refused(node: &str, lines: &str, expected: Expect) {
    expected.assert_eq(&parse("xlb.toml", &text(node, lines)).unwrap_err().to_string());
}

#[test]
fn what_is_said_about_zones_is_read() {
    let local = accepted(&text("[node]\nzone = \"a\"\n", &format!("{TWO}[service.zones]\n")));
    assert_eq!(local.node.zone.as_deref(), Some("a"));
    let service = &local.services[0];
    assert_eq!(service.zones, Some(ZoneRules { spread: Spread::Local, overprovision: 140 }));
    let zones: Vec<Option<&str>> = service.backends.iter().map(|backend| backend.zone.as_deref()).collect();
    assert_eq!(zones, [Some("a"), Some("b")]);
    let sources = "[service.dns]\nname = \"a.b\"\nzone = \"c\"\npriority = 2\n[service.file]\npath = \"/b.json\"\nzone = \"b\"\n";
    let keys = "[service.zones]\noverprovision = 2\nweights = { a = 50, b = 30, c = 0 }\n";
    let weighed = accepted(&text("", &format!("{TWO}{sources}{keys}"))).services.remove(0);
    let weights = [("a".into(), 50), ("b".into(), 30), ("c".into(), 0)].into();
    assert_eq!(weighed.zones, Some(ZoneRules { spread: Spread::Weights(weights), overprovision: 200 }));
    let rank = |tier: u8, zone: &str| Rank { tier: Tier::Priority(tier), zone: Some(zone.into()) };
    assert_eq!(weighed.ranks, [(Kind::Dns, rank(2, "c")), (Kind::File, rank(0, "b"))].into());
    // A zone alone is but a label.
    assert_eq!(accepted(&text("", TWO)).services[0].zones, None);
    // A source may stand by, or be stood by for.
    let standby =
        "failback = \"manual\"\n[[service.backend]]\naddress = \"10.0.0.1\"\n[service.dns]\nname = \"a.b\"\npriority = 1\n";
    assert!(accepted(&text("", standby)).services[0].tiers().eq([Tier::Priority(0), Tier::Priority(1)]));
}

#[test]
fn which_zone_comes_first_must_be_known() {
    refused(
        "",
        &format!("{TWO}[service.zones]\n"),
        expect![[r#"
            error: which zone comes first is not known
              --> xlb.toml:13:1
               |
            13 | [service.zones]
               | ^^^^^^^^^^^^^^^ this machine's own zone, unless zones have weights
               |
               = help: add `[node]` with `zone = "a"`, or `weights = { a = 50, b = 50 }` here

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn zones_take_a_backend_in_one() {
    refused(
        "[node]\nzone = \"a\"\n",
        "algorithm = \"round-robin\"\n[[service.backend]]\naddress = \"10.0.0.1\"\n[service.zones]\n",
        expect![[r#"
            error: zones with round-robin
              --> xlb.toml:12:1
               |
            12 | [service.zones]
               | ^^^^^^^^^^^^^^^ round-robin asks for no weights, and so for no shares
               |
               = help: use `algorithm = "weighted-round-robin"`, or remove `[service.zones]`

            error: zones without a backend in one
              --> xlb.toml:12:1
               |
            12 | [service.zones]
               | ^^^^^^^^^^^^^^^ no backend or source of this service has a zone
               |
               = help: give its backends `zone = "a"`, each its own, or remove `[service.zones]`

            error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn weights_are_for_zones_with_backends_and_all_backends_are_in_zones_with_weights() {
    let more =
        "[[service.backend]]\naddress = \"10.0.0.3\"\n[service.dns]\nname = \"a.b\"\n[service.sorry]\naddress = \"10.0.0.9\"\n";
    refused(
        "",
        &format!("{TWO}{more}[service.zones]\nweights = {{ b = 100, east = 1, A = 5 }}\n"),
        expect![[r#"
            error: zone "a" has no weight
             --> xlb.toml:8:11
              |
            8 | address = "10.0.0.1"
              |           ^^^^^^^^^^ in zone "a"
              |
              = help: add it to `weights` in `[service.zones]`: `a = 50`, or 0, to serve while no other zone can

            error: a backend without a zone, where zones have weights
              --> xlb.toml:14:11
               |
            14 | address = "10.0.0.3"
               |           ^^^^^^^^^^ no `zone` here
               |
               = help: add `zone = "a"`

            error: a backend without a zone, where zones have weights
              --> xlb.toml:15:1
               |
            15 | [service.dns]
               | ^^^^^^^^^^^^^ no `zone` here
               |
               = help: add `zone = "a"`

            error: a weight for zone "east", where nobody is
              --> xlb.toml:20:22
               |
            20 | weights = { b = 100, east = 1, A = 5 }
               |                      ^^^^ no backend is in zone "east"
               |
               = help: this service has backends in a, b

            error: a weight for zone "A", where nobody is
              --> xlb.toml:20:32
               |
            20 | weights = { b = 100, east = 1, A = 5 }
               |                                ^ did you mean `a`?
               |
               = help: this service has backends in a, b

            error: xlb.toml: 5 problems"#]],
    );
}

#[test]
fn values_of_zones_are_checked() {
    refused(
        "[node]\nzone = \"rack 1\"\n",
        &format!("{TWO}[service.zones]\noverprovision = 0.9\nweights = {{ a = 1001, \"b c\" = 1 }}\n"),
        expect![[r#"
            error: invalid `zone` in [node]
             --> xlb.toml:4:8
              |
            4 | zone = "rack 1"
              |        ^^^^^^^^ ' ' cannot stand in a zone's name
              |
              = help: use 1 to 63 letters, digits, `-`, `_` and `.`

            error: invalid `overprovision` in [service.zones]
              --> xlb.toml:16:17
               |
            16 | overprovision = 0.9
               |                 ^^^ expected a number from 1 to 10, found the number 0.9
               |
               = help: write a number from 1 to 10, without quotes, with two decimals at most

            error: invalid `a` in [service.zones] weights
              --> xlb.toml:17:17
               |
            17 | weights = { a = 1001, "b c" = 1 }
               |                 ^^^^ expected a whole number from 0 to 1000, found the number 1001
               |
               = help: write a whole number from 0 to 1000, without quotes

            error: invalid `b c` in [service.zones] weights
              --> xlb.toml:17:23
               |
            17 | weights = { a = 1001, "b c" = 1 }
               |                       ^^^^^ ' ' cannot stand in a zone's name
               |
               = help: use 1 to 63 letters, digits, `-`, `_` and `.`

            error: xlb.toml: 4 problems"#]],
    );
    refused(
        "",
        &format!("{TWO}[service.zones]\nweights = {{ a = 0, b = 0 }}\n"),
        expect![[r#"
            error: invalid `weights` in [service.zones]
              --> xlb.toml:14:11
               |
            14 | weights = { a = 0, b = 0 }
               |           ^^^^^^^^^^^^^^^^ no zone has a weight
               |
               = help: write `weights = { a = 50, b = 30 }`, a weight for each zone

            error: xlb.toml: 1 problem"#]],
    );
    refused(
        "",
        &format!(
            "{TWO}[service.zones]\nweights = {{ a = 1000, b = 1 }}\n[service.sorry]\naddress = \"10.0.0.9\"\nzone = \"a\"\n"
        ),
        expect![[r#"
            error: too little for zone "b"
              --> xlb.toml:14:23
               |
            14 | weights = { a = 1000, b = 1 }
               |                       ^ 1 of 1001 is less than 1%
               |
               = help: shares are whole percent: raise it, or write 0, for a zone that serves while no other can

            error: unknown key `zone` in [service.sorry]
              --> xlb.toml:17:1
               |
            17 | zone = "a"
               | ^^^^ not a key that xlb knows
               |
               = help: known here are address, port

            error: xlb.toml: 2 problems"#]],
    );
    refused(
        "",
        &format!("zones = 1\n{TWO}"),
        expect![[r#"
            error: `zones` must be a section
             --> xlb.toml:7:9
              |
            7 | zones = 1
              |         ^ found the number 1
              |
              = help: write `[service.zones]` on a line of its own, and its keys below

            error: xlb.toml: 1 problem"#]],
    );
}
