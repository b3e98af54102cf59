//! Full NAT: a packet to a backend comes from an address and a port of the pool, and its reply goes there. So backends need no way back
//! through xlb, and may be clients of the services that they serve.

use lb_common::checksum::Delta;
use lb_common::records::{Backend, forward, service_flags};
use lb_common::session::NONE;
use lb_common::trace::{Choice, How};
use lb_common::{Addr, BackendId, Be16, Verdict};

use crate::env::Env;
use crate::family::{Family, Side};
use crate::forward as stage;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::session::{self, Client, Question};
use crate::{errors, reply, select, service, transport};

/// Sends a packet to its backend. `None` if its service does not forward by full NAT.
#[inline(always)]
pub fn send<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let settings = env.settings();
    let (service, service_id) = service::find::<F>(env, settings, parsed.flow.vip, parsed.flow.listener())?;
    if service.flags & service_flags::FULLNAT == 0 {
        return None;
    }
    let (backend, id) = select::backend::<F, false>(env, settings, service, service_id, parsed);
    let sent = if backend.forward == forward::FULLNAT {
        translate(packet, env, backend, service_id, id, parsed)
    } else {
        Err(Verdict::NoBackend)
    };
    if let Err(Verdict::NoBackend | Verdict::NoSourcePort) = sent {
        env.count_service_drop(service_id);
    }
    Some(stage::count::<F>(env, id, parsed, sent))
}

/// Both ends of a packet between the pool and a backend, or between a VIP and a client, and what it takes to get there.
struct Ends {
    source: Addr,
    destination: Addr,
    source_port: Be16,
    destination_port: Be16,
    /// Of the network header.
    ip_delta: Delta,
    l4_delta: Delta,
}

#[inline(always)]
fn translate<F: Family>(
    packet: &mut impl Packet,
    env: &impl Env,
    backend: &Backend,
    service: u16,
    id: BackendId,
    parsed: &Parsed<F>,
) -> Result<Verdict, Verdict> {
    let question = Question::new(env, env.settings(), service, id, parsed, false);
    stage::count_hop::<F>(packet, backend, parsed.l3)?;
    let index = env.session(question);
    if index == NONE {
        return Err(Verdict::NoSourcePort);
    }
    let (source, source_port) = source(env, question.number, index);
    let source_delta = Delta::of_addr(F::to_addr(parsed.flow.client), source);
    let port_delta = Delta::of_word(parsed.flow.client_port().raw(), source_port.raw());
    let ends = Ends {
        source,
        destination: backend.address,
        source_port,
        destination_port: if backend.port.raw() == 0 { parsed.flow.vip_port() } else { backend.port },
        ip_delta: source_delta.and(backend.ip_delta),
        l4_delta: source_delta.and(port_delta).and(backend.l4_delta),
    };
    rewrite::<F>(packet, parsed, &ends)?;
    stage::leave_translated(packet, env, backend)
}

/// What stands for a session's client.
#[inline(always)]
fn source(env: &impl Env, number: u32, index: u32) -> (Addr, Be16) {
    (*env.pool_address(number), env.pool_range().port(number, index))
}

#[inline(always)]
fn rewrite<F: Family>(packet: &mut impl Packet, parsed: &Parsed<F>, ends: &Ends) -> Result<(), Verdict> {
    F::set_address(packet, parsed.l3, Side::Source, F::from_addr(&ends.source), ends.ip_delta)?;
    F::set_address(packet, parsed.l3, Side::Destination, F::from_addr(&ends.destination), Delta::NONE)?;
    let ports = transport::Ports::new(ends.source_port, ends.destination_port);
    transport::rewrite_both(packet, parsed.l4, parsed.flow.protocol(), ports, ends.l4_delta)
}

/// Sends a backend's reply to its client. `None` if it is to no session.
#[inline(always)]
pub fn restore<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let index = find::<F>(env, parsed, parsed.tcp_flags, false)?;
    let Client { address, key } = session::client(env, index);
    let client = Addr::from_longs(address);
    let backend = env.backend(key.backend());
    let service = env.service(backend.service);
    env.note_choice(Choice { service: backend.service, backend: key.backend(), slot_index: 0, how: How::REPLY });
    let way = reply::way_to::<F>(packet, env, service, client, parsed);
    if let Some(fault) = way.fault {
        return Some(fault);
    }
    // Of all ports, the VIP's is the backend's.
    let vip_port = if service.listens.port.raw() == 0 { parsed.flow.client_port() } else { service.listens.port };
    let client_delta = Delta::of_addr(F::to_addr(parsed.flow.vip), client);
    let port_delta = Delta::of_word(parsed.flow.vip_port().raw(), key.client_port().raw());
    let ends = Ends {
        source: service.vip,
        destination: client,
        source_port: vip_port,
        destination_port: key.client_port(),
        ip_delta: client_delta.and(backend.ip_delta.reversed()),
        l4_delta: client_delta.and(port_delta).and(backend.l4_delta.reversed()),
    };
    let restored = rewrite::<F>(packet, parsed, &ends).and_then(|()| reply::leave(packet, env, &way));
    Some(restored.unwrap_or_else(|verdict| verdict))
}

