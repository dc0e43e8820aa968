//! A credit policy that a test can look into and steer.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use trunkline_session::{Cap, CreditPolicy, Grant, Reclaim};

/// Lets each stream be so many bytes ahead of what it consumed, as far as its ceiling allows.
#[derive(Debug, Clone)]
pub(super) struct Ahead(Arc<Mutex<Book>>);

#[derive(Debug, Default)]
struct Book {
    ahead: u64,
    streams: BTreeMap<u64, Stream>,
    grants: VecDeque<Grant>,
    reclaims: VecDeque<Reclaim>,
    limited: Vec<u64>,
}

#[derive(Debug, Clone, Copy)]
struct Stream {
    ceiling: u64,
    consumed: u64,
    limit: u64,
    wanted: u64,
    asked: bool,
}

impl Ahead {
    pub(super) fn of(ahead: u64) -> Self {
        Self(Arc::new(Mutex::new(Book { ahead, ..Book::default() })))
    }

    /// Wants the credit of a stream beyond `limit` back, when it is polled next.
    pub(super) fn ask_back(&self, stream: u64, limit: u64) {
        self.book().reclaims.push_back(Reclaim { stream, limit });
    }

    /// What it was answered since it was asked here last.
    pub(super) fn answers(&self) -> Vec<u64> {
        std::mem::take(&mut self.book().limited)
    }

    /// How far it heard that a stream has been passed on, and how far that one wants to be sent.
    pub(super) fn heard(&self, stream: u64) -> (u64, u64) {
        let Stream { consumed, wanted, .. } = self.book().streams[&stream];
        (consumed, wanted)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.book().streams.is_empty()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap()
    }

    fn change(&self, stream: u64, change: impl FnOnce(&mut Stream)) {
        let mut book = self.book();
        let ahead = book.ahead;
        let Some(entry) = book.streams.get_mut(&stream) else { return };
        change(entry);
        let limit = entry.consumed.saturating_add(ahead).min(entry.ceiling);
        if limit > entry.limit {
            entry.limit = limit;
            book.grants.push_back(Grant { stream, limit });
        } else if entry.ceiling < entry.limit && !std::mem::replace(&mut entry.asked, true) {
            let limit = entry.ceiling;
            book.reclaims.push_back(Reclaim { stream, limit });
        }
    }
}

impl CreditPolicy for Ahead {
    fn open_at(&mut self, stream: u64, consumed: u64, _cap: Option<Cap>) -> u64 {
        let limit = consumed.saturating_add(self.book().ahead);
        self.book().streams.insert(stream, Stream { ceiling: u64::MAX, consumed, limit, wanted: 0, asked: false });
        limit
    }

    fn ceiling(&mut self, stream: u64, ceiling: u64) {
        self.change(stream, |entry| entry.ceiling = ceiling);
    }

    fn limited(&mut self, stream: u64, limit: u64) {
        let mut book = self.book();
        book.limited.push(limit);
        if let Some(entry) = book.streams.get_mut(&stream) {
            entry.limit = entry.limit.min(limit);
            entry.asked = false;
        }
    }

    fn consumed(&mut self, stream: u64, consumed: u64) {
        self.change(stream, |entry| entry.consumed = consumed);
    }

    fn wanted(&mut self, stream: u64, wanted: u64) {
        self.change(stream, |entry| entry.wanted = wanted);
    }

    fn message(&mut self, _stream: u64, _consumed: u64, _end: u64) {
        panic!("a relay knows nothing of messages");
    }

    fn close(&mut self, stream: u64) {
        let mut book = self.book();
        book.streams.remove(&stream);
        book.grants.retain(|grant| grant.stream != stream);
        book.reclaims.retain(|reclaim| reclaim.stream != stream);
    }

    fn poll_grant(&mut self) -> Option<Grant> {
        self.book().grants.pop_front()
    }

    fn poll_reclaim(&mut self) -> Option<Reclaim> {
        self.book().reclaims.pop_front()
    }

    fn is_waited_for(&self) -> bool {
        false
    }

    fn pass_time(&mut self) {}
}
