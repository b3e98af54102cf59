//! The BPF program: wires the packet path to the kernel's maps and helpers. No decision is taken here.

#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod env;
mod frame;
mod maps;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use aya_log_ebpf::error;
use lb_common::verdict::{Class, Verdict};

/// Steers the packets of an interface.
#[xdp(frags)]
#[inline(always)]
pub fn xlb(ctx: XdpContext) -> u32 {
    let env = env::Kernel::new(ctx.ctx);
    let mut frame = frame::Frame::new(ctx.ctx);
    let verdict = lb_ebpf::process(&mut frame, &env);
    if let Verdict::Internal = verdict {
        error!(&ctx, "a packet found the tables contradicting themselves; dropped, please report this");
    }
    if let Verdict::Tx = verdict {
        return xdp_action::XDP_TX;
    }
    match verdict {
        Verdict::Tx | Verdict::EchoReply => xdp_action::XDP_TX,
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

// The kernel refuses programs that are not under a licence it knows when they call certain helpers.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never linked in: the packet path has no panic, and the verifier refuses an endless loop.
    loop {}
}
