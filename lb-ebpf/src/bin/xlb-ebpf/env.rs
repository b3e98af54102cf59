//! Tables, counters and helpers of the real kernel.

use core::arch::asm;

use aya_ebpf::bindings::{
    BPF_FIB_LKUP_RET_FWD_DISABLED, BPF_FIB_LKUP_RET_NOT_FWDED, BPF_FIB_LKUP_RET_SUCCESS, bpf_fib_lookup as FibLookup, xdp_action,
    xdp_md,
};
use aya_ebpf::helpers::generated::{
    bpf_fib_lookup, bpf_get_prandom_u32, bpf_get_smp_processor_id, bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns,
    bpf_redirect,
};
use lb_common::admission::{Line, RULE_SLOTS, Root, Rule, Rules, Suspect};
use lb_common::directory::Bucket;
use lb_common::flow::{self, Place, Tick};
use lb_common::handshake::{Event, Handshake, Handshakes};
use lb_common::limits;
use lb_common::load::{Load, Response};
use lb_common::meter::{self, Limit};
use lb_common::quic::ServerKey;
use lb_common::records::{Backend, Link, Service, Settings};
use lb_common::session::{self as sessions, Key, LINE, Offer, Range, Session, State, word};
use lb_common::trace::{self, Choice, How, Rules as TraceRules, Scratch};
use lb_common::verdict::VERDICT_SLOTS;
use lb_common::{Addr, BackendId, Be16, LinkAddresses, MacAddr, Slot, Verdict};
use lb_ebpf::choose::NewFlow;
use lb_ebpf::flow::{Answer, Change, Noted, Question, Quoted, Recorded, Step, Stepped, Then};
use lb_ebpf::quic::Chosen;
use lb_ebpf::{Env, FlowEvent, Route, RouteQuery, admit, session};

use crate::maps::{self, Table};

/// Address families as `bpf_fib_lookup` wants them.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// What `xlb_admit` answers. Not the verdicts' own numbers, which the compiler would take from there unlooked at.
const ADMITTED: u16 = 0;
const DENIED: u16 = 1;
const LIMITED: u16 = 2;
const UNATTENDED: u16 = 3;
const UNATTENDED_DROP: u16 = 4;

/// What `xlb_exceeded` answers, but for the last.
const WITHIN: u16 = 0;
const SOURCE_PACKETS: u16 = Rule::SourcePackets as u16;
const SOURCE_CONNECTIONS: u16 = Rule::SourceConnections as u16;
const PACKETS: u16 = Rule::Packets as u16;

/// Where `xlb_flow_record` puts what is no backend.
const NOTED_SHIFT: u32 = 48;
const THEN_SHIFT: u32 = 56;

/// What `xlb_take` answers if another CPU was faster; otherwise whether there was one left.
const LOST: u16 = 2;

pub struct Kernel {
    ctx: *mut xdp_md,
    cpu: u32,
    /// What is chosen for a packet that may be traced is noted. No packet outside of parts is.
    is_of_part: bool,
}

impl Kernel {
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> Self {
        // SAFETY: takes no pointers.
        Self { ctx, cpu: unsafe { bpf_get_smp_processor_id() }, is_of_part: false }
    }

    /// The same for a part.
    #[inline(always)]
    pub fn of_part(ctx: *mut xdp_md) -> Self {
        Self { is_of_part: true, ..Self::new(ctx) }
    }

    /// The same for a function that counts nothing of its own: it need not know the CPU, and has no packet.
    #[inline(always)]
    pub fn uncounting() -> Self {
        Self { ctx: core::ptr::null_mut(), cpu: u32::MAX, is_of_part: false }
    }

    /// Changes this CPU's copy of a counter record.
    #[inline(always)]
    fn bump<T: Table>(&self, counters: &T, change: impl FnOnce(&mut T::Record)) {
        if let Some(record) = maps::of_cpu(counters, self.cpu) {
            // SAFETY: the record is this CPU's own, and XDP programs are not preempted by others on the same CPU.
            change(unsafe { &mut *record });
        }
    }
}

impl Env for Kernel {
    #[inline(always)]
    fn has(&self, feature: u32) -> bool {
        maps::features() & feature != 0
    }

    #[inline(always)]
    fn settings(&self) -> &Settings {
        maps::SETTINGS.at::<1>(0)
    }

    #[inline(always)]
    fn service_bucket(&self, index: u32) -> &Bucket {
        maps::SERVICE_BUCKETS.at::<{ 2 * limits::SERVICE_BUCKETS }>(index)
    }

    #[inline(always)]
    fn reply_bucket(&self, index: u32) -> &Bucket {
        maps::REPLY_BUCKETS.at::<{ 2 * limits::REPLY_BUCKETS }>(index)
    }

