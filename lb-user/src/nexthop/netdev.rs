//! The generic-netlink family "netdev", by which kernels from 6.3 tell what XDP can do on each device.

use rustix::io::Errno;

use super::NextHopError;
use super::socket::Requests;
use super::wire::{self, Body};

/// Programs can be attached natively.
pub const BASIC: u64 = 1;
/// Frames redirected to the device are sent.
pub const NDO_XMIT: u64 = 4;

const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const CTRL_ATTR_MCAST_GROUPS: u16 = 7;
const CTRL_ATTR_MCAST_GRP_NAME: u16 = 1;
const CTRL_ATTR_MCAST_GRP_ID: u16 = 2;

const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_CMD_DEV_DEL_NTF: u8 = 3;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;

/// `struct genlmsghdr`: command, version, reserved (16 bits).
const HEADER_LEN: usize = 4;

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
        let question = command(CTRL_CMD_GETFAMILY).attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        match requests.get("tell of the netdev family", GENL_ID_CTRL, &question).await {
            Ok(answer) => Ok(answer.and_then(|event| Self::parse(&event.body))),
            Err(NextHopError::Refused { source, .. }) if Errno::from_io_error(&source) == Some(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(body: &[u8]) -> Option<Self> {
        let (_, rest) = body.split_first_chunk::<HEADER_LEN>()?;
        let (mut family, mut group) = (None, None);
        for (kind, value) in wire::attributes(rest) {
            match kind {
                CTRL_ATTR_FAMILY_ID => family = wire::u16_at(value, 0),
                CTRL_ATTR_MCAST_GROUPS => group = wire::attributes(value).find_map(|(_, value)| management_group(value)),
                _ => {}
            }
        }
        Some(Self { family: family?, group })
    }

    /// What XDP can do on an interface. `None` where it is gone.
    pub async fn features(&self, requests: &mut Requests, ifindex: u32) -> Option<u64> {
        let question = command(NETDEV_CMD_DEV_GET).attribute(NETDEV_A_DEV_IFINDEX, &ifindex.to_ne_bytes());
        let answer = requests.get("tell an interface's XDP features", self.family, &question).await.ok()??;
        parse(&answer.body).map(|(_, features)| features)
    }

    /// The same for all interfaces.
    pub async fn all(&self, requests: &mut Requests) -> Result<Vec<(u32, u64)>, NextHopError> {
        let answers = requests.dump("list its interfaces' XDP features", self.family, &command(NETDEV_CMD_DEV_GET)).await?;
        Ok(answers.iter().filter_map(|event| parse(&event.body)).collect())
    }
}

/// Reads an answer or an announcement: interface and features. `None` where the device is gone, or it makes no sense.
pub fn parse(body: &[u8]) -> Option<(u32, u64)> {
    let (header, rest) = body.split_first_chunk::<HEADER_LEN>()?;
    if header[0] == NETDEV_CMD_DEV_DEL_NTF {
        return None;
    }
    let (mut ifindex, mut features) = (None, None);
    for (kind, value) in wire::attributes(rest) {
        match kind {
            NETDEV_A_DEV_IFINDEX => ifindex = wire::u32_at(value, 0),
            NETDEV_A_DEV_XDP_FEATURES => features = wire::u64_at(value, 0),
            _ => {}
        }
    }
    Some((ifindex?, features?))
}

fn command(command: u8) -> Body {
    Body::new(&[command, 1, 0, 0])
}

fn management_group(attributes: &[u8]) -> Option<u32> {
    let (mut is_it, mut id) = (false, None);
    for (kind, value) in wire::attributes(attributes) {
        match kind {
            CTRL_ATTR_MCAST_GRP_NAME => is_it = wire::text(value).as_deref() == Some("mgmt"),
            CTRL_ATTR_MCAST_GRP_ID => id = wire::u32_at(value, 0),
            _ => {}
        }
    }
    id.filter(|_| is_it)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_has_its_number_and_its_management_group() {
        let group = |name: &[u8], id: u32| {
            let body = Body::new(&[]).attribute(CTRL_ATTR_MCAST_GRP_ID, &id.to_ne_bytes());
            body.attribute(CTRL_ATTR_MCAST_GRP_NAME, name)
        };
        let groups = Body::new(&[]).attribute(1, group(b"page-pool\0", 5).bytes()).attribute(2, group(b"mgmt\0", 6).bytes());
        let answer = command(1)
            .attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0")
            .attribute(CTRL_ATTR_FAMILY_ID, &30u16.to_ne_bytes())
            .attribute(CTRL_ATTR_MCAST_GROUPS, groups.bytes());
        assert_eq!(Netdev::parse(answer.bytes()), Some(Netdev { family: 30, group: Some(6) }));
        assert_eq!(Netdev::parse(command(1).bytes()), None);
    }

    #[test]
    fn an_announcement_tells_features_unless_the_device_is_gone() {
        let announcement = |kind| {
            command(kind)
                .attribute(NETDEV_A_DEV_IFINDEX, &3u32.to_ne_bytes())
                .attribute(NETDEV_A_DEV_XDP_FEATURES, &(BASIC | NDO_XMIT).to_ne_bytes())
        };
        assert_eq!(parse(announcement(4).bytes()), Some((3, 5)));
        assert_eq!(parse(announcement(NETDEV_CMD_DEV_DEL_NTF).bytes()), None);
        assert_eq!(parse(&[4]), None);
    }
}
