//! The command line.

use std::{path::PathBuf, time::Duration};

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
    /// Kill the daemon of a node in the middle of the count, so long after the mappers have begun, and start it again.
    ///
    /// It is killed with SIGKILL (the second node's; the only one's, where there is one) and started half a second after it
    /// is gone. The count is exact all the same. DURATION is a number with ms or s: 500ms, 2s, 1.5s.
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) kill_node: Option<Duration>,
    /// Count every file N times [default: 1; with --kill-node: until the node is back]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) rounds: Option<u32>,
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
        let (kills, stalls) = (self.kill_node.is_some(), self.stall.is_some());
        let refused = [
            (kills && self.embedded, "--kill-node kills a daemon, and --embedded starts none: leave one of them out"),
            (
                kills && stalls,
                "--stall compares the rates of two halves, and --kill-node stops both: leave one of them out",
            ),
            (self.rounds.is_some() && stalls, "--stall counts every file once: leave it or --rounds out"),
        ];
        if let Some((_, why)) = refused.iter().find(|(refused, _)| *refused) {
            return Err((*why).to_owned());
        }
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

impl Options {
    /// How many times every file is counted; nothing where a node is killed and it takes as many as it takes.
    pub(crate) fn rounds(&self) -> Option<u64> {
        match self.rounds {
            None if self.kill_node.is_some() => None,
            rounds => Some(rounds.unwrap_or(1).into()),
        }
    }
}

/// A number of seconds or milliseconds: `2s`, `1.5s`, `500ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let wanted = || "write a number with ms or s, such as 500ms or 2s".to_owned();
    let (number, seconds) = match text.strip_suffix("ms") {
        Some(number) => (number, 1e-3),
        None => (text.strip_suffix('s').ok_or_else(wanted)?, 1.0),
    };
    // Of what floats may look like, this is what people call a number.
    if !number.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(wanted());
    }
    let seconds = number.parse::<f64>().map_err(|_| wanted())? * seconds;
    match Duration::try_from_secs_f64(seconds) {
        Ok(Duration::ZERO) => Err("nothing is counted yet at that time: write 1ms or more".to_owned()),
        Ok(duration) => Ok(duration),
        Err(_) => Err("no count lasts that long: write a shorter time".to_owned()),
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
    fn a_duration_is_a_number_with_its_unit() {
        let times = ["2s", "500ms", "1.5s", "0.5ms", "3600s"].map(|text| duration(text).unwrap().as_secs_f64());
        assert_eq!(times, [2.0, 0.5, 1.5, 0.000_5, 3_600.0]);
        for text in ["", "2", "s", "ms", ".s", "2 s", "2m", "-1s", "+1s", "infs", "NaNs", "1e3s", "1.2.3s", "2S"] {
            assert!(duration(text).unwrap_err().contains("such as 500ms or 2s"), "{text}");
        }
        for text in ["0s", "0ms", "0.0000000001ms"] {
            assert!(duration(text).unwrap_err().contains("write 1ms or more"), "{text}");
        }
        assert!(duration(&format!("{}s", "9".repeat(40))).unwrap_err().contains("write a shorter time"));
    }

    #[test]
    fn there_is_one_round_unless_more_are_asked_for_or_a_node_is_killed() {
        let rounds = |options: &[&str]| Cli::parse_from(["wordcount"].iter().chain(options)).options.rounds();
        assert_eq!(rounds(&[]), Some(1));
        assert_eq!(rounds(&["--rounds", "3"]), Some(3));
        assert_eq!(rounds(&["--kill-node", "2s"]), None);
        assert_eq!(rounds(&["--kill-node", "2s", "--rounds", "3"]), Some(3));
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
