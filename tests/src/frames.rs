//! Raw Ethernet frames into and out of an interface: for what no ordinary socket sends.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{AddressFamily, LinkAddr, MsgFlags, SockFlag, SockType, sendto, socket};

use crate::{Netns, Process, until};

const START_LIMIT: Duration = Duration::from_secs(5);

/// The link-layer address of an interface of the calling thread's namespace.
pub(crate) fn link_address(interface: &str) -> Result<LinkAddr> {
    let addresses = getifaddrs().context("listing interfaces")?.filter(|address| address.interface_name == interface);
    let mut links = addresses.filter_map(|address| address.address?.as_link_addr().copied());
    links.next().with_context(|| format!("no interface {interface}"))
}

/// Sends frames as they are out of one interface.
#[derive(Debug)]
pub struct Sender {
    socket: OwnedFd,
    interface: LinkAddr,
}

impl Sender {
    /// # Errors
    /// No such interface.
    pub fn new(netns: &Netns, interface: &str) -> Result<Self> {
        netns.enter(|| {
            let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).context("a packet socket")?;
            Ok(Self { socket, interface: link_address(interface)? })
        })
    }

    /// Sends one frame, from its destination address on, without a checksum at its end.
    ///
    /// # Errors
    /// Shorter than an Ethernet header, longer than the MTU allows, or the interface is down.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        let n = sendto(self.socket.as_raw_fd(), frame, &self.interface, MsgFlags::empty()).context("sending a frame")?;
        ensure!(n == frame.len(), "sent {n} of {} bytes", frame.len());
        Ok(())
    }
}

/// Records the frames that arrive at an interface. By `tcpdump`, because the kernel takes a VLAN tag out of the frame
/// before a packet socket sees it, and libpcap puts it back.
#[derive(Debug)]
pub struct Capture {
    process: Process,
    file: tempfile::NamedTempFile,
}

impl Capture {
    /// Starts recording what `filter` (in tcpdump's language, may be empty) lets through. Returns when it records.
    ///
    /// # Errors
    /// tcpdump is not installed, no such interface, or the filter is wrong.
    pub fn start(netns: &Netns, interface: &str, filter: &str) -> Result<Self> {
        let file = tempfile::NamedTempFile::new()?;
        let mut command = netns.command("tcpdump");
        command
            .args(["-i", interface, "-Q", "in", "-n", "-U", "--immediate-mode", "-Z", "root", "-s", "0", "-w"])
            .arg(file.path())
            .args((!filter.is_empty()).then_some(filter));
        let mut process = Process::start(format!("tcpdump -i {interface}"), &mut command)?;
        process.wait_for_log("listening on", START_LIMIT)?;
        Ok(Self { process, file })
    }

    /// The frames until now.
    ///
    /// # Errors
    /// tcpdump's file cannot be understood.
    pub fn frames(&self) -> Result<Vec<Vec<u8>>> {
        parse_pcap(&std::fs::read(self.file.path())?)
    }

    /// Waits until there are `n` frames, and yields all.
    ///
    /// # Errors
    /// There are fewer after `limit`.
    pub fn wait_for(&self, n: usize, limit: Duration) -> Result<Vec<Vec<u8>>> {
        let waited = until(limit, &format!("{n} frames"), || Ok(Some(self.frames()?).filter(|frames| frames.len() >= n)));
        waited.with_context(|| {
            format!("{}; {} frames came:\n{:02x?}", self.process.name(), self.frames().map_or(0, |f| f.len()), self.frames())
        })
    }
}

/// The packets of a classic pcap file in this machine's byte order; a last packet that is still being written is left out.
fn parse_pcap(file: &[u8]) -> Result<Vec<Vec<u8>>> {
    const HEADER_LEN: usize = 24;
    const RECORD_LEN: usize = 16;
    let Some(magic) = file.first_chunk() else { return Ok(Vec::new()) };
    if ![0xa1b2_c3d4, 0xa1b2_3c4d].contains(&u32::from_ne_bytes(*magic)) {
        bail!("not a pcap file of this byte order: {magic:02x?}");
    }
    let mut packets = Vec::new();
    let mut rest = file.get(HEADER_LEN..).unwrap_or_default();
    while let Some(len) = rest.get(8..12).and_then(|bytes| bytes.first_chunk()) {
        let len = u32::from_ne_bytes(*len) as usize;
        let Some(packet) = rest.get(RECORD_LEN..RECORD_LEN + len) else { break };
        packets.push(packet.to_vec());
        rest = &rest[RECORD_LEN + len..];
    }
    Ok(packets)
}

/// A UDP/IPv4 frame without UDP checksum, for tests about what is below UDP.
pub fn udp_v4(macs: ([u8; 6], [u8; 6]), from: (Ipv4Addr, u16), to: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let udp_len = (8 + payload.len()) as u16;
    let mut ip = vec![0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0];
    ip[2..4].copy_from_slice(&(20 + udp_len).to_be_bytes());
    ip.extend(from.0.octets());
    ip.extend(to.0.octets());
    let sum: u32 = ip.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let ports = [from.1.to_be_bytes(), to.1.to_be_bytes(), udp_len.to_be_bytes(), [0, 0]].concat();
    [&macs.1[..], &macs.0, &[8, 0], &ip, &ports, payload].concat()
}

/// The frame with an 802.1Q tag put in.
pub fn with_vlan(frame: &[u8], vlan: u16) -> Vec<u8> {
    let (addresses, rest) = frame.split_at(12);
    [addresses, &[0x81, 0x00], &vlan.to_be_bytes(), rest].concat()
}
