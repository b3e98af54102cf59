//! Decides whether a packet may go to its service at all: by lists of prefixes, and by rates of sources and services.
//!
//! A packet must be admitted by the rules of all VIPs, and by those of its service. Nothing is asked of services without any rule,
//! which have no flag. What leads a life of its own is not judged: ICMP errors, whose senders are routers anywhere, and fragments
//! after the first, which follow it or are dropped.
//!
//! While nobody attends to the program, and the operator wants that to end all service, nothing is admitted.

use lb_common::Verdict;
use lb_common::admission::{self, Line, Root, Rule, Rules, Suspect, rules_flags, said};
use lb_common::flow::{Place, Tick};
use lb_common::meter::{self, Limit, Meter};
use lb_common::records::settings_flags;

use crate::env::Env;
use crate::family::Family;
use crate::parse::Parsed;
use crate::transport::{UDP, tcp_flags};

/// The scope of all VIPs.
pub const ALL_VIPS: u16 = 0;

/// How often a bucket is tried that other CPUs change too. Who loses this often passes uncounted: as many others were counted.
const ATTEMPTS: usize = 3;

/// Who sends what. Five words: a BPF function takes no more.
#[derive(Clone, Copy, Debug)]
pub struct Question {
    /// The sender's address, from the left.
    pub high: u64,
    pub low: u64,
    /// Where a UDP flow is on record.
    pub place: meter::Place,
    /// 0 for what a VIP itself is asked.
    pub service: u16,
    pub is_v6: bool,
    /// IANA protocol number.
    pub protocol: u8,
    /// 0 for all but TCP.
    pub tcp_flags: u8,
}

/// Where an address is looked for.
#[derive(Clone, Copy, Debug)]
pub struct Listing {
    pub high: u64,
    pub low: u64,
    pub root: Root,
}

/// What may be beyond the limits of which scope.
#[derive(Clone, Copy, Debug)]
pub struct Excess {
    /// The upper half of the sender's address.
    pub high: u64,
    pub scope: u16,
    pub is_v6: bool,
    /// It opens a connection.
    pub opens: bool,
}

/// What is taken out of which bucket.
#[derive(Clone, Copy, Debug)]
pub struct Charge {
    pub place: meter::Place,
    pub limit: Limit,
}

/// What becomes of packets to VIPs while the daemon has been away for longer than its operator allows.
#[inline(always)]
pub fn unattended(env: &impl Env) -> Option<Verdict> {
    let settings = env.settings();
    // Times wrap.
    if settings.flags & settings_flags::WATCHDOG == 0 || settings.attended_until.wrapping_sub(env.now_by_call()) as i32 >= 0 {
        return None;
    }
    let drops = settings.flags & settings_flags::WATCHDOG_DROPS != 0;
    Some(if drops { Verdict::UnattendedDrop } else { Verdict::Unattended })
}

/// The verdict on a packet that may not go on to this service.
#[inline(always)]
pub fn refuse<F: Family>(env: &impl Env, service: u16, parsed: &Parsed<F>) -> Option<Verdict> {
    let [high, low] = F::from_the_left(parsed.flow.client);
    let keys = &env.settings().hash_keys;
    // For each protocol: a branch here would be one more way into all that follows.
    let place = Place::new(F::flow_hash(keys, &parsed.flow), service, keys).into();
    let (protocol, tcp_flags) = (parsed.flow.protocol(), parsed.tcp_flags);
    env.refuse(Question { high, low, place, service, is_v6: F::IS_V6, protocol, tcp_flags })
}

/// Answers a question, and counts a refusal.
#[inline(always)]
pub fn answer(env: &impl Env, question: Question) -> Option<Verdict> {
    let Question { place, service, protocol, tcp_flags, .. } = question;
    if let Some(verdict) = unattended(env) {
        return Some(verdict);
    }
    let (all_vips, own): (&Rules, &Rules) = (env.admission(ALL_VIPS), env.admission(service));
    let has_own = service != ALL_VIPS;
    if let Some(rule) = forbidden(env, question, all_vips) {
        return count(env, question, ALL_VIPS, all_vips, rule, Verdict::Denied);
    }
    if has_own && let Some(rule) = forbidden(env, question, own) {
        return count(env, question, service, own, rule, Verdict::Denied);
    }
    let flags = all_vips.flags | own.flags;
    if flags & rules_flags::LIMITS == 0 {
        return None;
    }
    let idle = env.service(service).idle;
    let may_open = protocol == UDP && flags & rules_flags::CONNECTIONS != 0;
    let is_syn = tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN;
    let opens = is_syn || (may_open && !env.is_known(place, idle, false));
    if let Some(rule) = env.exceeded(Excess { high: question.high, scope: ALL_VIPS, is_v6: question.is_v6, opens }) {
        return count(env, question, ALL_VIPS, all_vips, rule, Verdict::Limited);
    }
    if has_own && let Some(rule) = env.exceeded(Excess { high: question.high, scope: service, is_v6: question.is_v6, opens }) {
        return count(env, question, service, own, rule, Verdict::Limited);
    }
    if may_open && opens {
        env.is_known(place, idle, true);
    }
    None
}

