//! The packet path: what happens to one packet, from parsing to forwarding.
//!
//! Compiled for the BPF machine by the bin `xlb-ebpf`, and for the host by tests, property tests and fuzzers: the same code,
//! over two traits. [`Packet`] is the frame, [`Env`] is everything else: the tables, the counters, the kernel's helpers.
//!
//! One file a stage, in the order in which a packet meets them:
//!
//! ```text
//! parse  ->  service  ->  admit  ->  select (slot, flow, choose; quic)  ->  forward, fullnat
//!               |-> echo, errors (ICMP to a VIP)
//!               |-> reply (from a NAT backend), fullnat (to the pool)
//!               |-> fragments (after the first one)
//! ```
//!
//! Everything is `inline(always)`: BPF-to-BPF calls cost more than the stages do, and pass no packet pointers. The stages are
//! compiled twice, for packets that are [`plain`] and for those that are [`unusual`].

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

pub mod admit;
pub mod choose;
pub mod decap;
mod echo;
mod env;
mod errors;
mod ethernet;
mod family;
pub mod flow;
mod forward;
pub mod fragments;
mod fullnat;
mod icmp;
mod ipv4;
mod ipv6;
mod mss;
mod packet;
mod parse;
pub mod quic;
mod reply;
mod select;
mod service;
pub mod session;
mod toa;
mod too_big;
pub mod trace;
mod transport;
mod tunnel;

pub use env::{Env, FlowEvent, Route, RouteQuery};
use lb_common::BackendId;
pub use lb_common::Verdict;
use lb_common::features;
use lb_common::records::{Backend, service_flags, settings_flags};
use lb_common::trace::{Choice, How};
pub use packet::{Packet, Wire};

use ethernet::Ethertype;
use family::Family;
use ipv4::V4;
use ipv6::V6;
use parse::Parsed;
pub use too_big::TooBig;
use transport::tcp_flags;
pub use tunnel::Tunnel;

/// Decides one packet's fate, carries it out on the frame, and counts it.
///
/// What remains for the caller is to hand the frame where the verdict's [class](lb_common::verdict::Class) says.
#[inline(always)]
pub fn process(packet: &mut impl Packet, env: &impl Env) -> Verdict {
    let is_traced = trace::is_on(env) && trace::begin(packet, env);
    if !is_traced && let Some(verdict) = plain(packet, env) {
        return verdict;
    }
    unusual(packet, env)
}

/// The same for plain packets, where every offset is a constant and nothing can be wrong any more. Nothing has been done and
/// counted to any other, which is for [`unusual`].
#[inline(always)]
pub fn plain(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    let verdict = match ethernet::untagged(packet)? {
        Ethertype::IPV4 => plain_of::<V4>(packet, env)?,
        Ethertype::IPV6 => plain_of::<V6>(packet, env)?,
        _ => return None,
    };
    env.count(verdict);
    Some(verdict)
}

#[inline(always)]
fn plain_of<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    let parsed = F::parse_plain(packet)?;
    stages::<F, true>(packet, env, &parsed)
        .or_else(|| packet.take_apart(env, F::REPLY_PART))
        .or_else(|| packet.take_apart(env, F::FULLNAT_REPLY_PART))
}

/// The same for any packet, and for those whose record has [begun](trace::begin).
#[inline(always)]
pub fn unusual(packet: &mut impl Packet, env: &impl Env) -> Verdict {
    let verdict = match ethernet::parse(packet) {
        Ok(link) if link.ethertype == Ethertype::IPV4 => unusual_of::<V4>(packet, env),
        Ok(link) if link.ethertype == Ethertype::IPV6 => unusual_of::<V6>(packet, env),
        Ok(_) => Verdict::NotIp,
        Err(verdict) => verdict,
    };
    env.count(verdict);
    if trace::is_on(env) {
        packet.end_trace(env, verdict);
    }
    verdict
}

