//! Addresses and network-order numbers as they stand in packets and records.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A 16-bit number in network byte order, as it stands in a header.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Be16(u16);

impl Be16 {
    pub const fn new(host_order: u16) -> Self {
        Self(host_order.to_be())
    }

    /// The value in host byte order.
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// The bytes as a native word: what checksums and hashes work on.
    pub const fn raw(self) -> u16 {
        self.0
    }

    pub const fn from_raw(raw: u16) -> Self {
        Self(raw)
    }
}

impl fmt::Debug for Be16 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A 32-bit number in network byte order, as it stands in a header.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Be32(u32);

impl Be32 {
    pub const fn new(host_order: u32) -> Self {
        Self(host_order.to_be())
    }

    /// The value in host byte order.
    pub const fn get(self) -> u32 {
        u32::from_be(self.0)
    }

    /// The bytes as a native word.
    pub const fn raw(self) -> u32 {
        self.0
    }

    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

impl fmt::Debug for Be32 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// An IPv4 or IPv6 address in a record: 16 bytes in network order, IPv4 as `::ffff:a.b.c.d` (RFC 4291 section 2.5.5.2).
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Addr {
    pub words: [Be32; 4],
}

const _: () = assert!(size_of::<Addr>() == 16);

impl Addr {
    pub const UNSPECIFIED: Self = Self { words: [Be32::new(0); 4] };
    const V4_MAPPED: Be32 = Be32::new(0xffff);

    pub const fn v4(word: Be32) -> Self {
        Self { words: [Be32::new(0), Be32::new(0), Self::V4_MAPPED, word] }
    }

    pub const fn v6(words: [Be32; 4]) -> Self {
        Self { words }
    }

    pub fn is_v4(&self) -> bool {
        self.words[0].raw() == 0 && self.words[1].raw() == 0 && self.words[2] == Self::V4_MAPPED
    }

    /// The bytes as two native words: how the packet path compares, hashes and writes IPv6 addresses.
    #[inline(always)]
    pub fn longs(&self) -> [u64; 2] {
        // Word by word: an array that is copied from a record to a packet as a whole is a call of memmove.
        let [a, b, c, d] = &self.words;
        [zerocopy::transmute!([a.0, b.0]), zerocopy::transmute!([c.0, d.0])]
    }

    #[inline(always)]
    pub fn from_longs(longs: [u64; 2]) -> Self {
        Self { words: zerocopy::transmute!(longs) }
    }
}

/// The port and protocol of an endpoint, which the packet path compares and hashes as one word.
#[repr(C, align(4))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortProtocol {
    /// 0 is every port.
    pub port: Be16,
    /// IANA protocol number; 0 for an address alone.
    pub protocol: u8,
    pub pad: u8,
}

impl PortProtocol {
    #[inline(always)]
    pub const fn new(port: Be16, protocol: u8) -> Self {
        Self { port, protocol, pad: 0 }
    }

    /// Both in a word, the port in the lower half.
    #[inline(always)]
    pub fn word(self) -> u32 {
        zerocopy::transmute!(self)
    }
}

impl From<Ipv4Addr> for Addr {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(Be32::new(address.to_bits()))
    }
}

impl From<Ipv6Addr> for Addr {
    fn from(address: Ipv6Addr) -> Self {
        let bits = address.to_bits();
        Self::v6([96, 64, 32, 0].map(|shift| Be32::new((bits >> shift) as u32)))
    }
}

impl From<IpAddr> for Addr {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => address.into(),
            IpAddr::V6(address) => address.into(),
        }
    }
}

impl From<Addr> for IpAddr {
    fn from(address: Addr) -> Self {
        let bits = address.words.iter().fold(0u128, |bits, word| bits << 32 | u128::from(word.get()));
        if address.is_v4() { IpAddr::V4(Ipv4Addr::from_bits(bits as u32)) } else { IpAddr::V6(Ipv6Addr::from_bits(bits)) }
    }
}

impl fmt::Debug for Addr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        IpAddr::from(*self).fmt(f)
    }
}

/// An Ethernet address, as 16-bit words as they stand in a frame: that much alignment every header has, and it is copied
/// in three moves instead of six.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MacAddr([u16; 3]);

impl MacAddr {
    pub const fn new([a, b, c, d, e, f]: [u8; 6]) -> Self {
        Self([u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]), u16::from_ne_bytes([e, f])])
    }

    pub const fn octets(self) -> [u8; 6] {
        let [[a, b], [c, d], [e, f]] = [self.0[0].to_ne_bytes(), self.0[1].to_ne_bytes(), self.0[2].to_ne_bytes()];
        [a, b, c, d, e, f]
    }
}

/// Both addresses of an Ethernet header, destination first, as native words of it: what forwarding writes.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LinkAddresses([u32; 3]);

impl LinkAddresses {
    #[inline(always)]
    pub const fn new(destination: MacAddr, source: MacAddr) -> Self {
        let ([a, b, c], [d, e, f]) = (destination.0, source.0);
        Self([word(a, b), word(c, d), word(e, f)])
    }

    pub const fn destination(self) -> MacAddr {
        MacAddr([first(self.0[0]), second(self.0[0]), first(self.0[1])])
    }

    pub const fn source(self) -> MacAddr {
        MacAddr([second(self.0[1]), first(self.0[2]), second(self.0[2])])
    }

    /// Source and destination exchanged.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self::new(self.source(), self.destination())
    }

    #[inline(always)]
    pub const fn words(self) -> [u32; 3] {
        self.0
    }

    #[inline(always)]
    pub const fn from_words(words: [u32; 3]) -> Self {
        Self(words)
    }
}

/// Two 16-bit words of memory as one of 32.
const fn word(first: u16, second: u16) -> u32 {
    if cfg!(target_endian = "little") { first as u32 | (second as u32) << 16 } else { (first as u32) << 16 | second as u32 }
}

const fn first(word: u32) -> u16 {
    if cfg!(target_endian = "little") { word as u16 } else { (word >> 16) as u16 }
}

const fn second(word: u32) -> u16 {
    if cfg!(target_endian = "little") { (word >> 16) as u16 } else { word as u16 }
}

impl fmt::Debug for LinkAddresses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} > {}", self.source(), self.destination())
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.octets();
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families_survive_the_way_into_a_record_and_back() {
        for text in ["10.1.2.3", "255.255.255.255", "::1", "2001:db8::8:800:200c:417a"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(IpAddr::from(Addr::from(address)), address);
        }
    }

    #[test]
    fn link_addresses_stand_as_in_an_ethernet_header() {
        let (destination, source) = (MacAddr::new([1, 2, 3, 4, 5, 6]), MacAddr::new([7, 8, 9, 10, 11, 12]));
        let link = LinkAddresses::new(destination, source);
        assert_eq!(link.as_bytes(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!((link.destination(), link.source()), (destination, source));
        assert_eq!(link.reversed(), LinkAddresses::new(source, destination));
    }

    #[test]
    fn a_record_holds_network_byte_order() {
        let address = Addr::from(Ipv4Addr::new(10, 1, 2, 3));
        assert_eq!(address.words[3].raw().to_ne_bytes(), [10, 1, 2, 3]);
        assert_eq!(Be16::new(443).raw().to_ne_bytes(), [1, 187]);
    }
}
