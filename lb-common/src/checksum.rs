//! Internet checksums, changed incrementally (RFC 1624).
//!
//! All arithmetic is on native words: one's complement sums do not care about byte order (RFC 1071 section 2),
//! as long as every word is read and written the same way.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Addr, Be16, Be32};

/// What replacing some 16-bit words adds to a one's complement sum: `~m + m'` over all of them, folded.
///
/// Known when a backend's record is written, so that the packet path adds one number instead of summing six.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Delta(u16);

impl Delta {
    pub const NONE: Self = Self(0);

    /// The change from `old` to `new`, two native words as they stand in a packet.
    pub const fn of_word(old: u16, new: u16) -> Self {
        Self(fold(!old as u32 + new as u32))
    }

    /// The change from one pair of words to another.
    #[inline(always)]
    pub const fn of_pair(old: u32, new: u32) -> Self {
        let sum = (!old & 0xffff) + (!old >> 16) + (new & 0xffff) + (new >> 16);
        Self(fold(sum))
    }

    /// The change from one address to another, of the same family or not: leading words of an IPv4-mapped pair cancel out.
    #[inline(always)]
    pub fn of_addr(old: Addr, new: Addr) -> Self {
        old.words.iter().zip(new.words).fold(Self::NONE, |delta, (old, new)| {
            let (old, new) = (old.raw(), new.raw());
            delta.and(Self::of_word(old as u16, new as u16)).and(Self::of_word((old >> 16) as u16, (new >> 16) as u16))
        })
    }

    /// Both changes.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(fold(self.0 as u32 + other.0 as u32))
    }

    /// The change back.
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self(!self.0)
    }

    /// A header's checksum field after the change (RFC 1624 equation 3: `HC' = ~(~HC + ~m + m')`).
    #[inline(always)]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold(!checksum as u32 + self.0 as u32)
    }

    /// The same for UDP over IPv4, where 0 says that there is no checksum, and a sum of 0 is sent as all ones (RFC 768).
    #[inline(always)]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 {
            return 0;
        }
        match self.apply(checksum) {
            0 => 0xffff,
            changed => changed,
        }
    }
}

/// A one's complement sum in the making, of words as they stand in a packet.
#[derive(Clone, Copy, Default)]
pub struct Sum(u64);

impl Sum {
    /// Adds two 16-bit words.
    #[inline(always)]
    pub fn add(&mut self, words: u32) {
        self.0 += u64::from(words);
    }

    /// Adds four.
    #[inline(always)]
    pub fn add_long(&mut self, words: u64) {
        self.add(words as u32);
        self.add((words >> 32) as u32);
    }

    /// What stands in a header as the checksum of all these words.
    #[inline(always)]
    pub fn checksum(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        !fold(sum as u32)
    }
}

/// The flag "don't fragment" of an IPv4 header.
pub const DONT_FRAGMENT: Be16 = Be16::new(0x4000);

/// Time to live of packets of our own (RFC 1700's recommendation, and what Linux uses).
pub const TTL_OWN: u8 = 64;

/// The checksum of an IPv4 header of our own: without options, not to be fragmented, with the [usual](TTL_OWN) time to live;
/// total length and type of service are 0, to be added as [`Delta`]s.
#[inline(always)]
pub fn own_header(source: Be32, destination: Be32, protocol: u8) -> u16 {
    let mut sum = Sum::default();
    sum.add(u16::from_ne_bytes([0x45, 0]).into());
    sum.add(DONT_FRAGMENT.raw().into());
    sum.add(u16::from_ne_bytes([TTL_OWN, protocol]).into());
    sum.add(source.raw());
    sum.add(destination.raw());
    sum.checksum()
}

/// The one's complement sum of two words whose 32-bit sum is given. One fold is enough for two words; the second is for callers with more.
#[inline(always)]
const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    (sum + (sum >> 16)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn full(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|&word| u32::from(word)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !sum as u16
    }

    proptest! {
        #[test]
        fn an_incremental_change_equals_a_full_recomputation(
            mut words in prop::collection::vec(any::<u16>(), 12..40), old in any::<[u16; 2]>(), new in any::<[u16; 2]>()
        ) {
            // A header is never all zeros: its first word holds a version or a port. Without that, +0 and -0 differ.
            words[0] = words[0].max(1);
            words.extend(old);
            let before = full(&words);
            let n = words.len();
            words[n - 2..].copy_from_slice(&new);
            let delta = Delta::of_word(old[0], new[0]).and(Delta::of_word(old[1], new[1]));
            prop_assert_eq!(delta.apply(before), full(&words));
            prop_assert_eq!(delta.reversed().apply(full(&words)), before);
        }
    }

    #[test]
    fn udp_without_a_checksum_stays_without_and_none_becomes_without() {
        let delta = Delta::of_word(1, 2);
        assert_eq!(delta.apply_udp(0), 0);
        for checksum in 1..=u16::MAX {
            assert_ne!(delta.apply_udp(checksum), 0);
        }
    }
}
