//! The BPF program: wires the packet path to the kernel's maps and helpers. No decision is taken here.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod env;
mod frame;
mod maps;

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::error;
use lb_common::BackendId;
use lb_common::verdict::{Class, Verdict};
use lb_ebpf::{Part, TooBig, Tunnel};

/// Steers the packets of an interface.
#[xdp(frags)]
#[inline(always)]
pub fn xlb(ctx: XdpContext) -> u32 {
    // First of all: what is known before a call has to be kept for after it.
    let is_traced = lb_ebpf::trace::is_on(&env::Kernel::uncounting()) && xlb_trace_begin(ctx.ctx) != 0;
    let env = env::Kernel::new(ctx.ctx);
    let mut frame = frame::Frame::new(ctx.ctx);
    if !is_traced {
        match lb_ebpf::plain(&mut frame, &env) {
            Some(Verdict::Tx) => return xdp_action::XDP_TX,
            Some(verdict) => return action(&ctx, verdict),
            None => {}
        }
    }
    action(&ctx, lb_ebpf::unusual(&mut frame, &env))
}

/// [`lb_ebpf::trace::begin`] as a global function, and the next one too: what is rare is looked at by itself.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_trace_begin(ctx: *mut xdp_md) -> u32 {
    lb_ebpf::trace::begin(&frame::Frame::new(ctx), &env::Kernel::new(ctx)).into()
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_trace_end(ctx: *mut xdp_md, verdict: u32) -> u32 {
    if let Some(verdict) = Verdict::from_number(verdict as u8) {
        lb_ebpf::trace::end(&frame::Frame::new(ctx), &env::Kernel::new(ctx), verdict);
    }
    0
}

/// A [part](lb_ebpf::part) of the packet path as a global function, of a context and words; its verdict by number.
macro_rules! parts {
    ($($name:ident($($word:ident),*) = $part:expr, $pattern:pat => [$($argument:expr),*];)+) => {
        $(
            #[unsafe(no_mangle)]
            #[inline(never)]
            pub extern "C" fn $name(ctx: *mut xdp_md, $($word: u32),*) -> u32 {
                let verdict = lb_ebpf::part(&mut frame::Frame::new(ctx), &env::Kernel::of_part(ctx), $part);
                verdict.map_or(NONE, |verdict| verdict as u32)
            }
        )+

        /// Takes the frame through a part.
        #[inline(always)]
        fn part(ctx: *mut xdp_md, part: Part) -> Option<Verdict> {
            let number = match part { $($pattern => $name(ctx, $($argument),*),)+ };
            Verdict::from_number(number as u8)
        }
    };
}

