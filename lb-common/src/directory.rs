//! A directory: a read-only hash table over endpoints (address, port, protocol) in a plain BPF array.
//!
//! A BPF hash map costs 13 to 23 ns a lookup and cannot be inlined. User space can afford to search for a seed under which
//! no bucket overflows, so the packet path reads one bucket, compares tags, and checks the one record that a tag leads to.
//! The map holds two halves: user space fills the half that is not in use, then switches with one store.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::limits::BUCKET_ENTRIES;

/// Where a directory's buckets stand in their map and how to hash into them, in one word: what is stored as a whole is read as
/// a whole.
///
/// Bit 0 is the half of the map in use, bits 1 to 5 the logarithm of the number of buckets. All of it together, made odd, is
/// the multiplier that endpoints are hashed with; user space varies the upper bits until nothing overflows.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Directory(u64);

impl Directory {
    const SEED_SHIFT: u32 = 6;

    /// `half` is 0 or 1; of `seed`, the lower 58 bits count.
    pub const fn new(seed: u64, half: u32, n_buckets: u32) -> Self {
        Self(seed << Self::SEED_SHIFT | (n_buckets.ilog2() as u64) << 1 | (half & 1) as u64)
    }

    pub const fn raw(self) -> u64 {
        self.0
    }

    pub const fn half(self) -> u32 {
        self.0 as u32 & 1
    }

    /// What the hashes of endpoints are multiplied with.
    #[inline(always)]
    pub const fn multiplier(self) -> u64 {
        // The half must not matter: the buckets are filled before it is known.
        self.0 | 1
    }

    /// The bucket in its map, of whose halves each has `half_len`, that an endpoint with this hash is in if it is anywhere.
    #[inline(always)]
    pub const fn bucket(self, hash: u64, half_len: u32) -> u32 {
        let bits = (self.0 >> 1) as u32 & 31;
        // The upper bits of a product are the well-mixed ones. Shifting twice allows for no bits at all.
        let index = (hash >> 1) >> (63 - bits);
        index as u32 + self.half() * half_len
    }
}

/// An endpoint's place in a bucket: the upper half of a word is 16 bits of its hash, the lower a record's id, never 0.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Entry(u32);

impl Entry {
    pub const fn new(hash: u64, id: u16) -> Self {
        Self(Self::tag(hash) | id as u32)
    }

    #[inline(always)]
    const fn tag(hash: u64) -> u32 {
        (hash >> 16) as u32 & 0xffff_0000
    }

    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The id of the record to look at, if this entry may be the endpoint's.
    #[inline(always)]
    pub const fn matches(self, hash: u64) -> bool {
        self.0 & 0xffff_0000 == Self::tag(hash)
    }

    #[inline(always)]
    pub const fn id(self) -> u16 {
        self.0 as u16
    }
}

/// Entries are filled from the front: the first empty one ends a search.
#[repr(C, align(32))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Bucket {
    pub entries: [Entry; BUCKET_ENTRIES],
}

const _: () = assert!(size_of::<Bucket>() == 32);

/// A filled directory, to be written to either half of its map.
#[cfg(feature = "alloc")]
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Filled {
    seed: u64,
    pub buckets: alloc::vec::Vec<Bucket>,
}

#[cfg(feature = "alloc")]
impl Filled {
    /// No endpoint at all.
    pub fn empty() -> Self {
        Self { seed: 0, buckets: alloc::vec![Bucket::default()] }
    }

    /// The word that makes packets use it, once its buckets stand in this half.
    pub fn in_half(&self, half: u32) -> Directory {
        Directory::new(self.seed, half, self.buckets.len() as u32)
    }
}

/// Tries a seed at most this often. At the worst load that the limits allow, a seed fails with probability 0.6.
#[cfg(feature = "alloc")]
const SEEDS: u64 = 1000;

/// Buckets for these endpoints, given as a hash function from multiplier to hash for each id.
///
/// `n_buckets_max` is a power of two; the directory gets one bucket an endpoint if that many are allowed, and no more, so that
/// few endpoints take few cache lines.
/// Two endpoints in one bucket with the same tag are refused too: the packet path looks at one record only.
///
/// # Errors
/// [`TooFull`] if no seed works: many more than two endpoints a bucket.
#[cfg(feature = "alloc")]
pub fn fill<E>(endpoints: &[(E, u16)], hash: impl Fn(u64, &E) -> u64, n_buckets_max: u32) -> Result<Filled, TooFull> {
    let n_buckets = endpoints.len().next_power_of_two().min(n_buckets_max as usize);
    (1..=SEEDS)
        .find_map(|attempt| fill_with(crate::hash::avalanche(attempt), endpoints, &hash, n_buckets))
        .ok_or(TooFull { n_endpoints: endpoints.len(), n_buckets })
}

#[cfg(feature = "alloc")]
fn fill_with<E>(seed: u64, endpoints: &[(E, u16)], hash: impl Fn(u64, &E) -> u64, n_buckets: usize) -> Option<Filled> {
    let mut filled = Filled { seed, buckets: alloc::vec![Bucket::default(); n_buckets] };
    let place = filled.in_half(0);
    for (endpoint, id) in endpoints {
        let hash = hash(place.multiplier(), endpoint);
        let entries = &mut filled.buckets[place.bucket(hash, n_buckets as u32) as usize].entries;
        let free = entries.iter().position(|entry| entry.is_empty())?;
        if entries[..free].iter().any(|entry| entry.matches(hash)) {
            return None;
        }
        entries[free] = Entry::new(hash, *id);
    }
    Some(filled)
}

/// No seed places every endpoint.
#[cfg(feature = "alloc")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooFull {
    pub n_endpoints: usize,
    pub n_buckets: usize,
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;
    use crate::{Be16, PortProtocol, hash::endpoint_v4, limits};

    fn find(filled: &Filled, hash: impl Fn(u64) -> u64) -> Option<u16> {
        let directory = filled.in_half(1);
        let hash = hash(directory.multiplier());
        let half_len = filled.buckets.len() as u32;
        let bucket = &filled.buckets[(directory.bucket(hash, half_len) - half_len) as usize];
        bucket.entries.iter().take_while(|entry| !entry.is_empty()).find(|entry| entry.matches(hash)).map(|entry| entry.id())
    }

    #[test]
    fn every_endpoint_is_found_at_the_limits() {
        for (n, n_buckets) in [
            (1, 1),
            (20, 4096),
            (limits::SERVICES + limits::VIPS, limits::SERVICE_BUCKETS),
            (limits::BACKENDS, limits::REPLY_BUCKETS),
        ] {
            let endpoints: Vec<(u32, u16)> = (0..n).map(|i| (i, (i + 1) as u16)).collect();
            let hash = |multiplier, address: &u32| endpoint_v4(multiplier, *address, PortProtocol::new(Be16::new(80), 6));
            let filled = fill(&endpoints, hash, n_buckets).unwrap();
            for (address, id) in &endpoints {
                assert_eq!(find(&filled, |multiplier| hash(multiplier, address)), Some(*id));
            }
        }
    }

    #[test]
    fn more_endpoints_than_entries_are_refused() {
        let endpoints: Vec<(u32, u16)> = (0..100).map(|i| (i, i as u16 + 1)).collect();
        let refused =
            fill(&endpoints, |multiplier, address| endpoint_v4(multiplier, *address, PortProtocol::new(Be16::new(80), 6)), 8);
        assert_eq!(refused, Err(TooFull { n_endpoints: 100, n_buckets: 8 }));
    }
}
