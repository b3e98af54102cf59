//! The control loop's part in explaining a packet: the maps are its, and so is what their numbers are called.

use std::net::{IpAddr, SocketAddr};

use lb_common::BackendId;
use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
use tracing::debug;

use super::Control;
use crate::desired::ServiceName;
use crate::explain::{self, BackendFound, Explanation, Names, Question, Records, Senseless, ServiceAt};
use crate::status::{BackendView, Interface};

impl Control {
    /// What the packet path would do with a packet now. It reads the maps and writes nothing.
    ///
    /// # Errors
    /// There is no such packet.
    pub fn explain(&self, question: &Question) -> Result<Explanation, Senseless> {
        let interface = self.arrives_on(question.interface.as_deref())?;
        let trail = explain::follow(question.frame(interface.ifindex)?, &self.maps);
        Explanation::new(question, &interface.name, &trail, self)
    }

    /// The interface of that name, or the first that is configured.
    fn arrives_on(&self, wanted: Option<&str>) -> Result<&Interface, Senseless> {
        let first = || self.config.xdp.interfaces.first().map(String::as_str);
        let wanted = wanted.or_else(first).ok_or(Senseless::Nowhere)?;
        self.interfaces.iter().find(|interface| interface.name == wanted).ok_or_else(|| Senseless::Interface {
            interface: wanted.to_owned(),
            attached: self.interfaces.iter().map(|interface| &*interface.name).collect::<Vec<_>>().join(", "),
        })
    }

    /// One that the layout has no name for any more, by its record.
    fn unnamed(&self, id: BackendId) -> Option<BackendFound> {
        let record = Records::backend(&self.maps, id);
        let is_free = record.forward == lb_common::records::forward::FREE;
        let endpoint = SocketAddr::new(record.address.into(), record.port.get());
        (!is_free).then(|| left(id, endpoint, self.service(record.service)))
    }
}

impl Names for Control {
    fn service(&self, id: u16) -> Option<ServiceName> {
        self.desired.services.keys().find(|name| self.layout.find_service(name) == Some(id)).cloned()
    }

    fn backend(&self, id: BackendId) -> Option<BackendFound> {
        let Some((name, endpoint, _)) = self.layout.backends().find(|(.., assigned)| *assigned == id) else {
            return self.unnamed(id);
        };
        let service = self.desired.services.get(name);
        let Some((service, backend)) = service.and_then(|service| Some((service, service.backends.get(&endpoint)?))) else {
            return Some(left(id, endpoint, Some(name.clone())));
        };
        let view: BackendView = self.view_backend(name, service, endpoint, backend);
        Some(BackendFound {
            id: id.0,
            address: endpoint.ip(),
            port: endpoint.port(),
            service: Some(name.clone()),
            state: Some(view.check.state),
            admin: view.set.admin().map(|admin| admin.word()),
            weight: view.weight,
            serving: view.serves,
            check: view.check.last_result,
            unreachable: view.unreachable,
        })
    }

    fn interface(&self, ifindex: u32) -> Option<String> {
        let attached = self.interfaces.iter().find(|interface| interface.ifindex == ifindex);
        attached.map(|interface| interface.name.clone()).or_else(|| interface_name(ifindex))
    }

    fn services_at(&self, vip: IpAddr) -> Vec<ServiceAt> {
        let there = self.desired.services.iter().filter(|(_, service)| service.vip == vip);
        there.map(|(name, service)| ServiceAt { name: name.clone(), port: service.port, protocol: service.protocol }).collect()
    }
}

/// A backend that is no part of its service any more.
fn left(id: BackendId, endpoint: SocketAddr, service: Option<ServiceName>) -> BackendFound {
    BackendFound {
        id: id.0,
        address: endpoint.ip(),
        port: endpoint.port(),
        service,
        state: None,
        admin: None,
        weight: 0,
        serving: false,
        check: String::new(),
        unreachable: None,
    }
}

/// The name of an interface that the program need not run on.
pub(crate) fn interface_name(ifindex: u32) -> Option<String> {
    let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None);
    let name = socket.and_then(|socket| netdevice::index_to_name(socket, ifindex));
    name.inspect_err(|error| debug!(ifindex, %error, "an interface without a name")).ok()
}
