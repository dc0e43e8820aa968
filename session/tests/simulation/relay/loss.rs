//! How a path is lost: some of what was under way still arrives, late, and each side hears of it in its own time.

use trunkline_proto::code::Code;

use super::{Relay, Sabotage};
use crate::random::Random;

/// Rounds after which nothing arrives any more that was under way.
const LATE_ROUNDS_MAX: u64 = 100;

/// What the sides of a lost path are still to hear.
#[derive(Debug, Default)]
pub(super) struct Loss {
    at: u64,
    /// Towards the consumer, and towards the producer.
    pub(super) down: Option<(u64, Code)>,
    pub(super) up: Option<(u64, Code)>,
}

impl Relay {
    /// The path is lost, and takes nothing any more. False where it was lost before; and one that has lied stays, so that it
    /// takes effect.
    pub(crate) fn lose(&mut self, now: u64, random: &mut Random) -> bool {
        if self.is_lost || self.has_sabotaged {
            return false;
        }
        self.is_lost = true;
        if self.has_fault(Sabotage::KeepOldBytes) {
            self.undelivered = self.chunks.iter().map(|chunk| chunk.bytes.clone()).collect();
        }
        let lag = random.pick(&[0, 0, 5, 25]);
        self.chunks.truncate(random.index(self.chunks.len() + 1));
        self.news.truncate(random.index(self.news.len() + 1));
        for chunk in &mut self.chunks {
            chunk.due += lag;
        }
        for (due, _) in &mut self.news {
            *due += lag;
        }
        late(&mut self.first, lag, random, |due| due);
        late(&mut self.want, lag, random, |(due, _)| due);
        late(&mut self.limit, lag, random, |(due, _)| due);
        late(&mut self.answer, lag, random, |(due, _)| due);
        late(&mut self.ending.abort_down, lag, random, |(due, ..)| due);
        late(&mut self.ending.abort_up, lag, random, |(due, ..)| due);
        late(&mut self.ending.ack_down, lag, random, |due| due);
        late(&mut self.ending.ack_up, lag, random, |due| due);
        let notice = |random: &mut Random| {
            let code = random.pick(&[Code::TrunkLost, Code::NodeLost, Code::Superseded]);
            Some((self.due(now, random) + random.pick(&[0, 0, 10, 40]), code))
        };
        let (down, up) = (notice(random), notice(random));
        self.loss = Loss { at: now, down, up };
        true
    }

    /// A path that leads nowhere from the beginning. In time the producer may hear of it.
    pub(super) fn lead_nowhere(&mut self, now: u64, random: &mut Random) {
        self.is_lost = true;
        let up = random.percent(50).then(|| (now + random.between(1, 40), Code::TrunkLost));
        self.loss = Loss { at: now, down: None, up };
    }

    /// RESUME is refused on the way.
    pub(super) fn refuse(&mut self, now: u64, random: &mut Random) {
        self.is_lost = true;
        self.loss.at = now;
        self.ending.abort_up = Some((self.due(now, random), Code::Busy, 0, "a table is full".to_owned()));
    }

    /// Whether nothing arrives from here any more.
    pub(crate) fn is_gone(&self, now: u64) -> bool {
        self.is_lost && now > self.loss.at + LATE_ROUNDS_MAX && self.loss.down.is_none() && self.loss.up.is_none()
    }
}

/// What was under way when the path was lost is lost too, or late.
fn late<T>(under_way: &mut Option<T>, lag: u64, random: &mut Random, due: impl Fn(&mut T) -> &mut u64) {
    if random.percent(50) {
        *under_way = None;
    }
    if let Some(item) = under_way {
        *due(item) += lag;
    }
}
