//! The program that the benchmark has the kernel repeat, around the program that it measures.
//!
//! `BPF_PROG_TEST_RUN` with `repeat` gives a program its own output again: a program that rewrites or encapsulates would
//! see something else than a packet from the second time on. So what is repeated is this: it undoes what the program
//! before did to the packet's ends, writes the next packet's bytes, and tail-calls the program. The same around a
//! program that only returns is the floor, and the difference what the program costs.
#![no_std]
#![no_main]
// Inline assembly for BPF is not stable; the compilers that build for BPF all allow it.
#![feature(asm_experimental_arch)]

mod state;

use core::arch::asm;
use core::ffi::c_void;

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::{bpf_ktime_get_ns, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_store_bytes};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, ProgramArray};
use aya_ebpf::programs::XdpContext;
use aya_ebpf::{EbpfContext, Global};

use state::{PACKET_MAX, Packet, State, TIMES};

#[map]
static STATE: Array<State> = Array::with_max_entries(1, 0);
/// User space sets how many.
#[map]
static PACKETS: Array<Packet> = Array::with_max_entries(1, 0);
#[map]
static TIMES_NS: Array<u64> = Array::with_max_entries(TIMES, 0);
/// The program under test.
#[map]
static PROGRAM: ProgramArray = ProgramArray::with_max_entries(1, 0);

/// How far [`adjust`] and [`adjust_and_back`] move the beginning, in bytes. Set when the program is loaded.
#[unsafe(no_mangle)]
static HEAD_DELTA: Global<i32> = Global::new(0);

#[xdp(frags)]
pub fn wrapper(ctx: XdpContext) -> u32 {
    let Some(state) = STATE.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: a pointer to the map's only element, which is used by one program run at a time: user space runs one.
    let state = unsafe { &mut *state };
    // The end of the program before must not overlap with this one.
    read_clock();
    note_time(state);
    if restore(&ctx, state).is_none() {
        state.n_failed += 1;
        return XDP_ABORTED;
    }
    // A locked addition drains the store buffer: or the program would wait for the bytes just written. An ordered clock
    // read (lfence; rdtsc) lets nothing of the program begin before.
    // SAFETY: adds to a field that nothing else uses. An instruction, because core has no atomic addition for this target.
    unsafe { asm!("lock *(u64 *)({} + 0) += {}", in(reg) &raw mut state.fence, in(reg) 1u64) };
    read_clock();
    // SAFETY: nothing here waits to be dropped.
    unsafe { PROGRAM.tail_call(&ctx, 0) };
    state.n_failed += 1;
    XDP_ABORTED
}

