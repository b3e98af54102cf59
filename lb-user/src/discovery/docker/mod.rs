//! Watches a Docker daemon: the list of running containers, asked for anew at every event.
//!
//! A container leaves when it is told to stop, not when it has ended: what comes after the signal would be lost. It keeps the
//! flows that it has, by the packet path's own rules.

mod client;
mod containers;
mod events;

use std::convert::Infallible;
use std::time::Duration;

use super::teller::{Failure, Gone, Teller};
use crate::config::Docker;
use client::Client;
use containers::Container;
use events::{Events, Leaving};

/// Until this is over what else happens is waited for: starting a container is several events.
const CALM: Duration = Duration::from_millis(10);
/// After so many the list is asked for, calm or not.
const EVENTS_MAX: usize = 64;

/// Follows the daemon until nobody listens any more.
pub(super) async fn watch(docker: Docker, teller: Teller) {
    let client = Client::new(docker.socket.clone());
    let mut watch = Watch { docker, client, leaving: Leaving::default(), teller };
    let Err(Gone) = watch.keep_following().await;
}

struct Watch {
    docker: Docker,
    client: Client,
    leaving: Leaving,
    teller: Teller,
}

impl Watch {
    async fn keep_following(&mut self) -> Result<Infallible, Gone> {
        loop {
            // Events first: what happens after the list was made is not missed.
            let failure = match Events::open(&self.client, &self.docker.labels).await {
                Ok(mut events) => self.follow(&mut events).await?,
                Err(failure) => failure,
            };
            self.teller.take(Err(failure)).await?;
            tokio::time::sleep(self.teller.wait_after_failure(self.docker.interval)).await;
        }
    }

    /// Lists at once and at each event. Yields why the daemon can be asked no more.
    async fn follow(&mut self, events: &mut Events) -> Result<Failure, Gone> {
        loop {
            let containers = match self.list().await {
                Ok(containers) => containers,
                Err(failure) => return Ok(failure),
            };
            self.leaving.retain(&containers);
            let staying = containers.iter().filter(|container| !self.leaving.contains(&container.id));
            let found = containers::found(staying, &self.docker, self.teller.place().family());
            self.teller.take(Ok(found)).await?;
            let wait = if self.teller.is_failing() {
                self.teller.wait_after_failure(self.docker.interval)
            } else {
                self.docker.interval
            };
            if let Ok(Err(failure)) = tokio::time::timeout(wait, self.news(events)).await {
                return Ok(failure);
            }
        }
    }

    async fn list(&self) -> Result<Vec<Container>, Failure> {
        let filters = serde_json::json!({ "label": self.docker.labels, "status": ["running"] });
        containers::read(&self.client.get("/containers/json", &filters).await?)
    }

    /// Waits for events, and takes in all that come together.
    async fn news(&mut self, events: &mut Events) -> Result<(), Failure> {
        let mut event = events.next().await?;
        for _ in 0..EVENTS_MAX {
            self.leaving.note(&event);
            match tokio::time::timeout(CALM, events.next()).await {
                Ok(next) => event = next?,
                Err(_) => return Ok(()),
            }
        }
        self.leaving.note(&event);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
