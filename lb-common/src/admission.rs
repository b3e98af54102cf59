//! Who may send to a VIP: the rules of one scope as a record, and lists of prefixes as search trees.
//!
//! A list is compiled to ranges, of which each says what becomes of its addresses, so that the longest prefix has won before the first
//! packet comes. The tree over them is read-only and as wide as a cache line: seven keys and eight ways. An address in a million
//! ranges is found in seven lines, whatever lengths its prefixes have, where the kernel's LPM trie follows a pointer for each
//! bit in which two prefixes differ.
//!
//! Addresses are two words in host byte order, from the left: an IPv4 address is the upper half of the first one.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::branchless::{borrow, less};
use crate::hash::{self, HashKeys};
use crate::meter::{Limit, METERS};

/// Keys in a line; its last word is about where they lead.
pub const KEYS: usize = 7;

/// A piece of a tree, one cache line.
///
/// Seven keys: the last addresses of the ranges before each of the ways but the first. Then, in a leaf, what is said of the eight
/// ranges, a byte each; in any other node, the line of its first child, counted from the root. In a wide tree a second line has the
/// second words of the keys.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Line {
    pub keys: [u64; KEYS],
    pub ways: u64,
}

const _: () = assert!(size_of::<Line>() == 64);

/// The most levels of a tree: 16 million ranges.
pub const LEVELS_MAX: u32 = 8;

/// What is said of a range.
pub mod said {
    pub const ADMIT: u8 = 0;
    /// It is on a deny list.
    pub const DENY: u8 = 1;
    /// There is an allow list, and it is on none.
    pub const STRANGER: u8 = 2;
}

/// Where a tree is, in one word, which one store replaces: its first line, the number of its levels, and whether it is wide. 0 admits
/// everybody.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Root(u64);

impl Root {
    const LEVELS_SHIFT: u32 = 32;
    const WIDE: u64 = 1 << 40;

    pub const fn new(line: u32, levels: u32, is_wide: bool) -> Self {
        Self(line as u64 | (levels as u64) << Self::LEVELS_SHIFT | if is_wide { Self::WIDE } else { 0 })
    }

    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    pub const fn raw(self) -> u64 {
        self.0
    }

    #[inline(always)]
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }

    #[inline(always)]
    pub const fn line(self) -> u32 {
        self.0 as u32
    }

    #[inline(always)]
    pub const fn levels(self) -> u32 {
        (self.0 >> Self::LEVELS_SHIFT) as u32 & 0xff
    }

    #[inline(always)]
    pub const fn is_wide(self) -> bool {
        self.0 & Self::WIDE != 0
    }

    /// The same tree somewhere else.
    pub const fn moved_by(self, lines: u32) -> Self {
        if self.is_none() { self } else { Self(self.0 + lines as u64) }
    }
}

/// What the tree at `root` says of an address. `line` yields a line of the table, `None` beyond its end, where nothing is said.
#[inline(always)]
pub fn look_up<'l>(line: impl Fn(u32) -> Option<&'l Line>, root: Root, high: u64, low: u64) -> u8 {
    let first = root.line();
    let (mut at, mut levels, mut level) = (first, root.levels(), 0);
    while level < LEVELS_MAX {
        let Some(node) = line(at) else { return said::ADMIT };
        let mut way = 0;
        if root.is_wide() {
            let Some(second) = line(at + 1) else { return said::ADMIT };
            let mut n = 0;
            while n < KEYS {
                let borrowed = less(second.keys[n], low);
                let (key, high) = (node.keys[n], high);
                way += borrow(key, high, key.wrapping_sub(high).wrapping_sub(borrowed));
                n += 1;
            }
        } else {
            let mut n = 0;
            while n < KEYS {
                way += less(node.keys[n], high);
                n += 1;
            }
        }
        if levels <= 1 {
            return (node.ways >> (way * 8)) as u8;
        }
        let way = (way as u32) << u32::from(root.is_wide());
        at = first.wrapping_add(node.ways as u32).wrapping_add(way);
        levels -= 1;
        level += 1;
    }
    said::ADMIT
}

