//! The pool of full NAT: addresses of this host, and their ports, that stand for clients towards backends.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use lb_common::limits;
use lb_common::session::{self, LINE, Range};

/// `[fullnat]`; empty without.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pool {
    /// Each once.
    pub addresses: Vec<IpAddr>,
    pub ports: RangeInclusive<u16>,
}

/// All that are no ports of well-known services, and few that are of any.
pub const PORTS_DEFAULT: RangeInclusive<u16> = 10_240..=65_535;

impl Default for Pool {
    fn default() -> Self {
        Self { addresses: Vec::new(), ports: PORTS_DEFAULT }
    }
}

impl Pool {
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    /// The addresses by their numbers, which the packet path knows them by: those of IPv4 come first.
    pub fn numbered(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        let of = |is_v4: bool| self.addresses.iter().copied().filter(move |address| address.is_ipv4() == is_v4);
        (0..limits::POOL_ADDRESSES).zip(of(true).chain(of(false)))
    }

    /// Which ports of how many addresses there are. Ports are used by whole lines.
    pub fn range(&self) -> Range {
        if self.is_empty() {
            return Range::default();
        }
        let n_v4 = self.addresses.iter().filter(|address| address.is_ipv4()).count() as u32;
        let first_port = u32::from(*self.ports.start());
        let n_ports = (u32::from(*self.ports.end()) + 1).saturating_sub(first_port);
        Range { first_port, n_ports: n_ports / LINE * LINE, n_v4, n_v6: self.addresses.len() as u32 - n_v4 }
    }

    /// As the packet path has it.
    pub fn record(&self) -> session::Pool {
        let mut record = session::Pool { range: self.range(), ..session::Pool::EMPTY };
        for (number, address) in self.numbered() {
            record.addresses[number as usize] = address.into();
        }
        record
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_numbered_by_family_and_ports_are_whole_lines() {
        let addresses = ["fd00::1", "10.0.0.1", "fd00::2", "10.0.0.2"].map(|address| address.parse().unwrap());
        let pool = Pool { addresses: addresses.to_vec(), ports: 1024..=1050 };
        assert_eq!(pool.range(), Range { first_port: 1024, n_ports: 24, n_v4: 2, n_v6: 2 });
        let numbered: Vec<String> = pool.numbered().map(|(number, address)| format!("{number} {address}")).collect();
        assert_eq!(numbered, ["0 10.0.0.1", "1 10.0.0.2", "2 fd00::1", "3 fd00::2"]);
        assert_eq!(IpAddr::from(pool.record().addresses[3]), addresses[2]);
        assert_eq!(Pool::default().record(), session::Pool::EMPTY);
        assert_eq!(Pool { ports: PORTS_DEFAULT, ..pool }.range().n_ports, 55_296);
    }
}
