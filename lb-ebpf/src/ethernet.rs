//! Ethernet (IEEE 802.3) with 802.1Q and 802.1ad tags.

use core::mem::offset_of;

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

/// A tag as it stands in a frame: its protocol comes first.
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct TagPlace(u32);

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

/// The ethertype, if it stands at the place where it does in a frame without tags.
#[inline(always)]
pub fn untagged(packet: &impl Packet) -> Option<Be16> {
    packet.get::<Header>(0).map(|header| header.ethertype)
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
    readdress_at(packet, 0, link)
}

#[inline(always)]
fn readdress_at(packet: &mut impl Packet, at: usize, link: LinkAddresses) -> Result<(), Verdict> {
    let header: &mut Header = packet.get_mut(at).ok_or(Verdict::Internal)?;
    let [a, b, c] = link.words();
    header.addresses[0] = a;
    header.addresses[1] = b;
    header.addresses[2] = c;
    Ok(())
}

/// Moves the header, with tags, and with link-layer addresses of which nothing is promised, to the front of a frame that has
/// grown by `by`. Another protocol follows it now.
///
/// Places are told by the length of the tags: the verifier takes no detours through negative offsets.
#[inline(always)]
pub fn move_to_front(packet: &mut impl Packet, by: usize, tags_len: usize, ethertype: Be16) -> Result<(), Verdict> {
    for n in 0..VLAN_TAGS {
        let place = offset_of!(Header, ethertype) + n * size_of::<Tag>();
        if n * size_of::<Tag>() < tags_len {
            let tag: u32 = packet.get::<TagPlace>(by + place).ok_or(Verdict::Internal)?.0;
            packet.get_mut::<TagPlace>(place).ok_or(Verdict::Internal)?.0 = tag;
        }
    }
    *packet.get_mut::<Be16>(tags_len + offset_of!(Header, ethertype)).ok_or(Verdict::Internal)? = ethertype;
    Ok(())
}

/// The same, and link-layer addresses stay.
#[inline(always)]
pub fn keep_in_front(packet: &mut impl Packet, by: usize, tags_len: usize, ethertype: Be16) -> Result<(), Verdict> {
    let header: &Header = packet.get(by).ok_or(Verdict::Internal)?;
    let addresses = LinkAddresses::from_words(header.addresses);
    move_to_front(packet, by, tags_len, ethertype)?;
    readdress(packet, addresses)
}

/// Sends the frame back to where it came from.
#[inline(always)]
pub fn turn_back(packet: &mut impl Packet) -> Result<(), Verdict> {
    let header: &Header = packet.get(0).ok_or(Verdict::Internal)?;
    readdress(packet, LinkAddresses::from_words(header.addresses).reversed())
}

/// Moves the header, with tags, `by` bytes to the back, over what the frame is to lose. Another protocol follows it now.
#[inline(always)]
pub fn move_to_back(packet: &mut impl Packet, by: usize, tags_len: usize, ethertype: Be16) -> Result<(), Verdict> {
    let by = packet.forgotten(by);
    let header: &Header = packet.get(0).ok_or(Verdict::Internal)?;
    let addresses = LinkAddresses::from_words(header.addresses);
    // From the back: the places may overlap.
    *packet.get_mut::<Be16>(packet.unrelated(by + tags_len + offset_of!(Header, ethertype))).ok_or(Verdict::Internal)? =
        ethertype;
    for n in (0..VLAN_TAGS).rev() {
        let place = offset_of!(Header, ethertype) + n * size_of::<Tag>();
        if n * size_of::<Tag>() < tags_len {
            let tag: u32 = packet.get::<TagPlace>(place).ok_or(Verdict::Internal)?.0;
            packet.get_mut::<TagPlace>(packet.unrelated(by + place)).ok_or(Verdict::Internal)?.0 = tag;
        }
    }
    readdress_at(packet, by, addresses)
}
