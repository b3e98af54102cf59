//! Decides whether a packet may go to its service at all: by lists of prefixes, those of all VIPs and those of the service.
//!
//! A packet must be admitted by both. Nothing is asked of services without any rule, which have no flag. What leads a life of its own
//! is not judged: ICMP errors, whose senders are routers anywhere, and fragments after the first, which follow it or are dropped.

use lb_common::Verdict;
use lb_common::admission::{self, Line, Root, Rule, Rules, said};

use crate::env::Env;
use crate::family::Family;
use crate::parse::Parsed;

/// The scope of all VIPs.
pub const ALL_VIPS: u16 = 0;

/// Who sends what. Three words: a BPF function takes no more than five.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The sender's address, from the left.
    pub high: u64,
    pub low: u64,
    /// 0 for what a VIP itself is asked.
    pub service: u16,
    pub is_v6: bool,
}

/// Where an address is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    pub high: u64,
    pub low: u64,
    pub root: Root,
}

/// The verdict on a packet that may not go on to this service.
#[inline(always)]
pub fn refuse<F: Family>(env: &impl Env, service: u16, parsed: &Parsed<F>) -> Option<Verdict> {
    let [high, low] = F::from_the_left(parsed.flow.client);
    env.refuse(Question { high, low, service, is_v6: F::IS_V6 })
}

/// Answers a question, and counts a refusal.
#[inline(always)]
pub fn answer(env: &impl Env, question: Question) -> Option<Verdict> {
    let mut refused = by_scope(env, question, ALL_VIPS);
    if refused.is_none() && question.service != ALL_VIPS {
        refused = by_scope(env, question, question.service);
    }
    refused
}

#[inline(always)]
fn by_scope(env: &impl Env, question: Question, scope: u16) -> Option<Verdict> {
    let rules: &Rules = env.admission(scope);
    let root = if question.is_v6 { rules.v6 } else { rules.v4 };
    if root.is_none() {
        return None;
    }
    let rule = match env.listed(Listing { high: question.high, low: question.low, root }) {
        said::DENY => Rule::Deny,
        said::STRANGER => Rule::Allow,
        _ => return None,
    };
    env.count_refused(scope, rule);
    Some(Verdict::Denied)
}

/// What a list says of an address.
#[inline(always)]
pub fn listed<'e>(line: impl Fn(u32) -> Option<&'e Line>, listing: Listing) -> u8 {
    admission::look_up(line, listing.root, listing.high, listing.low)
}
