//! What the command line may say.

use std::{path::PathBuf, str::FromStr};

use clap::{Args, Parser, Subcommand};
use clap_complete::Shell;
use trunkline::{ConsumerAddress, ConsumerName, JobName, NodeId, ProducerName, RunId};
use trunkline_proto::id::IdError;

const EXIT_CODES: &str = "\
Exit codes:
  0    everything arrived
  1    failure on this machine: the input cannot be read, or the output cannot be written
  2    usage
  3    no node: nothing answers at the socket, or the node refuses this process
  4    the bind or the stream was refused, or the other end was not reached
  5    a stream did not end cleanly: some data may be missing
  130  interrupted (SIGINT); 143 when terminated (SIGTERM)";

const SEND_EXAMPLES: &str = "\
Examples:
  tar c results | trunkline send backup/store@node-b
  trunkline send backup/store@node-b --file disk.img
  grep -h ERROR *.log | trunkline send logs/errors@node-b --lines --producer web-1";

const RECV_EXAMPLES: &str = "\
Examples:
  trunkline recv backup/store > results.tar
  trunkline recv logs/errors --expect 3 --lines | sort | uniq -c";

const STATUS_EXAMPLES: &str = "\
Examples:
  trunkline status
  trunkline status --json | jq .trunks";

const STREAMS_EXAMPLES: &str = "\
Examples:
  trunkline streams --job wordcount
  trunkline streams --consumer reduce-3 --json | jq '.streams | length'";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  trunkline completions bash > ~/.local/share/bash-completion/completions/trunkline
  trunkline completions zsh > ~/.zfunc/_trunkline
  trunkline completions fish > ~/.config/fish/completions/trunkline.fish";

/// Many streams, one line: send and receive streams from a shell, and look at a node.
#[derive(Debug, Parser)]
#[command(version, name = "trunkline", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send standard input, or a file, to a consumer
    #[command(after_help = format!("{SEND_EXAMPLES}\n\n{EXIT_CODES}"))]
    Send(SendArguments),
    /// Receive what producers send, and write it to standard output
    #[command(after_help = format!("{RECV_EXAMPLES}\n\n{EXIT_CODES}"))]
    Recv(RecvArguments),
    /// Say who a node is and what it carries
    #[command(after_help = STATUS_EXAMPLES)]
    Status(StatusArguments),
    /// List the streams that a node carries
    #[command(after_help = STREAMS_EXAMPLES)]
    Streams(StreamsArguments),
    /// Print the completions for a shell
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// What `send` and `recv` have in common.
#[derive(Debug, Args)]
pub(crate) struct EndArguments {
    /// The run of the job: both ends must give the same
    #[arg(long, env = "TRUNKLINE_RUN", default_value = "default")]
    pub(crate) run: RunId,
    /// The node's socket for processes
    #[arg(long, value_name = "PATH", env = "TRUNKLINE_SOCKET", default_value = "/run/trunkline/local.sock")]
    pub(crate) socket: PathBuf,
    /// Wait so long for a node that is not there yet
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub(crate) wait: u32,
    /// When the node or the way to the other end is lost, wait so long until it is back, and go on [default: as the node is
    /// configured, 300 unless it is]
    #[arg(long, value_name = "SECONDS")]
    pub(crate) patience: Option<u32>,
    /// Say nothing on standard error but errors
    #[arg(long, short)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SendArguments {
    /// The consumer; it is waited for, as long as its node allows (30 s unless configured)
    #[arg(value_name = "JOB/CONSUMER@NODE")]
    pub(crate) address: ConsumerAddress,
    /// What this producer is called: send-PID unless told
    #[arg(long, value_name = "NAME")]
    pub(crate) producer: Option<ProducerName>,
    /// One message per line, without its newline; otherwise messages of up to 64 KiB, as read
    #[arg(long)]
    pub(crate) lines: bool,
    /// Read this file instead of standard input
    #[arg(long)]
    pub(crate) file: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) end: EndArguments,
    /// Print how it went as one JSON object on standard output
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RecvArguments {
    /// What to bind on the local node; producers reach it as JOB/CONSUMER@NODE
    #[arg(value_name = "JOB/CONSUMER")]
    pub(crate) place: Place,
    /// How many producers to receive from, one stream each
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) expect: u32,
    /// Write a newline after each message
    #[arg(long)]
    pub(crate) lines: bool,
    #[command(flatten)]
    pub(crate) end: EndArguments,
    /// Print how it went as one JSON object on standard error, and nothing else there
    #[arg(long)]
    pub(crate) json: bool,
}

/// Where operators ask.
#[derive(Debug, Args)]
pub(crate) struct AdminArguments {
    /// The node's socket for operators
    #[arg(long, value_name = "PATH", env = "TRUNKLINE_ADMIN_SOCKET", default_value = "/run/trunkline/admin.sock")]
    pub(crate) admin: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct StatusArguments {
    #[command(flatten)]
    pub(crate) admin: AdminArguments,
}

#[derive(Debug, Args)]
pub(crate) struct StreamsArguments {
    #[command(flatten)]
    pub(crate) filter: StreamFilter,
    #[command(flatten)]
    pub(crate) admin: AdminArguments,
}

/// Which streams are meant: all that have each name that is given.
#[derive(Debug, Default, Args)]
pub(crate) struct StreamFilter {
    /// Only streams of this job
    #[arg(long, value_name = "NAME")]
    pub(crate) job: Option<JobName>,
    /// Only streams to this consumer
    #[arg(long, value_name = "NAME")]
    pub(crate) consumer: Option<ConsumerName>,
    /// Only streams from this producer
    #[arg(long, value_name = "NAME")]
    pub(crate) producer: Option<ProducerName>,
    /// Only streams whose other end is on this node
    #[arg(long, value_name = "NODE")]
    pub(crate) peer: Option<NodeId>,
}

/// A consumer on the local node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) job: JobName,
    pub(crate) consumer: ConsumerName,
}

/// Why a text is no [`Place`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlaceError {
    /// There is no slash in it.
    #[error("{0:?} is not of the form JOB/CONSUMER")]
    Form(String),
    /// An address as senders use it.
    #[error("{0:?} names a node: recv binds on the node that it is attached to, so leave out the @ and what follows")]
    Node(String),
    /// One of the names is not valid.
    #[error(transparent)]
    Name(#[from] IdError),
}

impl FromStr for Place {
    type Err = PlaceError;
    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let (job, consumer) = text.split_once('/').ok_or_else(|| PlaceError::Form(text.to_owned()))?;
        if consumer.contains('@') {
            return Err(PlaceError::Node(text.to_owned()));
        }
        Ok(Self { job: job.try_into()?, consumer: consumer.try_into()? })
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_shows_examples_and_exit_codes() {
        let mut command = Arguments::command();
        command.clone().debug_assert();
        assert!(command.render_long_help().to_string().contains("5    a stream did not end cleanly"));
        for subcommand in command.get_subcommands_mut().filter(|subcommand| subcommand.get_name() != "help") {
            let help = subcommand.render_long_help().to_string();
            assert!(help.contains("Examples:"), "{help}");
        }
    }

    #[test]
    fn a_place_is_a_job_and_a_consumer_and_no_node() {
        let place: Place = "job/consumer".parse().unwrap();
        assert_eq!((place.job.as_str(), place.consumer.as_str()), ("job", "consumer"));
        assert!(matches!("job".parse::<Place>(), Err(PlaceError::Form(_))));
        assert!(matches!("job/consumer@node".parse::<Place>(), Err(PlaceError::Node(_))));
        assert!(matches!("job/".parse::<Place>(), Err(PlaceError::Name(_))));
    }
}
