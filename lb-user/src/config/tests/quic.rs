use expect_test::{Expect, expect};

use super::*;

fn text(service: &str, quic: &str, ids: &[Option<&str>]) -> String {
    let backends = ids.iter().zip(1..).map(|(id, host)| {
        let id = id.map(|id| format!("server_id = \"{id}\"\n")).unwrap_or_default();
        format!("[[service.backend]]\naddress = \"10.0.0.{host}\"\n{id}")
    });
    let backends: String = backends.collect();
    format!(
        "[xdp]\ninterfaces = [\"eth0\"]\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 443\n{service}{quic}{backends}"
    )
}

const UDP: &str = "protocol = \"udp\"\nhealth.type = \"none\"\n";

fn refused(service: &str, quic: &str, ids: &[Option<&str>], expected: Expect) {
    expected.assert_eq(&parse("xlb.toml", &text(service, quic, ids)).unwrap_err().to_string());
}

#[test]
fn who_has_which_server_id_is_read() {
    let ids = |quic, ids: &[Option<&str>]| accepted(&text(UDP, quic, ids)).services.remove(0).server_ids;
    let listed = ids("[service.quic]\nconfig_ids = [0, 6]\n", &[Some("0a01"), None, Some("0A02")]).unwrap();
    assert_eq!((listed.len, listed.configs, listed.are_addresses), (2, 0b100_0001, false));
    let of = |ids: &ServerIds, host: u8| ids.of(([10, 0, 0, host], 443).into()).map(|id| id.to_string());
    assert_eq!([1, 2, 3].map(|host| of(&listed, host)), [Some("0a01".into()), None, Some("0a02".into())]);
    let addresses = ids("[service.quic]\nserver_ids = \"address\"\n", &[None, Some("ffffffff")]).unwrap();
    assert_eq!((addresses.len, addresses.configs), (4, 0x7f));
    assert_eq!([1, 2, 9].map(|host| of(&addresses, host).unwrap()), ["0a000001", "ffffffff", "0a000009"]);
    let short = ids("[service.quic]\nserver_ids = \"address\"\nserver_id_length = 1\n", &[None]).unwrap();
    assert_eq!(of(&short, 1).as_deref(), Some("01"));
    assert_eq!(ids("", &[None]), None);
}

#[test]
fn server_ids_are_of_one_length_and_nobodys_twice() {
    refused(
        UDP,
        "[service.quic]\n",
        &[Some("0a01"), Some("0a"), Some("0a01")],
        expect![[r#"
        error: server IDs of different lengths
          --> xlb.toml:15:13
           |
        12 | server_id = "0a01"
           |             ------ as long as this says
        ...
        15 | server_id = "0a"
           |             ^^^^ 1 bytes
           |
           = help: a connection ID does not say how long the server's ID in it is: write 2 bytes

        error: two backends have the same server ID
          --> xlb.toml:18:13
           |
        12 | server_id = "0a01"
           |             ------ first here
        ...
        18 | server_id = "0a01"
           |             ^^^^^^ 0a01 again here
           |
           = help: give each an ID of its own: `server_id = "..."`

        error: xlb.toml: 2 problems"#]],
    );
    refused(
        UDP,
        "[service.quic]\nserver_id_length = 3\n",
        &[Some("0a01")],
        expect![[r#"
        error: server IDs of different lengths
          --> xlb.toml:13:13
           |
        10 | server_id_length = 3
           |                    - as long as this says
        ...
        13 | server_id = "0a01"
           |             ^^^^^^ 2 bytes
           |
           = help: a connection ID does not say how long the server's ID in it is: write 3 bytes

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        UDP,
        "[service.quic]\nserver_ids = \"address\"\nserver_id_length = 2\n",
        &[None, Some("0001")],
        expect![[r#"
        error: two backends have the same server ID
          --> xlb.toml:16:13
           |
        13 | address = "10.0.0.1"
           |           ---------- first here
        ...
        16 | server_id = "0001"
           |             ^^^^^^ 0001 again here
           |
           = help: give each an ID of its own: `server_id = "..."`

        error: xlb.toml: 1 problem"#]],
    );
}

#[test]
fn connection_ids_need_udp_and_somebody_whom_they_name() {
    refused(
        "health.type = \"none\"\n",
        "[service.quic]\n",
        &[Some("0a01")],
        expect![[r#"
        error: QUIC by TCP
         --> xlb.toml:8:1
          |
        8 | [service.quic]
          | ^^^^^^^^^^^^^^ QUIC is UDP
          |
          = help: write `protocol = "udp"`, or remove `[service.quic]`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        UDP,
        "[service.quic]\n",
        &[None],
        expect![[r#"
        error: nobody has a server ID
         --> xlb.toml:9:1
          |
        9 | [service.quic]
          | ^^^^^^^^^^^^^^ no connection ID can name a backend
          |
          = help: give each backend one, `server_id = "0a01"`, or write `server_ids = "address"`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        UDP,
        "",
        &[Some("0a01")],
        expect![[r#"
        error: a server ID that nothing reads
          --> xlb.toml:11:13
           |
        11 | server_id = "0a01"
           |             ^^^^^^ this service goes by addresses and ports
           |
           = help: add `[service.quic]` to read it in QUIC connection IDs, or remove `server_id`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        UDP,
        "[service.quic]\nconfig_ids = []\n",
        &[Some("0a01")],
        expect![[r#"
        error: invalid `config_ids` in [service.quic]
          --> xlb.toml:10:14
           |
        10 | config_ids = []
           |              ^^ no configuration
           |
           = help: name the configurations of servers, from 0 to 6: `config_ids = [0]`

        error: xlb.toml: 1 problem"#]],
    );
    refused(
        UDP,
        "[service.quic]\nconfig_ids = [7]\n",
        &[Some("0g")],
        expect![[r#"
        error: invalid `config_ids` in [service.quic]
          --> xlb.toml:10:14
           |
        10 | config_ids = [7]
           |              ^^^ expected a whole number from 0 to 6, found the number 7
           |
           = help: write a whole number from 0 to 6, without quotes

        error: invalid `server_id` in [[service.backend]]
          --> xlb.toml:13:13
           |
        13 | server_id = "0g"
           |             ^^^^ no server ID
           |
           = help: write 1 to 8 bytes as hexadecimal digits, two each, as in "0a1b"

        error: xlb.toml: 2 problems"#]],
    );
    refused(
        UDP,
        "[service.dns]\nname = \"a.b\"\n[service.quic]\n",
        &[],
        expect![[r#"
        error: nobody has a server ID
          --> xlb.toml:11:1
           |
        11 | [service.quic]
           | ^^^^^^^^^^^^^^ no connection ID can name a backend
           |
           = help: what is discovered has none of its own: write `server_ids = "address"`

        error: xlb.toml: 1 problem"#]],
    );
}
