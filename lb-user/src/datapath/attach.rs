//! Attaching to an interface, in the mode that the operator or the interface asks for.

use aya::programs::links::FdLink;
use aya::programs::{ProgramError, Xdp, XdpMode};
use tracing::{info, warn};

use super::DatapathError;
use super::pins::{Held, Pins};

/// Where and how to attach.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    pub interface: String,
    pub ifindex: u32,
    pub mode: Wanted,
}

/// How the program should run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// In the driver, and nowhere else.
    Native,
    /// In the host's stack, for this reason if it is not the operator's wish.
    Generic { reason: Option<String> },
    /// In the driver if it lets us.
    NativeIfPossible,
}

/// A program on an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    pub interface: String,
    pub ifindex: u32,
    pub native: bool,
}

const COST: &str = "generic mode costs about half the throughput of native mode: every packet gets a socket buffer first";

/// Yields the link too, which is pinned.
pub fn attach(program: &mut Xdp, attachment: &Attachment, pins: &Pins) -> Result<(Attached, Held), DatapathError> {
    let Attachment { interface, ifindex, mode } = attachment;
    let (native, link) = match mode {
        Wanted::Native => attach_as(program, attachment, true, pins)?,
        Wanted::Generic { reason } => {
            if let Some(reason) = reason {
                warn!(interface, reason, "attaching in generic mode: {COST}");
            }
            attach_as(program, attachment, false, pins)?
        }
        // A second try at native mode would take the program off for a moment.
        Wanted::NativeIfPossible if pins.link(interface, *ifindex, false)?.is_some() => {
            attach_as(program, attachment, false, pins)?
        }
        Wanted::NativeIfPossible => match attach_as(program, attachment, true, pins) {
            Err(error @ DatapathError::Attach { .. }) => {
                let reason = crate::error::chain(&error);
                warn!(interface, reason, "the interface refuses native mode, attaching in generic mode: {COST}");
                attach_as(program, attachment, false, pins)?
            }
            attached => attached?,
        },
    };
    info!(interface, mode = mode_name(native), "attached");
    Ok((Attached { interface: interface.clone(), ifindex: *ifindex, native }, pins.hold(interface, native, link)))
}

fn attach_as(program: &mut Xdp, attachment: &Attachment, native: bool, pins: &Pins) -> Result<(bool, FdLink), DatapathError> {
    let Attachment { interface, ifindex, .. } = attachment;
    let refused = |source| refusal(interface, native, source);
    let no_link = |source| DatapathError::NoLink { interface: interface.clone(), source };
    // The link of an earlier daemon passes from its program to ours between two packets. It is of no use if its interface is
    // gone, or if it is of the other mode.
    if let Some(Ok(link)) = pins.link(interface, *ifindex, native)?.map(FdLink::try_into)
        && let Ok(id) = program.attach_to_link(link)
    {
        let link = program.take_link(id).map_err(&refused)?;
        return Ok((native, FdLink::try_from(link).map_err(no_link)?));
    }
    pins.remove_link(interface)?;
    let mode = if native { XdpMode::Driver } else { XdpMode::Skb };
    let id = program.attach_to_if_index(*ifindex, mode).map_err(&refused)?;
    let link = program.take_link(id).map_err(&refused)?;
    let link = FdLink::try_from(link).map_err(no_link)?;
    Ok((native, pins.keep_link(interface, native, link)?))
}

/// That an interface refuses a program, and what an operator can do about it.
pub fn refusal(interface: &str, native: bool, source: ProgramError) -> DatapathError {
    DatapathError::Attach {
        interface: interface.to_owned(),
        mode: mode_name(native),
        hint: hint(&source, interface, native),
        source: Box::new(source),
    }
}

fn mode_name(native: bool) -> &'static str {
    if native { "native" } else { "generic" }
}

/// What an operator can do about a refusal, by the error number in it.
fn hint(error: &ProgramError, interface: &str, native: bool) -> String {
    match crate::error::os_code(error) {
        Some(libc_errno::EBUSY) => format!(
            "another XDP program is there: `ip link show {interface}` names it, `ip link set {interface} xdp off` removes it, unless a process or a pin holds it by a link (`bpftool link`), which has to end"
        ),
        Some(libc_errno::EEXIST) => {
            format!("a program of the other mode is there: `ip link set {interface} xdp off` and `xdpgeneric off` remove it")
        }
        Some(libc_errno::EOPNOTSUPP) if native => "its driver has no XDP; set xdp.mode = \"generic\" or \"auto\"".into(),
        Some(libc_errno::ERANGE | libc_errno::EINVAL) if native => {
            "its MTU, queues or offloads (LRO) do not go with native XDP; lower the MTU, or set xdp.mode = \"generic\"".into()
        }
        Some(libc_errno::EPERM) => "it takes root, or CAP_BPF and CAP_NET_ADMIN".into(),
        _ => "the cause follows".into(),
    }
}

/// Error numbers of Linux that have a hint.
mod libc_errno {
    use rustix::io::Errno;

    pub const EPERM: i32 = Errno::PERM.raw_os_error();
    pub const EBUSY: i32 = Errno::BUSY.raw_os_error();
    pub const EEXIST: i32 = Errno::EXIST.raw_os_error();
    pub const EINVAL: i32 = Errno::INVAL.raw_os_error();
    pub const ERANGE: i32 = Errno::RANGE.raw_os_error();
    pub const EOPNOTSUPP: i32 = Errno::OPNOTSUPP.raw_os_error();
}
