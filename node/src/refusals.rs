//! Refusals in plain words, once each: a peer that tries twice a second must not fill the log.

use std::{
    cell::RefCell,
    collections::HashMap,
    time::{Duration, Instant},
};

use tracing::warn;

/// The same refusal of the same stranger is not logged again sooner than this.
const SILENCE: Duration = Duration::from_secs(60);
/// How many different ones are remembered. A flood of others is logged, and forgets these.
const REMEMBERED_MAX: usize = 1024;

/// What has been logged lately.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    seen: RefCell<HashMap<(String, String), (Instant, u64)>>,
}

impl Refusals {
    /// Logs that `who` was refused, and why, unless that was said within the last minute.
    pub(crate) fn warn(&self, who: &str, why: &str) {
        if let Some(before) = self.fresh(who, why, Instant::now()) {
            match before {
                0 => warn!("{who}: {why}"),
                before => warn!("{who}: {why} (and {before} times before, unlogged)"),
            }
        }
    }

    /// `Some` when it is to be logged, with how often it was not.
    fn fresh(&self, who: &str, why: &str, now: Instant) -> Option<u64> {
        let mut seen = self.seen.borrow_mut();
        let key = (who.to_owned(), why.to_owned());
        if let Some((logged, unlogged)) = seen.get_mut(&key) {
            if now.duration_since(*logged) < SILENCE {
                *unlogged += 1;
                return None;
            }
            *logged = now;
            return Some(std::mem::take(unlogged));
        }
        if seen.len() >= REMEMBERED_MAX {
            seen.clear();
        }
        seen.insert(key, (now, 0));
        Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_refusal_is_said_once_a_minute_and_counted_meanwhile() {
        let refusals = Refusals::default();
        let start = Instant::now();
        assert_eq!(refusals.fresh("10.0.0.1", "expired", start), Some(0));
        assert_eq!(refusals.fresh("10.0.0.1", "expired", start + SILENCE / 2), None);
        assert_eq!(refusals.fresh("10.0.0.1", "no certificate", start), Some(0));
        assert_eq!(refusals.fresh("10.0.0.2", "expired", start), Some(0));
        assert_eq!(refusals.fresh("10.0.0.1", "expired", start + SILENCE), Some(1));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let refusals = Refusals::default();
        for stranger in 0..10 * REMEMBERED_MAX {
            refusals.fresh(&stranger.to_string(), "expired", Instant::now());
        }
        assert!(refusals.seen.borrow().len() <= REMEMBERED_MAX);
    }
}
