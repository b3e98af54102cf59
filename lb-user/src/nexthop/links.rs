//! Interfaces: what netlink says of them, whether they take redirected frames, and in which mode XDP works on them.

use lb_common::MacAddr;
use netlink_packet_route::link::{
    InfoKind, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use rustix::io::Errno;

use super::netdev::{self, Netdev};
use super::socket::{Answers, Requests};
use super::{NextHopError, RedirectMode};

/// What is known of one interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkFacts {
    pub ifindex: u32,
    pub name: String,
    /// Frames on it have Ethernet headers. Without, `mac` is zero.
    pub ethernet: bool,
    pub mac: MacAddr,
    pub mtu: u32,
    /// `veth`, `bridge`, `tun` and so on; physical devices have none.
    pub kind: Option<String>,
    /// Administratively up, and with carrier.
    pub up: bool,
    /// `NETDEV_XDP_ACT_*`, which kernels from 6.3 tell.
    pub xdp_features: Option<u64>,
    /// veth only: the other end runs a native XDP program. `None` where its namespace cannot be asked.
    pub peer_has_xdp: Option<bool>,
    /// The id of the program attached now.
    pub xdp_attached: Option<u32>,
}

/// What mode `auto` should pick for an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advice {
    pub native: bool,
    /// Why not native, and what to do about it.
    pub reason: Option<String>,
}

/// Picks the fastest mode in which no frame vanishes.
///
/// A driver without native XDP may still be tried natively on kernels that do not tell: attaching then fails at once.
/// veth is the one that attaches, and then loses what `XDP_TX` sends after 256 frames unless the other end runs a
/// program too (`veth_xdp_flush` looks for one; GRO on the other end does not do).
pub fn advise(facts: &LinkFacts) -> Advice {
    let name = &facts.name;
    let reason = if !facts.ethernet {
        Some(format!("{name} carries no Ethernet frames"))
    } else if facts.xdp_features.is_some_and(|features| features & netdev::BASIC == 0) {
        Some(match facts.kind.as_deref() {
            Some("veth") => format!(
                "the other end of {name} has more transmit queues than {name} has receive queues; create both ends with equal numbers"
            ),
            Some(kind) => format!("{name} is of kind {kind}, which has no native XDP"),
            None => format!("the driver of {name} has no native XDP"),
        })
    } else if facts.kind.as_deref() == Some("veth") {
        match facts.peer_has_xdp {
            Some(true) => None,
            Some(false) => Some(format!(
                "{name} is a veth whose other end runs no XDP program, so frames sent back natively would vanish; attach any native XDP program to the other end"
            )),
            None => Some(format!(
                "{name} is a veth whose other end cannot be looked at, so frames sent back natively might vanish; attach a native XDP program to the other end, and set mode = \"native\""
            )),
        }
    } else {
        None
    };
    Advice { native: reason.is_none(), reason }
}

/// The largest MTU that native XDP takes on a veth whose frames it cannot get in pieces: a page, less what surrounds a frame.
const VETH_MTU_MAX: u32 = 3506;

/// The largest MTU, in bytes, with which the program can be attached natively, as far as it can be told.
pub fn native_mtu_max(facts: &LinkFacts) -> Option<u32> {
    let takes_pieces = facts.xdp_features.is_none_or(|features| features & netdev::RX_SG != 0);
    (facts.kind.as_deref() == Some("veth") && !takes_pieces).then_some(VETH_MTU_MAX)
}

/// Whether frames that XDP redirects to the interface arrive.
pub fn takes_redirects(facts: &LinkFacts, mode: RedirectMode) -> bool {
    if !facts.ethernet {
        return false;
    }
    match (mode, facts.xdp_features, facts.kind.as_deref()) {
        (RedirectMode::Generic, ..) => true,
        (RedirectMode::Native, Some(features), _) => features & netdev::NDO_XMIT != 0,
        // Before 6.3: most drivers for hardware do, and of the virtual ones hardly any.
        (RedirectMode::Native, None, None) => true,
        (RedirectMode::Native, None, Some("veth")) => facts.peer_has_xdp == Some(true),
        (RedirectMode::Native, None, Some(_)) => false,
    }
}

/// Asks for an interface of the calling thread's network namespace.
///
/// # Errors
/// No such interface, or netlink cannot be used.
pub async fn facts(interface: &str) -> Result<LinkFacts, NextHopError> {
    let mut requests = Requests::open(NETLINK_ROUTE)?;
    let link = find(&mut requests, question(0, Some(LinkAttribute::IfName(interface.to_owned())))).await?;
    let mut link = link.ok_or_else(|| NextHopError::NoSuchInterface { interface: interface.to_owned() })?;
    link.facts.peer_has_xdp = peer_has_xdp(&mut requests, &link).await;
    let mut requests = Requests::open(NETLINK_GENERIC)?;
    if let Some(netdev) = Netdev::find(&mut requests).await? {
        link.facts.xdp_features = netdev.features(&mut requests, link.facts.ifindex).await;
    }
    Ok(link.facts)
}