/// A range by its first address, up to the next one's, and what is said of it.
#[cfg(feature = "alloc")]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Range {
    /// From the left: that of IPv4 is shifted by 96.
    pub first: u128,
    pub said: u8,
}

/// A tree over ranges. Its root is at line 0.
#[cfg(feature = "alloc")]
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tree {
    pub lines: alloc::vec::Vec<Line>,
    pub root: Root,
}

#[cfg(feature = "alloc")]
impl Tree {
    /// The tree over `ranges`, which begin at address 0 and ascend. Nothing is needed, and made, where all are admitted.
    ///
    /// # Errors
    /// [`TooDeep`] beyond 16 million ranges.
    pub fn new(ranges: &[Range]) -> Result<Self, TooDeep> {
        if ranges.iter().all(|range| range.said == said::ADMIT) {
            return Ok(Self::default());
        }
        // A range that begins where a first word does ends the one before at the end of a first word.
        let is_wide = ranges.iter().any(|range| range.first as u64 != 0);
        let n_ways = KEYS + 1;
        let mut n_nodes = alloc::vec![ranges.len().div_ceil(n_ways)];
        while let Some(&n) = n_nodes.last()
            && n > 1
        {
            n_nodes.push(n.div_ceil(n_ways));
        }
        let levels = n_nodes.len() as u32;
        if levels > LEVELS_MAX {
            return Err(TooDeep { n_ranges: ranges.len() });
        }
        let n_lines: usize = n_nodes.iter().sum::<usize>() << usize::from(is_wide);
        let mut lines = alloc::vec::Vec::with_capacity(n_lines);
        // From the root down: level 0 are the leaves.
        for level in (0..n_nodes.len()).rev() {
            let children = n_nodes[level..].iter().sum::<usize>() << usize::from(is_wide);
            for node in 0..n_nodes[level] {
                push(&mut lines, ranges, level as u32, node, children, is_wide);
            }
        }
        Ok(Self { lines, root: Root::new(0, levels, is_wide) })
    }
}

/// More ranges than a tree can have.
#[cfg(feature = "alloc")]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooDeep {
    pub n_ranges: usize,
}

/// Adds the node with this number of a level, whose children's level begins at line `children`.
#[cfg(feature = "alloc")]
fn push(lines: &mut alloc::vec::Vec<Line>, ranges: &[Range], level: u32, node: usize, children: usize, is_wide: bool) {
    let n_ways = KEYS + 1;
    // How many ranges a way leads to.
    let stride = n_ways.pow(level);
    // The last address before that range; of none, the last of all, which no address is beyond.
    let key = |n: usize| ranges.get((node * n_ways + n) * stride).map_or(u128::MAX, |range| range.first.wrapping_sub(1));
    let mut line = Line::default();
    let mut second = Line::default();
    for n in 0..KEYS {
        (line.keys[n], second.keys[n]) = ((key(n + 1) >> 64) as u64, key(n + 1) as u64);
    }
    line.ways = if level == 0 {
        let of = |n: usize| u64::from(ranges.get(node * n_ways + n).map_or(said::ADMIT, |range| range.said));
        (0..n_ways).map(|n| of(n) << (8 * n)).sum()
    } else {
        (children + ((node * n_ways) << usize::from(is_wide))) as u64
    };
    lines.push(line);
    if is_wide {
        lines.push(second);
    }
}

/// The rules of one scope: of a service, at its id, or of all VIPs, at 0.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Rules {
    /// What is said of IPv4 sources. One store replaces it.
    pub v4: Root,
    /// The same of IPv6.
    pub v6: Root,
    /// By [`Meter`](crate::meter::Meter).
    pub limits: [Limit; METERS],
    /// How many bits of an IPv4 address are one source, 1 to 32, where a source's rate is limited.
    pub source_bits_v4: u32,
    /// The same of IPv6, 1 to 64.
    pub source_bits_v6: u32,
    /// Bits of [`rules_flags`].
    pub flags: u64,
}

