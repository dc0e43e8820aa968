//! When a connection is silent though it owes an answer.

use std::time::{Duration, Instant};

/// A trunk that owes an answer for so long is raced by another dial: far longer than a round trip, and before its own timers
/// have become slow.
const SILENT_AFTER: Duration = Duration::from_secs(1);

/// What a connection has sent and received, as it is looked at now and then.
#[derive(Debug, Default)]
pub(super) struct Silence {
    received: u64,
    /// What had been sent when it was last sure that nothing was owed.
    sent: u64,
    /// Something was received at the last look: what was sent since may be no more than its acknowledgement.
    acknowledges: bool,
    since: Option<Instant>,
}

impl Silence {
    /// Takes note of how many datagrams the connection has sent and received. Returns whether it is silent.
    pub(super) fn look(&mut self, sent: u64, received: u64, now: Instant) -> bool {
        let heard = std::mem::replace(&mut self.received, received) != received;
        if heard || self.acknowledges {
            self.sent = sent;
            self.since = None;
        }
        self.acknowledges = heard;
        if sent == self.sent {
            return false;
        }
        now.duration_since(*self.since.get_or_insert(now)) >= SILENT_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks every quarter of a second; returns at which looks it was silent.
    fn silent_at(looks: impl IntoIterator<Item = (u64, u64)>) -> Vec<usize> {
        let (mut silence, start) = (Silence::default(), Instant::now());
        let at = |look: usize| start + Duration::from_millis(250) * u32::try_from(look).unwrap();
        let looks = looks.into_iter().enumerate();
        looks.filter_map(|(look, (sent, received))| silence.look(sent, received, at(look)).then_some(look)).collect()
    }

    #[test]
    fn who_is_not_answered_for_a_second_faces_silence() {
        assert_eq!(silent_at([(1, 1), (1, 1), (2, 1), (2, 1), (3, 1), (3, 1), (4, 1), (4, 2), (4, 2)]), [6]);
    }

    #[test]
    fn an_acknowledgement_is_not_answered() {
        assert_eq!(silent_at([(1, 1), (1, 2), (2, 2), (2, 2), (2, 2), (2, 2), (2, 2), (2, 2)]), []);
    }

    #[test]
    fn who_says_nothing_owes_nothing() {
        assert_eq!(silent_at([(5, 5); 20]), []);
    }

    #[test]
    fn answers_that_come_in_time_are_no_silence() {
        assert_eq!(silent_at((1..40).map(|look| (look, look / 3))), []);
    }
}
