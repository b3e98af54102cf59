//! The only part that does I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, RwLock};

use tokio::sync::{mpsc, watch};

use super::{Answer, Changes, NextHopError, RedirectMode};

pub struct Actor {
    wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
}

impl Actor {
    pub async fn open(
        _mode: RedirectMode,
        wanted: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
        _changes: mpsc::Sender<Changes>,
        _answers: Arc<RwLock<BTreeMap<IpAddr, Answer>>>,
    ) -> Result<Self, NextHopError> {
        Ok(Self { wanted })
    }

    pub async fn run(mut self) {
        while self.wanted.changed().await.is_ok() {}
    }
}
