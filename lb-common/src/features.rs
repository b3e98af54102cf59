//! What a program is asked to do beyond sending packets on as they are, as bits. The daemon loads programs without those that no service
//! asks for: the verifier looks at none of their instructions, and the kernel keeps none. Full NAT is not among them, for it
//! comes and goes with its pool.

/// Forwarding by NAT: its replies, and ICMP errors either way.
pub const NAT: u32 = 1;
/// Forwarding by IPIP and GUE, and what is said of packets that do not fit in there.
pub const TUNNELS: u32 = 1 << 1;
/// Steering by QUIC connection IDs.
pub const QUIC: u32 = 1 << 2;
/// Rules of admission, and the watchdog.
pub const ADMISSION: u32 = 1 << 3;
/// Lower limits for TCP segment sizes.
pub const CLAMP: u32 = 1 << 4;

/// All of them, by name.
pub const NAMES: [(u32, &str); 5] =
    [(NAT, "nat"), (TUNNELS, "tunnels"), (QUIC, "quic"), (ADMISSION, "admission"), (CLAMP, "mss")];

pub const ALL: u32 = (1 << NAMES.len()) - 1;
