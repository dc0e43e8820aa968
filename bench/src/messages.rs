//! `messages`: small messages a second, with one `send` call and one `recv` call for each.

use std::{fmt, time::Duration};

use clap::{Args, value_parser};
use serde::Serialize;

use crate::{
    bulk::{Run, Way},
    cli::Common,
    error::BenchError,
    measure::{Estimate, interleaved},
    report::{Progress, Report, Table, rounded},
    roles::{Load, Window},
};

/// What to measure.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Length of each message
    #[arg(long, value_name = "BYTES", default_value_t = 64, value_parser = value_parser!(u32).range(1..=64 << 20))]
    size: u32,
    /// Streams, all to one consumer
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = value_parser!(u32).range(1..=1_000_000))]
    streams: u32,
}

/// What was found.
#[derive(Debug, Serialize)]
pub(crate) struct Messages {
    daemons_messages_per_s: f64,
    daemons_interval: Estimate,
    embedded_messages_per_s: f64,
    embedded_interval: Estimate,
    size: u32,
    streams: u32,
}

/// Measures.
pub(crate) async fn run(arguments: &Arguments, common: Common, progress: &Progress) -> Result<Messages, BenchError> {
    let Arguments { size, streams } = *arguments;
    progress.measure(format!("messages of {size} bytes on {streams} streams"));
    let runs = [Way::Daemons, Way::Embedded].map(|way| Run {
        way,
        // How much arrived is compared, and not what: a sum over so few bytes costs as much as the message.
        load: Load { streams: streams as usize, message_bytes: size as usize, hashed: false },
        window: window(common.quick),
        one_by_one: true,
    });
    let rates = interleaved(common, runs.len(), progress, async |index| {
        let measured = runs[index].run().await?.measured;
        Ok(measured.bytes as f64 / f64::from(size) / measured.seconds)
    });
    let [daemons_interval, embedded_interval] =
        <[Vec<f64>; 2]>::try_from(rates.await?).unwrap_or_default().map(Estimate::of);
    Ok(Messages {
        daemons_messages_per_s: rounded(daemons_interval.median, 0),
        daemons_interval,
        embedded_messages_per_s: rounded(embedded_interval.median, 0),
        embedded_interval,
        size,
        streams,
    })
}

fn window(quick: bool) -> Window {
    let (warm_up_ms, least_ms) = if quick { (50, 200) } else { (500, 2_000) };
    Window {
        warm_up: Duration::from_millis(warm_up_ms),
        least: Duration::from_millis(least_ms),
        rounds: 1,
        most: Duration::from_secs(30),
    }
}

impl Report for Messages {}

impl fmt::Display for Messages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(["mode", "messages/s", "from", "to"]);
        for (mode, Estimate { median, low, high, .. }) in
            [("embedded", self.embedded_interval), ("daemons", self.daemons_interval)]
        {
            let cells = [median, low, high].map(|rate| format!("{rate:.0}"));
            table.row([mode.to_owned()].into_iter().chain(cells));
        }
        write!(f, "{table}")
    }
}
