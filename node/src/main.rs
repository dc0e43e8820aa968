//! The node daemon: arguments, configuration, run, drain.

mod flags;
mod log;
mod signals;

use std::{
    env,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::LocalSet;
use tracing::warn;
use trunkline_certs::Identity;
use trunkline_node::config::{Finding, NodeConfig, Overrides, Severity};

use crate::flags::Flags;

const PRECEDENCE: &str = "Each key of the file can be given by a flag or a variable too; --help lists them. A flag counts \
                          more than a variable, and a variable more than the file.";

/// The node of a Trunkline cluster.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node until SIGTERM or SIGINT, then drain it; a second of them ends the drain
    Run(ConfigArguments),
    /// Say everything that would keep the node from working, without starting it
    Check(ConfigArguments),
}

#[derive(Args)]
#[command(after_help = PRECEDENCE)]
struct ConfigArguments {
    /// The node's configuration file
    #[arg(long, value_name = "FILE", env = "TRUNKLINE_CONFIG", hide_env_values = true)]
    config: PathBuf,
    #[command(flatten)]
    flags: Flags,
}

impl ConfigArguments {
    fn overrides(&self) -> Overrides {
        Overrides::new(self.flags.values(), env::vars_os())
    }
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
    let overrides = arguments.overrides();
    let doubts = overrides.check();
    let config = NodeConfig::load_with(&arguments.config, &overrides)
        .inspect_err(|_| doubts.iter().for_each(|doubt| eprintln!("trunkline-node: {doubt}")))?;
    log::start(config.log.level)?;
    doubts.iter().for_each(|doubt| warn!("{}", doubt.text));
    let files = &config.identity;
    let identity = Identity::load(&files.certificate, &files.key, &files.trust)?;
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, async {
        let (stop, hurry) = signals::listen()?;
        anyhow::Ok(trunkline_node::run(config, identity, stop, hurry).await?)
    })?;
    Ok(ExitCode::SUCCESS)
}

fn check(arguments: &ConfigArguments) -> anyhow::Result<ExitCode> {
    let overrides = arguments.overrides();
    let doubts = overrides.check();
    // A pipe that was closed is an error like any other, not a panic.
    let say = |findings: &[Finding]| {
        let mut out = io::stdout().lock();
        findings.iter().try_for_each(|finding| writeln!(out, "{finding}")).context("cannot write to standard output")
    };
    say(&doubts)?;
    let findings = NodeConfig::load_with(&arguments.config, &overrides)?.check();
    say(&findings)?;
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
