//! The packet accessor: the only place that turns offsets into pointers.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use lb_ebpf::{Packet, Wire};

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
        // `&self` keeps this one from doing so. Headers stand at even offsets of a buffer aligned to 2, and need no more.
        self.at(offset).map(|header| unsafe { &*header })
    }

    #[inline(always)]
    fn get_mut<T: Wire>(&mut self, offset: usize) -> Option<&mut T> {
        // SAFETY: as in `get`; `&mut self` makes this the only reference.
        self.at(offset).map(|header| unsafe { &mut *header })
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
    fn ingress(&self) -> u32 {
        // SAFETY: the context is valid.
        unsafe { (*self.ctx).ingress_ifindex }
    }
}
