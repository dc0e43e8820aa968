//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// Processes that may attach to one node, by its default configuration, but for one for the launcher.
const PROCESSES_PER_NODE_MAX: u32 = 1_023;

/// Consumers that one process may bind, by the default configuration of its node.
const CONSUMERS_PER_PROCESS_MAX: u32 = 4_096;

/// Count the words of many files with real daemons, mappers and reducers, and check the count.
///
/// Starts a cluster on this machine: certificates in a temporary folder, the daemons (trunkline-certs and
/// trunkline-node, as shipped), and for each node map and reduce processes that attach to it; with --embedded, one
/// process for each node and its mappers and reducers. Each mapper has one
/// stream to each reducer of its job, on all nodes, and sends every word as it reads it. Then one plain loop counts the
/// same files again, and every word is compared.
///
/// A word is a maximal run of ASCII letters, digits and '_', lower-cased. Files are bytes.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
#[command(after_long_help = "\
The clock (seconds, MB/s) runs from the moment all streams are open and the mappers are told to begin until the last \
reducer has written its counts and left; with --embedded its node leaves with it, and that is timed too. Starting the \
cluster and the check are timed apart.

Exit status: 0 when every count is right; 1 when a count is wrong or something failed; 2 when the command line or a \
PATH is wrong; 128 + N when stopped by signal N. Nothing is left behind: no process, no socket, no folder.")]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    #[command(flatten)]
    pub(crate) options: Options,
}

/// What the launcher starts this program as.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Reads files and sends their words.
    #[command(hide = true)]
    Map(Seat),
    /// Gathers words and counts them.
    #[command(hide = true)]
    Reduce(Seat),
    /// Is a node, and all its mappers and reducers.
    #[command(hide = true)]
    Node(NodeSeat),
    /// Clears up after a launcher that was killed.
    #[command(hide = true)]
    Guard(Watch),
}

/// Which map or reduce process this is.
#[derive(Debug, Args)]
pub(crate) struct Seat {
    /// The folder with the plan.
    #[arg(long)]
    pub(crate) plan: PathBuf,
    /// The job's number, from 0.
    #[arg(long)]
    pub(crate) job: usize,
    /// The process's number within its job and role, over all nodes, from 0.
    #[arg(long)]
    pub(crate) index: usize,
}

/// Which node a process is.
#[derive(Debug, Args)]
pub(crate) struct NodeSeat {
    /// The folder with the plan.
    #[arg(long)]
    pub(crate) plan: PathBuf,
    /// The node's number, from 0.
    #[arg(long)]
    pub(crate) index: usize,
}

/// What a guard watches over.
#[derive(Debug, Args)]
pub(crate) struct Watch {
    /// The folder to remove.
    #[arg(long)]
    pub(crate) folder: PathBuf,
    /// Leave the folder.
    #[arg(long)]
    pub(crate) keep: bool,
}

/// What a user says.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Files and folders to count [default: the sources of this project's dependencies]
    ///
    /// Folders are searched for regular files; symbolic links in them are not followed. Without a PATH: the sources of
    /// this project's own dependencies in cargo's registry folder; failing that, this checkout. A PATH that is called
    /// map, reduce, node or guard is written ./map, and so on.
    #[arg(value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// Nodes, a daemon each; with --embedded, a process each.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) nodes: u32,
    /// Mappers on each node and in each job, and as many reducers. Each is a process, but with --embedded.
    #[arg(long, value_name = "M", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) per_node: u32,
    /// Counts to run at once, each with mappers, reducers and streams of its own.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) jobs: u32,
    /// Let N reducers of one more job sleep while the words are counted, and see that nobody else is slowed.
    ///
    /// That job runs on the same nodes and trunks, with a mapper on each node. Half of the files are counted first. Then its
    /// mappers send until each of their streams is blocked, and the other half is counted beside them, with both rates
    /// told. In the end the reducers wake up and read everything, and what they counted is checked too.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    pub(crate) stall: Option<u32>,
    /// Start no daemons: each node is embedded in one process, with all its mappers and reducers.
    ///
    /// These attach to the node without a socket between, and only nodes have connections to each other.
    #[arg(long)]
    pub(crate) embedded: bool,
    /// The folder with trunkline-certs and, but for --embedded, trunkline-node.
    ///
    /// Without it: the folder of this program. When that is cargo's and cargo runs this program, they are built first,
    /// through $CARGO, so that they are as the sources are.
    #[arg(long, value_name = "DIR")]
    pub(crate) bin_dir: Option<PathBuf>,
    /// Print one JSON object on standard output instead of the summary.
    #[arg(long)]
    pub(crate) json: bool,
    /// Keep the temporary folder: configurations, logs, counts.
    #[arg(long)]
    pub(crate) keep: bool,
}

impl Options {
    /// What the bounds of single options do not catch.
    pub(crate) fn check(&self) -> Result<(), String> {
        let Self { nodes, per_node, jobs, stall, embedded, .. } = *self;
        let stall = stall.unwrap_or(0);
        let sleeping = stall.div_ceil(nodes);
        let (each, what, most) = if embedded {
            (per_node * jobs + sleeping, "reducers in the process of a node", CONSUMERS_PER_PROCESS_MAX)
        } else {
            let stalled = if stall > 0 { 1 + sleeping } else { 0 };
            (2 * per_node * jobs + stalled, "processes a node", PROCESSES_PER_NODE_MAX)
        };
        if each > most {
            let stalled = if stall > 0 { format!(" and --stall {stall}") } else { String::new() };
            let options = format!("--per-node {per_node} and --jobs {jobs}{stalled}");
            return Err(format!("{options} make {each} {what}, more than {most}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_path_is_no_role_unless_it_is_called_so() {
        let cli = Cli::parse_from(["wordcount", "./map", "maps"]);
        assert!(cli.role.is_none());
        assert_eq!(cli.options.paths, [PathBuf::from("./map"), PathBuf::from("maps")]);
    }

    #[test]
    fn more_processes_than_a_node_takes_are_refused() {
        let cli = Cli::parse_from(["wordcount", "--per-node", "256", "--jobs", "2"]);
        assert!(cli.options.check().unwrap_err().contains("1024 processes a node"));
    }

    #[test]
    fn reducers_that_sleep_need_processes_too() {
        let check = |stall: &[&str]| {
            let command = [&["wordcount", "--nodes", "2", "--per-node", "170", "--jobs", "3"], stall].concat();
            Cli::parse_from(command).options.check()
        };
        check(&[]).unwrap();
        check(&["--stall", "4"]).unwrap();
        let refused = check(&["--stall", "5"]).unwrap_err();
        assert_eq!(refused, "--per-node 170 and --jobs 3 and --stall 5 make 1024 processes a node, more than 1023");
        assert!(Cli::try_parse_from(["wordcount", "--stall", "0"]).is_err());
    }

    #[test]
    fn more_reducers_than_a_process_may_bind_are_refused_where_nodes_are_embedded() {
        let check =
            |jobs| Cli::parse_from(["wordcount", "--embedded", "--per-node", "256", "--jobs", jobs]).options.check();
        check("16").unwrap();
        assert!(check("17").unwrap_err().contains("4352 reducers in the process of a node, more than 4096"));
    }
}
