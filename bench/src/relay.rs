//! `relay`: what the way through a node costs, against bare quinn between the same processes.

use std::{fmt, time::Duration};

use clap::{Args, value_parser};
use serde::Serialize;

use crate::{
    bulk::{Run, Way},
    cli::Common,
    error::BenchError,
    measure::{Estimate, interleaved, median, ratio},
    report::{Progress, Report, Table, rounded},
    roles::{Load, Window},
};

/// What is compared, in the order of its turns.
const WAYS: [Way; 3] = [Way::Bare, Way::Embedded, Way::Daemons];
/// The length of messages that the object's own ratios are of: the first of these.
const MESSAGE_BYTES: [usize; 2] = [64 << 10, 1 << 20];

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Busy streams
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = value_parser!(u32).range(1..=1_000_000))]
    streams: u32,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Relay {
    rows: Vec<Row>,
    /// Goodput through two daemons to bare quinn's, with messages of 64 KiB.
    daemons_ratio: f64,
    /// The same between embedded nodes.
    embedded_ratio: f64,
    streams: u32,
}

/// One length of messages.
#[derive(Debug, Serialize)]
struct Row {
    message_bytes: usize,
    bare_mb_per_s: f64,
    embedded_mb_per_s: f64,
    daemons_mb_per_s: f64,
    embedded_ratio: f64,
    embedded_interval: Estimate,
    daemons_ratio: f64,
    daemons_interval: Estimate,
}

/// Measures.
pub(crate) async fn run(arguments: &Arguments, common: Common, progress: &Progress) -> Result<Relay, BenchError> {
    let mut rows = Vec::new();
    for message_bytes in MESSAGE_BYTES {
        progress.measure(format!("messages of {} KiB", message_bytes >> 10));
        let runs = WAYS.map(|way| Run {
            way,
            load: Load { streams: arguments.streams as usize, message_bytes, hashed: true },
            window: window(common.quick),
            one_by_one: false,
        });
        let outcomes =
            interleaved(common, runs.len(), progress, async |index| Ok(runs[index].run().await?.measured.mb_per_s()));
        let outcomes = outcomes.await?;
        let [bare, embedded, daemons] = [0, 1, 2].map(|index| &outcomes[index]);
        let rate = |figures: &Vec<f64>| rounded(median(figures.iter().copied()), 1);
        let against_bare = |figures: &Vec<f64>| ratio(figures, bare, |&figure| figure);
        let (embedded_interval, daemons_interval) = (against_bare(embedded), against_bare(daemons));
        rows.push(Row {
            message_bytes,
            bare_mb_per_s: rate(bare),
            embedded_mb_per_s: rate(embedded),
            daemons_mb_per_s: rate(daemons),
            embedded_ratio: rounded(embedded_interval.median, 3),
            embedded_interval,
            daemons_ratio: rounded(daemons_interval.median, 3),
            daemons_interval,
        });
    }
    let Row { daemons_ratio, embedded_ratio, .. } = rows[0];
    Ok(Relay { rows, daemons_ratio, embedded_ratio, streams: arguments.streams })
}

fn window(quick: bool) -> Window {
    let (warm_up_ms, least_ms) = if quick { (50, 150) } else { (500, 2_000) };
    Window {
        warm_up: Duration::from_millis(warm_up_ms),
        least: Duration::from_millis(least_ms),
        rounds: 1,
        most: Duration::from_secs(30),
    }
}

impl Report for Relay {}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["message", "bare MB/s", "embedded MB/s", "daemons MB/s", "embedded", "daemons"]);
        for row in &self.rows {
            table.row([
                format!("{} KiB", row.message_bytes >> 10),
                format!("{:.1}", row.bare_mb_per_s),
                format!("{:.1}", row.embedded_mb_per_s),
                format!("{:.1}", row.daemons_mb_per_s),
                row.embedded_interval.to_string(),
                row.daemons_interval.to_string(),
            ]);
        }
        write!(f, "{table}")
    }
}
