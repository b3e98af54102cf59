//! `[fullnat]`: what stands for clients.

use super::*;

fn text(pool: &str, service: &str) -> String {
    format!(
        "[xdp]\ninterfaces = [\"eth0\"]\n{pool}[[service]]\nname = \"web\"\nvip = \"192.0.2.1\"\nport = 80\nforward = \"fullnat\"\n{service}\
         [[service.backend]]\naddress = \"10.0.1.1\"\nport = 8080\n"
    )
}

fn refusal(pool: &str, service: &str) -> String {
    parse("xlb.toml", &text(pool, service)).unwrap_err().to_string()
}

#[test]
fn a_pool_has_addresses_and_ports() {
    let pool = |pool: &str| accepted(&text(pool, "")).pool;
    let usual = pool("[fullnat]\naddresses = [\"10.0.0.9\", \"fd00::9\"]\n");
    assert_eq!((usual.addresses.len(), usual.ports.clone()), (2, crate::pool::PORTS_DEFAULT));
    assert_eq!(pool("[fullnat]\naddresses = [\"10.0.0.9\"]\nports = \"2000 - 2999\"\n").ports, 2000..=2999);
}

#[test]
fn what_is_wrong_with_a_pool_is_told_at_its_place() {
    let cases = [
        ("", "", "full NAT of IPv4, and no IPv4 address to come from"),
        ("[fullnat]\naddresses = [\"fd00::9\"]\n", "", "add one to `addresses` in `[fullnat]`: packets keep their family"),
        ("[fullnat]\naddresses = []\n", "", "an empty list"),
        ("[fullnat]\n", "", "addresses"),
        ("[fullnat]\naddresses = [\"192.0.2.1\"]\n", "", "192.0.2.1 is a VIP and an address of the pool"),
        ("[fullnat]\naddresses = [\"10.0.1.1\"]\n", "", "10.0.1.1 is a backend and an address of the pool"),
        ("[fullnat]\naddresses = [\"10.0.0.9\", \"10.0.0.9\"]\n", "", "10.0.0.9 is in the pool twice"),
        ("[fullnat]\naddresses = [\"224.0.0.1\"]\n", "", "this is a multicast address"),
        ("[fullnat]\naddresses = [\"10.0.0.9\"]\nports = \"80-2000\"\n", "", "ports below 1024 are of services"),
        ("[fullnat]\naddresses = [\"10.0.0.9\"]\nports = \"2000-2010\"\n", "", "write a range of 24 at least"),
        ("[fullnat]\naddresses = [\"10.0.0.9\"]\nports = \"3000-2000\"\n", "", "0 ports"),
        ("[fullnat]\naddresses = [\"10.0.0.9\"]\nports = 2000\n", "", "expected a range of ports"),
        ("[fullnat]\naddresses = [\"10.0.0.9\"]\n", "protocol = \"udp\"\ntoa = true\n", "only tcp has options"),
    ];
    for (pool, service, expected) in cases {
        let refusal = refusal(pool, service);
        assert!(refusal.contains(expected), "{pool}{service}: {refusal}");
    }
}
