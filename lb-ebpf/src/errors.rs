//! ICMP errors. Whoever has trouble with a packet from a VIP tells the VIP, and quotes the packet: the error goes to the
//! backend that the packet came from, which alone can act on it. By NAT, what is quoted is translated too, in both directions.

use lb_common::checksum::Delta;
use lb_common::records::{Backend, Service, forward, settings_flags};
use lb_common::trace::{Choice, How};
use lb_common::{BackendId, Verdict};

use crate::env::Env;
use crate::family::{Family, Side};
use crate::forward as stage;
use crate::icmp::{self, Echo};
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::{reply, select, service, transport, tunnel};

/// Sends an error about a packet from a VIP to its backend; leaves it to the host if what it quotes is nobody's. `None` if NAT has
/// a part in it.
#[inline(always)]
pub fn pass_on<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let settings = env.settings();
    let Some(quoted) = quoted::<F>(packet, parsed) else { return Some(Verdict::NotService) };
    let Some((backend, backend_id)) = owner::<F>(env, parsed, &quoted) else {
        return (settings.flags & (settings_flags::REPLIES | settings_flags::FULLNAT) == 0).then_some(Verdict::NotService);
    };
    let sent = match backend.forward {
        forward::NAT | forward::FULLNAT => return None,
        // Errors about errors would never end (RFC 1122 section 3.2.2).
        forward::IPIP | forward::GUE => tunnel::enter::<F, false>(packet, env, settings, backend, backend_id, parsed, false),
        forward::DSR => stage::direct(packet, env, backend),
        _ => Err(Verdict::NoBackend),
    };
    Some(stage::count::<F>(env, backend_id, parsed, sent))
}

/// Whether it is about a packet from a VIP.
#[inline(always)]
pub fn is_ours<F: Family>(packet: &impl Packet, env: &impl Env, parsed: &Parsed<F>) -> bool {
    quoted::<F>(packet, parsed).is_some_and(|quoted| {
        let listener = quoted.flow.listener();
        quoted.flow.vip == parsed.flow.vip && service::find::<F>(env, env.settings(), quoted.flow.vip, listener).is_some()
    })
}

/// The same to a NAT backend. `None` if it may be from one.
#[inline(always)]
pub fn pass_on_translated<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let Some(quoted) = quoted::<F>(packet, parsed) else { return Some(Verdict::NotService) };
    let (backend, id) = owner::<F>(env, parsed, &quoted)?;
    if backend.forward != forward::NAT {
        return None;
    }
    let sent = translate::<F>(packet, env, backend, parsed, &quoted);
    Some(stage::count::<F>(env, id, parsed, sent))
}

/// The backend that the quoted packet came from, if its sender is a VIP, and the one who is told.
#[inline(always)]
fn owner<'e, F: Family>(env: &'e impl Env, parsed: &Parsed<F>, quoted: &Parsed<F>) -> Option<(&'e Backend, BackendId)> {
    if quoted.flow.vip != parsed.flow.vip {
        return None;
    }
    let settings = env.settings();
    let (service, id) = service::find::<F>(env, settings, quoted.flow.vip, quoted.flow.listener())?;
    Some(select::backend::<F, true>(env, settings, service, id, quoted))
}

/// The packet that an error is about.
#[inline(always)]
pub fn quoted<F: Family>(packet: &impl Packet, parsed: &Parsed<F>) -> Option<Parsed<F>> {
    F::parse_quoted(packet, parsed.l4 + icmp::ERROR_LEN, parsed.l3 + parsed.ip_len as usize)
}

/// To a NAT backend: it knows the packet by its own address.
#[inline(always)]
fn translate<F: Family>(
    packet: &mut impl Packet,
    env: &impl Env,
    backend: &Backend,
    parsed: &Parsed<F>,
    quoted: &Parsed<F>,
) -> Result<Verdict, Verdict> {
    stage::count_hop::<F>(packet, backend, parsed.l3)?;
    let port = if backend.port.raw() == 0 { quoted.flow.vip_port() } else { backend.port };
    let address = F::from_addr(&backend.address);
    F::set_address(packet, parsed.l3, Side::Destination, address, backend.ip_delta)?;
    F::set_address(packet, quoted.l3, Side::Source, address, backend.ip_delta)?;
    let end = parsed.l3 + parsed.ip_len as usize;
    let delta = transport::rewrite_quoted(packet, quoted, end, Side::Source, port, backend.l4_delta)?;
    let addresses = F::icmp_delta(backend.ip_delta).and(F::icmp_delta(backend.ip_delta));
    correct(packet, parsed.l4, delta.and(addresses))?;
    stage::leave_translated(packet, env, backend)
}

/// From a NAT backend, or from a router on the way to it, about a packet that the client sent: to the client as from the VIP.
#[inline(always)]
pub fn restore<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Verdict {
    let Some(quoted) = &quoted::<F>(packet, parsed) else { return Verdict::NotService };
    // Whoever is told sent the packet.
    if quoted.flow.vip != parsed.flow.vip {
        return Verdict::NotService;
    }
    let id = reply::sender::<F>(env, env.settings(), quoted);
    if id.is_none() {
        return Verdict::NotService;
    }
    let backend = env.backend(id);
    let service = env.service(backend.service);
    env.note_choice(Choice { service: backend.service, backend: id, slot_index: 0, how: How::REPLY });
    let way = reply::way_back::<F>(packet, env, service, parsed);
    if let Some(fault) = way.fault {
        return fault;
    }
    let restored = rewrite::<F>(packet, backend, service, parsed, quoted).and_then(|()| reply::leave(packet, env, &way));
    restored.unwrap_or_else(|verdict| verdict)
}

#[inline(always)]
fn rewrite<F: Family>(
    packet: &mut impl Packet,
    backend: &Backend,
    service: &Service,
    parsed: &Parsed<F>,
    quoted: &Parsed<F>,
) -> Result<(), Verdict> {
    let port = if service.listens.port.raw() == 0 { quoted.flow.client_port() } else { service.listens.port };
    let vip = F::from_addr(&service.vip);
    let source_delta = Delta::of_addr(F::to_addr(parsed.flow.client), service.vip);
    let ip_delta = backend.ip_delta.reversed();
    F::set_address(packet, parsed.l3, Side::Source, vip, source_delta)?;
    F::set_address(packet, quoted.l3, Side::Destination, vip, ip_delta)?;
    let end = parsed.l3 + parsed.ip_len as usize;
    let delta = transport::rewrite_quoted(packet, quoted, end, Side::Destination, port, backend.l4_delta.reversed())?;
    correct(packet, parsed.l4, delta.and(F::icmp_delta(source_delta)).and(F::icmp_delta(ip_delta)))
}

/// Brings the checksum of the ICMP header at `l4` to what was changed.
#[inline(always)]
pub fn correct(packet: &mut impl Packet, l4: usize, delta: Delta) -> Result<(), Verdict> {
    // Looked at anew: the verifier of 6.12 has lost what was found of the offset before.
    let header: &mut Echo = packet.get_mut(packet.forgotten(l4)).ok_or(Verdict::Internal)?;
    header.checksum = delta.apply(header.checksum);
    Ok(())
}
