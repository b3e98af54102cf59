//! The packet path.
#![cfg_attr(not(test), no_std)]
