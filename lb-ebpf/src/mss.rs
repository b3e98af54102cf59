//! Lowers the maximum segment size (RFC 9293 section 3.7.1) that the ends of a connection tell each other: the client in its SYN, and a
//! backend by NAT or full NAT, whose replies pass, in its SYN-ACK. For ways on which larger packets are lost and nobody says so.

use lb_common::checksum::Delta;
use lb_common::records::{Service, service_flags};

use crate::env::Env;
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::{self, Parsed};
use crate::transport::{self, TCP, tcp_flags};
use crate::{fullnat, reply, service};

/// Kinds of options, and the length of the one that is looked for.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
const MSS_LEN: u8 = 4;

/// An option's first bytes: kind, length, and what the maximum segment size has after these.
type Start = [u8; MSS_LEN as usize];

/// Options that are looked at. A SYN has hardly more than six, and that of the segment size comes first as a rule.
const OPTIONS_MAX: usize = 16;

/// Lowers what a SYN or SYN-ACK of a service that wants it says, if it says more. All else stays as it is.
#[inline(always)]
pub fn clamp<F: Family>(packet: &mut impl Packet, env: &impl Env) {
    let Ok(parsed) = parse::headers::<F, false>(packet) else { return };
    if parsed.fault.is_some() || parsed.flow.protocol() != TCP || parsed.tcp_flags & tcp_flags::SYN == 0 {
        return;
    }
    if let Some(service) = service_of::<F>(env, &parsed).filter(|service| service.flags & service_flags::CLAMP != 0) {
        lower(packet, parsed.l4, service.mss);
    }
}

/// Whose packet, or reply, it is.
#[inline(always)]
fn service_of<'e, F: Family>(env: &'e impl Env, parsed: &Parsed<F>) -> Option<&'e Service> {
    if let Some((service, _)) = service::find::<F>(env, env.settings(), parsed.flow.vip, parsed.flow.listener()) {
        return Some(service);
    }
    let id = reply::sender::<F>(env, env.settings(), parsed);
    if id.is_none() { fullnat::service_to::<F>(env, parsed) } else { Some(env.service(env.backend(id).service)) }
}

/// Goes through the options of the header at `l4`.
#[inline(always)]
fn lower(packet: &mut impl Packet, l4: usize, mss: u16) {
    let Some(options) = transport::options(packet, l4) else { return };
    let mut next = options.start;
    for _ in 0..OPTIONS_MAX {
        let at = packet.forgotten(next);
        let Some(&[kind, len, high, low]) = packet.get::<Start>(at).filter(|_| at + size_of::<Start>() <= options.end) else {
            return;
        };
        if kind == MSS && len == MSS_LEN {
            if u16::from_be_bytes([high, low]) > mss {
                write(packet, l4, at, [high, low], mss.to_be_bytes());
            }
            return;
        }
        if kind == END || (kind != NO_OPERATION && len < 2) {
            return;
        }
        next = at + if kind == NO_OPERATION { 1 } else { usize::from(len) };
    }
}

#[inline(always)]
fn write(packet: &mut impl Packet, l4: usize, at: usize, old: [u8; 2], new: [u8; 2]) {
    let Some(option) = packet.get_mut::<Start>(at) else { return };
    *option = [MSS, MSS_LEN, new[0], new[1]];
    // At an odd place it is half of one word of the sum and half of the next, which is the same with its bytes exchanged.
    let delta = if (at - l4) & 1 == 0 {
        Delta::of_word(u16::from_ne_bytes(old), u16::from_ne_bytes(new))
    } else {
        Delta::of_word(u16::from_ne_bytes([old[1], old[0]]), u16::from_ne_bytes([new[1], new[0]]))
    };
    transport::adapt(packet, l4, delta);
}
