//! The addresses of an interface, as they are and as they change.

use std::collections::BTreeSet;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::NextHopError;
use super::socket::{Events, Requests};

/// `RTNLGRP_IPV4_IFADDR` and `RTNLGRP_IPV6_IFADDR`.
const GROUPS: [u32; 2] = [5, 9];

/// One interface's addresses.
pub struct Addresses {
    ifindex: u32,
    requests: Requests,
    events: Events,
}

impl Addresses {
    /// # Errors
    /// Netlink cannot be used.
    pub fn of(ifindex: u32) -> Result<Self, NextHopError> {
        let events = Events::open(NETLINK_ROUTE, &GROUPS)?;
        Ok(Self { ifindex, requests: Requests::open(NETLINK_ROUTE)?, events })
    }

    /// All of them now.
    ///
    /// # Errors
    /// The kernel refuses.
    pub async fn list(&mut self) -> Result<BTreeSet<IpAddr>, NextHopError> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        let answers = self.requests.dump("list its addresses", question).await?;
        let address = |message: &RouteNetlinkMessage| match message {
            RouteNetlinkMessage::NewAddress(message) if message.header.index == self.ifindex => own_address(message),
            _ => None,
        };
        Ok(answers.messages.iter().filter_map(address).collect())
    }

    /// Waits until some address of this host changes. Cancel-safe.
    ///
    /// # Errors
    /// The socket is unusable.
    pub async fn change(&mut self) -> Result<(), NextHopError> {
        self.events.receive::<RouteNetlinkMessage>().await.map(drop).map_err(NextHopError::Socket)
    }
}

/// On a link between two, `IFA_ADDRESS` is the other end's.
fn own_address(message: &AddressMessage) -> Option<IpAddr> {
    let local = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    };
    let any = |attribute: &AddressAttribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    };
    let attributes = || message.attributes.iter();
    attributes().find_map(local).or_else(|| attributes().find_map(any))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_loopback_interface_has_its_addresses() {
        let mut addresses = Addresses::of(1).unwrap();
        assert!(addresses.list().await.unwrap().contains(&IpAddr::from([127, 0, 0, 1])));
    }

    #[test]
    fn of_a_link_between_two_our_own_end_counts() {
        let (ours, theirs) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        let mut message = AddressMessage::default();
        message.attributes = vec![AddressAttribute::Address(theirs), AddressAttribute::Local(ours)];
        assert_eq!(own_address(&message), Some(ours));
        message.attributes.pop();
        assert_eq!(own_address(&message), Some(theirs));
    }
}
