//! What a stream waits for, and for how long it has: a plain state machine that is told what time it is.
//!
//! An accepted stream waits for exactly one thing at any moment, as far as this node can see; so the times add up to how
//! long ago it was accepted. A stream that is being served waits for what it will need next: the numbers of one that is
//! as fast as it can be say what it is fast by.

use std::time::{Duration, Instant};

use trunkline_proto::framing::END_MARK_BYTES;

use crate::outlet::Kind;

/// What a stream waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// The producer's application: nothing waits here, and the producer has not said that it has more.
    Application,
    /// A process of this node, which sends slower than it may and wants to, or takes slower than bytes are there for it.
    Link,
    /// The consumer, which allows no more than it has been sent.
    Credit,
    /// The trunk: for its turn or its congestion window, or for bytes that a peer may send and wants to.
    Trunk,
}

impl Cause {
    const fn of(kind: Kind) -> Self {
        match kind {
            Kind::Link => Self::Link,
            Kind::Trunk => Self::Trunk,
        }
    }
}

/// What decides the [`Cause`]: offsets in the stream, and its two connections.
#[derive(Debug, Clone, Copy)]
pub(super) struct Position {
    /// Passed on.
    pub(super) passed: u64,
    /// Taken from above.
    pub(super) taken: u64,
    /// How far the side above was told that it may send.
    pub(super) told: u64,
    /// How far the consumer allows it.
    pub(super) allowed: u64,
    /// How far the producer has bytes, as it said when it lacked credit.
    pub(super) wanted: u64,
    /// Whether the end has been taken and not passed on.
    pub(super) ends: bool,
    pub(super) up: Kind,
    pub(super) down: Kind,
}

impl Position {
    /// What a stream waits for that has come so far.
    pub(super) fn cause(&self) -> Cause {
        if self.passed < self.taken || self.ends {
            // An end mark needs no credit.
            let is_beyond = self.passed >= self.allowed && self.taken > self.allowed + END_MARK_BYTES as u64;
            return if is_beyond { Cause::Credit } else { Cause::of(self.down) };
        }
        if self.wanted <= self.taken {
            Cause::Application
        } else if self.taken < self.told {
            Cause::of(self.up)
        } else if self.told < self.allowed {
            // This node allows less than the consumer does, until what it has taken leaves it below.
            Cause::of(self.down)
        } else {
            Cause::Credit
        }
    }
}

/// How long a stream has waited for each thing since it was accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) application: Duration,
    pub(crate) link: Duration,
    pub(crate) credit: Duration,
    pub(crate) trunk: Duration,
}

/// The clock of one stream. It stands still until the stream is accepted.
#[derive(Default)]
pub(super) struct Blocked {
    now: Option<(Cause, Instant)>,
    /// Nanoseconds, which last for five centuries, for there is one of these for each stream.
    application: u64,
    link: u64,
    credit: u64,
    trunk: u64,
}

impl Blocked {
    /// What the stream waits for at present; `None` before it was accepted.
    pub(super) fn cause(&self) -> Option<Cause> {
        self.now.map(|(cause, _)| cause)
    }

    /// From `now` on the stream waits for `cause`. The first call starts the clock.
    pub(super) fn turn(&mut self, cause: Cause, now: Instant) {
        if let Some((before, since)) = self.now.replace((cause, now)) {
            *self.counter(before) += nanoseconds(since, now);
        }
    }

    /// The times up to `now`.
    pub(super) fn times(&self, now: Instant) -> Times {
        let so_far = |cause, counted| {
            let more = match self.now {
                Some((current, since)) if current == cause => nanoseconds(since, now),
                _ => 0,
            };
            Duration::from_nanos(counted + more)
        };
        Times {
            application: so_far(Cause::Application, self.application),
            link: so_far(Cause::Link, self.link),
            credit: so_far(Cause::Credit, self.credit),
            trunk: so_far(Cause::Trunk, self.trunk),
        }
    }

    fn counter(&mut self, cause: Cause) -> &mut u64 {
        match cause {
            Cause::Application => &mut self.application,
            Cause::Link => &mut self.link,
            Cause::Credit => &mut self.credit,
            Cause::Trunk => &mut self.trunk,
        }
    }
}

