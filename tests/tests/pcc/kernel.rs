//! The same in the kernel.
