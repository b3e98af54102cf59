//! Capabilities: which ones the daemon needs, and giving up all others once the program runs.
//!
//! A capability belongs to a thread. The runtime's threads give up what they do not need as they start; the main thread, which
//! loads and attaches, does so afterwards. Programs that the daemon starts, the script checks, are not held to this where it
//! runs as root: the unit's `CapabilityBoundingSet` is for them.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use tracing::{debug, warn};

/// Without these it cannot start, and what each is for.
const NEEDED: [(CapabilitySet, &str); 3] = [
    (CapabilitySet::BPF, "maps and programs"),
    (CapabilitySet::NET_ADMIN, "XDP on interfaces, next hops"),
    (CapabilitySet::PERFMON, "the verifier's leave for pointers into tables"),
];

/// What it needs later too: interfaces are attached at a reload, neighbours kept in use, and a ping may take a raw
/// socket, as probes into tunnels do.
const KEPT: CapabilitySet = CapabilitySet::BPF.union(CapabilitySet::NET_ADMIN).union(CapabilitySet::NET_RAW);

/// What the main thread may take up again, for a reload that asks for another program.
const LAID_BY: CapabilitySet = CapabilitySet::PERFMON;

/// Why a daemon does not start.
#[derive(PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "rights are missing: {missing}; run it as root, or give it these capabilities: `AmbientCapabilities=` in a systemd unit, \
     `setcap` on the binary; a container needs them in the host's user namespace"
)]
pub struct Missing {
    missing: String,
}

/// That this thread has what a start takes.
///
/// # Errors
/// It does not; the error names each that is missing.
pub fn check() -> Result<(), Missing> {
    // Where they cannot be read, the kernel's own refusal comes soon enough.
    capabilities(None).map_or(Ok(()), |sets| lacks_nothing(sets.effective))
}

fn lacks_nothing(effective: CapabilitySet) -> Result<(), Missing> {
    let lacking = NEEDED.iter().filter(|(capability, _)| !effective.contains(*capability));
    let missing: Vec<String> = lacking.map(|(capability, what_for)| format!("{} ({what_for})", names(*capability))).collect();
    if missing.is_empty() { Ok(()) } else { Err(Missing { missing: missing.join(", ") }) }
}

/// This thread gives up, for good, all but what the daemon needs while it runs, and what is laid by; yields what it keeps.
///
/// # Errors
/// The kernel refuses, and the thread keeps what it has.
fn give_up_the_rest(laid_by: CapabilitySet) -> Result<CapabilitySet, Errno> {
    let kept = what_is_kept(capabilities(None)?, laid_by);
    set_capabilities(None, kept)?;
    Ok(kept.effective)
}

fn what_is_kept(now: CapabilitySets, laid_by: CapabilitySet) -> CapabilitySets {
    let CapabilitySets { effective, permitted, inheritable } = now;
    CapabilitySets { effective: effective & KEPT, permitted: permitted & (KEPT | laid_by), inheritable: inheritable & KEPT }
}

/// For each of the runtime's threads as it starts.
pub fn give_up_in_worker() {
    // What stops it here stops the main thread too, which says so.
    let _ = give_up_the_rest(CapabilitySet::empty());
}

/// For the main thread, once the program runs.
pub fn give_up_in_main() {
    match give_up_the_rest(LAID_BY) {
        Ok(kept) => debug!(kept = names(kept), "capabilities given up, but for what is kept"),
        Err(error) => warn!(%error, "capabilities that are not needed cannot be given up"),
    }
}

/// Does what takes all rights that a start takes, and gives them up again. For the main thread.
pub fn with_all<T>(act: impl FnOnce() -> T) -> T {
    let before = capabilities(None).ok();
    if let Some(sets) = before {
        // What is not permitted, the kernel refuses to whoever asks for it next, and says so.
        let effective = sets.effective | (sets.permitted & LAID_BY);
        let _ = set_capabilities(None, CapabilitySets { effective, ..sets });
    }
    let done = act();
    if let Some(sets) = before
        && let Err(error) = set_capabilities(None, sets)
    {
        warn!(%error, "capabilities that are not needed any more cannot be laid by");
    }
    done
}

/// `CAP_BPF CAP_NET_ADMIN`
fn names(set: CapabilitySet) -> String {
    set.iter_names().map(|(name, _)| format!("CAP_{name}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn who_lacks_something_is_told_what_and_what_it_is_for() {
        assert_eq!(lacks_nothing(CapabilitySet::all()), Ok(()));
        let error = lacks_nothing(CapabilitySet::NET_ADMIN | CapabilitySet::SYS_ADMIN).unwrap_err();
        expect![[r#"rights are missing: CAP_BPF (maps and programs), CAP_PERFMON (the verifier's leave for pointers into tables); run it as root, or give it these capabilities: `AmbientCapabilities=` in a systemd unit, `setcap` on the binary; a container needs them in the host's user namespace"#]].assert_eq(&error.to_string());
    }

    #[test]
    fn only_what_is_needed_later_is_kept_and_nothing_is_gained() {
        let all = CapabilitySet::all();
        let before = CapabilitySets { effective: all, permitted: all, inheritable: CapabilitySet::empty() };
        let kept = what_is_kept(before, LAID_BY);
        assert_eq!(kept, CapabilitySets { effective: KEPT, permitted: KEPT | LAID_BY, inheritable: CapabilitySet::empty() });
        assert_eq!(names(KEPT), "CAP_NET_ADMIN CAP_NET_RAW CAP_BPF");
        let little = CapabilitySet::NET_ADMIN;
        let kept = what_is_kept(CapabilitySets { effective: little, permitted: little, inheritable: little }, LAID_BY);
        assert_eq!(kept, CapabilitySets { effective: little, permitted: little, inheritable: little });
    }
}
