//! What a packet can end in. Exactly one verdict a packet, each counted: received = forwarded + passed + dropped.

/// What happens to the frame, and the first label of its counter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// Left towards a backend or a client, or was answered.
    Forwarded,
    /// Not xlb's business: the host's network stack gets it untouched.
    Passed,
    /// Ends here.
    Dropped,
}

impl Class {
    /// The word for it in metrics, logs and the CLI.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Passed => "passed",
            Self::Dropped => "dropped",
        }
    }
}

macro_rules! verdicts {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal, $class:ident, $label:literal;)+) => {
        /// The fate of one packet. The numbers index the counters of running programs: append, never renumber.
        #[repr(u8)]
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[must_use]
        pub enum Verdict {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        impl Verdict {
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            pub const fn class(self) -> Class {
                match self { $(Self::$name => Class::$class,)+ }
            }

            /// The one with this number.
            #[inline(always)]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)+ _ => None }
            }

            /// The word for it in metrics, logs and the CLI.
            pub const fn label(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }

            /// One sentence for an operator.
            pub const fn explanation(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+),)+ }
            }
        }
    };
}

verdicts! {
    /// Sent to its backend on the interface it came from.
    Tx = 0, Forwarded, "tx";
    /// Sent to its backend on another interface.
    Redirect = 1, Forwarded, "redirect";
    /// Rewritten for its backend, and handed to the host's routing because that interface takes no redirected frames.
    Routed = 2, Forwarded, "routed";
    /// A NAT backend's reply, with the VIP as its source again.
    Reply = 3, Forwarded, "reply";
    /// A NAT backend's reply, rewritten, and handed to the host's routing.
    ReplyRouted = 4, Forwarded, "reply_routed";
    /// An ICMP echo request to a VIP, answered.
    EchoReply = 5, Forwarded, "echo_reply";
    /// Too large for the way to its backend; its sender was told how large it may be.
    TooBig = 6, Forwarded, "too_big";
    /// Neither IPv4 nor IPv6.
    NotIp = 8, Passed, "not_ip";
    /// Not addressed to a service.
    NotService = 9, Passed, "not_service";
    /// To a VIP, and left to the host: the daemon has been away for longer than `[watchdog]` allows.
    Unattended = 15, Passed, "unattended";
    /// The frame ends inside a header that it announces.
    Truncated = 16, Dropped, "truncated";
    /// A header contradicts itself or the frame.
    Malformed = 17, Dropped, "malformed";
    /// The service has no backend that may take it.
    NoBackend = 18, Dropped, "no_backend";
    /// The backend's next hop has no link-layer address yet.
    NoNextHop = 19, Dropped, "no_next_hop";
    /// A fragment of an IP packet to a VIP, and the packet's first fragment did not come before; or of an ICMP message.
    Fragment = 20, Dropped, "fragment";
    /// Its time to live or hop limit is used up.
    TtlExceeded = 21, Dropped, "ttl_exceeded";
    /// A table of the packet path contradicts itself: a fault of xlb, please report it.
    Internal = 22, Dropped, "internal";
    /// The driver left no room in front of the frame for what has to go there.
    NoHeadroom = 23, Dropped, "no_headroom";
    /// An ICMP error too large for the way to its backend: its sender must not be told.
    Oversize = 24, Dropped, "oversize";
    /// Its sender is on a deny list, or there is an allow list and it is not on it.
    Denied = 25, Dropped, "denied";
    /// More than may come from its source, or to its service, in this time.
    Limited = 26, Dropped, "limited";
    /// To a VIP, and the daemon has been away for longer than `[watchdog]` allows.
    UnattendedDrop = 27, Dropped, "unattended_drop";
    /// To a service that forwards by full NAT, whose pool has no free port where this flow could have one.
    NoSourcePort = 28, Dropped, "no_source_port";
}

/// Verdict counters in a record of totals: room to append.
pub const VERDICT_SLOTS: usize = 64;

const _: () = assert!((Verdict::NoSourcePort as usize) < VERDICT_SLOTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_and_numbers_are_unique() {
        for (i, a) in Verdict::ALL.iter().enumerate() {
            for b in &Verdict::ALL[i + 1..] {
                assert_ne!(*a as u8, *b as u8);
                assert_ne!(a.label(), b.label());
            }
            assert_eq!(Verdict::from_number(*a as u8), Some(*a));
        }
    }
}