    #[inline(always)]
    fn service(&self, id: u16) -> &Service {
        maps::SERVICES.at::<{ limits::SERVICE_RECORDS }>(u32::from(id))
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<Slot> {
        maps::slot(index)
    }

    #[inline(always)]
    fn backend(&self, id: BackendId) -> &Backend {
        maps::BACKENDS.at::<{ limits::BACKEND_RECORDS }>(u32::from(id.0))
    }

    #[inline(always)]
    fn link(&self, ifindex: u32) -> Option<Link> {
        maps::LINKS.below(ifindex, limits::LINKS).copied()
    }

    #[inline(always)]
    fn admission(&self, scope: u16) -> &Rules {
        maps::ADMISSION.at::<{ limits::ADMISSION_RECORDS }>(u32::from(scope))
    }

    #[inline(always)]
    fn prefix_line(&self, index: u32) -> Option<&Line> {
        maps::prefix_line(index)
    }

    #[inline(always)]
    fn refuse(&self, question: admit::Question) -> Option<Verdict> {
        let admit::Question { high, low, place, service, is_v6, protocol, tcp_flags } = question;
        // A tag has 24 bits.
        let tag_family = place.tag | u32::from(is_v6) << 24;
        let words = u32::from(service) | u32::from(protocol) << 16 | u32::from(tcp_flags) << 24;
        match masked(xlb_admit(high, low, place.line, tag_family, words)) {
            ADMITTED => None,
            DENIED => Some(Verdict::Denied),
            UNATTENDED => Some(Verdict::Unattended),
            UNATTENDED_DROP => Some(Verdict::UnattendedDrop),
            _ => Some(Verdict::Limited),
        }
    }

    #[inline(always)]
    fn exceeded(&self, excess: admit::Excess) -> Option<Rule> {
        let admit::Excess { high, scope, is_v6, opens } = excess;
        let words = u32::from(scope) | u32::from(is_v6) << 16 | u32::from(opens) << 17;
        match masked(xlb_exceeded(high, words)) {
            WITHIN => None,
            SOURCE_PACKETS => Some(Rule::SourcePackets),
            SOURCE_CONNECTIONS => Some(Rule::SourceConnections),
            PACKETS => Some(Rule::Packets),
            _ => Some(Rule::Connections),
        }
    }

    #[inline(always)]
    fn take(&self, charge: admit::Charge) -> Option<bool> {
        let admit::Charge { place, limit } = charge;
        match masked(xlb_take(place.line, place.tag, limit.interval, limit.burst)) {
            0 => Some(false),
            LOST => None,
            _ => Some(true),
        }
    }

    #[inline(always)]
    fn is_known(&self, place: meter::Place, idle: Tick, is_recorded: bool) -> bool {
        xlb_is_known(place.line, place.tag, idle, is_recorded.into()) != 0
    }

    #[inline(always)]
    fn meter_time(&self) -> u64 {
        // SAFETY: takes no pointers.
        unsafe { bpf_ktime_get_coarse_ns() >> meter::TIME_SHIFT }
    }

    #[inline(always)]
    fn meter(&self, line: u32, position: usize) -> meter::Entry {
        // SAFETY: within the map; a word is read as a whole.
        meter::Entry::from_raw(unsafe { maps::meter(line, position).read_volatile() })
    }

    #[inline(always)]
    fn replace_meter(&self, line: u32, old: meter::Found, new: meter::Entry) -> bool {
        replace(maps::meter(line, old.position), old.entry.raw(), new.raw())
    }

    #[inline(always)]
    fn known_flow(&self, line: u32, position: usize) -> meter::Entry {
        // SAFETY: within the map; a word is read as a whole.
        meter::Entry::from_raw(unsafe { maps::known_flow(line, position).read_volatile() })
    }

    #[inline(always)]
    fn replace_known_flow(&self, line: u32, old: meter::Found, new: meter::Entry) -> bool {
        replace(maps::known_flow(line, old.position), old.entry.raw(), new.raw())
    }

    #[inline(always)]
    fn listed(&self, listing: admit::Listing) -> u8 {
        let admit::Listing { high, low, root } = listing;
        xlb_listed(high, low, root.raw()) as u8
    }

    #[inline(always)]
    fn server(&self, key: ServerKey) -> BackendId {
        BackendId(masked(xlb_server(key.server_id, key.service.into())))
    }

    #[inline(always)]
    fn server_id(&self, id: BackendId) -> u64 {
        *maps::SERVER_IDS.at::<{ limits::BACKEND_RECORDS }>(u32::from(id.0))
    }

    #[inline(always)]
    fn hand_over(&self, chosen: Chosen) {
        let word = u64::from(chosen.id.0) | u64::from(chosen.opens) << 16;
        // SAFETY: within the map, and this CPU's own.
        unsafe { maps::handed_over(self.cpu).write_volatile(word) };
    }

    #[inline(always)]
    fn handed_over(&self) -> Chosen {
        // SAFETY: as above.
        let word = unsafe { maps::handed_over(self.cpu).read_volatile() } as u32;
        Chosen { id: BackendId(masked(word)), opens: word >> 16 != 0 }
    }

    #[inline(always)]
    fn flow_backend(&self, question: Question) -> Answer {
        let (place, slot, service_flags) = (question.place, question.slot.raw(), service_flags(question));
        answer(xlb_flow(place.raw(), slot, question.slot_index, service_flags))
    }

    #[inline(always)]
    fn quoted_backend(&self, Quoted { place, slot, service }: Quoted) -> Answer {
        answer(xlb_flow_quoted(place.bucket, place.tag, slot.raw(), service.into()))
    }

    #[inline(always)]
    fn record_flow(&self, question: Question) -> Recorded {
        let (place, slot, service_flags) = (question.place, question.slot.raw(), service_flags(question));
        let recorded = xlb_flow_record(place.raw(), slot, question.slot_index, service_flags);
        let backend = |shift: u32| BackendId(masked((recorded >> shift) as u32));
        let change = Change { from: backend(16), to: backend(32) };
        let noted = Noted::from_number((recorded >> NOTED_SHIFT) as u8);
        Recorded { id: backend(0), then: Then::from_number((recorded >> THEN_SHIFT) as u8), noted, change }
    }

    #[inline(always)]
    fn count_step(&self, stepped: Stepped) {
        let Stepped { service, tag, id, step } = stepped;
        xlb_handshake(service.into(), tag, id.0.into(), step as u32);
    }

    #[inline(always)]
    fn new_backend(&self, flow: NewFlow) -> BackendId {
        BackendId(masked(xlb_choose(flow.service.into(), flow.slot_index, flow.tag)))
    }

    /// The clock changes with the timer's interrupts, and so does the kernel's count of these, which is read without a call. What a CPU
    /// stores too late belongs to a count that is over.
    #[inline(always)]
    fn now(&self) -> Tick {
        // SAFETY: takes no pointers.
        let count = unsafe { bpf_jiffies64() } << 32;
        // SAFETY: within the map; a word is read as a whole.
        let known = unsafe { maps::clock().read_volatile() };
        if known >> 32 == count >> 32 {
            return known as Tick;
        }
        let now = self.now_by_call();
        // SAFETY: within the map; a word is written as a whole.
        unsafe { maps::clock().write_volatile(count | u64::from(now)) };
        now
    }

    #[inline(always)]
    fn now_by_call(&self) -> Tick {
        // SAFETY: takes no pointers.
        (unsafe { bpf_ktime_get_coarse_ns() } >> flow::TICK_SHIFT) as Tick
    }

    #[inline(always)]
    fn flow_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        // SAFETY: within the map; a word is read as a whole.
        flow::Entry::from_raw(unsafe { maps::flow_entry(bucket, position).read_volatile() })
    }

