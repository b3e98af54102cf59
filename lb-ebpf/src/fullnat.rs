//! Full NAT: a packet to a backend comes from an address and a port of the pool, and its reply goes there. So backends need no way back
//! through xlb, and may be clients of the services that they serve.

use lb_common::checksum::Delta;
use lb_common::records::{Backend, Service, forward, service_flags};
use lb_common::session::{Key, NONE, Session};
use lb_common::trace::{Choice, How};
use lb_common::{Addr, BackendId, Be16, Verdict};

use crate::env::Env;
use crate::family::{Family, Side};
use crate::forward as stage;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::quic::{self, Chosen};
use crate::session::{self, Question};
use crate::transport::{Ports, tcp_flags};
use crate::{errors, fragments, reply, select, service, transport};

/// Sends a packet to its backend. `None` if its service does not forward by full NAT.
#[inline(always)]
pub fn send<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &mut Parsed<F>) -> Option<Verdict> {
    let settings = env.settings();
    let (service, service_id) = service::find::<F>(env, settings, parsed.flow.vip, parsed.flow.listener())?;
    if service.flags & service_flags::FULLNAT == 0 {
        return None;
    }
    let (backend, id) = if service.flags & service_flags::QUIC != 0 {
        let Chosen { id, opens } = env.handed_over();
        parsed.tcp_flags = quic::flags_of(opens);
        (env.backend(id), id)
    } else {
        select::backend::<F, false>(env, settings, service, service_id, parsed)
    };
    // What was handed over may be an earlier packet's, if the service has changed since.
    let sent = if backend.forward == forward::FULLNAT && backend.service == service_id {
        translate(packet, env, backend, service_id, id, parsed)
    } else {
        Err(Verdict::NoBackend)
    };
    if let Err(Verdict::NoBackend | Verdict::NoSourcePort) = sent {
        env.count_service_drop(service_id);
    }
    Some(stage::count::<F>(env, id, parsed, sent))
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
    stage::count_hop::<F>(packet, backend, parsed.l3)?;
    let question = Question::new(env, env.settings(), service, id, parsed);
    let index = env.session(question);
    if index == NONE {
        return Err(Verdict::NoSourcePort);
    }
    let port = if backend.port.raw() == 0 { parsed.flow.vip_port() } else { backend.port };
    let ends = Ends::<F>::from_pool(env, question.number, index, &backend.address, port);
    rewrite(packet, parsed, &ends)?;
    stage::leave_translated(packet, env, backend)
}

/// Both ends of a packet, to be.
struct Ends<F: Family> {
    source: F::Address,
    destination: F::Address,
    ports: Ports,
}

impl<F: Family> Ends<F> {
    /// Of a packet to a backend.
    #[inline(always)]
    fn from_pool(env: &impl Env, number: u32, index: u32, backend: &Addr, port: Be16) -> Self {
        Self {
            source: F::from_addr(env.pool_address(number)),
            destination: F::from_addr(backend),
            ports: Ports::new(env.pool_range().port(number, index), port),
        }
    }

    #[inline(always)]
    fn reversed(self) -> Self {
        Self { source: self.destination, destination: self.source, ports: self.ports.reversed() }
    }
}

/// Gives the network header at `l3` other ends. Yields what this changes in checksums that cover them.
#[inline(always)]
fn readdress<F: Family>(
    packet: &mut impl Packet,
    l3: usize,
    source: F::Address,
    destination: F::Address,
) -> Result<Delta, Verdict> {
    let (old_source, old_destination) = F::ends(packet, l3)?;
    let delta = F::address_delta(old_source, source).and(F::address_delta(old_destination, destination));
    F::set_address(packet, l3, Side::Source, source, delta)?;
    F::set_address(packet, l3, Side::Destination, destination, Delta::NONE)?;
    Ok(delta)
}

#[inline(always)]
fn rewrite<F: Family>(packet: &mut impl Packet, parsed: &Parsed<F>, ends: &Ends<F>) -> Result<(), Verdict> {
    let delta = readdress::<F>(packet, parsed.l3, ends.source, ends.destination)?;
    transport::rewrite_both(packet, parsed.l4, parsed.flow.protocol(), ends.ports, delta)
}

