//! `[admission]`, for all VIPs and for single services.

use expect_test::expect;

use super::super::parse;
use super::errors::check;

fn text(admission: &str, own: &str) -> String {
    format!(
        "[xdp]\ninterfaces = [\"eth0\"]\n{admission}\n[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 80\n\
         [[service.backend]]\naddress = \"10.0.1.1\"\n{own}\n"
    )
}

#[test]
fn lists_may_be_for_all_vips_and_for_single_services() {
    let all = "[admission]\ndeny = [\"10.0.0.0/8\", \"192.0.2.9\", \"2001:db8::/32\"]\ndeny_files = [\"/etc/xlb/deny\"]\n";
    let config = parse("xlb.toml", &text(all, "[service.admission]\nallow = [\"203.0.113.0/24\"]\n")).unwrap();
    let all_vips = &config.admission.all_vips.lists;
    assert_eq!((all_vips.deny.len(), all_vips.deny.files.len(), all_vips.allow.is_given()), (3, 1, false));
    let own = &config.admission.of(&"web".into()).unwrap().lists;
    assert_eq!((own.deny.is_given(), own.allow.len()), (false, 1));
}

#[test]
fn sections_without_rules_are_as_if_they_were_not_there() {
    let config = parse("xlb.toml", &text("[admission]\n", "[service.admission]\ndeny = []\n")).unwrap();
    assert!(config.admission.all_vips.is_empty() && config.admission.services.is_empty());
}

