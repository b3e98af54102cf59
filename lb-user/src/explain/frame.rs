//! A frame in a buffer, for the packet path to work on.

use lb_common::Verdict;
use lb_common::checksum::Sum;
use lb_ebpf::{Env, Packet, Part, Wire};
use zerocopy::IntoBytes;

/// What drivers leave in front of a frame, as XDP asks them to.
const HEADROOM: usize = 256;

/// A frame with the interface, by index, that it came in on.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Aligned as headers need it.
    words: Vec<u64>,
    len: usize,
    ingress: u32,
}

impl Frame {
    pub fn new(bytes: &[u8], ingress: u32) -> Self {
        let mut words = vec![0u64; bytes.len().div_ceil(size_of::<u64>())];
        words.as_mut_bytes()[..bytes.len()].copy_from_slice(bytes);
        Self { words, len: bytes.len(), ingress }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.words.as_bytes()[..self.len]
    }
}

impl Packet for Frame {
    fn get<T: Wire>(&self, offset: usize) -> Option<&T> {
        debug_assert!(offset.is_multiple_of(align_of::<T>()), "headers stand at even offsets, not at {offset}");
        T::ref_from_bytes(self.bytes().get(offset..offset.checked_add(size_of::<T>())?)?).ok()
    }

    fn get_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        debug_assert!(offset.is_multiple_of(align_of::<T>()), "headers stand at even offsets, not at {offset}");
        let bytes = &mut self.words.as_mut_bytes()[..self.len];
        T::mut_from_bytes(bytes.get_mut(offset..offset.checked_add(size_of::<T>())?)?).ok()
    }

    fn sum(&self, offset: usize, len: usize) -> Option<Sum> {
        let mut sum = Sum::default();
        let (words, _) = self.bytes().get(offset..offset.checked_add(len)?)?.as_chunks();
        words.iter().for_each(|word| sum.add(u32::from_ne_bytes(*word)));
        Some(sum)
    }

    fn frame_len(&self) -> usize {
        self.len
    }

    fn has_len(&self, len: usize) -> bool {
        len <= self.len
    }

    fn has_linear_len(&self, len: usize) -> bool {
        len <= self.len
    }

    fn unrelated(&self, offset: usize) -> usize {
        offset
    }

    fn forgotten(&self, number: usize) -> usize {
        number
    }

    fn grow(&mut self, by: usize) -> bool {
        let has_room = by <= HEADROOM;
        if has_room {
            *self = Self::new(&[&vec![0; by], self.bytes()].concat(), self.ingress);
        }
        has_room
    }

    fn shrink(&mut self, by: usize) -> bool {
        let is_longer = by < self.len;
        if is_longer {
            *self = Self::new(&self.bytes()[by..], self.ingress);
        }
        is_longer
    }

    fn cut(&mut self, len: usize) -> bool {
        let is_shorter = len <= self.len;
        if is_shorter {
            self.len = len;
        }
        is_shorter
    }

    fn take_apart(&mut self, env: &impl Env, part: Part) -> Option<Verdict> {
        lb_ebpf::part(self, env, part)
    }

    fn ingress(&self) -> u32 {
        self.ingress
    }
}
