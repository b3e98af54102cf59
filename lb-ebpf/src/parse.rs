//! From bytes to a flow, or to the reason why there is none.

use lb_common::records::Settings;
use lb_common::{Addr, Be16, Verdict};

use crate::env::Env;
use crate::family::Family;
use crate::service;

/// Who talks to whom. All fields as they stand in the packet.
pub struct Flow<F: Family> {
    pub client: F::Address,
    pub vip: F::Address,
    /// The client's port in the lower half, the VIP's in the upper.
    pub ports: u32,
    /// IANA protocol number.
    pub protocol: u8,
}

impl<F: Family> Flow<F> {
    #[inline(always)]
    pub fn client_port(&self) -> Be16 {
        Be16::from_raw(self.ports as u16)
    }

    #[inline(always)]
    pub fn vip_port(&self) -> Be16 {
        Be16::from_raw((self.ports >> 16) as u16)
    }
}

/// A packet whose headers hold together.
pub struct Parsed<F: Family> {
    pub flow: Flow<F>,
    /// Offset of the network header.
    pub l3: usize,
    /// Offset of the transport header.
    pub l4: usize,
    /// Length of the IP packet in bytes, headers included.
    pub ip_len: u32,
    /// Opens a TCP connection: SYN without ACK.
    pub is_syn: bool,
}

/// Why a packet has no flow.
pub enum Fault {
    /// Whatever it is addressed to.
    Any(Verdict),
    /// A verdict on packets to a VIP; others are the host's own business.
    Vip(Addr, Verdict),
}

impl Fault {
    #[inline(always)]
    pub fn verdict(self, env: &impl Env, settings: &Settings) -> Verdict {
        match self {
            Self::Any(verdict) => verdict,
            Self::Vip(address, verdict) => {
                if service::is_vip(env, settings, address) {
                    verdict
                } else {
                    Verdict::NotService
                }
            }
        }
    }
}