/// Counts a refusal, and notes whom it met: a source as far as the rule looks at it.
#[inline(always)]
fn count(env: &impl Env, question: Question, scope: u16, rules: &Rules, rule: Rule, verdict: Verdict) -> Option<Verdict> {
    let Question { high, low, is_v6, .. } = question;
    let what = Suspect::what(scope, rule, is_v6);
    let source = if matches!(rule, Rule::SourcePackets | Rule::SourceConnections) {
        Suspect { high: source(high, is_v6, rules), low: 0, what, n_bits: source_bits(is_v6, rules), votes: 0 }
    } else {
        Suspect { high, low, what, n_bits: if is_v6 { 128 } else { 32 }, votes: 0 }
    };
    env.count_refused(scope, rule, &source);
    Some(verdict)
}

#[inline(always)]
fn source_bits(is_v6: bool, rules: &Rules) -> u32 {
    if is_v6 { rules.source_bits_v6 } else { rules.source_bits_v4 }
}

/// The upper half of an address as far as it tells one source from another.
#[inline(always)]
fn source(high: u64, is_v6: bool, rules: &Rules) -> u64 {
    // Without any, all bits.
    high & (u64::MAX << (64u32.wrapping_sub(source_bits(is_v6, rules)) & 63))
}

/// The list of a scope that keeps the sender out.
#[inline(always)]
fn forbidden(env: &impl Env, question: Question, rules: &Rules) -> Option<Rule> {
    let root = if question.is_v6 { rules.v6 } else { rules.v4 };
    if root.is_none() {
        return None;
    }
    match env.listed(Listing { high: question.high, low: question.low, root }) {
        said::DENY => Some(Rule::Deny),
        said::STRANGER => Some(Rule::Allow),
        _ => None,
    }
}

/// The limit of a scope that a packet is beyond. Those before it have been charged.
#[inline(always)]
pub fn exceeded(env: &impl Env, excess: Excess) -> Option<Rule> {
    let Excess { high, scope, is_v6, opens } = excess;
    let rules = env.admission(scope);
    let source = source(high, is_v6, rules);
    let is_beyond = |meter: Meter, prefix: u64, is_v6: bool| {
        let limit = rules.limits[meter as usize];
        if limit.is_none() {
            return false;
        }
        let place = meter::Place::new(&env.settings().hash_keys, prefix, scope, is_v6, meter);
        !take_at_last(env, Charge { place, limit })
    };
    if is_beyond(Meter::SourcePackets, source, is_v6) {
        return Some(Rule::SourcePackets);
    }
    if opens && is_beyond(Meter::SourceConnections, source, is_v6) {
        return Some(Rule::SourceConnections);
    }
    // Of all sources, whatever their family.
    if is_beyond(Meter::Packets, 0, false) {
        return Some(Rule::Packets);
    }
    if opens && is_beyond(Meter::Connections, 0, false) {
        return Some(Rule::Connections);
    }
    None
}

/// What a list says of an address.
#[inline(always)]
pub fn listed<'e>(line: impl Fn(u32) -> Option<&'e Line>, listing: Listing) -> u8 {
    admission::look_up(line, listing.root, listing.high, listing.low)
}

/// Whether a bucket has one left, which it has not any more then. The attempts are made here, for in a function of their own, one
/// after the other would multiply what the verifier looks at.
#[inline(always)]
fn take_at_last(env: &impl Env, charge: Charge) -> bool {
    let mut attempt = 0;
    while attempt < ATTEMPTS {
        if let Some(taken) = env.take(charge) {
            return taken;
        }
        attempt += 1;
    }
    true
}

/// Takes one out of a bucket, and tells whether there was one; `None` if another CPU changed the bucket meanwhile.
#[inline(always)]
pub fn take(env: &impl Env, charge: Charge) -> Option<bool> {
    let Charge { place: meter::Place { line, tag }, limit } = charge;
    let now = env.meter_time();
    let found = meter::find(|position| env.meter(line, position), tag, now);
    let Some(next) = limit.take(found.entry, tag, now) else { return Some(false) };
    env.replace_meter(line, found, next).then_some(true)
}

/// Whether a UDP flow has been seen within `idle`, and puts it on record if told to. One that is on record is seen now: its entry
/// is a bucket that is full once it has been silent for that long. In a full line, the flow that has been silent longest gives way.
#[inline(always)]
pub fn is_known(env: &impl Env, place: meter::Place, idle: Tick, is_recorded: bool) -> bool {
    let now = env.meter_time();
    let lasts = meter::lasting(idle);
    let found = meter::find(|position| env.known_flow(place.line, position), place.tag, now);
    let left = if found.entry.tag() == place.tag { found.entry.ahead(now) } else { 0 };
    // Not with every packet.
    if (left > 0 || is_recorded) && left < lasts - lasts / 8 {
        // Whoever loses against another CPU begins once more.
        env.replace_known_flow(place.line, found, meter::Entry::new(place.tag, now.wrapping_add(lasts)));
    }
    left > 0
}
