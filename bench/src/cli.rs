//! The command line, and what runs beneath it.

use std::{ffi::OsString, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use tokio::{
    runtime,
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};

use crate::{
    error::BenchError,
    latency, messages, processes, relay,
    report::{self, Progress, Report},
    roles, scale, stall, streams,
};

/// Measures Trunkline beside what it is compared with, in interleaved rounds.
#[derive(Debug, Parser)]
#[command(name = "trunkline-bench", version)]
pub(crate) struct Cli {
    #[command(subcommand)]
    what: What,
    #[command(flatten)]
    common: Common,
}

/// What every subcommand takes.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Common {
    /// Prints one JSON object and nothing else
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Few and short rounds, some seconds in all: shows that it works, not how fast
    #[arg(long, global = true)]
    pub(crate) quick: bool,
    /// Rounds in which what is compared takes turns, after one to warm up [default: 10, with --quick 3]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    rounds: Option<u32>,
}

impl Common {
    /// How many rounds count.
    pub(crate) fn rounds(self) -> usize {
        let rounds = self.rounds.unwrap_or(if self.quick { 3 } else { 10 });
        usize::try_from(rounds).unwrap_or(usize::MAX)
    }

    /// The same with no more rounds than this.
    pub(crate) fn at_most(self, rounds: usize) -> Self {
        let rounds = u32::try_from(self.rounds().min(rounds)).unwrap_or(u32::MAX);
        Self { rounds: Some(rounds), ..self }
    }
}

#[derive(Debug, Subcommand)]
enum What {
    /// Goodput of one trunk with one stream and with very many, and how fairly they share it
    Streams(streams::Arguments),
    /// Goodput through two daemons and between embedded nodes, against bare quinn
    Relay(relay::Arguments),
    /// Small messages a second, one send and one recv call each
    Messages(messages::Arguments),
    /// Round trips of small messages, beside TCP + TLS and bare quinn
    Latency(latency::Arguments),
    /// Reading streams beside thousands that are stalled, against the same alone
    Stall(stall::Arguments),
    /// What a node costs that has thousands of peers, and how fast it gathers from them
    Scale(scale::Arguments),
    /// A process of a measurement; told on its standard input what to do
    #[command(hide = true)]
    Role {
        /// What it is, for those who list processes
        name: String,
    },
    /// Becomes another program that ends when its parent does
    #[command(hide = true)]
    Exec {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
        command: Vec<OsString>,
    },
}

/// The whole program.
pub(crate) fn run(cli: Cli) -> Result<ExitCode, BenchError> {
    let Cli { what, common } = cli;
    match what {
        What::Exec { command } => Err(processes::become_program(&command)),
        What::Role { .. } => roles::main(),
        What::Streams(arguments) => measured(common, async |progress| streams::run(&arguments, common, progress).await),
        What::Relay(arguments) => measured(common, async |progress| relay::run(&arguments, common, progress).await),
        What::Messages(arguments) => {
            measured(common, async |progress| messages::run(&arguments, common, progress).await)
        }
        What::Latency(arguments) => measured(common, async |progress| latency::run(&arguments, common, progress).await),
        What::Stall(arguments) => measured(common, async |progress| stall::run(&arguments, common, progress).await),
        What::Scale(arguments) => measured(common, async |progress| scale::run(&arguments, common, progress).await),
    }
}

/// Measures, and prints. What was started is gone when this returns, by a signal too.
fn measured<R: Report>(
    common: Common,
    measure: impl AsyncFnOnce(&Progress) -> Result<R, BenchError>,
) -> Result<ExitCode, BenchError> {
    let runtime =
        runtime::Builder::new_current_thread().enable_all().build().map_err(BenchError::io("start the runtime"))?;
    let report = LocalSet::new().block_on(&runtime, async {
        let progress = Progress::new();
        tokio::select! {
            report = measure(&progress) => report,
            interrupted = interrupted() => Err(interrupted),
        }
    })?;
    report::print(&report, common.json).map_err(BenchError::io("write to standard output"))?;
    Ok(ExitCode::SUCCESS)
}

/// Waits for a signal that asks this program to stop.
async fn interrupted() -> BenchError {
    let listen = |kind| signal(kind).map_err(BenchError::io("listen for signals"));
    let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(listen);
    let [Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)] = signals else {
        return signals.into_iter().find_map(Result::err).unwrap_or(BenchError::Orphan);
    };
    tokio::select! {
        _ = interrupt.recv() => BenchError::Interrupted("SIGINT", 2),
        _ = terminate.recv() => BenchError::Interrupted("SIGTERM", 15),
        _ = hangup.recv() => BenchError::Interrupted("SIGHUP", 1),
    }
}
