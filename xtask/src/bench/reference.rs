//! Loading and filling the reference program, `lb-ebpf/src/bin/bench-reference`.

use std::path::Path;

use anyhow::Result;
use aya::Pod;
use aya::maps::{Array, HashMap};

use super::measure::Loaded;
use super::packets::{PORT, VIP_V4, VIP_V6};
use records::{Backend, RING_LEN, Service, ServiceKey};

#[expect(dead_code, reason = "the program uses more of it")]
#[path = "../../../lb-ebpf/src/bin/bench-reference/records.rs"]
mod records;

const N_BACKENDS: u32 = 100;
const TCP: u16 = 6;
const UDP: u16 = 17;

// SAFETY: integers and arrays of them in C's order; the records' sizes show that there is no padding between them.
unsafe impl Pod for ServiceKey {}
// SAFETY: as above.
unsafe impl Pod for Service {}
// SAFETY: as above.
unsafe impl Pod for Backend {}

/// The program, with one service for each kind of packet and a hundred backends.
///
/// # Errors
/// The kernel refuses the program.
pub fn load(object: &Path) -> Result<Loaded> {
    let mut loaded = Loaded::load(object, "reference")?;
    let mut services: HashMap<_, ServiceKey, Service> = HashMap::try_from(loaded.map("SERVICES")?)?;
    let keys = [(as_words(&VIP_V4), TCP), (as_words(&VIP_V4), UDP), (as_words(&VIP_V6), TCP)];
    for (id, (vip, protocol)) in (0..).zip(keys) {
        services.insert(ServiceKey { vip, port: PORT.to_be(), protocol }, Service { id, flags: 0 }, 0)?;
    }
    let mut rings: Array<_, u32> = Array::try_from(loaded.map("RINGS")?)?;
    for slot in 0..keys.len() as u32 * RING_LEN {
        // Neighbouring slots belong to different backends, as in a Maglev table.
        rings.set(slot, slot.wrapping_mul(0x9E37_79B1) % N_BACKENDS, 0)?;
    }
    let mut backends: Array<_, Backend> = Array::try_from(loaded.map("BACKENDS")?)?;
    for index in 0..N_BACKENDS {
        backends.set(index, Backend { mac: [2, 1, index as u16], pad: 0 }, 0)?;
    }
    Ok(loaded)
}

fn as_words(address: &[u8]) -> [u32; 4] {
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(address.chunks_exact(4)) {
        *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    }
    words
}
