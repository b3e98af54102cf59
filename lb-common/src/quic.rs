//! QUIC connection IDs that say which server they are of (draft-ietf-quic-load-balancers-21, without a key): a first octet, of which
//! three bits are the configuration that the ID was made by, the server's ID, and a nonce.

/// Of a server's ID, in bytes.
pub const SERVER_ID_LEN_MAX: u8 = 8;

/// Configurations that connection IDs can be of. The number beyond says that the ID names nobody (section 3.2).
pub const CONFIGS: u8 = 7;

/// What stands for a protocol where a server's ID stands in an endpoint's place: no packet has it (IANA: reserved).
pub const SERVER: u8 = 255;

/// A server's ID in a service, which the [reply directory](crate::records::Settings::replies) leads from to the backend that has it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ServerKey {
    pub service: u16,
    /// The first byte is the lowest; those beyond the ID's length are 0.
    pub server_id: u64,
}

impl ServerKey {
    /// In the place of an IPv6 address.
    #[inline(always)]
    pub const fn longs(self) -> [u64; 2] {
        [self.service as u64, self.server_id]
    }
}

/// How a service reads connection IDs, as a part of its flags.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Reading(u32);

impl Reading {
    const LEN_SHIFT: u32 = 8;
    const LEN: u32 = 0xf << Self::LEN_SHIFT;
    const CONFIGS_SHIFT: u32 = 24;
    /// All bits of flags that this is.
    pub const MASK: u32 = Self::LEN | ((1 << CONFIGS) - 1) << Self::CONFIGS_SHIFT;

    /// Server IDs of 1 to [`SERVER_ID_LEN_MAX`] bytes, in connection IDs of the configurations whose bits are set.
    pub const fn new(server_id_len: u8, configs: u8) -> Self {
        Self(((server_id_len as u32) << Self::LEN_SHIFT | (configs as u32) << Self::CONFIGS_SHIFT) & Self::MASK)
    }

    #[inline(always)]
    pub const fn of(flags: u32) -> Self {
        Self(flags & Self::MASK)
    }

    pub const fn flags(self) -> u32 {
        self.0
    }

    /// In bytes.
    #[inline(always)]
    pub const fn server_id_len(self) -> u8 {
        ((self.0 & Self::LEN) >> Self::LEN_SHIFT) as u8
    }

    /// Whether a connection ID with this first octet is of a configuration that is in use.
    #[inline(always)]
    pub const fn takes(self, first_octet: u8) -> bool {
        (self.0 >> Self::CONFIGS_SHIFT) >> (first_octet >> 5) & 1 != 0
    }

    /// Of eight bytes, the first of them the lowest, those that a server's ID has.
    #[inline(always)]
    pub const fn server_id(self, bytes: u64) -> u64 {
        bytes & (u64::MAX >> (64u32.wrapping_sub(8 * self.server_id_len() as u32) & 63))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reading_is_what_it_was_made_of_and_takes_the_configurations_in_use() {
        for len in 1..=SERVER_ID_LEN_MAX {
            let reading = Reading::of(Reading::new(len, 0b100_0001).flags() | 0x8001_000f);
            assert_eq!(reading.server_id_len(), len);
            let taken: std::vec::Vec<u8> = (0..8).filter(|config| reading.takes(config << 5 | 0x1f)).collect();
            assert_eq!(taken, [0, 6]);
            let wanted = if len == 8 { u64::MAX } else { (1 << (8 * len)) - 1 };
            assert_eq!(reading.server_id(u64::MAX), wanted, "{len}");
        }
    }
}
