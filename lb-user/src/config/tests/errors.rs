//! Each error once, as an operator sees it.

use std::fmt::Write as _;

use expect_test::{Expect, expect};

use super::super::parse;
use crate::desired::{Absence, Watchdog};

#[track_caller]
pub(super) fn check(input: &str, expected: Expect) {
    match parse("xlb.toml", input) {
        Ok(config) => panic!("accepted as {config:#?}"),
        Err(error) => {
            let shown = error.to_string();
            expected.assert_eq(&shown);
            let (n_errors, n_helps) = (shown.matches("error: ").count() - 1, shown.matches("= help: ").count());
            assert_eq!(n_errors, n_helps, "each error says what to do");
        }
    }
}

#[test]
fn broken_toml_is_shown_where_it_breaks() {
    check(
        r#"
[xdp
interfaces = ["eth0"]
mode = auto
"#,
        expect![[r#"
            error: not valid TOML: unclosed table, expected `]`
             --> xlb.toml:2:5
              |
            2 | [xdp
              |     ^
              |
              = help: a line is `[section]`, `[[section]]`, `key = value` or `# comment`, and text stands in double quotes

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_key_given_twice_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
mode = "auto"
mode = "native"
"#,
        expect![[r#"
            error: not valid TOML: duplicate key
             --> xlb.toml:5:1
              |
            5 | mode = "native"
              | ^^^^
              |
              = help: a line is `[section]`, `[[section]]`, `key = value` or `# comment`, and text stands in double quotes

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn an_empty_file_is_told_what_to_begin_with() {
    check(
        r#""#,
        expect![[r#"
        error: missing `xdp` in the file
         --> xlb.toml:1:1
          |
        1 |
          | ^
          |
          = help: add `[xdp]` with `interfaces = ["eth0"]`: where the traffic of VIPs arrives

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn unknown_keys_are_refused_in_every_section() {
    check(
        r#"
colour = 1
[xdp]
interfaces = ["eth0"]
mod = "auto"
[api]
port = 1
[limits]
slot = 1
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
backends = []
[service.health]
intervall = "1s"
[[service.backend]]
address = "10.0.1.1"
weigth = 1
[service.dns]
name = "a.b"
ttl = 5
"#,
        expect![[r#"
            error: unknown key `colour` in the file
             --> xlb.toml:2:1
              |
            2 | colour = 1
              | ^^^^^^ not a key that xlb knows
              |
              = help: known here are xdp, api, limits, steering, watchdog, node, admission, fullnat, service

            error: unknown key `mod` in [xdp]
             --> xlb.toml:5:1
              |
            5 | mod = "auto"
              | ^^^ did you mean `mode`?
              |
              = help: known here are interfaces, mode, pin, on_exit, secret_file

            error: unknown key `port` in [api]
             --> xlb.toml:7:1
              |
            7 | port = 1
              | ^^^^ not a key that xlb knows
              |
              = help: known here are listen, socket, socket_gid, tls_certificate, tls_key, token_file, state_file, audit_file

            error: unknown key `slot` in [limits]
             --> xlb.toml:9:1
              |
            9 | slot = 1
              | ^^^^ did you mean `slots`?
              |
              = help: known here are slots, flows, prefixes, sources

            error: unknown key `backends` in [[service]]
              --> xlb.toml:14:1
               |
            14 | backends = []
               | ^^^^^^^^ did you mean `backend`?
               |
               = help: known here are name, vip, port, protocol, algorithm, client_prefix, max_load, forward, gue_port, mss, toa, idle, on_down, track, health_mode, health, admission, backend, dns, file, docker, quic, failback, minimum, panic, slow_start, zones, sorry

            error: unknown key `intervall` in [service.health]
              --> xlb.toml:16:1
               |
            16 | intervall = "1s"
               | ^^^^^^^^^ did you mean `interval`?
               |
               = help: known here are type, port, via, interval, timeout, rise, fall, backoff_max, degraded_above, degraded_weight

            error: unknown key `weigth` in [[service.backend]]
              --> xlb.toml:19:1
               |
            19 | weigth = 1
               | ^^^^^^ did you mean `weight`?
               |
               = help: known here are server_id, address, port, weight, priority, zone

            error: unknown key `ttl` in [service.dns]
              --> xlb.toml:22:1
               |
            22 | ttl = 5
               | ^^^ not a key that xlb knows
               |
               = help: known here are priority, zone, name, type, port, weight, resolver, interval, stale, min_hosts

            error: xlb.toml: 8 problems"#]],
    );
}

#[test]
fn required_keys_are_named_where_they_are_missing() {
    check(
        r#"
[xdp]
[[service]]
[[service.backend]]
[service.dns]
"#,
        expect![[r#"
            error: missing `interfaces` in [xdp]
             --> xlb.toml:2:1
              |
            2 | [xdp]
              | ^^^^^
              |
              = help: name the interfaces on which VIP traffic (and replies of nat backends) arrive: `interfaces = ["eth0"]`

            error: missing `name` in [[service]]
             --> xlb.toml:3:1
              |
            3 | [[service]]
              | ^^^^^^^^^^^
              |
              = help: give the service a name for logs and metrics: `name = "web"`

            error: missing `vip` in [[service]]
             --> xlb.toml:3:1
              |
            3 | [[service]]
              | ^^^^^^^^^^^
              |
              = help: the address that clients connect to: `vip = "192.0.2.1"`

            error: missing `port` in [[service]]
             --> xlb.toml:3:1
              |
            3 | [[service]]
              | ^^^^^^^^^^^
              |
              = help: the port that clients connect to: `port = 80`, or `port = 0` for every port

            error: missing `address` in [[service.backend]]
             --> xlb.toml:4:1
              |
            4 | [[service.backend]]
              | ^^^^^^^^^^^^^^^^^^^
              |
              = help: the address that xlb reaches the backend at: `address = "10.0.1.1"`

            error: missing `name` in [service.dns]
             --> xlb.toml:5:1
              |
            5 | [service.dns]
              | ^^^^^^^^^^^^^
              |
              = help: the name whose addresses are the backends: `name = "api.internal"`

            error: xlb.toml: 6 problems"#]],
    );
}

#[test]
fn sections_of_the_wrong_kind_are_refused() {
    check(
        r#"
xdp = 5
api = []
[service]
name = "web"
"#,
        expect![[r#"
            error: `xdp` must be a section
             --> xlb.toml:2:7
              |
            2 | xdp = 5
              |       ^ found the number 5
              |
              = help: write `[xdp]` on a line of its own, and its keys below

            error: `api` must be a section
             --> xlb.toml:3:7
              |
            3 | api = []
              |       ^^ found an array
              |
              = help: write `[api]` on a line of its own, and its keys below

            error: `service` must be a list of sections
             --> xlb.toml:4:1
              |
            4 | [service]
              | ^^^^^^^^^ a single section
              |
              = help: write `[[service]]`, in double brackets, above the keys of each service

            error: xlb.toml: 3 problems"#]],
    );
}

#[test]
fn services_that_are_not_tables_are_refused() {
    check(
        r#"
service = [1]
[xdp]
interfaces = ["eth0"]
"#,
        expect![[r#"
            error: `service` must be a list of sections
             --> xlb.toml:2:12
              |
            2 | service = [1]
              |            ^ found the number 1
              |
              = help: write `[[service]]`, in double brackets, above the keys of each service

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn xdp_values_are_checked() {
    check(
        r#"
[xdp]
interfaces = ["eth0", "", "a/b", "interface-of-16b", 5, "eth0"]
mode = "fast"
pin = "bpf/xlb"
on_exit = "kep"
secret_file = 1
"#,
        expect![[r#"
            error: invalid `interfaces` in [xdp]
             --> xlb.toml:3:23
              |
            3 | interfaces = ["eth0", "", "a/b", "interface-of-16b", 5, "eth0"]
              |                       ^^ no interface can have this name
              |
              = help: `ip link` lists the interfaces of this machine

            error: invalid `interfaces` in [xdp]
             --> xlb.toml:3:27
              |
            3 | interfaces = ["eth0", "", "a/b", "interface-of-16b", 5, "eth0"]
              |                           ^^^^^ no interface can have this name
              |
              = help: `ip link` lists the interfaces of this machine

            error: invalid `interfaces` in [xdp]
             --> xlb.toml:3:34
              |
            3 | interfaces = ["eth0", "", "a/b", "interface-of-16b", 5, "eth0"]
              |                                  ^^^^^^^^^^^^^^^^^^ 16 bytes, but Linux's names of interfaces have at most 15
              |
              = help: `ip link` lists the interfaces of this machine

            error: invalid `interfaces` in [xdp]
             --> xlb.toml:3:54
              |
            3 | interfaces = ["eth0", "", "a/b", "interface-of-16b", 5, "eth0"]
              |                                                      ^ expected the name of an interface, found the number 5
              |
              = help: write it in double quotes

            error: interface "eth0" is named twice
             --> xlb.toml:3:57
              |
            3 | interfaces = ["eth0", "", "a/b", "interface-of-16b", 5, "eth0"]
              |               ------ first here                         ^^^^^^ again here
              |
              = help: a program is attached to an interface once: remove one of them

            error: invalid `mode` in [xdp]
             --> xlb.toml:4:8
              |
            4 | mode = "fast"
              |        ^^^^^^ expected one of auto, native, generic, found the string "fast"
              |
              = help: write "auto" or "native" or "generic"

            error: invalid `pin` in [xdp]
             --> xlb.toml:5:7
              |
            5 | pin = "bpf/xlb"
              |       ^^^^^^^^^ expected an absolute path
              |
              = help: the daemon's working directory is not yours: begin with `/`

            error: invalid `on_exit` in [xdp]
             --> xlb.toml:6:11
              |
            6 | on_exit = "kep"
              |           ^^^^^ expected one of detach, keep, found the string "kep"
              |
              = help: did you mean "keep"?

            error: invalid `secret_file` in [xdp]
             --> xlb.toml:7:15
              |
            7 | secret_file = 1
              |               ^ expected an absolute path, found the number 1
              |
              = help: write it in double quotes

            error: xlb.toml: 9 problems"#]],
    );
}

#[test]
fn interfaces_must_be_a_list() {
    check(
        r#"
[xdp]
interfaces = "eth0"
"#,
        expect![[r#"
            error: invalid `interfaces` in [xdp]
             --> xlb.toml:3:14
              |
            3 | interfaces = "eth0"
              |              ^^^^^^ expected a list of names
              |
              = help: write a list, even of one: `interfaces = ["eth0"]`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn interfaces_must_not_be_empty() {
    check(
        r#"
[xdp]
interfaces = []
"#,
        expect![[r#"
            error: invalid `interfaces` in [xdp]
             --> xlb.toml:3:14
              |
            3 | interfaces = []
              |              ^^ an empty list
              |
              = help: name at least one; `ip link` lists the interfaces of this machine

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn api_and_limits_are_checked() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[api]
listen = "localhost:9400"
[limits]
slots = 4097
"#,
        expect![[r#"
            error: invalid `listen` in [api]
             --> xlb.toml:5:10
              |
            5 | listen = "localhost:9400"
              |          ^^^^^^^^^^^^^^^^ expected an address and port, found the string "localhost:9400"
              |
              = help: write it as "127.0.0.1:9400"

            error: invalid `slots` in [limits]
             --> xlb.toml:7:9
              |
            7 | slots = 4097
              |         ^^^^ not a multiple of 16
              |
              = help: the next that fits is 4112

            error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn slots_have_bounds() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[limits]
slots = 16
"#,
        expect![[r#"
            error: invalid `slots` in [limits]
             --> xlb.toml:5:9
              |
            5 | slots = 16
              |         ^^ expected a whole number from 4096 to 67108864, found the number 16
              |
              = help: write a whole number from 4096 to 67108864, without quotes

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn negative_and_huge_numbers_are_out_of_bounds() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = -1
[[service.backend]]
address = "10.0.1.1"
weight = 99999999999999999999999
"#,
        expect![[r#"
            error: invalid `port` in [[service]]
             --> xlb.toml:7:8
              |
            7 | port = -1
              |        ^^ expected a whole number from 0 to 65535, found the number -1
              |
              = help: write a whole number from 0 to 65535, without quotes

            error: invalid `weight` in [[service.backend]]
              --> xlb.toml:10:10
               |
            10 | weight = 99999999999999999999999
               |          ^^^^^^^^^^^^^^^^^^^^^^^ expected a whole number from 0 to 65535, found the number 99999999999999999999999
               |
               = help: write a whole number from 0 to 65535, without quotes

            error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn numbers_in_other_bases_are_shown_as_written() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 0x1_0000
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `port` in [[service]]
             --> xlb.toml:7:8
              |
            7 | port = 0x1_0000
              |        ^^^^^^^^ expected a whole number from 0 to 65535, found the number 0x10000
              |
              = help: write a whole number from 0 to 65535, without quotes

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_number_in_quotes_is_told_to_drop_them() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = "80"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `port` in [[service]]
             --> xlb.toml:7:8
              |
            7 | port = "80"
              |        ^^^^ expected a whole number, found the string "80"
              |
              = help: write a whole number from 0 to 65535, without quotes

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_fraction_is_not_a_port() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80.5
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `port` in [[service]]
             --> xlb.toml:7:8
              |
            7 | port = 80.5
              |        ^^^^ expected a whole number, found the number 80.5
              |
              = help: write a whole number from 0 to 65535, without quotes

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_segment_size_is_for_tcp_and_within_bounds() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
mss = 100
[[service.backend]]
address = "10.0.1.1"
[[service]]
name = "dns"
vip = "192.0.2.1"
port = 53
protocol = "udp"
mss = 1360
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `mss` in [[service]]
             --> xlb.toml:8:7
              |
            8 | mss = 100
              |       ^^^ expected a whole number from 536 to 65495, found the number 100
              |
              = help: write a whole number from 536 to 65495, without quotes

            error: a segment size where there are no segments
              --> xlb.toml:16:7
               |
            16 | mss = 1360
               |       ^^^^ only tcp has it
               |
               = help: remove `mss`, or use `protocol = "tcp"`

            error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn who_sees_clients_needs_no_option_that_names_them() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
forward = "nat"
toa = true
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: a TCP option that nobody needs
             --> xlb.toml:9:7
              |
            9 | toa = true
              |       ^^^^ only fullnat hides clients from backends
              |
              = help: remove `toa`, or use `protocol = "tcp"` and `forward = "fullnat"`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn words_outside_a_choice_are_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
protocol = "sctp"
algorithm = "maglv"
forward = true
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `protocol` in [[service]]
             --> xlb.toml:8:12
              |
            8 | protocol = "sctp"
              |            ^^^^^^ expected one of tcp, udp, found the string "sctp"
              |
              = help: did you mean "tcp"?

            error: invalid `algorithm` in [[service]]
             --> xlb.toml:9:13
              |
            9 | algorithm = "maglv"
              |             ^^^^^^^ expected one of maglev, ip-hash, round-robin, weighted-round-robin, random, least-connections, least-response-time, found the string "maglv"
              |
              = help: did you mean "maglev"?

            error: invalid `forward` in [[service]]
              --> xlb.toml:10:11
               |
            10 | forward = true
               |           ^^^^ expected one of dsr, nat, fullnat, ipip, gue, found true
               |
               = help: write "dsr" or "nat" or "fullnat" or "ipip" or "gue"

            error: xlb.toml: 3 problems"#]],
    );
}

#[test]
fn names_have_a_charset() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "my web"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `name` in [[service]]
             --> xlb.toml:5:8
              |
            5 | name = "my web"
              |        ^^^^^^^^ ' ' cannot stand in a service's name
              |
              = help: use 1 to 63 letters, digits, `-`, `_` and `.`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn names_are_not_empty() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = ""
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `name` in [[service]]
             --> xlb.toml:5:8
              |
            5 | name = ""
              |        ^^ 0 characters
              |
              = help: use 1 to 63 letters, digits, `-`, `_` and `.`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn names_have_a_length() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `name` in [[service]]
             --> xlb.toml:5:8
              |
            5 | name = "nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn"
              |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ 64 characters
              |
              = help: use 1 to 63 letters, digits, `-`, `_` and `.`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_vip_is_an_address() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "www.example.org"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "www.example.org"
              |       ^^^^^^^^^^^^^^^^^ expected an IPv4 or IPv6 address, found the string "www.example.org"
              |
              = help: names are not resolved here: write the address; only backends can have names, by [service.dns]

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn what_is_wrong_with_an_address_is_told_by_what_it_looks_like() {
    for (address, help) in [
        ("192.0.2.300", "write four numbers from 0 to 255"),
        ("192.0.2", "write four numbers from 0 to 255"),
        ("192.0.2.1:80", "leave out the port here"),
        ("[2001:db8::1]:80", "leave out the port here"),
        ("2001:db8:::1", "eight groups of hexadecimal digits"),
        ("192.0.2.1/32", "leave out the prefix length"),
        ("web.internal", "names are not resolved here"),
        ("", "names are not resolved here"),
    ] {
        let text = format!("[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"{address}\"\nport = 80\n");
        let error = crate::config::parse("xlb.toml", &text).unwrap_err().to_string();
        assert!(error.contains(help), "{address}: {error}");
    }
}

#[test]
fn a_vip_has_no_prefix_length() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1/32"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "192.0.2.1/32"
              |       ^^^^^^^^^^^^^^ expected an IPv4 or IPv6 address, found the string "192.0.2.1/32"
              |
              = help: leave out the prefix length

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn an_unspecified_vip_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "0.0.0.0"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "0.0.0.0"
              |       ^^^^^^^^^ this is the unspecified address
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_multicast_vip_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "224.0.0.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "224.0.0.1"
              |       ^^^^^^^^^^^ this is a multicast address
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_loopback_vip_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "127.0.0.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "127.0.0.1"
              |       ^^^^^^^^^^^ this is a loopback address: it never leaves a machine
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_broadcast_vip_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "255.255.255.255"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "255.255.255.255"
              |       ^^^^^^^^^^^^^^^^^ this is the broadcast address
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn an_unspecified_ipv6_vip_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "::"
port = 80
[[service.backend]]
address = "2001:db8::1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "::"
              |       ^^^^ this is the unspecified address
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_multicast_ipv6_vip_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "ff02::1"
port = 80
[[service.backend]]
address = "2001:db8::1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "ff02::1"
              |       ^^^^^^^^^ this is a multicast address
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_loopback_ipv6_vip_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "::1"
port = 80
[[service.backend]]
address = "2001:db8::1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "::1"
              |       ^^^^^ this is a loopback address: it never leaves a machine
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_link_local_vip_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "fe80::1"
port = 80
[[service.backend]]
address = "2001:db8::1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "fe80::1"
              |       ^^^^^^^^^ this is a link-local address: it means nothing without an interface
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_mapped_ipv4_vip_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "::ffff:192.0.2.1"
port = 80
[[service.backend]]
address = "2001:db8::1"
"#,
        expect![[r#"
            error: invalid `vip` in [[service]]
             --> xlb.toml:6:7
              |
            6 | vip = "::ffff:192.0.2.1"
              |       ^^^^^^^^^^^^^^^^^^ this is an IPv4 address mapped into IPv6: write it as IPv4
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_loopback_backend_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "127.0.0.1"
"#,
        expect![[r#"
            error: invalid `address` in [[service.backend]]
             --> xlb.toml:9:11
              |
            9 | address = "127.0.0.1"
              |           ^^^^^^^^^^^ this is a loopback address: it never leaves a machine
              |
              = help: use a unicast address that routers and hosts can reach

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_backend_of_the_other_family_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "2001:db8::1"
"#,
        expect![[r#"
            error: an IPv6 backend of an IPv4 service
             --> xlb.toml:9:11
              |
            6 | vip = "192.0.2.1"
              |       ----------- the VIP's family
            ...
            9 | address = "2001:db8::1"
              |           ^^^^^^^^^^^^^ this is IPv6
              |
              = help: packets keep their family: name the backend's IPv4 address, or use `forward = "ipip"`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn the_vip_is_no_backend() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "192.0.2.1"
"#,
        expect![[r#"
            error: a backend at the VIP itself
             --> xlb.toml:9:11
              |
            6 | vip = "192.0.2.1"
              |       ----------- the VIP
            ...
            9 | address = "192.0.2.1"
              |           ^^^^^^^^^^^ packets would come back to xlb
              |
              = help: name the backend's own address

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn dsr_keeps_the_port() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
port = 8080
"#,
        expect![[r#"
            error: the backend serves on the service's own port
              --> xlb.toml:10:8
               |
             7 | port = 80
               |        -- the service's port
            ...
            10 | port = 8080
               |        ^^^^ not port 8080
               |
               = help: only nat and fullnat change packets: remove `port` here, or use `forward = "nat"`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn dsr_keeps_the_port_of_discovered_backends_too() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.dns]
name = "a.b"
port = 8080
"#,
        expect![[r#"
            error: the backend serves on the service's own port
              --> xlb.toml:10:8
               |
             7 | port = 80
               |        -- the service's port
            ...
            10 | port = 8080
               |        ^^^^ not port 8080
               |
               = help: only nat and fullnat change packets: remove `port` here, or use `forward = "nat"`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_nat_service_of_every_port_has_no_backend_port() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 0
forward = "nat"
protocol = "udp"
[[service.backend]]
address = "10.0.1.1"
port = 8080
"#,
        expect![[r#"
            error: a service of every port cannot have a backend port
              --> xlb.toml:12:8
               |
             7 | port = 0
               |        - the service takes every port
            ...
            12 | port = 8080
               |        ^^^^ not port 8080
               |
               = help: packets keep the port they came for: remove `port` here, or give the service one

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_backend_port_is_not_0() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
forward = "nat"
[[service.backend]]
address = "10.0.1.1"
port = 0
"#,
        expect![[r#"
            error: invalid `port` in [[service.backend]]
              --> xlb.toml:11:8
               |
            11 | port = 0
               |        ^ expected a whole number from 1 to 65535, found the number 0
               |
               = help: write a whole number from 1 to 65535, without quotes

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn the_default_check_of_a_service_of_every_port_lacks_a_port() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 0
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: a service of every port has no port to check
             --> xlb.toml:4:1
              |
            4 | [[service]]
              | ^^^^^^^^^^^ this check needs a `port`
              |
              = help: in `[service.health]`, name the port to probe: `port = 80`; or do without: `type = "none"`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_check_of_a_service_of_every_port_needs_a_port() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 0
[service.health]
type = "http"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: a service of every port has no port to check
             --> xlb.toml:8:1
              |
            8 | [service.health]
              | ^^^^^^^^^^^^^^^^ this check needs a `port`
              |
              = help: in `[service.health]`, name the port to probe: `port = 80`; or do without: `type = "none"`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_service_needs_backends_or_a_name() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
"#,
        expect![[r#"
            error: a service without backends
             --> xlb.toml:4:1
              |
            4 | [[service]]
              | ^^^^^^^^^^^ nobody serves this
              |
              = help: add `[[service.backend]]` with `address = "..."`, `[service.dns]` with `name = "..."`, `[service.file]` with `path = "..."`, or `[service.docker]`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn two_services_cannot_share_a_name() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
[[service]]
name = "web"
vip = "192.0.2.2"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: two services are named "web"
              --> xlb.toml:11:8
               |
             5 | name = "web"
               |        ----- first here
            ...
            11 | name = "web"
               |        ^^^^^ again here
               |
               = help: metrics and logs tell services apart by name: rename one of them

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn two_services_cannot_share_a_vip_port_and_protocol() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
[[service]]
name = "b"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: two services take tcp to 192.0.2.1, port 80
              --> xlb.toml:12:7
               |
             6 | vip = "192.0.2.1"
               |       ----------- first here
            ...
            12 | vip = "192.0.2.1"
               |       ^^^^^^^^^^^ again here
               |
               = help: a packet belongs to one service: merge their backends, or change a VIP, port or protocol

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn two_services_cannot_share_every_port_of_a_vip() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 0
protocol = "udp"
[[service.backend]]
address = "10.0.1.1"
[[service]]
name = "b"
vip = "192.0.2.1"
port = 0
protocol = "udp"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: two services take udp to 192.0.2.1, every port
              --> xlb.toml:13:7
               |
             6 | vip = "192.0.2.1"
               |       ----------- first here
            ...
            13 | vip = "192.0.2.1"
               |       ^^^^^^^^^^^ again here
               |
               = help: a packet belongs to one service: merge their backends, or change a VIP, port or protocol

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_backend_stands_once_in_a_service() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[[service.backend]]
address = "10.0.1.1"
[[service.backend]]
address = "10.0.1.1"
port = 80
"#,
        expect![[r#"
            error: backend 10.0.1.1:80 is named twice
              --> xlb.toml:11:11
               |
             9 | address = "10.0.1.1"
               |           ---------- first here
            10 | [[service.backend]]
            11 | address = "10.0.1.1"
               |           ^^^^^^^^^^ again here
               |
               = help: to give it more traffic, raise its `weight`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn two_nat_services_cannot_share_a_backend() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
forward = "nat"
[[service.backend]]
address = "10.0.1.1"
[[service]]
name = "b"
vip = "192.0.2.2"
port = 80
forward = "nat"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: two nat services have the backend 10.0.1.1:80 (tcp)
              --> xlb.toml:17:11
               |
            10 | address = "10.0.1.1"
               |           ---------- first here
            ...
            17 | address = "10.0.1.1"
               |           ^^^^^^^^^^ again here
               |
               = help: its replies could not be told apart: let it serve each on a port of its own, or use `forward = "dsr"` for one of the services

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_nat_service_of_every_port_shares_no_host_with_another() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
forward = "nat"
[[service.backend]]
address = "10.0.1.1"
[[service]]
name = "b"
vip = "192.0.2.2"
port = 0
forward = "nat"
health = { type = "none" }
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: two nat services have the backend 10.0.1.1, every port (tcp)
              --> xlb.toml:18:11
               |
            10 | address = "10.0.1.1"
               |           ---------- first here
            ...
            18 | address = "10.0.1.1"
               |           ^^^^^^^^^^ again here
               |
               = help: its replies could not be told apart: let it serve each on a port of its own, or use `forward = "dsr"` for one of the services

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_check_of_another_type_is_refused() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
type = "htp"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `type` in [service.health]
             --> xlb.toml:9:8
              |
            9 | type = "htp"
              |        ^^^^^ expected one of http, https, grpc, redis, postgres, script, agent, tcp, udp, dns, icmp, none, found the string "htp"
              |
              = help: did you mean "http"?

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn check_numbers_have_bounds() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
port = 0
rise = 0
fall = 0
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `port` in [service.health]
             --> xlb.toml:9:8
              |
            9 | port = 0
              |        ^ expected a whole number from 1 to 65535, found the number 0
              |
              = help: write a whole number from 1 to 65535, without quotes

            error: invalid `rise` in [service.health]
              --> xlb.toml:10:8
               |
            10 | rise = 0
               |        ^ expected a whole number from 1 to 1000, found the number 0
               |
               = help: write a whole number from 1 to 1000, without quotes

            error: invalid `fall` in [service.health]
              --> xlb.toml:11:8
               |
            11 | fall = 0
               |        ^ expected a whole number from 1 to 1000, found the number 0
               |
               = help: write a whole number from 1 to 1000, without quotes

            error: xlb.toml: 3 problems"#]],
    );
}

#[test]
fn durations_have_units() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
interval = 5
timeout = "5"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `interval` in [service.health]
             --> xlb.toml:9:12
              |
            9 | interval = 5
              |            ^ expected a duration with its unit, found the number 5
              |
              = help: a bare number has no unit: write "5s" for seconds, or "5ms"

            error: invalid `timeout` in [service.health]
              --> xlb.toml:10:11
               |
            10 | timeout = "5"
               |           ^^^ expected a duration with its unit: time unit needed, for example 5sec or 5ms
               |
               = help: write a number and a unit in quotes, such as "500ms", "2s" or "1m 30s"

            error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn durations_are_strings() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
interval = true
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `interval` in [service.health]
             --> xlb.toml:9:12
              |
            9 | interval = true
              |            ^^^^ expected a duration with its unit, found true
              |
              = help: write a number and a unit in quotes, such as "500ms", "2s" or "1m 30s"

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn durations_are_not_zero() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
interval = "0s"
timeout = "0ms"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `interval` in [service.health]
             --> xlb.toml:9:12
              |
            9 | interval = "0s"
              |            ^^^^ out of bounds
              |
              = help: write a duration from "10ms" to "1day"

            error: invalid `timeout` in [service.health]
              --> xlb.toml:10:11
               |
            10 | timeout = "0ms"
               |           ^^^^^ out of bounds
               |
               = help: write a duration from "2ms" to "1day"

            error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn durations_are_bounded() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
interval = "2years"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `interval` in [service.health]
             --> xlb.toml:9:12
              |
            9 | interval = "2years"
              |            ^^^^^^^^ out of bounds
              |
              = help: write a duration from "10ms" to "1day"

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_timeout_fits_into_its_interval() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
interval = "50ms"
timeout = "100ms"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: a health check's timeout of 100ms is longer than its interval of 50ms
              --> xlb.toml:10:11
               |
             9 | interval = "50ms"
               |            ------ the interval
            10 | timeout = "100ms"
               |           ^^^^^^^ longer than the interval
               |
               = help: a probe must end before the next begins: write a timeout of at most "50ms"

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn the_default_interval_bounds_a_timeout_too() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
timeout = "2s"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: a health check's timeout of 2s is longer than its interval of 1s
             --> xlb.toml:9:11
              |
            8 | [service.health]
              | ---------------- the interval, by default, is 1s
            9 | timeout = "2s"
              |           ^^^^ longer than the interval
              |
              = help: a probe must end before the next begins: write a timeout of at most "1s"

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_tcp_check_has_no_path() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
type = "tcp"
path = "/"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: a check of type tcp has no `path`
              --> xlb.toml:10:1
               |
             9 | type = "tcp"
               |        ----- the type
            10 | path = "/"
               | ^^^^ means nothing to tcp
               |
               = help: write `type = "http"` or `type = "https"`, or remove `path`

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn http_values_are_checked() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
type = "http"
path = "health"
host = "a b"
expect = "ok"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `path` in [service.health]
              --> xlb.toml:10:8
               |
            10 | path = "health"
               |        ^^^^^^^^ an HTTP path begins with `/`
               |
               = help: write "/health"

            error: invalid `host` in [service.health]
              --> xlb.toml:11:8
               |
            11 | host = "a b"
               |        ^^^^^ no host has this name
               |
               = help: write it as "www.example.org"

            error: invalid `expect` in [service.health]
              --> xlb.toml:12:10
               |
            12 | expect = "ok"
               |          ^^^^ expected HTTP statuses from 200 to 599
               |
               = help: write 200, or a range such as "200-399"

            error: xlb.toml: 3 problems"#]],
    );
}

#[test]
fn an_http_path_has_no_spaces() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
type = "http"
path = "/a b"
expect = 99
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `path` in [service.health]
              --> xlb.toml:10:8
               |
            10 | path = "/a b"
               |        ^^^^^^ not a path that can be asked for
               |
               = help: percent-encode spaces and the like

            error: invalid `expect` in [service.health]
              --> xlb.toml:11:10
               |
            11 | expect = 99
               |          ^^ expected HTTP statuses from 200 to 599
               |
               = help: write 200, or a range such as "200-399"

            error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn a_range_of_statuses_is_in_order() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.health]
type = "http"
expect = "399-200"
[[service.backend]]
address = "10.0.1.1"
"#,
        expect![[r#"
            error: invalid `expect` in [service.health]
              --> xlb.toml:10:10
               |
            10 | expect = "399-200"
               |          ^^^^^^^^^ expected HTTP statuses from 200 to 599
               |
               = help: write 200, or a range such as "200-399"

            error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn dns_values_are_checked() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.dns]
name = "a..b"
port = 0
resolver = "ns.example.org"
interval = "500ms"
weight = 65536
"#,
        expect![[r#"
            error: invalid `name` in [service.dns]
             --> xlb.toml:9:8
              |
            9 | name = "a..b"
              |        ^^^^^^ not a DNS name
              |
              = help: labels of 1 to 63 letters, digits, `-` and `_`, with dots between, such as "api.internal"

            error: invalid `port` in [service.dns]
              --> xlb.toml:10:8
               |
            10 | port = 0
               |        ^ expected a whole number from 1 to 65535, found the number 0
               |
               = help: write a whole number from 1 to 65535, without quotes

            error: invalid `resolver` in [service.dns]
              --> xlb.toml:11:12
               |
            11 | resolver = "ns.example.org"
               |            ^^^^^^^^^^^^^^^^ expected an address, with or without a port, found the string "ns.example.org"
               |
               = help: write it as "10.0.0.53:53"

            error: invalid `interval` in [service.dns]
              --> xlb.toml:12:12
               |
            12 | interval = "500ms"
               |            ^^^^^^^ out of bounds
               |
               = help: write a duration from "1s" to "1day"

            error: invalid `weight` in [service.dns]
              --> xlb.toml:13:10
               |
            13 | weight = 65536
               |          ^^^^^ expected a whole number from 0 to 65535, found the number 65536
               |
               = help: write a whole number from 0 to 65535, without quotes

            error: xlb.toml: 5 problems"#]],
    );
}

#[test]
fn a_dns_name_is_no_address() {
    check(
        r#"
[xdp]
interfaces = ["eth0"]
[[service]]
name = "web"
vip = "192.0.2.1"
port = 80
[service.dns]
name = "10.0.1.1"
resolver = "0.0.0.0"
"#,
        expect![[r#"
            error: invalid `name` in [service.dns]
             --> xlb.toml:9:8
              |
            9 | name = "10.0.1.1"
              |        ^^^^^^^^^^ this is an address, not a name
              |
              = help: write addresses as [[service.backend]]

            error: invalid `resolver` in [service.dns]
              --> xlb.toml:10:12
               |
            10 | resolver = "0.0.0.0"
               |            ^^^^^^^^^ no server can be asked here
               |
               = help: write it as "10.0.0.53:53"

            error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = super::super::load(std::path::Path::new("no/such/file.toml")).unwrap_err();
    expect![[r#"
        error: no/such/file.toml: cannot be read: No such file or directory (os error 2)
          = help: name a file that this user may read, in UTF-8"#]]
    .assert_eq(&error.to_string());
}

#[test]
fn of_very_many_problems_the_first_are_shown() {
    let mut input = String::from("[xdp]\ninterfaces = [\"eth0\"]\n");
    (0..100).for_each(|n| writeln!(input, "unknown{n} = 1").unwrap());
    let error = parse("xlb.toml", &input).unwrap_err().to_string();
    assert_eq!(error.matches("error: unknown key").count(), 30);
    expect!["error: xlb.toml: 100 problems, the first 30 shown"].assert_eq(error.lines().last().unwrap());
}

#[test]
fn an_srv_record_says_port_and_weight_itself() {
    check(
        "[xdp]
interfaces = [\"eth0\"]
[[service]]
name = \"web\"
vip = \"192.0.2.1\"
port = 80
forward = \"nat\"
[service.dns]
name = \"_http._tcp.internal\"
type = \"SRV\"
port = 8080
weight = 2
min_hosts = 0
stale = 60
",
        expect![[r#"
            error: `port` beside `type = "SRV"`
              --> xlb.toml:11:1
               |
            11 | port = 8080
               | ^^^^ each SRV record says its own
               |
               = help: remove `port`, or use `type = "address"`

            error: `weight` beside `type = "SRV"`
              --> xlb.toml:12:1
               |
            12 | weight = 2
               | ^^^^^^ each SRV record says its own
               |
               = help: remove `weight`, or use `type = "address"`

            error: invalid `min_hosts` in [service.dns]
              --> xlb.toml:13:13
               |
            13 | min_hosts = 0
               |             ^ expected a whole number from 1 to 1024, found the number 0
               |
               = help: write a whole number from 1 to 1024, without quotes

            error: invalid `stale` in [service.dns]
              --> xlb.toml:14:9
               |
            14 | stale = 60
               |         ^^ expected a duration with its unit, found the number 60
               |
               = help: a bare number has no unit: write "60s" for seconds, or "60ms"

            error: xlb.toml: 4 problems"#]],
    );
}

#[test]
fn files_are_checked() {
    check(
        "[xdp]
interfaces = [\"eth0\"]
[[service]]
name = \"web\"
vip = \"192.0.2.1\"
port = 80
[service.file]
path = \"/etc/xlb/backends.yaml\"
port = 8080
interval = \"10ms\"
[[service]]
name = \"db\"
vip = \"192.0.2.2\"
port = 80
[service.file]
file = \"backends.json\"
[[service]]
name = \"mail\"
vip = \"192.0.2.3\"
port = 25
file.path = \"backends.json\"
",
        expect![[r#"
            error: invalid `path` in [service.file]
             --> xlb.toml:8:8
              |
            8 | path = "/etc/xlb/backends.yaml"
              |        ^^^^^^^^^^^^^^^^^^^^^^^^ expected a name that ends in .json or .toml
              |
              = help: the ending says how the file is read

            error: the backend serves on the service's own port
             --> xlb.toml:9:8
              |
            6 | port = 80
              |        -- the service's port
            ...
            9 | port = 8080
              |        ^^^^ not port 8080
              |
              = help: only nat and fullnat change packets: remove `port` here, or use `forward = "nat"`

            error: invalid `interval` in [service.file]
              --> xlb.toml:10:12
               |
            10 | interval = "10ms"
               |            ^^^^^^ out of bounds
               |
               = help: write a duration from "1s" to "1day"

            error: missing `path` in [service.file]
              --> xlb.toml:15:1
               |
            15 | [service.file]
               | ^^^^^^^^^^^^^^
               |
               = help: the file that names the backends: `path = "/etc/xlb/backends.json"`

            error: unknown key `file` in [service.file]
              --> xlb.toml:16:1
               |
            16 | file = "backends.json"
               | ^^^^ not a key that xlb knows
               |
               = help: known here are priority, zone, path, port, weight, interval, stale, min_hosts

            error: invalid `path` in [service.file]
              --> xlb.toml:21:13
               |
            21 | file.path = "backends.json"
               |             ^^^^^^^^^^^^^^^ expected an absolute path
               |
               = help: the daemon's working directory is not yours: begin with `/`

            error: xlb.toml: 6 problems"#]],
    );
}

#[test]
fn docker_is_checked() {
    check(
        "[xdp]
interfaces = [\"eth0\"]
[[service]]
name = \"web\"
vip = \"192.0.2.1\"
port = 80
[service.docker]
socket = \"tcp://10.0.0.1:2375\"
labels = []
network = \"\"
min_hosts = 2000
label = \"web\"
[[service]]
name = \"db\"
vip = \"192.0.2.2\"
port = 80
docker.labels = [\"=x\"]
[[service]]
name = \"mail\"
vip = \"192.0.2.3\"
port = 25
docker.labels = \"web\"
",
        expect![[r#"
            error: invalid `socket` in [service.docker]
             --> xlb.toml:8:10
              |
            8 | socket = "tcp://10.0.0.1:2375"
              |          ^^^^^^^^^^^^^^^^^^^^^ expected an absolute path
              |
              = help: only a Unix socket can be asked: write "unix:///var/run/docker.sock"

            error: invalid `labels` in [service.docker]
             --> xlb.toml:9:10
              |
            9 | labels = []
              |          ^^ without a label every container would be a backend
              |
              = help: write `labels = ["com.example.role=web"]`: a container must have all of them

            error: invalid `network` in [service.docker]
              --> xlb.toml:10:11
               |
            10 | network = ""
               |           ^^ an empty name
               |
               = help: `docker network ls` lists the networks

            error: invalid `min_hosts` in [service.docker]
              --> xlb.toml:11:13
               |
            11 | min_hosts = 2000
               |             ^^^^ expected a whole number from 0 to 1024, found the number 2000
               |
               = help: write a whole number from 0 to 1024, without quotes

            error: unknown key `label` in [service.docker]
              --> xlb.toml:12:1
               |
            12 | label = "web"
               | ^^^^^ did you mean `labels`?
               |
               = help: known here are priority, zone, socket, labels, network, port, weight, interval, stale, min_hosts

            error: invalid `labels` in [service.docker]
              --> xlb.toml:17:17
               |
            17 | docker.labels = ["=x"]
               |                 ^^^^^^ a label has a key
               |
               = help: write `labels = ["com.example.role=web"]`: a container must have all of them

            error: invalid `labels` in [service.docker]
              --> xlb.toml:22:17
               |
            22 | docker.labels = "web"
               |                 ^^^^^ expected a list of labels
               |
               = help: write `labels = ["com.example.role=web"]`: a container must have all of them

            error: xlb.toml: 7 problems"#]],
    );
}

#[test]
fn what_only_hashes_have_is_refused_elsewhere_and_out_of_bounds() {
    let service = |keys: &str| {
        format!(
            "[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 80\n{keys}\n[[service.backend]]\naddress = \"10.0.1.1\"\n"
        )
    };
    check(
        &service("algorithm = \"random\"\nmax_load = 1.5"),
        expect![[r#"
            error: a bound for a hash that is not used
             --> xlb.toml:8:12
              |
            8 | max_load = 1.5
              |            ^^^ only maglev and ip-hash have it
              |
              = help: remove `max_load`, or use `algorithm = "maglev"` or "ip-hash"

            error: xlb.toml: 1 problem"#]],
    );
    check(
        &service("client_prefix = 24\nmax_load = 0.5"),
        expect![[r#"
            error: invalid `max_load` in [[service]]
             --> xlb.toml:8:12
              |
            8 | max_load = 0.5
              |            ^^^ expected a number from 1 to 100, found the number 0.5
              |
              = help: write a number from 1 to 100, without quotes, with two decimals at most

            error: xlb.toml: 1 problem"#]],
    );
    check(
        &service("algorithm = \"ip-hash\"\nclient_prefix = 64\nmax_load = \"2\""),
        expect![[r#"
        error: invalid `client_prefix` in [[service]]
         --> xlb.toml:8:17
          |
        8 | client_prefix = 64
          |                 ^^ expected a whole number from 1 to 32, found the number 64
          |
          = help: write a whole number from 1 to 32, without quotes

        error: invalid `max_load` in [[service]]
         --> xlb.toml:9:12
          |
        9 | max_load = "2"
          |            ^^^ expected a number, found the string "2"
          |
          = help: write a number from 1 to 100, without quotes, with two decimals at most

        error: xlb.toml: 2 problems"#]],
    );
    check(
        &service("client_prefix = 24"),
        expect![[r#"
        error: part of an address that nothing goes by
         --> xlb.toml:7:17
          |
        7 | client_prefix = 24
          |                 ^^ only ip-hash has it
          |
          = help: remove `client_prefix`, or use `algorithm = "ip-hash"`

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn tls_takes_a_certificate_and_its_key() {
    check(
        "[xdp]\ninterfaces = [\"eth0\"]\n[api]\ntls_certificate = \"/etc/xlb/api.pem\"\n",
        expect![[r#"
        error: `tls_certificate` without `tls_key`
         --> xlb.toml:4:19
          |
        4 | tls_certificate = "/etc/xlb/api.pem"
          |                   ^^^^^^^^^^^^^^^^^^ TLS takes both
          |
          = help: add `tls_key = "/etc/xlb/..."`, or remove `tls_certificate` to speak plain HTTP

        error: xlb.toml: 1 problem"#]],
    );
    check(
        "[xdp]\ninterfaces = [\"eth0\"]\n[api]\ntls_key = \"api.key\"\n",
        expect![[r#"
        error: invalid `tls_key` in [api]
         --> xlb.toml:4:11
          |
        4 | tls_key = "api.key"
          |           ^^^^^^^^^ expected an absolute path
          |
          = help: the daemon's working directory is not yours: begin with `/`

        error: xlb.toml: 1 problem"#]],
    );
    check(
        "[xdp]\ninterfaces = [\"eth0\"]\n[api]\ntls_key = \"/etc/xlb/api.key\"\n",
        expect![[r#"
        error: `tls_key` without `tls_certificate`
         --> xlb.toml:4:11
          |
        4 | tls_key = "/etc/xlb/api.key"
          |           ^^^^^^^^^^^^^^^^^^ TLS takes both
          |
          = help: add `tls_certificate = "/etc/xlb/..."`, or remove `tls_key` to speak plain HTTP

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_watchdog_that_does_nothing_is_none() {
    let with = |section: &str| {
        format!(
            "[xdp]\ninterfaces = [\"eth0\"]\n[watchdog]\n{section}\n[[service]]\nname = \"s\"\nvip = \"192.0.2.1\"\nport = 80\n\
             backend = [{{ address = \"10.0.1.1\" }}]\n"
        )
    };
    let watchdog = |section: &str| parse("xlb.toml", &with(section)).unwrap_or_else(|error| panic!("{error}")).watchdog;
    let (minute, drop) = (std::time::Duration::from_secs(60), Absence::Drop);
    assert_eq!(watchdog("action = \"drop\""), Some(Watchdog { after: minute, absence: drop }));
    assert_eq!((watchdog("action = \"keep\""), watchdog("")), (None, None));
    check(
        &with("after = \"30s\""),
        expect![[r#"
        error: a watchdog that does nothing
         --> xlb.toml:4:9
          |
        4 | after = "30s"
          |         ^^^^^ after this time all goes on as before
          |
          = help: say what is to happen: `action = "pass"` or `action = "drop"`; or remove `after`

        error: xlb.toml: 1 problem"#]],
    );
    check(
        &with("after = \"1s\"\naction = \"explode\""),
        expect![[r#"
        error: invalid `after` in [watchdog]
         --> xlb.toml:4:9
          |
        4 | after = "1s"
          |         ^^^^ out of bounds
          |
          = help: write a duration from "10s" to "1day"

        error: invalid `action` in [watchdog]
         --> xlb.toml:5:10
          |
        5 | action = "explode"
          |          ^^^^^^^^^ expected one of keep, pass, drop, found the string "explode"
          |
          = help: write "keep" or "pass" or "drop"

        error: xlb.toml: 2 problems"#]],
    );
}
