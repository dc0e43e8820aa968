//! The paths of one stream, one after another. A lost one may still deliver what was under way, beside the next.

use std::ops::Range;

use trunkline_session::Asked;

use crate::{
    plan::{Moment, PathsPlan, StreamPlan},
    random::Random,
    relay::{First, Past, Relay, Sabotage, Settings, Word},
};

#[derive(Debug)]
pub(crate) struct Paths {
    settings: Settings,
    plan: PathsPlan,
    relays: Vec<Relay>,
    /// Before this one all have delivered what they will.
    first_open: usize,
    /// When the newest is lost, for something that was said.
    due_losses: Vec<(u64, Word)>,
    /// When the last one was lost, or refused.
    pub(crate) last_fault: u64,
    pub(crate) losses: usize,
    /// By the word after which they were lost.
    pub(crate) losses_after: [usize; Word::ALL.len()],
    pub(crate) refusals: usize,
}

impl Paths {
    pub(crate) fn new(plan: &StreamPlan, sabotage: Option<Sabotage>) -> Self {
        let settings = Settings { allowance: plan.allowance, delay_rounds_max: plan.delay_rounds_max, sabotage };
        Self {
            settings,
            plan: plan.paths.clone(),
            relays: Vec::new(),
            first_open: 0,
            due_losses: Vec::new(),
            last_fault: 0,
            losses: 0,
            losses_after: [0; Word::ALL.len()],
            refusals: 0,
        }
    }

    /// The producer, which knows `known` bytes to have come, says OPEN or RESUME on a new path. Returns its index.
    pub(crate) fn begin(&mut self, asked: Asked, epoch: u32, known: u64, now: u64, random: &mut Random) -> usize {
        assert_eq!(usize::try_from(epoch).ok(), Some(self.relays.len()), "an epoch is one more than the last");
        let mut past = Past { known, ..Past::default() };
        for relay in &mut self.relays {
            relay.leave(&mut past);
        }
        let mut relay = Relay::new(self.settings, asked, epoch, past);
        let is_dark = epoch > 0 && self.plan.dark_from.is_some_and(|dark_from| dark_from <= now);
        let fate = if is_dark {
            First::LeadsNowhere
        } else if asked == Asked::Resume && self.refusals < self.plan.refusals && random.percent(50) {
            self.refusals += 1;
            self.last_fault = now;
            First::Refused
        } else {
            let outage = if asked == Asked::Resume { self.plan.outage_rounds_max } else { 0 };
            First::Arrives { after: random.between(0, outage) }
        };
        relay.take_first(fate, now, random);
        self.relays.push(relay);
        self.relays.len() - 1
    }

    pub(crate) fn relay(&mut self, path: usize) -> &mut Relay {
        &mut self.relays[path]
    }

    /// The paths from which something may still arrive.
    pub(crate) fn open(&mut self, now: u64) -> Range<usize> {
        while self.relays.get(self.first_open).is_some_and(|relay| relay.is_gone(now)) {
            self.first_open += 1;
        }
        self.first_open..self.relays.len()
    }

    /// Loses the newest path where that is due.
    pub(crate) fn pass_time(&mut self, now: u64, random: &mut Random) {
        if self.plan.losses.contains(&Moment::At(now)) || self.plan.dark_from == Some(now) {
            self.lose(None, now, random);
        }
        while let Some(due) = self.due_losses.iter().position(|&(due, _)| due <= now) {
            let (_, word) = self.due_losses.swap_remove(due);
            self.lose(Some(word), now, random);
        }
    }

    /// Loses the newest path at once, or some time later, where something was said after which that is planned.
    pub(crate) fn hear(&mut self, now: u64, random: &mut Random) {
        let words: Vec<_> = self.relays.iter_mut().flat_map(|relay| std::mem::take(&mut relay.said)).collect();
        for said in words {
            let is_after = |&moment: &Moment| matches!(moment, Moment::After(word, _) if word == said);
            let Some(at) = self.plan.losses.iter().position(is_after) else { continue };
            match self.plan.losses.swap_remove(at) {
                Moment::After(_, 0) => self.lose(Some(said), now, random),
                Moment::After(_, lag) => self.due_losses.push((now + lag, said)),
                Moment::At(_) => {}
            }
        }
    }

    fn lose(&mut self, after: Option<Word>, now: u64, random: &mut Random) {
        if self.relays.last_mut().is_some_and(|relay| relay.lose(now, random)) {
            self.losses += 1;
            if let Some(word) = after {
                self.losses_after[word as usize] += 1;
            }
            self.last_fault = now;
        }
    }

    /// The producer has left the path, and waits for no other.
    pub(crate) fn leave(&mut self, path: usize, now: u64, random: &mut Random) {
        self.relays[path].lose(now, random);
    }

    pub(crate) fn has_sabotaged(&self) -> bool {
        self.relays.iter().any(|relay| relay.has_sabotaged)
    }

    pub(crate) fn noise(&self) -> u64 {
        self.relays.iter().map(|relay| relay.noise).sum()
    }

    /// Whether an opening is still under way.
    pub(crate) fn is_opening(&self) -> bool {
        self.relays.iter().any(Relay::is_opening)
    }

    /// The highest limit that the producer ever knew of.
    pub(crate) fn limit_told_max(&self) -> u64 {
        self.relays.iter().map(Relay::limit_told_max).max().unwrap_or(0)
    }
}
