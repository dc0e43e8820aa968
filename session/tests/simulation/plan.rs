//! What a seed stands for: the streams, their messages, the sizes, the patience of each application, and the faults.

use bytes::Bytes;
use trunkline_session::SharedBudgetConfig;

use crate::{
    random::Random,
    relay::{Sabotage, Word},
};

/// How long an end waits for a path where nobody is impatient, counted from the last fault: longer than it takes to resume.
const PATIENCE_ROUNDS: u64 = 300;

/// How the producing application leaves its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// It finishes after its last message and waits.
    Finish,
    /// It gives up after this many messages.
    Abort(usize),
    /// It finishes and then gives up, after this many rounds.
    FinishThenAbort(u64),
}

/// How the consuming application treats a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reader {
    /// Chance that it reads in a round, in percent.
    pub(crate) reads_percent: u64,
    /// Chance that it reads bytes and not a message, in percent, and the most that it reads so at once.
    pub(crate) bytes_percent: u64,
    pub(crate) bytes_max: usize,
    /// Rounds in which it reads nothing, first and last.
    pub(crate) asleep: (u64, u64),
    /// It gives up after this many messages.
    pub(crate) cancels_after: Option<usize>,
    /// It refuses the stream.
    pub(crate) refuses: bool,
    /// The round in which it comes to bind its name.
    pub(crate) binds_at: u64,
}

/// When a path is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// In this round.
    At(u64),
    /// So many rounds after this was said. 0: before it has gone anywhere.
    After(Word, u64),
}

/// What becomes of the paths of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct PathsPlan {
    pub(crate) losses: Vec<Moment>,
    /// The round from which on no path leads anywhere.
    pub(crate) dark_from: Option<u64>,
    /// How many rounds the producer and the consumer wait for a path, where they are impatient.
    pub(crate) patience: Option<(u64, u64)>,
    /// How many RESUMEs are refused, at most.
    pub(crate) refusals: usize,
    /// The most rounds that a RESUME waits on its way for a trunk, or for its consumer to come back.
    pub(crate) outage_rounds_max: u64,
}

impl PathsPlan {
    /// The round in which somebody who waits since then, for as long as that, waits no longer.
    pub(crate) fn waits_until(since: u64, patience: Option<u64>, last_fault: u64) -> u64 {
        patience.map_or(since.max(last_fault) + PATIENCE_ROUNDS, |rounds| since + rounds)
    }
}

#[derive(Debug)]
pub(crate) struct StreamPlan {
    pub(crate) process: usize,
    pub(crate) messages: Vec<Bytes>,
    pub(crate) ending: Ending,
    pub(crate) reader: Reader,
    pub(crate) paths: PathsPlan,
    /// From this round on nothing breaks but what was drawn to break at a word, and every application reads.
    pub(crate) calm_from: u64,
    /// The consuming process forgets the stream as soon as it may.
    pub(crate) is_forgotten: bool,
    /// Bytes that the producer's node lets the producer be ahead.
    pub(crate) allowance: u64,
    pub(crate) delay_rounds_max: u64,
    pub(crate) chunk_bytes_max: usize,
}

#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) budgets: Vec<SharedBudgetConfig>,
    pub(crate) streams: Vec<StreamPlan>,
    /// As each stream's.
    pub(crate) calm_from: u64,
}

impl Plan {
    pub(crate) fn draw(random: &mut Random, sabotage: Option<Sabotage>) -> Self {
        let calm_from = random.between(50, 300);
        let processes = random.between(1, 3);
        let budgets: Vec<_> = (0..processes).map(|_| budget(random)).collect();
        let streams_max = random.pick(&[1, 3, 12, 40, 40]);
        let streams = (0..random.between(1, streams_max)).map(|_| {
            let process = random.index(budgets.len());
            stream(random, process, &budgets[process], calm_from, sabotage)
        });
        Self { streams: streams.collect(), budgets, calm_from }
    }

    /// The longest message that a process takes.
    pub(crate) fn message_bytes_max(config: &SharedBudgetConfig) -> usize {
        usize::try_from(config.large_bytes - 64).unwrap_or(usize::MAX)
    }

    /// Rounds after which a run that is not over is stuck.
    pub(crate) fn rounds_max(&self) -> u64 {
        let cost = |stream: &StreamPlan| {
            let bytes: usize = stream.messages.iter().map(Bytes::len).sum();
            // A round trip for each message, and for each time that the producer's node lets it go on.
            let mut turns = stream.messages.len() as u64 + 2 + bytes as u64 / stream.allowance;
            if stream.reader.bytes_percent > 0 {
                // Where the budget is short, a stream that is read as bytes is let go on by the length of a length.
                turns += bytes as u64 / 4;
            }
            // With each path that is lost, all may begin anew.
            let paths = stream.paths.losses.len() as u64 + 1;
            (turns * (4 * stream.delay_rounds_max + 8) + 2 * PATIENCE_ROUNDS) * paths
        };
        self.calm_from + 500 + self.streams.iter().map(cost).sum::<u64>()
    }
}

