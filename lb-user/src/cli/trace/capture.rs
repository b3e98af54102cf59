//! A file of packets in pcapng (draft-ietf-opsawg-pcapng), with what became of each as its comment.
//!
//! A packet that leaves is there twice, as it came and as it leaves, each on its interface.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::io::Write;
use std::time::{Duration, UNIX_EPOCH};

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, Endianness};
use serde_json::Value;

use crate::cli::status::text;

/// Of all interfaces the same: libpcap reads no file where they differ.
const SNAP_LEN: u32 = 256;
/// Times are in units of 10^-9 s.
const TIME_UNIT: u8 = 9;
/// Directions, in a packet's flags.
const INBOUND: u32 = 1;
const OUTBOUND: u32 = 2;

pub struct Capture<W: Write> {
    writer: PcapNgWriter<W>,
    /// By name, their numbers in the file.
    interfaces: BTreeMap<String, u32>,
}

impl<W: Write> Capture<W> {
    /// # Errors
    /// The file cannot be written; so it is for all that follow.
    pub fn new(file: W) -> Result<Self> {
        let writer = PcapNgWriter::with_endianness(file, Endianness::native()).context("the file cannot be begun")?;
        Ok(Self { writer, interfaces: BTreeMap::new() })
    }

    /// Adds a packet that was told.
    pub fn add(&mut self, packet: &Value, comment: &str) -> Result<()> {
        let at = humantime::parse_rfc3339(text(&packet["at"])).context("a packet without a time")?;
        let at = at.duration_since(UNIX_EPOCH)?;
        let came = packet["interface"].as_str().unwrap_or("?");
        self.add_frame(at, came, packet, INBOUND, comment)?;
        let left = &packet["left"];
        if left.is_null() {
            return Ok(());
        }
        let way = left["interface"].as_str().unwrap_or("routed by the host");
        self.add_frame(at, way, left, OUTBOUND, &format!("as it leaves: {comment}"))
    }

    fn add_frame(&mut self, at: Duration, interface: &str, frame: &Value, direction: u32, comment: &str) -> Result<()> {
        let data = STANDARD.decode(text(&frame["bytes"])).context("a packet without its bytes")?;
        let original_len = frame["length"].as_u64().unwrap_or_default() as u32;
        let interface_id = self.interface(interface)?;
        let comment = EnhancedPacketOption::Comment(Cow::Borrowed(comment));
        self.writer.write_pcapng_block(EnhancedPacketBlock {
            interface_id,
            timestamp: at,
            original_len,
            data: data.into(),
            options: vec![EnhancedPacketOption::Flags(direction), comment],
        })?;
        Ok(())
    }

    /// Its number, by which it is described before its first packet.
    fn interface(&mut self, name: &str) -> Result<u32> {
        if let Some(&id) = self.interfaces.get(name) {
            return Ok(id);
        }
        let id = self.interfaces.len() as u32;
        self.writer.write_pcapng_block(InterfaceDescriptionBlock {
            linktype: DataLink::ETHERNET,
            snaplen: SNAP_LEN,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Borrowed(name)),
                InterfaceDescriptionOption::IfTsResol(TIME_UNIT),
            ],
        })?;
        self.interfaces.insert(name.to_owned(), id);
        Ok(id)
    }

    pub fn flush(&mut self) -> Result<()> {
        Ok(self.writer.get_mut().flush()?)
    }
}