/// The name that the interface with this index has now, in the calling thread's network namespace; `None` if there is none.
///
/// # Errors
/// Netlink cannot be used.
pub async fn name_of(ifindex: u32) -> Result<Option<String>, NextHopError> {
    let mut requests = Requests::open(NETLINK_ROUTE)?;
    Ok(find(&mut requests, question(ifindex, None)).await?.map(|link| link.facts.name))
}

async fn find(requests: &mut Requests, question: RouteNetlinkMessage) -> Result<Option<Link>, NextHopError> {
    match requests.get("tell of an interface", question).await {
        // The last two: no interface can have such a name.
        Err(NextHopError::Refused { source, .. })
            if matches!(Errno::from_io_error(&source), Some(Errno::NODEV | Errno::RANGE | Errno::INVAL)) =>
        {
            Ok(None)
        }
        answer => Ok(answer?.and_then(|message| parse(&message))),
    }
}

/// A link message, with what [`LinkFacts`] does not need.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// Without `xdp_features` and `peer_has_xdp`, which stand elsewhere.
    pub facts: LinkFacts,
    /// The other end of a veth, and the namespace that it is in unless in ours. `None` there: it cannot be named.
    peer: Option<(u32, Option<i32>)>,
    has_native_xdp: bool,
}

/// What to ask for one interface, 0 for all or for one by name. Statistics would be most of the answer.
fn question(ifindex: u32, attribute: Option<LinkAttribute>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    message.attributes.extend(attribute);
    RouteNetlinkMessage::GetLink(message)
}

/// All interfaces.
pub async fn all(requests: &mut Requests) -> Result<Answers<RouteNetlinkMessage>, NextHopError> {
    requests.dump("list its interfaces", question(0, None)).await
}

/// Whether the other end of a veth runs a native XDP program. `None` for other kinds, and where it cannot be told.
pub async fn peer_has_xdp(requests: &mut Requests, link: &Link) -> Option<bool> {
    let (ifindex, namespace) = link.peer.filter(|_| link.facts.kind.as_deref() == Some("veth"))?;
    // The library's name for it is older than the kernel's, IFLA_TARGET_NETNSID.
    let question = question(ifindex, namespace.map(LinkAttribute::IfNetnsId));
    let answer = requests.get("tell of the other end of a veth", question).await.ok()??;
    parse(&answer).map(|peer| peer.has_native_xdp)
}

/// The interface that came, changed or went. `None` where it joined or left a bridge.
pub fn parse_ifindex(message: &RouteNetlinkMessage) -> Option<u32> {
    let (RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)) = message else { return None };
    // The bridge announces its ports to the same group, in its own family.
    (link.header.interface_family == AddressFamily::Unspec).then_some(link.header.index)
}

/// Reads what a message says of an interface. `None` where it went, or where the message is a bridge's about a port or
/// tells only a part, as wireless drivers' do.
pub fn parse(message: &RouteNetlinkMessage) -> Option<Link> {
    let ifindex = parse_ifindex(message)?;
    let RouteNetlinkMessage::NewLink(LinkMessage { header, attributes, .. }) = message else { return None };
    let (mut name, mut mac, mut mtu, mut kind) = (None, None, None, None);
    let (mut peer, mut peer_namespace, mut xdp) = (None, None, Xdp::default());
    for attribute in attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Address(value) => mac = value.as_slice().try_into().ok().map(MacAddr::new),
            LinkAttribute::Mtu(value) => mtu = Some(*value),
            LinkAttribute::Link(value) => peer = Some(*value),
            LinkAttribute::LinkNetNsId(value) => peer_namespace = Some(*value),
            LinkAttribute::LinkInfo(values) => kind = values.iter().find_map(parse_kind),
            LinkAttribute::Xdp(values) => xdp = Xdp::parse(values),
            _ => {}
        }
    }
    // A negative namespace id: the kernel has no name for it.
    let peer = peer.filter(|_| peer_namespace.is_none_or(|id| id >= 0)).map(|ifindex| (ifindex, peer_namespace));
    let ethernet = header.link_layer_type == LinkLayerType::Ether && mac.is_some();
    let facts = LinkFacts {
        ifindex,
        name: name?,
        ethernet,
        mac: mac.filter(|_| ethernet).unwrap_or_default(),
        mtu: mtu?,
        kind: kind.map(InfoKind::to_string),
        up: header.flags.contains(LinkFlags::Up | LinkFlags::Running),
        xdp_features: None,
        peer_has_xdp: None,
        xdp_attached: xdp.id,
    };
    Some(Link { facts, peer, has_native_xdp: xdp.native })
}

fn parse_kind(attribute: &LinkInfo) -> Option<&InfoKind> {
    match attribute {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    }
}

#[derive(Clone, Copy, Default)]
struct Xdp {
    id: Option<u32>,
    native: bool,
}

impl Xdp {
    fn parse(attributes: &[LinkXdp]) -> Self {
        let mut xdp = Self::default();
        for attribute in attributes {
            match attribute {
                LinkXdp::ProgId(id) => xdp.id = Some(*id).filter(|id| *id != 0),
                // Only this one is there where native and generic programs are attached at once.
                LinkXdp::DrvProgId(id) => xdp.native |= *id != 0,
                LinkXdp::Attached(mode) => xdp.native |= *mode == XdpAttached::Driver,
                _ => {}
            }
        }
        xdp
    }
}

#[cfg(test)]
mod tests;