const _: () = assert!(size_of::<Rules>() == 64);

pub mod rules_flags {
    /// There is some limit.
    pub const LIMITS: u64 = 1;
    /// Some limit is for what opens connections.
    pub const CONNECTIONS: u64 = 2;
}

macro_rules! rules {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $label:literal;)+) => {
        /// What a packet was dropped for. The numbers index the counters of running programs: append, never renumber.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub enum Rule {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Rule {
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The word for it in metrics, logs and the CLI.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// Half a sentence for an operator.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

rules! {
    /// its sender is on the deny list
    Deny = 0, "deny";
    /// there is an allow list, and its sender is not on it
    Allow = 1, "allow";
    /// its source sends more packets than one may
    SourcePackets = 2, "source_packets";
    /// its source opens connections faster than one may
    SourceConnections = 3, "source_connections";
    /// more packets arrive than may from all sources together
    Packets = 4, "packets";
    /// connections are opened faster than they may be by all sources together
    Connections = 5, "connections";
}

/// A source that was refused, in a table that has a place for one of all that share it: a majority vote (Boyer and Moore, 1981). Who makes
/// more than half of what is refused at a place is there in the end, and spoofed sources, each of which comes once, outvote nobody.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Suspect {
    /// The source, from the left, as far as the rule looks at it.
    pub high: u64,
    pub low: u64,
    /// The scope, the [rule](Rule) and the family: [`what`](Self::what).
    pub what: u32,
    /// How many bits of the source count.
    pub n_bits: u32,
    /// By how many packets it is ahead of all others here.
    pub votes: u64,
}

const _: () = assert!(size_of::<Suspect>() == 32);

impl Suspect {
    #[inline(always)]
    pub const fn what(scope: u16, rule: Rule, is_v6: bool) -> u32 {
        scope as u32 | (rule as u32) << 16 | (is_v6 as u32) << 24
    }

    pub const fn scope(&self) -> u16 {
        self.what as u16
    }

    pub fn rule(&self) -> Option<Rule> {
        Rule::ALL.get((self.what >> 16 & 0xff) as usize).copied()
    }

    pub const fn is_v6(&self) -> bool {
        self.what >> 24 != 0
    }

    /// Its place in a table of a power of two.
    #[inline(always)]
    pub fn place(&self, keys: &HashKeys) -> u32 {
        (hash::flow_v6(keys, [self.high, self.low], self.what).0 >> 40) as u32
    }

    /// Counts a packet of `source`.
    #[inline(always)]
    pub fn hear(&mut self, source: &Self) {
        if self.high == source.high && self.low == source.low && self.what == source.what {
            self.votes += 1;
        } else if self.votes == 0 {
            (self.high, self.low, self.what, self.n_bits, self.votes) = (source.high, source.low, source.what, source.n_bits, 1);
        } else {
            self.votes -= 1;
        }
    }
}

/// Counters of drops in one scope: room to append.
pub const RULE_SLOTS: usize = 8;

const _: () = assert!(Rule::ALL.len() <= RULE_SLOTS);

#[cfg(test)]
mod tests {
    use super::*;

    /// Linear, from the ranges themselves.
    fn expected(ranges: &[Range], address: u128) -> u8 {
        ranges.iter().rev().find(|range| range.first <= address).map_or(said::ADMIT, |range| range.said)
    }

