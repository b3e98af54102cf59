//! Tells the sender of a packet that does not fit into its tunnel how large one may be: ICMP "fragmentation needed" (RFC 1191), or
//! ICMPv6 "packet too big" (RFC 4443).
//!
//! An IPv4 sender that lets its packets be fragmented is told too: no program can fragment here, and many listen.

use lb_common::Verdict;

use crate::ethernet;
use crate::family::Family;
use crate::ipv4::V4;
use crate::ipv6::V6;
use crate::packet::Packet;

/// How much of a packet is quoted: its IP header with all options, or some extension headers, and what tells the flow.
const QUOTE_LEN: usize = 128;

/// A packet that is too big.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooBig {
    /// Length of the tags before it, in bytes.
    pub tags_len: u8,
    pub is_v6: bool,
    /// How long it might be, in bytes.
    pub len_max: u16,
}

/// Makes the packet the error about itself, on its way back. [`Verdict::TooBig`], or what keeps its sender from being told.
#[inline(always)]
pub fn tell(packet: &mut impl Packet, too_big: TooBig) -> Verdict {
    let (tags_len, len_max) = (usize::from(too_big.tags_len), too_big.len_max);
    let told = if too_big.is_v6 { told::<V6>(packet, tags_len, len_max) } else { told::<V4>(packet, tags_len, len_max) };
    told.unwrap_or_else(|verdict| verdict)
}

#[inline(always)]
fn told<F: Family>(packet: &mut impl Packet, tags_len: usize, len_max: u16) -> Result<Verdict, Verdict> {
    let l3 = ethernet::UNTAGGED + tags_len;
    let (client, vip) = F::ends(packet, l3)?;
    let sum = packet.sum(l3, QUOTE_LEN).ok_or(Verdict::Truncated)?;
    if !packet.cut(l3 + QUOTE_LEN) {
        return Err(Verdict::Internal);
    }
    if !packet.grow(size_of::<F::TooBig>()) {
        return Err(Verdict::NoHeadroom);
    }
    ethernet::keep_in_front(packet, size_of::<F::TooBig>(), tags_len, F::ETHERTYPE)?;
    ethernet::turn_back(packet)?;
    let report: &mut F::TooBig = packet.get_mut(l3).ok_or(Verdict::Internal)?;
    F::write_too_big(report, vip, client, sum, QUOTE_LEN as u16, len_max);
    Ok(Verdict::TooBig)
}
