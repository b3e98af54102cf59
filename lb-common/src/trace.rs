//! What `xlb trace` asks of the packet path, and what it is told: single packets, with what became of them and why.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::Addr;
use crate::slot::BackendId;

/// The most that a record has of a frame, in bytes.
pub const HEAD_LEN: usize = 256;

/// A frame is copied by as many bytes at a time: it may stand at any even address, and its headers at even offsets.
pub type Piece = [u8; 2];

/// The beginning of a frame.
pub type Head = [Piece; HEAD_LEN / size_of::<Piece>()];

/// Records are bounded in each window of this many units of [`meter`](crate::meter), as a power of two: 134 ms.
pub const WINDOW_SHIFT: u32 = 25;

/// Records in a window, at most: some 4,500 in a second, over all CPUs.
pub const RECORDS_MAX: u32 = 600;

/// Bytes of the ring that records go through, a power of two.
pub const RING_LEN: u32 = 1 << 19;

// With the header that the kernel puts before each. Whoever reads may sleep through a window.
const _: () = assert!(RECORDS_MAX as usize * (size_of::<Record>() + 8) < RING_LEN as usize);

/// Which packets are traced. The only element of the `TRACE_RULES` map; without a trace it is all zeros, and nothing is.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rules {
    /// One end of the packet is in this prefix.
    pub client: Prefix,
    /// The packet is for this VIP, or from it once it is restored.
    pub vip: Prefix,
    /// It is for this backend, or from it.
    pub backend: Prefix,
    /// Bits of [`Verdict`](crate::Verdict)s that are told.
    pub verdicts: u64,
    /// Nothing is traced from then on, in units of [`meter`](crate::meter): whoever wants more must say so, or has died.
    pub until: u64,
    /// One packet in so many is told, by chance; 0 and 1 are all.
    pub one_in: u32,
    /// Records in each window, at most [`RECORDS_MAX`].
    pub n_max: u32,
    /// Stands in each record: those of a trace that is over are told from this one's.
    pub id: u32,
    pub pad: u32,
}

const _: () = assert!(size_of::<Rules>() == 128);

impl Rules {
    /// By which nothing is traced.
    pub const NONE: Self = Self {
        client: Prefix::ANY,
        vip: Prefix::ANY,
        backend: Prefix::ANY,
        verdicts: 0,
        until: 0,
        one_in: 0,
        n_max: 0,
        id: 0,
        pad: 0,
    };
}

/// Addresses with the same upper bits. All zeros has any.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Prefix {
    /// As far as the mask has it.
    pub address: Addr,
    pub mask: Addr,
}

impl Prefix {
    pub const ANY: Self = Self { address: Addr::UNSPECIFIED, mask: Addr::UNSPECIFIED };

    /// Without a branch, for the verifier's sake.
    #[inline(always)]
    pub fn has(&self, address: &Addr) -> bool {
        let differs = |i: usize| (self.address.words[i].raw() ^ address.words[i].raw()) & self.mask.words[i].raw();
        (differs(0) | differs(1) | differs(2) | differs(3)) == 0
    }

    #[inline(always)]
    pub fn is_any(&self) -> bool {
        let word = |i: usize| self.mask.words[i].raw();
        (word(0) | word(1) | word(2) | word(3)) == 0
    }
}

/// Why a packet's backend is its backend. A number, which the packet path hands on and does not look at.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct How(pub u8);

impl How {
    /// Nobody was chosen.
    pub const NOT: Self = Self(0);
    /// The slot is at rest: all its flows are there.
    pub const AT_REST: Self = Self(1);
    /// The flow is on record there.
    pub const ON_RECORD: Self = Self(2);
    /// A SYN opens a flow, which goes to the slot's current backend.
    pub const NEW: Self = Self(3);
    /// A new flow, whose backend the service's algorithm chose.
    pub const CHOSEN: Self = Self(4);
    /// Not on record, and from before the slot moved.
    pub const SETTLED: Self = Self(5);
    /// Not on record, and nobody else may have it: the slot's current backend.
    pub const CURRENT: Self = Self(6);
    /// The first fragment of the same packet went there, or came from there.
    pub const FRAGMENT: Self = Self(7);
    /// It is from this backend.
    pub const REPLY: Self = Self(8);
    /// The packet's QUIC connection ID names it.
    pub const CONNECTION_ID: Self = Self(9);
}

