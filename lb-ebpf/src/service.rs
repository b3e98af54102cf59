//! Finds the service that a packet is addressed to.

use lb_common::directory::Bucket;
use lb_common::limits;
use lb_common::records::{Service, Settings, settings_flags};
use lb_common::{Be16, PortProtocol};

use crate::env::Env;
use crate::family::Family;

/// What a VIP's own record listens on.
const VIP_ITSELF: PortProtocol = PortProtocol::new(Be16::new(0), 0);

/// The service at an endpoint with its id, or the one that takes every port there.
#[inline(always)]
pub fn find<'e, F: Family>(
    env: &'e impl Env,
    settings: &Settings,
    vip: F::Address,
    listener: PortProtocol,
) -> Option<(&'e Service, u16)> {
    let exact = find_exactly::<F>(env, settings, vip, listener);
    if exact.is_some() || settings.flags & settings_flags::ANY_PORT == 0 {
        return exact;
    }
    find_exactly::<F>(env, settings, vip, PortProtocol::new(Be16::new(0), listener.protocol))
}

/// Whether an address is a VIP of some service.
#[inline(always)]
pub fn is_vip<F: Family>(env: &impl Env, address: F::Address) -> bool {
    vip::<F>(env, address).is_some()
}

/// A VIP's own record.
#[inline(always)]
pub fn vip<F: Family>(env: &impl Env, address: F::Address) -> Option<&Service> {
    find_exactly::<F>(env, env.settings(), address, VIP_ITSELF).map(|(vip, _)| vip)
}

#[inline(always)]
fn find_exactly<'e, F: Family>(
    env: &'e impl Env,
    settings: &Settings,
    vip: F::Address,
    listener: PortProtocol,
) -> Option<(&'e Service, u16)> {
    let directory = settings.services;
    let hash = F::endpoint_hash(directory.multiplier(), vip, listener);
    let bucket = env.service_bucket(directory.bucket(hash, limits::SERVICE_BUCKETS));
    let id = look_up(bucket, hash)?;
    let service = env.service(id);
    let is_it = service.listens.word() == listener.word() && F::is(&service.vip, vip);
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