#[inline(always)]
fn unusual_of<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Verdict {
    // One after the other, not one inside the other: their stacks would add up.
    let refused =
        if env.settings().flags & settings_flags::ADMISSION == 0 { None } else { packet.take_apart(env, F::ADMIT_PART) };
    refused
        .or_else(|| packet.take_apart(env, F::PART))
        .or_else(|| if env.settings().flags & settings_flags::QUIC == 0 { None } else { packet.take_apart(env, F::QUIC_PART) })
        .or_else(|| by_fullnat(packet, env, F::FULLNAT_PART))
        .or_else(|| packet.take_apart(env, F::REPLY_PART))
        .or_else(|| by_fullnat(packet, env, F::FULLNAT_REPLY_PART))
        .or_else(|| packet.take_apart(env, F::ICMP_PART))
        .or_else(|| packet.take_apart(env, F::ICMP_NAT_PART))
        .or_else(|| by_fullnat(packet, env, F::FULLNAT_ICMP_PART))
        .or_else(|| by_fullnat(packet, env, F::FULLNAT_ICMP_REPLY_PART))
        .or_else(|| packet.take_apart(env, F::ICMP_REPLY_PART))
        .or_else(|| packet.take_apart(env, F::FIRST_FRAGMENT_PART))
        .or_else(|| by_fullnat(packet, env, F::FULLNAT_FRAGMENT_PART))
        .or_else(|| by_fullnat(packet, env, F::FULLNAT_FRAGMENT_REPLY_PART))
        .or_else(|| packet.take_apart(env, F::FRAGMENT_PART))
        .or_else(|| packet.take_apart(env, F::FRAGMENT_REPLY_PART))
        .unwrap_or(Verdict::Internal)
}

/// A part that is nothing to anybody but services that forward by full NAT.
#[inline(always)]
fn by_fullnat(packet: &mut impl Packet, env: &impl Env, part: Part) -> Option<Verdict> {
    if env.settings().flags & settings_flags::FULLNAT == 0 { None } else { packet.take_apart(env, part) }
}

/// What is decided apart. In the kernel each is a function that the verifier looks at by itself: in one piece, the ways through
/// rare headers would multiply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    AdmitV4,
    AdmitV6,
    V4,
    V6,
    ClampV4,
    ClampV6,
    ToaV4,
    ToaV6,
    QuicV4,
    QuicV6,
    FullnatV4,
    FullnatV6,
    FullnatReplyV4,
    FullnatReplyV6,
    FullnatFragmentV4,
    FullnatFragmentV6,
    FullnatFragmentReplyV4,
    FullnatFragmentReplyV6,
    FullnatIcmpV4,
    FullnatIcmpV6,
    FullnatIcmpReplyV4,
    FullnatIcmpReplyV6,
    IcmpV4,
    IcmpV6,
    IcmpNatV4,
    IcmpNatV6,
    IcmpReplyV4,
    IcmpReplyV6,
    ReplyV4,
    ReplyV6,
    FirstFragmentV4,
    FirstFragmentV6,
    FragmentV4,
    FragmentV6,
    FragmentReplyV4,
    FragmentReplyV6,
    Tunnel(Tunnel),
    TooBig(TooBig),
}

impl Part {
    /// What it is for, if not for packets of any service: one of [`features`].
    #[inline(always)]
    pub const fn feature(self) -> Option<u32> {
        match self {
            Self::AdmitV4 | Self::AdmitV6 => Some(features::ADMISSION),
            Self::ClampV4 | Self::ClampV6 => Some(features::CLAMP),
            Self::QuicV4 | Self::QuicV6 => Some(features::QUIC),
            Self::IcmpNatV4 | Self::IcmpNatV6 | Self::IcmpReplyV4 | Self::IcmpReplyV6 => Some(features::NAT),
            Self::ReplyV4 | Self::ReplyV6 | Self::FragmentReplyV4 | Self::FragmentReplyV6 => Some(features::NAT),
            Self::Tunnel(_) | Self::TooBig(_) => Some(features::TUNNELS),
            Self::V4 | Self::V6 | Self::IcmpV4 | Self::IcmpV6 => None,
            Self::FirstFragmentV4 | Self::FirstFragmentV6 | Self::FragmentV4 | Self::FragmentV6 => None,
            // Without a pool they have nothing to say.
            Self::ToaV4 | Self::ToaV6 => None,
            Self::FullnatV4 | Self::FullnatV6 | Self::FullnatReplyV4 | Self::FullnatReplyV6 => None,
            Self::FullnatFragmentV4 | Self::FullnatFragmentV6 => None,
            Self::FullnatFragmentReplyV4 | Self::FullnatFragmentReplyV6 => None,
            Self::FullnatIcmpV4 | Self::FullnatIcmpV6 | Self::FullnatIcmpReplyV4 | Self::FullnatIcmpReplyV6 => None,
        }
    }
}

