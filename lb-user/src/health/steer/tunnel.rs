//! Probes for backends behind tunnels: a device that takes what the kernel makes of a probe, and a task that sends it on in the
//! tunnel's headers, as the packet path does with clients' packets.
//!
//! The kernel's own tunnels were not chosen: not every kernel has them, each kind takes a device for itself, and they answer to
//! whoever sends to them. The device is a TAP of this process's own: it goes with its descriptor, also after a `kill -9`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};

use rustix::net::netdevice::name_to_index;
use tokio::task::JoinHandle;
use tokio_tun::{Tun, TunBuilder};
use tracing::debug;

use super::frame::{self, FRAME_LEN_MAX};
use super::senders::{Outlet, Senders};
use super::{Goal, Trouble};

/// The kernel puts the first free number there: another xlb in this network namespace has another.
const NAME: &str = "xlb-path%d";
const TUN: &str = "/dev/net/tun";

/// By the seat's number, and whether the packet is IPv4.
type Outlets = Arc<RwLock<BTreeMap<(u16, bool), Outlet>>>;

/// The device, and the task that reads from it. Dropped, both go.
pub struct Tunnel {
    ifindex: u32,
    senders: Senders,
    outlets: Outlets,
    task: JoinHandle<()>,
}

impl Tunnel {
    /// Makes the device, which is down yet.
    ///
    /// # Errors
    /// The kernel has no TAP devices, or refuses one.
    pub fn open() -> Result<Self, Trouble> {
        // First by hand: what is likely to fail fails here, where it can be told apart.
        look_for_tun()?;
        let unmade = |error: tokio_tun::Error| Trouble::NoDevice { source: io::Error::other(error) };
        let device = TunBuilder::new().name(NAME).tap().build().map_err(unmade)?.pop();
        let device = device.ok_or_else(|| Trouble::NoDevice { source: io::ErrorKind::NotFound.into() })?;
        let ifindex = index_of(device.name()).map_err(|source| Trouble::NoDevice { source })?;
        debug!(device = device.name(), "steering: made a device for probes into tunnels");
        let outlets = Outlets::default();
        let task = tokio::spawn(relay(device, Arc::clone(&outlets)));
        Ok(Self { ifindex, senders: Senders::default(), outlets, task })
    }

    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Whether somebody reads from the device.
    pub fn is_open(&self) -> bool {
        !self.task.is_finished()
    }

    /// From now on, packets of this family for the seat go to `goal`.
    ///
    /// # Errors
    /// No socket to send them from.
    pub fn lead(&mut self, number: u16, is_v4: bool, goal: Goal) -> Result<(), Trouble> {
        let outlet = self.senders.outlet(goal, is_v4).map_err(|source| Trouble::NoSender { source })?;
        if let Some(outlet) = outlet {
            self.outlets.write().unwrap_or_else(PoisonError::into_inner).insert((number, is_v4), outlet);
        }
        Ok(())
    }

    /// Packets for the seat go nowhere.
    pub fn forget(&self, number: u16) {
        self.outlets.write().unwrap_or_else(PoisonError::into_inner).retain(|(other, _), _| *other != number);
    }

    /// Returns when the device is gone.
    pub async fn close(mut self) {
        self.task.abort();
        // It was aborted, which is what it says.
        let _ = (&mut self.task).await;
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// That devices of this kind can be asked for here. Makes none.
///
/// # Errors
/// The kernel has no such devices, or this process is not let at them.
pub fn look_for_tun() -> Result<(), Trouble> {
    File::options().read(true).write(true).open(TUN).map(drop).map_err(|source| Trouble::NoTun { source })
}

fn index_of(name: &str) -> io::Result<u32> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
    Ok(name_to_index(socket, name)?)
}

/// Until it cannot be read from.
async fn relay(device: Tun, outlets: Outlets) {
    let mut buffer = [0; FRAME_LEN_MAX];
    loop {
        let frame = match device.recv(&mut buffer).await {
            Ok(n_bytes) => buffer.get(..n_bytes).unwrap_or_default(),
            Err(error) => {
                debug!(%error, device = device.name(), "steering: the device for probes into tunnels cannot be read from");
                return;
            }
        };
        let Some(taken) = frame::take(frame) else { continue };
        let key = (taken.number, taken.is_v4);
        let outlet = outlets.read().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(Err(error)) = outlet.map(|outlet| outlet.send(taken.packet)) {
            debug!(%error, seat = taken.number, "steering: a probe's packet did not get into its tunnel");
        }
    }
}
