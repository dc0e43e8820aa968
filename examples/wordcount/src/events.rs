//! What map and reduce processes tell the launcher while they run: one JSON object a line, on standard output.

use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// Progress is told this often at most: thousands of lines a second would only be read, never seen.
const PROGRESS_PAUSE: Duration = Duration::from_millis(100);

/// One line. Counters are totals since the process started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// A mapper: every stream is open, and it waits for the word to begin.
    Opened,
    /// A mapper: how far it is.
    Mapped(Mapped),
    /// A reducer: how far it is.
    Reduced(Reduced),
}

/// How far a mapper is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Mapped {
    /// Files read.
    pub(crate) files: u64,
    /// Bytes read of them.
    pub(crate) bytes: u64,
    /// Messages sent.
    pub(crate) messages: u64,
    /// Bytes of their payload.
    pub(crate) stream_bytes: u64,
}

/// How far a reducer is.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Reduced {
    /// Words counted.
    pub(crate) words: u64,
    /// Messages received.
    pub(crate) messages: u64,
    /// Bytes of their payload.
    pub(crate) stream_bytes: u64,
}

/// Standard output, to a launcher that reads lines.
#[derive(Debug)]
pub(crate) struct Teller {
    last: Instant,
}

impl Teller {
    /// Nothing is told yet.
    pub(crate) fn new() -> Self {
        Self { last: Instant::now() }
    }

    /// Tells it now.
    pub(crate) fn tell(&mut self, event: Event) -> io::Result<()> {
        self.last = Instant::now();
        let mut line = serde_json::to_vec(&event)?;
        line.push(b'\n');
        let mut out = io::stdout().lock();
        out.write_all(&line)?;
        out.flush()
    }

    /// Tells it unless something was told a moment ago.
    pub(crate) fn tell_now_and_then(&mut self, event: Event) -> io::Result<()> {
        if self.last.elapsed() < PROGRESS_PAUSE { Ok(()) } else { self.tell(event) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_it_was_told() {
        let event = Event::Mapped(Mapped { files: 1, bytes: 2, messages: 3, stream_bytes: 4 });
        let line = serde_json::to_string(&event).unwrap();
        assert_eq!(line, r#"{"event":"mapped","files":1,"bytes":2,"messages":3,"stream_bytes":4}"#);
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event);
    }
}
