//! Counts what a backend got. Every packet's verdict is counted in [`process`](crate::process).

use lb_common::verdict::Class;
use lb_common::{BackendId, Verdict};

use crate::env::Env;
use crate::family::Family;
use crate::parse::Parsed;

/// Counts a packet that left for its backend.
#[inline(always)]
pub fn backend<F: Family>(env: &impl Env, id: BackendId, verdict: Verdict, parsed: &Parsed<F>) {
    if let Class::Forwarded = verdict.class() {
        env.count_backend(id, parsed.l3 as u32 + parsed.ip_len, parsed.is_syn);
    }
}