/// Takes a frame through one part, and those that it leads to. Counts no verdict; `None` if that is for a later part to tell. They are,
/// in this order: who is not admitted, TCP and UDP, QUIC, full NAT, replies of NAT backends and to the pool, ICMP, ICMP to NAT backends, to the
/// clients of the pool and to the pool, ICMP from NAT backends, first fragments, which are only put on record there, fragments by
/// full NAT and of replies to the pool, fragments, and fragments of replies.
#[inline(always)]
pub fn part(packet: &mut impl Packet, env: &impl Env, part: Part) -> Option<Verdict> {
    // Here and not where it is called from, where it would take registers that are all in use.
    if part.feature().is_some_and(|feature| !env.has(feature)) {
        return None;
    }
    Some(match part {
        Part::AdmitV4 => return refuse::<V4>(packet, env),
        Part::AdmitV6 => return refuse::<V6>(packet, env),
        Part::V4 => return steer::<V4>(packet, env),
        Part::V6 => return steer::<V6>(packet, env),
        Part::ClampV4 => return clamp::<V4>(packet, env),
        Part::ClampV6 => return clamp::<V6>(packet, env),
        Part::ToaV4 => return name_client::<V4>(packet, env),
        Part::ToaV6 => return name_client::<V6>(packet, env),
        Part::QuicV4 => return steer_quic::<V4>(packet, env),
        Part::QuicV6 => return steer_quic::<V6>(packet, env),
        Part::FullnatV4 => return steer_fullnat::<V4>(packet, env),
        Part::FullnatV6 => return steer_fullnat::<V6>(packet, env),
        Part::FullnatReplyV4 => return steer_fullnat_reply::<V4>(packet, env),
        Part::FullnatReplyV6 => return steer_fullnat_reply::<V6>(packet, env),
        Part::FullnatFragmentV4 => return steer_fullnat_fragment::<V4>(packet, env),
        Part::FullnatFragmentV6 => return steer_fullnat_fragment::<V6>(packet, env),
        Part::FullnatFragmentReplyV4 => return steer_fullnat_fragment_reply::<V4>(packet, env),
        Part::FullnatFragmentReplyV6 => return steer_fullnat_fragment_reply::<V6>(packet, env),
        Part::FullnatIcmpV4 => return steer_fullnat_icmp::<V4>(packet, env),
        Part::FullnatIcmpV6 => return steer_fullnat_icmp::<V6>(packet, env),
        Part::FullnatIcmpReplyV4 => return steer_fullnat_icmp_reply::<V4>(packet, env),
        Part::FullnatIcmpReplyV6 => return steer_fullnat_icmp_reply::<V6>(packet, env),
        Part::IcmpV4 => return steer_icmp::<V4>(packet, env),
        Part::IcmpV6 => return steer_icmp::<V6>(packet, env),
        Part::IcmpNatV4 => return steer_icmp_nat::<V4>(packet, env),
        Part::IcmpNatV6 => return steer_icmp_nat::<V6>(packet, env),
        Part::IcmpReplyV4 => return steer_icmp_reply::<V4>(packet, env),
        Part::IcmpReplyV6 => return steer_icmp_reply::<V6>(packet, env),
        Part::ReplyV4 => return steer_reply::<V4>(packet, env),
        Part::ReplyV6 => return steer_reply::<V6>(packet, env),
        Part::FirstFragmentV4 => return choose_for_fragment::<V4>(packet, env),
        Part::FirstFragmentV6 => return choose_for_fragment::<V6>(packet, env),
        Part::FragmentV4 => return steer_fragment::<V4>(packet, env),
        Part::FragmentV6 => return steer_fragment::<V6>(packet, env),
        Part::FragmentReplyV4 => steer_fragment_reply::<V4>(packet, env),
        Part::FragmentReplyV6 => steer_fragment_reply::<V6>(packet, env),
        Part::Tunnel(tunnel) => tunnel::encapsulate(packet, env, tunnel),
        Part::TooBig(too_big) => too_big::tell(packet, too_big),
    })
}

