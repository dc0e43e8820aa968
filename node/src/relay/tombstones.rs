//! How streams ended whose consumers are gone: what their node answers when such a stream is resumed (docs/adr/0012).

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::{Duration, Instant},
};

use trunkline_proto::{code::Code, id::Incarnation};

/// A stream's name beyond its connections: the producer's life, and the stream's number in it.
pub(crate) type StreamName = (Incarnation, u64);

/// How a stream ended at its consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Epitaph {
    /// How far it was consumed, in bytes.
    pub(crate) consumed: u64,
    /// Why, unless it was consumed to its end.
    pub(crate) code: Option<Code>,
}

#[derive(Debug, Clone, Copy)]
enum Name {
    Stream(StreamName),
    Life(Incarnation),
}

/// A bounded table of ends, each kept for a while, and of the lives of consumers that are over. The oldest goes first.
pub(crate) struct Tombstones {
    streams: HashMap<StreamName, Epitaph>,
    lives: HashMap<Incarnation, Code>,
    /// By when each of them is forgotten: oldest first.
    order: VecDeque<(Instant, Name)>,
    keep: Duration,
    entries_max: usize,
}

impl Tombstones {
    /// Keeps each end for so long, and so many at most.
    pub(crate) fn new(keep: Duration, entries_max: usize) -> Self {
        Self { streams: HashMap::new(), lives: HashMap::new(), order: VecDeque::new(), keep, entries_max }
    }

    /// A stream ended, and its producer's side may not have heard it.
    pub(crate) fn end(&mut self, stream: StreamName, epitaph: Epitaph, now: Instant) {
        // The first word stands.
        if let Entry::Vacant(vacant) = self.streams.entry(stream) {
            vacant.insert(epitaph);
            self.enter(Name::Stream(stream), now);
        }
    }

    /// A consumer's life is over, with this code for what it had not finished.
    pub(crate) fn end_life(&mut self, life: Incarnation, code: Code, now: Instant) {
        if self.lives.insert(life, code).is_none() {
            self.enter(Name::Life(life), now);
        }
    }

    /// How a stream ended, if that is known.
    pub(crate) fn stream(&mut self, stream: StreamName, now: Instant) -> Option<Epitaph> {
        self.expire(now);
        self.streams.get(&stream).copied()
    }

    /// With which code a consumer's life ended, if it is known to have ended.
    pub(crate) fn life(&mut self, life: Incarnation, now: Instant) -> Option<Code> {
        self.expire(now);
        self.lives.get(&life).copied()
    }

    fn enter(&mut self, name: Name, now: Instant) {
        self.order.push_back((now + self.keep, name));
        while self.order.len() > self.entries_max {
            self.forget_oldest();
        }
        self.expire(now);
    }

    fn expire(&mut self, now: Instant) {
        while self.order.front().is_some_and(|(until, _)| *until <= now) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        match self.order.pop_front() {
            Some((_, Name::Stream(stream))) => drop(self.streams.remove(&stream)),
            Some((_, Name::Life(life))) => drop(self.lives.remove(&life)),
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(60);

    fn stream(number: u64) -> StreamName {
        (Incarnation::from_bits(7), number)
    }

    fn epitaph(consumed: u64) -> Epitaph {
        Epitaph { consumed, code: None }
    }

    #[test]
    fn an_end_is_kept_for_a_while_and_the_first_word_of_it_stands() {
        let (mut tombstones, now) = (Tombstones::new(KEEP, 10), Instant::now());
        tombstones.end(stream(1), epitaph(5), now);
        tombstones.end(stream(1), epitaph(6), now + KEEP / 2);
        tombstones.end_life(Incarnation::from_bits(1), Code::ConsumerGone, now + KEEP / 2);
        assert_eq!(tombstones.stream(stream(1), now + KEEP * 3 / 4), Some(epitaph(5)));
        assert_eq!(tombstones.stream(stream(1), now + KEEP), None);
        assert_eq!(tombstones.life(Incarnation::from_bits(1), now + KEEP), Some(Code::ConsumerGone));
        assert_eq!(tombstones.life(Incarnation::from_bits(1), now + KEEP * 3 / 2), None);
        assert!(tombstones.order.is_empty() && tombstones.streams.is_empty() && tombstones.lives.is_empty());
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut tombstones, now) = (Tombstones::new(KEEP, 3), Instant::now());
        for number in 0..5 {
            tombstones.end(stream(number), epitaph(number), now);
        }
        let known = |tombstones: &mut Tombstones, number| tombstones.stream(stream(number), now).is_some();
        assert_eq!([0, 1, 2, 3, 4].map(|number| known(&mut tombstones, number)), [false, false, true, true, true]);
        assert_eq!(tombstones.order.len(), 3);
    }
}
