//! The command: a stream from a shell, and a look at a node.

mod admin;
mod arguments;
mod attach;
mod failure;
mod interrupt;
mod output;
mod progress;
mod recv;
mod send;
mod status;
mod streams;
mod table;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};
use clap_complete::Shell;
use tokio::runtime;

use crate::{
    arguments::{Arguments, Command},
    failure::Failure,
    interrupt::Interrupt,
};

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let Err(failure) = run(&command) else { return ExitCode::SUCCESS };
    // There the one JSON object on standard error has said it.
    if !matches!(&command, Command::Recv(arguments) if arguments.json) {
        progress::eprint_line(&format!("trunkline: error: {failure}"));
    }
    ExitCode::from(failure.exit_code())
}

fn run(command: &Command) -> Result<(), Failure> {
    // Streams are served by a thread of the SDK's, files by one each: what is left needs one thread.
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::Start)?;
    runtime.block_on(async {
        match command {
            Command::Send(arguments) => send::run(arguments, &mut Interrupt::listen()?).await,
            Command::Recv(arguments) => recv::run(arguments, &mut Interrupt::listen()?).await,
            Command::Status(arguments) => status::run(arguments).await,
            Command::Streams(arguments) => streams::run(arguments).await,
            Command::Completions { shell } => completions(*shell),
        }
    })
}

fn completions(shell: Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "trunkline", &mut script);
    output::print(&String::from_utf8_lossy(&script))
}
