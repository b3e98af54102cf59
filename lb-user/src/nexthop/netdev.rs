//! The generic-netlink family "netdev", by which kernels from 6.3 tell what XDP can do on each device.

use netlink_packet_core::{DecodeError, DefaultNla, Emitable, NlasIterator, ParseableParametrized, parse_u32, parse_u64};
use netlink_packet_generic::ctrl::nlas::{GenlCtrlAttrs, McastGrpAttrs};
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use rustix::io::Errno;

use super::NextHopError;
use super::socket::{Answers, Requests};

/// Programs can be attached natively.
pub const BASIC: u64 = 1;
/// Programs may get frames of several pieces, and so of any MTU.
pub const RX_SG: u64 = 32;
/// Frames redirected to the device are sent.
pub const NDO_XMIT: u64 = 4;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_CMD_DEV_DEL_NTF: u8 = 3;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// The family, whose numbers differ between boots.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Netdev {
    family: u16,
    /// The multicast group in which changes are announced.
    pub group: Option<u32>,
}

impl Netdev {
    /// `None` where the kernel is older than 6.3.
    pub async fn find(requests: &mut Requests) -> Result<Option<Self>, NextHopError> {
        let attributes = describe_family(requests, Device::family_name()).await?;
        Ok(attributes.and_then(|attributes| Self::parse(&attributes)))
    }

    fn parse(attributes: &[GenlCtrlAttrs]) -> Option<Self> {
        let (mut family, mut group) = (None, None);
        for attribute in attributes {
            match attribute {
                GenlCtrlAttrs::FamilyId(id) => family = Some(*id),
                GenlCtrlAttrs::McastGroups(groups) => group = groups.iter().find_map(|group| management_group(group)),
                _ => {}
            }
        }
        Some(Self { family: family?, group })
    }

    /// What XDP can do on an interface. `None` where it is gone.
    pub async fn features(&self, requests: &mut Requests, ifindex: u32) -> Option<u64> {
        let answer = requests.get("tell an interface's XDP features", self.question(Some(ifindex))).await.ok()??;
        parse(&answer.payload).map(|(_, features)| features)
    }

    /// The same for all interfaces.
    pub async fn all(&self, requests: &mut Requests) -> Result<Answers<GenlMessage<Device>>, NextHopError> {
        requests.dump("list its interfaces' XDP features", self.question(None)).await
    }

    fn question(&self, ifindex: Option<u32>) -> GenlMessage<Device> {
        let device = Device { command: NETDEV_CMD_DEV_GET, ifindex, xdp_features: None };
        let mut question = GenlMessage::from_payload(device);
        question.set_resolved_family_id(self.family);
        question
    }
}

/// What a generic-netlink family is, by its name. `None` where this kernel has none of that name.
pub async fn describe_family(requests: &mut Requests, name: &str) -> Result<Option<Vec<GenlCtrlAttrs>>, NextHopError> {
    let name = GenlCtrlAttrs::FamilyName(name.to_owned());
    let question = GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::GetFamily, nlas: vec![name] });
    match requests.get("tell of a netlink family", question).await {
        Ok(answer) => Ok(answer.map(|answer| answer.payload.nlas)),
        Err(NextHopError::Refused { source, .. }) if Errno::from_io_error(&source) == Some(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn management_group(attributes: &[McastGrpAttrs]) -> Option<u32> {
    let is_it = attributes.iter().any(|attribute| matches!(attribute, McastGrpAttrs::Name(name) if name == "mgmt"));
    attributes.iter().filter(|_| is_it).find_map(|attribute| match attribute {
        McastGrpAttrs::Id(id) => Some(*id),
        McastGrpAttrs::Name(_) => None,
    })
}

/// Reads an answer or an announcement: interface and features. `None` where the device is gone, or something is missing.
pub fn parse(device: &Device) -> Option<(u32, u64)> {
    Some((device.ifindex?, device.xdp_features?)).filter(|_| device.command != NETDEV_CMD_DEV_DEL_NTF)
}

/// A message of the family, with what is needed of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Device {
    command: u8,
    ifindex: Option<u32>,
    xdp_features: Option<u64>,
}

impl Device {
    fn attributes(self) -> Vec<DefaultNla> {
        let ifindex = self.ifindex.map(|value| DefaultNla::new(NETDEV_A_DEV_IFINDEX, value.to_ne_bytes().to_vec()));
        let features = self.xdp_features.map(|value| DefaultNla::new(NETDEV_A_DEV_XDP_FEATURES, value.to_ne_bytes().to_vec()));
        ifindex.into_iter().chain(features).collect()
    }
}

impl GenlFamily for Device {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Device {
    fn buffer_len(&self) -> usize {
        self.attributes().as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes().as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Device {
    fn parse_with_param(attributes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self { command: header.cmd, ifindex: None, xdp_features: None };
        for attribute in NlasIterator::new(attributes) {
            let attribute = attribute?;
            match attribute.kind() {
                NETDEV_A_DEV_IFINDEX => device.ifindex = Some(parse_u32(attribute.value())?),
                NETDEV_A_DEV_XDP_FEATURES => device.xdp_features = Some(parse_u64(attribute.value())?),
                _ => {}
            }
        }
        Ok(device)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nexthop::message::received;

    #[test]
    fn a_family_has_its_number_and_its_management_group() {
        let group = |name: &str, id| vec![McastGrpAttrs::Id(id), McastGrpAttrs::Name(name.to_owned())];
        let name = GenlCtrlAttrs::FamilyName("netdev".to_owned());
        let groups = GenlCtrlAttrs::McastGroups(vec![group("page-pool", 5), group("mgmt", 6)]);
        for (attributes, expected) in [
            (vec![name.clone(), GenlCtrlAttrs::FamilyId(30), groups], Some(Netdev { family: 30, group: Some(6) })),
            (vec![name], None),
        ] {
            let answer = received(GenlMessage::from_payload(GenlCtrl { cmd: GenlCtrlCmd::NewFamily, nlas: attributes }));
            assert_eq!(Netdev::parse(&answer.payload.nlas), expected);
        }
    }

    #[test]
    fn an_announcement_tells_features_unless_the_device_is_gone() {
        for (command, ifindex, expected) in [(4, Some(3), Some((3, 5))), (NETDEV_CMD_DEV_DEL_NTF, Some(3), None), (4, None, None)]
        {
            let announced = Device { command, ifindex, xdp_features: Some(BASIC | NDO_XMIT) };
            let mut message = GenlMessage::from_payload(announced);
            message.set_resolved_family_id(30);
            assert_eq!(parse(&received(message).payload), expected);
        }
    }
}
