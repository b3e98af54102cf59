//! Netlink messages as bytes. What they say is read and written by the netlink-packet crates; this decides what becomes
//! of those that the crates cannot read.

use std::fmt::Debug;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NetlinkBuffer, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload,
    NetlinkSerializable, NlasIterator, Parseable, ParseableParametrized,
};
use netlink_packet_generic::constants::GENL_HDRLEN;
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::LinkHeader;
use tracing::debug;

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;

/// What can be asked, answered and announced.
pub trait Message: NetlinkSerializable + NetlinkDeserializable + Clone + Debug {
    /// For types of messages that still tell enough when an attribute is left out: how many bytes precede the attributes.
    fn attributes_at(kind: u16) -> Option<usize>;
}

impl Message for RouteNetlinkMessage {
    /// Only for links: they have dozens of attributes, to which newer kernels add, and an interface must not go missing
    /// for one of them. Of a route that lacks an attribute nobody can tell where it leads.
    fn attributes_at(kind: u16) -> Option<usize> {
        matches!(kind, RTM_NEWLINK | RTM_DELLINK).then(|| LinkHeader::default().buffer_len())
    }
}

impl<F> Message for GenlMessage<F>
where
    F: GenlFamily + Emitable + ParseableParametrized<[u8], GenlHeader> + Clone + Debug,
{
    fn attributes_at(_: u16) -> Option<usize> {
        Some(GENL_HDRLEN)
    }
}

/// The bytes of one message. The port stays 0, which the kernel fills in.
pub fn encode(message: impl Message, flags: u16, sequence: u32) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    header.sequence_number = sequence;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// The messages of one datagram, up to the first whose length makes no sense.
pub fn decode<M: Message>(mut datagram: &[u8]) -> impl Iterator<Item = (NetlinkHeader, Result<NetlinkPayload<M>, DecodeError>)> {
    std::iter::from_fn(move || {
        let buffer = NetlinkBuffer::new_checked(datagram).ok()?;
        let header = NetlinkHeader::parse(&buffer).ok()?;
        let message = NetlinkMessage::deserialize(datagram).map(|message| message.payload).or_else(|error| {
            let salvaged = salvage(&header, buffer.payload());
            salvaged.map(NetlinkPayload::InnerMessage).ok_or(error)
        });
        datagram = datagram.get((header.length as usize).next_multiple_of(4)..).unwrap_or_default();
        Some((header, message))
    })
}

/// Reads a message without those of its attributes that cannot be read.
fn salvage<M: Message>(header: &NetlinkHeader, body: &[u8]) -> Option<M> {
    let (start, attributes) = body.split_at_checked(M::attributes_at(header.message_type)?)?;
    let mut readable = start.to_vec();
    for attribute in NlasIterator::new(attributes).map_while(Result::ok) {
        let copy = DefaultNla::parse(&attribute).ok()?;
        let mut bytes = vec![0; copy.buffer_len()];
        copy.emit(&mut bytes);
        match M::deserialize(header, &[start, &bytes].concat()) {
            Ok(_) => readable.extend(bytes),
            Err(error) => {
                debug!(message = header.message_type, attribute = attribute.kind(), %error, "netlink: left out an attribute");
            }
        }
    }
    M::deserialize(header, &readable).ok()
}