fn budget(random: &mut Random) -> SharedBudgetConfig {
    let large_bytes = random.pick(&[64, 100, 2_000, 40_000]);
    match random.below(4) {
        0 => SharedBudgetConfig {
            budget_bytes: random.below(200),
            idle_bytes: 4,
            turn_bytes: 16,
            stream_bytes_max: 64,
            large_bytes,
        },
        // Too little for all that want at once: what one does not use is asked back for another.
        1 => SharedBudgetConfig {
            budget_bytes: 600,
            idle_bytes: 60,
            turn_bytes: 100,
            stream_bytes_max: 400,
            large_bytes,
        },
        2 => SharedBudgetConfig {
            budget_bytes: 3_000,
            idle_bytes: 400,
            turn_bytes: 500,
            stream_bytes_max: 2_000,
            large_bytes,
        },
        _ => SharedBudgetConfig { large_bytes, ..SharedBudgetConfig::default() },
    }
}

fn stream(
    random: &mut Random,
    process: usize,
    budget: &SharedBudgetConfig,
    calm_from: u64,
    sabotage: Option<Sabotage>,
) -> StreamPlan {
    let length_max = random.pick(&[0, 1, 70, 100, 1_000, 5_000, 40_000]).min(Plan::message_bytes_max(budget));
    // Many small ones keep a stream busy for long beside others, which is when credit is asked back.
    let count = random.pick(&[0, 1, 5, 30, if length_max <= 100 { 60 } else { 30 }]);
    let count = random.size(0, count);
    let messages: Vec<_> = (0..count).map(|_| message(random, length_max)).collect();
    // Beside a sabotage nothing else may end a stream, or it would go unnoticed with good reason.
    let gives_up = sabotage.is_none_or(Sabotage::needs_aborts);
    let has_faults = sabotage.is_none();
    // Two messages that changed places look the same as bytes when one of them is empty. And where the budget lets a
    // stream go on by four bytes at a time, a long message would take the run of a thousand others.
    let may_read_bytes = (has_faults || messages.iter().all(|message| !message.is_empty()))
        && (budget.budget_bytes > 1_000 || length_max <= 1_000);
    let asleep_from = random.below(calm_from);
    let asleep_for = random.pick(&[0, 0, 20, calm_from]);
    StreamPlan {
        process,
        ending: match random.below(20) {
            0 | 1 if gives_up => Ending::Abort(random.size(0, messages.len())),
            2 if has_faults => Ending::FinishThenAbort(random.below(20)),
            _ => Ending::Finish,
        },
        reader: Reader {
            reads_percent: random.pick(&[5, 50, 100]),
            bytes_percent: if may_read_bytes { random.pick(&[0, 0, 50, 100]) } else { 0 },
            bytes_max: random.pick(&[10, 1_000, 70_000]),
            asleep: (asleep_from, asleep_from + asleep_for),
            cancels_after: (has_faults && random.percent(8)).then(|| random.size(0, messages.len())),
            refuses: has_faults && random.percent(4),
            binds_at: random.pick(&[0, 0, 30]),
        },
        paths: paths(random, calm_from, sabotage),
        calm_from,
        is_forgotten: random.percent(50),
        messages,
        allowance: random.pick(&[300, 5_000, u64::MAX / 4]),
        delay_rounds_max: random.pick(&[0, 1, 8]),
        chunk_bytes_max: random.pick(&[1, 7, 100, 3_000, 65_536]).max(length_max / 50),
    }
}

/// Draws what becomes of a stream's paths. Beside a sabotage of these all are lost some time, and none for good.
fn paths(random: &mut Random, calm_from: u64, sabotage: Option<Sabotage>) -> PathsPlan {
    let (is_lossy, is_impatient, is_dark) = match sabotage {
        None => (random.percent(40), random.percent(10), random.percent(8)),
        Some(fault) => (fault.needs_losses(), false, false),
    };
    if !is_lossy && !is_impatient && !is_dark {
        return PathsPlan::default();
    }
    let losses = (0..random.pick(&[1, 2, 3, 4, 8])).map(|_| {
        if random.percent(40) {
            Moment::At(random.below(calm_from))
        } else {
            let words = if random.percent(40) { Word::RARE } else { Word::ALL };
            Moment::After(random.pick(words), random.pick(&[0, 0, 1, 2, 8]))
        }
    });
    let losses = losses.collect();
    PathsPlan {
        losses,
        dark_from: is_dark.then(|| random.below(calm_from)),
        patience: (is_dark || is_impatient).then(|| (random.between(5, 80), random.between(5, 80))),
        refusals: random.pick(&[0, 0, 1, 3]),
        outage_rounds_max: random.pick(&[0, 0, 20, 60]),
    }
}

fn message(random: &mut Random, length_max: usize) -> Bytes {
    let longest = if random.percent(60) { length_max.min(150) } else { length_max };
    let length = if random.percent(10) { 0 } else { random.size(0, longest) };
    (0..length).map(|_| random.next().to_le_bytes()[0]).collect()
}