    #[inline(always)]
    fn replace_flow(&self, bucket: u32, old: flow::Found, new: flow::Entry) -> bool {
        replace(maps::flow_entry(bucket, old.position), old.entry.raw(), new.raw())
    }

    #[inline(always)]
    fn fragment_backend(&self, place: Place, id: BackendId) -> BackendId {
        BackendId(masked(xlb_fragment(place.bucket, place.tag, id.0.into())))
    }

    #[inline(always)]
    fn fragment_port(&self, place: Place, port: Be16) -> Be16 {
        Be16::from_raw(masked(xlb_fragment(place.bucket, place.tag, port.raw().into())))
    }

    #[inline(always)]
    fn fragment_entry(&self, bucket: u32, position: usize) -> flow::Entry {
        // SAFETY: within the map; a word is read as a whole.
        flow::Entry::from_raw(unsafe { maps::fragment_entry(bucket, position).read_volatile() })
    }

    #[inline(always)]
    fn replace_fragment(&self, bucket: u32, old: flow::Found, new: flow::Entry) -> bool {
        replace(maps::fragment_entry(bucket, old.position), old.entry.raw(), new.raw())
    }

    #[inline(always)]
    fn note_elsewhere(&self, slot_index: u32, now: Tick) {
        if let Some(seen) = maps::slot_seen(slot_index) {
            note(seen, now);
        }
    }

    #[inline(always)]
    fn note_flow(&self, id: BackendId, now: Tick) {
        note(maps::backend_seen(id), now);
    }

    #[inline(always)]
    fn count_flow(&self, event: FlowEvent) {
        // Nothing else is counted where this is: the CPU's number need not be kept until here.
        Self::new(self.ctx).bump(&maps::FLOW_EVENTS, |events| {
            events.recorded += 1;
            match event {
                FlowEvent::Recorded => {}
                FlowEvent::EvictedUnconfirmed => events.evicted_unconfirmed += 1,
                FlowEvent::Evicted => events.evicted += 1,
            }
        });
    }

    #[inline(always)]
    fn load(&self, id: BackendId) -> Load {
        // SAFETY: within the map; each word of it is right by itself.
        unsafe { maps::backend_load(id).read_volatile() }
    }

