//! From bytes to a flow, or to the reason why there is none.

use lb_common::{Be16, PortProtocol, Verdict};

use crate::env::Env;
use crate::family::Family;
use crate::fragments::Fragment;
use crate::packet::Packet;
use crate::transport::tcp_flags;
use crate::{ethernet, service, transport};

/// Who talks to whom. All fields as they stand in the packet.
pub struct Flow<F: Family> {
    pub client: F::Address,
    pub vip: F::Address,
    /// The client's port in the lower half, the VIP's in the upper.
    pub ports: u32,
    /// IANA protocol number, in a whole word: a structure of words is copied without its padding, which on the stack would be
    /// a misaligned access.
    protocol: u32,
}

impl<F: Family> Flow<F> {
    #[inline(always)]
    pub fn new(client: F::Address, vip: F::Address, ports: u32, protocol: u8) -> Self {
        Self { client, vip, ports, protocol: protocol.into() }
    }

    /// IANA protocol number.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.protocol as u8
    }

    #[inline(always)]
    pub fn client_port(&self) -> Be16 {
        Be16::from_raw(self.ports as u16)
    }

    #[inline(always)]
    pub fn vip_port(&self) -> Be16 {
        Be16::from_raw((self.ports >> 16) as u16)
    }

    /// What a service listens on.
    #[inline(always)]
    pub fn listener(&self) -> PortProtocol {
        PortProtocol::new(self.vip_port(), self.protocol())
    }

    /// What a backend replies from.
    #[inline(always)]
    pub fn sender(&self) -> PortProtocol {
        PortProtocol::new(self.client_port(), self.protocol())
    }
}

/// What was read of a packet's headers.
///
/// One structure with its fault, not one or the other: overlaid on the stack, the compiler copies them in pieces that no access
/// on the stack may be split into.
pub struct Parsed<F: Family> {
    pub flow: Flow<F>,
    /// Offset of the network header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Length of the IP packet in bytes, headers included.
    pub ip_len: u32,
    /// Of TCP; of QUIC, a SYN for what opens a connection; 0 for all else.
    pub tcp_flags: u8,
    pub fragment: Fragment,
    /// What is wrong with it. Only the addresses of its flow hold then; of a [later](Fragment::is_later) fragment, all that it has.
    pub fault: Option<Verdict>,
}

impl<F: Family> Parsed<F> {
    /// Opens a TCP connection: SYN without ACK.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.tcp_flags & (tcp_flags::SYN | tcp_flags::ACK) == tcp_flags::SYN
    }

    #[inline(always)]
    pub fn broken(flow: Flow<F>, l3: usize, fault: Verdict) -> Self {
        Self { flow, l3, l4: l3, ip_len: 0, tcp_flags: 0, fragment: Fragment::WHOLE, fault: Some(fault) }
    }

    /// Nothing is wrong, and it is no fragment.
    #[inline(always)]
    pub fn whole(flow: Flow<F>, l3: usize, l4: usize, ip_len: u32, tcp_flags: u8) -> Self {
        Self { flow, l3, l4, ip_len, tcp_flags, fragment: Fragment::WHOLE, fault: None }
    }
}

/// Reads the headers of any frame of this family. Fragments are [`Verdict::Fragment`], unless it takes them.
///
/// # Errors
/// [`Verdict::Truncated`] if the frame ends before the addresses.
#[inline(always)]
pub fn headers<F: Family, const FRAGMENTS: bool>(packet: &impl Packet) -> Result<Parsed<F>, Verdict> {
    let link = ethernet::parse(packet)?;
    F::parse::<FRAGMENTS>(packet, link.l3).ok_or(Verdict::Truncated)
}

/// Reads what follows the network header, of a packet whose lengths hold together so far.
#[inline(always)]
pub fn transport<F: Family>(
    packet: &impl Packet,
    mut flow: Flow<F>,
    l3: usize,
    l4: usize,
    ip_len: u32,
    fragment: Fragment,
) -> Parsed<F> {
    let l4 = packet.forgotten(l4);
    flow = Flow::new(flow.client, flow.vip, 0, packet.forgotten(flow.protocol().into()) as u8);
    let is_icmp = F::is_icmp(flow.protocol());
    if fragment.is_later() || (fragment.is_first() && is_icmp) {
        return Parsed { flow, l3, l4, ip_len, tcp_flags: 0, fragment, fault: Some(Verdict::Fragment) };
    }
    if is_icmp {
        return Parsed { flow, l3, l4, ip_len, tcp_flags: 0, fragment, fault: None };
    }
    let payload_len = ip_len - (l4 - l3) as u32;
    let transport = transport::parse(packet, l4, flow.protocol(), payload_len, fragment.is_first());
    flow.ports = transport.ports;
    Parsed { flow, l3, l4, ip_len, tcp_flags: transport.tcp_flags, fragment, fault: transport.fault }
}

/// The verdict on a broken packet: what is not for a VIP is the host's own business, however broken.
#[inline(always)]
pub fn judge<F: Family>(env: &impl Env, flow: &Flow<F>, fault: Verdict) -> Verdict {
    if matches!(fault, Verdict::NotService) || !service::is_vip::<F>(env, flow.vip) { Verdict::NotService } else { fault }
}
