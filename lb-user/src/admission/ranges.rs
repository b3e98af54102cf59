//! From prefixes, of which the longest that an address is in wins, to ranges, of which it is in one.

use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::admission::{Range, said};

/// What becomes of all addresses of either family. Empty where nobody is refused.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ranges {
    pub v4: Vec<Range>,
    pub v6: Vec<Range>,
}

/// A prefix by its first and last address, from the left.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Span {
    first: u128,
    /// Of two that begin together, the shorter prefix comes first.
    length: u8,
    /// Of two that are the same, what is said last counts: that its addresses are denied.
    said: u8,
}

const _: () = assert!(said::ADMIT < said::DENY);

impl Span {
    fn new(prefix: IpNet, said: u8) -> Self {
        let first = match prefix.network() {
            IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
            IpAddr::V6(address) => address.to_bits(),
        };
        Self { first, length: prefix.prefix_len(), said }
    }

    fn last(&self) -> u128 {
        self.first | u128::MAX.checked_shr(self.length.into()).unwrap_or(0)
    }
}

impl Ranges {
    /// `has_allow` says whether there is an allow list: who is on neither list is refused then.
    pub fn new(deny: impl Iterator<Item = IpNet>, allow: impl Iterator<Item = IpNet>, has_allow: bool) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        let spans = allow.map(|prefix| (prefix, said::ADMIT)).chain(deny.map(|prefix| (prefix, said::DENY)));
        for (prefix, said) in spans {
            let spans = if matches!(prefix, IpNet::V4(_)) { &mut v4 } else { &mut v6 };
            spans.push(Span::new(prefix, said));
        }
        let otherwise = if has_allow { said::STRANGER } else { said::ADMIT };
        Self { v4: flatten(v4, otherwise), v6: flatten(v6, otherwise) }
    }
}

fn flatten(mut spans: Vec<Span>, otherwise: u8) -> Vec<Range> {
    spans.sort_unstable();
    let mut ranges = Vec::with_capacity(2 * spans.len() + 1);
    tell(&mut ranges, 0, otherwise);
    // Those that the present address is in, the longest last.
    let mut open: Vec<Span> = Vec::new();
    let close = |ranges: &mut Vec<Range>, open: &mut Vec<Span>, ended: Span| {
        let below = open.last().map_or(otherwise, |span| span.said);
        if let Some(next) = ended.last().checked_add(1) {
            tell(ranges, next, below);
        }
    };
    for span in spans {
        while let Some(ended) = open.pop_if(|open| open.last() < span.first) {
            close(&mut ranges, &mut open, ended);
        }
        tell(&mut ranges, span.first, span.said);
        open.push(span);
    }
    while let Some(ended) = open.pop() {
        close(&mut ranges, &mut open, ended);
    }
    if ranges.iter().all(|range| range.said == said::ADMIT) {
        ranges.clear();
    }
    ranges.shrink_to_fit();
    ranges
}

/// From here on, up to what is told next. What is told of the same place last counts.
fn tell(ranges: &mut Vec<Range>, first: u128, said: u8) {
    ranges.pop_if(|range| range.first == first);
    if ranges.last().is_none_or(|range| range.said != said) {
        ranges.push(Range { first, said });
    }
}
