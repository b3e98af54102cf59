//! What the benchmark's wrapper program and user space share. Compiled into both.

/// The longest packet that can be measured with. A power of two.
pub const PACKET_MAX: usize = 2048;
/// Times recorded in a run: the ends of 1,023 segments.
pub const TIMES: u32 = 1024;

/// The wrapper's memory between packets. The only element of the map `STATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct State {
    /// Packets so far in this run.
    pub n_calls: u64,
    /// The clock is read every `2^segment_bits` packets.
    pub segment_bits: u64,
    /// Where packets begin, as an address; 0 before the first one of a run.
    pub base: u64,
    /// The same of the present packet: an address becomes a number by way of memory.
    pub begin: u64,
    /// Packets whose beginning, and whose length, the program before had moved.
    pub n_heads_moved: u64,
    pub n_tails_moved: u64,
    /// Packets that could not be restored.
    pub n_failed: u64,
    /// Only ever added to, by the locked instruction that drains the store buffer.
    pub fence: u64,
    /// The next packet's index.
    pub next_packet: u32,
    pub n_packets: u32,
    /// The next packet's flow, before it is scrambled.
    pub next_flow: u32,
    /// Number of flows less one, the number being a power of two; 0 leaves packets as they are.
    pub flow_mask: u32,
}

/// One packet to measure with. An element of the map `PACKETS`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Packet {
    /// The last byte's index.
    pub last: u32,
    /// Where the last two bytes of the client's address stand, and its port. Not used while there is one flow.
    pub client_address_at: u16,
    pub client_port_at: u16,
    pub bytes: [u8; PACKET_MAX],
}