    #[inline(always)]
    fn active(&self, service: u16) -> u64 {
        // SAFETY: within the map and aligned; all CPUs change it by atomic operations.
        unsafe { maps::service_load(service).read_volatile() }
    }

    #[inline(always)]
    fn add_active(&self, id: BackendId, service: u16, change: u64) {
        add(maps::backend_load(id).cast(), change);
        add(maps::service_load(service), change);
    }

    #[inline(always)]
    fn set_response(&self, id: BackendId, response: Response) {
        // SAFETY: within the map; whoever comes last is right.
        unsafe { (&raw mut (*maps::backend_load(id)).response).write_volatile(response) };
    }

    #[inline(always)]
    fn handshake(&self, tag: u32) -> Handshake {
        // SAFETY: within the map; a word is read as a whole.
        Handshake::from_raw(unsafe { maps::handshake(tag).read_volatile() })
    }

    #[inline(always)]
    fn note_handshake(&self, tag: u32, handshake: Handshake) {
        // SAFETY: within the map; a word is written as a whole.
        unsafe { maps::handshake(tag).write_volatile(handshake.raw()) };
    }

    #[inline(always)]
    fn count_handshake(&self, id: BackendId, event: Event) {
        let handshakes = maps::backend_handshakes(id);
        if let Event::Answered(Some(duration)) = event {
            // SAFETY: within the record.
            add(unsafe { handshakes.cast::<u64>().add(Handshakes::TIME_WORD) }, duration.into());
        }
        let mut word = Handshakes::word(event);
        // SAFETY: changes nothing else. Written out, the compiler would leave the mask out, as below.
        unsafe {
            asm!("{0} &= {1}", inout(reg) word, const Handshakes::WORDS - 1, options(pure, nomem, nostack, preserves_flags))
        };
        // SAFETY: within the record: all that the mask lets pass are words of it.
        add_one(unsafe { handshakes.cast::<u32>().add(word) });
    }

    #[inline(always)]
    fn take_turn(&self, service: u16) -> u32 {
        let turns = maps::turn(service);
        for _ in 0..TURN_TRIES {
            // SAFETY: within the map; a word is read as a whole.
            let turn = unsafe { turns.read_volatile() };
            if replace(turns, turn, turn.wrapping_add(1)) {
                return turn as u32;
            }
        }
        self.random()
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: takes no pointers.
        unsafe { bpf_get_prandom_u32() }
    }

    #[inline(always)]
    fn micros(&self) -> u32 {
        // SAFETY: takes no pointers.
        (unsafe { bpf_ktime_get_ns() } >> 10) as u32
    }

    #[inline(always)]
    fn has_pool(&self) -> bool {
        maps::has_pool()
    }

    #[inline(always)]
    fn pool_range(&self) -> Range {
        maps::pool_range()
    }

    #[inline(always)]
    fn pool_address(&self, number: u32) -> &Addr {
        maps::pool_address(number)
    }

    #[inline(always)]
    fn session_tags(&self, line: u32) -> u64 {
        // SAFETY: within the map; a word is read as a whole.
        maps::session_tags(line).map_or(0, |tags| unsafe { tags.read_volatile() })
    }

    #[inline(always)]
    fn session_at(&self, index: u32) -> Option<Session> {
        // SAFETY: within the record; each word is read as a whole.
        let word = |session: *mut u64, number: usize| unsafe { session.add(number).read_volatile() };
        maps::session(index).map(|session| Session {
            client: [word(session, word::CLIENT_HIGH), word(session, word::CLIENT_LOW)],
            key: word(session, word::KEY),
            state: word(session, word::STATE),
        })
    }

    #[inline(always)]
    fn replace_session(&self, index: u32, seen: State, new: Session, tag: u8, now: Tick) -> bool {
        let (Some(session), Some(tags)) = (maps::session(index), maps::session_tags(index / LINE)) else { return false };
        // SAFETY: within the record.
        let word = |number: usize| unsafe { session.add(number) };
        if !replace(word(word::STATE), seen.raw(), State::in_the_making(now).raw()) {
            return false;
        }
        // SAFETY: the record is nobody else's until its state says so; each word is written as a whole. The tag is within its line's
        // word, whose bytes are in the order of ports.
        unsafe {
            word(word::CLIENT_HIGH).write_volatile(new.client[0]);
            word(word::CLIENT_LOW).write_volatile(new.client[1]);
            word(word::KEY).write_volatile(new.key);
            tags.cast::<u8>().add((index % LINE) as usize).write_volatile(tag);
            word(word::STATE).write_volatile(new.state);
        }
        true
    }

    #[inline(always)]
    fn offer(&self, line: u32, now: Tick) -> Offer {
        let offer = xlb_session_offer(line, now);
        Offer { n: offer & 0xff, position: offer >> 8 & (LINE - 1) }
    }