fn nanoseconds(since: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(since).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// On the producer's node: 100 bytes were allowed and told, all of them sent and passed on.
    const PASSED: Position = Position {
        passed: 100,
        taken: 100,
        told: 100,
        allowed: 100,
        wanted: 0,
        ends: false,
        up: Kind::Link,
        down: Kind::Trunk,
    };

    #[test]
    fn a_stream_waits_for_its_application_unless_something_waits_or_is_wanted() {
        assert_eq!(PASSED.cause(), Cause::Application);
        assert_eq!(Position { wanted: 100, ..PASSED }.cause(), Cause::Application);
        assert_eq!(Position { wanted: 101, ..PASSED }.cause(), Cause::Credit);
    }

    #[test]
    fn bytes_wait_for_the_connection_below_unless_the_consumer_allows_no_more() {
        let queued = Position { passed: 50, ..PASSED };
        assert_eq!(queued.cause(), Cause::Trunk);
        assert_eq!(Position { up: Kind::Trunk, down: Kind::Link, ..queued }.cause(), Cause::Link);
        assert_eq!(Position { allowed: 50, ..queued }.cause(), Cause::Credit);
        let ending = Position { taken: 116, ends: true, ..PASSED };
        assert_eq!(ending.cause(), Cause::Trunk, "an end mark needs no credit");
        assert_eq!(Position { passed: 116, ..ending }.cause(), Cause::Trunk, "nor does the end that follows it");
    }

    #[test]
    fn what_may_be_sent_and_has_not_come_is_waited_for_above() {
        let allowed = Position { told: 200, allowed: 200, wanted: 300, ..PASSED };
        assert_eq!(allowed.cause(), Cause::Link);
        assert_eq!(Position { up: Kind::Trunk, down: Kind::Link, ..allowed }.cause(), Cause::Trunk);
    }

    #[test]
    fn what_this_node_alone_does_not_allow_waits_for_the_connection_below() {
        let held_back = Position { allowed: 200, wanted: 300, ..PASSED };
        assert_eq!(held_back.cause(), Cause::Trunk);
        assert_eq!(Position { up: Kind::Trunk, down: Kind::Link, ..held_back }.cause(), Cause::Link);
    }

    #[test]
    fn nothing_is_counted_before_the_stream_is_accepted() {
        let begin = Instant::now();
        let mut blocked = Blocked::default();
        assert_eq!(blocked.times(begin + Duration::from_secs(9)), Times::default());
        blocked.turn(Cause::Credit, begin + Duration::from_secs(9));
        assert_eq!(blocked.times(begin + Duration::from_secs(9)), Times::default());
    }

    fn any_cause() -> impl Strategy<Value = Cause> {
        prop_oneof![Just(Cause::Application), Just(Cause::Link), Just(Cause::Credit), Just(Cause::Trunk)]
    }

    proptest! {
        #[test]
        fn the_times_add_up_to_the_age_and_each_is_the_sum_of_its_spells(
            spells in prop::collection::vec((any_cause(), 0_u64..1 << 40), 1..50)
        ) {
            let begin = Instant::now();
            let mut blocked = Blocked::default();
            let mut age = Duration::ZERO;
            for (cause, length) in &spells {
                blocked.turn(*cause, begin + age);
                prop_assert_eq!(blocked.cause(), Some(*cause));
                age += Duration::from_nanos(*length);
            }
            let Times { application, link, credit, trunk } = blocked.times(begin + age);
            prop_assert_eq!(application + link + credit + trunk, age);
            let spent = |cause| spells.iter().filter(|spell| spell.0 == cause).map(|spell| spell.1).sum();
            prop_assert_eq!(application, Duration::from_nanos(spent(Cause::Application)));
            prop_assert_eq!(link, Duration::from_nanos(spent(Cause::Link)));
            prop_assert_eq!(credit, Duration::from_nanos(spent(Cause::Credit)));
            prop_assert_eq!(trunk, Duration::from_nanos(spent(Cause::Trunk)));
        }
    }
}
