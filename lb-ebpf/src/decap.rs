//! The backend's end of a tunnel: takes packets apart that came in others to this host, for its own stack.
//!
//! IP in IP of both versions in both, and Generic UDP Encapsulation of both variants (draft-ietf-intarea-gue): an IP packet
//! right after the UDP header, or after a header that says so. What is in no such tunnel passes untouched.

use lb_common::decap::{Ends, Outcome};
use lb_common::{Addr, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ethernet::{self, Ethertype};
use crate::family::Family;
use crate::ipv4::V4;
use crate::ipv6::V6;
use crate::packet::Packet;
use crate::transport;

/// The header of variant 0.
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Gue {
    /// Variant (2 bits), control (1), length of what follows these four bytes in words of 4 bytes (5).
    start: u8,
    protocol: u8,
    flags: u16,
}

const UDP_LEN: usize = 8;
const CONTROL: u8 = 0x20;
const LEN_MASK: u8 = 0x1f;

/// ECN: the packet met congestion, or its ends do not speak of it.
const CONGESTION_EXPERIENCED: u8 = 3;
const NOT_CAPABLE: u8 = 0;

/// The packet in a packet.
struct Inner {
    l3: usize,
    is_v6: bool,
}

/// Takes a packet apart, if it is one of those.
#[inline(always)]
pub fn take_apart(packet: &mut impl Packet, ends: &Ends) -> Outcome {
    let outcome = match ethernet::parse(packet) {
        Ok(link) if link.ethertype == Ethertype::IPV4 => outer::<V4>(packet, ends, link.l3),
        Ok(link) if link.ethertype == Ethertype::IPV6 => outer::<V6>(packet, ends, link.l3),
        _ => Err(Outcome::Other),
    };
    outcome.unwrap_or_else(|outcome| outcome)
}

#[inline(always)]
fn outer<F: Family>(packet: &mut impl Packet, ends: &Ends, l3: usize) -> Result<Outcome, Outcome> {
    let parsed = F::parse::<false>(packet, l3).ok_or(Outcome::Other)?;
    let protocol = parsed.flow.protocol();
    let outcome = match (protocol, parsed.fault) {
        (V4::IN_IP | V6::IN_IP, Some(Verdict::NotService)) => Outcome::Ipip,
        (transport::UDP, None) if parsed.flow.vip_port() == ends.gue_port => Outcome::Gue,
        _ => return Err(Outcome::Other),
    };
    if !is_one_of::<F>(&ends.ours, parsed.flow.vip) {
        return Err(Outcome::Other);
    }
    if ends.is_exclusive != 0 && !is_one_of::<F>(&ends.senders, parsed.flow.client) {
        return Err(Outcome::Stranger);
    }
    let inner = if outcome == Outcome::Gue {
        in_gue(packet, parsed.l4 + UDP_LEN)?
    } else {
        Inner { l3: parsed.l4, is_v6: protocol == V6::IN_IP }
    };
    let version: [u8; 2] = *packet.get(packet.forgotten(inner.l3)).ok_or(Outcome::Malformed)?;
    if version[0] >> 4 != if inner.is_v6 { 6 } else { 4 } {
        return Err(Outcome::Malformed);
    }
    let is_congested = F::traffic_class(packet, l3).map_err(|_| Outcome::Malformed)? & 3 == CONGESTION_EXPERIENCED;
    if is_congested {
        if inner.is_v6 { tell::<V6>(packet, inner.l3) } else { tell::<V4>(packet, inner.l3) }?;
    }
    let ethertype = if inner.is_v6 { V6::ETHERTYPE } else { V4::ETHERTYPE };
    let by = inner.l3 - l3;
    ethernet::move_to_back(packet, by, l3 - ethernet::UNTAGGED, ethertype).map_err(|_| Outcome::Malformed)?;
    if packet.shrink(by) { Ok(outcome) } else { Err(Outcome::Malformed) }
}

#[inline(always)]
fn is_one_of<F: Family>(addresses: &[Addr], address: F::Address) -> bool {
    let mut is_one = false;
    for one in addresses {
        is_one |= F::is(one, address);
    }
    is_one
}

/// What follows the UDP header at `start`.
#[inline(always)]
fn in_gue(packet: &impl Packet, start: usize) -> Result<Inner, Outcome> {
    let header: &Gue = packet.get(packet.forgotten(start)).ok_or(Outcome::Malformed)?;
    // An IP header begins with its version, 4 or 6: as a variant of this header, both are 1.
    match (header.start >> 4, header.protocol) {
        (4, _) => Ok(Inner { l3: start, is_v6: false }),
        (6, _) => Ok(Inner { l3: start, is_v6: true }),
        (version, protocol @ (V4::IN_IP | V6::IN_IP)) if version < 4 && header.start & CONTROL == 0 => {
            let len = size_of::<Gue>() + 4 * usize::from(header.start & LEN_MASK);
            Ok(Inner { l3: start + len, is_v6: protocol == V6::IN_IP })
        }
        _ => Err(Outcome::Malformed),
    }
}

/// Tells the packet's receiver of congestion on the way.
#[inline(always)]
fn tell<F: Family>(packet: &mut impl Packet, l3: usize) -> Result<(), Outcome> {
    let l3 = packet.forgotten(l3);
    match F::traffic_class(packet, l3) {
        Ok(class) if class & 3 == NOT_CAPABLE => Err(Outcome::Congested),
        Ok(_) => F::mark_congested(packet, l3).map_err(|_| Outcome::Malformed),
        Err(_) => Err(Outcome::Malformed),
    }
}
