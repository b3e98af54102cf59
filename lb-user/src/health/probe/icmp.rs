//! The ICMP probe: an echo request, and its reply.
//!
//! Sent through a datagram socket, for which no capability is needed where `net.ipv4.ping_group_range` has the daemon's
//! group (it has all groups under systemd), or else through a raw one, which takes CAP_NET_RAW.

use std::io;
use std::net::IpAddr;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use tokio::net::UdpSocket;

use super::time::Time;
use super::{Found, Setback, Target, setback};

const PHASE: &str = "icmp";
const HEADER_BYTES: usize = 8;
/// Chance does not make two of them.
const TOKEN_BYTES: usize = 16;
/// Room for an IP header of any length, which a raw IPv4 socket also yields.
const RECEIVED_BYTES_MAX: usize = 60 + HEADER_BYTES + TOKEN_BYTES;

/// What IPv4 and IPv6 do each in their own way (RFC 792, RFC 4443 section 4).
struct Family {
    address: AddressFamily,
    protocol: rustix::net::Protocol,
    request: u8,
    reply: u8,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self { address: AddressFamily::INET, protocol: ipproto::ICMP, request: 8, reply: 0 },
            IpAddr::V6(_) => Self { address: AddressFamily::INET6, protocol: ipproto::ICMPV6, request: 128, reply: 129 },
        }
    }
}

pub(super) async fn ask(target: Target, time: &Time) -> Found {
    let family = Family::of(target.ip());
    let socket = open(&family)?;
    target.prepare(&socket).map_err(|error| setback(PHASE, &error))?;
    let token: [u8; TOKEN_BYTES] = fastrand::u128(..).to_ne_bytes();
    let echoed = time.keep(PHASE, echo(&socket, &family, target.ip(), &token)).await?;
    echoed.map_err(|error| setback(PHASE, &error))?;
    Ok(format!("{PHASE}: echo reply"))
}

/// In tokio's type for datagrams, whose system calls are the same for ICMP.
fn open(family: &Family) -> Result<UdpSocket, Setback> {
    let open = |kind| {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        rustix::net::socket_with(family.address, kind, flags, Some(family.protocol))
    };
    let refused = |errno: &Errno| matches!(*errno, Errno::ACCESS | Errno::PERM | Errno::PROTONOSUPPORT);
    let socket = match open(SocketType::DGRAM) {
        Err(errno) if refused(&errno) => open(SocketType::RAW),
        other => other,
    };
    let socket = socket.map_err(|errno| match refused(&errno) {
        true => Setback::Unasked(format!(
            "{PHASE}: {errno}; allow it by `sysctl net.ipv4.ping_group_range=\"0 2147483647\"`, or give the daemon CAP_NET_RAW"
        )),
        false => setback(PHASE, &errno.into()),
    })?;
    UdpSocket::from_std(socket.into()).map_err(|error| setback(PHASE, &error))
}

/// Sends a request, and waits for the reply with the same token.
async fn echo(socket: &UdpSocket, family: &Family, target: IpAddr, token: &[u8; TOKEN_BYTES]) -> io::Result<()> {
    // Hears only the target from here on.
    socket.connect((target, 0)).await?;
    socket.send(&request(family.request, token)).await?;
    loop {
        let mut received = [0; RECEIVED_BYTES_MAX];
        let n_bytes = socket.recv(&mut received).await?;
        if is_reply(&received[..n_bytes], family.reply, token) {
            return Ok(());
        }
    }
}

/// Type, code, checksum, identifier, sequence number, token. A datagram socket writes an identifier of its own, and the
/// kernel all checksums but those of raw IPv4.
fn request(kind: u8, token: &[u8; TOKEN_BYTES]) -> [u8; HEADER_BYTES + TOKEN_BYTES] {
    let mut message = [0; HEADER_BYTES + TOKEN_BYTES];
    message[0] = kind;
    message[4..6].copy_from_slice(&token[..2]);
    message[HEADER_BYTES..].copy_from_slice(token);
    let sum: u32 = message.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    let folded = (folded & 0xffff) + (folded >> 16);
    // Folded twice, it has no more than 16 bits.
    message[2..4].copy_from_slice(&(!folded as u16).to_be_bytes());
    message
}

/// Whether this is the reply: a datagram socket yields the message, a raw IPv4 one its IP header before it, and a raw
/// one everything else from the target too. The token is last in all of them.
fn is_reply(received: &[u8], kind: u8, token: &[u8; TOKEN_BYTES]) -> bool {
    let Some(head) = received.strip_suffix(token) else { return false };
    let header = match head.len().checked_sub(HEADER_BYTES) {
        Some(at) => &head[at..],
        None => return false,
    };
    header[0] == kind && header[1] == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_what_rfc_792_draws() {
        let token = *b"abcdefghijklmnop";
        let message = request(8, &token);
        let sum: u32 = message.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "the sum over a message with its checksum");
        assert_eq!((&message[..2], &message[6..8], &message[8..]), ([8, 0].as_slice(), [0, 0].as_slice(), token.as_slice()));
    }

    #[test]
    fn only_the_reply_with_the_token_counts() {
        let token = *b"abcdefghijklmnop";
        let reply = request(0, &token);
        let with_ip_header = [[0x45; 20].as_slice(), &reply].concat();
        let other = request(0, b"abcdefghijklmno!");
        let unreachable = [[3, 1, 0, 0, 0, 0, 0, 0].as_slice(), &[0x45; 20], &request(8, &token)].concat();
        for (received, expected) in [
            (reply.as_slice(), true),
            (&with_ip_header, true),
            (&request(8, &token), false),
            (&other, false),
            (&unreachable, false),
            (&token, false),
            (&[], false),
        ] {
            assert_eq!(is_reply(received, 0, &token), expected, "{received:?}");
        }
    }
}