    #[inline(always)]
    fn replace_session_state(&self, index: u32, seen: State, new: State) -> bool {
        // SAFETY: within the record.
        maps::session(index).is_some_and(|session| replace(unsafe { session.add(word::STATE) }, seen.raw(), new.raw()))
    }

    #[inline(always)]
    fn session(&self, question: session::Question) -> u32 {
        let [high, low] = question.client;
        xlb_session(high, low, key_flags(question), place_word(question.place), question.number)
    }

    #[inline(always)]
    fn find_session(&self, question: session::Question, line: u32) -> u32 {
        let [high, low] = question.client;
        let tag = sessions::tag(question.place);
        xlb_session_find(high, low, question.key.raw(), line, tag.into())
    }

    #[inline(always)]
    fn take_session(&self, question: session::Question, index: u32) -> u32 {
        let [high, low] = question.client;
        xlb_session_take(high, low, key_flags(question), index, question.place.tag)
    }

    #[inline(always)]
    fn is_of_session(&self, reply: session::Reply) -> bool {
        let session::Reply { backend: [high, low], backend_port, protocol, tcp_flags, is_quoted, index } = reply;
        let words = u32::from(backend_port.raw()) | u32::from(protocol) << 16 | u32::from(tcp_flags) << 24;
        xlb_session_reply(high, low, words, index, is_quoted.into()) != 0
    }

    #[inline(always)]
    fn count(&self, verdict: Verdict) {
        self.bump(&maps::TOTALS, |totals| {
            totals.received += 1;
            let mut place = verdict as usize;
            // SAFETY: changes nothing else. The compiler knows which verdicts there are; a verifier may have lost it, as that of 6.12 does
            // where a verdict is told by a difference.
            unsafe {
                asm!("{0} &= {1}", inout(reg) place, const VERDICT_SLOTS - 1, options(pure, nomem, nostack, preserves_flags));
            }
            // SAFETY: the mask leaves no place beyond the end.
            unsafe { *totals.verdicts.as_mut_ptr().add(place) += 1 };
        });
    }

    #[inline(always)]
    fn count_backend(&self, id: BackendId, bytes: u32, is_new_connection: bool) {
        self.bump(&maps::BACKEND_TRAFFIC, |backends| {
            let traffic = &mut backends[usize::from(id.0)];
            traffic.packets += 1;
            traffic.bytes += u64::from(bytes);
        });
        if is_new_connection {
            self.bump(&maps::BACKEND_CONNECTIONS, |backends| backends[usize::from(id.0)] += 1);
        }
    }

    #[inline(always)]
    fn count_service_drop(&self, id: u16) {
        self.bump(&maps::SERVICE_DROPS, |services| services[usize::from(id) % services.len()] += 1);
    }

    #[inline(always)]
    fn count_refused(&self, _: u16, _: Rule, source: &Suspect) {
        xlb_refused(source.high, source.low, source.what, source.n_bits);
    }

    #[inline(always)]
    fn redirect(&self, ifindex: u32) -> bool {
        // SAFETY: takes no pointers.
        let action = unsafe { bpf_redirect(ifindex, 0) };
        action == i64::from(xdp_action::XDP_REDIRECT)
    }

    #[inline(always)]
    fn route(&self, query: &RouteQuery) -> Route {
        // SAFETY: all zeros is a value of every field.
        let mut lookup: FibLookup = unsafe { core::mem::zeroed() };
        let is_v4 = query.source.is_v4();
        lookup.family = if is_v4 { AF_INET } else { AF_INET6 };
        lookup.l4_protocol = query.protocol;
        lookup.__bindgen_anon_1.tot_len = query.ip_len;
        lookup.ifindex = query.ingress;
        let (source, destination) = (query.source.words.map(|word| word.raw()), query.destination.words.map(|word| word.raw()));
        if is_v4 {
            lookup.__bindgen_anon_3.ipv4_src = source[3];
            lookup.__bindgen_anon_4.ipv4_dst = destination[3];
        } else {
            lookup.__bindgen_anon_3.ipv6_src = source;
            lookup.__bindgen_anon_4.ipv6_dst = destination;
        }
        // SAFETY: the context is valid, and the kernel writes no further than the size that it is given.
        let answer = unsafe { bpf_fib_lookup(self.ctx.cast(), &raw mut lookup, size_of::<FibLookup>() as i32, 0) };
        match answer as u32 {
            BPF_FIB_LKUP_RET_SUCCESS => {
                let link = LinkAddresses::new(on_stack(&lookup.dmac), on_stack(&lookup.smac));
                Route::Forward { ifindex: lookup.ifindex, link }
            }
            // A host that forwards nothing is asked before anything else whether it does: what arrives is for itself.
            BPF_FIB_LKUP_RET_NOT_FWDED | BPF_FIB_LKUP_RET_FWD_DISABLED => Route::Local,
            _ => Route::Host,
        }
    }

    #[inline(always)]
    fn trace_rules(&self) -> &TraceRules {
        maps::TRACE_RULES.at::<1>(0)
    }

