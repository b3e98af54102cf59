//! Who reads events, each at its own pace, and none at the cost of another.

use axum::body::Bytes;
use serde::Serialize;
use serde_json::json;
use tokio::sync::mpsc;

/// More are refused.
pub const N_READERS_MAX: usize = 64;
/// Frames that wait for a reader. With one a second, it may fall this many seconds behind.
const N_FRAMES_WAITING_MAX: usize = 16;

/// All readers. A frame is made once, and shared.
#[derive(Debug, Default)]
pub struct Readers(Vec<mpsc::Sender<Bytes>>);

impl Readers {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One reader more, whose first frame this is; `None` if there are too many.
    pub fn admit(&mut self, first: Bytes) -> Option<mpsc::Receiver<Bytes>> {
        self.0.retain(|reader| !reader.is_closed());
        if self.0.len() >= N_READERS_MAX {
            return None;
        }
        // With room for the end, which must reach who has no room for anything else.
        let (reader, frames) = mpsc::channel(N_FRAMES_WAITING_MAX + 1);
        offer(&reader, first).then(|| self.0.push(reader))?;
        Some(frames)
    }

    /// Tells all readers. Who has gone is forgotten, who is too slow is told so, and gets nothing more.
    pub fn tell(&mut self, frame: &Bytes) {
        self.0.retain(|reader| offer(reader, frame.clone()));
    }
}

/// Whether the reader stays.
fn offer(reader: &mpsc::Sender<Bytes>, news: Bytes) -> bool {
    if reader.capacity() > 1 {
        return reader.try_send(news).is_ok();
    }
    let reason = format!("too slow: {N_FRAMES_WAITING_MAX} events wait; connect again");
    // It is let go either way.
    let _ = reader.try_send(frame("end", &json!({ "reason": reason })));
    false
}

/// A server-sent event. JSON has no line breaks of its own, so it takes one `data` line.
pub fn frame(event: &str, content: &impl Serialize) -> Bytes {
    match serde_json::to_string(content) {
        Ok(json) => format!("event: {event}\ndata: {json}\n\n").into(),
        // A map with keys that are no strings: none of ours is. A comment, which readers skip.
        Err(error) => format!(": {event}: {error}\n\n").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(frames: &mut mpsc::Receiver<Bytes>) -> Vec<String> {
        std::iter::from_fn(|| frames.try_recv().ok()).map(|frame| String::from_utf8(frame.to_vec()).unwrap()).collect()
    }

    #[test]
    fn a_reader_that_does_not_keep_up_is_told_so_last_and_the_others_miss_nothing() {
        let mut readers = Readers::default();
        let mut slow = readers.admit("hello".into()).unwrap();
        let mut quick = readers.admit("hello".into()).unwrap();
        assert_eq!(drain(&mut quick), ["hello"]);
        for n in 0..N_FRAMES_WAITING_MAX + 5 {
            readers.tell(&format!("{n}").into());
            assert_eq!(drain(&mut quick), [n.to_string()]);
        }
        let received = drain(&mut slow);
        assert_eq!(received.len(), N_FRAMES_WAITING_MAX + 1);
        assert_eq!(received[..2], ["hello", "0"]);
        assert!(received.last().unwrap().starts_with("event: end\ndata: {\"reason\":\"too slow"), "{received:?}");
        assert!(slow.is_closed(), "nothing more comes");
    }

    #[test]
    fn readers_beyond_the_limit_are_refused_until_one_goes() {
        let mut readers = Readers::default();
        let mut admitted: Vec<_> = (0..N_READERS_MAX).map(|_| readers.admit("hello".into()).unwrap()).collect();
        assert!(readers.admit("hello".into()).is_none());
        admitted.pop();
        assert!(readers.admit("hello".into()).is_some());
    }

    #[test]
    fn a_line_break_in_what_is_told_does_not_end_the_event() {
        assert_eq!(frame("x", &"a\r\n\nevent: end"), "event: x\ndata: \"a\\r\\n\\nevent: end\"\n\n");
    }
}
