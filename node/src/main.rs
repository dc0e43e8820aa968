//! The node daemon: arguments, configuration, run, drain.

mod log;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::LocalSet,
};
use tracing::{info, warn};
use trunkline_certs::Identity;
use trunkline_node::config::{NodeConfig, Severity};

/// The node of a Trunkline cluster.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node until SIGTERM or SIGINT, then drain it
    Run(ConfigArguments),
    /// Say everything that would keep the node from working, without starting it
    Check(ConfigArguments),
}

#[derive(Args)]
struct ConfigArguments {
    /// The node's configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Check(arguments) => check(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("trunkline-node: error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(arguments: &ConfigArguments) -> anyhow::Result<ExitCode> {
    let config = NodeConfig::load(&arguments.config)?;
    log::start(config.log.level)?;
    let files = &config.identity;
    let identity = Identity::load(&files.certificate, &files.key, &files.trust)?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let stop = stop_signal()?;
        anyhow::Ok(trunkline_node::run(config, identity, stop).await?)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: &ConfigArguments) -> anyhow::Result<ExitCode> {
    let findings = NodeConfig::load(&arguments.config)?.check();
    findings.iter().for_each(|finding| println!("{finding}"));
    let wrong = findings.iter().any(|finding| finding.severity == Severity::Error);
    Ok(if wrong { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// Every attached process takes a descriptor, and the usual soft limit of 1,024 is for programs that use `select`.
fn raise_descriptor_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        warn!("the limit of open files stays at {current:?}: {error}");
    }
}

/// Listens for the signals at once; the future ends at the first of them.
fn stop_signal() -> anyhow::Result<impl Future<Output = ()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        let name = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!("{name}: draining");
    })
}