/// What a rule of admission keeps out; `None` for all else, however broken.
#[inline(always)]
fn refuse<F: Family>(packet: &impl Packet, env: &impl Env) -> Option<Verdict> {
    let parsed = parse::headers::<F, true>(packet).ok()?;
    if let Some(fault) = parsed.fault {
        // What follows a first fragment goes where that went.
        let is_for_vip = fault == Verdict::Fragment && service::vip::<F>(env, parsed.flow.vip).is_some();
        return if is_for_vip { admit::unattended(env) } else { None };
    }
    if F::is_icmp(parsed.flow.protocol()) {
        let payload_len = parsed.ip_len.saturating_sub((parsed.l4 - parsed.l3) as u32);
        let kind = icmp::kind(packet, parsed.l4, payload_len).ok()?;
        let vip = service::vip::<F>(env, parsed.flow.vip)?;
        if F::is_error(kind) {
            // They lead a life of their own, but not for longer than all else.
            return admit::unattended(env).filter(|_| errors::is_ours::<F>(packet, env, &parsed));
        }
        let is_judged = kind == [F::ECHO_REQUEST, 0] && vip.flags & service_flags::ADMISSION != 0;
        return if is_judged { admit::refuse(env, admit::ALL_VIPS, &parsed) } else { None };
    }
    let (service, id) = service::find::<F>(env, env.settings(), parsed.flow.vip, parsed.flow.listener())?;
    if service.flags & service_flags::ADMISSION == 0 {
        return None;
    }
    env.note_choice(Choice { service: id, backend: BackendId::NONE, slot_index: 0, how: How::NOT });
    admit::refuse(env, id, &parsed)
}

/// Segment sizes, before those parts that may send the packet. They never tell what becomes of it.
#[inline(always)]
fn clamp<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    mss::clamp::<F>(packet, env);
    None
}

/// Who a backend's client is, before those parts that send the packet. It never tells what becomes of it either.
#[inline(always)]
fn name_client<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    if env.has_pool() {
        toa::tell::<F>(packet, env);
    }
    None
}

#[inline(always)]
fn steer<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    let parsed = match parse::headers::<F, false>(packet) {
        Ok(parsed) => parsed,
        Err(verdict) => return Some(verdict),
    };
    if let Some(fault) = parsed.fault {
        return if fault == Verdict::Fragment { None } else { Some(parse::judge(env, &parsed.flow, fault)) };
    }
    if F::is_icmp(parsed.flow.protocol()) {
        return None;
    }
    stages::<F, false>(packet, env, &parsed)
}

/// By connection IDs. A packet for full NAT has its backend then, and goes on there.
#[inline(always)]
fn steer_quic<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    let mut parsed = match parse::headers::<F, false>(packet) {
        Ok(parsed) => parsed,
        Err(verdict) => return Some(verdict),
    };
    if parsed.fault.is_some() || F::is_icmp(parsed.flow.protocol()) {
        return None;
    }
    let (service, id) = service::find::<F>(env, env.settings(), parsed.flow.vip, parsed.flow.listener())?;
    if service.flags & service_flags::QUIC == 0 {
        return None;
    }
    let chosen = quic::choose(packet, env, service, id, &mut parsed);
    if service.flags & service_flags::FULLNAT != 0 {
        env.hand_over(chosen);
        return None;
    }
    Some(deliver::<F, false>(packet, env, id, env.backend(chosen.id), chosen.id, &parsed))
}

