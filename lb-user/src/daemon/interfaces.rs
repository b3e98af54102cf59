//! Keeps the program on the interfaces that the configuration names: these are deleted and made again, renamed, or somebody takes the
//! program off. A link is on an interface by its index, and goes with it; what comes after it under the same name has no program.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info, warn};

use super::attachment;
use crate::config::Xdp;
use crate::datapath::{Datapath, DatapathError};
use crate::error::chain;
use crate::nexthop::{self, NextHopError};

/// For what nobody announces, and for interfaces that refuse the program.
const PERIOD: Duration = Duration::from_secs(5);
/// How long what changes together is gathered.
const SETTLE: Duration = Duration::from_millis(5);

/// What is wrong with the interfaces, and when to look again.
#[derive(Debug)]
pub struct Interfaces {
    troubles: BTreeMap<String, Trouble>,
    /// Why pins that are gone cannot be made again, as it was said.
    unpinned: Option<String>,
    look_at: Instant,
}

/// Why the program is not where the configuration wants it, or will not be with the next daemon.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Trouble {
    Gone,
    Renamed { now: String },
    Refused { error: String },
}

impl Trouble {
    /// Whether no packets are balanced there.
    fn is_lost(&self) -> bool {
        !matches!(self, Self::Renamed { .. })
    }

    fn in_words(&self) -> String {
        match self {
            Self::Gone => "it is gone; the program runs there again as soon as it is back".to_owned(),
            Self::Renamed { now } => {
                format!("it is called {now} now, and the program stays on it; write its new name into xdp.interfaces, and reload")
            }
            Self::Refused { error } => format!("{error}; tried again every {} s", PERIOD.as_secs()),
        }
    }
}

impl Interfaces {
    pub fn new() -> Self {
        Self { troubles: BTreeMap::new(), unpinned: None, look_at: Instant::now() + PERIOD }
    }

    pub fn next_look(&self) -> Instant {
        self.look_at
    }

    /// An interface has come, gone, or become another: looks soon.
    pub fn note_change(&mut self) {
        self.look_at = self.look_at.min(Instant::now() + SETTLE);
    }

    /// Interfaces without the program that should have it, each with the reason.
    pub fn lost(&self) -> BTreeMap<String, String> {
        let lost = self.troubles.iter().filter(|(_, trouble)| trouble.is_lost());
        lost.map(|(interface, trouble)| (interface.clone(), trouble.in_words())).collect()
    }

    /// Sees to all of them. Whether anything is different now.
    pub async fn look(&mut self, xdp: &Xdp, datapath: &mut Datapath) -> bool {
        self.look_at = Instant::now() + PERIOD;
        let lost = self.lost();
        self.troubles.retain(|interface, _| xdp.interfaces.contains(interface));
        let mut is_changed = false;
        for interface in &xdp.interfaces {
            let before: Vec<u32> = datapath.attached().map(|attached| attached.ifindex).collect();
            let trouble = see_to(interface, xdp, datapath).await;
            is_changed |= before != datapath.attached().map(|attached| attached.ifindex).collect::<Vec<_>>();
            self.note(interface, trouble);
        }
        self.note_pins(&xdp.pin, datapath.pin_again());
        is_changed || lost != self.lost()
    }

    /// Says what has become of pins that were gone.
    fn note_pins(&mut self, pin: &Path, made: Result<bool, DatapathError>) {
        let pin = pin.display();
        if let Ok(true) = made {
            warn!(%pin, "pins were gone, and have been made again");
        }
        let error = made.err().map(|error| chain(&error));
        if let Some(error) = error.as_ref().filter(|error| self.unpinned.as_ref() != Some(error)) {
            let period_s = PERIOD.as_secs();
            warn!(%pin, error, "the pins are gone; packets are balanced, but only while this daemon runs; tried again every {period_s} s");
        }
        self.unpinned = error;
    }

    /// Says what is new.
    fn note(&mut self, interface: &str, trouble: Option<Trouble>) {
        if self.troubles.get(interface) != trouble.as_ref() {
            match &trouble {
                Some(trouble @ Trouble::Refused { .. }) => error!(interface, "{}", trouble.in_words()),
                Some(trouble) => warn!(interface, "{}", trouble.in_words()),
                None => info!(interface, "the interface is as it should be again"),
            }
        }
        match trouble {
            Some(trouble) => drop(self.troubles.insert(interface.to_owned(), trouble)),
            None => drop(self.troubles.remove(interface)),
        }
    }
}

/// Has the program run on one interface, if that can be.
async fn see_to(interface: &str, xdp: &Xdp, datapath: &mut Datapath) -> Option<Trouble> {
    let before = datapath.attached_to(interface).map(|attached| attached.ifindex);
    let refused = |error: String| Some(Trouble::Refused { error });
    match nexthop::facts(interface).await {
        Ok(facts) if before == Some(facts.ifindex) && facts.xdp_attached.is_some() => None,
        Ok(_) => match attachment(interface, xdp.mode).await {
            Ok(attachment) => match datapath.attach(&attachment) {
                Ok(_) => None,
                Err(error) => {
                    forget(interface, datapath);
                    refused(chain(&error))
                }
            },
            Err(error) => refused(format!("{error:#}")),
        },
        Err(NextHopError::NoSuchInterface { .. }) => {
            let name = match before {
                Some(ifindex) => nexthop::name_of(ifindex).await,
                None => Ok(None),
            };
            match name {
                Ok(Some(now)) => Some(Trouble::Renamed { now }),
                Ok(None) => {
                    forget(interface, datapath);
                    Some(Trouble::Gone)
                }
                Err(error) => refused(chain(&error)),
            }
        }
        Err(error) => refused(chain(&error)),
    }
}

/// Lets go of an interface that is not there any more, or has become another.
fn forget(interface: &str, datapath: &mut Datapath) {
    if let Err(error) = datapath.detach(interface) {
        warn!(interface, error = chain(&error), "its pin stays");
    }
}
