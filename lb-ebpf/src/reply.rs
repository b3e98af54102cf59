//! Restores the VIP as the source of a NAT backend's reply.
//!
//! Stateless: what comes from a NAT backend's address, port and protocol is a reply, wherever it goes. A client that reaches
//! such a port by another way than the VIP must not be routed through xlb.

use lb_common::checksum::Delta;
use lb_common::handshake::Event;
use lb_common::limits;
use lb_common::records::{Backend, Service, Settings, link_flags, service_flags, settings_flags};
use lb_common::trace::{Choice, How};
use lb_common::{Addr, BackendId, Be16, LinkAddresses, PortProtocol, Verdict};

use crate::env::{Env, Route, RouteQuery};
use crate::family::{Family, Side};
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::service::look_up;
use crate::transport::tcp_flags;
use crate::{ethernet, transport};

/// Rewrites and routes what comes from a NAT backend.
#[inline(always)]
pub fn restore<F: Family>(packet: &mut impl Packet, env: &impl Env, id: BackendId, parsed: &Parsed<F>) -> Verdict {
    let backend = env.backend(id);
    let service = env.service(backend.service);
    env.note_choice(Choice { service: backend.service, backend: id, slot_index: 0, how: How::REPLY });
    let way = way_back::<F>(packet, env, service, parsed);
    if let Some(fault) = way.fault {
        return fault;
    }
    if service.flags & service_flags::CLAMP != 0 && parsed.tcp_flags & tcp_flags::SYN != 0 {
        packet.take_apart(env, F::CLAMP_PART);
    }
    let is_tracked = service.flags & service_flags::HANDSHAKES != 0;
    if is_tracked && transport::is_refusal(packet, parsed.l4, parsed.tcp_flags) {
        env.count_handshake(id, Event::Refused);
    }
    let restored = rewrite::<F>(packet, backend, service, parsed).and_then(|()| leave(packet, env, &way));
    restored.unwrap_or_else(|verdict| verdict)
}

/// The way of a reply to its client. Nothing of it is ever left out: the verifier takes no copies of what was not written.
pub struct Way {
    /// An interface that redirected frames arrive at; 0 if the host has to find the way.
    ifindex: u32,
    link: LinkAddresses,
    /// Why it has none.
    pub fault: Option<Verdict>,
}

/// The way of a reply to its client. Its hop is counted, unless the host will do that. What is the host's own, as answers to its
/// health checks are, has none.
#[inline(always)]
pub fn way_back<F: Family>(packet: &mut impl Packet, env: &impl Env, service: &Service, parsed: &Parsed<F>) -> Way {
    // In a reply the sender is the backend and the addressee the client: `flow` has them the other way round.
    way_to::<F>(packet, env, service, F::to_addr(parsed.flow.vip), parsed)
}

/// The same to a client that the packet does not name.
#[inline(always)]
pub fn way_to<F: Family>(packet: &mut impl Packet, env: &impl Env, service: &Service, client: Addr, parsed: &Parsed<F>) -> Way {
    let query = RouteQuery {
        source: service.vip,
        destination: client,
        ingress: packet.ingress(),
        protocol: parsed.flow.protocol(),
        ip_len: parsed.ip_len as u16,
    };
    match env.route(&query) {
        Route::Local => Way { ifindex: 0, link: LinkAddresses::default(), fault: Some(Verdict::NotService) },
        Route::Forward { ifindex, link } if takes_redirects(env, packet, ifindex) => {
            Way { ifindex, link, fault: F::count_hop(packet, parsed.l3).err() }
        }
        _ => Way { ifindex: 0, link: LinkAddresses::default(), fault: None },
    }
}

/// Sends a rewritten reply on its way.
#[inline(always)]
pub fn leave(packet: &mut impl Packet, env: &impl Env, way: &Way) -> Result<Verdict, Verdict> {
    if way.ifindex == 0 {
        return Ok(Verdict::ReplyRouted);
    }
    ethernet::readdress(packet, way.link)?;
    if env.redirect(way.ifindex) { Ok(Verdict::Reply) } else { Err(Verdict::Internal) }
}

/// The NAT backend that sends from this endpoint; [`BackendId::NONE`] if nobody does.
#[inline(always)]
pub fn sender<F: Family>(env: &impl Env, settings: &Settings, parsed: &Parsed<F>) -> BackendId {
    let exact = sender_exactly::<F>(env, settings, parsed, parsed.flow.sender());
    if !exact.is_none() || settings.flags & settings_flags::ANY_PORT == 0 {
        return exact;
    }
    sender_exactly::<F>(env, settings, parsed, PortProtocol::new(Be16::new(0), parsed.flow.protocol()))
}

#[inline(always)]
fn sender_exactly<F: Family>(env: &impl Env, settings: &Settings, parsed: &Parsed<F>, sender: PortProtocol) -> BackendId {
    let directory = settings.replies;
    let hash = F::endpoint_hash(directory.multiplier(), parsed.flow.client, sender);
    let bucket = env.reply_bucket(directory.bucket(hash, limits::REPLY_BUCKETS));
    let Some(id) = look_up(bucket, hash).map(BackendId) else { return BackendId::NONE };
    let backend = env.backend(id);
    let service = env.service(backend.service);
    let is_it =
        PortProtocol::new(backend.port, service.listens.protocol) == sender && F::is(&backend.address, parsed.flow.client);
    if is_it { id } else { BackendId::NONE }
}

#[inline(always)]
fn takes_redirects(env: &impl Env, packet: &impl Packet, ifindex: u32) -> bool {
    ifindex == packet.ingress() || env.link(ifindex).is_some_and(|link| link.flags & link_flags::REDIRECT != 0)
}

#[inline(always)]
fn rewrite<F: Family>(packet: &mut impl Packet, backend: &Backend, service: &Service, parsed: &Parsed<F>) -> Result<(), Verdict> {
    let (ip_delta, l4_delta): (Delta, Delta) = (backend.ip_delta.reversed(), backend.l4_delta.reversed());
    F::set_address(packet, parsed.l3, Side::Source, F::from_addr(&service.vip), ip_delta)?;
    if parsed.fragment.is_later() {
        return Ok(());
    }
    let port = if service.listens.port.raw() == 0 { parsed.flow.client_port() } else { service.listens.port };
    transport::rewrite(packet, parsed.l4, parsed.flow.protocol(), Side::Source, port, l4_delta)
}
