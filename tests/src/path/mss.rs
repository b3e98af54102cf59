//! SYNs and SYN-ACKs of services that clamp segment sizes.

use lb_common::Verdict;

use super::cases::{Case, case, reply, to_vip, tunnelled};
use super::fixture::{FAR, GATEWAY, OURS, OURS_INSIDE};
use super::packets::{Flags, Frame, tcp};

/// The largest that they leave.
pub const MSS: u16 = 1360;

/// The option, of this size.
const fn mss(size: u16) -> [u8; 4] {
    let [high, low] = size.to_be_bytes();
    [2, 4, high, low]
}

/// As Linux sends them: maximum segment size, selective acknowledgements, timestamps, no operation, window scale.
pub fn linux(size: u16) -> Vec<u8> {
    [&mss(size)[..], &[4, 2, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0, 1, 3, 3, 7]].concat()
}

pub fn all() -> Vec<Case> {
    [options(), ways(), replies()].into_iter().flatten().collect()
}

/// Whatever stands before and after the one.
fn options() -> Vec<Case> {
    let (small, large) = (mss(MSS), mss(1460));
    let with = |before: &[u8], option: [u8; 4], after: &[u8]| [before, &option, after].concat();
    // At an odd place: half of the size is in one word of the checksum, half in the next.
    let odd = |option| with(&[1], option, &[1, 1, 0]);
    let after = |before: &[u8]| (with(before, large, &[]), with(before, small, &[]));
    [
        ("mss: as Linux sends it", (linux(1460), linux(MSS))),
        ("mss: alone", (large.to_vec(), small.to_vec())),
        ("mss: the largest there is", (mss(u16::MAX).to_vec(), small.to_vec())),
        ("mss: as large as may be", (small.to_vec(), small.to_vec())),
        ("mss: smaller than that", (mss(536).to_vec(), mss(536).to_vec())),
        ("mss: at an odd place", (odd(large), odd(small))),
        ("mss: after other options", after(&[3, 3, 7, 4, 2, 1, 1, 1])),
        (
            "mss: at the end of the longest header",
            after(&[
                1, 1, 1, 1, 30, 20, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8, 1, 1,
            ]),
        ),
        ("mss: none", (vec![4, 2, 1, 1], vec![4, 2, 1, 1])),
        ("mss: no option at all", (vec![], vec![])),
        ("mss: after the end of options", (with(&[0, 0, 0, 0], large, &[]), with(&[0, 0, 0, 0], large, &[]))),
        ("mss: an option without a length", (with(&[9, 0, 0, 0], large, &[]), with(&[9, 0, 0, 0], large, &[]))),
        ("mss: of another length", (vec![2, 3, 5, 180, 2, 1, 1, 1], vec![2, 3, 5, 180, 2, 1, 1, 1])),
        ("mss: an option beyond the header", (vec![8, 200, 1, 1], vec![8, 200, 1, 1])),
    ]
    .into_iter()
    .map(|(name, (came, left))| {
        let syn = to_vip("10.200.6.1:80", tcp(Flags::Syn));
        let sent = syn.clone().macs(OURS_INSIDE, FAR).tcp_options(&left);
        case(name, syn.tcp_options(&came).bytes(), Verdict::Redirect, sent.bytes())
    })
    .collect()
}

/// By each way to a backend.
fn ways() -> Vec<Case> {
    let syn = |vip: &str| to_vip(vip, tcp(Flags::Syn));
    let direct = |frame: Frame| frame.macs(OURS_INSIDE, FAR);
    let nat = |frame: Frame, backend: &str| frame.macs(OURS_INSIDE, FAR).to(backend).ttl(63);
    let redirect = |name, came: Frame, sent: Vec<u8>| case(name, came.tcp_options(&linux(1460)).bytes(), Verdict::Redirect, sent);
    let clamped = |frame: Frame| frame.tcp_options(&linux(MSS));
    let left = |frame: Frame| frame.tcp_options(&linux(1460));
    let acked = to_vip("10.200.6.1:80", tcp(Flags::Ack));
    let (v4, v6) = (syn("10.200.6.1:80"), syn("[fd00:0:0:6::1]:80"));
    let (tagged, with_ip_options) = (v4.clone().vlans(&[10, 20]), v4.clone().options(&[1; 8]));
    let (nat4, nat6, ipip) = (syn("10.200.6.2:80"), syn("[fd00:0:0:6::2]:80"), syn("10.200.6.3:80"));
    vec![
        redirect("mss: over IPv6", v6.clone(), clamped(direct(v6)).bytes()),
        redirect("mss: in a tagged frame", tagged.clone(), clamped(direct(tagged)).bytes()),
        redirect("mss: behind IPv4 options", with_ip_options.clone(), clamped(direct(with_ip_options)).bytes()),
        redirect("mss: what is no SYN says none", acked.clone(), left(direct(acked)).bytes()),
        redirect("mss: by nat", nat4.clone(), clamped(nat(nat4, "10.0.2.52:8080")).bytes()),
        redirect("mss: by nat over IPv6", nat6.clone(), clamped(nat(nat6, "[fd02::52]:8080")).bytes()),
        redirect("mss: in a tunnel", ipip.clone(), tunnelled(&clamped(ipip), "10.0.2.53", false)),
    ]
}

/// What NAT backends answer.
fn replies() -> Vec<Case> {
    let restored = |answer: &Frame, vip: &str, options: &[u8]| {
        answer.clone().from(vip).macs(OURS, GATEWAY).ttl(63).tcp_options(options).bytes()
    };
    let answer = |backend: &str, flags| reply(backend, tcp(flags)).tcp_options(&linux(1460));
    let (v4, v6) = (answer("10.0.2.52:8080", Flags::SynAck), answer("[fd02::52]:8080", Flags::SynAck));
    let (data, other) = (answer("10.0.2.52:8080", Flags::Ack), answer("10.0.2.1:8080", Flags::SynAck));
    vec![
        case("mss: of an answer", v4.bytes(), Verdict::Reply, restored(&v4, "10.200.6.2:80", &linux(MSS))),
        case("mss: of an answer over IPv6", v6.bytes(), Verdict::Reply, restored(&v6, "[fd00:0:0:6::2]:80", &linux(MSS))),
        case("mss: not of what follows", data.bytes(), Verdict::Reply, restored(&data, "10.200.6.2:80", &linux(1460))),
        case("mss: not of other services", other.bytes(), Verdict::Reply, restored(&other, "10.200.1.3:80", &linux(1460))),
    ]
}
