//! The main job: a cluster of real daemons counts the words of real files, and every count is checked.
//!
//! ```text
//!  launcher ── trunkline-certs, trunkline-node × n        (the shipped programs, started as anyone would)
//!     ├─ wordcount map    × n·m·k   reads files, sends each word to the reducer that its hash names
//!     ├─ wordcount reduce × n·m·k   gathers from all mappers of its job, counts, writes a file
//!     └─ wordcount guard            clears up if the launcher is killed
//! ```
//!
//! With `--embedded` there are no daemons: `wordcount node` × n is a node, and all mappers and reducers of it.
//!
//! The launcher opens no stream. Processes talk to it through pipes ([`events`]) and files ([`plan`]); words travel
//! through the SDK and the nodes only.

mod binaries;
mod casualty;
mod children;
mod cli;
mod cluster;
mod corpus;
mod count;
mod events;
mod guard;
mod jobs;
mod launch;
mod live;
mod observe;
mod outage;
mod plan;
mod progress;
mod report;
mod roles;
mod sockets;
mod words;

use std::process::ExitCode;

use clap::Parser;

use crate::{
    cli::{Cli, Role},
    plan::Part,
};

fn main() -> ExitCode {
    match Cli::parse() {
        Cli { role: Some(Role::Map(seat)), .. } => roles::worker::main(Part::Map, &seat),
        Cli { role: Some(Role::Reduce(seat)), .. } => roles::worker::main(Part::Reduce, &seat),
        Cli { role: Some(Role::Node(seat)), .. } => roles::node::main(&seat),
        Cli { role: Some(Role::Guard(watch)), .. } => guard::main(&watch),
        Cli { role: None, options } => launch::main(&options),
    }
}
