//! Frames from the table of cases, damaged at random.

use std::sync::LazyLock;

use proptest::prelude::*;
use xlb_tests::path::{cases, packets};

/// What is done to a frame.
#[derive(Clone, Debug)]
enum Mutation {
    /// One byte replaced.
    Byte(prop::sample::Index, u8),
    /// One bit of the headers flipped, where most decisions are.
    HeaderBit(u16),
    /// A 16-bit number of the headers replaced by one that is likely to be on some edge.
    HeaderWord(u16, u16),
    Cut(prop::sample::Index),
    Extend(Vec<u8>),
    /// A tag put in; three are one too many.
    Tag(u16, bool),
    /// IPv4 options put in, the header's lengths kept right.
    Options(Vec<u8>),
    /// IPv6 extension headers put in, each with its length in units of 8 bytes.
    Extensions(Vec<(u8, u8)>),
}

/// Where the headers end, more or less.
const HEADERS: u16 = 80;

fn mutations() -> impl Strategy<Value = Mutation> {
    let edges = prop::sample::select(&[0u16, 1, 7, 8, 19, 20, 40, 0x2000, 0x4000, 0x8000, 0xffff, 0x0800, 0x86dd, 0x8100][..]);
    let extension = (prop::sample::select(&[0u8, 43, 44, 60, 60, 51, 59][..]), 0..3u8);
    prop_oneof![
        4 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, to)| Mutation::Byte(at, to)),
        6 => (0..HEADERS * 8).prop_map(Mutation::HeaderBit),
        3 => (0..HEADERS / 2, prop_oneof![edges, any::<u16>()]).prop_map(|(at, to)| Mutation::HeaderWord(at * 2, to)),
        2 => any::<prop::sample::Index>().prop_map(Mutation::Cut),
        2 => prop::collection::vec(any::<u8>(), 1..100).prop_map(Mutation::Extend),
        2 => (any::<u16>(), any::<bool>()).prop_map(|(id, is_service)| Mutation::Tag(id, is_service)),
        2 => prop::collection::vec(any::<u8>(), 1..11).prop_map(Mutation::Options),
        2 => prop::collection::vec(extension, 1..9).prop_map(Mutation::Extensions),
    ]
}

/// Frames of at least `len_min` bytes.
pub fn frames(len_min: usize) -> impl Strategy<Value = Vec<u8>> {
    static CASES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| cases::all().into_iter().map(|case| case.packet).collect());
    let mutations = prop::collection::vec(mutations(), 0..4);
    let from_cases = (prop::sample::select(CASES.as_slice()), mutations)
        .prop_map(|(frame, mutations)| mutations.into_iter().fold(frame, |frame, mutation| mutation.apply(frame)));
    let noise = prop::collection::vec(any::<u8>(), 0..120);
    prop_oneof![30 => from_cases, 1 => noise].prop_map(move |mut frame| {
        frame.resize(frame.len().max(len_min), 0);
        frame
    })
}

impl Mutation {
    fn apply(self, mut frame: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Byte(at, to) if !frame.is_empty() => {
                let at = at.index(frame.len());
                frame[at] = to;
            }
            Self::HeaderBit(bit) => {
                if let Some(byte) = frame.get_mut(usize::from(bit / 8)) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Self::HeaderWord(at, to) => {
                if let Some(word) = frame.get_mut(usize::from(at)..usize::from(at) + 2) {
                    word.copy_from_slice(&to.to_be_bytes());
                }
            }
            Self::Cut(at) => frame.truncate(at.index(frame.len() + 1)),
            Self::Extend(bytes) => frame.extend(bytes),
            Self::Tag(id, is_service) if frame.len() >= 14 => {
                let kind = if is_service { [0x88, 0xa8] } else { [0x81, 0] };
                let _ = frame.splice(12..12, kind.into_iter().chain(id.to_be_bytes())).count();
            }
            Self::Options(words) if is(&frame, 0x0800, 34) && frame[14] == 0x45 => {
                let options: Vec<u8> = words.iter().flat_map(|&kind| [kind, 4, 0, 0]).collect();
                frame[14] += words.len() as u8;
                let len = u16::from_be_bytes([frame[16], frame[17]]).wrapping_add(options.len() as u16);
                frame[16..18].copy_from_slice(&len.to_be_bytes());
                let _ = frame.splice(34..34, options).count();
            }
            Self::Extensions(headers) if is(&frame, 0x86dd, 54) => frame = with_extensions(frame, &headers),
            _ => {}
        }
        frame
    }
}

fn is(frame: &[u8], ethertype: u16, len: usize) -> bool {
    frame.len() >= len && frame[12..14] == ethertype.to_be_bytes()
}

/// With extension headers of these types and lengths between IPv6's header and what follows.
fn with_extensions(frame: Vec<u8>, headers: &[(u8, u8)]) -> Vec<u8> {
    let types: Vec<u8> = headers.iter().map(|&(kind, _)| kind).collect();
    let mut extended = packets::with_extensions(&frame, &types);
    // From the last to the first, so that places stay what they are.
    for (n, &(_, units)) in headers.iter().enumerate().rev() {
        let at = 54 + 8 * n;
        extended[at + 1] = units;
        let _ = extended.splice(at + 8..at + 8, vec![0; 8 * usize::from(units)]).count();
    }
    let payload_len = (extended.len() - 54) as u16;
    packets::patched(extended, 18, &payload_len.to_be_bytes())
}