/// Sends a backend's reply to its client. `None` if it is to no session.
#[inline(always)]
pub fn restore<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let session = find::<F>(env, parsed, parsed.tcp_flags, false)?;
    let (way, ends) = back(packet, env, &session, parsed, parsed.flow.client_port());
    if let Some(fault) = way.fault {
        return Some(fault);
    }
    if parsed.tcp_flags & tcp_flags::SYN != 0 && service_of(env, &session).flags & service_flags::CLAMP != 0 {
        packet.take_apart(env, F::CLAMP_PART);
    }
    let restored = rewrite(packet, parsed, &ends).and_then(|()| reply::leave(packet, env, &way));
    Some(restored.unwrap_or_else(|verdict| verdict))
}

/// Sends a fragment to the backend on record. `None` if its service does not forward by full NAT.
///
/// Those without ports need no session: to its backends, a client has one address of the pool.
#[inline(always)]
pub fn send_fragment<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let id = fragments::recorded(env, parsed);
    let backend = env.backend(id);
    if backend.forward != forward::FULLNAT || !F::is(&env.service(backend.service).vip, parsed.flow.vip) {
        return None;
    }
    let sent = if parsed.fragment.is_later() {
        env.note_choice(Choice { service: backend.service, backend: id, slot_index: 0, how: How::FRAGMENT });
        readdress_later::<F>(packet, env, backend, parsed)
    } else {
        translate(packet, env, backend, backend.service, id, parsed)
    };
    if let Err(Verdict::NoSourcePort) = sent {
        env.count_service_drop(backend.service);
    }
    Some(stage::count::<F>(env, id, parsed, sent))
}

#[inline(always)]
fn readdress_later<F: Family>(
    packet: &mut impl Packet,
    env: &impl Env,
    backend: &Backend,
    parsed: &Parsed<F>,
) -> Result<Verdict, Verdict> {
    stage::count_hop::<F>(packet, backend, parsed.l3)?;
    let number = session::number_for::<F>(env, env.settings(), parsed.flow.client);
    let source = F::from_addr(env.pool_address(number));
    readdress::<F>(packet, parsed.l3, source, F::from_addr(&backend.address))?;
    stage::leave_translated(packet, env, backend)
}

/// Sends a fragment of a backend's reply to its client: the first as any reply, the others to whom that went. `None` if it is not to
/// the pool.
#[inline(always)]
pub fn restore_fragment<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let number = session::number::<F>(env, env.settings(), parsed.flow.vip)?;
    let is_later = parsed.fragment.is_later();
    let session = if is_later { followed::<F>(env, parsed, number) } else { find::<F>(env, parsed, parsed.tcp_flags, false) };
    // What is to the pool and to no session is the host's.
    let Some(session) = session else { return Some(Verdict::NotService) };
    if !is_later {
        fragments::record_port(env, parsed);
    }
    let (way, ends) = back(packet, env, &session, parsed, parsed.flow.client_port());
    if let Some(fault) = way.fault {
        return Some(fault);
    }
    let rewritten = if is_later {
        readdress::<F>(packet, parsed.l3, ends.source, ends.destination).map(|_| ())
    } else {
        rewrite(packet, parsed, &ends)
    };
    Some(rewritten.and_then(|()| reply::leave(packet, env, &way)).unwrap_or_else(|verdict| verdict))
}

/// The session of the port on record, if it is still the sender's.
#[inline(always)]
fn followed<F: Family>(env: &impl Env, parsed: &Parsed<F>, number: u32) -> Option<Session> {
    let session = env.session_at(env.pool_range().index(number, fragments::recorded_port(env, parsed)))?;
    let key = Key::from_raw(session.key);
    let is_of = key.protocol() == parsed.flow.protocol() && F::is(&env.backend(key.backend()).address, parsed.flow.client);
    (is_of && !key.backend().is_none()).then_some(session)
}

