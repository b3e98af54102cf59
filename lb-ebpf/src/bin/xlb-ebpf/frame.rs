//! The packet accessor: the only place that turns offsets into pointers.

use core::arch::asm;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::{bpf_csum_diff, bpf_xdp_adjust_head, bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use lb_common::checksum::Sum;
use lb_ebpf::{Env, Packet, Part, Verdict, Wire};

/// A frame with its bounds, read once: a bound that is read again is a new pointer to the verifier, of which it knows nothing,
/// while the compiler leaves out a comparison whose outcome follows from an earlier one.
pub struct Frame {
    ctx: *mut xdp_md,
    data: usize,
    data_end: usize,
}

impl Frame {
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> Self {
        // SAFETY: the kernel hands the program a valid context, which outlives it.
        let (data, data_end) =
            unsafe { ((&raw const (*ctx).data).read_volatile(), (&raw const (*ctx).data_end).read_volatile()) };
        Self { ctx, data: data as usize, data_end: data_end as usize }
    }

    #[inline(always)]
    fn at<T>(&self, offset: usize) -> Option<*mut T> {
        let start = self.data + offset;
        // The verifier learns how far a pointer may be read from the comparison of that same pointer plus a constant.
        if start + size_of::<T>() > self.data_end {
            return None;
        }
        Some(start as *mut T)
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn get<T: Wire>(&self, offset: usize) -> Option<&T> {
        // SAFETY: `at` checked that the frame holds all of T. Any bytes make a T. No other CPU writes to this frame, and
        // `&self` keeps this one from doing so. Headers stand at even offsets of a buffer aligned to 2, and need no more; single
        // bytes need nothing.
        self.at(offset).map(|header| unsafe { &*header })
    }

    #[inline(always)]
    fn get_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `get`; `&mut self` makes this the only reference.
        self.at(offset).map(|header| unsafe { &mut *header })
    }

    #[inline(always)]
    fn sum(&self, offset: usize, len: usize) -> Option<Sum> {
        let start = self.data + offset;
        if start + len > self.data_end {
            return None;
        }
        // SAFETY: the frame holds these bytes, and the helper only reads.
        let words = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, start as *mut u32, len as u32, 0) };
        let mut sum = Sum::default();
        sum.add(words as u32);
        Some(sum)
    }

    #[inline(always)]
    fn frame_len(&self) -> usize {
        // SAFETY: the context is valid.
        let len_of_all_buffers = unsafe { bpf_xdp_get_buff_len(self.ctx) } as usize;
        // Where the kernel knows of one buffer only, that says nothing.
        let len_of_first = self.data_end - self.data;
        if len_of_all_buffers > len_of_first { len_of_all_buffers } else { len_of_first }
    }

    #[inline(always)]
    fn has_linear_len(&self, len: usize) -> bool {
        self.data + len <= self.data_end
    }

    #[inline(always)]
    fn has_len(&self, len: usize) -> bool {
        if self.has_linear_len(len) {
            return true;
        }
        // SAFETY: the context is valid.
        let len_of_all_buffers = unsafe { bpf_xdp_get_buff_len(self.ctx) };
        len as u64 <= len_of_all_buffers
    }

    #[inline(always)]
    fn unrelated(&self, mut offset: usize) -> usize {
        // SAFETY: changes nothing else, and no offset, for they all are in a frame's first buffer.
        unsafe { asm!("{0} &= 65535", inout(reg) offset, options(pure, nomem, nostack, preserves_flags)) };
        offset
    }

    #[inline(always)]
    fn forgotten(&self, mut number: usize) -> usize {
        // SAFETY: the context is valid.
        let any = unsafe { (&raw const (*self.ctx).rx_queue_index).read_volatile() };
        // SAFETY: adds nothing. The verifier does not see that a number less itself is 0.
        unsafe {
            asm!(
                "{copy} = {any}",
                "{copy} ^= {any}",
                "{number} |= {copy}",
                "{number} &= 16383",
                any = in(reg) u64::from(any),
                copy = out(reg) _,
                number = inout(reg) number,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        number
    }

    #[inline(always)]
    fn grow(&mut self, by: usize) -> bool {
        // SAFETY: the context is valid. No reference into the frame outlives the exclusive one to it.
        let is_done = unsafe { bpf_xdp_adjust_head(self.ctx, -(by as i32)) } == 0;
        *self = Self::new(self.ctx);
        is_done
    }

    #[inline(always)]
    fn shrink(&mut self, by: usize) -> bool {
        // SAFETY: the context is valid. No reference into the frame outlives the exclusive one to it.
        let is_done = unsafe { bpf_xdp_adjust_head(self.ctx, by as i32) } == 0;
        *self = Self::new(self.ctx);
        is_done
    }

    #[inline(always)]
    fn cut(&mut self, len: usize) -> bool {
        // SAFETY: the context is valid. No reference into the frame outlives the exclusive one to it.
        let is_done = unsafe { bpf_xdp_adjust_tail(self.ctx, len.wrapping_sub(self.frame_len()) as i32) == 0 };
        *self = Self::new(self.ctx);
        is_done
    }

    #[inline(always)]
    fn take_apart(&mut self, _: &impl Env, part: Part) -> Option<Verdict> {
        crate::part(self.ctx, part)
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.ctx).ingress_ifindex }
    }

    #[inline(always)]
    fn end_trace(&mut self, _: &impl Env, verdict: Verdict) {
        crate::xlb_trace_end(self.ctx, verdict as u32);
    }
}