parts! {
    xlb_admit_v4() = Part::AdmitV4, Part::AdmitV4 => [];
    xlb_admit_v6() = Part::AdmitV6, Part::AdmitV6 => [];
    xlb_v4() = Part::V4, Part::V4 => [];
    xlb_v6() = Part::V6, Part::V6 => [];
    xlb_clamp_v4() = Part::ClampV4, Part::ClampV4 => [];
    xlb_clamp_v6() = Part::ClampV6, Part::ClampV6 => [];
    xlb_toa_v4() = Part::ToaV4, Part::ToaV4 => [];
    xlb_toa_v6() = Part::ToaV6, Part::ToaV6 => [];
    xlb_quic_v4() = Part::QuicV4, Part::QuicV4 => [];
    xlb_quic_v6() = Part::QuicV6, Part::QuicV6 => [];
    xlb_fullnat_v4() = Part::FullnatV4, Part::FullnatV4 => [];
    xlb_fullnat_v6() = Part::FullnatV6, Part::FullnatV6 => [];
    xlb_fullnat_reply_v4() = Part::FullnatReplyV4, Part::FullnatReplyV4 => [];
    xlb_fullnat_reply_v6() = Part::FullnatReplyV6, Part::FullnatReplyV6 => [];
    xlb_fullnat_icmp_v4() = Part::FullnatIcmpV4, Part::FullnatIcmpV4 => [];
    xlb_fullnat_icmp_v6() = Part::FullnatIcmpV6, Part::FullnatIcmpV6 => [];
    xlb_fullnat_icmp_reply_v4() = Part::FullnatIcmpReplyV4, Part::FullnatIcmpReplyV4 => [];
    xlb_fullnat_icmp_reply_v6() = Part::FullnatIcmpReplyV6, Part::FullnatIcmpReplyV6 => [];
    xlb_fullnat_fragment_v4() = Part::FullnatFragmentV4, Part::FullnatFragmentV4 => [];
    xlb_fullnat_fragment_v6() = Part::FullnatFragmentV6, Part::FullnatFragmentV6 => [];
    xlb_fullnat_fragment_reply_v4() = Part::FullnatFragmentReplyV4, Part::FullnatFragmentReplyV4 => [];
    xlb_fullnat_fragment_reply_v6() = Part::FullnatFragmentReplyV6, Part::FullnatFragmentReplyV6 => [];
    xlb_icmp_v4() = Part::IcmpV4, Part::IcmpV4 => [];
    xlb_icmp_v6() = Part::IcmpV6, Part::IcmpV6 => [];
    xlb_icmp_nat_v4() = Part::IcmpNatV4, Part::IcmpNatV4 => [];
    xlb_icmp_nat_v6() = Part::IcmpNatV6, Part::IcmpNatV6 => [];
    xlb_icmp_reply_v4() = Part::IcmpReplyV4, Part::IcmpReplyV4 => [];
    xlb_icmp_reply_v6() = Part::IcmpReplyV6, Part::IcmpReplyV6 => [];
    xlb_reply_v4() = Part::ReplyV4, Part::ReplyV4 => [];
    xlb_reply_v6() = Part::ReplyV6, Part::ReplyV6 => [];
    xlb_first_fragment_v4() = Part::FirstFragmentV4, Part::FirstFragmentV4 => [];
    xlb_first_fragment_v6() = Part::FirstFragmentV6, Part::FirstFragmentV6 => [];
    xlb_fragment_v4() = Part::FragmentV4, Part::FragmentV4 => [];
    xlb_fragment_v6() = Part::FragmentV6, Part::FragmentV6 => [];
    xlb_fragment_reply_v4() = Part::FragmentReplyV4, Part::FragmentReplyV4 => [];
    xlb_fragment_reply_v6() = Part::FragmentReplyV6, Part::FragmentReplyV6 => [];
    xlb_tunnel(backend_len, place, entropy) = Part::Tunnel(Tunnel {
        backend: BackendId(backend_len as u16),
        tags_len: place as u8,
        is_v6: place & IS_V6 != 0,
        tells: place & TELLS != 0,
        ip_len: (backend_len >> 16) as u16,
        entropy,
    }), Part::Tunnel(tunnel) => [
        u32::from(tunnel.backend.0) | u32::from(tunnel.ip_len) << 16,
        u32::from(tunnel.tags_len) | u32::from(tunnel.is_v6) * IS_V6 | u32::from(tunnel.tells) * TELLS,
        tunnel.entropy
    ];
    xlb_too_big(place_len) = Part::TooBig(TooBig {
        tags_len: place_len as u8,
        is_v6: place_len & IS_V6 != 0,
        len_max: (place_len >> 16) as u16,
    }), Part::TooBig(too_big) => [
        u32::from(too_big.tags_len) | u32::from(too_big.is_v6) * IS_V6 | u32::from(too_big.len_max) << 16
    ];
}

/// No verdict's number.
const NONE: u32 = 255;

/// In a word with a length.
const IS_V6: u32 = 1 << 8;
const TELLS: u32 = 1 << 9;

#[inline(always)]
fn action(ctx: &XdpContext, verdict: Verdict) -> u32 {
    if let Verdict::Internal = verdict {
        error!(ctx, "a packet found the tables contradicting themselves; dropped, please report this");
    }
    match verdict {
        Verdict::Tx | Verdict::EchoReply | Verdict::TooBig => xdp_action::XDP_TX,
        Verdict::Redirect | Verdict::Reply => xdp_action::XDP_REDIRECT,
        Verdict::Routed | Verdict::ReplyRouted => xdp_action::XDP_PASS,
        _ => match verdict.class() {
            Class::Passed => xdp_action::XDP_PASS,
            Class::Forwarded | Class::Dropped => xdp_action::XDP_DROP,
        },
    }
}

/// Passes every packet. A veth delivers what XDP sends to it only where its peer runs a program too: this one will do.
#[xdp(frags)]
pub fn xlb_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// The backend's end of a tunnel.
#[xdp(frags)]
pub fn xlb_decap(ctx: XdpContext) -> u32 {
    let Some(ends) = maps::DECAP_ENDS.get(0) else { return xdp_action::XDP_PASS };
    let outcome = lb_ebpf::decap::take_apart(&mut frame::Frame::new(ctx.ctx), ends);
    if let Some(counts) = maps::DECAP_COUNTS.get_ptr_mut(0) {
        // SAFETY: this CPU's own record, of which XDP programs have one at a time.
        unsafe { (*counts)[outcome as usize] += 1 };
    }
    if outcome.is_dropped() { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

// The kernel refuses programs that are not under a licence it knows when they call certain helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: the packet path has no panic, and the verifier refuses an endless loop.
    loop {}
}
