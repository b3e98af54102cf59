//! The sockets by which probes leave in tunnels. The kernel makes the outer headers: it knows source, way and size limits.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::{Goal, Way};

/// What the outer IP header says that it carries.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Carrier {
    /// Protocol 4, an IPv4 packet (RFC 2003).
    V4,
    /// Protocol 41, an IPv6 packet (RFC 2473, RFC 4213).
    V6,
    /// A UDP datagram. The packet in it tells its family by itself (draft-ietf-intarea-gue, variant 1).
    Udp,
}

/// Where the packets of one seat and family go.
#[derive(Clone, Debug)]
pub struct Outlet {
    socket: Arc<Socket>,
    to: SockAddr,
}

impl Outlet {
    /// Sends a packet in a tunnel's headers. It is not waited for: a packet that finds no room is lost, as on any link.
    ///
    /// # Errors
    /// It was not sent: there is no way to the backend, or no room.
    pub fn send(&self, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, &self.to).map(drop)
    }
}

/// One socket for each family of backends and each carrier, opened when first needed.
#[derive(Debug, Default)]
pub struct Senders {
    opened: BTreeMap<(bool, Carrier), Arc<Socket>>,
}

impl Senders {
    /// Where packets of this family go. `None` where they go without a tunnel.
    ///
    /// # Errors
    /// A socket cannot be opened, for want of CAP_NET_RAW or of descriptors.
    pub fn outlet(&mut self, goal: Goal, is_v4: bool) -> io::Result<Option<Outlet>> {
        let (carrier, port) = match goal.way {
            Way::Direct => return Ok(None),
            Way::Ipip if is_v4 => (Carrier::V4, 0),
            Way::Ipip => (Carrier::V6, 0),
            Way::Gue { port } => (Carrier::Udp, port),
        };
        let key = (goal.backend.is_ipv4(), carrier);
        let socket = match self.opened.get(&key) {
            Some(socket) => Arc::clone(socket),
            None => Arc::clone(self.opened.entry(key).or_insert(Arc::new(open(key.0, carrier)?))),
        };
        Ok(Some(Outlet { socket, to: SocketAddr::new(goal.backend, port).into() }))
    }
}

/// A socket that only sends.
///
/// Bound to a group's address, it hears nothing but what is for that group, and its packets have the source that the kernel chooses
/// for each. The address is the one of its kind that will never be a group's: nothing waits in the socket's buffer, and no packet of
/// somebody else's is taken for answered, as it would be by an unbound raw socket.
fn open(is_v4: bool, carrier: Carrier) -> io::Result<Socket> {
    /// RFC 1112, section 4: "guaranteed not to be assigned to any group".
    const NOBODY_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(224, 0, 0, 0));
    /// RFC 4291, section 2.7.1: "shall never be assigned to any multicast group".
    const NOBODY_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xff0e, 0, 0, 0, 0, 0, 0, 0));
    let (domain, nobody) = if is_v4 { (Domain::IPV4, NOBODY_V4) } else { (Domain::IPV6, NOBODY_V6) };
    let (kind, protocol) = match carrier {
        Carrier::V4 => (Type::RAW, Protocol::from(4)),
        Carrier::V6 => (Type::RAW, Protocol::from(41)),
        Carrier::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = Socket::new(domain, kind.nonblocking(), Some(protocol))?;
    socket.bind(&SocketAddr::new(nobody, 0).into())?;
    Ok(socket)
}
