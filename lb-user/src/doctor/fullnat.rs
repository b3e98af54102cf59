//! Whether the addresses of `[fullnat]` are this machine's, and its own connections leave their ports alone.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use super::Check;
use crate::config::Config;
use crate::pool::Pool;

const OWN_PORTS: &str = "/proc/sys/net/ipv4/ip_local_port_range";

pub fn examine(config: &Config) -> Vec<Check> {
    let own = config.pool.addresses.iter().copied().filter(|&address| is_own(address)).collect();
    examine_with(&config.pool, &own, &std::fs::read_to_string(OWN_PORTS).unwrap_or_default())
}

/// What can be bound to is an address of this machine.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

fn examine_with(pool: &Pool, own: &BTreeSet<IpAddr>, own_ports: &str) -> Vec<Check> {
    let mut checks: Vec<Check> = Vec::new();
    for address in &pool.addresses {
        let subject = format!("pool {address}");
        checks.push(if own.contains(address) {
            Check::ok(subject, "an address of this machine, which answers for it")
        } else {
            let len = if address.is_ipv4() { 32 } else { 128 };
            let finding = "no address of this machine: backends find nobody to answer";
            Check::problem(subject, finding, format!("ip addr add {address}/{len} dev INTERFACE"))
        });
    }
    let mut bounds = own_ports.split_whitespace().filter_map(|bound| bound.parse::<u16>().ok());
    if let (false, Some(first), Some(last)) = (pool.is_empty(), bounds.next(), bounds.next())
        && first <= *pool.ports.end()
        && last >= *pool.ports.start()
    {
        let finding = format!("this machine's own connections take ports {first} to {last}, which [fullnat] has too");
        let mend = "use addresses that nothing else connects from, or: sysctl -w net.ipv4.ip_local_port_range=\"1024 9999\"";
        checks.push(Check::warning("pool ports", finding, mend));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn addresses_that_are_nobodys_and_ports_that_are_shared_are_told() {
        let address = IpAddr::from([10, 0, 0, 1]);
        let pool = |ports| Pool { addresses: vec![address], ports };
        let levels = |pool: &Pool, own: &[IpAddr], ports: &str| {
            let checks = examine_with(pool, &own.iter().copied().collect(), ports);
            checks.iter().map(|check| check.level).collect::<Vec<_>>()
        };
        assert_eq!(levels(&Pool::default(), &[], "32768\t60999\n"), []);
        assert_eq!(levels(&pool(10_240..=32_767), &[address], "32768\t60999\n"), [Level::Ok]);
        assert_eq!(levels(&pool(10_240..=65_535), &[address], "32768\t60999\n"), [Level::Ok, Level::Warning]);
        assert_eq!(levels(&pool(10_240..=32_767), &[], ""), [Level::Problem]);
    }
}
