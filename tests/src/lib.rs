//! What the tests share.

pub mod path;
