#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

#[xdp(frags)]
pub fn xlb(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// Passes everything: what a veth's peer needs for frames to arrive.
#[xdp(frags)]
pub fn xlb_pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
