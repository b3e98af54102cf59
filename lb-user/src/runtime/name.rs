//! How people name a backend: by its address, or by address and port where several share it.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// `10.0.1.1`, `10.0.1.1:80`, `fd02::1`, `[fd02::1]` or `[fd02::1]:80`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendName {
    pub address: IpAddr,
    pub port: Option<u16>,
}

impl BackendName {
    pub fn matches(&self, endpoint: SocketAddr) -> bool {
        endpoint.ip() == self.address && self.port.is_none_or(|port| port == endpoint.port())
    }
}

impl FromStr for BackendName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(endpoint) = text.parse::<SocketAddr>() {
            return Ok(Self { address: endpoint.ip(), port: Some(endpoint.port()) });
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        match bare.parse() {
            Ok(address) => Ok(Self { address, port: None }),
            Err(_) => Err(format!("{text:?} is not an address; write 10.0.1.1, 10.0.1.1:80, fd02::1 or [fd02::1]:80")),
        }
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}", SocketAddr::new(self.address, port)),
            None => write!(f, "{}", self.address),
        }
    }
}

impl Serialize for BackendName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_stands_with_or_without_its_port() {
        let read = |text: &str| text.parse::<BackendName>().map(|name| (name.address.to_string(), name.port));
        assert_eq!(read("10.0.1.1"), Ok(("10.0.1.1".into(), None)));
        assert_eq!(read("10.0.1.1:80"), Ok(("10.0.1.1".into(), Some(80))));
        assert_eq!(read("fd02::1"), Ok(("fd02::1".into(), None)));
        assert_eq!(read("[fd02::1]"), Ok(("fd02::1".into(), None)));
        assert_eq!(read("[fd02::1]:80"), Ok(("fd02::1".into(), Some(80))));
        for wrong in ["", "web", "10.0.1", "10.0.1.1:", "10.0.1.1:65536", "[10.0.1.1", "10.0.1.1/24"] {
            assert!(read(wrong).is_err_and(|error| error.contains("not an address")), "{wrong}");
        }
    }
}
