//! What the tests here have in common.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use xlb_tests::Network;

pub const VIP: &str = "10.200.1.1";
/// For what must come about, on a machine with other things to do.
pub const LIMIT: Duration = Duration::from_secs(20);

pub fn vip() -> Result<IpAddr> {
    Ok(VIP.parse()?)
}

/// A file of the repository.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

pub fn read(name: &str) -> Result<String> {
    std::fs::read_to_string(path(name)).with_context(|| name.to_owned())
}

/// `web`, checked by HTTP, on all backends of a network for DSR.
pub fn web(network: &Network) -> String {
    let backends = network.backends.iter().map(|host| format!("[[service.backend]]\naddress = \"{}\"\n", host.v4));
    let head = format!("[[service]]\nname = \"web\"\nvip = \"{VIP}\"\nport = 80\n");
    let health = "[service.health]\ntype = \"http\"\ninterval = \"100ms\"\ntimeout = \"100ms\"\n";
    format!("{head}{health}{}", backends.collect::<String>())
}
