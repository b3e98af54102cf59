//! `[service.health]`: what its keys mean, and each error once.

use std::fmt::Write as _;
use std::time::Duration;

use expect_test::{Expect, expect};

use super::super::parse;
use crate::health::steer::Way;
use crate::health::{
    Check, Checks, Degraded, DnsAnswer, Grpc, Login, Mode, Path, Postgres, Probe, Redis, Role, Script, Trust, Udp, breaker,
    flapping, suspicion,
};

fn file(protocol: &str, lines: &str) -> String {
    let mut text = format!(
        "[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"s\"\nvip = \"192.0.2.1\"\nport = 80\nprotocol = \"{protocol}\"\n"
    );
    write!(text, "backend = [{{ address = \"10.0.1.1\" }}]\n[service.health]\n{lines}").unwrap();
    text
}

/// What these lines under `[service.health]` say.
#[track_caller]
fn accepted(lines: &str) -> Check {
    parse("xlb.toml", &file("tcp", lines)).unwrap_or_else(|error| panic!("{error}")).services.remove(0).health.list.remove(0)
}

/// What an operator is told about these lines under `[service.health]`: line 10 is the first.
#[track_caller]
fn refused(lines: &str, expected: Expect) {
    super::errors::check(&file("tcp", lines), expected);
}

#[test]
fn a_datagram_is_text_or_hex() {
    for (lines, payload, expect) in [
        ("payload = \"ping\"", b"ping".as_slice(), None),
        ("payload = \"\"\nexpect = \"pong\"", b"", Some(b"pong".to_vec())),
        ("payload_hex = \"00 fF0a\"\nexpect_hex = \"01\"", b"\x00\xff\x0a", Some(b"\x01".to_vec())),
    ] {
        let probe = accepted(&format!("type = \"udp\"\n{lines}")).probe;
        assert_eq!(probe, Probe::Udp(Udp { payload: payload.to_vec(), expect }));
    }
}

