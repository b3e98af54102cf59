//! The ICMP check, and the kernel that answers it.

use anyhow::{Result, ensure};
use lb_user::health::probe::Outcome;

use super::support::{BRIEF, check, check_within, host, passes};

const ICMP: &str = "type = \"icmp\"";

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_host_answers_a_ping_through_either_kind_of_socket() -> Result<()> {
    let (_world, netns) = host()?;
    // No group may use datagram sockets at first, and then all may.
    for groups in ["1 0", "0 2147483647"] {
        netns.sysctl(&[("ipv4/ping_group_range", groups)])?;
        passes(&netns, ICMP, "127.0.0.1:0", "icmp: echo reply")?;
        passes(&netns, ICMP, "[::1]:0", "icmp: echo reply")?;
    }
    Ok(())
}

#[test]
#[ignore = "needs root: makes network namespaces"]
fn a_host_that_does_not_answer_fails() -> Result<()> {
    let (_world, netns) = host()?;
    netns.sysctl(&[("ipv4/icmp_echo_ignore_all", "1"), ("ipv6/icmp/echo_ignore_all", "1")])?;
    for groups in ["1 0", "0 2147483647"] {
        netns.sysctl(&[("ipv4/ping_group_range", groups)])?;
        for target in ["127.0.0.1:0", "[::1]:0"] {
            let outcome = check_within(&netns, ICMP, target, BRIEF)?;
            ensure!(outcome == Outcome::Failed("icmp: timed out after 200ms".to_owned()), "{outcome:?}");
        }
        // There is no way to it.
        let outcome = check(&netns, ICMP, "192.0.2.9:0")?;
        ensure!(outcome == Outcome::Failed("icmp: network unreachable".to_owned()), "{outcome:?}");
    }
    Ok(())
}
