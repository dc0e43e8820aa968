//! Refusals in plain words, once each: a peer that tries twice a second must not fill the log.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use tracing::warn;

use crate::events::counted;

/// The same refusal of the same stranger is not logged again sooner than this.
const SILENCE: Duration = Duration::from_secs(60);
/// How many different reasons one stranger is logged with in that time: a part of a reason may be its own words.
const REASONS_MAX: usize = 32;
/// How many strangers are remembered. A flood of others is logged, and forgets these.
const STRANGERS_MAX: usize = 1024;
/// The longest reason that is logged, in bytes.
const REASON_BYTES_MAX: usize = 512;

/// What has been logged lately.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    seen: RefCell<HashMap<String, Stranger>>,
}

#[derive(Debug)]
struct Stranger {
    since: Instant,
    reasons: HashSet<String>,
    unlogged: u64,
}

impl Refusals {
    /// Logs that `who` was refused, and why, unless that was said within the last minute.
    pub(crate) fn warn(&self, who: &str, why: &str) {
        let why = printable(why);
        if let Some(before) = self.fresh(who, &why, Instant::now()) {
            match before {
                0 => warn!("{who}: {why}"),
                before => {
                    warn!("{who}: {why} (and {} before, unlogged)", counted(before, "refusal", "refusals"));
                }
            }
        }
    }

    /// `Some` when it is to be logged, with how often this stranger was refused unlogged.
    fn fresh(&self, who: &str, why: &str, now: Instant) -> Option<u64> {
        let mut seen = self.seen.borrow_mut();
        if seen.len() >= STRANGERS_MAX && !seen.contains_key(who) {
            seen.clear();
        }
        let fresh = || Stranger { since: now, reasons: HashSet::new(), unlogged: 0 };
        let stranger = seen.entry(who.to_owned()).or_insert_with(fresh);
        let mut before = 0;
        if now.duration_since(stranger.since) >= SILENCE {
            before = stranger.unlogged;
            *stranger = fresh();
        }
        if stranger.reasons.len() >= REASONS_MAX || !stranger.reasons.insert(why.to_owned()) {
            stranger.unlogged += 1;
            return None;
        }
        Some(before)
    }
}

/// A stranger's words must not move the cursor, nor fill the page.
pub(crate) fn printable(why: &str) -> String {
    let mut end = why.len().min(REASON_BYTES_MAX);
    while !why.is_char_boundary(end) {
        end -= 1;
    }
    why[..end].chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
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
    fn a_stranger_with_ever_new_words_is_logged_a_few_times() {
        let refusals = Refusals::default();
        let start = Instant::now();
        let logged = (0..1_000).filter(|n| refusals.fresh("10.0.0.1", &n.to_string(), start).is_some()).count();
        assert_eq!(logged, REASONS_MAX);
        assert_eq!(refusals.fresh("10.0.0.1", "again", start + SILENCE), Some(1_000 - REASONS_MAX as u64));
    }

    #[test]
    fn words_are_printable_and_short() {
        assert_eq!(printable("a\nb\x1b[2J"), "a\u{fffd}b\u{fffd}[2J");
        assert!(printable(&"\u{e9}".repeat(1_000)).len() <= REASON_BYTES_MAX);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let refusals = Refusals::default();
        for stranger in 0..10 * STRANGERS_MAX {
            refusals.fresh(&stranger.to_string(), "expired", Instant::now());
        }
        assert!(refusals.seen.borrow().len() <= STRANGERS_MAX);
    }
}