#[test]
fn a_datagram_is_required_and_given_once() {
    refused(
        "type = \"udp\"",
        expect![[r#"
        error: missing `payload` in [service.health]
         --> xlb.toml:9:1
          |
        9 | [service.health]
          | ^^^^^^^^^^^^^^^^
          |
          = help: say what to send: `payload = "ping"`, or `payload_hex = "00 ff"`; whatever the service answers

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"udp\"\npayload = \"ping\"\npayload_hex = \"00\"\nexpect = \"a\"\nexpect_hex = \"61\"",
        expect![[r#"
        error: `payload` and `payload_hex` say the same thing twice
          --> xlb.toml:12:15
           |
        11 | payload = "ping"
           |           ------ first here
        12 | payload_hex = "00"
           |               ^^^^ again here
           |
           = help: remove `payload`, or `payload_hex`

        error: `expect` and `expect_hex` say the same thing twice
          --> xlb.toml:14:14
           |
        13 | expect = "a"
           |          --- first here
        14 | expect_hex = "61"
           |              ^^^^ again here
           |
           = help: remove `expect`, or `expect_hex`

        error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn bytes_are_checked() {
    refused(
        "type = \"udp\"\npayload_hex = \"0g\"\nexpect_hex = \"123\"",
        expect![[r#"
        error: invalid `payload_hex` in [service.health]
          --> xlb.toml:11:15
           |
        11 | payload_hex = "0g"
           |               ^^^^ "0g" is not hexadecimal
           |
           = help: write two digits a byte, with or without spaces between bytes, such as "00 ff"

        error: invalid `expect_hex` in [service.health]
          --> xlb.toml:12:14
           |
        12 | expect_hex = "123"
           |              ^^^^^ "123" has half a byte
           |
           = help: write two digits a byte, with or without spaces between bytes, such as "00 ff"

        error: xlb.toml: 2 problems"#]],
    );
    let long = format!("type = \"udp\"\npayload = \"{}\"\n", "x".repeat(1201));
    let error = parse("xlb.toml", &file("udp", &long)).unwrap_err().to_string();
    assert!(error.contains("1201 bytes, but a check sends and looks for at most 1200"), "{error}");
}

#[test]
fn a_dns_query_goes_over_what_the_service_speaks() {
    for protocol in ["tcp", "udp"] {
        let config = parse("xlb.toml", &file(protocol, "type = \"dns\"\nquery = \"example.org\"")).unwrap();
        let Probe::Dns(dns) = &config.services[0].health.list[0].probe else { panic!("not dns") };
        assert_eq!((dns.over.to_string().as_str(), dns.name.to_string().as_str()), (protocol, "example.org."));
        assert_eq!((dns.record.to_string().as_str(), dns.expect), ("A", DnsAnswer::Records));
    }
    let Probe::Dns(root) = accepted("type = \"dns\"\nquery = \".\"\nrecord = \"NS\"\nexpect = \"noerror\"").probe else {
        panic!("not dns")
    };
    assert_eq!((root.name.to_string().as_str(), root.expect), (".", DnsAnswer::NoError));
}

#[test]
fn dns_checks_are_checked() {
    refused(
        "type = \"dns\"",
        expect![[r#"
        error: missing `query` in [service.health]
         --> xlb.toml:9:1
          |
        9 | [service.health]
          | ^^^^^^^^^^^^^^^^
          |
          = help: name what the server must know: `query = "www.example.org"`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"dns\"\nquery = \"10.0.1.1\"\nrecord = \"a\"\nexpect = \"NXDOMAIN\"",
        expect![[r#"
        error: invalid `query` in [service.health]
          --> xlb.toml:11:9
           |
        11 | query = "10.0.1.1"
           |         ^^^^^^^^^^ this is an address, not a name
           |
           = help: to ask whose address this is, write its name under in-addr.arpa or ip6.arpa, and `record = "PTR"`

        error: invalid `record` in [service.health]
          --> xlb.toml:12:10
           |
        12 | record = "a"
           |          ^^^ expected one of A, AAAA, CNAME, HTTPS, MX, NS, PTR, SOA, SRV, TXT, found the string "a"
           |
           = help: did you mean "A"?

        error: invalid `expect` in [service.health]
          --> xlb.toml:13:10
           |
        13 | expect = "NXDOMAIN"
           |          ^^^^^^^^^^ expected one of records, noerror, nxdomain, refused, found the string "NXDOMAIN"
           |
           = help: write "records" or "noerror" or "nxdomain" or "refused"

        error: xlb.toml: 3 problems"#]],
    );
}

#[test]
fn an_echo_needs_no_port() {
    assert_eq!(accepted("type = \"icmp\"").probe, Probe::Icmp);
    let every_port = file("tcp", "type = \"icmp\"").replace("port = 80", "port = 0");
    assert_eq!(parse("xlb.toml", &every_port).unwrap().services[0].health.list[0].probe, Probe::Icmp);
    refused(
        "type = \"icmp\"\nport = 80",
        expect![[r#"
        error: a check of type icmp has no `port`
          --> xlb.toml:11:1
           |
        10 | type = "icmp"
           |        ------ the type
        11 | port = 80
           | ^^^^ means nothing to icmp
           |
           = help: remove `port`

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn keys_of_other_types_are_refused() {
    refused(
        "path = \"/\"",
        expect![[r#"
            error: a check of type tcp has no `path`
              --> xlb.toml:10:1
               |
             9 | [service.health]
               | ---------------- of this type by default
            10 | path = "/"
               | ^^^^ means nothing to tcp
               |
               = help: write `type = "http"` or `type = "https"`, or remove `path`

            error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"dns\"\nquery = \"example.org\"\npayload = \"ping\"",
        expect![[r#"
        error: a check of type dns has no `payload`
          --> xlb.toml:12:1
           |
        10 | type = "dns"
           |        ----- the type
        11 | query = "example.org"
        12 | payload = "ping"
           | ^^^^^^^ means nothing to dns
           |
           = help: write `type = "udp"`, or remove `payload`

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_check_that_is_switched_off_keeps_keys_of_any_type() {
    assert_eq!(accepted("type = \"none\"\nquery = \"example.org\"\npayload = \"ping\"\npath = \"/\"").probe, Probe::None);
}

/// What an https check with these lines trusts, and whom it asks for.
#[track_caller]
fn tls(lines: &str) -> (Trust, Option<String>) {
    let Probe::Http(http) = accepted(&format!("type = \"https\"\n{lines}")).probe else { panic!("not https") };
    let tls = http.tls.expect("TLS");
    (tls.trust, tls.name.map(|name| name.to_str().into_owned()))
}

#[test]
fn certificates_are_verified_for_the_name_that_is_asked_for() {
    let named = |name: &str| Some(name.to_owned());
    for (lines, expected) in [
        ("", (Trust::System, None)),
        ("host = \"www.example.org\"", (Trust::System, named("www.example.org"))),
        ("host = \"www.example.org:8443\"", (Trust::System, named("www.example.org"))),
        ("host = \"[2001:db8::1]:8443\"", (Trust::System, named("2001:db8::1"))),
        ("host = \"192.0.2.1\"", (Trust::System, named("192.0.2.1"))),
        ("host = \"a_b,c\"\nsni = \"b.example.org\"", (Trust::System, named("b.example.org"))),
        ("verify = false", (Trust::Anyone, None)),
        ("ca_file = \"/etc/xlb/ca.pem\"", (Trust::File("/etc/xlb/ca.pem".into()), None)),
    ] {
        assert_eq!(tls(lines), expected, "{lines}");
    }
}

#[test]
fn tls_values_are_checked() {
    refused(
        "type = \"https\"\nverify = \"no\"\nca_file = \"ca.pem\"\nsni = \"a b\"",
        expect![[r#"
        error: invalid `verify` in [service.health]
          --> xlb.toml:11:10
           |
        11 | verify = "no"
           |          ^^^^ expected true or false, found the string "no"
           |
           = help: write true or false, without quotes

        error: invalid `ca_file` in [service.health]
          --> xlb.toml:12:11
           |
        12 | ca_file = "ca.pem"
           |           ^^^^^^^^ expected an absolute path
           |
           = help: the daemon's working directory is not yours: begin with `/`

        error: invalid `sni` in [service.health]
          --> xlb.toml:13:7
           |
        13 | sni = "a b"
           |       ^^^^^ no certificate can name this
           |
           = help: write a DNS name such as "www.example.org", or an address

        error: xlb.toml: 3 problems"#]],
    );
    refused(
        "type = \"https\"\nverify = false\nca_file = \"/etc/xlb/ca.pem\"",
        expect![[r#"
        error: nothing is verified, so `ca_file` does nothing
          --> xlb.toml:12:11
           |
        11 | verify = false
           |          ----- verifies nothing
        12 | ca_file = "/etc/xlb/ca.pem"
           |           ^^^^^^^^^^^^^^^^^ not read
           |
           = help: remove `verify = false`, or `ca_file`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"https\"\nhost = \"a,b\"",
        expect![[r#"
        error: no certificate can name this host
          --> xlb.toml:11:8
           |
        11 | host = "a,b"
           |        ^^^^^ neither a DNS name nor an address
           |
           = help: add `sni = "..."` with the name that the certificate is for

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"http\"\nverify = false",
        expect![[r#"
        error: a check of type http has no `verify`
          --> xlb.toml:11:1
           |
        10 | type = "http"
           |        ------ the type
        11 | verify = false
           | ^^^^^^ means nothing to http
           |
           = help: write `type = "https"`, or remove `verify`

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn a_body_is_looked_for_where_there_can_be_one() {
    refused(
        "type = \"http\"\nmethod = \"HEAD\"\nbody = \"ok\"",
        expect![[r#"
        error: an answer to HEAD has no body
          --> xlb.toml:12:8
           |
        11 | method = "HEAD"
           |          ------ the method
        12 | body = "ok"
           |        ^^^^ cannot be found
           |
           = help: write `method = "GET"`, or remove `body`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"http\"\nmethod = \"get\"\nbody = \"\"",
        expect![[r#"
        error: invalid `method` in [service.health]
          --> xlb.toml:11:10
           |
        11 | method = "get"
           |          ^^^^^ expected one of GET, HEAD, OPTIONS, found the string "get"
           |
           = help: write "GET" or "HEAD" or "OPTIONS"

        error: invalid `body` in [service.health]
          --> xlb.toml:12:8
           |
        12 | body = ""
           |        ^^ every body holds nothing
           |
           = help: write the text to look for, or remove `body`

        error: xlb.toml: 2 problems"#]],
    );
}

#[test]
fn a_database_may_be_asked_with_or_without_a_login() {
    assert_eq!(accepted("type = \"postgres\"").probe, Probe::Postgres(Postgres { login: None }));
    let login = Login {
        user: "xlb".to_owned(),
        password_file: Some("/etc/xlb/password".into()),
        database: Some("app".to_owned()),
        role: Some(Role::Primary),
    };
    let lines = "user = \"xlb\"\npassword_file = \"/etc/xlb/password\"\nrole = \"primary\"\n";
    assert_eq!(
        accepted(&format!("type = \"postgres\"\ndatabase = \"app\"\n{lines}")).probe,
        Probe::Postgres(Postgres { login: Some(login.clone()) })
    );
    let redis = Redis { user: Some(login.user), password_file: login.password_file, role: login.role };
    assert_eq!(accepted(&format!("type = \"redis\"\n{lines}")).probe, Probe::Redis(redis));
    let redis = Redis { user: None, password_file: None, role: Some(Role::Replica) };
    assert_eq!(accepted("type = \"redis\"\nrole = \"replica\"").probe, Probe::Redis(redis));
}

#[test]
fn database_values_are_checked() {
    refused(
        "type = \"redis\"\nuser = \"\"\npassword_file = \"password\"\nrole = \"master\"\ndatabase = \"a\"",
        expect![[r#"
        error: invalid `user` in [service.health]
          --> xlb.toml:11:8
           |
        11 | user = ""
           |        ^^ not a user's name
           |
           = help: write it as the server knows it

        error: invalid `password_file` in [service.health]
          --> xlb.toml:12:17
           |
        12 | password_file = "password"
           |                 ^^^^^^^^^^ expected an absolute path
           |
           = help: the daemon's working directory is not yours: begin with `/`

        error: invalid `role` in [service.health]
          --> xlb.toml:13:8
           |
        13 | role = "master"
           |        ^^^^^^^^ expected one of primary, replica, found the string "master"
           |
           = help: write "primary" or "replica"

        error: a check of type redis has no `database`
          --> xlb.toml:14:1
           |
        10 | type = "redis"
           |        ------- the type
        ...
        14 | database = "a"
           | ^^^^^^^^ means nothing to redis
           |
           = help: write `type = "postgres"`, or remove `database`

        error: xlb.toml: 4 problems"#]],
    );
    refused(
        "type = \"redis\"\nuser = \"xlb\"",
        expect![[r#"
        error: a Redis user logs in by a password
          --> xlb.toml:11:8
           |
        11 | user = "xlb"
           |        ^^^^^ without one
           |
           = help: add `password_file = "/etc/xlb/redis-password"`, or remove `user`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"postgres\"\npassword_file = \"/a\"\ndatabase = \"a\"\nrole = \"replica\"",
        expect![[r#"
        error: a PostgreSQL check without a user has no use for `password_file`
          --> xlb.toml:11:17
           |
        11 | password_file = "/a"
           |                 ^^^^ takes a login
           |
           = help: add `user = "..."`, or remove `password_file`

        error: a PostgreSQL check without a user has no use for `database`
          --> xlb.toml:12:12
           |
        12 | database = "a"
           |            ^^^ takes a login
           |
           = help: add `user = "..."`, or remove `database`

        error: a PostgreSQL check without a user has no use for `role`
          --> xlb.toml:13:8
           |
        13 | role = "replica"
           |        ^^^^^^^^^ takes a login
           |
           = help: add `user = "..."`, or remove `role`

        error: xlb.toml: 3 problems"#]],
    );
}

#[test]
fn a_grpc_check_asks_about_a_service_or_the_server() {
    let asked = |lines: &str| accepted(&format!("type = \"grpc\"\n{lines}")).probe;
    assert_eq!(asked(""), Probe::Grpc(Grpc { service: String::new(), host: None }));
    let named = Grpc { service: "example.Users".to_owned(), host: Some("users.internal:50051".to_owned()) };
    assert_eq!(asked("grpc_service = \"example.Users\"\nhost = \"users.internal:50051\""), Probe::Grpc(named));
    refused(
        &format!("type = \"grpc\"\ngrpc_service = \"{}\"\nhost = \"a/b\"\npath = \"/\"", "x".repeat(128)),
        expect![[r#"
        error: invalid `grpc_service` in [service.health]
          --> xlb.toml:11:16
           |
        11 | ... = "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
           |       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ 128 bytes, but a check asks for at most 127
           |
           = help: write the name that the server registers its health under

        error: invalid `host` in [service.health]
          --> xlb.toml:12:8
           |
        12 | host = "a/b"
           |        ^^^^^ no URI has this host
           |
           = help: write it as "www.example.org"

        error: a check of type grpc has no `path`
          --> xlb.toml:13:1
           |
        10 | type = "grpc"
           |        ------ the type
        ...
        13 | path = "/"
           | ^^^^ means nothing to grpc
           |
           = help: write `type = "http"` or `type = "https"`, or remove `path`

        error: xlb.toml: 3 problems"#]],
    );
}

#[test]
fn a_script_is_a_program_and_its_arguments() {
    let script = Script { program: "/bin/check".to_owned(), arguments: vec!["-v".to_owned(), "a b".to_owned()] };
    assert_eq!(accepted("type = \"script\"\ncommand = [\"/bin/check\", \"-v\", \"a b\"]").probe, Probe::Script(script));
    refused(
        "type = \"script\"",
        expect![[r#"
        error: missing `command` in [service.health]
         --> xlb.toml:9:1
          |
        9 | [service.health]
          | ^^^^^^^^^^^^^^^^
          |
          = help: name a program, and its arguments: `command = ["/usr/local/lib/xlb/check-disk", "90"]`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"script\"\ncommand = \"/bin/check -v\"",
        expect![[r#"
        error: invalid `command` in [service.health]
          --> xlb.toml:11:11
           |
        11 | command = "/bin/check -v"
           |           ^^^^^^^^^^^^^^^ expected a list, a program and its arguments
           |
           = help: write a list of strings: the program's absolute path, then its arguments; no shell reads them

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"script\"\ncommand = [\"check\"]",
        expect![[r#"
        error: invalid `command` in [service.health]
          --> xlb.toml:11:11
           |
        11 | command = ["check"]
           |           ^^^^^^^^^ the program is not an absolute path
           |
           = help: write a list of strings: the program's absolute path, then its arguments; no shell reads them

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"script\"\ncommand = []\nbody = \"ok\"",
        expect![[r#"
        error: invalid `command` in [service.health]
          --> xlb.toml:11:11
           |
        11 | command = []
           |           ^^ an empty list
           |
           = help: write a list of strings: the program's absolute path, then its arguments; no shell reads them

        error: a check of type script has no `body`
          --> xlb.toml:12:1
           |
        10 | type = "script"
           |        -------- the type
        11 | command = []
        12 | body = "ok"
           | ^^^^ means nothing to script
           |
           = help: write `type = "http"` or `type = "https"`, or remove `body`

        error: xlb.toml: 2 problems"#]],
    );
    refused(
        "type = \"script\"\ncommand = [\"/bin/check\", 90]",
        expect![[r#"
        error: invalid `command` in [service.health]
          --> xlb.toml:11:11
           |
        11 | command = ["/bin/check", 90]
           |           ^^^^^^^^^^^^^^^^^^ expected a program or an argument, found the number 90
           |
           = help: write it in double quotes

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn an_agent_has_a_port_of_its_own() {
    let check = accepted("type = \"agent\"\nport = 9777");
    assert_eq!((check.probe, check.port), (Probe::Agent, Some(9777)));
    refused(
        "type = \"agent\"",
        expect![[r#"
        error: missing `port` in [service.health]
         --> xlb.toml:9:1
          |
        9 | [service.health]
          | ^^^^^^^^^^^^^^^^
          |
          = help: name the port that the agent listens on: `port = 9777`

        error: xlb.toml: 1 problem"#]],
    );
}

/// The checks of a service with these lines.
#[track_caller]
fn several(mode: &str, checks: &str) -> Checks {
    let text = file("tcp", "").replace("[service.health]\n", &format!("{mode}\n{checks}"));
    parse("xlb.toml", &text).unwrap_or_else(|error| panic!("{error}")).services.remove(0).health
}

#[test]
fn a_service_may_have_several_checks() {
    let two = "[[service.health]]\ntype = \"icmp\"\n[[service.health]]\nrise = 3\n";
    let probes = |checks: Checks| checks.list.into_iter().map(|check| check.probe).collect::<Vec<_>>();
    assert_eq!(probes(several("", two)), [Probe::Icmp, Probe::Tcp]);
    for (line, mode) in [("", Mode::All), ("health_mode = \"all\"", Mode::All), ("health_mode = \"any\"", Mode::Any)] {
        assert_eq!(several(line, two).mode, mode);
        assert_eq!(several(line, "").mode, mode, "of the default check");
    }
    assert_eq!(probes(several("health = [{ type = \"icmp\" }]", "")), [Probe::Icmp]);
}

#[test]
fn of_several_checks_those_that_are_switched_off_do_not_count() {
    let off = "[[service.health]]\ntype = \"none\"\n";
    let probes = |checks: &str| several("", checks).list.into_iter().map(|check| check.probe).collect::<Vec<_>>();
    assert_eq!(probes(&format!("{off}[[service.health]]\ntype = \"icmp\"\n{off}")), [Probe::Icmp]);
    assert_eq!(probes(off), [Probe::None]);
}

#[test]
fn each_of_several_checks_is_checked() {
    let refused = |mode: &str, checks: &str, expected: Expect| {
        let text = file("tcp", "").replace("[service.health]\n", &format!("{mode}\n{checks}"));
        super::errors::check(&text, expected);
    };
    refused(
        "health_mode = \"most\"",
        "[[service.health]]\npath = \"/\"\n[[service.health]]\ntype = \"htp\"",
        expect![[r#"
        error: invalid `health_mode` in [[service]]
         --> xlb.toml:9:15
          |
        9 | health_mode = "most"
          |               ^^^^^^ expected one of all, any, found the string "most"
          |
          = help: write "all" or "any"

        error: a check of type tcp has no `path`
          --> xlb.toml:11:1
           |
        10 | [[service.health]]
           | ------------------ of this type by default
        11 | path = "/"
           | ^^^^ means nothing to tcp
           |
           = help: write `type = "http"` or `type = "https"`, or remove `path`

        error: invalid `type` in [[service.health]]
          --> xlb.toml:13:8
           |
        13 | type = "htp"
           |        ^^^^^ expected one of http, https, grpc, redis, postgres, script, agent, tcp, udp, dns, icmp, none, found the string "htp"
           |
           = help: did you mean "http"?

        error: xlb.toml: 3 problems"#]],
    );
    refused(
        "health = []",
        "",
        expect![[r#"
            error: `health` is an empty list
             --> xlb.toml:9:10
              |
            9 | health = []
              |          ^^ nothing in it
              |
              = help: add `[[service.health]]`, or remove `health`

            error: xlb.toml: 1 problem"#]],
    );
    refused(
        "health = \"tcp\"",
        "",
        expect![[r#"
        error: `health` must be a section
         --> xlb.toml:9:10
          |
        9 | health = "tcp"
          |          ^^^^^ found the string "tcp"
          |
          = help: write `[service.health]` on a line of its own, and its keys below

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn how_a_dead_backend_and_a_slow_one_are_checked_is_read() {
    let read = accepted("interval = \"2s\"\ntimeout = \"1s\"\nbackoff_max = \"30s\"\ndegraded_above = \"200ms\"\n");
    assert_eq!(read.backoff_max, Some(Duration::from_secs(30)));
    assert_eq!(read.degraded, Some(Degraded { above: Duration::from_millis(200), percent: 50 }));
    let read = accepted("degraded_above = \"200ms\"\ndegraded_weight = \"25%\"\n");
    assert_eq!(read.degraded.unwrap().percent, 25);
    assert_eq!((accepted("").backoff_max, accepted("").degraded), (None, None));
}

#[test]
fn how_a_dead_backend_and_a_slow_one_are_checked_is_checked() {
    refused(
        "interval = \"2s\"\nbackoff_max = \"1s\"\ndegraded_weight = \"50%\"",
        expect![[r#"
        error: invalid `backoff_max` in [service.health]
          --> xlb.toml:11:15
           |
        11 | backoff_max = "1s"
           |               ^^^^ out of bounds
           |
           = help: write a duration from "2s" to "1day"

        error: `degraded_weight` without `degraded_above`
          --> xlb.toml:12:19
           |
        12 | degraded_weight = "50%"
           |                   ^^^^^ no backend is ever degraded
           |
           = help: say how slow is too slow: `degraded_above = "200ms"`; or remove `degraded_weight`

        error: xlb.toml: 2 problems"#]],
    );
    refused(
        "timeout = \"100ms\"\ndegraded_above = \"100ms\"\ndegraded_weight = \"0%\"",
        expect![[r#"
        error: invalid `degraded_weight` in [service.health]
          --> xlb.toml:12:19
           |
        12 | degraded_weight = "0%"
           |                   ^^^^ expected 1% to 100%, found the string "0%"
           |
           = help: write it as `degraded_weight = "50%"`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "timeout = \"100ms\"\ndegraded_above = \"100ms\"",
        expect![[r#"
        error: `degraded_above` is not below the check's timeout
          --> xlb.toml:11:18
           |
        10 | timeout = "100ms"
           |           ------- the timeout
        11 | degraded_above = "100ms"
           |                  ^^^^^^^ no probe that passes takes so long
           |
           = help: write less than "100ms", or a longer `timeout`

        error: xlb.toml: 1 problem"#]],
    );
}

/// These sections under a service without any about its checks.
fn trust(lines: &str) -> String {
    file("tcp", "").replace("[service.health]\n", lines)
}

#[test]
fn whom_not_to_trust_is_read() {
    let read = |lines: &str| parse("xlb.toml", &trust(lines)).unwrap_or_else(|error| panic!("{error}")).services.remove(0).health;
    let plain = read("");
    assert_eq!((plain.breaker, plain.flapping), (None, flapping::Rules::default()));
    let all = read(
        "[service.breaker]\nerrors = \"30%\"\nwindow = \"1m\"\nrequests_min = 20\nejection = \"5s\"\nejection_max = \"1m\"\n\
         max_ejected = \"25%\"\n[service.flapping]\nchanges = 4\nwindow = \"2m\"\nhold = \"20s\"\nhold_max = \"3m\"\n",
    );
    let second = Duration::from_secs;
    let rules = breaker::Rules {
        errors_percent: 30,
        window: second(60),
        requests_min: 20,
        ejection: second(5),
        ejection_max: second(60),
    };
    assert_eq!((all.breaker, all.ejected_max_percent), (Some(rules), 25));
    assert_eq!(all.flapping, flapping::Rules { changes: 4, window: second(120), hold: Some(second(20)), hold_max: second(180) });
    let passive = read("[service.passive]\nunanswered = \"20%\"\nwindow = \"30s\"\nhandshakes_min = 50\n");
    let rules = suspicion::Rules { unanswered_percent: 20, window: second(30), handshakes_min: 50 };
    assert_eq!((passive.passive, passive.breaker, plain.passive), (Some(rules), None, None));
    // One that is longer than the usual bound is its own bound.
    let long = read("[service.breaker]\nejection = \"1h\"\n[service.flapping]\nhold = \"1h\"\n");
    assert_eq!((long.breaker.unwrap().ejection_max, long.flapping.hold_max), (second(3600), second(3600)));
}

#[test]
fn where_nobody_asks_flows_are_what_a_breaker_goes_by() {
    let text = trust("[service.passive]\nunanswered = \"20%\"\nwindow = \"30s\"\n[service.health]\ntype = \"none\"\n");
    let service = parse("xlb.toml", &text).unwrap_or_else(|error| panic!("{error}")).services.remove(0);
    let breaker = service.health.breaker.expect("one by flows");
    assert_eq!((breaker.errors_percent, breaker.window, breaker.requests_min), (20, Duration::from_secs(30), 5));
    assert!(service.is_tracked, "what is not on record shows nothing");
    super::errors::check(
        &file("udp", "type = \"none\"\n[service.passive]\n"),
        expect![[r#"
        error: passive detection of a udp service
          --> xlb.toml:11:10
           |
        11 | [service.passive]
           |          ^^^^^^^ UDP has no handshakes
           |
           = help: remove `[service.passive]`, or check the backends by `[service.health]`

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn whom_not_to_trust_is_checked() {
    let refused = |lines: &str, expected: Expect| super::errors::check(&trust(lines), expected);
    refused(
        "[service.breaker]\nerrors = 50\nwindow = \"1ms\"\nrequests_min = 0\nejection = \"1m\"\nejection_max = \"30s\"\nmax = 1\n",
        expect![[r#"
            error: invalid `errors` in [service.breaker]
              --> xlb.toml:10:10
               |
            10 | errors = 50
               |          ^^ expected 1% to 100%, found the number 50
               |
               = help: write it as `errors = "50%"`

            error: invalid `window` in [service.breaker]
              --> xlb.toml:11:10
               |
            11 | window = "1ms"
               |          ^^^^^ out of bounds
               |
               = help: write a duration from "1s" to "1day"

            error: invalid `requests_min` in [service.breaker]
              --> xlb.toml:12:16
               |
            12 | requests_min = 0
               |                ^ expected a whole number from 1 to 1000000, found the number 0
               |
               = help: write a whole number from 1 to 1000000, without quotes

            error: `ejection_max` is shorter than `ejection`
              --> xlb.toml:14:16
               |
            13 | ejection = "1m"
               |            ---- it begins with this
            14 | ejection_max = "30s"
               |                ^^^^^ shorter
               |
               = help: `ejection` grows up to `ejection_max`: write at least "1m"

            error: unknown key `max` in [service.breaker]
              --> xlb.toml:15:1
               |
            15 | max = 1
               | ^^^ did you mean `max_ejected`?
               |
               = help: known here are errors, window, requests_min, ejection, ejection_max, max_ejected

            error: xlb.toml: 5 problems"#]],
    );
    refused(
        "[service.flapping]\nchanges = 2\nhold = \"1m\"\nhold_max = \"30s\"\n",
        expect![[r#"
        error: invalid `changes` in [service.flapping]
          --> xlb.toml:10:11
           |
        10 | changes = 2
           |           ^ expected a whole number from 3 to 1000, found the number 2
           |
           = help: write a whole number from 3 to 1000, without quotes

        error: `hold_max` is shorter than `hold`
          --> xlb.toml:12:12
           |
        11 | hold = "1m"
           |        ---- it begins with this
        12 | hold_max = "30s"
           |            ^^^^^ shorter
           |
           = help: `hold` grows up to `hold_max`: write at least "1m"

        error: xlb.toml: 2 problems"#]],
    );
    refused(
        "[service.flapping]\nhold_max = \"30s\"\n",
        expect![[r#"
        error: `hold_max` without `hold`
          --> xlb.toml:10:12
           |
        10 | hold_max = "30s"
           |            ^^^^^ nobody is held
           |
           = help: remove `hold_max`, or say how long to hold at first: `hold = "30s"`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "breaker = true\n",
        expect![[r#"
        error: `breaker` must be a section
         --> xlb.toml:9:11
          |
        9 | breaker = true
          |           ^^^^ found true
          |
          = help: write `[service.breaker]` on a line of its own, and its keys below

        error: xlb.toml: 1 problem"#]],
    );
}

fn by_path(forward: &str) -> String {
    file("tcp", "via = \"path\"").replace("port = 80\n", &format!("port = 80\nforward = \"{forward}\"\n"))
}

#[test]
fn a_check_by_the_path_asks_the_vip() {
    let vip = "192.0.2.1".parse().unwrap();
    let direct = Some(Path { vip, way: Way::Direct });
    assert_eq!(accepted("via = \"path\"").path, direct);
    assert_eq!(accepted("via = \"address\"").path, None);
    assert_eq!(accepted("type = \"icmp\"\nvia = \"path\"").path, direct);
    for (forward, way) in [
        ("dsr", Way::Direct),
        ("ipip", Way::Ipip),
        ("gue", Way::Gue { port: 6080 }),
        ("gue\"\ngue_port = 5555 #\"", Way::Gue { port: 5555 }),
    ] {
        let mut config = parse("xlb.toml", &by_path(forward)).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(config.services.remove(0).health.list.remove(0).path, Some(Path { vip, way }), "{forward}");
    }
}

#[test]
fn a_check_by_the_path_takes_one_that_it_can_go() {
    super::errors::check(
        &by_path("nat"),
        expect![[r#"
        error: a check by a path that nat does not have
          --> xlb.toml:11:7
           |
        11 | via = "path"
           |       ^^^^^^ nat sends packets to the backend's own address
           |
           = help: remove `via`: the check goes there too

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "type = \"agent\"\nport = 9777\nvia = \"path\"",
        expect![[r#"
        error: a check of type agent has no `via`
          --> xlb.toml:12:1
           |
        10 | type = "agent"
           |        ------- the type
        11 | port = 9777
        12 | via = "path"
           | ^^^ means nothing to agent
           |
           = help: remove `via`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        "via = \"way\"",
        expect![[r#"
        error: invalid `via` in [service.health]
          --> xlb.toml:10:7
           |
        10 | via = "way"
           |       ^^^^^ expected one of address, path, found the string "way"
           |
           = help: write "address" or "path"

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn steering_takes_tables_that_no_other_range_can_touch() {
    let with = |lines: &str| format!("[steering]\n{lines}\n{}", file("tcp", ""));
    let parsed = parse("xlb.toml", &with("tables = 8192\npriority = 9")).unwrap();
    assert_eq!((parsed.steering.first_table, parsed.steering.priority), (8192, 9));
    super::errors::check(
        &with("tables = 8000\npriority = 0"),
        expect![[r#"
        error: invalid `tables` in [steering]
         --> xlb.toml:2:10
          |
        2 | tables = 8000
          |          ^^^^ not a multiple of 4096
          |
          = help: the next that fits is 8192

        error: invalid `priority` in [steering]
         --> xlb.toml:3:12
          |
        3 | priority = 0
          |            ^ expected a whole number from 1 to 32765, found the number 0
          |
          = help: write a whole number from 1 to 32765, without quotes

        error: xlb.toml: 2 problems"#]],
    );
}
