//! Neighbours: which link-layer address answers for an address on a link.

use std::net::IpAddr;

use lb_common::MacAddr;

use super::wire::{self, Body};

pub const RTM_NEWNEIGH: u16 = 28;
pub const RTM_DELNEIGH: u16 = 29;
pub const RTM_GETNEIGH: u16 = 30;

const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const NUD_INCOMPLETE: u16 = 0x01;
const NUD_STALE: u16 = 0x04;
const NUD_FAILED: u16 = 0x20;
/// Reachable, stale, delay, probe, noarp, permanent.
const NUD_VALID: u16 = 0x02 | NUD_STALE | 0x08 | 0x10 | 0x40 | 0x80;
const NTF_USE: u8 = 0x01;
const NTF_PROXY: u8 = 0x08;

/// `struct ndmsg`: family, 3 bytes of padding, ifindex (32 bits), state (16), flags (8), type (8).
const HEADER_LEN: usize = 12;

/// A neighbour's place: its link, and its address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Key {
    pub ifindex: u32,
    pub address: IpAddr,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Neighbour {
    /// It answers, or did so when last asked, or is set by the administrator.
    Usable(MacAddr),
    /// As `Usable`, but unconfirmed for a while: the kernel will not check before somebody uses it.
    Stale(MacAddr),
    /// Being asked for.
    Incomplete,
    /// Did not answer.
    Failed,
    /// Never asked for, or forgotten.
    Unknown,
}

/// What to ask for one neighbour.
pub fn question(key: Key) -> Body {
    Body::new(&header(key, 0)).address(NDA_DST, key.address)
}

/// Tells the kernel that a neighbour is in use, which makes it resolve or confirm it.
pub fn usage(key: Key) -> Body {
    Body::new(&header(key, NTF_USE)).address(NDA_DST, key.address)
}

fn header(key: Key, flags: u8) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[0] = wire::family(key.address);
    header[4..8].copy_from_slice(&key.ifindex.to_ne_bytes());
    header[10] = flags;
    header
}

/// Reads a message of type [`RTM_NEWNEIGH`] or [`RTM_DELNEIGH`]. `None` where it is about a bridge's forwarding table
/// or a proxy entry, or makes no sense.
pub fn parse(kind: u16, body: &[u8]) -> Option<(Key, Neighbour)> {
    let (header, rest) = body.split_first_chunk::<HEADER_LEN>()?;
    if !matches!(header[0], wire::AF_INET | wire::AF_INET6) || header[10] & NTF_PROXY != 0 {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for (kind, value) in wire::attributes(rest) {
        match kind {
            NDA_DST => address = wire::address(value),
            NDA_LLADDR => mac = value.try_into().ok().map(MacAddr),
            _ => {}
        }
    }
    let key = Key { ifindex: wire::u32_at(header, 4)?, address: address? };
    if kind == RTM_DELNEIGH {
        return Some((key, Neighbour::Unknown));
    }
    let neighbour = match (wire::u16_at(header, 8)?, mac) {
        (state, _) if state & NUD_FAILED != 0 => Neighbour::Failed,
        (state, _) if state & NUD_INCOMPLETE != 0 => Neighbour::Incomplete,
        (state, Some(mac)) if state & NUD_STALE != 0 => Neighbour::Stale(mac),
        (state, Some(mac)) if state & NUD_VALID != 0 => Neighbour::Usable(mac),
        _ => Neighbour::Unknown,
    };
    Some((key, neighbour))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: u16, flags: u8, mac: Option<&[u8]>) -> Body {
        let [low, high] = state.to_ne_bytes();
        let body = Body::new(&[wire::AF_INET, 0, 0, 0, 3, 0, 0, 0, low, high, flags, 1]);
        let body = body.address(NDA_DST, [10, 0, 0, 1].into());
        match mac {
            Some(mac) => body.attribute(NDA_LLADDR, mac),
            None => body,
        }
    }

    #[test]
    fn the_kernels_states_say_whether_an_address_can_be_used() {
        let mac = [2, 0, 0, 0, 0, 1];
        let usable = Neighbour::Usable(MacAddr(mac));
        for (state, with_mac, expected) in [
            (0x00, false, Neighbour::Unknown),
            (0x01, false, Neighbour::Incomplete),
            (0x02, true, usable),
            (0x04, true, Neighbour::Stale(MacAddr(mac))),
            (0x08, true, usable),
            (0x10, true, usable),
            // The kernel still shows the address that no longer answers.
            (0x20, true, Neighbour::Failed),
            (0x40, true, usable),
            (0x80, true, usable),
            (0x80, false, Neighbour::Unknown),
        ] {
            let body = message(state, 0, with_mac.then_some(&mac[..]));
            let key = Key { ifindex: u32::from_ne_bytes([3, 0, 0, 0]), address: [10, 0, 0, 1].into() };
            assert_eq!(parse(RTM_NEWNEIGH, body.bytes()), Some((key, expected)), "{state:#x}");
            assert_eq!(parse(RTM_DELNEIGH, body.bytes()), Some((key, Neighbour::Unknown)), "{state:#x}");
        }
    }

    #[test]
    fn proxies_bridge_entries_and_fragments_are_no_neighbours() {
        assert_eq!(parse(RTM_NEWNEIGH, message(0x02, NTF_PROXY, None).bytes()), None);
        let mut bridge = message(0x02, 0, Some(&[2; 6])).bytes().to_vec();
        bridge[0] = 7;
        assert_eq!(parse(RTM_NEWNEIGH, &bridge), None);
        assert_eq!(parse(RTM_NEWNEIGH, &bridge[..5]), None);
    }

    #[test]
    fn a_link_layer_address_of_another_length_is_none() {
        let body = message(0x02, 0, Some(&[1; 20]));
        assert_eq!(parse(RTM_NEWNEIGH, body.bytes()).unwrap().1, Neighbour::Unknown);
    }
}
