//! By what QUIC connection IDs name backends (draft-ietf-quic-load-balancers-21).

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use lb_common::quic::{Reading, SERVER_ID_LEN_MAX};

const LEN_MAX: usize = SERVER_ID_LEN_MAX as usize;

/// A server's ID, as it stands in connection IDs: 1 to 8 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId {
    /// Those beyond the length are 0.
    bytes: [u8; LEN_MAX],
    len: u8,
}

impl ServerId {
    fn new(id: &[u8]) -> Self {
        let mut bytes = [0; LEN_MAX];
        let id = &id[..id.len().min(LEN_MAX)];
        bytes[..id.len()].copy_from_slice(id);
        Self { bytes, len: id.len() as u8 }
    }

    /// The last bytes of an address, with zeros in front if it has less.
    pub fn of_address(address: IpAddr, len: u8) -> Self {
        let octets = match address {
            IpAddr::V4(address) => u128::from(u32::from(address)),
            IpAddr::V6(address) => address.into(),
        };
        Self::new(&octets.to_be_bytes()[16 - usize::from(len).min(LEN_MAX)..])
    }

    /// As the packet path has it, of so many bytes.
    pub fn of_number(number: u64, len: u8) -> Self {
        Self::new(&number.to_le_bytes()[..usize::from(len).min(LEN_MAX)])
    }

    pub const fn n_bytes(self) -> u8 {
        self.len
    }

    /// As the packet path has it: the first byte is the lowest.
    pub const fn number(self) -> u64 {
        u64::from_le_bytes(self.bytes)
    }
}

/// It is no server ID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("write 1 to {LEN_MAX} bytes as hexadecimal digits, two each, as in \"0a1b\"")]
pub struct NoServerId;

impl FromStr for ServerId {
    type Err = NoServerId;

    fn from_str(digits: &str) -> Result<Self, NoServerId> {
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).ok();
        let bytes = bytes.filter(|bytes| (1..=LEN_MAX).contains(&bytes.len()));
        Ok(Self::new(&bytes.ok_or(NoServerId)?))
    }
}

impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.bytes[..usize::from(self.len)]))
    }
}

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Who has which ID in a service, and in which connection IDs they stand.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerIds {
    /// Of every ID, in bytes.
    pub len: u8,
    /// A bit for each configuration of which connection IDs are read, from 0 to 6.
    pub configs: u8,
    /// Whoever is not listed has the last bytes of its address.
    pub are_addresses: bool,
    pub listed: BTreeMap<SocketAddr, ServerId>,
}

impl ServerIds {
    /// A backend's ID, if it has one.
    pub fn of(&self, endpoint: SocketAddr) -> Option<ServerId> {
        let by_address = || self.are_addresses.then(|| ServerId::of_address(endpoint.ip(), self.len));
        self.listed.get(&endpoint).copied().or_else(by_address)
    }

    pub fn reading(&self) -> Reading {
        Reading::new(self.len, self.configs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_read_and_written_and_nothing_else() {
        for id in ["00", "0a1b", "0102030405060708"] {
            assert_eq!(id.parse::<ServerId>().unwrap().to_string(), id);
        }
        assert_eq!("0A1b".parse::<ServerId>().unwrap().to_string(), "0a1b");
        assert_eq!("0a1b".parse::<ServerId>().unwrap().number(), 0x1b0a);
        for id in ["", "0", "0a1", "0x0a", "0g", "010203040506070809", "ä", "+1", "0é1"] {
            assert_eq!(id.parse::<ServerId>(), Err(NoServerId), "{id}");
        }
    }

    #[test]
    fn an_address_gives_its_last_bytes() {
        let of = |address: &str, len| ServerId::of_address(address.parse().unwrap(), len).to_string();
        assert_eq!(of("10.1.2.3", 4), "0a010203");
        assert_eq!(of("10.1.2.3", 2), "0203");
        assert_eq!(of("10.1.2.3", 6), "00000a010203");
        assert_eq!(of("2001:db8::1:2:3", 8), "0000000100020003");
    }

    #[test]
    fn who_is_listed_has_that_id_and_others_that_of_their_address_if_at_all() {
        let [listed, other] = ["10.0.0.1:443", "10.0.0.2:443"].map(|endpoint| endpoint.parse().unwrap());
        let id: ServerId = "ffff".parse().unwrap();
        let ids = |are_addresses| ServerIds { len: 2, configs: 1, are_addresses, listed: BTreeMap::from([(listed, id)]) };
        assert_eq!(ids(false).of(listed), Some(id));
        assert_eq!(ids(false).of(other), None);
        assert_eq!(ids(true).of(listed), Some(id));
        assert_eq!(ids(true).of(other).unwrap().to_string(), "0002");
    }
}
