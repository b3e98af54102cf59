//! Netlink messages as bytes: framing, attributes, and nothing of what they mean.
//!
//! A crate with a type for every attribute exists, but it discards a whole message for one attribute that it cannot
//! parse, as newer kernels keep sending. An interface must not go missing for that, so only what is needed is read.

use std::net::IpAddr;

pub const NLM_F_REQUEST: u16 = 0x1;
pub const NLM_F_ACK: u16 = 0x4;
pub const NLM_F_DUMP: u16 = 0x300;
pub const NLM_F_CREATE: u16 = 0x400;
/// A dump was disturbed by a change and may lack entries.
pub const NLM_F_DUMP_INTR: u16 = 0x10;

pub const NLMSG_NOOP: u16 = 1;
pub const NLMSG_ERROR: u16 = 2;
pub const NLMSG_DONE: u16 = 3;

pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;

const HEADER_LEN: usize = 16;
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Without the flags for "nested" and "network byte order".
const ATTRIBUTE_KIND_MASK: u16 = 0x3fff;

/// One received message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub body: &'a [u8],
}

/// The messages of one datagram, up to the first that is malformed.
pub fn messages(mut datagram: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let len = u32_at(datagram, 0)? as usize;
        let body = datagram.get(HEADER_LEN..len)?;
        let message = Message { kind: u16_at(datagram, 4)?, flags: u16_at(datagram, 6)?, sequence: u32_at(datagram, 8)?, body };
        datagram = datagram.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// The attributes in a body or a nested attribute, as (kind, value), up to the first that is malformed.
pub fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16_at(bytes, 0)?);
        let kind = u16_at(bytes, 2)? & ATTRIBUTE_KIND_MASK;
        let value = bytes.get(ATTRIBUTE_HEADER_LEN..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

pub fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub fn text(value: &[u8]) -> Option<String> {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    std::str::from_utf8(value.get(..end)?).ok().map(str::to_owned)
}

/// An address in network order, by its length.
pub fn address(value: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(value) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(value).ok().map(IpAddr::from)
}

pub const fn family(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => AF_INET,
        IpAddr::V6(_) => AF_INET6,
    }
}

/// A body being written: the fixed header, then attributes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Body(Vec<u8>);

impl Body {
    pub fn new(header: &[u8]) -> Self {
        Self(header.to_vec())
    }

    #[must_use]
    pub fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        // Values here are addresses, names and numbers, far below what the length field holds.
        let len = u16::try_from(ATTRIBUTE_HEADER_LEN + value.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    #[must_use]
    pub fn address(self, kind: u16, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.attribute(kind, &v4.octets()),
            IpAddr::V6(v6) => self.attribute(kind, &v6.octets()),
        }
    }

    /// The whole message. The port stays 0, which the kernel fills in.
    pub fn message(&self, kind: u16, flags: u16, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(HEADER_LEN + self.0.len()).unwrap_or(u32::MAX);
        let mut bytes = Vec::with_capacity(HEADER_LEN + self.0.len());
        bytes.extend_from_slice(&len.to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&sequence.to_ne_bytes());
        bytes.extend_from_slice(&0u32.to_ne_bytes());
        bytes.extend_from_slice(&self.0);
        bytes
    }

    #[cfg(test)]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let bytes = Body::new(&[1, 2, 3, 4]).attribute(7, b"abc\0").attribute(8, &[9]).message(24, NLM_F_REQUEST, 5);
        let read: Vec<_> = messages(&bytes).collect();
        let [message] = read.as_slice() else { panic!("{read:?}") };
        assert_eq!((message.kind, message.flags, message.sequence), (24, NLM_F_REQUEST, 5));
        let (header, rest) = message.body.split_first_chunk::<4>().unwrap();
        assert_eq!(header, &[1, 2, 3, 4]);
        assert_eq!(attributes(rest).collect::<Vec<_>>(), [(7, &b"abc\0"[..]), (8, &[9])]);
    }

    #[test]
    fn a_text_ends_at_its_first_zero() {
        assert_eq!(text(b"eth0\0\0"), Some("eth0".to_owned()));
        assert_eq!(text(b"eth0"), Some("eth0".to_owned()));
        assert_eq!(text(&[0xff, 0]), None);
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic_or_go_on_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let n_messages = messages(&bytes).inspect(|message| { attributes(message.body).count(); }).count();
            prop_assert!(n_messages <= bytes.len());
            prop_assert!(attributes(&bytes).count() <= bytes.len());
        }
    }
}
