use std::net::IpAddr;

use lb_common::admission::{Line, Rule, look_up, said};
use proptest::prelude::*;

use super::*;

const N_LINES: u32 = 1 << 12;

fn list(prefixes: &[&str]) -> List {
    List::new(prefixes.iter().map(|text| lists::prefix(text).unwrap()).collect(), Vec::new())
}

/// What the packet path finds, in either half of the table.
fn said_of(lists: &Arc<Lists>, addresses: &[IpAddr]) -> Vec<u8> {
    let [first, second] = [0, 1].map(|half| {
        let image = Image::new(vec![(7, lists.clone())], &Arc::new(Image::adopted(half)), N_LINES).unwrap();
        assert_eq!(image.half, 1 - half);
        let mut table = vec![Line { keys: [3; 7], ways: 0x0101_0101_0101_0101 }; 2 * N_LINES as usize];
        table[(image.half * N_LINES) as usize..][..image.lines.len()].copy_from_slice(&image.lines);
        let line = |index: u32| table.get(index as usize);
        let find = |address: &IpAddr| {
            let [v4, v6] = image.roots(7);
            let (root, bits) = match address {
                IpAddr::V4(address) => (v4, u128::from(address.to_bits()) << 96),
                IpAddr::V6(address) => (v6, address.to_bits()),
            };
            if root.is_none() { said::ADMIT } else { look_up(line, root, (bits >> 64) as u64, bits as u64) }
        };
        addresses.iter().map(find).collect::<Vec<_>>()
    });
    assert_eq!(first, second);
    first
}

fn check(deny: &[&str], allow: &[&str], cases: &[(&str, u8)]) {
    let lists = Arc::new(Lists::new(list(deny), list(allow)));
    let addresses: Vec<IpAddr> = cases.iter().map(|(address, _)| address.parse().unwrap()).collect();
    let found: Vec<_> = cases.iter().map(|(address, _)| *address).zip(said_of(&lists, &addresses)).collect();
    assert_eq!(found, cases, "deny {deny:?}, allow {allow:?}");
}

use said::{ADMIT, DENY, STRANGER};

#[test]
fn who_is_on_a_deny_list_is_refused_and_nobody_else() {
    let cases = [
        ("9.255.255.255", ADMIT),
        ("10.0.0.0", DENY),
        ("10.255.255.255", DENY),
        ("11.0.0.0", ADMIT),
        ("192.0.2.1", DENY),
        ("192.0.2.2", ADMIT),
        ("2001:db8::1", DENY),
        ("2001:db9::", ADMIT),
        ("fd00::5", DENY),
        ("fd00::6", ADMIT),
    ];
    check(&["10.0.0.0/8", "192.0.2.1", "2001:db8::/32", "fd00::5"], &[], &cases);
}

#[test]
fn with_an_allow_list_only_those_on_it_pass() {
    check(&[], &["10.0.0.0/8"], &[("10.1.2.3", ADMIT), ("11.1.2.3", STRANGER), ("0.0.0.0", STRANGER), ("fd00::1", STRANGER)]);
    check(&[], &["::/0"], &[("10.1.2.3", STRANGER), ("fd00::1", ADMIT)]);
}

#[test]
fn of_a_deny_list_and_an_allow_list_the_longer_prefix_wins_and_of_the_same_prefix_the_deny_list() {
    let allow = ["0.0.0.0/0", "10.1.0.0/16", "172.16.0.0/12"];
    let deny = ["10.0.0.0/8", "10.1.2.0/24", "172.16.0.0/12"];
    let cases = [
        ("10.0.0.1", DENY),
        ("10.1.0.1", ADMIT),
        ("10.1.2.1", DENY),
        ("10.1.3.0", ADMIT),
        ("172.16.0.1", DENY),
        ("8.8.8.8", ADMIT),
        ("255.255.255.255", ADMIT),
    ];
    check(&deny, &allow, &cases);
}

