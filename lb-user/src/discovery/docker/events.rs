//! Docker's stream of events, and who is on its way out.

use std::collections::{BTreeMap, HashSet};
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, TryStreamExt};
use http_body_util::BodyDataStream;
use serde::Deserialize;
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, LinesCodec, LinesCodecError};
use tokio_util::io::StreamReader;

use super::client::Client;
use super::containers::Container;
use crate::discovery::teller::{Failure, FailureKind};

/// What can change who is a backend, and where. All else, such as a command run within, is not even sent.
const ACTIONS: [&str; 9] = ["start", "kill", "die", "stop", "pause", "unpause", "destroy", "connect", "disconnect"];

/// What ends a container: the signals that images ask to be stopped by (SIGINT, SIGQUIT, SIGKILL, SIGTERM, SIGWINCH for Apache,
/// SIGRTMIN+3 for systemd). Others, such as SIGHUP, have it read its configuration again.
const ENDING_SIGNALS: [&str; 6] = ["2", "3", "9", "15", "28", "37"];

/// A container that still runs so long after such a signal has ignored it.
const LEAVING_MAX: Duration = Duration::from_secs(600);

/// An event is a few hundred bytes, and more with many labels.
const LINE_BYTES_MAX: usize = 1 << 20;

/// As `GET /events` streams it, one a line.
#[derive(Deserialize, Debug)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Event {
    #[serde(rename = "Type")]
    kind: String,
    action: String,
    actor: Actor,
}

#[derive(Deserialize, Debug)]
struct Actor {
    #[serde(rename = "ID")]
    id: String,
    #[serde(rename = "Attributes")]
    attributes: Option<BTreeMap<String, String>>,
}

/// The lines of the stream.
type Lines = Pin<Box<dyn Stream<Item = Result<String, LinesCodecError>> + Send>>;

pub(super) struct Events {
    lines: Lines,
    /// What a service's containers have.
    labels: Vec<String>,
}

impl Events {
    /// From now on. Networks' events are of all containers: they do not say which labels theirs have.
    pub(super) async fn open(client: &Client, labels: &[String]) -> Result<Self, Failure> {
        let filters = serde_json::json!({ "type": ["container", "network"], "event": ACTIONS });
        let body = client.open("/events", &filters).await?;
        let bytes = StreamReader::new(BodyDataStream::new(body).map_err(std::io::Error::other));
        let lines = FramedRead::new(bytes, LinesCodec::new_with_max_length(LINE_BYTES_MAX));
        Ok(Self { lines: Box::pin(lines), labels: labels.to_owned() })
    }

    /// The next one that may concern the service. What was received is not lost if nobody waits for the rest.
    pub(super) async fn next(&mut self) -> Result<Event, Failure> {
        loop {
            let failure = |kind, text: String| Failure::new(kind, format!("Docker's events: {text}"));
            let line = match self.lines.next().await {
                Some(Ok(line)) => line,
                Some(Err(error)) => return Err(failure(FailureKind::Unreachable, error.to_string())),
                None => return Err(failure(FailureKind::Unreachable, "Docker has ended them".to_owned())),
            };
            let event: Event = serde_json::from_str(&line).map_err(|error| failure(FailureKind::Broken, error.to_string()))?;
            if event.may_concern(&self.labels) {
                return Ok(event);
            }
        }
    }
}

impl Event {
    /// Whether it is a network's, or of a container with all these labels.
    fn may_concern(&self, labels: &[String]) -> bool {
        let has = |label: &String| match label.split_once('=') {
            Some((key, value)) => self.attribute(key) == Some(value),
            None => self.attribute(label).is_some(),
        };
        self.kind != "container" || labels.iter().all(has)
    }

    /// Labels are attributes too.
    fn attribute(&self, key: &str) -> Option<&str> {
        self.actor.attributes.as_ref()?.get(key).map(String::as_str)
    }
}

/// Containers that were told to end, and since when.
#[derive(Default)]
pub(super) struct Leaving(BTreeMap<String, Instant>);

impl Leaving {
    pub(super) fn note(&mut self, event: &Event) {
        if event.kind != "container" {
            return;
        }
        match event.action.as_str() {
            "kill" if event.attribute("signal").is_some_and(|signal| ENDING_SIGNALS.contains(&signal)) => {
                self.0.entry(event.actor.id.clone()).or_insert_with(Instant::now);
            }
            // It has another life.
            "start" => drop(self.0.remove(&event.actor.id)),
            _ => {}
        }
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.0.contains_key(id)
    }

    /// Forgets those that have ended, and those that have not for so long that they will not.
    pub(super) fn retain(&mut self, running: &[Container]) {
        let ids: HashSet<&str> = running.iter().map(|container| container.id.as_str()).collect();
        self.0.retain(|id, since| ids.contains(id.as_str()) && since.elapsed() < LEAVING_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::docker::containers;

    fn event(kind: &str, action: &str, id: &str, attributes: &str) -> Event {
        let text = format!(
            r#"{{"status":"x","Type":"{kind}","Action":"{action}","Actor":{{"ID":"{id}","Attributes":{attributes}}},"time":1}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn events_of_containers_with_other_labels_are_nothing_to_a_service() {
        let labels = ["xlb.service=web".to_owned(), "ready".to_owned()];
        for (kind, attributes, concerns) in [
            ("container", r#"{"xlb.service":"web","ready":"","name":"a"}"#, true),
            ("container", r#"{"xlb.service":"web","name":"a"}"#, false),
            ("container", r#"{"xlb.service":"db","ready":""}"#, false),
            ("container", "null", false),
            ("network", r#"{"container":"x"}"#, true),
        ] {
            assert_eq!(event(kind, "start", "x", attributes).may_concern(&labels), concerns, "{kind} {attributes}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_told_to_end_leaves_until_it_starts_again_or_has_long_ignored_it() {
        let running = containers::read(br#"[{"Id":"a"},{"Id":"b"}]"#).unwrap();
        let mut leaving = Leaving::default();
        for signal in ["1", "10", "12"] {
            leaving.note(&event("container", "kill", "a", &format!(r#"{{"signal":"{signal}"}}"#)));
        }
        leaving.note(&event("container", "die", "a", "{}"));
        leaving.note(&event("network", "kill", "a", r#"{"signal":"15"}"#));
        assert!(!leaving.contains("a"));
        for id in ["a", "b", "gone"] {
            leaving.note(&event("container", "kill", id, r#"{"signal":"15"}"#));
        }
        leaving.retain(&running);
        assert_eq!((leaving.contains("a"), leaving.contains("b"), leaving.contains("gone")), (true, true, false));
        leaving.note(&event("container", "start", "a", "{}"));
        assert_eq!((leaving.contains("a"), leaving.contains("b")), (false, true));
        // A second signal is no second chance.
        tokio::time::advance(LEAVING_MAX / 2).await;
        leaving.note(&event("container", "kill", "b", r#"{"signal":"15"}"#));
        tokio::time::advance(LEAVING_MAX / 2).await;
        leaving.retain(&running);
        assert!(!leaving.contains("b"));
    }
}
