//! `trunkline-bench`: what is measured of Trunkline, beside the peers that it is measured against.
//!
//! ```text
//!  trunkline-bench SUBCOMMAND        asks, compares, prints
//!     ├─ trunkline-node × 2          the shipped daemon, where a measurement goes through daemons
//!     └─ trunkline-bench role × 2    a producer's and a consumer's process (with an embedded node, or bare quinn)
//! ```
//!
//! | module | what it is |
//! | --- | --- |
//! | [`streams`], [`relay`], [`messages`], [`latency`], [`stall`], [`scale`] | a subcommand each: what is compared, and its report |
//! | [`bulk`] | one run of many streams, whichever way they go |
//! | [`processes`] | the cluster of a run, and the processes that this program starts of itself |
//! | [`roles`] | what those processes do |
//! | [`bare`] | quinn alone, with the node's settings |
//! | [`measure`] | interleaved rounds, medians, intervals, fairness |
//! | [`ceiling`], [`settings`] | the most memory that a process may take, and what that follows from |
//! | [`observe`] | what the kernel says of a process |
//! | [`report`] | one JSON object, or tables; progress |
//!
//! All of them share one machine's cores. What counts are ratios of runs that took turns; an absolute figure says as
//! much of the machine and of what else ran on it.

mod bare;
mod bulk;
mod ceiling;
mod cli;
mod error;
mod latency;
mod measure;
mod messages;
mod observe;
mod processes;
mod relay;
mod report;
mod roles;
mod scale;
mod settings;
mod stall;
mod streams;

use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::Cli;

fn main() -> ExitCode {
    match cli::run(Cli::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("trunkline-bench: error: {error}");
            ExitCode::from(error.exit_status())
        }
    }
}
