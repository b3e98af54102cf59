//! The packet path: what happens to one packet, from parsing to forwarding.
//!
//! Compiled for the BPF machine by the bin `xlb-ebpf`, and for the host by tests, property tests and fuzzers: the same code,
//! over two traits. [`Packet`] is the frame, [`Env`] is everything else: the tables, the counters, the kernel's helpers.
//!
//! One file a stage, in the order in which a packet meets them:
//!
//! ```text
//! parse  ->  service  ->  select (slot)  ->  forward  ->  count
//!               |-> echo (ICMP to a VIP)
//!               |-> reply (from a NAT backend)
//! ```
//!
//! Everything is `inline(always)`: BPF-to-BPF calls cost more than the stages do, and pass no packet pointers.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod count;
mod echo;
mod env;
mod ethernet;
mod family;
mod forward;
mod icmp;
mod ipv4;
mod ipv6;
mod packet;
mod parse;
mod reply;
mod select;
mod service;
mod transport;

pub use env::{Env, Route, RouteQuery};
pub use lb_common::Verdict;
pub use packet::{Packet, Wire};

use ethernet::Ethertype;
use ipv4::V4;
use ipv6::V6;

/// Decides one packet's fate, carries it out on the frame, and counts it.
///
/// What remains for the caller is to hand the frame where the verdict's [class](lb_common::verdict::Class) says.
#[inline(always)]
pub fn process(packet: &mut impl Packet, env: &impl Env) -> Verdict {
    let verdict = decide(packet, env);
    env.count(verdict);
    verdict
}

#[inline(always)]
fn decide(packet: &mut impl Packet, env: &impl Env) -> Verdict {
    let link = match ethernet::parse(packet) {
        Ok(link) => link,
        Err(verdict) => return verdict,
    };
    match link.ethertype {
        Ethertype::IPV4 => compile_twice::<V4>(packet, env, link.l3),
        Ethertype::IPV6 => compile_twice::<V6>(packet, env, link.l3),
        _ => Verdict::NotIp,
    }
}

/// Compiles the stages once for plain packets, untagged and without options, and once for all others: where every offset is
/// a constant, nothing is kept on the stack for it, and that is a quarter of the time.
#[inline(always)]
fn compile_twice<F: family::Family>(packet: &mut impl Packet, env: &impl Env, l3: usize) -> Verdict {
    if l3 == ethernet::UNTAGGED && F::is_plain(packet, ethernet::UNTAGGED) {
        steer::<F>(packet, env, ethernet::UNTAGGED, true)
    } else {
        steer::<F>(packet, env, l3, false)
    }
}

/// The stages of an IP packet.
#[inline(always)]
fn steer<F: family::Family>(packet: &mut impl Packet, env: &impl Env, l3: usize, is_plain: bool) -> Verdict {
    let Some(settings) = env.settings() else { return Verdict::Internal };
    let parsed = match F::parse(packet, l3, is_plain) {
        Ok(parsed) => parsed,
        Err(fault) => return fault.verdict(env, settings),
    };
    if F::is_icmp(parsed.flow.protocol) {
        return echo::answer::<F>(packet, env, settings, &parsed);
    }
    let Some((service, id)) = service::find::<F>(env, settings, parsed.flow.vip, parsed.flow.vip_port(), parsed.flow.protocol)
    else {
        return reply::restore::<F>(packet, env, settings, &parsed);
    };
    let Some((backend, backend_id)) = select::backend::<F>(env, settings, service, &parsed.flow) else {
        env.count_service_drop(id);
        return Verdict::NoBackend;
    };
    let verdict = forward::send::<F>(packet, env, backend, &parsed);
    count::backend(env, backend_id, verdict, &parsed);
    verdict
}