/// The program whose cost is nothing.
#[xdp(frags)]
pub fn empty(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Work whose cost is known in proportion, to test the method with: steps that each wait for the one before.
#[xdp(frags)]
pub fn steps_400(ctx: XdpContext) -> u32 {
    steps::<400>(&ctx)
}

#[xdp(frags)]
pub fn steps_800(ctx: XdpContext) -> u32 {
    steps::<800>(&ctx)
}

#[inline(always)]
fn steps<const N: u32>(ctx: &XdpContext) -> u32 {
    // Not known to the compiler; and the exclusive or keeps it from joining multiplications.
    let mut value = ctx.ingress_ifindex() as u64 | 3;
    for _ in 0..N {
        value = value.wrapping_mul(5) ^ value;
    }
    if value == 0 { XDP_ABORTED } else { XDP_PASS }
}

/// What moving the packet's beginning costs, by the program and back by the wrapper.
#[xdp(frags)]
pub fn adjust(ctx: XdpContext) -> u32 {
    // SAFETY: the context is this program's.
    unsafe { bpf_xdp_adjust_head(ctx.ctx, HEAD_DELTA.load()) };
    XDP_TX
}

/// The same by the program, twice.
#[xdp(frags)]
pub fn adjust_and_back(ctx: XdpContext) -> u32 {
    let delta = HEAD_DELTA.load();
    // SAFETY: the context is this program's.
    unsafe {
        bpf_xdp_adjust_head(ctx.ctx, delta);
        bpf_xdp_adjust_head(ctx.ctx, -delta);
    }
    XDP_TX
}

#[inline(always)]
fn read_clock() -> u64 {
    // SAFETY: the helper has no conditions.
    unsafe { bpf_ktime_get_ns() }
}

/// Records the time at each segment's beginning.
#[inline(always)]
fn note_time(state: &mut State) {
    let n_calls = state.n_calls;
    state.n_calls += 1;
    let bits = state.segment_bits & 31;
    if n_calls & ((1 << bits) - 1) != 0 {
        return;
    }
    if let Some(time) = TIMES_NS.get_ptr_mut((n_calls >> bits) as u32) {
        // SAFETY: a pointer to an element of the map.
        unsafe { *time = read_clock() };
    }
}

/// Makes the buffer hold the next packet, at the place where the first one was.
#[inline(always)]
fn restore(ctx: &XdpContext, state: &mut State) -> Option<()> {
    restore_head(ctx, state)?;
    let index = state.next_packet;
    state.next_packet = if index + 1 < state.n_packets { index + 1 } else { 0 };
    let packet = PACKETS.get_ptr_mut(index)?;
    // SAFETY: a pointer to an element of the map, which only one program run uses at a time.
    let packet = unsafe { &mut *packet };
    // Neither zero nor more than there is, in the one form that all versions of the verifier follow.
    let len = (packet.last & (PACKET_MAX as u32 - 1)) + 1;
    vary_flow(packet, state);

    let here = ctx.data_end() - ctx.data();
    if here != len as usize {
        state.n_tails_moved += 1;
        // SAFETY: the context is this program's.
        if unsafe { bpf_xdp_adjust_tail(ctx.ctx, len as i32 - here as i32) } != 0 {
            return None;
        }
    }
    // SAFETY: `len` bytes are there to be read, as computed above; the helper tests the packet's length.
    let stored = unsafe { bpf_xdp_store_bytes(ctx.as_ptr().cast(), 0, packet.bytes.as_mut_ptr().cast::<c_void>(), len) };
    (stored == 0).then_some(())
}

#[inline(always)]
fn restore_head(ctx: &XdpContext, state: &mut State) -> Option<()> {
    // SAFETY: both are fields of a map's element. Written and read again, because only what comes from memory is a number
    // to the verifier, which may be subtracted and compared.
    let begin = unsafe {
        core::ptr::write_volatile(&raw mut state.begin, ctx.data() as u64);
        core::ptr::read_volatile(&raw const state.begin)
    };
    if state.base == 0 {
        state.base = begin;
        return Some(());
    }
    if state.base == begin {
        return Some(());
    }
    state.n_heads_moved += 1;
    // SAFETY: the context is this program's.
    let moved = unsafe { bpf_xdp_adjust_head(ctx.ctx, state.base.wrapping_sub(begin) as i32) };
    (moved == 0).then_some(())
}

/// Writes another client into the packet. Flows come scattered, as they do from a network card: neighbours in time are not
/// neighbours in any table.
#[inline(always)]
fn vary_flow(packet: &mut Packet, state: &mut State) {
    if state.flow_mask == 0 {
        return;
    }
    let flow = state.next_flow.wrapping_mul(0x9E37_79B1) & state.flow_mask;
    state.next_flow = state.next_flow.wrapping_add(1);
    let port = (1024 + (flow & 0x7fff)) as u16;
    store_u16(packet, packet.client_port_at, port);
    store_u16(packet, packet.client_address_at, (flow >> 15) as u16);
}

#[inline(always)]
fn store_u16(packet: &mut Packet, at: u16, value: u16) {
    // A mask is the bound that the verifier understands best; offsets are within the headers.
    let at = usize::from(at & 0xff);
    let [high, low] = value.to_be_bytes();
    packet.bytes[at] = high;
    packet.bytes[at + 1] = low;
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
