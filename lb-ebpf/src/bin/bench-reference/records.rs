//! The map records of the reference program. Compiled into it and into the benchmark that fills them.

/// Slots of a service in the table of backends, a prime: Maglev's paper and its followers take this one.
pub const RING_LEN: u32 = 65_537;
pub const SERVICES: u32 = 512;
pub const BACKENDS: u32 = 4096;
/// Flows that are remembered.
pub const FLOWS: u32 = 1 << 20;

/// What a service is found by. Addresses take 16 bytes, IPv4 in the first four, as programs for both families have it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ServiceKey {
    pub vip: [u32; 4],
    pub port: u16,
    pub protocol: u16,
}
const _: () = assert!(size_of::<ServiceKey>() == 20);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Service {
    /// Its number: which counter, and which ring.
    pub id: u32,
    pub flags: u32,
}

/// What a flow is remembered by.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FlowKey {
    pub client: [u32; 4],
    pub vip: [u32; 4],
    /// Both ports, as they stand in the packet.
    pub ports: u32,
    /// A word, because fewer bytes and padding would be written one by one.
    pub protocol: u32,
}
const _: () = assert!(size_of::<FlowKey>() == 40);

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Backend {
    pub mac: [u16; 3],
    pub pad: u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct Counter {
    pub packets: u64,
    pub bytes: u64,
}
