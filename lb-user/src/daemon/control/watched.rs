//! Findings, and what of them the tables do not have yet.

use std::collections::BTreeSet;
use std::ops::Deref;

use super::super::assemble::{BackendKey, Findings};
use crate::health::Condition;

/// Findings that say what has changed since the tables were made of them.
pub struct Watched {
    findings: Findings,
    news: News,
}

enum News {
    /// Nothing but the health of these.
    Health(BTreeSet<BackendKey>),
    Anything,
}

impl Watched {
    pub fn new(findings: Findings) -> Self {
        Self { findings, news: News::Anything }
    }

    /// What a backend's checks say now.
    pub fn note_health(&mut self, key: BackendKey, condition: Condition) {
        if let News::Health(keys) = &mut self.news {
            keys.insert(key.clone());
        }
        self.findings.health.insert(key, condition);
    }

    /// For any change but of health.
    pub fn change(&mut self) -> &mut Findings {
        self.news = News::Anything;
        &mut self.findings
    }

    /// Whose health has changed, if nothing else has.
    pub fn only_health(&self) -> Option<&BTreeSet<BackendKey>> {
        match &self.news {
            News::Health(keys) => Some(keys),
            News::Anything => None,
        }
    }

    /// The tables have it all.
    pub fn note_done(&mut self) {
        self.news = News::Health(BTreeSet::new());
    }
}

impl Deref for Watched {
    type Target = Findings;

    fn deref(&self) -> &Findings {
        &self.findings
    }
}
