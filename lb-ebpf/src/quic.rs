//! The server that a QUIC packet's connection ID names (RFC 8999, draft-ietf-quic-load-balancers-21). A connection goes on with it
//! when the client's address changes.
//!
//! The first packets of a connection have an ID that the client made up. As a rule it names nobody, and they go where the flow goes: the
//! draft's fallback. Servers answer with IDs of their own.

use lb_common::quic::{Reading, SERVER, ServerKey};
use lb_common::records::{Service, backend_flags};
use lb_common::{BackendId, Be16, PortProtocol, hash, limits};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::env::Env;
use crate::family::Family;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::service::look_up;
use crate::transport::{Udp, tcp_flags};
use crate::{flow, select};

const LONG_HEADER: u8 = 0x80;
/// Of a long header's first byte, the packet's type.
const TYPE: u8 = 0x30;
const INITIAL: u8 = 0x00;
/// QUIC version 2 numbers the types otherwise (RFC 9369 section 3.2).
const VERSION_2: u32 = 0x6b33_43cf;
const INITIAL_2: u8 = 0x10;
/// The first octet of an ID that names nobody.
const NO_CONFIG: u8 = 0xe0;

/// The first bytes of a long header, and as many of a short one, which is never that short (RFC 9000 section 10.3).
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Start {
    first: u8,
    version: [u8; 4],
    id_len: u8,
    id_first: u8,
    id_rest: [u8; 8],
}

/// Where a short header has the same: right after the first byte.
#[repr(C, packed(2))]
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
struct Short {
    first: u8,
    id_first: u8,
    id_rest: [u8; 8],
}

/// What a connection ID says.
#[derive(Clone, Copy)]
struct Named {
    /// Who serves the connection; [`BackendId::NONE`] if that does not say.
    server: BackendId,
    /// The client begins a connection, by an ID of its own.
    opens: bool,
}

/// Who was chosen for a packet, for another part of the packet path to send it there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Chosen {
    pub id: BackendId,
    /// It opens a connection.
    pub opens: bool,
}

/// Chooses the backend that a packet's connection ID names, or else its flow's.
#[inline(always)]
pub fn choose<F: Family>(
    packet: &impl Packet,
    env: &impl Env,
    service: &Service,
    service_id: u16,
    parsed: &mut Parsed<F>,
) -> Chosen {
    let named = named(packet, env, service, service_id, parsed);
    parsed.tcp_flags = flags_of(named.opens);
    let (_, id) = select::named(env, env.settings(), service, service_id, parsed, named.server);
    Chosen { id, opens: named.opens }
}

/// What opens a connection is taken for a SYN.
#[inline(always)]
pub fn flags_of(opens: bool) -> u8 {
    u8::from(opens) * tcp_flags::SYN
}

#[inline(always)]
fn named<F: Family>(packet: &impl Packet, env: &impl Env, service: &Service, service_id: u16, parsed: &Parsed<F>) -> Named {
    let reading = Reading::of(service.flags);
    let Some(id) = connection_id(packet, reading, parsed) else { return Named { server: BackendId::NONE, opens: false } };
    let server = if reading.takes(id.first) {
        env.server(ServerKey { service: service_id, server_id: reading.server_id(id.rest) })
    } else {
        BackendId::NONE
    };
    if flow::may_keep(env, service, service_id, server) {
        return Named { server, opens: false };
    }
    Named { server: BackendId::NONE, opens: id.is_initial }
}

/// Looks a server ID up.
#[inline(always)]
pub fn server(env: &impl Env, key: ServerKey) -> BackendId {
    let directory = env.settings().replies;
    let hash = hash::endpoint_v6(directory.multiplier(), key.longs(), PortProtocol::new(Be16::new(0), SERVER));
    let bucket = env.reply_bucket(directory.bucket(hash, limits::REPLY_BUCKETS));
    let id = BackendId(look_up(bucket, hash).unwrap_or_default());
    let backend = env.backend(id);
    let is_it = backend.flags & backend_flags::NAMED != 0 && backend.service == key.service && env.server_id(id) == key.server_id;
    if is_it { id } else { BackendId::NONE }
}

/// As much of a connection ID as there is to read.
struct Id {
    first: u8,
    /// The eight bytes after the first, the first of them the lowest.
    rest: u64,
    is_initial: bool,
}

/// `None` if it is too short.
#[inline(always)]
fn connection_id<F: Family>(packet: &impl Packet, reading: Reading, parsed: &Parsed<F>) -> Option<Id> {
    let start = packet.unrelated(parsed.l4 + size_of::<Udp>());
    let end = parsed.l3 + parsed.ip_len as usize;
    let header: &Start = packet.get(start).filter(|_| start + size_of::<Start>() <= end)?;
    if header.first & LONG_HEADER == 0 {
        let short: &Short = packet.get(start)?;
        return Some(Id { first: short.id_first, rest: u64::from_le_bytes(short.id_rest), is_initial: false });
    }
    let initial = if u32::from_be_bytes(header.version) == VERSION_2 { INITIAL_2 } else { INITIAL };
    let is_initial = header.first & TYPE == initial;
    // Without a server's ID in it, the first octet alone names none of the configurations.
    let is_whole = header.id_len > reading.server_id_len();
    let first = if is_whole { header.id_first } else { NO_CONFIG };
    Some(Id { first, rest: u64::from_le_bytes(header.id_rest), is_initial })
}