/// A packet's way through the tables.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Choice {
    /// By id.
    pub service: u16,
    /// [`BackendId::NONE`] if nobody may have it.
    pub backend: BackendId,
    /// In the whole map; 0 if no slot was asked.
    pub slot_index: u32,
    pub how: How,
}

/// One packet that was traced.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Record {
    /// When it came, on the monotonic clock.
    pub at_ns: u64,
    /// Of the trace.
    pub id: u32,
    /// Index of the interface that it came in on.
    pub ingress: u32,
    /// Index of the interface that it leaves by; 0 if it does not, or the host or the kernel's routing knows.
    pub egress: u32,
    /// Among the service's slots, if one was asked.
    pub slot_index: u32,
    /// As in [`Choice`]; so are the next, and `how`.
    pub service: u16,
    pub backend: u16,
    /// Number of its [`Verdict`](crate::Verdict).
    pub verdict: u8,
    pub how: How,
    /// Number of the [`Rule`](crate::admission::Rule) that refused it; holds for such verdicts only.
    pub rule: u8,
    pub pad: u8,
    /// Scope of that rule.
    pub scope: u16,
    /// Bytes of the frame in `came`, and in `left`; 0 of one that does not leave.
    pub came_len: u16,
    pub left_len: u16,
    pub pad2: [u16; 5],
    /// Length of the whole frame as it came, and as it leaves.
    pub frame_len: u32,
    pub frame_left_len: u32,
    pub came: Head,
    pub left: Head,
}

const _: () = assert!(size_of::<Record>() == 56 + 2 * HEAD_LEN);

impl Default for Record {
    fn default() -> Self {
        zerocopy::FromZeros::new_zeroed()
    }
}

impl Record {
    /// The beginning of the frame as it came.
    pub fn came(&self) -> &[u8] {
        head(&self.came, self.came_len)
    }

    /// The beginning of the frame as it leaves; none of one that does not.
    pub fn left(&self) -> &[u8] {
        head(&self.left, self.left_len)
    }
}

fn head(head: &Head, len: u16) -> &[u8] {
    let bytes = head.as_flattened();
    &bytes[..usize::from(len).min(bytes.len())]
}

/// One CPU's element of the `TRACES` map: the record that it is at, and what it counted.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Scratch {
    pub record: Record,
    /// Records that were written.
    pub n_written: u64,
    /// Records for which the ring had no room.
    pub n_lost: u64,
    /// Packets that were not looked at, for the window had its records.
    pub n_limited: u64,
    /// The record is that of the packet that this CPU is at.
    pub is_begun: u64,
    /// The packet is for a VIP that is traced.
    pub is_for_vip: u64,
    pub pad: [u64; 4],
}

const _: () = assert!(size_of::<Scratch>() == 640);

#[cfg(test)]
mod tests {
    use core::net::IpAddr;

    use super::*;

    #[test]
    fn a_prefix_has_what_is_in_it_and_none_has_all() {
        let address = |text: &str| Addr::from(text.parse::<IpAddr>().unwrap());
        let prefix =
            |text: &str, mask: &str| Prefix { address: address(text), mask: Addr::from(mask.parse::<IpAddr>().unwrap()) };
        let all_v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        for (prefix, inside, outside) in [
            (prefix("10.1.0.0", "::ffff:ffff:255.255.0.0"), "10.1.200.3", "10.2.0.0"),
            (prefix("fd00::1", all_v6), "fd00::1", "fd00::2"),
            (prefix("fd00::", "ffff::"), "fd00:1::2", "fd01::"),
        ] {
            assert!(prefix.has(&address(inside)) && !prefix.has(&address(outside)), "{prefix:?}");
            assert!(!prefix.is_any() && Prefix::ANY.has(&address(inside)) && Prefix::ANY.is_any());
        }
    }
}
