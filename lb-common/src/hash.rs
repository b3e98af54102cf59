//! Keyed hashes. The keys are secret and the same on all nodes of a cluster: nobody outside can aim flows at one backend,
//! and every node sends a flow to the same slot.
//!
//! A round is an addition, a multiplication by a secret odd number, and a shift that brings the well-mixed upper bits down
//! (multiply-shift hashing: Dietzfelbinger et al., "A reliable randomized algorithm for the closest-pair problem", 1997).
//! SipHash would do the same with better proofs and costs about 14 ns in BPF, which has no rotate instruction; this takes 2.
//! The VIP is not hashed: a flow's hash only chooses among the slots of its own service.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::addr::{Addr, PortProtocol};

/// The secret. Any values will do: the multipliers are made odd where they are used.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct HashKeys {
    pub add: [u64; 2],
    pub multiply: [u64; 2],
}

const _: () = assert!(size_of::<HashKeys>() == 32);

impl HashKeys {
    /// Keys from 32 secret bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        let mut words = bytes.chunks_exact(8).map(|chunk| chunk.iter().rev().fold(0, |word, &byte| word << 8 | u64::from(byte)));
        let mut next = || words.next().unwrap_or_default();
        Self { add: [next(), next()], multiply: [next() | 1, next() | 1] }
    }
}

/// A flow's hash: 64 bits, of which the upper half chooses the slot and the lower half tags flow-table entries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowHash(pub u64);

impl FlowHash {
    /// The slot within a region of `2^(32 - shift)` slots.
    ///
    /// The upper bits choose, so that doubling a region splits each slot in two and a flow's new slot is known from its old one.
    #[inline(always)]
    pub const fn slot(self, shift: u32) -> u32 {
        ((self.0 >> 32) as u32) >> (shift & 31)
    }
}

#[inline(always)]
const fn round(state: u64, word: u64, multiplier: u64) -> u64 {
    let mixed = (state ^ word).wrapping_mul(multiplier | 1);
    mixed ^ mixed >> 32
}

#[inline(always)]
fn finish(state: u64, keys: &HashKeys) -> FlowHash {
    FlowHash(state.wrapping_add(keys.add[1]).wrapping_mul(keys.multiply[0] | 1))
}

/// Two 32-bit words as one, the first in the lower half.
#[inline(always)]
pub const fn pair(low: u32, high: u32) -> u64 {
    low as u64 | (high as u64) << 32
}

/// The hash of an IPv4 flow within its service. Words as they stand in the packet; `ports` is both ports, or 0 for an
/// algorithm that ignores them.
///
/// Two multiplications side by side, and one after them. Exchanging the bytes of one product puts its well-mixed end on the
/// other's badly mixed one. With two in a row, and no third, one key in ten makes ports of a client bunch up in few slots.
#[inline(always)]
pub fn flow_v4(keys: &HashKeys, client: u32, ports: u32) -> FlowHash {
    let client = (client as u64).wrapping_add(keys.add[0]).wrapping_mul(keys.multiply[0] | 1);
    let ports = (ports as u64).wrapping_add(keys.add[1]).wrapping_mul(keys.multiply[1] | 1);
    let state = client ^ ports.swap_bytes();
    FlowHash((state ^ state >> 32).wrapping_mul(keys.multiply[0] | 1))
}

/// The hash of an IPv6 flow within its service.
#[inline(always)]
pub fn flow_v6(keys: &HashKeys, client: [u64; 2], ports: u32) -> FlowHash {
    let state = round(keys.add[0], client[0], keys.multiply[0]);
    let state = round(state, client[1], keys.multiply[1]);
    finish(round(state, ports as u64, keys.multiply[0]), keys)
}

/// The hash of an IPv4 endpoint for a [directory](crate::directory) with this multiplier: multiply-shift, whose upper bits count.
#[inline(always)]
pub fn endpoint_v4(multiplier: u64, address: u32, port: PortProtocol) -> u64 {
    pair(address, port.word()).wrapping_mul(multiplier)
}

