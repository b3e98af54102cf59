use serde_json::json;

use super::*;

fn packet(change: impl FnOnce(&mut Value)) -> Value {
    let syn = json!({ "protocol": "tcp", "source": "10.0.0.2:41000", "destination": "192.0.2.1:80", "flags": "SYN" });
    let mut packet = json!({
        "at": "2026-11-22T12:03:01.123456789Z", "interface": "eth0", "ifindex": 2, "packet": syn, "length": 60,
        "service": "web", "backend": "10.0.1.1:80", "how": "new_connection", "slot": 123, "refused": null,
        "verdict": "tx", "class": "forwarded", "meaning": "", "bytes": "AAECAwQFBgcICQoLCAA=",
        "left": { "interface": "eth0", "packet": syn, "length": 60, "bytes": "AAECAwQFBgcICQoLCAA=" },
    });
    change(&mut packet);
    packet
}

#[test]
fn a_packet_is_a_line() {
    assert_eq!(time(&packet(|_| {})), "12:03:01.123456");
    let line = |change: fn(&mut Value)| in_words(&packet(change));
    for (told, expected) in [
        (line(|_| {}), "eth0  tcp 10.0.0.2:41000 > 192.0.2.1:80 SYN  web -> 10.0.1.1:80 (new flow, slot 123)  forwarded (tx)"),
        (
            line(|packet| {
                packet["left"]["packet"]["destination"] = "10.0.1.1:8080".into();
                (packet["left"]["interface"], packet["verdict"]) = ("eth1".into(), "redirect".into());
            }),
            "eth0  tcp 10.0.0.2:41000 > 192.0.2.1:80 SYN  web -> 10.0.1.1:80 (new flow, slot 123)  \
             forwarded (redirect) as tcp 10.0.0.2:41000 > 10.0.1.1:8080 SYN by eth1",
        ),
        (
            line(|packet| {
                for key in ["backend", "how", "slot", "left"] {
                    packet[key] = Value::Null;
                }
                (packet["verdict"], packet["class"]) = ("denied".into(), "dropped".into());
                packet["refused"] = json!({ "service": null, "rule": "deny" });
            }),
            "eth0  tcp 10.0.0.2:41000 > 192.0.2.1:80 SYN  web  dropped (denied), rule deny of [admission]",
        ),
        (
            line(|packet| {
                for key in ["service", "backend", "how", "slot", "left", "interface"] {
                    packet[key] = Value::Null;
                }
                (packet["verdict"], packet["class"]) = ("not_service".into(), "passed".into());
                packet["packet"] = json!({ "vlans": [7], "protocol": "udp", "source": "10.0.0.2", "destination": "10.0.0.3", "fragment": "later" });
            }),
            "interface 2  vlan 7 udp 10.0.0.2 > 10.0.0.3 (later fragment)  passed to the host (not_service)",
        ),
        (
            line(|packet| {
                packet["packet"] = json!({
                    "protocol": "icmp", "source": "10.9.9.9", "destination": "192.0.2.1", "flags": "unreachable",
                    "about": { "protocol": "tcp", "source": "192.0.2.1:80", "destination": "10.0.0.2:5" },
                });
                packet["left"]["packet"] = packet["packet"].clone();
            }),
            "eth0  icmp 10.9.9.9 > 192.0.2.1 unreachable about tcp 192.0.2.1:80 > 10.0.0.2:5  \
             web -> 10.0.1.1:80 (new flow, slot 123)  forwarded (tx)",
        ),
    ] {
        assert_eq!(told, expected);
    }
}

#[test]
fn a_capture_has_each_packet_as_it_came_and_as_it_leaves() {
    use pcap_file::pcapng::{Block, PcapNgReader};

    let mut file = Vec::new();
    let mut capture = Capture::new(&mut file).unwrap();
    let told = packet(|packet| packet["left"]["interface"] = "eth1".into());
    capture.add(&told, &in_words(&told)).unwrap();
    capture.add(&packet(|packet| packet["left"] = Value::Null), "dropped").unwrap();
    capture.flush().unwrap();
    drop(capture);
    let mut reader = PcapNgReader::new(&file[..]).unwrap();
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    while let Some(block) = reader.next_block() {
        match block.unwrap() {
            Block::InterfaceDescription(interface) => interfaces.push(format!("{:?}", interface.options[0])),
            Block::EnhancedPacket(packet) => {
                assert_eq!((packet.timestamp.as_nanos(), packet.original_len), (1_795_348_981_123_456_789, 60));
                assert_eq!(packet.data.len(), 14);
                packets.push((packet.interface_id, format!("{:?}", packet.options[1])));
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(interfaces, ["IfName(\"eth0\")", "IfName(\"eth1\")"]);
    assert_eq!(packets.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [0, 1, 0]);
    assert!(packets[0].1.contains("web -> 10.0.1.1:80 (new flow, slot 123)") && packets[1].1.contains("as it leaves"));
}
