//! What a database server is among its copies.

use std::fmt;

use super::{Found, Setback};

/// With it, a service for writes follows the primary, and one for reads spreads over the replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// Takes writes.
    Primary,
    /// Follows a primary.
    Replica,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Primary => "primary",
            Self::Replica => "replica",
        })
    }
}

impl Role {
    /// The verdict about a server that is `found` where this is wanted.
    pub(super) fn judge(self, phase: &str, found: Self) -> Found {
        match found == self {
            true => Ok(format!("{phase}: {found}")),
            false => Err(Setback::Failed(format!("{phase}: {found}, not {self}"))),
        }
    }
}