#[inline(always)]
fn steer_reply<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    let parsed = match parse::headers::<F, false>(packet) {
        Ok(parsed) => parsed,
        Err(verdict) => return Some(verdict),
    };
    if parsed.fault.is_some() || F::is_icmp(parsed.flow.protocol()) {
        return None;
    }
    let id = reply::sender::<F>(env, env.settings(), &parsed);
    let verdict = if id.is_none() { Verdict::NotService } else { reply::restore::<F>(packet, env, id, &parsed) };
    // Nothing has been done to it then.
    let may_be_to_pool = verdict == Verdict::NotService && env.settings().flags & settings_flags::FULLNAT != 0;
    if may_be_to_pool { None } else { Some(verdict) }
}

#[inline(always)]
fn steer_fullnat<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    if !env.has_pool() {
        return None;
    }
    match parse::headers::<F, false>(packet) {
        Ok(parsed) if parsed.fault.is_some() || F::is_icmp(parsed.flow.protocol()) => None,
        Ok(mut parsed) => fullnat::send::<F>(packet, env, &mut parsed),
        Err(verdict) => Some(verdict),
    }
}

/// What is no reply either is the host's.
#[inline(always)]
fn steer_fullnat_reply<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    if !env.has_pool() {
        return Some(Verdict::NotService);
    }
    match parse::headers::<F, false>(packet) {
        Ok(parsed) if parsed.fault.is_some() || F::is_icmp(parsed.flow.protocol()) => None,
        Ok(parsed) => fullnat::restore::<F>(packet, env, &parsed).or(Some(Verdict::NotService)),
        Err(verdict) => Some(verdict),
    }
}

#[inline(always)]
fn steer_fullnat_fragment<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    if !env.has_pool() {
        return None;
    }
    match parse::headers::<F, true>(packet) {
        Ok(parsed) => fullnat::send_fragment::<F>(packet, env, &parsed),
        Err(verdict) => Some(verdict),
    }
}

#[inline(always)]
fn steer_fullnat_fragment_reply<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    if !env.has_pool() {
        return None;
    }
    match parse::headers::<F, true>(packet) {
        Ok(parsed) => fullnat::restore_fragment::<F>(packet, env, &parsed),
        Err(verdict) => Some(verdict),
    }
}

#[inline(always)]
fn steer_fullnat_icmp<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    if !env.has_pool() {
        return None;
    }
    match parse::headers::<F, false>(packet) {
        Ok(parsed) if parsed.fault.is_some() => None,
        Ok(parsed) => fullnat::pass_error_on::<F>(packet, env, &parsed),
        Err(verdict) => Some(verdict),
    }
}

#[inline(always)]
fn steer_fullnat_icmp_reply<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    if !env.has_pool() {
        return None;
    }
    match parse::headers::<F, false>(packet) {
        Ok(parsed) if parsed.fault.is_some() => None,
        Ok(parsed) => fullnat::restore_error::<F>(packet, env, &parsed),
        Err(verdict) => Some(verdict),
    }
}

#[inline(always)]
fn choose_for_fragment<F: Family>(packet: &impl Packet, env: &impl Env) -> Option<Verdict> {
    match parse::headers::<F, true>(packet) {
        Ok(parsed) if parsed.fragment.is_later() => None,
        Ok(parsed) => match parsed.fault {
            Some(fault) => Some(parse::judge(env, &parsed.flow, fault)),
            None => fragments::choose::<F>(env, &parsed),
        },
        Err(verdict) => Some(verdict),
    }
}

#[inline(always)]
fn steer_fragment<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    match parse::headers::<F, true>(packet) {
        Ok(parsed) => fragments::follow::<F>(packet, env, &parsed),
        Err(verdict) => Some(verdict),
    }
}

#[inline(always)]
fn steer_fragment_reply<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Verdict {
    match parse::headers::<F, true>(packet) {
        Ok(parsed) => fragments::restore::<F>(packet, env, &parsed),
        Err(verdict) => verdict,
    }
}