/// The index of the session that a packet of a backend's belongs to, whose flow has the pool's end as `vip`.
#[inline(always)]
fn find<F: Family>(env: &impl Env, parsed: &Parsed<F>, tcp_flags: u8, is_quoted: bool) -> Option<u32> {
    let flow = &parsed.flow;
    let number = session::number::<F>(env, env.settings(), flow.vip)?;
    let index = env.pool_range().index(number, flow.vip_port());
    let is_of = index != NONE && env.is_of_session(session::reply_of(flow, tcp_flags, index, is_quoted));
    is_of.then_some(index)
}

/// Sends an ICMP error about a packet from a VIP to its backend, which knows it by another VIP and another client. `None` if it is about
/// none that was forwarded by full NAT.
#[inline(always)]
pub fn pass_error_on<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let quoted = &errors::quoted::<F>(packet, parsed)?;
    if quoted.flow.vip != parsed.flow.vip {
        return None;
    }
    let settings = env.settings();
    let (service, service_id) = service::find::<F>(env, settings, quoted.flow.vip, quoted.flow.listener())?;
    if service.flags & service_flags::FULLNAT == 0 {
        return None;
    }
    let (backend, id) = select::backend::<F, true>(env, settings, service, service_id, quoted);
    if backend.forward != forward::FULLNAT {
        return None;
    }
    let question = Question::new(env, settings, service_id, id, quoted, true);
    let index = env.session(question);
    if index == NONE {
        // Of a connection that is long over.
        return Some(Verdict::NoBackend);
    }
    let (source, source_port) = source(env, question.number, index);
    let source_delta = Delta::of_addr(F::to_addr(quoted.flow.client), source);
    let port_delta = Delta::of_word(quoted.flow.client_port().raw(), source_port.raw());
    // It was from the backend to the pool.
    let quote = Ends {
        source: backend.address,
        destination: source,
        source_port: if backend.port.raw() == 0 { quoted.flow.vip_port() } else { backend.port },
        destination_port: source_port,
        ip_delta: source_delta.and(backend.ip_delta),
        l4_delta: source_delta.and(port_delta).and(backend.l4_delta),
    };
    // The pool tells of it: backends need know nobody else.
    let (from, to) = (source, backend.address);
    let sent = stage::count_hop::<F>(packet, backend, parsed.l3)
        .and_then(|()| rewrite_error::<F>(packet, parsed, quoted, from, to, &quote))
        .and_then(|()| stage::leave_translated(packet, env, backend));
    Some(stage::count::<F>(env, id, parsed, sent))
}

/// Sends an ICMP error about a packet to a backend to the client that sent it, as from the VIP. `None` if it is about none.
#[inline(always)]
pub fn restore_error<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let quoted = &errors::quoted::<F>(packet, parsed)?;
    if quoted.flow.vip != parsed.flow.vip {
        return None;
    }
    let index = find::<F>(env, quoted, 0, true)?;
    let Client { address, key } = session::client(env, index);
    let client = Addr::from_longs(address);
    let backend = env.backend(key.backend());
    let service = env.service(backend.service);
    env.note_choice(Choice { service: backend.service, backend: key.backend(), slot_index: 0, how: How::REPLY });
    let way = reply::way_to::<F>(packet, env, service, client, parsed);
    if let Some(fault) = way.fault {
        return Some(fault);
    }
    let client_delta = Delta::of_addr(F::to_addr(quoted.flow.vip), client);
    let port_delta = Delta::of_word(quoted.flow.vip_port().raw(), key.client_port().raw());
    let quote = Ends {
        source: client,
        destination: service.vip,
        source_port: key.client_port(),
        destination_port: if service.listens.port.raw() == 0 { quoted.flow.client_port() } else { service.listens.port },
        ip_delta: client_delta.and(backend.ip_delta.reversed()),
        l4_delta: client_delta.and(port_delta).and(backend.l4_delta.reversed()),
    };
    let restored = rewrite_error::<F>(packet, parsed, quoted, service.vip, client, &quote);
    Some(restored.and_then(|()| reply::leave(packet, env, &way)).unwrap_or_else(|verdict| verdict))
}

/// Gives an error and what it quotes other ends.
#[inline(always)]
fn rewrite_error<F: Family>(
    packet: &mut impl Packet,
    parsed: &Parsed<F>,
    quoted: &Parsed<F>,
    from: Addr,
    to: Addr,
    quote: &Ends,
) -> Result<(), Verdict> {
    let outer_delta =
        Delta::of_addr(F::to_addr(parsed.flow.client), from).and(Delta::of_addr(F::to_addr(parsed.flow.vip), to));
    F::set_address(packet, parsed.l3, Side::Source, F::from_addr(&from), outer_delta)?;
    F::set_address(packet, parsed.l3, Side::Destination, F::from_addr(&to), Delta::NONE)?;
    F::set_address(packet, quoted.l3, Side::Source, F::from_addr(&quote.source), quote.ip_delta)?;
    F::set_address(packet, quoted.l3, Side::Destination, F::from_addr(&quote.destination), Delta::NONE)?;
    let end = parsed.l3 + parsed.ip_len as usize;
    let ports = transport::Ports::new(quote.source_port, quote.destination_port);
    let delta = transport::rewrite_quoted_both(packet, quoted, end, ports, quote.l4_delta)?;
    errors::correct(packet, parsed.l4, delta.and(F::icmp_delta(outer_delta)).and(F::icmp_delta(quote.ip_delta)))
}
