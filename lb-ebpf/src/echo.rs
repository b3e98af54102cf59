//! Answers ICMP echo requests to a VIP, so that a ping tells whether the balancer is there. What is no error either is the host's.

use lb_common::Verdict;

use crate::env::Env;
use crate::ethernet;
use crate::family::Family;
use crate::icmp::Echo;
use crate::packet::Packet;
use crate::parse::Parsed;
use crate::service;

#[inline(always)]
pub fn answer<F: Family>(packet: &mut impl Packet, env: &impl Env, parsed: &Parsed<F>, kind: [u8; 2]) -> Verdict {
    if kind != [F::ECHO_REQUEST, 0] || !service::is_vip::<F>(env, parsed.flow.vip) {
        return Verdict::NotService;
    }
    let answered = ethernet::turn_back(packet).and_then(|()| F::turn_back(packet, parsed.l3)).and_then(|()| {
        let echo: &mut Echo = packet.get_mut(parsed.l4).ok_or(Verdict::Internal)?;
        echo.set_type(F::ECHO_REPLY);
        Ok(Verdict::EchoReply)
    });
    answered.unwrap_or_else(|verdict| verdict)
}
