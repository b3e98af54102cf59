//! Sends a packet to its backend.

use lb_common::records::{Backend, Settings, backend_flags, forward};
use lb_common::{BackendId, Verdict};

use crate::env::Env;
use crate::ethernet;
use crate::family::{Family, Side};
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::{transport, tunnel};

/// Rewrites the packet for its backend and chooses the way out.
///
/// # Errors
/// Whatever keeps it from leaving.
#[inline(always)]
pub fn send<F: Family, const PLAIN: bool>(
    packet: &mut impl Packet,
    env: &impl Env,
    settings: &Settings,
    backend: &Backend,
    backend_id: BackendId,
    parsed: &Parsed<F>,
) -> Result<Verdict, Verdict> {
    match backend.forward {
        forward::DSR => direct(packet, env, backend),
        forward::NAT => translate::<F>(packet, env, backend, parsed),
        forward::IPIP | forward::GUE => tunnel::enter::<F, PLAIN>(packet, env, settings, backend, backend_id, parsed, true),
        // What full NAT forwards has gone there, unless there is no pool.
        forward::FREE | forward::FULLNAT => Err(Verdict::NoBackend),
        _ => Err(Verdict::Internal),
    }
}

/// Counts a packet towards the backend that it was sent to, if it was; its verdict.
#[inline(always)]
pub fn count<F: Family>(env: &impl Env, id: BackendId, parsed: &Parsed<F>, sent: Result<Verdict, Verdict>) -> Verdict {
    if sent.is_ok() {
        env.count_backend(id, parsed.l3 as u32 + parsed.ip_len, parsed.is_syn());
    }
    sent.unwrap_or_else(|verdict| verdict)
}

/// Direct server return: only the link-layer addresses change, and not the TTL, for the packet has reached its destination's network.
#[inline(always)]
pub fn direct(packet: &mut impl Packet, env: &impl Env, backend: &Backend) -> Result<Verdict, Verdict> {
    let ingress = packet.ingress();
    ethernet::readdress(packet, backend.link)?;
    leave(env, ingress, backend.ifindex)
}

/// NAT: the destination becomes the backend's.
#[inline(always)]
fn translate<F: Family>(
    packet: &mut impl Packet,
    env: &impl Env,
    backend: &Backend,
    parsed: &Parsed<F>,
) -> Result<Verdict, Verdict> {
    count_hop::<F>(packet, backend, parsed.l3)?;
    F::set_address(packet, parsed.l3, Side::Destination, F::from_addr(&backend.address), backend.ip_delta)?;
    if !parsed.fragment.is_later() {
        let port = if backend.port.raw() == 0 { parsed.flow.vip_port() } else { backend.port };
        transport::rewrite(packet, parsed.l4, parsed.flow.protocol(), Side::Destination, port, backend.l4_delta)?;
    }
    leave_translated(packet, env, backend)
}

/// Counts the hop of a packet that is to be rewritten for its NAT backend, unless the host will.
///
/// # Errors
/// [`Verdict::NoNextHop`], [`Verdict::TtlExceeded`]; the packet is unchanged.
#[inline(always)]
pub fn count_hop<F: Family>(packet: &mut impl Packet, backend: &Backend, l3: usize) -> Result<(), Verdict> {
    if via_host(packet, backend) {
        Ok(())
    } else if backend.ifindex == 0 {
        Err(Verdict::NoNextHop)
    } else {
        F::count_hop(packet, l3)
    }
}

/// Whether a rewritten packet goes on through the host's routing, which counts the hop and finds the next one itself.
#[inline(always)]
fn via_host(packet: &impl Packet, backend: &Backend) -> bool {
    backend.flags & backend_flags::VIA_HOST != 0 && backend.ifindex != packet.ingress()
}

/// Sends a rewritten packet to its NAT backend.
///
/// # Errors
/// [`Verdict::NoNextHop`].
#[inline(always)]
pub fn leave_translated(packet: &mut impl Packet, env: &impl Env, backend: &Backend) -> Result<Verdict, Verdict> {
    if via_host(packet, backend) {
        return Ok(Verdict::Routed);
    }
    ethernet::readdress(packet, backend.link)?;
    leave(env, packet.ingress(), backend.ifindex)
}

/// Back out of the interface that the packet came in on, or out of another.
///
/// # Errors
/// [`Verdict::NoNextHop`] if it is none.
#[inline(always)]
pub fn leave(env: &impl Env, ingress: u32, ifindex: u32) -> Result<Verdict, Verdict> {
    if ifindex == ingress {
        Ok(Verdict::Tx)
    } else if ifindex == 0 {
        Err(Verdict::NoNextHop)
    } else if env.redirect(ifindex) {
        Ok(Verdict::Redirect)
    } else {
        Err(Verdict::Internal)
    }
}
