//! Interfaces: what netlink says of them, whether they take redirected frames, and in which mode XDP works on them.

use lb_common::MacAddr;
use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_ROUTE};
use rustix::io::Errno;

use super::netdev::{self, Netdev};
use super::socket::{Event, Requests};
use super::wire::{self, Body};
use super::{NextHopError, RedirectMode};

pub const RTM_NEWLINK: u16 = 16;
pub const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_EXT_MASK: u16 = 29;
const RTEXT_FILTER_SKIP_STATS: u32 = 8;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_ATTACHED: u16 = 2;
const XDP_ATTACHED_DRV: u8 = 1;
const IFLA_TARGET_NETNSID: u16 = 46;

const ARPHRD_ETHER: u16 = 1;
const IFF_UP: u32 = 0x1;
const IFF_RUNNING: u32 = 0x40;

/// `struct ifinfomsg`: family, padding, type (16 bits), index (32), flags (32), change (32).
const HEADER_LEN: usize = 16;

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
    let no_such_interface = || NextHopError::NoSuchInterface { interface: interface.to_owned() };
    let mut requests = Requests::open(NETLINK_ROUTE)?;
    let question = question(0).attribute(IFLA_IFNAME, &[interface.as_bytes(), &[0]].concat());
    let answer = match requests.get("tell of an interface", RTM_GETLINK, &question).await {
        // The last two: no interface can have such a name.
        Err(NextHopError::Refused { source, .. })
            if matches!(Errno::from_io_error(&source), Some(Errno::NODEV | Errno::RANGE | Errno::INVAL)) =>
        {
            return Err(no_such_interface());
        }
        answer => answer?,
    };
    let mut link = answer.and_then(|event| parse(&event.body)).ok_or_else(no_such_interface)?;
    link.facts.peer_has_xdp = peer_has_xdp(&mut requests, &link).await;
    let mut requests = Requests::open(NETLINK_GENERIC)?;
    if let Some(netdev) = Netdev::find(&mut requests).await? {
        link.facts.xdp_features = netdev.features(&mut requests, link.facts.ifindex).await;
    }
    Ok(link.facts)
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
fn question(ifindex: u32) -> Body {
    let mut header = [0; HEADER_LEN];
    header[4..8].copy_from_slice(&ifindex.to_ne_bytes());
    Body::new(&header).attribute(IFLA_EXT_MASK, &RTEXT_FILTER_SKIP_STATS.to_ne_bytes())
}

/// All interfaces.
pub async fn all(requests: &mut Requests) -> Result<Vec<Event>, NextHopError> {
    requests.dump("list its interfaces", RTM_GETLINK, &question(0)).await
}

/// Whether the other end of a veth runs a native XDP program. `None` for other kinds, and where it cannot be told.
pub async fn peer_has_xdp(requests: &mut Requests, link: &Link) -> Option<bool> {
    let (ifindex, namespace) = link.peer.filter(|_| link.facts.kind.as_deref() == Some("veth"))?;
    let question = match namespace {
        None => question(ifindex),
        Some(id) => question(ifindex).attribute(IFLA_TARGET_NETNSID, &id.to_ne_bytes()),
    };
    let answer = requests.get("tell of the other end of a veth", RTM_GETLINK, &question).await.ok()??;
    parse(&answer.body).map(|peer| peer.has_native_xdp)
}

/// The interface that a message of type [`RTM_DELLINK`] is about. `None` where it left a bridge, and still exists.
pub fn parse_ifindex(body: &[u8]) -> Option<u32> {
    // The bridge announces its ports to the same group, in its own family.
    (*body.first()? == 0).then(|| wire::u32_at(body, 4))?
}

/// Reads a message of type [`RTM_NEWLINK`]. `None` where it is a bridge's about a port, tells only a part, as wireless
/// drivers' do, or makes no sense.
pub fn parse(body: &[u8]) -> Option<Link> {
    let (header, rest) = body.split_first_chunk::<HEADER_LEN>()?;
    let ifindex = parse_ifindex(body)?;
    let flags = wire::u32_at(header, 8)?;
    let (mut name, mut mac, mut mtu, mut kind) = (None, None, None, None);
    let (mut peer, mut peer_namespace, mut xdp) = (None, None, Xdp::default());
    for (attribute, value) in wire::attributes(rest) {
        match attribute {
            IFLA_IFNAME => name = wire::text(value),
            IFLA_ADDRESS => mac = value.try_into().ok().map(MacAddr),
            IFLA_MTU => mtu = wire::u32_at(value, 0),
            IFLA_LINK => peer = wire::u32_at(value, 0),
            IFLA_LINK_NETNSID => peer_namespace = wire::u32_at(value, 0).map(u32::cast_signed),
            IFLA_LINKINFO => {
                let info = wire::attributes(value).find(|(attribute, _)| *attribute == IFLA_INFO_KIND);
                kind = info.and_then(|(_, value)| wire::text(value));
            }
            IFLA_XDP => xdp = Xdp::parse(value),
            _ => {}
        }
    }
    // A negative namespace id: the kernel has no name for it.
    let peer = peer.filter(|_| peer_namespace.is_none_or(|id| id >= 0)).map(|ifindex| (ifindex, peer_namespace));
    let ethernet = wire::u16_at(header, 2)? == ARPHRD_ETHER && mac.is_some();
    let facts = LinkFacts {
        ifindex,
        name: name?,
        ethernet,
        mac: mac.filter(|_| ethernet).unwrap_or_default(),
        mtu: mtu?,
        kind,
        up: flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING,
        xdp_features: None,
        peer_has_xdp: None,
        xdp_attached: xdp.id,
    };
    Some(Link { facts, peer, has_native_xdp: xdp.native })
}

#[derive(Clone, Copy, Default)]
struct Xdp {
    id: Option<u32>,
    native: bool,
}

impl Xdp {
    fn parse(value: &[u8]) -> Self {
        let mut xdp = Self::default();
        for (attribute, value) in wire::attributes(value) {
            match attribute {
                IFLA_XDP_PROG_ID => xdp.id = wire::u32_at(value, 0).filter(|id| *id != 0),
                // Only this one is there where native and generic programs are attached at once.
                IFLA_XDP_DRV_PROG_ID => xdp.native |= wire::u32_at(value, 0).is_some_and(|id| id != 0),
                IFLA_XDP_ATTACHED => xdp.native |= value.first() == Some(&XDP_ATTACHED_DRV),
                _ => {}
            }
        }
        xdp
    }
}

#[cfg(test)]
mod tests;