/// The message as it is when it was sent and received.
#[cfg(test)]
#[track_caller]
pub fn received<M: Message>(message: M) -> M {
    match decode(&encode(message, 0, 0)).next() {
        Some((_, Ok(NetlinkPayload::InnerMessage(message)))) => message,
        other => panic!("{other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::NLM_F_REQUEST;
    use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
    use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
    use netlink_packet_route::link::{LinkAttribute, LinkMessage};
    use netlink_packet_route::neighbour::NeighbourMessage;
    use netlink_packet_route::route::{RouteAttribute, RouteMessage};
    use proptest::prelude::*;

    use super::*;

    fn link(attributes: Vec<LinkAttribute>) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 3;
        message.attributes = attributes;
        RouteNetlinkMessage::NewLink(message)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let sent = [link(vec![LinkAttribute::IfName("abc".to_owned())]), link(vec![LinkAttribute::Mtu(9)])];
        let bytes: Vec<u8> = sent.iter().flat_map(|message| encode(message.clone(), NLM_F_REQUEST, 5)).collect();
        let read: Vec<_> = decode::<RouteNetlinkMessage>(&bytes).collect();
        assert_eq!(read.len(), 2);
        for ((header, payload), sent) in read.into_iter().zip(sent) {
            assert_eq!((header.message_type, header.flags, header.sequence_number), (RTM_NEWLINK, NLM_F_REQUEST, 5));
            assert_eq!(payload.unwrap(), NetlinkPayload::InnerMessage(sent));
        }
    }

    #[test]
    fn an_attribute_that_cannot_be_read_costs_a_link_no_more_than_itself() {
        const IFLA_OPERSTATE: u16 = 16;
        let name = LinkAttribute::IfName("eth0".to_owned());
        let odd = LinkAttribute::Other(DefaultNla::new(IFLA_OPERSTATE, vec![1; 7]));
        let mtu = LinkAttribute::Mtu(1500);
        let message = received(link(vec![name.clone(), odd, mtu.clone()]));
        assert_eq!(message, link(vec![name, mtu]));
    }

    #[test]
    fn an_attribute_to_come_costs_a_family_no_more_than_itself() {
        let family = GenlCtrl { cmd: GenlCtrlCmd::NewFamily, nlas: vec![GenlCtrlAttrs::FamilyId(30)] };
        let mut bytes = encode(GenlMessage::from_payload(family.clone()), 0, 0);
        let to_come = DefaultNla::new(99, vec![1; 4]);
        let len = bytes.len();
        bytes.resize(len + to_come.buffer_len(), 0);
        to_come.emit(&mut bytes[len..]);
        bytes[0] = u8::try_from(bytes.len()).unwrap();
        let (_, payload) = decode(&bytes).next().unwrap();
        let NetlinkPayload::InnerMessage(message) = payload.unwrap() else { panic!("no message") };
        assert_eq!(GenlMessage::<GenlCtrl>::into_parts(message).1, family);
    }

    #[test]
    fn a_route_without_one_of_its_attributes_is_not_read() {
        const RTA_GATEWAY: u16 = 5;
        let mut route = RouteMessage::default();
        route.attributes = vec![RouteAttribute::Oif(1), RouteAttribute::Other(DefaultNla::new(RTA_GATEWAY, vec![1; 7]))];
        route.header.address_family = netlink_packet_route::AddressFamily::Inet;
        let bytes = encode(RouteNetlinkMessage::NewRoute(route), 0, 0);
        let read: Vec<_> = decode::<RouteNetlinkMessage>(&bytes).collect();
        assert!(matches!(read.as_slice(), [(_, Err(_))]), "{read:?}");
    }

    fn cut<M: Message>(whole: &M, body_len: usize) {
        let mut bytes = encode(whole.clone(), 0, 0);
        bytes.truncate(16 + body_len);
        bytes[0] = u8::try_from(bytes.len()).unwrap();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend(encode(whole.clone(), 0, 0));
        let read: Vec<_> = decode::<M>(&bytes).collect();
        assert!(matches!(read.as_slice(), [(_, Err(_)), (_, Ok(_))]), "{read:?}");
    }

    #[test]
    fn a_message_that_is_cut_is_passed_over_and_the_next_is_read() {
        for whole in [
            link(Vec::new()),
            RouteNetlinkMessage::NewNeighbour(NeighbourMessage::default()),
            RouteNetlinkMessage::NewRoute(RouteMessage::default()),
        ] {
            for body_len in [0, 2, 5, 7] {
                cut(&whole, body_len);
            }
        }
        let family = GenlCtrl { cmd: GenlCtrlCmd::NewFamily, nlas: Vec::new() };
        for body_len in [0, 1] {
            cut(&GenlMessage::from_payload(family.clone()), body_len);
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_reading_panic_or_go_on_for_ever(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(decode::<RouteNetlinkMessage>(&bytes).count() <= bytes.len());
            prop_assert!(decode::<GenlMessage<GenlCtrl>>(&bytes).count() <= bytes.len());
        }

        #[test]
        fn no_attributes_make_reading_panic(kind in 16u16..110, family in 0u8..12, attributes in proptest::collection::vec(
            (0u16..70, proptest::collection::vec(any::<u8>(), 0..40)), 0..6,
        )) {
            let mut body = vec![family];
            body.resize(LinkHeader::default().buffer_len(), 0);
            for (kind, value) in attributes {
                let attribute = DefaultNla::new(kind, value);
                let len = body.len();
                body.resize(len + attribute.buffer_len(), 0);
                attribute.emit(&mut body[len..]);
            }
            let mut header = NetlinkHeader::default();
            header.message_type = kind;
            header.length = u32::try_from(16 + body.len()).unwrap();
            let mut bytes = vec![0; 16];
            header.emit(&mut bytes);
            bytes.extend(body);
            prop_assert_eq!(decode::<RouteNetlinkMessage>(&bytes).count(), 1);
        }
    }
}
