//! The packet path: what happens to one packet, from parsing to forwarding.
//!
//! Compiled for the BPF machine by the bin `xlb-ebpf`, and for the host by tests, property tests and fuzzers: the same code,
//! over two traits. [`Packet`] is the frame, [`Env`] is everything else: the tables, the counters, the kernel's helpers.
//!
//! One file a stage, in the order in which a packet meets them:
//!
//! ```text
//! parse  ->  service  ->  select (slot, flow)  ->  forward
//!               |-> echo (ICMP to a VIP)
//!               |-> reply (from a NAT backend)
//! ```
//!
//! Everything is `inline(always)`: BPF-to-BPF calls cost more than the stages do, and pass no packet pointers.

#![cfg_attr(not(test), no_std)]
#![forbid(unsafe_code)]

mod echo;
mod env;
mod ethernet;
mod family;
pub mod flow;
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

pub use env::{Env, FlowEvent, Route, RouteQuery};
pub use lb_common::Verdict;
pub use packet::{Packet, Wire};

use ethernet::Ethertype;
use family::Family;
use ipv4::V4;
use ipv6::V6;
use parse::Parsed;

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
        Ethertype::IPV4 => steer::<V4>(packet, env, link.l3),
        Ethertype::IPV6 => steer::<V6>(packet, env, link.l3),
        _ => Verdict::NotIp,
    }
}

/// Sends a packet through the stages, which are compiled twice: once for plain packets, where every offset is a constant and
/// nothing can be wrong any more, and once for all others.
#[inline(always)]
fn steer<F: Family>(packet: &mut impl Packet, env: &impl Env, l3: usize) -> Verdict {
    if l3 == ethernet::UNTAGGED
        && let Some(parsed) = F::parse_plain(packet)
    {
        return stages::<F>(packet, env, &parsed);
    }
    let Some(parsed) = F::parse(packet, l3) else { return Verdict::Truncated };
    if let Some(fault) = parsed.fault {
        return parse::judge(env, &parsed.flow, fault);
    }
    if F::is_icmp(parsed.flow.protocol()) {
        return echo::answer::<F>(packet, env, &parsed);
    }
    stages::<F>(packet, env, &parsed)
}

#[inline(always)]
fn stages<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>) -> Verdict {
    let settings = env.settings();
    let Some((service, id)) = service::find::<F>(env, settings, parsed.flow.vip, parsed.flow.listener()) else {
        return reply::restore::<F>(packet, env, settings, parsed);
    };
    let (backend, backend_id) = select::backend::<F>(env, settings, service, id, parsed);
    match forward::send::<F>(packet, env, backend, parsed) {
        Ok(verdict) => {
            env.count_backend(backend_id, parsed.l3 as u32 + parsed.ip_len, parsed.is_syn());
            verdict
        }
        Err(verdict) => {
            if let Verdict::NoBackend = verdict {
                env.count_service_drop(id);
            }
            verdict
        }
    }
}