    fn check(ranges: &[Range]) {
        let tree = Tree::new(ranges).unwrap();
        let look_up = |address: u128| look_up(|n| tree.lines.get(n as usize), tree.root, (address >> 64) as u64, address as u64);
        for range in ranges {
            for address in [range.first.wrapping_sub(1), range.first, range.first.saturating_add(1)] {
                assert_eq!(look_up(address), expected(ranges, address), "{address:x} of {} ranges", ranges.len());
            }
        }
        assert_eq!(look_up(u128::MAX), expected(ranges, u128::MAX), "the last of {} ranges", ranges.len());
    }

    fn ranges(n: usize, shift: u32) -> Vec<Range> {
        let first = |i: usize| if i == 0 { 0 } else { (crate::hash::avalanche(i as u64) as u128) << shift };
        let mut ranges: Vec<Range> = (0..n).map(|i| Range { first: first(i), said: (i % 3) as u8 }).collect();
        ranges.sort_by_key(|range| range.first);
        ranges.dedup_by_key(|range| range.first);
        ranges
    }

    #[test]
    fn a_tree_of_any_size_says_what_the_ranges_say() {
        for shift in [64, 60, 32, 0] {
            for n in (1..=130).chain([511, 512, 513, 4095, 4096, 4097, 5000]) {
                if n > 1 {
                    check(&ranges(n, shift));
                }
            }
        }
    }

    #[test]
    fn the_ends_of_the_address_space_belong_to_the_outer_ranges() {
        let all = [Range { first: 0, said: said::DENY }];
        let last = [Range { first: 0, said: said::ADMIT }, Range { first: u128::MAX, said: said::DENY }];
        let half = [Range { first: 0, said: said::STRANGER }, Range { first: 1 << 127, said: said::ADMIT }];
        [&all[..], &last, &half].into_iter().for_each(check);
    }

    #[test]
    fn where_everybody_is_admitted_there_is_no_tree() {
        assert_eq!(Tree::new(&[Range { first: 0, said: said::ADMIT }]).unwrap(), Tree::default());
        assert!(Tree::default().root.is_none());
    }

    #[test]
    fn a_million_prefixes_take_less_than_the_room_that_is_made_for_them() {
        // Each prefix apart from the others: two ranges, and one before.
        let n_prefixes = 1_000_000;
        let ranges: Vec<Range> = (0..=2 * n_prefixes).map(|n| Range { first: n << 80, said: (n % 2) as u8 }).collect();
        let tree = Tree::new(&ranges).unwrap();
        assert!(tree.lines.len() as u128 <= n_prefixes * crate::limits::LINES_PER_16_PREFIXES as u128 / 16);
        assert_eq!((tree.root.levels(), tree.root.is_wide()), (7, false));
    }

    #[test]
    fn who_is_refused_most_is_found_among_a_million_that_come_once() {
        let keys = HashKeys::from_bytes([3; 32]);
        let mut table = vec![Suspect::default(); crate::limits::SUSPECTS as usize];
        let source = |high, rule| Suspect { high, what: Suspect::what(4, rule, false), n_bits: 32, ..Suspect::default() };
        let heavy = source(0x0a09_0909 << 32, Rule::SourcePackets);
        for n in 0..1_000_000u64 {
            let others = source(crate::hash::avalanche(n + 1), Rule::Deny);
            for suspect in [others].iter().chain((n % 50 == 0).then_some(&heavy)) {
                let n_places = table.len();
                table[suspect.place(&keys) as usize % n_places].hear(suspect);
            }
        }
        let most = table.iter().max_by_key(|suspect| suspect.votes).unwrap();
        assert_eq!((most.high, most.scope(), most.rule()), (heavy.high, 4, Some(Rule::SourcePackets)));
        assert!(most.votes > 15_000, "{}", most.votes);
    }

    #[test]
    fn labels_and_numbers_of_rules_are_unique() {
        for (number, rule) in Rule::ALL.iter().enumerate() {
            assert_eq!(*rule as usize, number);
            assert!(Rule::ALL[number + 1..].iter().all(|other| other.label() != rule.label()));
        }
    }
}
