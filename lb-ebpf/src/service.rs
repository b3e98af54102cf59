//! Finds the service that a packet is addressed to.

use lb_common::directory::Bucket;
use lb_common::limits;
use lb_common::records::{Service, Settings, settings_flags};
use lb_common::{Addr, Be16};

use crate::env::Env;
use crate::family::Family;
use crate::ipv4::V4;
use crate::ipv6::V6;

/// Protocol and port of a VIP's own record.
const VIP_ITSELF: (Be16, u8) = (Be16::new(0), 0);

/// The service at an endpoint with its id, or the one that takes every port there.
#[inline(always)]
pub fn find<'e, F: Family>(
    env: &'e impl Env,
    settings: &Settings,
    vip: F::Address,
    port: Be16,
    protocol: u8,
) -> Option<(&'e Service, u16)> {
    let exact = find_exactly::<F>(env, settings, vip, port, protocol);
    if exact.is_some() || settings.flags & settings_flags::ANY_PORT == 0 {
        return exact;
    }
    find_exactly::<F>(env, settings, vip, Be16::new(0), protocol)
}

/// Whether an address is a VIP of some service.
#[inline(always)]
pub fn is_vip(env: &impl Env, settings: &Settings, address: Addr) -> bool {
    let (port, protocol) = VIP_ITSELF;
    if address.is_v4() {
        find_exactly::<V4>(env, settings, V4::from_addr(&address), port, protocol).is_some()
    } else {
        find_exactly::<V6>(env, settings, V6::from_addr(&address), port, protocol).is_some()
    }
}

#[inline(always)]
fn find_exactly<'e, F: Family>(
    env: &'e impl Env,
    settings: &Settings,
    vip: F::Address,
    port: Be16,
    protocol: u8,
) -> Option<(&'e Service, u16)> {
    let directory = settings.services;
    let hash = F::endpoint_hash(directory.multiplier(), vip, port, protocol);
    let bucket = env.service_bucket(directory.bucket(hash, limits::SERVICE_BUCKETS))?;
    let id = look_up(bucket, hash)?;
    let service = env.service(id)?;
    let is_it = service.port == port && service.protocol == protocol && F::is(&service.vip, vip);
    is_it.then_some((service, id))
}

/// The id of the one record that may be the endpoint's with this hash.
#[inline(always)]
pub fn look_up(bucket: &Bucket, hash: u64) -> Option<u16> {
    for entry in &bucket.entries {
        if entry.is_empty() {
            return None;
        }
        if entry.matches(hash) {
            return Some(entry.id());
        }
    }
    None
}