    #[inline(always)]
    fn note_choice(&self, choice: Choice) {
        if self.is_of_part && lb_ebpf::trace::is_on(self) {
            let Choice { service, backend, slot_index, how } = choice;
            xlb_trace_note(u32::from(service) | u32::from(backend.0) << 16, slot_index, how.0.into());
        }
    }

    #[inline(always)]
    fn with_trace(&self, change: impl FnOnce(&mut Scratch)) {
        self.bump(&maps::TRACES, change);
    }

    #[inline(always)]
    fn write_trace(&self) -> bool {
        let Some(scratch) = maps::of_cpu(&maps::TRACES, self.cpu) else { return false };
        // SAFETY: the record is this CPU's own, and as long as is said.
        unsafe { maps::TRACE_RING.output::<trace::Record>(&(*scratch).record, 0) }.is_ok()
    }

    #[inline(always)]
    fn n_traced(&self, window: u32) -> u32 {
        // SAFETY: within the map; a word is read as a whole.
        let word = unsafe { maps::trace_window().read_volatile() };
        if (word >> 32) as u32 == window { word as u32 } else { 0 }
    }

    #[inline(always)]
    fn count_traced(&self, window: u32) {
        let word = maps::trace_window();
        // SAFETY: within the map; a word is read and written as a whole. Of CPUs that begin a window at once, one counts.
        unsafe {
            if (word.read_volatile() >> 32) as u32 == window {
                add(word, 1);
            } else {
                word.write_volatile(u64::from(window) << 32 | 1);
            }
        }
    }

    #[inline(always)]
    fn time_ns(&self) -> u64 {
        // SAFETY: takes no pointers.
        unsafe { bpf_ktime_get_ns() }
    }
}

/// A key and TCP flags in a word.
#[inline(always)]
fn key_flags(question: session::Question) -> u64 {
    question.key.raw() | u64::from(question.tcp_flags) << 56
}

#[inline(always)]
fn place_word(place: Place) -> u64 {
    u64::from(place.bucket) | u64::from(place.tag) << 32
}

/// A question about a session from the words of a global function.
#[inline(always)]
fn session_question(high: u64, low: u64, key_flags: u64, place: u64, number: u32) -> session::Question {
    session::Question {
        client: [high, low],
        key: Key::from_raw(key_flags),
        place: Place { bucket: place as u32, tag: (place >> 32) as u32 },
        number,
        tcp_flags: (key_flags >> 56) as u8,
    }
}

/// [`session::answer`](lb_ebpf::session::answer) as a global function, and the next ones too.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_session(high: u64, low: u64, key_flags: u64, place: u64, number: u32) -> u32 {
    session::answer(&Kernel::uncounting(), session_question(high, low, key_flags, place, number))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_session_find(high: u64, low: u64, key: u64, line: u32, tag: u32) -> u32 {
    session::find(&Kernel::uncounting(), session_question(high, low, key, u64::from(tag) << 32, 0), line)
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_session_take(high: u64, low: u64, key_flags: u64, index: u32, tag: u32) -> u32 {
    session::take(&Kernel::uncounting(), session_question(high, low, key_flags, u64::from(tag) << 32, 0), index)
}

/// What a line offers: how many ports, and behind that which one.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_session_offer(line: u32, now: u32) -> u32 {
    let Some(first) = maps::session_line(line) else { return 0 };
    let offset = |position: u32| position as usize * word::N + word::STATE;
    // SAFETY: within the line; a word is read as a whole.
    let offer = sessions::offer(zero(), |position| State::from_raw(unsafe { first.add(offset(position)).read_volatile() }), now);
    offer.n | offer.position << 8
}

/// [`session::is_of`](lb_ebpf::session::is_of) as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_session_reply(high: u64, low: u64, words: u32, index: u32, is_quoted: u32) -> u32 {
    let reply = session::Reply {
        backend: [high, low],
        backend_port: Be16::from_raw(words as u16),
        protocol: (words >> 16) as u8,
        tcp_flags: (words >> 24) as u8,
        is_quoted: is_quoted != 0,
        index,
    };
    session::is_of(&Kernel::uncounting(), reply).into()
}

/// [`flow::answer`](lb_ebpf::flow::answer) as a global function. The verifier looks at such a one by itself, once: inlined, its
/// ways would be multiplied by all the ways that lead there, beyond a million instructions.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_flow(place: u64, slot: u32, slot_index: u32, service_flags: u32) -> u32 {
    let question = question(place, slot, slot_index, service_flags);
    answer_word(lb_ebpf::flow::answer(&Kernel::uncounting(), question))
}

/// [`flow::answer_quoted`](lb_ebpf::flow::answer_quoted) as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_flow_quoted(bucket: u32, tag: u32, slot: u32, service: u32) -> u32 {
    let quoted = Quoted { place: Place { bucket, tag }, slot: Slot::from_raw(slot), service: service as u16 };
    answer_word(lb_ebpf::flow::answer_quoted(&Kernel::uncounting(), quoted))
}

