//! The usual design of a load balancer in XDP, for comparison: services in a hash map, a Maglev ring in an array, and an
//! LRU hash map that remembers every flow's backend. Katran, Unimog and their descendants are made so.
//!
//! It does what direct server return takes and no more: IPv4 and IPv6 without options and extension headers, TCP and UDP,
//! one counter a service. Written to be quick: each table is looked up once, and a flow is inserted only when it is new.
#![no_std]
#![no_main]

mod records;

use aya_ebpf::bindings::BPF_F_NO_COMMON_LRU;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::macros::{map, xdp};
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::programs::XdpContext;

use records::{BACKENDS, Backend, Counter, FLOWS, FlowKey, RING_LEN, SERVICES, Service, ServiceKey};

#[map(name = "SERVICES")]
static SERVICE_OF: HashMap<ServiceKey, Service> = HashMap::with_max_entries(SERVICES, 0);
/// Rings of all services, one after another: indices of backends.
#[map]
static RINGS: Array<u32> = Array::with_max_entries(4 * RING_LEN, 0);
#[map(name = "BACKENDS")]
static BACKEND: Array<Backend> = Array::with_max_entries(BACKENDS, 0);
/// Lists of recency of each CPU's own: with common ones, CPUs wait for each other.
#[map(name = "FLOWS")]
static BACKEND_OF: LruHashMap<FlowKey, u32> = LruHashMap::with_max_entries(FLOWS, BPF_F_NO_COMMON_LRU);
#[map]
static COUNTERS: PerCpuArray<Counter> = PerCpuArray::with_max_entries(SERVICES, 0);

const ETHERNET_LEN: usize = 14;
const IPV4: u16 = 0x0800u16.to_be();
const IPV6: u16 = 0x86ddu16.to_be();
const TCP: u8 = 6;
const UDP: u8 = 17;
const TCP_SYN: u8 = 2;

#[repr(C)]
struct Ethernet {
    destination: [u16; 3],
    source: [u16; 3],
    ethertype: u16,
}

/// On an Ethernet frame an IP header stands at an address that is even, but not a multiple of four.
#[repr(C, packed(2))]
struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[repr(C, packed(2))]
struct Ipv6 {
    version_flow: u32,
    len: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u32; 4],
    destination: [u32; 4],
}

#[repr(C, packed(2))]
struct Udp {
    ports: u32,
    len: u16,
    checksum: u16,
}

/// As much of TCP as is looked at.
#[repr(C, packed(2))]
struct Tcp {
    ports: u32,
    sequence: u32,
    acknowledgement: u32,
    offset: u8,
    flags: u8,
}

#[xdp(frags)]
pub fn reference(ctx: XdpContext) -> u32 {
    let verdict = match at::<Ethernet>(&ctx, 0) {
        // SAFETY: `at` tested that the header lies within the packet; so with every pointer that it yields.
        Some(ethernet) => match unsafe { (*ethernet).ethertype } {
            IPV4 => forward_v4(&ctx, ethernet),
            IPV6 => forward_v6(&ctx, ethernet),
            _ => None,
        },
        None => None,
    };
    verdict.unwrap_or(XDP_PASS)
}

#[inline(always)]
fn forward_v4(ctx: &XdpContext, ethernet: *mut Ethernet) -> Option<u32> {
    let ip = at::<Ipv4>(ctx, ETHERNET_LEN)?;
    // SAFETY: `at` tested that the header lies within the packet.
    let ip = unsafe { &*ip };
    // Options, more fragments, or not the first.
    if ip.version_ihl != 0x45 || ip.fragment & 0x3fffu16.to_be() != 0 {
        return None;
    }
    forward(ctx, ethernet, [ip.source, 0, 0, 0], [ip.destination, 0, 0, 0], ip.protocol, ETHERNET_LEN + size_of::<Ipv4>())
}

#[inline(always)]
fn forward_v6(ctx: &XdpContext, ethernet: *mut Ethernet) -> Option<u32> {
    let ip = at::<Ipv6>(ctx, ETHERNET_LEN)?;
    // SAFETY: `at` tested that the header lies within the packet.
    let ip = unsafe { &*ip };
    forward(ctx, ethernet, ip.source, ip.destination, ip.next_header, ETHERNET_LEN + size_of::<Ipv6>())
}

/// What becomes of the packet; it does not concern us if `None`. Compiled once for each family, with constant offsets.
#[inline(always)]
fn forward(ctx: &XdpContext, ethernet: *mut Ethernet, client: [u32; 4], vip: [u32; 4], protocol: u8, l4: usize) -> Option<u32> {
    let (ports, is_new) = match protocol {
        TCP => {
            let tcp = at::<Tcp>(ctx, l4)?;
            // SAFETY: `at` tested that the header lies within the packet.
            unsafe { ((*tcp).ports, (*tcp).flags & TCP_SYN != 0) }
        }
        UDP => {
            let udp = at::<Udp>(ctx, l4)?;
            // SAFETY: as above.
            (unsafe { (*udp).ports }, false)
        }
        _ => return None,
    };
    // In memory the source port comes first.
    let key = ServiceKey { vip, port: (ports >> 16) as u16, protocol: protocol.into() };
    // SAFETY: user space replaces elements of this map as a whole and never deletes one while packets flow.
    let service = unsafe { SERVICE_OF.get(&key) }?;

    let flow = FlowKey { client, vip, ports, protocol: protocol.into() };
    let Some(backend) = backend_of(&flow, service, is_new).and_then(|index| BACKEND.get(index)) else {
        return Some(XDP_DROP);
    };
    if let Some(counter) = COUNTERS.get_ptr_mut(service.id) {
        // SAFETY: this CPU's own element.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += (ctx.data_end() - ctx.data()) as u64;
        }
    }
    // SAFETY: `at` tested that the header lies within the packet.
    unsafe {
        (*ethernet).source = (*ethernet).destination;
        (*ethernet).destination = backend.mac;
    }
    Some(XDP_TX)
}

/// The backend's index: the remembered one, else the ring's, which is then remembered.
#[inline(always)]
fn backend_of(flow: &FlowKey, service: &Service, is_new: bool) -> Option<u32> {
    if !is_new {
        // SAFETY: a value of four bytes, read at once.
        if let Some(backend) = unsafe { BACKEND_OF.get(flow) } {
            return Some(*backend);
        }
    }
    let slot = service.id * RING_LEN + hash(flow) % RING_LEN;
    let backend = *RINGS.get(slot)?;
    // A full table is no reason to drop: the ring decides again next time.
    let _ = BACKEND_OF.insert(flow, backend, 0);
    Some(backend)
}

/// A multiply-and-shift mix of the words that differ between flows.
#[inline(always)]
fn hash(flow: &FlowKey) -> u32 {
    let client = flow.client;
    let mut hash = u64::from(flow.ports) << 32 | u64::from(client[0] ^ client[2]);
    hash = (hash ^ u64::from(client[1]) << 32 ^ u64::from(client[3])).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    hash ^= hash >> 32;
    hash = hash.wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (hash >> 32) as u32
}

/// A pointer to a `T` at `offset`, if the packet holds one there.
#[inline(always)]
fn at<T>(ctx: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *mut T)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