/// ICMP has stages of its own: what is asked of a VIP, and what is said of its packets.
#[inline(always)]
fn steer_icmp<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    let parsed = match parse::headers::<F, false>(packet) {
        Ok(parsed) => parsed,
        Err(verdict) => return Some(verdict),
    };
    if parsed.fault.is_some() {
        return None;
    }
    let payload_len = parsed.ip_len.saturating_sub((parsed.l4 - parsed.l3) as u32);
    match icmp::kind(packet, parsed.l4, payload_len) {
        Ok(kind) if F::is_error(kind) => errors::pass_on::<F>(packet, env, &parsed),
        Ok(kind) => Some(echo::answer::<F>(packet, env, &parsed, kind)),
        Err(verdict) => Some(parse::judge(env, &parsed.flow, verdict)),
    }
}

#[inline(always)]
fn steer_icmp_nat<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    match parse::headers::<F, false>(packet) {
        Ok(parsed) if parsed.fault.is_some() => None,
        Ok(parsed) => errors::pass_on_translated::<F>(packet, env, &parsed),
        Err(verdict) => Some(verdict),
    }
}

#[inline(always)]
fn steer_icmp_reply<F: Family>(packet: &mut impl Packet, env: &impl Env) -> Option<Verdict> {
    match parse::headers::<F, false>(packet) {
        Ok(parsed) if parsed.fault.is_some() => None,
        Ok(parsed) => Some(errors::restore::<F>(packet, env, &parsed)),
        Err(verdict) => Some(verdict),
    }
}

/// `None` if it may be a NAT backend's reply, or QUIC, or of full NAT.
#[inline(always)]
fn stages<F: Family, const PLAIN: bool>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Option<Verdict> {
    let settings = env.settings();
    let Some((service, id)) = service::find::<F>(env, settings, parsed.flow.vip, parsed.flow.listener()) else {
        return (settings.flags & (settings_flags::REPLIES | settings_flags::FULLNAT) == 0).then_some(Verdict::NotService);
    };
    if service.flags & (service_flags::ADMISSION | service_flags::QUIC | service_flags::CLAMP | service_flags::FULLNAT) != 0 {
        // Of all other packets it was decided before, in a part of its own.
        if PLAIN
            && service.flags & service_flags::ADMISSION != 0
            && let Some(refused) = admit::refuse(env, id, parsed)
        {
            return Some(refused);
        }
        let is_clamped = service.flags & service_flags::CLAMP != 0 && parsed.tcp_flags & tcp_flags::SYN != 0;
        if service.flags & service_flags::FULLNAT != 0 {
            if is_clamped {
                packet.take_apart(env, F::CLAMP_PART);
            }
            if service.flags & service_flags::TOA != 0 {
                packet.take_apart(env, F::TOA_PART);
            }
            if PLAIN && service.flags & service_flags::QUIC != 0 {
                packet.take_apart(env, F::QUIC_PART);
            }
            // There is no way back from a part that may have changed the frame. One that does not know the service came just after it.
            return if PLAIN { packet.take_apart(env, F::FULLNAT_PART).or(Some(Verdict::NotService)) } else { None };
        }
        if is_clamped {
            if PLAIN {
                return packet.take_apart(env, F::PART).or(Some(Verdict::NotService));
            }
            packet.take_apart(env, F::CLAMP_PART);
        }
        if service.flags & service_flags::QUIC != 0 {
            return if PLAIN { packet.take_apart(env, F::QUIC_PART).or(Some(Verdict::NotService)) } else { None };
        }
    }
    let (backend, backend_id) = select::backend::<F, false>(env, settings, service, id, parsed);
    Some(deliver::<F, PLAIN>(packet, env, id, backend, backend_id, parsed))
}

#[inline(always)]
fn deliver<F: Family, const PLAIN: bool>(
    packet: &mut impl Packet,
    env: &impl Env,
    service: u16,
    backend: &Backend,
    backend_id: BackendId,
    parsed: &Parsed<F>,
) -> Verdict {
    let sent = forward::send::<F, PLAIN>(packet, env, env.settings(), backend, backend_id, parsed);
    if let Err(Verdict::NoBackend) = sent {
        env.count_service_drop(service);
    }
    forward::count::<F>(env, backend_id, parsed, sent)
}
