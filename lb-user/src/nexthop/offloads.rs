//! What a device computes for the host, by the generic-netlink family "ethtool": here, checksums of what is sent.

use netlink_packet_core::{DecodeError, DefaultNla, Emitable, NlasIterator, ParseableParametrized};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_sys::protocols::NETLINK_GENERIC;

use super::netdev::describe_family;
use super::socket::Requests;

const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_HEADER_DEV_INDEX: u16 = 1;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const NLA_F_NESTED: u16 = 1 << 15;

/// What `ethtool -K IF tx on` turns on.
const CHECKSUMS: [&[u8]; 3] = [b"tx-checksum-ip-generic\0", b"tx-checksum-ipv4\0", b"tx-checksum-ipv6\0"];

/// Whether the host leaves checksums of what it sends on an interface to the device. `None` where that cannot be told.
pub async fn partial_checksums(ifindex: u32) -> Option<bool> {
    let mut requests = Requests::open(NETLINK_GENERIC).ok()?;
    let family = describe_family(&mut requests, Features::family_name()).await.ok()??;
    let family = family.iter().find_map(|attribute| match attribute {
        GenlCtrlAttrs::FamilyId(id) => Some(*id),
        _ => None,
    })?;
    let mut question = GenlMessage::from_payload(Features { ifindex, computes_checksums: false });
    question.set_resolved_family_id(family);
    let answer = requests.get("tell of an interface's offloads", question).await.ok()??;
    Some(answer.payload.computes_checksums)
}

/// A message of the family, with what is needed of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Features {
    ifindex: u32,
    computes_checksums: bool,
}

impl Features {
    fn question(self) -> [DefaultNla; 1] {
        let ifindex = DefaultNla::new(ETHTOOL_A_HEADER_DEV_INDEX, self.ifindex.to_ne_bytes().to_vec());
        let mut header = vec![0; ifindex.buffer_len()];
        ifindex.emit(&mut header);
        [DefaultNla::new(ETHTOOL_A_FEATURES_HEADER | NLA_F_NESTED, header)]
    }
}

impl GenlFamily for Features {
    fn family_name() -> &'static str {
        "ethtool"
    }

    fn command(&self) -> u8 {
        ETHTOOL_MSG_FEATURES_GET
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Features {
    fn buffer_len(&self) -> usize {
        self.question().as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.question().as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Features {
    fn parse_with_param(attributes: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        // A list of the features that are on, each with its name.
        let mut features = Self { ifindex: 0, computes_checksums: false };
        for active in nested(attributes, ETHTOOL_A_FEATURES_ACTIVE)? {
            for bits in nested(&active, ETHTOOL_A_BITSET_BITS)? {
                for bit in NlasIterator::new(&bits) {
                    let names = nested(bit?.value(), ETHTOOL_A_BITSET_BIT_NAME)?;
                    features.computes_checksums |= names.iter().any(|name| CHECKSUMS.contains(&name.as_slice()));
                }
            }
        }
        Ok(features)
    }
}

/// The values of all attributes of a kind.
fn nested(attributes: &[u8], kind: u16) -> Result<Vec<Vec<u8>>, DecodeError> {
    let mut values = Vec::new();
    for attribute in NlasIterator::new(attributes) {
        let attribute = attribute?;
        if attribute.kind() == kind {
            values.push(attribute.value().to_vec());
        }
    }
    Ok(values)
}