#[test]
fn an_allow_list_that_is_a_file_with_nobody_in_it_admits_nobody() {
    let given = Lists::new(List::default(), List::new(Vec::new(), vec!["/list".into()]));
    let lists = Arc::new(given.with_files(&|_| Arc::default()));
    assert_eq!(said_of(&lists, &["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()]), [STRANGER; 2]);
}

fn prefix() -> impl Strategy<Value = IpNet> {
    // Few distinct bits, so that prefixes are in each other and beside each other.
    let v4 = (0..4u32, 0..4u32, 0..=32u8)
        .prop_map(|(high, low, len)| IpNet::new(IpAddr::V4((high << 30 | high << 14 | low).into()), len).unwrap().trunc());
    let v6 = (0..4u128, 0..4u128, 0..=128u8)
        .prop_map(|(high, low, len)| IpNet::new(IpAddr::V6((high << 126 | high << 64 | low).into()), len).unwrap().trunc());
    prop_oneof![v4, v6]
}

/// Longest prefix first, by going through all of them.
fn naive(deny: &[IpNet], allow: &[IpNet], has_allow: bool, address: IpAddr) -> u8 {
    let longest = |list: &[IpNet]| list.iter().filter(|prefix| prefix.contains(&address)).map(IpNet::prefix_len).max();
    match (longest(deny), longest(allow)) {
        (Some(deny), allow) if allow.is_none_or(|allow| deny >= allow) => DENY,
        (_, Some(_)) => ADMIT,
        _ if has_allow => STRANGER,
        _ => ADMIT,
    }
}

proptest! {
    #[test]
    fn what_the_packet_path_finds_is_what_the_longest_prefix_says(
        deny in prop::collection::vec(prefix(), 0..40),
        allow in prop::collection::vec(prefix(), 0..40),
        others in prop::collection::vec(any::<u128>(), 0..20),
    ) {
        let ends = |prefix: &IpNet| [prefix.network(), prefix.broadcast()];
        let around = |address: IpAddr| match address {
            IpAddr::V4(v4) => [-1, 0, 1].map(|by: i32| IpAddr::V4(v4.to_bits().wrapping_add_signed(by).into())),
            IpAddr::V6(v6) => [-1, 0, 1].map(|by: i128| IpAddr::V6(v6.to_bits().wrapping_add_signed(by).into())),
        };
        let mut addresses: Vec<IpAddr> = deny.iter().chain(&allow).flat_map(ends).flat_map(around).collect();
        addresses.extend(others.iter().flat_map(|&bits| [IpAddr::V6(bits.into()), IpAddr::V4((bits as u32).into())]));
        let lists = Arc::new(Lists::new(List::new(deny.clone(), Vec::new()), List::new(allow.clone(), Vec::new())));
        let found = said_of(&lists, &addresses);
        for (address, found) in addresses.into_iter().zip(found) {
            prop_assert_eq!(found, naive(&deny, &allow, !allow.is_empty(), address), "{}", address);
        }
    }
}

#[test]
fn services_with_the_same_list_share_it_and_what_is_the_same_is_not_made_again() {
    let lists = |deny: &[&str]| Arc::new(Lists::new(list(deny), List::default()));
    let one = vec![(0, lists(&["10.0.0.0/8"])), (3, lists(&["10.0.0.0/8"])), (4, lists(&["fd00::/8"]))];
    let image = Image::new(one.clone(), &Arc::default(), N_LINES).unwrap();
    assert_eq!((image.lines.len(), image.roots(0), image.half), (2, image.roots(3), 1));
    assert!(Arc::ptr_eq(&Image::new(one, &image, N_LINES).unwrap(), &image));
    let other = Image::new(vec![(3, lists(&["11.0.0.0/8"]))], &image, N_LINES).unwrap();
    assert_eq!((other.half, other.roots(0)), (0, Default::default()));
}

#[test]
fn lists_that_do_not_fit_are_refused_with_what_they_would_take() {
    let hosts = (0..1000u32).map(|n| IpNet::from(IpAddr::V4((2 * n).into()))).collect();
    let lists = Arc::new(Lists::new(List::new(hosts, Vec::new()), List::default()));
    let error = Image::new(vec![(1, lists)], &Arc::default(), 100).unwrap_err();
    assert_eq!((error.limit, error.n_lines > 250), (100, true));
}

fn read(bytes: &[u8]) -> Result<Vec<IpNet>, String> {
    let directory = std::env::temp_dir().join(format!("xlb-list-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&directory, bytes).unwrap();
    let read = lists::read(&directory, "[admission]")
        .map_err(|error| error.to_string().replace(&directory.display().to_string(), "LIST"));
    std::fs::remove_file(&directory).unwrap();
    read
}

#[test]
fn a_file_has_a_prefix_a_line_and_comments() {
    let text = "# all that is bad\n10.0.0.0/8\n\n  192.0.2.1   # one host\r\n1.10.16.0/20 ; SBL256894\n2001:db8::/32\n\t\n";
    let prefixes: Vec<String> = read(text.as_bytes()).unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(prefixes, ["10.0.0.0/8", "192.0.2.1/32", "1.10.16.0/20", "2001:db8::/32"]);
}

#[test]
fn what_is_wrong_with_a_file_is_told_with_its_line() {
    let cases: [(&[u8], &str); 6] = [
        (b"10.0.0.0/8\n10.0.0.0/33\n", "LIST:2: \"10.0.0.0/33\" is no prefix"),
        (b"\n\nexample.org", "LIST:3: \"example.org\" is no prefix"),
        (b"10.0.0.1/8", "LIST:1: 10.0.0.1/8 has more bits than the 8 of its length; 10.0.0.0/8 has not"),
        (b"10.0.0.0/8 10.1.0.0/16", "LIST:1: \"10.0.0.0/8 10.1.0.0/16\" is no prefix"),
        (b"10.0.0.0/8\n\xff\xfe", "LIST:2: this is no text in UTF-8"),
        (b"2001:db8::/129", "LIST:1: \"2001:db8::/129\" is no prefix"),
    ];
    for (bytes, expected) in cases {
        let error = read(bytes).unwrap_err();
        assert!(error.contains(expected) && error.contains("= help: write one prefix a line"), "{error}");
    }
    let missing = lists::read(Path::new("/nonexistent/list"), "[service.admission] of web").unwrap_err().to_string();
    assert!(
        missing.contains("/nonexistent/list: cannot be read") && missing.contains("a list of [service.admission] of web"),
        "{missing}"
    );
}

#[test]
fn each_refusal_has_a_rule() {
    assert_eq!((Rule::Deny as u8 + 1, Rule::Allow as u8 + 1), (DENY, STRANGER));
}
