//! Every capacity of the packet path, with the kernel memory that it costs.
//!
//! The daemon loads the maps with these sizes; what a configuration asks beyond them is refused before anything is
//! written. The two big ones can be set in the configuration under `[limits]`.

/// Services, each one VIP, port and protocol.
pub const SERVICES: u32 = 4096;

/// Distinct virtual addresses. At most one a service.
pub const VIPS: u32 = SERVICES;

/// Records in the `SERVICES` map: services and VIPs, ids counted from 1, rounded up to a power of two. 64 B each: 1 MiB.
pub const SERVICE_RECORDS: u32 = (1 + SERVICES + VIPS).next_power_of_two();

/// Backends over all services. An id is 16 bits and 0 means none.
pub const BACKENDS: u32 = 65_535;

/// Records in the `BACKENDS` map, ids counted from 1. 64 B each: 4 MiB; and 8 B in `SERVER_IDS`: 512 KiB.
pub const BACKEND_RECORDS: u32 = BACKENDS + 1;

/// SYNs whose time is known until they are answered, for services whose flows are all on record. A power of two. 8 B each: 512 KiB. Of two
/// in one place the later one counts.
pub const HANDSHAKES: u32 = 1 << 16;

/// Elements of the `BACKEND_HANDSHAKES` map are a cache line: 4 MiB, which is as large as maps may be before Linux 6.1.
const _: () = assert!(BACKEND_RECORDS as usize * size_of::<crate::handshake::Handshakes>() <= 4 << 20);

/// Slots that are looked at for a new flow's backend, where the least busy one is wanted: with as many backends or fewer, all.
pub const CHOICES: u32 = 8;

/// CPUs that count, each in a copy of its own: 16 B for traffic and 8 B for connections of each backend id, 1.5 MiB a CPU, and
/// 128 KiB for the drops of services, 512 KiB for those of rules of admission. The verifier lets a program address no more than 512 MiB of a map.
pub const CPUS: u32 = 511;

/// Slots over all services unless `limits.slots` says otherwise. 4 B each: 64 MiB.
///
/// Enough for 1,000 services of 20 backends (16,384 slots each), or two of 65,535.
pub const SLOTS_DEFAULT: u32 = 1 << 24;

/// The most slots that `limits.slots` may ask for: 256 MiB. The verifier lets a program address no more than 512 MiB of a map.
pub const SLOTS_MAX: u32 = 1 << 26;

/// Slots that share one element of the `SLOTS` map, which is one cache line.
pub const SLOTS_PER_LINE: u32 = 16;

/// Flows that the flow table has room for unless `limits.flows` says otherwise. 8 B each: 8 MiB.
pub const FLOWS_DEFAULT: u32 = 1 << 20;

/// The fewest and the most flows that `limits.flows` may ask for: 64 KiB and 256 MiB. A power of two.
pub const FLOWS_MIN: u32 = 1 << 13;
pub const FLOWS_MAX: u32 = 1 << 25;

/// Packets whose fragments are on record. A power of two. 8 B each: 512 KiB.
pub const FRAGMENTS: u32 = 1 << 16;

/// Scopes with rules of admission: services by id, and all VIPs at 0. 64 B each: 512 KiB.
pub const ADMISSION_RECORDS: u32 = (1 + SERVICES).next_power_of_two();

/// Prefixes in lists of admission that there is room for unless `limits.prefixes` says otherwise. 40 B each, for lists are written
/// beside those in use: 2.5 MiB.
pub const PREFIXES_DEFAULT: u32 = 1 << 16;

/// The fewest and the most that `limits.prefixes` may ask for: 160 KiB and 320 MiB. A multiple of 16.
pub const PREFIXES_MIN: u32 = 1 << 12;
pub const PREFIXES_MAX: u32 = 1 << 23;

/// Lines of 64 B for 16 prefixes: each makes two ranges, eight of which share a leaf, and there is a node more for seven leaves. The
/// rest is for lists of few prefixes, which take a whole line. IPv6 prefixes longer than 64 bits take twice as much.
pub const LINES_PER_16_PREFIXES: u32 = 5;

/// Lines of one half of the table, for this many prefixes.
pub const fn prefix_lines(n_prefixes: u32) -> u32 {
    n_prefixes / 16 * LINES_PER_16_PREFIXES
}

/// Sources whose rates are known at a time unless `limits.sources` says otherwise, and each rate of a service. 8 B each: 1 MiB.
pub const SOURCES_DEFAULT: u32 = 1 << 17;

/// The fewest and the most that `limits.sources` may ask for: 64 KiB and 256 MiB. A power of two.
pub const SOURCES_MIN: u32 = 1 << 13;
pub const SOURCES_MAX: u32 = 1 << 25;

/// Places for sources that are refused, on each CPU. A power of two. 32 B each: 32 KiB a CPU.
pub const SUSPECTS: u32 = 1 << 10;

/// UDP flows that are known to have begun, where their rate of beginning is limited. A power of two. 8 B each: 512 KiB.
pub const KNOWN_FLOWS: u32 = 1 << 16;

/// The largest region that one service may own, as a power of two: 8,388,608 slots, 32 MiB.
pub const REGION_BITS_MAX: u32 = 23;

/// The smallest region, as a power of two: 4,096 slots, 16 KiB. The default of all slots has room for 4,096 such services.
///
/// A region that grows is populated anew, which moves most flows between backends that stay. This size lasts for eight
/// equal backends, so that a small service may double without that.
pub const REGION_BITS_MIN: u32 = 12;

/// Slots that a service gets for the least-weighted of its backends. From 128 on, the rounding to whole slots stays below 1% of
/// any backend's share; the rest is for the shares to stay even while the slots of dead backends are spread over the others.
pub const SLOTS_PER_BACKEND: u32 = 512;

/// Entries in a directory's bucket, which is half a cache line.
pub const BUCKET_ENTRIES: usize = 8;

/// Buckets of the service directory, one half (the map holds two, one in use and one being written).
/// 32 B each, two halves: 256 KiB. With 8,192 keys a bucket holds two on average.
pub const SERVICE_BUCKETS: u32 = 4096;

/// Buckets of the reply directory, which finds the service of a NAT backend's reply, and backends by server IDs. 32 B each, two halves:
/// 4 MiB.
pub const REPLY_BUCKETS: u32 = 65_536;

/// Addresses of the pool of full NAT. Each of their ports costs 33 B: 1.8 MiB for an address by default, and 134 MiB for all addresses
/// with as many ports as there are.
pub const POOL_ADDRESSES: u32 = 64;

/// Interfaces by index whose ability to take redirected frames is known. 8 B each: 512 KiB.
pub const LINKS: u32 = 65_536;

/// IPv6 extension headers looked past before a packet is given up as malformed (RFC 8200 section 4.1 orders seven).
pub const EXTENSION_HEADERS: usize = 6;

/// 802.1Q and 802.1ad tags looked past.
pub const VLAN_TAGS: usize = 2;

/// Weight of a backend: 0 takes no new flows.
pub const WEIGHT_MAX: u16 = u16::MAX;
