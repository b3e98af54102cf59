//! Tells a backend by full NAT, which sees an address of the pool, who its client is: by the TCP option that load balancers use for it
//! (kind 254, which RFC 4727 has for experiments; the client's port and address follow in network byte order).
//!
//! Segments that carry nothing have it, SYNs among them: the servers' modules look at the SYN or at the acknowledgement that completes the
//! handshake, and no segment with data gets longer than its way may carry.

use lb_common::checksum::Delta;
use lb_common::records::service_flags;

use crate::env::Env;
use crate::ethernet;
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::{self, Parsed};
use crate::service;
use crate::transport::{self, TCP, TCP_LEN, TCP_LEN_MAX, tcp_flags};

pub const KIND: u8 = 254;

/// Puts the option into a segment that is to have it, if there is room. All else stays as it is.
#[inline(always)]
pub fn tell<F: Family>(packet: &mut impl Packet, env: &impl Env) {
    let Ok(parsed) = parse::headers::<F, false>(packet) else { return };
    // What has options or extensions of IP is left alone.
    let is_simple = parsed.fault.is_none() && parsed.flow.protocol() == TCP && parsed.l4 - parsed.l3 == F::LEN;
    if !is_simple || parsed.tcp_flags & tcp_flags::RST != 0 {
        return;
    }
    let Some(tcp_len) = transport::tcp_len(packet, parsed.l4) else { return };
    let is_empty = parsed.ip_len as usize == F::LEN + tcp_len;
    if !is_empty || tcp_len + size_of::<F::Toa>() > TCP_LEN_MAX {
        return;
    }
    let service = service::find::<F>(env, env.settings(), parsed.flow.vip, parsed.flow.listener());
    if service.is_some_and(|(service, _)| service.flags & service_flags::TOA != 0) {
        insert(packet, &parsed, tcp_len);
    }
}

/// All that stands before the options moves to the front, and the option becomes the first of them.
#[inline(always)]
fn insert<F: Family>(packet: &mut impl Packet, parsed: &Parsed<F>, tcp_len: usize) -> Option<()> {
    let len = size_of::<F::Toa>();
    let option = F::toa(parsed.flow.client, parsed.flow.client_port());
    if !packet.grow(len) {
        return None;
    }
    // The link-layer header has one of three lengths, and a move of known length is a few loads and stores.
    match parsed.l3 - ethernet::UNTAGGED {
        0 => advance::<[u8; ethernet::UNTAGGED]>(packet, 0, len)?,
        4 => advance::<[u8; ethernet::UNTAGGED + 4]>(packet, 0, len)?,
        _ => advance::<[u8; ethernet::UNTAGGED + 8]>(packet, 0, len)?,
    }
    advance::<F::Start>(packet, parsed.l3, len)?;
    *packet.get_mut::<F::Toa>(parsed.l4 + TCP_LEN)? = option;
    let sum = option.as_ref().iter().fold(Delta::NONE, |sum, &word| sum.and(Delta::of_word(0, word)));
    // The length stands in the pseudo-header.
    let (before, after) = ((tcp_len as u16).to_be(), ((tcp_len + len) as u16).to_be());
    transport::lengthen(packet, parsed.l4, len, sum.and(Delta::of_word(before, after)));
    F::lengthen(packet, parsed.l3, len as u16)
}

/// Moves what is `by` bytes further on to `to`.
#[inline(always)]
fn advance<T: crate::packet::Wire + Copy>(packet: &mut impl Packet, to: usize, by: usize) -> Option<()> {
    let moved = *packet.get::<T>(to + by)?;
    *packet.get_mut::<T>(to)? = moved;
    Some(())
}
