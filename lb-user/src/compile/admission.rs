//! Rules of admission: their trees, the records that lead there, and the flags of those who have any. A watchdog is a rule for all.

use lb_common::admission::{Rules as Record, rules_flags};
use lb_common::limits::LINES_PER_16_PREFIXES;
use lb_common::meter::{Limit, METERS, Meter};
use lb_common::records::{service_flags, settings_flags};

use super::{CompileError, Layout};
use crate::admission::{Image, Limits, Rules};
use crate::desired::Desired;
use crate::tables::Tables;

/// The scope of all VIPs.
const ALL_VIPS: u16 = 0;

/// Adds the rules to tables that have their services.
///
/// # Errors
/// [`CompileError::TooManyPrefixes`].
pub fn add(tables: &mut Tables, layout: &Layout, desired: &Desired, previous: &Tables) -> Result<(), CompileError> {
    let admission = &desired.admission;
    let is_for_all = !admission.all_vips.is_empty();
    let own = desired.services.keys().filter_map(|name| Some((layout.find_service(name)?, admission.of(name)?)));
    let own: Vec<(u16, &Rules)> = own.collect();
    let for_all = is_for_all.then_some((ALL_VIPS, &admission.all_vips));
    let lists = for_all.into_iter().chain(own.iter().copied()).map(|(scope, rules)| (scope, rules.lists.clone())).collect();
    tables.prefixes = Image::new(lists, &previous.prefixes, layout.n_prefix_lines()).map_err(|no_room| {
        let in_prefixes = |n_lines: usize| n_lines.div_ceil(LINES_PER_16_PREFIXES as usize) * 16;
        CompileError::TooManyPrefixes { wanted: in_prefixes(no_room.n_lines), limit: in_prefixes(no_room.limit as usize) as u32 }
    })?;
    let roots = |scope: u16| tables.prefixes.roots(scope);
    let none = Rules::default();
    let record = |scope: u16| {
        let [v4, v6] = roots(scope);
        let rules = if scope == ALL_VIPS {
            &admission.all_vips
        } else {
            own.iter().find(|(id, _)| *id == scope).map_or(&none, |own| own.1)
        };
        let Limits { limits, source_bits_v4, source_bits_v6 } = rules.limits;
        Record {
            v4,
            v6,
            limits,
            source_bits_v4: source_bits_v4.into(),
            source_bits_v6: source_bits_v6.into(),
            flags: flags(&limits),
        }
    };
    if is_for_all {
        tables.admission.insert(ALL_VIPS, record(ALL_VIPS));
    }
    for (&id, service) in &mut tables.services {
        let is_vip = service.listens.protocol == 0;
        let has_own = own.iter().any(|&(scope, _)| scope == id);
        if is_for_all || has_own || desired.watchdog.is_some() {
            service.flags |= service_flags::ADMISSION;
            tables.flags |= settings_flags::ADMISSION;
        }
        if has_own || (is_for_all && !is_vip) {
            tables.admission.insert(id, record(id));
        }
    }
    Ok(())
}

fn flags(limits: &[Limit; METERS]) -> u64 {
    let is_any = |meters: &[Meter]| meters.iter().any(|&meter| !limits[meter as usize].is_none());
    let of_connections = is_any(&[Meter::SourceConnections, Meter::Connections]);
    let of_packets = is_any(&[Meter::SourcePackets, Meter::Packets]);
    (u64::from(of_connections || of_packets) * rules_flags::LIMITS) | (u64::from(of_connections) * rules_flags::CONNECTIONS)
}
