//! Tells of single packets what became of them and why, for `xlb trace`.
//!
//! A packet that is traced is taken through the parts, as an unusual one, whatever it is: they hand on what they chose, which plain
//! packets, the most of all, need not even be asked. It is copied before, since it is changed in place, and afterwards.

use lb_common::records::settings_flags;
use lb_common::trace::{Choice, Head, How, Piece, Rules, Scratch, WINDOW_SHIFT};
use lb_common::verdict::{Class, Verdict};
use lb_common::{Addr, BackendId};

use crate::env::Env;
use crate::ethernet::{self, Ethertype};
use crate::family::Family;
use crate::ipv4::V4;
use crate::ipv6::V6;
use crate::packet::Packet;

/// Whether anybody traces packets: all that this costs while nobody does.
#[inline(always)]
pub fn is_on(env: &impl Env) -> bool {
    env.settings().flags & settings_flags::TRACE != 0
}

/// Begins the record of a packet; false if it gets none.
#[inline(always)]
pub fn begin(packet: &impl Packet, env: &impl Env) -> bool {
    let is_begun = try_begin(packet, env);
    env.with_trace(|scratch| scratch.is_begun = is_begun.into());
    is_begun
}

#[inline(always)]
fn try_begin(packet: &impl Packet, env: &impl Env) -> bool {
    let rules = env.trace_rules();
    let now = env.meter_time();
    if now >= rules.until {
        return false;
    }
    let Some(is_for_vip) = concerns(packet, env, rules) else { return false };
    if (u64::from(env.random()) * u64::from(rules.one_in)) >> 32 != 0 {
        return false;
    }
    let is_within = env.n_traced((now >> WINDOW_SHIFT) as u32) < rules.n_max;
    env.with_trace(|scratch| {
        if !is_within {
            scratch.n_limited += 1;
            return;
        }
        scratch.is_for_vip = is_for_vip.into();
        let record = &mut scratch.record;
        record.at_ns = env.time_ns();
        record.id = rules.id;
        record.ingress = packet.ingress();
        record.slot_index = 0;
        record.service = 0;
        record.backend = 0;
        record.how = How::NOT;
        record.frame_len = packet.frame_len() as u32;
        record.came_len = copy(packet, &mut record.came);
    });
    is_within
}

/// Ends the record, if one was begun, and hands it over if it is wanted.
#[inline(always)]
pub fn end(packet: &impl Packet, env: &impl Env, verdict: Verdict) {
    let rules = env.trace_rules();
    if rules.verdicts >> (verdict as u64 & 63) & 1 == 0 {
        return;
    }
    let mut is_wanted = false;
    env.with_trace(|scratch| {
        if core::mem::take(&mut scratch.is_begun) == 0 {
            return;
        }
        let record = &mut scratch.record;
        let backend = env.backend(BackendId(record.backend));
        let service = env.service(record.service);
        let is_of_vip = scratch.is_for_vip != 0 || (record.how == How::REPLY && rules.vip.has(&service.vip));
        let is_of_backend = rules.backend.is_any() || (record.backend != 0 && rules.backend.has(&backend.address));
        is_wanted = is_of_vip && is_of_backend;
        if !is_wanted {
            return;
        }
        let is_forwarded = matches!(verdict.class(), Class::Forwarded);
        record.verdict = verdict as u8;
        // Among its service's.
        record.slot_index = record.slot_index.wrapping_sub(service.region.first());
        record.egress = match verdict {
            Verdict::Tx | Verdict::EchoReply | Verdict::TooBig => record.ingress,
            Verdict::Redirect => backend.ifindex,
            _ => 0,
        };
        record.frame_left_len = if is_forwarded { packet.frame_len() as u32 } else { 0 };
        record.left_len = if is_forwarded { copy(packet, &mut record.left) } else { 0 };
    });
    if is_wanted {
        let is_written = env.write_trace();
        env.count_traced((env.meter_time() >> WINDOW_SHIFT) as u32);
        env.with_trace(|scratch| {
            scratch.n_written += u64::from(is_written);
            scratch.n_lost += u64::from(!is_written);
        });
    }
}

/// Puts what was chosen for a packet into its record.
#[inline(always)]
pub fn note(scratch: &mut Scratch, choice: Choice) {
    let record = &mut scratch.record;
    record.service = choice.service;
    record.backend = choice.backend.0;
    record.slot_index = choice.slot_index;
    record.how = choice.how;
}

/// Whether the packet is for a VIP that is traced; `None` if it need not be looked at.
#[inline(always)]
fn concerns(packet: &impl Packet, env: &impl Env, rules: &Rules) -> Option<bool> {
    match ethernet::parse(packet) {
        Ok(link) if link.ethertype == Ethertype::IPV4 => concerns_of::<V4>(packet, env, rules, link.l3),
        Ok(link) if link.ethertype == Ethertype::IPV6 => concerns_of::<V6>(packet, env, rules, link.l3),
        _ => no_ends(rules),
    }
}

#[inline(always)]
fn concerns_of<F: Family>(packet: &impl Packet, env: &impl Env, rules: &Rules, l3: usize) -> Option<bool> {
    let Ok((source, destination)) = F::ends(packet, l3) else { return no_ends(rules) };
    let (source, destination): (Addr, Addr) = (F::to_addr(source), F::to_addr(destination));
    let is_for_vip = rules.vip.has(&destination);
    // Whose reply it is turns out on the way.
    let may_be = is_for_vip || env.settings().flags & settings_flags::REPLIES != 0;
    let is_of_client = rules.client.has(&source) || rules.client.has(&destination);
    (may_be && is_of_client).then_some(is_for_vip)
}

/// What has no addresses is nobody's in particular.
#[inline(always)]
fn no_ends(rules: &Rules) -> Option<bool> {
    (rules.vip.is_any() && rules.client.is_any()).then_some(true)
}

/// Copies the beginning of a frame, and tells how many bytes that are.
#[inline(always)]
fn copy(packet: &impl Packet, head: &mut Head) -> u16 {
    let mut n_pieces = 0;
    while n_pieces < head.len() {
        let Some(piece) = packet.get::<Piece>(n_pieces * size_of::<Piece>()) else { break };
        head[n_pieces] = *piece;
        n_pieces += 1;
    }
    let len = n_pieces * size_of::<Piece>();
    if n_pieces < head.len()
        && let Some(last) = packet.get::<u8>(len)
    {
        head[n_pieces] = [*last, 0];
        return len as u16 + 1;
    }
    len as u16
}