/// [`flow::record`](lb_ebpf::flow::record) as a global function, and the next one too: called one after the other, they share the
/// stack.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_flow_record(place: u64, slot: u32, slot_index: u32, service_flags: u32) -> u64 {
    let question = question(place, slot, slot_index, service_flags);
    let Recorded { id, then, noted, change } = lb_ebpf::flow::record(&Kernel::uncounting(), question);
    let backends = u64::from(id.0) | u64::from(change.from.0) << 16 | u64::from(change.to.0) << 32;
    backends | u64::from(noted.number()) << NOTED_SHIFT | (then as u64) << THEN_SHIFT
}

/// [`flow::count_step`](lb_ebpf::flow::count_step) as a global function, for the same reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_handshake(service: u32, tag: u32, id: u32, step: u32) -> u32 {
    let (service, id, step) = (service as u16, BackendId(id as u16), Step::from_number(step as u8));
    lb_ebpf::flow::count_step(&Kernel::new(core::ptr::null_mut()), Stepped { service, tag, id, step });
    0
}

/// [`quic::server`](lb_ebpf::quic::server) as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_server(server_id: u64, service: u32) -> u32 {
    let key = ServerKey { service: service as u16, server_id };
    lb_ebpf::quic::server(&Kernel::uncounting(), key).0.into()
}

/// [`choose::answer`](lb_ebpf::choose::answer) as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_choose(service: u32, slot_index: u32, tag: u32) -> u32 {
    let env = Kernel::new(core::ptr::null_mut());
    u32::from(lb_ebpf::choose::answer(&env, NewFlow { service: service as u16, slot_index, tag }).0)
}

/// A question's service and flags in a word, as the next function reads it.
#[inline(always)]
fn service_flags(question: Question) -> u32 {
    let Question { service, tcp_flags, is_chosen, .. } = question;
    u32::from(service) | u32::from(tcp_flags) << 16 | u32::from(is_chosen) * IS_CHOSEN
}

/// A question from the words of a global function: four, which stay in registers while another is called.
#[inline(always)]
fn question(place: u64, slot: u32, slot_index: u32, service_flags: u32) -> Question {
    Question {
        place: Place::from_raw(place),
        slot: Slot::from_raw(slot),
        slot_index,
        service: service_flags as u16,
        tcp_flags: (service_flags >> 16) as u8,
        is_chosen: service_flags & IS_CHOSEN != 0,
    }
}

/// In a word with a service and TCP flags.
const IS_CHOSEN: u32 = 1 << 24;

/// An answer in the word that a global function yields, and back.
#[inline(always)]
fn answer_word(Answer { id, how }: Answer) -> u32 {
    u32::from(id.0) | u32::from(how.0) << 16
}

#[inline(always)]
fn answer(word: u32) -> Answer {
    Answer { id: BackendId(masked(word)), how: How((word >> 16) as u8) }
}

/// After as many other CPUs, a turn is left to chance.
const TURN_TRIES: u32 = 4;

/// [`admit::answer`](lb_ebpf::admit::answer) as a global function, for the same reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_admit(high: u64, low: u64, line: u32, tag_family: u32, words: u32) -> u32 {
    let question = admit::Question {
        high,
        low,
        place: meter::Place { line, tag: tag_family & 0xff_ffff },
        service: words as u16,
        is_v6: tag_family >> 24 != 0,
        protocol: (words >> 16) as u8,
        tcp_flags: (words >> 24) as u8,
    };
    let answer = match admit::answer(&Kernel::new(core::ptr::null_mut()), question) {
        None => ADMITTED,
        Some(Verdict::Denied) => DENIED,
        Some(Verdict::Unattended) => UNATTENDED,
        Some(Verdict::UnattendedDrop) => UNATTENDED_DROP,
        Some(_) => LIMITED,
    };
    answer.into()
}

/// Counts a refusal: a global function, for it is called from several places.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_refused(high: u64, low: u64, what: u32, n_bits: u32) -> u32 {
    let env = Kernel::new(core::ptr::null_mut());
    let source = Suspect { high, low, what, n_bits, votes: 0 };
    let (scope, rule) = (source.scope() as usize, (what >> 16) as usize);
    env.bump(&maps::ADMISSION_DROPS, |scopes| scopes[scope % scopes.len()][rule % RULE_SLOTS] += 1);
    let place = source.place(&env.settings().hash_keys) as usize;
    env.bump(&maps::SUSPECTS, |suspects| suspects[place % suspects.len()].hear(&source));
    if lb_ebpf::trace::is_on(&env) {
        env.with_trace(|scratch| {
            scratch.record.scope = source.scope();
            scratch.record.rule = (what >> 16) as u8;
        });
    }
    0
}

