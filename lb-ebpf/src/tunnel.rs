//! Puts a packet into another one for its backend: IP in IP (RFC 2003, RFC 2473, RFC 4213), or Generic UDP Encapsulation
//! (draft-ietf-intarea-gue, variant 1: an IP packet follows the UDP header).
//!
//! The packet itself stays as it is, its time to live included: it has reached its destination's network. The traffic class,
//! with the congestion notification, stands in both headers (RFC 6040, normal mode).

use lb_common::records::{Backend, Settings, forward};
use lb_common::{BackendId, Be16, Verdict};

use crate::env::Env;
use crate::family::Family;
use crate::forward::leave;
use crate::ipv4::V4;
use crate::ipv6::V6;
use crate::packet::{Packet, Wire};
use crate::parse::Parsed;
use crate::too_big::TooBig;
use crate::transport::{UDP, Udp};
use crate::{Part, ethernet, ipv4, ipv6};

/// What a header says of the packet that follows it.
pub struct Inner {
    /// Length of the packet in bytes.
    pub len: u16,
    /// DSCP and ECN.
    pub class: u8,
    /// IANA protocol number of what follows an IP header.
    pub protocol: u8,
    /// The same for all packets of a flow: what routers and network cards spread tunnels by.
    pub entropy: u32,
}

/// Headers that go between Ethernet and the packet.
pub trait Outer: Wire {
    const ETHERTYPE: Be16;
    fn write(&mut self, backend: &Backend, inner: &Inner);
}

/// One of the dynamic ports (RFC 6335), for a flow.
#[inline(always)]
fn source_port(entropy: u32) -> Be16 {
    Be16::from_raw(entropy as u16 | Be16::new(0xc000).raw())
}

/// A packet that is to go into a tunnel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tunnel {
    pub backend: BackendId,
    /// Length of the tags before the packet, in bytes.
    pub tags_len: u8,
    pub is_v6: bool,
    /// Whether its sender may be told that it is too big.
    pub tells: bool,
    /// Length of the packet in bytes.
    pub ip_len: u16,
    /// The same for all packets of a flow.
    pub entropy: u32,
}

/// Sends the packet to a backend at the end of a tunnel: at once what is usual, which are plain packets that fit, in one of their
/// own family, and all others apart.
///
/// # Errors
/// Whatever keeps it from getting there: [`Verdict::TooBig`], [`Verdict::Oversize`], [`Verdict::NoNextHop`],
/// [`Verdict::NoHeadroom`].
#[inline(always)]
pub fn enter<F: Family, const PLAIN: bool>(
    packet: &mut impl Packet,
    env: &impl Env,
    settings: &Settings,
    backend: &Backend,
    backend_id: BackendId,
    parsed: &Parsed<F>,
    tells: bool,
) -> Result<Verdict, Verdict> {
    let (tags_len, ip_len) = ((parsed.l3 - ethernet::UNTAGGED) as u8, parsed.ip_len as u16);
    let keys = &settings.hash_keys;
    // Fragments of one packet stay together.
    let entropy =
        if parsed.fragment.is_whole() { F::flow_hash(keys, &parsed.flow) } else { F::client_hash(keys, parsed.flow.client) };
    let entropy = entropy.0 as u32;
    let is_usual = PLAIN && ip_len <= backend.len_max && backend.address.is_v4() != F::IS_V6;
    if is_usual && backend.ifindex != 0 {
        let class = F::traffic_class(packet, ethernet::UNTAGGED)?;
        let inner = Inner { len: ip_len, class, protocol: F::IN_IP, entropy };
        let ingress = packet.ingress();
        put::<F::Header>(packet, backend, 0, inner)?;
        return leave(env, ingress, backend.ifindex);
    }
    let tunnel = Tunnel { backend: backend_id, tags_len, is_v6: F::IS_V6, tells, ip_len, entropy };
    match packet.take_apart(env, Part::Tunnel(tunnel)) {
        Some(verdict @ (Verdict::Tx | Verdict::Redirect)) => Ok(verdict),
        verdict => Err(verdict.unwrap_or(Verdict::Internal)),
    }
}

/// Encapsulates the packet and chooses the way out.
#[inline(always)]
pub fn encapsulate(packet: &mut impl Packet, env: &impl Env, tunnel: Tunnel) -> Verdict {
    try_encapsulate(packet, env, tunnel).unwrap_or_else(|verdict| verdict)
}

#[inline(always)]
fn try_encapsulate(packet: &mut impl Packet, env: &impl Env, tunnel: Tunnel) -> Result<Verdict, Verdict> {
    let Tunnel { backend, tags_len, is_v6, tells, ip_len, entropy } = tunnel;
    let (backend, tags_len) = (env.backend(backend), usize::from(tags_len));
    let l3 = ethernet::UNTAGGED + tags_len;
    if backend.ifindex == 0 {
        return Err(Verdict::NoNextHop);
    }
    if ip_len > backend.len_max {
        let too_big = TooBig { tags_len: tunnel.tags_len, is_v6, len_max: backend.len_max };
        let told = if tells { packet.take_apart(env, Part::TooBig(too_big)) } else { Some(Verdict::Oversize) };
        return Err(told.unwrap_or(Verdict::Internal));
    }
    let inner = Inner {
        len: ip_len,
        class: if is_v6 { V6::traffic_class(packet, l3)? } else { V4::traffic_class(packet, l3)? },
        protocol: if is_v6 { V6::IN_IP } else { V4::IN_IP },
        entropy,
    };
    let ingress = packet.ingress();
    if backend.address.is_v4() {
        put::<ipv4::Header>(packet, backend, tags_len, inner)?;
    } else {
        put::<ipv6::Header>(packet, backend, tags_len, inner)?;
    }
    leave(env, ingress, backend.ifindex)
}

/// Puts the headers before the packet, `tags_len` bytes of tags staying in front.
#[inline(always)]
fn put<O: Outer>(packet: &mut impl Packet, backend: &Backend, tags_len: usize, inner: Inner) -> Result<(), Verdict> {
    if backend.forward == forward::GUE {
        put_as::<O, true>(packet, backend, tags_len, inner)
    } else {
        put_as::<O, false>(packet, backend, tags_len, inner)
    }
}

#[inline(always)]
fn put_as<O: Outer, const GUE: bool>(
    packet: &mut impl Packet,
    backend: &Backend,
    tags_len: usize,
    mut inner: Inner,
) -> Result<(), Verdict> {
    let l3 = ethernet::UNTAGGED + tags_len;
    let by = size_of::<O>() + if GUE { size_of::<Udp>() } else { 0 };
    if !packet.grow(by) {
        return Err(Verdict::NoHeadroom);
    }
    ethernet::move_to_front(packet, by, tags_len, O::ETHERTYPE)?;
    ethernet::readdress(packet, backend.link)?;
    if GUE {
        inner.len = inner.len.wrapping_add(size_of::<Udp>() as u16);
        inner.protocol = UDP;
    }
    // In this order: the compiler leaves out a check that follows from another, which the verifier does not see.
    let outer: &mut O = packet.get_mut(l3).ok_or(Verdict::Internal)?;
    outer.write(backend, &inner);
    if GUE {
        let udp: &mut Udp = packet.get_mut(l3 + size_of::<O>()).ok_or(Verdict::Internal)?;
        udp.write(source_port(inner.entropy), backend.port, Be16::new(inner.len));
    }
    Ok(())
}