/// The way of a session's packet to its client, and its ends then. `port` is the backend's.
#[inline(always)]
fn back<F: Family>(
    packet: &mut impl Packet,
    env: &impl Env,
    session: &Session,
    parsed: &Parsed<F>,
    port: Be16,
) -> (reply::Way, Ends<F>) {
    let (client, key) = (Addr::from_longs(session.client), Key::from_raw(session.key));
    let id = key.backend();
    let service_id = env.backend(id).service;
    let service = env.service(service_id);
    env.note_choice(Choice { service: service_id, backend: id, slot_index: 0, how: How::REPLY });
    let way = reply::way_to::<F>(packet, env, service, client, parsed);
    // Of a service on every port, the VIP's is the backend's.
    let port = if service.listens.port.raw() == 0 { port } else { service.listens.port };
    let ends = Ends {
        source: F::from_addr(&service.vip),
        destination: F::from_addr(&client),
        ports: Ports::new(port, key.client_port()),
    };
    (way, ends)
}

/// The session that a packet of a backend's belongs to, whose flow has the pool's end as `vip`.
#[inline(always)]
fn find<F: Family>(env: &impl Env, parsed: &Parsed<F>, tcp_flags: u8, is_quoted: bool) -> Option<Session> {
    let flow = &parsed.flow;
    let number = session::number::<F>(env, env.settings(), flow.vip)?;
    let index = env.pool_range().index(number, flow.vip_port());
    let is_of = index != NONE && env.is_of_session(session::reply_of(flow, tcp_flags, index, is_quoted));
    if is_of { env.session_at(index) } else { None }
}

/// The service that a backend's packet is of, if it is to a port of the pool.
#[inline(always)]
pub fn service_to<'e, F: Family>(env: &'e impl Env, parsed: &Parsed<F>) -> Option<&'e Service> {
    if !env.has_pool() {
        return None;
    }
    let number = session::number::<F>(env, env.settings(), parsed.flow.vip)?;
    let session = env.session_at(env.pool_range().index(number, parsed.flow.vip_port()))?;
    Some(service_of(env, &session))
}

#[inline(always)]
fn service_of<'e>(env: &'e impl Env, session: &Session) -> &'e Service {
    env.service(env.backend(Key::from_raw(session.key).backend()).service)
}

/// Sends an ICMP error about a packet from a VIP to its backend, which knows it by its own address and the pool's. `None` if it is about
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
    let question = Question::new(env, settings, service_id, id, quoted);
    let index = session::known(env, question);
    if index == NONE {
        // Of a connection that is long over.
        return Some(Verdict::NoBackend);
    }
    let port = if backend.port.raw() == 0 { quoted.flow.vip_port() } else { backend.port };
    let ends = Ends::from_pool(env, question.number, index, &backend.address, port);
    // From the pool too: backends need know nobody else.
    let sent = stage::count_hop::<F>(packet, backend, parsed.l3)
        .and_then(|()| rewrite_error(packet, parsed, quoted, ends.reversed()))
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
    let session = find::<F>(env, quoted, 0, true)?;
    let (way, ends) = back(packet, env, &session, parsed, quoted.flow.client_port());
    if let Some(fault) = way.fault {
        return Some(fault);
    }
    let restored = rewrite_error(packet, parsed, quoted, ends.reversed()).and_then(|()| reply::leave(packet, env, &way));
    Some(restored.unwrap_or_else(|verdict| verdict))
}

/// Gives what an error quotes other ends, and itself the same: who is told sent the packet, and who tells might have been its addressee.
#[inline(always)]
fn rewrite_error<F: Family>(
    packet: &mut impl Packet,
    parsed: &Parsed<F>,
    quoted: &Parsed<F>,
    quote: Ends<F>,
) -> Result<(), Verdict> {
    let outer = readdress::<F>(packet, parsed.l3, quote.destination, quote.source)?;
    let inner = readdress::<F>(packet, quoted.l3, quote.source, quote.destination)?;
    let end = parsed.l3 + parsed.ip_len as usize;
    let delta = transport::rewrite_quoted_both(packet, quoted, end, quote.ports, inner)?;
    errors::correct(packet, parsed.l4, delta.and(F::icmp_delta(outer)).and(F::icmp_delta(inner)))
}