/// [`admit::exceeded`](lb_ebpf::admit::exceeded) as a global function. Yields [`WITHIN`], or a rule's number.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_exceeded(high: u64, words: u32) -> u32 {
    let excess = admit::Excess { high, scope: words as u16, is_v6: words >> 16 & 1 != 0, opens: words >> 17 != 0 };
    let rule = admit::exceeded(&Kernel::new(core::ptr::null_mut()), excess);
    rule.map_or(WITHIN.into(), |rule| rule as u32)
}

/// [`admit::take`](lb_ebpf::admit::take) as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_take(line: u32, tag: u32, interval: u32, burst: u32) -> u32 {
    let charge = admit::Charge { place: meter::Place { line, tag }, limit: Limit { interval, burst } };
    admit::take(&Kernel::new(core::ptr::null_mut()), charge).map_or(LOST, u16::from).into()
}

/// [`admit::is_known`](lb_ebpf::admit::is_known) as a global function.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_is_known(line: u32, tag: u32, idle: u32, is_recorded: u32) -> u32 {
    admit::is_known(&Kernel::new(core::ptr::null_mut()), meter::Place { line, tag }, idle, is_recorded != 0).into()
}

/// [`admit::listed`](lb_ebpf::admit::listed) as a global function: a loop, which the verifier goes through once.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_listed(high: u64, low: u64, root: u64) -> u32 {
    let env = Kernel::new(core::ptr::null_mut());
    u32::from(admit::listed(|line| env.prefix_line(line), admit::Listing { high, low, root: Root::from_raw(root) }))
}

/// [`fragments::answer`](lb_ebpf::fragments::answer) as a global function, for the same reason.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_fragment(bucket: u32, tag: u32, id: u32) -> u32 {
    let env = Kernel::new(core::ptr::null_mut());
    u32::from(lb_ebpf::fragments::answer(&env, Place { bucket, tag }, BackendId(id as u16)).0)
}

/// [`trace::note`](lb_ebpf::trace::note) as a global function: one branch where it is called, and none of those in it.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn xlb_trace_note(service_backend: u32, slot_index: u32, how: u32) -> u32 {
    let (service, backend) = (service_backend as u16, BackendId((service_backend >> 16) as u16));
    let choice = Choice { service, backend, slot_index, how: How(how as u8) };
    Kernel::new(core::ptr::null_mut()).with_trace(|scratch| lb_ebpf::trace::note(scratch, choice));
    0
}

/// No more than that, of which the compiler does not know: it leaves a loop from there one.
#[inline(always)]
fn zero() -> u32 {
    let zero: u64;
    // SAFETY: sets a register.
    unsafe { asm!("{0} = 0", out(reg) zero, options(pure, nomem, nostack, preserves_flags)) };
    zero as u32
}

/// The lower half of a global function's result. The compiler would leave the mask out: it knows the function's results, the
/// verifier does not.
#[inline(always)]
fn masked(result: u32) -> u16 {
    let mut result = u64::from(result);
    // SAFETY: changes nothing else.
    unsafe { asm!("{0} &= 65535", inout(reg) result, options(pure, nomem, nostack, preserves_flags)) };
    result as u16
}

/// Adds to a number that other CPUs change too.
#[inline(always)]
fn add(number: *mut u64, change: u64) {
    // SAFETY: the number is within the map and aligned to 8.
    unsafe { asm!("lock *(u64 *)({number} + 0) += {change}", number = in(reg) number, change = in(reg) change) };
}

/// The same for a number of 32 bits, and 1.
#[inline(always)]
fn add_one(number: *mut u32) {
    // SAFETY: the number is within the map and aligned to 4.
    unsafe { asm!("lock *(u32 *)({number} + 0) += {one}", number = in(reg) number, one = in(reg) 1u64) };
}

/// Replaces a word of a map, unless somebody else did since it was seen.
#[inline(always)]
fn replace(word: *mut u64, seen: u64, new: u64) -> bool {
    let mut found = seen;
    // SAFETY: the word is within the map and aligned to 8. BPF's compare-and-exchange (Linux 5.12) expects what was seen in r0,
    // and leaves there what it found.
    unsafe {
        asm!("r0 = cmpxchg_64({word} + 0, r0, {new})", word = in(reg) word, new = in(reg) new, inout("r0") found);
    }
    found == seen
}

/// Stores a time, if it is another: many CPUs read that line.
#[inline(always)]
fn note(seen: *mut Tick, now: Tick) {
    // SAFETY: points into a map; a word is written as a whole, and whoever comes last is right.
    unsafe {
        if seen.read_volatile() != now {
            seen.write_volatile(now);
        }
    }
}

/// An address on the stack, byte by byte: the verifier refuses words from odd places there, which are fine in packets, and the
/// compiler does not tell the two apart.
#[inline(always)]
fn on_stack(address: &[u8; 6]) -> MacAddr {
    // SAFETY: a reference is valid.
    MacAddr::new(core::array::from_fn(|i| unsafe { (&raw const address[i]).read_volatile() }))
}
