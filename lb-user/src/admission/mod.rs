//! Who may send to VIPs: what the operator asks for, read whole and made ready for the packet path.
//!
//! ```text
//! configuration -> List (prefixes, files) -> read -> Lists (ranges) -> Image (trees in their table) -> compile
//! ```
//!
//! Nothing of it changes with health or discovery, and a million prefixes are much to go through: what has been made of a list is
//! shared for as long as the list is the same.

mod image;
mod lists;
mod ranges;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;
use lb_common::meter::{Limit, METERS};

pub use image::{Image, NoRoom};
pub use lists::{List, Lists, prefix};
pub use ranges::Ranges;

use crate::desired::ServiceName;

/// All rules.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Admission {
    /// For what is sent to any VIP.
    pub all_vips: Rules,
    /// For what is sent to single services, which the former must admit too. Only services that have some.
    pub services: BTreeMap<ServiceName, Rules>,
}

impl Admission {
    /// Nobody is refused.
    pub fn is_empty(&self) -> bool {
        self.all_vips.is_empty() && self.services.is_empty()
    }
}

/// The rules of one scope.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    pub lists: Arc<Lists>,
    pub limits: Limits,
}

impl Rules {
    /// Nobody is refused.
    pub fn is_empty(&self) -> bool {
        !self.lists.deny.is_given() && !self.lists.allow.is_given() && !self.limits.are_any()
    }
}

/// How much may come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// By [`Meter`](lb_common::meter::Meter).
    pub limits: [Limit; METERS],
    /// How many bits of an address are one source.
    pub source_bits_v4: u8,
    pub source_bits_v6: u8,
}

impl Default for Limits {
    /// None. A source is an IPv4 address, or what a network of IPv6 has at least.
    fn default() -> Self {
        Self { limits: Default::default(), source_bits_v4: 32, source_bits_v6: 64 }
    }
}

impl Limits {
    pub fn are_any(&self) -> bool {
        self.limits.iter().any(|limit| !limit.is_none())
    }
}

/// Why a list was not read.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(
        "error: {}: cannot be read: {source}\n  = help: a list of {scope} is a file that the daemon may read",
        path.display()
    )]
    Unreadable { path: PathBuf, scope: String, source: std::io::Error },
    #[error(
        "error: {}:{line}: {what}\n  = help: write one prefix a line, such as 203.0.113.0/24, 2001:db8::/32 or a single address; a comment begins with #",
        path.display()
    )]
    Line { path: PathBuf, line: usize, what: String },
}

impl Admission {
    /// Reads all files that lists name, each once. On failure, nothing has changed.
    ///
    /// # Errors
    /// The first file that cannot be read, or its first line that is wrong.
    pub fn read_files(&mut self) -> Result<(), ListError> {
        let mut files: BTreeMap<PathBuf, Arc<[IpNet]>> = BTreeMap::new();
        let of_services = self.services.iter().map(|(name, rules)| (format!("[service.admission] of {name}"), rules));
        for (scope, rules) in std::iter::once(("[admission]".to_owned(), &self.all_vips)).chain(of_services) {
            for path in rules.lists.files() {
                if !files.contains_key(path) {
                    files.insert(path.clone(), lists::read(path, &scope)?.into());
                }
            }
        }
        let read = |path: &Path| files.get(path).cloned().unwrap_or_default();
        for rules in std::iter::once(&mut self.all_vips).chain(self.services.values_mut()) {
            if rules.lists.files().next().is_some() {
                rules.lists = Arc::new(rules.lists.with_files(&read));
            }
        }
        Ok(())
    }

    /// What a service's packets must pass.
    pub fn of(&self, service: &ServiceName) -> Option<&Rules> {
        self.services.get(service)
    }
}

#[cfg(test)]
mod tests;
