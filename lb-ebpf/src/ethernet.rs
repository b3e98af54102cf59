//! Ethernet (IEEE 802.3) with 802.1Q and 802.1ad tags.

use lb_common::limits::VLAN_TAGS;
use lb_common::{Be16, LinkAddresses, Verdict};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::packet::Packet;

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Header {
    /// All that forwarding changes. Tags stay as they are.
    addresses: [u32; 3],
    ethertype: Be16,
}

#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Tag {
    control: Be16,
    ethertype: Be16,
}

pub struct Ethertype;

impl Ethertype {
    pub const IPV4: Be16 = Be16::new(0x0800);
    pub const IPV6: Be16 = Be16::new(0x86dd);
    const VLAN: Be16 = Be16::new(0x8100);
    const SERVICE_VLAN: Be16 = Be16::new(0x88a8);
}

/// Where the network header of a frame without tags starts.
pub const UNTAGGED: usize = size_of::<Header>();

/// Where the network header starts, and which it is.
pub struct Parsed {
    pub l3: usize,
    pub ethertype: Be16,
}

/// Looks past the Ethernet header and at most [`VLAN_TAGS`] tags.
///
/// # Errors
/// [`Verdict::Truncated`] if the frame ends inside them.
#[inline(always)]
pub fn parse(packet: &impl Packet) -> Result<Parsed, Verdict> {
    let header: &Header = packet.get(0).ok_or(Verdict::Truncated)?;
    let mut parsed = Parsed { l3: UNTAGGED, ethertype: header.ethertype };
    for _ in 0..VLAN_TAGS {
        if parsed.ethertype != Ethertype::VLAN && parsed.ethertype != Ethertype::SERVICE_VLAN {
            break;
        }
        let tag: &Tag = packet.get(parsed.l3).ok_or(Verdict::Truncated)?;
        parsed = Parsed { l3: parsed.l3 + size_of::<Tag>(), ethertype: tag.ethertype };
    }
    Ok(parsed)
}

/// Writes both link-layer addresses.
#[inline(always)]
pub fn readdress(packet: &mut impl Packet, link: LinkAddresses) -> Result<(), Verdict> {
    let header: &mut Header = packet.get_mut(0).ok_or(Verdict::Internal)?;
    let [a, b, c] = link.words();
    header.addresses[0] = a;
    header.addresses[1] = b;
    header.addresses[2] = c;
    Ok(())
}

/// Sends the frame back to where it came from.
#[inline(always)]
pub fn turn_back(packet: &mut impl Packet) -> Result<(), Verdict> {
    let header: &Header = packet.get(0).ok_or(Verdict::Internal)?;
    readdress(packet, LinkAddresses::from_words(header.addresses).reversed())
}