#[test]
fn what_is_no_prefix_is_shown_at_its_place() {
    check(
        &text(
            "[admission]\ndeny = [\"10.0.0.1/8\", \"10.0.0.0/33\", \"example.org\", 7]\ndeny_files = [\"deny.txt\"]\n",
            "[service.admission]\nallow = []\ndeny = \"10.0.0.0/8\"\nallowed = []\n",
        ),
        expect![[r#"
            error: invalid `deny` in [admission]
             --> xlb.toml:4:9
              |
            4 | deny = ["10.0.0.1/8", "10.0.0.0/33", "example.org", 7]
              |         ^^^^^^^^^^^^ 10.0.0.1/8 has more bits than the 8 of its length; 10.0.0.0/8 has not, or leave out /8
              |
              = help: write a prefix such as "203.0.113.0/24", or a single address

            error: invalid `deny` in [admission]
             --> xlb.toml:4:23
              |
            4 | deny = ["10.0.0.1/8", "10.0.0.0/33", "example.org", 7]
              |                       ^^^^^^^^^^^^^ "10.0.0.0/33" is no prefix
              |
              = help: write a prefix such as "203.0.113.0/24", or a single address

            error: invalid `deny` in [admission]
             --> xlb.toml:4:38
              |
            4 | deny = ["10.0.0.1/8", "10.0.0.0/33", "example.org", 7]
              |                                      ^^^^^^^^^^^^^ "example.org" is no prefix
              |
              = help: write a prefix such as "203.0.113.0/24", or a single address

            error: invalid `deny` in [admission]
             --> xlb.toml:4:53
              |
            4 | deny = ["10.0.0.1/8", "10.0.0.0/33", "example.org", 7]
              |                                                     ^ expected a prefix, found the number 7
              |
              = help: write it in double quotes

            error: invalid `deny_files` in [admission]
             --> xlb.toml:5:15
              |
            5 | deny_files = ["deny.txt"]
              |               ^^^^^^^^^^ expected an absolute path
              |
              = help: the daemon's working directory is not yours: begin with `/`

            error: invalid `allow` in [service.admission]
              --> xlb.toml:14:9
               |
            14 | allow = []
               |         ^^ an empty list
               |
               = help: name who is allowed, or remove `allow` to allow all

            error: invalid `deny` in [service.admission]
              --> xlb.toml:15:8
               |
            15 | deny = "10.0.0.0/8"
               |        ^^^^^^^^^^^^ expected a list of prefixes, found the string "10.0.0.0/8"
               |
               = help: write a list, even of one: `deny = ["10.0.0.0/8", "2001:db8::/32"]`

            error: unknown key `allowed` in [service.admission]
              --> xlb.toml:16:1
               |
            16 | allowed = []
               | ^^^^^^^ did you mean `allow`?
               |
               = help: known here are deny, deny_files, allow, allow_files, source_packets, source_packets_burst, source_connections, source_connections_burst, packets, packets_burst, connections, connections_burst, source_v4, source_v6

            error: xlb.toml: 8 problems"#]],
    );
}

#[test]
fn files_are_read_when_the_file_that_names_them_is() {
    let directory = std::env::temp_dir().join(format!("xlb-lists-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let (config, list) = (directory.join("xlb.toml"), directory.join("deny.txt"));
    let toml = text(&format!("[admission]\ndeny_files = [{list:?}]\n"), "");
    std::fs::write(&config, toml).unwrap();
    std::fs::write(&list, "10.0.0.0/8\n192.0.2.0/24\n").unwrap();
    let lists = |config: &super::super::Config| config.admission.all_vips.lists.clone();
    assert_eq!(lists(&super::super::load(&config).unwrap()).deny.len(), 2);
    std::fs::write(&list, "10.0.0.0/8\n\nnonsense\n").unwrap();
    let error = super::super::load(&config).unwrap_err().to_string();
    assert!(error.contains("deny.txt:3: \"nonsense\" is no prefix"), "{error}");
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn rates_have_a_unit_and_a_burst() {
    let own =
        "[service.admission]\nsource_packets = \"1000/s\"\nconnections = \"30/m\"\nconnections_burst = 50\nsource_v4 = 24\n";
    let config = parse("xlb.toml", &text("", own)).unwrap();
    let limits = config.admission.of(&"web".into()).unwrap().limits;
    let all: Vec<(u32, u32)> = limits.limits.iter().map(|limit| (limit.interval, limit.burst)).collect();
    // In units of 4 ns; a burst is a second's, and ten at least.
    assert_eq!(all, [(250_000, 1000), (0, 0), (0, 0), (500_000_000, 50)]);
    assert_eq!((limits.source_bits_v4, limits.source_bits_v6), (24, 64));
    let slow = parse("xlb.toml", &text("", "[service.admission]\npackets = \"4/m\"\n")).unwrap();
    assert_eq!(slow.admission.of(&"web".into()).unwrap().limits.limits[2].burst, 10);
}

#[test]
fn what_is_no_rate_is_shown_at_its_place() {
    check(
        &text(
            "[admission]\nsource_packets = 100\nsource_connections = \"100\"\npackets = \"3/m\"\nconnections = \"20000000/s\"\n",
            "[service.admission]\nsource_packets_burst = 5\npackets = \"1000000/s\"\npackets_burst = 100\n\
             connections = \"4/m\"\nconnections_burst = 1000\nsource_v4 = 33\nsource_v6 = 0\n",
        ),
        expect![[r#"
            error: invalid `source_packets` in [admission]
             --> xlb.toml:4:18
              |
            4 | source_packets = 100
              |                  ^^^ expected a rate, found the number 100
              |
              = help: write "100/s" for a hundred a second, or "30/m" for thirty a minute: from "4/m" to "10000000/s"

            error: invalid `source_connections` in [admission]
             --> xlb.toml:5:22
              |
            5 | source_connections = "100"
              |                      ^^^^^ expected a rate, found "100"
              |
              = help: write "100/s" for a hundred a second, or "30/m" for thirty a minute: from "4/m" to "10000000/s"

            error: invalid `packets` in [admission]
             --> xlb.toml:6:11
              |
            6 | packets = "3/m"
              |           ^^^^^ out of bounds
              |
              = help: write "100/s" for a hundred a second, or "30/m" for thirty a minute: from "4/m" to "10000000/s"

            error: invalid `connections` in [admission]
             --> xlb.toml:7:15
              |
            7 | connections = "20000000/s"
              |               ^^^^^^^^^^^^ out of bounds
              |
              = help: write "100/s" for a hundred a second, or "30/m" for thirty a minute: from "4/m" to "10000000/s"

            error: invalid `source_packets_burst` in [service.admission]
              --> xlb.toml:16:24
               |
            16 | source_packets_burst = 5
               |                        ^ a burst without a rate
               |
               = help: remove it, or add `source_packets = "100/s"`

            error: invalid `packets_burst` in [service.admission]
              --> xlb.toml:18:17
               |
            18 | packets_burst = 100
               |                 ^^^ less than what comes at this rate in 10 ms, the least that the packet path's clock tells apart
               |
               = help: write a number from 10000 to 900000000

            error: invalid `connections_burst` in [service.admission]
              --> xlb.toml:20:21
               |
            20 | connections_burst = 1000
               |                     ^^^^ more than what comes at this rate in 15 minutes
               |
               = help: write a number from 1 to 60

            error: invalid `source_v4` in [service.admission]
              --> xlb.toml:21:13
               |
            21 | source_v4 = 33
               |             ^^ expected a whole number from 1 to 32, found the number 33
               |
               = help: write a whole number from 1 to 32, without quotes

            error: invalid `source_v6` in [service.admission]
              --> xlb.toml:22:13
               |
            22 | source_v6 = 0
               |             ^ expected a whole number from 1 to 64, found the number 0
               |
               = help: write a whole number from 1 to 64, without quotes

            error: xlb.toml: 9 problems"#]],
    );
}
