//! `[service.quic]`, and the server ID of a backend.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;

use lb_common::quic::{CONFIGS, SERVER_ID_LEN_MAX};
use toml::de::DeValue;

use super::report::{Problem, Problems};
use super::section::{At, Fault, Section};
use super::{Backend, values};
use crate::desired::Protocol;
use crate::server_ids::{ServerId, ServerIds};

/// Where the IDs come from of those who have none written down.
const SOURCES: [(&str, bool); 2] = [("listed", false), ("address", true)];
const ALL_CONFIGS: u8 = (1 << CONFIGS) - 1;
/// Of an address, if nobody has an ID written down: all of IPv4's.
const LEN_OF_ADDRESSES: u8 = 4;

/// A backend's own, if it has one; `None` if that was refused.
pub(super) fn server_id(section: &mut Section<'_>, problems: &mut Problems) -> Option<Option<At<ServerId>>> {
    let id = section.or("server_id", None, problems, |value| read_id(value).map(Some))?;
    Some(id.value.map(|value| At { value, span: id.span }))
}

fn read_id(value: &DeValue<'_>) -> Result<ServerId, Fault> {
    let digits = values::string(value, "a server ID")?;
    digits.parse().map_err(|error| Fault::new("no server ID", format!("{error}")))
}

/// What else of the service has to do with it. What is `None` was refused.
pub(super) struct Of<'a> {
    pub(super) protocol: Option<Protocol>,
    pub(super) backends: &'a [Option<At<Backend>>],
    /// Of each of the backends, in their order.
    pub(super) ids: &'a [Option<Option<At<ServerId>>>],
    /// Other backends may come.
    pub(super) has_source: bool,
}

/// `Some(None)` without such a section, `None` if it was refused.
pub(super) fn read(parent: &mut Section<'_>, of: &Of<'_>, problems: &mut Problems) -> Option<Option<Arc<ServerIds>>> {
    let own_ids = || of.ids.iter().flatten().flatten();
    let is_given = parent.has("quic");
    let Some(mut section) = parent.table("quic", "[service.quic]", problems) else {
        if !is_given && let Some(id) = own_ids().next() {
            let problem =
                Problem::new("a server ID that nothing reads", id.span.clone(), "this service goes by addresses and ports");
            problems.push(problem.help("add `[service.quic]` to read it in QUIC connection IDs, or remove `server_id`"));
        }
        return (!is_given).then_some(None);
    };
    let span = section.span.clone();
    let are_addresses = section.or("server_ids", false, problems, |value| values::one_of(value, &SOURCES));
    let len = section.or("server_id_length", None, problems, |value| {
        values::integer(value, 1, SERVER_ID_LEN_MAX.into()).map(|len| Some(len as u8))
    });
    let configs = section.or("config_ids", ALL_CONFIGS, problems, configs);
    section.finish(problems);
    if of.protocol == Some(Protocol::Tcp) {
        let problem = Problem::new("QUIC by TCP", span.clone(), "QUIC is UDP");
        problems.push(problem.help("write `protocol = \"udp\"`, or remove `[service.quic]`"));
    }
    let (are_addresses, configs, len) = (are_addresses?.value, configs?.value, len?);
    if own_ids().next().is_none() && !are_addresses {
        let (title, help) = if of.has_source {
            ("nobody has a server ID", "what is discovered has none of its own: write `server_ids = \"address\"`")
        } else {
            ("nobody has a server ID", "give each backend one, `server_id = \"0a01\"`, or write `server_ids = \"address\"`")
        };
        problems.push(Problem::new(title, span, "no connection ID can name a backend").help(help));
        return None;
    }
    // Where none is given, that of the first who has one.
    let first = own_ids().next().map(|id| At { value: id.value.n_bytes(), span: id.span.clone() });
    let given = len.value.map(|value| At { value, span: len.span });
    let len = given.or(first).unwrap_or(At { value: LEN_OF_ADDRESSES, span });
    let mut faults = Vec::new();
    let listed = listed(of, &len, are_addresses, &mut faults);
    let is_faulty = !faults.is_empty();
    faults.into_iter().for_each(|problem| problems.push(problem));
    (!is_faulty).then(|| Some(Arc::new(ServerIds { len: len.value, configs, are_addresses, listed })))
}

/// Configurations by their bits.
fn configs(value: &DeValue<'_>) -> Result<u8, Fault> {
    let help = "name the configurations of servers, from 0 to 6: `config_ids = [0]`";
    let DeValue::Array(array) = value else { return Err(Fault::new(values::found(value), help)) };
    let mut configs = 0;
    for config in array.iter() {
        configs |= 1 << values::integer(config.get_ref(), 0, u32::from(CONFIGS) - 1)?;
    }
    if configs == 0 { Err(Fault::new("no configuration", help)) } else { Ok(configs) }
}

/// The IDs that are written down: of one length, and nobody's twice.
fn listed(of: &Of<'_>, len: &At<u8>, are_addresses: bool, faults: &mut Vec<Problem>) -> BTreeMap<SocketAddr, ServerId> {
    let mut listed = BTreeMap::new();
    let mut owners: BTreeMap<ServerId, Range<usize>> = BTreeMap::new();
    let backends = of.backends.iter().zip(of.ids).filter_map(|(backend, id)| Some((backend.as_ref()?, id.as_ref()?)));
    for (At { value: Backend { endpoint, .. }, span }, id) in backends {
        let (id, span) = match id {
            Some(id) => (id.value, &id.span),
            None if are_addresses => (ServerId::of_address(endpoint.ip(), len.value), span),
            None => continue,
        };
        if id.n_bytes() != len.value {
            let problem = Problem::new("server IDs of different lengths", span.clone(), format!("{} bytes", id.n_bytes()));
            let help = format!("a connection ID does not say how long the server's ID in it is: write {} bytes", len.value);
            faults.push(problem.and(len.span.clone(), "as long as this says").help(help));
        } else if let Some(owner) = owners.insert(id, span.clone()) {
            let problem = Problem::new("two backends have the same server ID", span.clone(), format!("{id} again here"));
            faults.push(problem.and(owner, "first here").help("give each an ID of its own: `server_id = \"...\"`"));
        }
        listed.insert(*endpoint, id);
    }
    listed
}
