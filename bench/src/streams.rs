//! `streams`: does throughput fall with the number of streams, and do they share it fairly?

use std::{collections::BTreeMap, fmt, time::Duration};

use clap::{Args, value_parser};
use serde::Serialize;

use crate::{
    bulk::{Outcome, Run, Way},
    cli::Common,
    error::BenchError,
    measure::{Estimate, interleaved, median, ratio},
    report::{Progress, Report, Table, mib, rounded},
    roles::{Load, Window},
};

/// The receive budget of a process that asks for no other.
const BUDGET_BYTES: u64 = 256 << 20;
/// Rounds for the numbers of streams between one and the most, which no ratio is taken of.
const ROUNDS_BETWEEN: usize = 3;

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Numbers of busy streams [default: 1,10,100,1000,10000,100000, with --quick 1,1000]
    #[arg(long, value_delimiter = ',', value_name = "N,…", value_parser = value_parser!(u32).range(1..=1_000_000))]
    counts: Vec<u32>,
    /// Length of each message
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 10, value_parser = value_parser!(u32).range(1..=64 << 20))]
    message_bytes: u32,
    /// Leaves out bare quinn with a task for each stream, which comes to no end with very many
    #[arg(long)]
    no_tasks: bool,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Streams {
    rows: Vec<Row>,
    /// Goodput with the most streams to goodput with the fewest, embedded.
    embedded_ratio_max_to_one: f64,
    embedded_interval: Estimate,
    /// The same through daemons.
    daemons_ratio_max_to_one: f64,
    daemons_interval: Estimate,
    bare_one_stream_mb_per_s: f64,
}

/// Runs of one kind: medians.
#[derive(Debug, Serialize)]
struct Row {
    mode: &'static str,
    streams: usize,
    mb_per_s: f64,
    jain: f64,
    /// Messages of each stream in the window, at least.
    rounds: u64,
    /// Of the process that had the most.
    rss_mib: f64,
    /// Of each process.
    rss_mib_by_process: BTreeMap<&'static str, f64>,
    /// The consumer's receive budget.
    budget_mib: f64,
    message_bytes: usize,
}

impl Row {
    fn of(run: &Run, outcomes: &[Outcome]) -> Self {
        let mut rss_mib_by_process = BTreeMap::new();
        for (&process, &mib) in outcomes.iter().flat_map(|outcome| &outcome.rss_mib) {
            let most = rss_mib_by_process.entry(process).or_insert(mib);
            *most = mib.max(*most);
        }
        Self {
            mode: run.way.word(),
            streams: run.load.streams,
            mb_per_s: rounded(median(outcomes.iter().map(|outcome| outcome.measured.mb_per_s())), 1),
            jain: rounded(median(outcomes.iter().map(|outcome| outcome.measured.jain)), 4),
            rounds: outcomes.iter().map(|outcome| outcome.measured.rounds).min().unwrap_or_default(),
            rss_mib: rss_mib_by_process.values().copied().fold(0.0, f64::max),
            rss_mib_by_process,
            budget_mib: mib(BUDGET_BYTES),
            message_bytes: run.load.message_bytes,
        }
    }
}

/// Measures.
pub(crate) async fn run(arguments: &Arguments, common: Common, progress: &Progress) -> Result<Streams, BenchError> {
    let mut counts: Vec<usize> = arguments.counts.iter().map(|&count| count as usize).collect();
    if counts.is_empty() {
        counts = if common.quick { vec![1, 1_000] } else { vec![1, 10, 100, 1_000, 10_000, 100_000] };
    }
    counts.sort_unstable();
    counts.dedup();
    let (first, last) = (counts[0], counts[counts.len() - 1]);
    let make = |way, streams| Run {
        way,
        load: Load { streams, message_bytes: arguments.message_bytes as usize, hashed: true },
        window: window(common.quick),
        one_by_one: false,
    };

    let mut rows = Vec::new();
    let mut ratios = Vec::new();
    for way in [Way::Embedded, Way::Daemons] {
        progress.measure(format!("{} with {first} and {last} streams", way.word()));
        let runs = [make(way, first), make(way, last)];
        let outcomes = interleaved(common, runs.len(), progress, async |index| runs[index].run().await).await?;
        ratios.push(ratio(&outcomes[1], &outcomes[0], |outcome| outcome.measured.mb_per_s()));
        let kinds = if first == last { 1 } else { 2 };
        rows.extend(runs.iter().zip(&outcomes).take(kinds).map(|(run, outcomes)| Row::of(run, outcomes)));
    }

    let mut others = vec![make(Way::Bare, 1)];
    let between = counts.iter().filter(|&&count| count != first && count != last);
    others.extend(between.flat_map(|&count| [Way::Embedded, Way::Daemons].map(|way| make(way, count))));
    if !arguments.no_tasks {
        others.extend(counts.iter().map(|&count| make(Way::BareTaskPerStream, count)));
    }
    progress.measure("the numbers between, and bare quinn");
    let fewer = common.at_most(if common.quick { 1 } else { ROUNDS_BETWEEN });
    let outcomes = interleaved(fewer, others.len(), progress, async |index| others[index].run().await).await?;
    rows.extend(others.iter().zip(&outcomes).map(|(run, outcomes)| Row::of(run, outcomes)));
    rows.sort_by_key(|row| (row.mode, row.streams));

    let bare = rows.iter().find(|row| row.mode == Way::Bare.word());
    let bare_one_stream_mb_per_s = bare.map_or(0.0, |row| row.mb_per_s);
    let [embedded_interval, daemons_interval] = [ratios[0], ratios[1]];
    Ok(Streams {
        rows,
        embedded_ratio_max_to_one: rounded(embedded_interval.median, 3),
        embedded_interval,
        daemons_ratio_max_to_one: rounded(daemons_interval.median, 3),
        daemons_interval,
        bare_one_stream_mb_per_s,
    })
}

/// Ten full rounds and three seconds; less where the figures do not count.
fn window(quick: bool) -> Window {
    if quick {
        let ms = Duration::from_millis;
        Window { warm_up: ms(50), least: ms(150), rounds: 2, most: Duration::from_secs(2) }
    } else {
        let s = Duration::from_secs;
        Window { warm_up: s(1), least: s(3), rounds: 10, most: s(120) }
    }
}

impl Report for Streams {}

impl fmt::Display for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["mode", "streams", "MB/s", "Jain", "rounds", "peak MiB (largest process)"]);
        for row in &self.rows {
            table.row([
                row.mode.to_owned(),
                row.streams.to_string(),
                format!("{:.1}", row.mb_per_s),
                format!("{:.4}", row.jain),
                row.rounds.to_string(),
                format!("{:.1}", row.rss_mib),
            ]);
        }
        writeln!(f, "{table}")?;
        writeln!(f, "most streams against fewest, embedded: {}", self.embedded_interval)?;
        writeln!(f, "most streams against fewest, daemons:  {}", self.daemons_interval)
    }
}
