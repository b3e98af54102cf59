//! An agent beside a backend, which says what a test wants.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;

use crate::{Impostor, Netns};

/// Speaks HAProxy's agent-check protocol. Dropping it ends it.
#[derive(Debug)]
pub struct Agent {
    words: Arc<Mutex<(String, Duration)>>,
    _listener: Impostor,
}

impl Agent {
    /// Says `line` to whoever connects to `address`.
    ///
    /// # Errors
    /// The address is taken, or not the namespace's.
    pub fn start(netns: &Netns, address: SocketAddr, line: &str) -> Result<Self> {
        let words = Arc::new(Mutex::new((line.to_owned(), Duration::ZERO)));
        let said = Arc::clone(&words);
        let listener = Impostor::tcp_with(netns, address, move |mut stream, _| {
            let (line, delay) = said.lock().unwrap_or_else(PoisonError::into_inner).clone();
            // This is what it is to be slow.
            thread::sleep(delay);
            stream.write_all(format!("{line}\n").as_bytes())
        })?;
        Ok(Self { words, _listener: listener })
    }

    /// What it says from now on.
    pub fn say(&self, line: &str) {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).0 = line.to_owned();
    }

    /// How long it takes to say it from now on.
    pub fn take(&self, delay: Duration) {
        self.words.lock().unwrap_or_else(PoisonError::into_inner).1 = delay;
    }
}
