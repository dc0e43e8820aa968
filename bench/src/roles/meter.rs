//! What the receiving end of a run counts: a window in the middle, while all streams are busy, and the whole.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::{Load, source::Sent};
use crate::measure::jain;

/// When a run has been measured.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Window {
    /// It begins when every stream has brought something, and no earlier than this after the first byte.
    pub(crate) warm_up: Duration,
    /// It lasts at least so long,
    pub(crate) least: Duration,
    /// and until each stream has brought so many messages in it,
    pub(crate) rounds: u64,
    /// but no longer than this; the time until it begins is bounded by it too.
    pub(crate) most: Duration,
}

/// What was seen in the window.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// How long it was.
    pub(crate) seconds: f64,
    /// What all streams brought in it, in bytes of messages.
    pub(crate) bytes: u64,
    /// Jain's index of the streams' bytes in it.
    pub(crate) jain: f64,
    /// How many messages each stream brought in it, at least.
    pub(crate) rounds: u64,
}

impl Measured {
    /// Goodput, in 10⁶ bytes of messages a second.
    pub(crate) fn mb_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds / 1e6
    }
}

/// What one end has counted from the first byte to the last. Both ends must have counted the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Total {
    /// Bytes of messages.
    pub(crate) bytes: u64,
    /// The sum of the streams' fingerprints.
    pub(crate) fingerprint: u64,
}

impl Total {
    /// All streams of others.
    pub(crate) fn merge(&mut self, others: Self) {
        self.bytes += others.bytes;
        self.fingerprint = self.fingerprint.wrapping_add(others.fingerprint);
    }

    /// One stream more.
    pub(crate) fn add(&mut self, stream: usize, sent: &Sent) {
        self.bytes += sent.bytes();
        self.fingerprint = self.fingerprint.wrapping_add(sent.fingerprint(stream));
    }
}

#[derive(Debug)]
enum Phase {
    Silent,
    WarmingUp { began: Instant, unseen: usize },
    Measuring { began: Instant, lagging: usize },
    Measured,
}

/// Counts what arrives.
#[derive(Debug)]
pub(crate) struct Meter {
    load: Load,
    window: Window,
    phase: Phase,
    streams: Vec<Sent>,
    /// Bytes of each stream in the window; before it, since the first byte.
    in_window: Vec<u64>,
    target_bytes: u64,
}

impl Meter {
    /// Of a load.
    pub(crate) fn new(load: Load, window: Window) -> Self {
        let target_bytes = window.rounds.max(1) * load.message_bytes as u64;
        let (streams, in_window) = (vec![Sent::default(); load.streams], vec![0; load.streams]);
        Self { load, window, phase: Phase::Silent, streams, in_window, target_bytes }
    }

    /// A stream brought this. The index of a stream is below their number.
    pub(crate) fn add(&mut self, stream: usize, bytes: &[u8]) {
        self.streams[stream].add(bytes, self.load.hashed);
        let in_window = &mut self.in_window[stream];
        let before = *in_window;
        *in_window += bytes.len() as u64;
        match &mut self.phase {
            Phase::WarmingUp { unseen, .. } if before == 0 => *unseen -= 1,
            Phase::Measuring { lagging, .. } if before < self.target_bytes && *in_window >= self.target_bytes => {
                *lagging -= 1;
            }
            Phase::Silent => self.phase = Phase::WarmingUp { began: Instant::now(), unseen: self.load.streams - 1 },
            _ => {}
        }
    }

    /// Looks at the time, which is `now`. Returns what was measured, once, when the window has ended.
    pub(crate) fn tick(&mut self, now: Instant) -> Option<Measured> {
        let Window { warm_up, least, most, .. } = self.window;
        match self.phase {
            Phase::WarmingUp { began, unseen } => {
                let since = now.saturating_duration_since(began);
                if (unseen == 0 && since >= warm_up) || since >= most {
                    self.in_window.fill(0);
                    self.phase = Phase::Measuring { began: now, lagging: self.load.streams };
                }
                None
            }
            Phase::Measuring { began, lagging } => {
                let since = now.saturating_duration_since(began);
                if (lagging > 0 || since < least) && since < most {
                    return None;
                }
                self.phase = Phase::Measured;
                let least_bytes = self.in_window.iter().min().copied().unwrap_or_default();
                Some(Measured {
                    seconds: since.as_secs_f64(),
                    bytes: self.in_window.iter().sum(),
                    jain: jain(&self.in_window),
                    rounds: least_bytes / self.load.message_bytes as u64,
                })
            }
            Phase::Silent | Phase::Measured => None,
        }
    }

    /// What was counted in all.
    pub(crate) fn total(&self) -> Total {
        let mut total = Total::default();
        self.streams.iter().enumerate().for_each(|(stream, sent)| total.add(stream, sent));
        total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_begins_when_all_are_busy_and_ends_when_all_had_their_rounds() {
        let second = Duration::from_secs(1);
        let window = Window { warm_up: second, least: second, rounds: 2, most: 60 * second };
        let mut meter = Meter::new(Load { streams: 2, message_bytes: 10, hashed: true }, window);
        let message = [7; 10];
        meter.add(0, &message);
        let start = Instant::now();
        assert!(meter.tick(start + 5 * second).is_none());
        for _ in 0..9 {
            meter.add(0, &message);
        }
        assert!(meter.tick(start + 10 * second).is_none(), "one has brought nothing: the window has not begun");
        meter.add(1, &message);
        assert!(meter.tick(start + 20 * second).is_none(), "now it has");
        for _ in 0..3 {
            meter.add(0, &message);
        }
        meter.add(1, &message);
        assert!(meter.tick(start + 25 * second).is_none(), "one had a single round");
        meter.add(1, &message);
        let measured = meter.tick(start + 30 * second).unwrap();
        assert_eq!((measured.seconds, measured.bytes, measured.rounds), (10.0, 50, 2));
        assert_eq!(measured.jain, 2500.0 / (2.0 * (900.0 + 400.0)));
        assert!(meter.tick(start + 40 * second).is_none(), "it is told once");
        assert_eq!(meter.total().bytes, 160);
    }
}