/// The hash of an IPv6 endpoint for a directory with this multiplier.
#[inline(always)]
pub fn endpoint_v6(multiplier: u64, address: [u64; 2], port: PortProtocol) -> u64 {
    (round(address[0], port.word() as u64, multiplier) ^ address[1]).wrapping_mul(multiplier)
}

/// The endpoint hash of an address of either family, the same that the packet path computes.
pub fn endpoint(multiplier: u64, address: Addr, port: PortProtocol) -> u64 {
    if address.is_v4() {
        endpoint_v4(multiplier, address.words[3].raw(), port)
    } else {
        endpoint_v6(multiplier, address.longs(), port)
    }
}

/// Multipliers of the MurmurHash3 64-bit finalizer.
const AVALANCHE: [u64; 2] = [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53];

/// The MurmurHash3 64-bit finalizer: every input bit flips every output bit with probability about one half.
#[inline(always)]
pub const fn avalanche(mut x: u64) -> u64 {
    x ^= x >> 33;
    x = x.wrapping_mul(AVALANCHE[0]);
    x ^= x >> 33;
    x = x.wrapping_mul(AVALANCHE[1]);
    x ^ x >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(n: u64) -> HashKeys {
        let mut bytes = [0; 32];
        for (i, byte) in bytes.iter_mut().enumerate() {
            *byte = avalanche(n * 32 + i as u64 + 1) as u8;
        }
        HashKeys::from_bytes(bytes)
    }

    /// Chi-squared of flows over 256 bins taken from the bits that choose slots, divided by its expectation.
    fn imbalance(hashes: impl Iterator<Item = FlowHash>) -> f64 {
        let mut bins = [0u32; 256];
        let mut n = 0u32;
        for hash in hashes {
            bins[hash.slot(24) as usize] += 1;
            n += 1;
        }
        let expected = f64::from(n) / 256.0;
        bins.iter().map(|&bin| (f64::from(bin) - expected).powi(2) / expected).sum::<f64>() / 255.0
    }

    #[test]
    fn patterned_flows_spread_like_random_ones_under_any_key() {
        // Chi-squared over 255 degrees of freedom: 1 +- 0.09. Six standard deviations are 1.53.
        for n in 0..40 {
            let keys = keys(n);
            let ports = (0..65_536u32).map(|port| flow_v4(&keys, 0x0100_000a, (port as u16).to_be().into()));
            assert!(imbalance(ports) < 1.6, "ports, key {n}");
            let clients = (0..65_536u32).map(|client| flow_v4(&keys, (0x0a00_0000 + client).to_be(), 0x5000_1234));
            assert!(imbalance(clients) < 1.6, "clients, key {n}");
            let sources = (0..65_536u32).map(|client| flow_v4(&keys, (0x0a00_0000 + client).to_be(), 0));
            assert!(imbalance(sources) < 1.6, "sources only, key {n}");
            let v6 = (0..65_536u32).map(|client| flow_v6(&keys, [0xb80d_0120, u64::from(client.to_be()) << 32], 0x5000_1234));
            assert!(imbalance(v6) < 1.6, "IPv6 clients, key {n}");
        }
    }

    #[test]
    fn ipv4_flows_of_one_service_never_share_a_hash() {
        let keys = keys(7);
        let mut seen: Vec<u64> = (0..200_000u32).map(|n| flow_v4(&keys, n / 1000, n % 1000).0).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), 200_000);
    }

    #[test]
    fn different_keys_send_a_flow_to_different_slots() {
        let slots: Vec<u32> = (0..64).map(|n| flow_v4(&keys(n), 1, 3).slot(16)).collect();
        let distinct: std::collections::HashSet<_> = slots.iter().collect();
        assert!(distinct.len() > 60);
    }

    #[test]
    fn doubling_a_region_splits_each_slot_in_two() {
        for n in 0..1000u32 {
            let hash = flow_v4(&keys(1), n, 3);
            assert_eq!(hash.slot(16), hash.slot(15) / 2);
        }
    }
}
